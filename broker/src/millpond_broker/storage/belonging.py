"""Which cluster a data directory is of, and whether its disk may vote.

<data directory>/cluster      document: cluster id, part

For brokers that came without a voter's metadata: by that a disk is not taken into another cluster, in which
its partitions would be nobody's, and one that has voted and lost how is known. A disk votes once: a voter
that was removed has promised what a second log of its would not know.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from millpond.wire.errors import NotADataDirectory, UnsupportedFormat
from millpond_broker.storage.document import DocumentDamaged, read_document, write_document
from millpond_broker.storage.files import Files

_NAME: Final = "cluster"


class Part(enum.Enum):
    """What the disk is to the voters."""

    FOLLOWER = "follower"
    """It has never voted."""
    VOTER = "voter"
    """It has a voter's metadata; or had, and must not go on without."""
    REMOVED = "removed"
    """It was a voter, and will be none again."""


@dataclass(frozen=True, slots=True)
class Belonging:
    """The document's content."""

    cluster_id: bytes
    part: Part


def read_belonging(files: Files, directory: Path) -> Belonging | None:
    """None: there is no such document. Raises NotADataDirectory, UnsupportedFormat, OSError."""
    try:
        content = read_document(files, directory / _NAME, _NAME)
    except DocumentDamaged as error:
        raise NotADataDirectory(path=str(directory), reason=str(error)) from None
    if content is None:
        return None
    try:
        return Belonging(bytes.fromhex(content["cluster_id"]), Part(content["part"]))
    except (KeyError, TypeError, ValueError):
        raise UnsupportedFormat(what=f"{directory / _NAME}: {content}") from None


def write_belonging(files: Files, directory: Path, belonging: Belonging) -> None:
    """Durable when it returns. Raises OSError."""
    content = {"cluster_id": belonging.cluster_id.hex(), "part": belonging.part.value}
    write_document(files, directory / _NAME, _NAME, content)
