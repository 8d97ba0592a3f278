"""What a directory that `millpond up` is given holds: nothing yet, a cluster, half of one, or others' files.

Nothing here writes. What is not as it was left is refused before anything in it changes: a cluster that is
taken for another one is lost to its own brokers.

A first start may end at any instant. It leaves, in this order, and each begins the next one's case:

    an empty directory, or the lock         as if nothing had been
    cluster.json                            nobody has anything yet: ports and their number may change
    directories, the secret, broker.toml    the same; the next start writes them again
    metadata of one voter, not of all       the voters' addresses stand: the next start completes the founding
    all were ready                          `founded`: from here on each of them has metadata, or lost them
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from millpond._local.record import BROKERS_MAX, RECORD, Record, read_record
from millpond._local.whole import BESIDE
from millpond.wire.errors import InvalidConfig, NotADataDirectory

BROKERS: Final = 3
"""Without another wish: the fewest that outlive the loss of one."""
CONFIG: Final = "broker.toml"
LOG: Final = "log"
SECRET: Final = "secret"  # noqa: S105 - the name of its file
LOCK: Final = "up.lock"
MARK: Final = "ephemeral"
"""Holds the path of its own directory, if that is to go with the one who made it."""

_HOME: Final = re.compile(r"broker-([1-9][0-9]{0,8})")
_OURS: Final = frozenset({".gitignore", LOCK, MARK, RECORD, RECORD + BESIDE, SECRET, SECRET + BESIDE})
_NOBODYS: Final = frozenset({"lost+found"})
"""Of the file system itself, where it begins: a disk of its own for a cluster, or for a broker."""

_OURS_AT_HOME: Final = frozenset({"data", CONFIG, CONFIG + BESIDE, LOG, f"{LOG}.1"})
_MANUAL: Final = "docs/operations.md, 'A broker of `millpond up` is lost'"


class _Told(NamedTuple):
    """What a broker's configuration says of its cluster."""

    number: object
    peer: object
    voters: tuple[object, ...]


def homes(directory: Path) -> dict[int, Path]:
    """The brokers' directories that are there, by their numbers."""
    if not directory.is_dir():
        return {}
    found = ((_HOME.fullmatch(path.name), path) for path in directory.iterdir())
    return dict(sorted((int(match[1]), path) for match, path in found if match is not None))


def foreign_entry(directory: Path) -> str | None:
    """The first thing in it that no `millpond up` has made, by its path from there; None: there is none."""
    for path in sorted(directory.iterdir()):
        if path.name in _OURS | _NOBODYS:
            continue
        if _HOME.fullmatch(path.name) is None or not path.is_dir() or path.is_symlink():
            return path.name
        if inner := sorted({entry.name for entry in path.iterdir()} - _OURS_AT_HOME - _NOBODYS):
            return f"{path.name}/{inner[0]}"
    return None


def examine(directory: Path, wanted: int | None) -> Record:
    """How many brokers it has, and by which addresses they know each other for good: none where nobody knows
    any yet. A directory that is not there, or is empty, will have `wanted` of them, or three.

    Raises NotADataDirectory, UnsupportedFormat, and InvalidConfig for what is not as it was left.
    """
    record = read_record(directory)
    if record is None and directory.is_dir() and (foreign := foreign_entry(directory)) is not None:
        raise NotADataDirectory(
            path=str(directory),
            reason=f"it holds other files, {foreign!r} for one; name an empty or a new one with --data",
        )
    there = homes(directory)
    has_metadata = any((home / "data" / "metadata").exists() for home in there.values())
    if record is None:
        record = _derived(directory, there, wanted, has_metadata=has_metadata)
    if not record.is_founded and not has_metadata:
        begun = Record(wanted or record.brokers, (), is_founded=False)
        _check_begun_by_no_more(directory, there, begun.brokers)
        return begun
    if wanted not in (None, record.brokers):
        raise InvalidConfig(
            key="brokers", reason=f"{directory} has a cluster of {record.brokers}, not {wanted}{_FOR_GOOD}"
        )
    _check_none_too_many(directory, there, record.brokers)
    _check_all_there(directory, there, record)
    _check_configs(there, record)
    return record


_FOR_GOOD: Final = ": the number is fixed once there are data; another one needs another directory (--data)"


# --- what is there, against what should be ---------------------------------------------------------------


