"""What clients did and what they were told, one operation a line: what the checker judges.

A send is `invoke`d and then `ok`, `fail` (it was not written, and never will be) or `info` (nobody knows). A
poll that brought something is `ok`. Values are unique within a partition. The simulator and a real cluster
write the same lines.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Final

INVOKE: Final = "invoke"
OK: Final = "ok"
FAIL: Final = "fail"
INFO: Final = "info"


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """Records of one batch. `offset` of the first of them, once it is known."""

    time: float
    process: str
    kind: str
    partition: str
    values: tuple[str, ...]
    acks: str = "all"
    offset: int | None = None
    error: str = ""
    f: str = "send"


@dataclass(frozen=True, slots=True, kw_only=True)
class Poll:
    """Records in the order in which they came, and the high watermark that came with them. `session`: of one
    subscription at one broker, whose high watermark never moves back.
    """

    time: float
    process: str
    partition: str
    records: tuple[tuple[int, str], ...]
    high_watermark: int
    session: str = ""
    f: str = "poll"


@dataclass(frozen=True, slots=True, kw_only=True)
class Assign:
    """A process reads from there on."""

    time: float
    process: str
    partition: str
    offset: int
    f: str = "assign"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A reader was told that its offset, which was told it before, is none."""

    time: float
    process: str
    partition: str
    offset: int
    error: str
    f: str = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A reader was told that records from `offset` to `resumed_at` are gone, and goes on there."""

    time: float
    process: str
    partition: str
    offset: int
    resumed_at: int
    f: str = "gap"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trim:
    """It was asked, or is, to forget what lies before the offset."""

    time: float
    process: str
    partition: str
    offset: int
    f: str = "trim"


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete:
    """It was asked, or is, to delete the partition: what it had is no loss from then on."""

    time: float
    process: str
    partition: str
    f: str = "delete"


@dataclass(frozen=True, slots=True, kw_only=True)
class Crash:
    """A client ended where it stood."""

    time: float
    process: str
    f: str = "crash"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Of a partition. `is_kept`: what was acknowledged with acks=all may never be lost, as flush=commit has
    it, and no unclean election.
    """

    partition: str
    is_kept: bool = True
    f: str = "settings"


Operation = Send | Poll | Assign | Refused | Gap | Trim | Delete | Crash | Settings

_KINDS: Final[dict[str, Callable[..., Operation]]] = {
    "send": Send,
    "poll": Poll,
    "assign": Assign,
    "refused": Refused,
    "gap": Gap,
    "trim": Trim,
    "delete": Delete,
    "crash": Crash,
    "settings": Settings,
}


def to_lines(history: Iterable[Operation]) -> Iterator[str]:
    """One JSON object each."""
    return (json.dumps(asdict(operation)) for operation in history)


def from_lines(lines: Iterable[str]) -> list[Operation]:
    """What `to_lines` made. Raises ValueError, KeyError, TypeError for what is none."""
    return [_from(json.loads(line)) for line in lines]


def _from(facts: dict[str, object]) -> Operation:
    return _KINDS[str(facts["f"])](**{name: _tuples(value) for name, value in facts.items()})


def _tuples(value: object) -> object:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
