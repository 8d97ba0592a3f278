"""What was fixed when a queue was made, in a document of its own beside the partitions."""

from __future__ import annotations

import uuid
from typing import Final

from millpond.wire.errors import InvalidConfig, NotADataDirectory
from millpond_broker.storage.directory import DataDirectory
from millpond_broker.storage.document import DocumentDamaged, read_document, write_document
from millpond_broker.storage.files import Files

_DOCUMENT: Final = "queue"


class Settings:
    """What was fixed when the queue was made."""

    def __init__(self, topic_id: str, partitions: int, flush: str) -> None:
        self.topic_id = topic_id
        self.partitions = partitions
        self.flush = flush


def load_settings(files: Files, directory: DataDirectory, partitions: int | None, flush: str) -> Settings:
    """The queue's settings from its directory, made there at first. Raises InvalidConfig on a difference,
    NotADataDirectory when they are damaged or gone.
    """
    path = directory.path
    try:
        stored = read_document(files, path / _DOCUMENT, _DOCUMENT)
    except DocumentDamaged as error:
        raise NotADataDirectory(path=str(path), reason=str(error)) from None
    if stored is None:
        if files.list(directory.partitions):  # the settings are durable before the first of them is made
            raise NotADataDirectory(path=str(path), reason=f"its settings, the file {_DOCUMENT!r}, are gone")
        stored = {"topic_id": uuid.uuid4().hex, "partitions": partitions or 4, "flush": flush}
        write_document(files, path / _DOCUMENT, _DOCUMENT, stored)
    settings = Settings(stored["topic_id"], stored["partitions"], stored["flush"])
    if partitions not in (None, settings.partitions):
        raise InvalidConfig(
            key="partitions",
            reason=f"this queue has {settings.partitions}; pass that, or None for whatever it has",
        )
    if flush != settings.flush:
        raise InvalidConfig(key="flush", reason=f"this queue was made with {settings.flush!r}")
    return settings