def _check_begun_by_no_more(directory: Path, there: Mapping[int, Path], count: int) -> None:
    if more := [home.name for number, home in there.items() if number > count]:
        raise InvalidConfig(
            key=str(directory),
            reason=f"a start that was ended had begun to make more brokers there than {count}, and none has"
            f" metadata: remove {', '.join(more)}, or name another directory with --data",
        )


def _check_none_too_many(directory: Path, there: Mapping[int, Path], count: int) -> None:
    if more := [home.name for number, home in there.items() if number > count]:
        raise InvalidConfig(
            key=str(directory),
            reason=f"has a cluster of {count}, and {more[0]} is one too many: move it away, or, if this"
            f" cluster was changed by hand, start its brokers by hand: {_BY_HAND}",
        )


def _check_all_there(directory: Path, there: Mapping[int, Path], record: Record) -> None:
    # Before it is known that all were ready, a voter may have taken part without any metadata so far.
    part = "data/metadata" if record.is_founded else "data/identity"
    for number in range(1, record.brokers + 1):
        name = f"broker-{number}"
        if number in there and (there[number] / part).exists():
            continue
        lost = f"{name}/{part}" if number in there else name
        if record.brokers == 1:
            what_to_do = "put it back, or remove the whole directory to begin anew"
        else:
            what_to_do = f"put it back; if it is lost for good, see {_MANUAL}"
        raise InvalidConfig(
            key=str(directory),
            reason=f"has a cluster of {record.brokers}, and {lost} is missing: {what_to_do}",
        )


_BY_HAND: Final = "millpond broker --config FILE, each with its broker.toml"


def _check_configs(there: Mapping[int, Path], record: Record) -> None:
    """A missing one is written again. One that says something else was changed by somebody."""
    voters = tuple(f"{number}@{peer}" for number, peer in enumerate(record.peers, 1))
    for number, home in there.items():
        told = _told(home / CONFIG)
        if told is None:
            continue
        expected = _Told(number, record.peers[number - 1] if record.peers else told.peer, voters)
        for name, said, due in zip(_SETTINGS, told, expected, strict=True):
            if said != due:
                raise InvalidConfig(
                    key=str(home / CONFIG),
                    reason=f"{name} is {_text(said)}, and was {_text(due)}: put that back, or move the file"
                    f" away to have it written again; if this cluster was changed by hand, start its brokers"
                    f" by hand: {_BY_HAND}",
                )


_SETTINGS: Final = ("broker.id", "cluster.peer_listen", "cluster.voters")


def _text(value: object) -> str:
    return f"[{', '.join(map(str, value))}]" if isinstance(value, tuple) else str(value)


def _told(path: Path) -> _Told | None:
    """None: it is not there. Raises InvalidConfig for one that cannot be read."""
    try:
        found: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        cluster = found.get("cluster", {})
        return _Told(found["broker"]["id"], cluster.get("peer_listen"), tuple(cluster.get("voters", ())))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InvalidConfig(
            key=str(path), reason="is damaged: move it away, and it is written again"
        ) from None


# --- directories without a record ------------------------------------------------------------------------


def _derived(directory: Path, there: Mapping[int, Path], wanted: int | None, *, has_metadata: bool) -> Record:
    """Of a new directory, or of one that was made before there were records: what its configurations say."""
    if not has_metadata:
        return Record(wanted or _voters_once_meant(there) or BROKERS, (), is_founded=False)
    told = {number: said for number, home in there.items() if (said := _told(home / CONFIG)) is not None}
    if not told:
        raise NotADataDirectory(
            path=str(directory), reason=f"neither {RECORD} nor any {CONFIG} says how many brokers it has"
        )
    first = next(iter(told.values()))
    peers = []
    for number, voter in enumerate(first.voters, 1):
        broker, _, peer = str(voter).partition("@")
        if broker != str(number) or not peer or number > BROKERS_MAX:
            raise InvalidConfig(
                key=str(directory),
                reason=f"its voters are {_text(first.voters)}, as `millpond up` does not make them; start its"
                f" brokers by hand: {_BY_HAND}",
            )
        peers.append(peer)
    # One voter: a broker that was alone, and may be joined by others, which nobody but they knows of.
    return Record(max(1, len(peers)), tuple(peers) if len(peers) > 1 else (), is_founded=False)


def _voters_once_meant(there: Mapping[int, Path]) -> int | None:
    """How many a start before had been asked for, which was ended before any had data."""
    for home in there.values():
        try:
            told = _told(home / CONFIG)
        except InvalidConfig:  # it was ended as it wrote this: there is nothing to lose yet
            continue
        if told is not None:
            return max(1, len(told.voters))
    return None
