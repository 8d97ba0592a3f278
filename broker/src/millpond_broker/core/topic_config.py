"""The settings of a topic: the keys of `--config k=v`, their bounds, and what is refused by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, Final, Literal

from millpond.wire.batch import BODY_BYTES_MAX
from millpond.wire.errors import InvalidConfig

_DAY_MS: Final = 24 * 3600 * 1000


def _integer(default: int | None, minimum: int, maximum: int, *, unlimited: bool = False) -> Any:
    """A field with bounds, both inclusive; with `unlimited`, -1 in a configuration means None: no limit."""
    return dataclasses.field(default=default, metadata={"bounds": (minimum, maximum, unlimited)})


def _choice(default: str, *choices: str) -> Any:
    """A field that takes one of a few words."""
    return dataclasses.field(default=default, metadata={"choices": choices})


@dataclass(frozen=True, kw_only=True)
class TopicConfig:
    """What can be set for each topic. Times in ms, sizes in bytes, None: unlimited (-1 in text)."""

    flush: Literal["commit", "interval"] = _choice("commit", "commit", "interval")
    """When a record counts as written: `commit`, once it was synced to disk; `interval`, at once, and a
    power loss may take what was acknowledged since the last sync. Fixed when the topic is created."""
    flush_interval_ms: int = _integer(1000, 10, 3_600_000)
    """How often `flush=interval` syncs: what a power loss may take, against the work of syncing."""
    retention_ms: int | None = _integer(7 * _DAY_MS, 1, 2**62, unlimited=True)
    """Records older than this are dropped, a whole segment at a time."""
    retention_bytes: int | None = _integer(None, 0, 2**62, unlimited=True)
    """A partition drops its oldest segments while the rest holds at least this."""
    segment_bytes: int = _integer(64 << 20, 1 << 12, 1 << 30)
    """Size at which a segment is sealed: retention and recovery work in steps of it, each takes a file."""
    segment_ms: int | None = _integer(7 * _DAY_MS, 1, 2**62, unlimited=True)
    """Span of record time at which a segment is sealed, so that retention by time finds old ones."""
    record_bytes_max: int = _integer(1 << 20, 1, BODY_BYTES_MAX // 2)
    """Largest key, value and headers of one record together: what every reader must have memory for."""
    cleanup_policy: Literal["delete"] = _choice("delete", "delete")
    """`delete` drops old segments. `compact` is refused until there is a cleaner."""

    @classmethod
    def parse(cls, settings: Mapping[str, str | int], base: TopicConfig | None = None) -> TopicConfig:
        """`base` (or the defaults) with `settings` on top.

        Raises InvalidConfig that names the key, for an unknown key, a wrong value, or a key whose feature
        this version does not have: no setting is accepted and ignored.
        """
        values: dict[str, Any] = {key: _parse(key, value) for key, value in settings.items()}
        return dataclasses.replace(base or cls(), **values)


_FIELDS: Final = MappingProxyType({field.name: field for field in dataclasses.fields(TopicConfig)})
NOT_YET: Final = MappingProxyType(
    {
        "delete_retention_ms": "log compaction",
        "compaction_lag_ms_min": "log compaction",
        "compression": "compression by the broker",
        "unclean_election": "replication",
        "timestamp_type": "log-append time",
    }
)
"""Keys of the contract whose feature does not exist yet, and which: refused rather than ignored."""


def _parse(key: str, value: str | int) -> object:
    if key in NOT_YET:
        raise InvalidConfig(key=key, reason=f"belongs to {NOT_YET[key]}, which this version does not have")
    if key not in _FIELDS:
        close = get_close_matches(key, _FIELDS, n=1)
        guess = f"; did you mean {close[0]}?" if close else ""
        raise InvalidConfig(key=key, reason=f"unknown setting{guess}")
    metadata = _FIELDS[key].metadata
    if choices := metadata.get("choices"):
        if value not in choices:
            raise InvalidConfig(key=key, reason=f"{value!r} is not one of {', '.join(choices)}")
        return value
    minimum, maximum, unlimited = metadata["bounds"]
    if type(value) not in (int, str):  # a float would be cut, a bool read as 0 or 1
        raise InvalidConfig(key=key, reason=f"{value!r} is not a whole number")
    try:
        number = int(value)
    except (ValueError, TypeError):
        raise InvalidConfig(key=key, reason=f"{value!r} is not a whole number") from None
    if unlimited and number == -1:
        return None
    if not minimum <= number <= maximum:
        either = " or -1 for no limit" if unlimited else ""
        raise InvalidConfig(key=key, reason=f"{number} is not within {minimum} to {maximum}{either}")
    return number
