"""What a directory remembers of the cluster that `millpond up` made in it.

<directory>/cluster.json    format, brokers, peers, founded

By its own files a cluster of three that lost one is a cluster of two: that it was three, and by which
addresses its voters know each other, is written down before the first of them starts.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final, NamedTuple

from millpond._local.whole import write_whole
from millpond.wire.errors import NotADataDirectory, UnsupportedFormat

RECORD: Final = "cluster.json"
FORMAT: Final = 1
"""Of the file. A greater one is refused, never guessed at."""
BROKERS_MAX: Final = 7
"""As many as can be voters."""


class Record(NamedTuple):
    """`cluster.json`."""

    brokers: int
    peers: tuple[str, ...]
    """host:port of each, by which the others know it: part of the metadata once there are some. A broker that
    is alone has none.
    """
    is_founded: bool
    """All have been ready once: every one of them has metadata, or has lost them."""


def read_record(directory: Path) -> Record | None:
    """None: there is none. Raises NotADataDirectory for one that is damaged, UnsupportedFormat, OSError."""
    path = directory / RECORD
    try:
        content = json.loads(path.read_bytes())
        if type(content["format"]) is not int or content["format"] < 1:
            raise ValueError(content)
        if content["format"] > FORMAT:
            newer = f"{path} has format {content['format']}, this version knows up to {FORMAT}"
            raise UnsupportedFormat(what=f"{newer}; use a newer millpond")
        record = Record(content["brokers"], tuple(content["peers"]), content["founded"])
        if not _is_sound(record):
            raise ValueError(record)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        raise NotADataDirectory(
            path=str(directory),
            reason=f"its {RECORD} is damaged; move that away, and it is made anew from the brokers' files",
        ) from None
    return record


def write_record(directory: Path, record: Record) -> None:
    """Durable when it returns. Raises OSError."""
    assert _is_sound(record), "it is read again"
    content = {
        "format": FORMAT,
        "brokers": record.brokers,
        "peers": record.peers,
        "founded": record.is_founded,
    }
    write_whole(directory / RECORD, json.dumps(content) + "\n")


def _is_sound(record: Record) -> bool:
    return (
        type(record.brokers) is int
        and 1 <= record.brokers <= BROKERS_MAX
        and type(record.is_founded) is bool
        and all(isinstance(peer, str) for peer in record.peers)
        and len(set(record.peers)) == len(record.peers) == (record.brokers if record.brokers > 1 else 0)
    )
