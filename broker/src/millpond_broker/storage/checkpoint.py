"""The checkpoint of a log: what a start may believe without reading a batch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from millpond_broker.storage.document import DocumentDamaged, read_document, write_document
from millpond_broker.storage.files import Files

_CHECKPOINT: Final = "checkpoint"


class CleanClose(NamedTuple):
    """What a clean close vouches for: the last segment, its length, and the leader epoch of the last batch in
    the log. `broker_epoch`: rule 15.
    """

    broker_epoch: int
    base_offset: int
    size_bytes: int
    last_epoch: int | None


@dataclass(frozen=True)
class Checkpoint:
    """The document that a start relies on."""

    log_start: int = 0
    """First offset that may be read; segments wholly below it may be gone."""
    durable_end: int = 0
    """Everything below was synced, when this was written. A lower bound: the log goes on after it."""
    corrupt_at: int | None = None
    """Where corruption was found, if it was: verification starts there, however the log was closed."""
    clean: CleanClose | None = None
    """Set by a clean close, and gone before anything is changed after the next open."""
    high_watermark: int = 0
    """Everything below was committed, and durable here, when this was written (rule 7). Older than the other
    ends may be: it is written when something else is, and now and then."""
    may_have_gaps: bool = False
    """Whether there may be batches in front of which offsets are missing, because compaction took them out.
    Without it a gap is damage (rule 41)."""
    has_lost: bool = False
    """Whether a start cut bytes, and nobody was told yet (rule 15): on record before they are cut, so that a
    crash on the way to telling it forgets nothing."""

    def write(self, files: Files, directory: Path) -> None:
        """Replace the document. Durable when it returns."""
        content = {
            "log_start": self.log_start,
            "durable_end": self.durable_end,
            "corrupt_at": self.corrupt_at,
            "clean": self.clean,
            "high_watermark": self.high_watermark,
            "may_have_gaps": self.may_have_gaps,
            "has_lost": self.has_lost,
        }
        write_document(files, directory / _CHECKPOINT, _CHECKPOINT, content)

    @classmethod
    def read(cls, files: Files, directory: Path) -> Checkpoint | None:
        """The stored one; None if there is none or it is damaged, and then everything is verified."""
        try:
            content = read_document(files, directory / _CHECKPOINT, _CHECKPOINT)
        except DocumentDamaged:
            return None
        if content is None:
            return None
        clean = content["clean"]
        if clean is not None and len(clean) != len(CleanClose._fields):
            clean = None  # of an earlier version, which knew less: the log is verified
        return cls(
            log_start=content["log_start"],
            durable_end=content["durable_end"],
            corrupt_at=content["corrupt_at"],
            clean=None if clean is None else CleanClose(*clean),
            high_watermark=content.get("high_watermark", content["log_start"]),
            may_have_gaps=content.get("may_have_gaps", False),
            has_lost=content.get("has_lost", False),
        )


class CheckpointFile:
    """The checkpoint of a running log. `current` is what is stored, or what recovery took it to be."""

    def __init__(self, files: Files, directory: Path, current: Checkpoint) -> None:
        self._files = files
        self._directory = directory
        self.current = current

    def save(
        self,
        *,
        log_start: int | None = None,
        durable_end: int | None = None,
        corrupt_at: int | None = None,
        clean: CleanClose | None = None,
        high_watermark: int | None = None,
        may_have_gaps: bool | None = None,
        has_lost: bool | None = None,
    ) -> None:
        """Change what is named; the rest stays, but for the clean close, which ends with any change.
        Durable when it returns; on an error the old one counts. Raises OSError.
        """
        old = self.current
        new = Checkpoint(
            log_start=old.log_start if log_start is None else log_start,
            durable_end=old.durable_end if durable_end is None else durable_end,
            corrupt_at=old.corrupt_at if corrupt_at is None else corrupt_at,
            clean=clean,
            high_watermark=old.high_watermark if high_watermark is None else high_watermark,
            may_have_gaps=old.may_have_gaps if may_have_gaps is None else may_have_gaps,
            has_lost=old.has_lost if has_lost is None else has_lost,
        )
        self._replace(new)

    def begin_anew(self, offset: int) -> None:
        """Of an empty log that starts at `offset`: nothing is left of what was said of another. Durable when
        it returns. Raises OSError.
        """
        self._replace(Checkpoint(log_start=offset, durable_end=offset, high_watermark=offset))

    def _replace(self, new: Checkpoint) -> None:
        new.write(self._files, self._directory)
        self.current = new

    def mark_in_use(self) -> None:
        """Take back the word of the last clean close, before anything changes. Raises OSError."""
        if self.current.clean is not None:
            self.save()
