"""Starting a log: what of the bytes on disk counts, and what is torn, corrupt or only half durable.

A log that was closed cleanly is believed, at its word. Any other is verified from its checkpoint on:

- A bad batch is *corrupt* if it was durable once: it lies below the checkpointed durable end, in a sealed
  segment, or below a durable end that a later sound frame saw. Its bytes are kept, the log serves what is
  sound before it and takes no appends (rule 15 decides what happens then).
- Otherwise it is *torn*, an append that a crash cut short and nobody was told of: it is cut.
- What is sound may still be in the page cache only, after a sync that failed: it is rewritten in place,
  which marks the pages dirty again, and synced (rule 40). What a sound frame saw as durable is exempt: that
  frame is a checkpoint which travelled with the log.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from millpond.wire.header import BatchHeader
from millpond_broker.core.epochs import LeaderEpochs
from millpond_broker.core.producers import Producers
from millpond_broker.storage.document import DocumentDamaged, read_document, write_document
from millpond_broker.storage.files import Files
from millpond_broker.storage.scan import CHUNK_BYTES, BadBatch, Unsound, behind, sound_frame_saw
from millpond_broker.storage.segment import Segment, segment_bases, segment_name

CHECKPOINT: Final = "checkpoint"
LEADER_EPOCHS: Final = "leader-epochs"
PRODUCERS_SUFFIX: Final = ".producers"
_PRODUCERS: Final = "producers"
_PRODUCERS_NAME: Final = re.compile(r"\d{20}" + re.escape(PRODUCERS_SUFFIX))


class Corruption(NamedTuple):
    """Where a log stopped being sound, and how that was seen."""

    offset: int
    reason: str


class CleanClose(NamedTuple):
    """What a clean close vouches for: the last segment and its length. `broker_epoch`: rule 15."""

    broker_epoch: int
    base_offset: int
    size_bytes: int


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

    def write(self, files: Files, directory: Path) -> None:
        """Replace the document. Durable when it returns."""
        content = {
            "log_start": self.log_start,
            "durable_end": self.durable_end,
            "corrupt_at": self.corrupt_at,
            "clean": self.clean,
        }
        write_document(files, directory / CHECKPOINT, CHECKPOINT, content)

    @classmethod
    def read(cls, files: Files, directory: Path) -> Checkpoint | None:
        """The stored one; None if there is none or it is damaged, and then everything is verified."""
        try:
            content = read_document(files, directory / CHECKPOINT, CHECKPOINT)
        except DocumentDamaged:
            return None
        if content is None:
            return None
        clean = content["clean"]
        return cls(
            log_start=content["log_start"],
            durable_end=content["durable_end"],
            corrupt_at=content["corrupt_at"],
            clean=None if clean is None else CleanClose(*clean),
        )


@dataclass(frozen=True)
class Recovery:
    """What a start found, for logs and metrics, and for rule 15's report."""

    clean_epoch: int | None
    """The broker epoch of the clean close; None after any other stop."""
    verified_bytes: int = 0
    cut_bytes: int = 0
    """Torn bytes that were cut: an append nobody was told of, or (rule 15) a loss on this replica."""
    cut_offset: int | None = None
    corruption: Corruption | None = None


class Recovered(NamedTuple):
    """A log as it stands after a start. Segments are in order; the last one is where appends go."""

    segments: list[Segment]
    checkpoint: Checkpoint
    durable_end: int
    epochs: LeaderEpochs
    producers: Producers
    report: Recovery


def recover(files: Files, directory: Path, index_interval_bytes: int) -> Recovered:
    """Start the log in `directory`, which exists. Everything below the returned log end is durable.

    Raises UnsupportedFormat for a batch of a later version, OSError when the disk fails; no batch at or
    past the log start has gone then.
    """
    checkpoint = Checkpoint.read(files, directory)
    try:
        return _start(files, directory, index_interval_bytes, checkpoint)
    except Unsound as found:
        # A batch that was believed unread turned out bad: believe nothing from its segment on.
        assert checkpoint is not None, "without a checkpoint nothing is believed unread"
        checkpoint = replace(checkpoint, clean=None, corrupt_at=found.offset)
        return _start(files, directory, index_interval_bytes, checkpoint)


def _start(files: Files, directory: Path, index_interval_bytes: int, stored: Checkpoint | None) -> Recovered:
    segments = _segments(files, directory, index_interval_bytes)
    checkpoint = stored or Checkpoint(log_start=segments[0].base_offset if segments else 0)
    corruption = _missing_start(segments, checkpoint)
    if not segments:
        start = checkpoint.log_start
        segments = [Segment.planned(files, directory, start, index_interval_bytes).make()]
    try:
        return _judge(files, directory, segments, checkpoint, corruption)
    except BaseException:  # whatever it was, a start that failed keeps no file open; re-raised
        for segment in segments:
            segment.close()
        raise


def _judge(
    files: Files,
    directory: Path,
    segments: list[Segment],
    checkpoint: Checkpoint,
    corruption: Corruption | None,
) -> Recovered:
    segments = _drop_below(files, directory, segments, checkpoint.log_start)
    if corruption is not None:
        segments, report = segments[:1], Recovery(clean_epoch=None, corruption=corruption)
        segments[0].restart()
    elif checkpoint.clean is not None and _closed_cleanly(segments, checkpoint):
        report = Recovery(clean_epoch=checkpoint.clean.broker_epoch)
        segments[-1].next_offset = checkpoint.durable_end
        _load_indexes(segments[-1])
    else:
        segments = _without_empty_end(files, directory, segments)
        segments, report = _verify(files, segments, checkpoint)
    log_end = segments[-1].next_offset
    if report.corruption is not None:
        checkpoint = replace(checkpoint, clean=None, corrupt_at=report.corruption.offset)
        checkpoint.write(files, directory)
    elif report.clean_epoch is None:
        checkpoint = Checkpoint(log_start=checkpoint.log_start, durable_end=log_end)
        checkpoint.write(files, directory)
    epochs, on_record = _load_epochs(files, directory, segments)
    if report.corruption is None and epochs.entries() != on_record:
        # Or what was cut would count again, once the log has grown past where it began.
        save_epochs(files, directory, epochs)
    producers = load_producers(files, directory, segments)
    for segment in segments[:-1]:  # verification may have opened all of them, and there may be many
        segment.release()
    return Recovered(segments, checkpoint, log_end, epochs, producers, report)


def _load_indexes(segment: Segment) -> None:
    try:
        segment.load_indexes()
    except BadBatch as bad:
        raise Unsound(segment.base_offset, str(bad)) from None


def _headers_from(segments: list[Segment], offset: int) -> Iterator[BatchHeader]:
    """Headers of the batches from the one that holds `offset` on."""
    for segment in segments:
        if segment.next_offset <= offset:
            continue
        sound_end = max(offset, segment.base_offset)
        try:
            for stored in segment.batches_from(offset):
                sound_end = stored.batch.header.next_offset
                yield stored.batch.header
        except BadBatch as bad:
            raise Unsound(sound_end, str(bad)) from None


# --- which segments there are --------------------------------------------------------------------------


def _segments(files: Files, directory: Path, index_interval_bytes: int) -> list[Segment]:
    """The segments on disk, taken at the length of their files; none of it is verified yet."""
    sizes = segment_bases(files, directory)
    last = max(sizes, default=0)
    # An empty file before the last was left by a roll that failed: the log went on in the one before it.
    bases = [(base, size) for base, size in sizes.items() if size or base == last]
    ends = [base for base, _ in bases[1:]] + [last]
    return [
        Segment(
            files,
            directory,
            base,
            size_bytes=size,
            next_offset=end,
            index_interval_bytes=index_interval_bytes,
        )
        for (base, size), end in zip(bases, ends, strict=False)
    ]


def _missing_start(segments: list[Segment], checkpoint: Checkpoint) -> Corruption | None:
    """A log that should start before its first segment has lost some."""
    first = segments[0].base_offset if segments else checkpoint.durable_end
    if first > checkpoint.log_start:
        return Corruption(checkpoint.log_start, f"no segment holds {checkpoint.log_start} to {first}")
    return None


def _drop_below(files: Files, directory: Path, segments: list[Segment], log_start: int) -> list[Segment]:
    """Finish what a crash interrupted: unlink segments that lie wholly below the log start."""
    dead = [segment for segment in segments[:-1] if segment.next_offset <= log_start]
    for segment in dead:
        segment.remove()
    if dead:
        files.sync_directory(directory)
    return segments[len(dead) :]


def _without_empty_end(files: Files, directory: Path, segments: list[Segment]) -> list[Segment]:
    """An empty last segment says nothing: the log may have gone on in the one before, if making this one
    failed half-way. That one is verified as the last; the checkpoint knows how far it was sealed.
    """
    if len(segments) > 1 and not segments[-1].size_bytes:
        segments.pop().remove()
        files.sync_directory(directory)
    return segments


def _closed_cleanly(segments: list[Segment], checkpoint: Checkpoint) -> bool:
    """Whether the files are as long as the clean close said, and no corruption was on record."""
    last = segments[-1]
    clean = checkpoint.clean
    return (
        clean is not None
        and checkpoint.corrupt_at is None
        and (clean.base_offset, clean.size_bytes) == (last.base_offset, last.size_bytes)
    )


# --- verification --------------------------------------------------------------------------------------


def _verify(files: Files, segments: list[Segment], checkpoint: Checkpoint) -> tuple[list[Segment], Recovery]:
    """Verify from the checkpoint on, cut what is torn, make the rest durable."""
    trusted = checkpoint.durable_end
    if checkpoint.corrupt_at is not None:
        trusted = min(trusted, checkpoint.corrupt_at)
    first = max(at for at, segment in enumerate(segments) if at == 0 or segment.base_offset <= trusted)
    verified_bytes = 0
    for at, segment in enumerate(segments[first:-1], start=first):
        walk = _walk(segment, trusted)
        verified_bytes += segment.size_bytes
        following = segments[at + 1].base_offset
        bad = walk.bad
        if bad is None and segment.next_offset != following:
            bad = f"the segment ends before {following}, where the next begins"
        if bad is not None:  # it was sealed, so it was durable once
            found = Corruption(segment.next_offset, bad)
            return segments[: at + 1], Recovery(None, verified_bytes, corruption=found)
        with suppress(OSError):  # an index is a cache: a later use makes it again
            segment.flush_indexes()
    last = segments[-1]
    walk = _walk(last, trusted)
    verified_bytes += last.size_bytes
    if (corruption := _corruption_in_last(last, walk, checkpoint.durable_end)) is not None:
        return segments, Recovery(None, verified_bytes, corruption=corruption)
    cut_bytes = walk.file_size - last.size_bytes
    if cut_bytes:
        last.discard_rest()
    _make_durable(last, max(walk.durable_seen, checkpoint.durable_end))
    return segments, Recovery(None, verified_bytes, cut_bytes, last.next_offset if cut_bytes else None)


def _corruption_in_last(last: Segment, walk: _Walk, durable_end: int) -> Corruption | None:
    """What is wrong with the last segment that a crash in the middle of an append does not explain."""
    offset = last.next_offset
    if walk.bad is None:
        if offset < durable_end:
            return Corruption(offset, f"the log ends before its durable end {durable_end}")
        return None
    search_from = behind(last.file, last.size_bytes)
    if offset < durable_end or sound_frame_saw(last.file, search_from, walk.file_size, offset):
        return Corruption(offset, walk.bad)
    return None


class _Walk(NamedTuple):
    """`bad`: why the batch after the last noted one is not sound, None if the file ends there.
    `durable_seen`: the greatest durable end that a sound frame saw.
    """

    file_size: int
    bad: str | None
    durable_seen: int


def _walk(segment: Segment, trusted: int) -> _Walk:
    """Note every sound batch of `segment`, from where its indexes know `trusted`."""
    file_size = segment.size_bytes
    segment.resume(trusted)
    resumed_at = segment.size_bytes
    walk = _note_all(segment, file_size)
    if walk.bad is not None and segment.size_bytes == resumed_at > 0:
        # The very first batch is not sound where the index places it: doubt the index before the log.
        segment.restart()
        walk = _note_all(segment, file_size)
    return walk


def _note_all(segment: Segment, file_size: int) -> _Walk:
    durable_seen = 0
    try:
        for stored in segment.batches(segment.size_bytes, end=file_size):
            header = stored.batch.header
            if header.base_offset != segment.next_offset:
                raise BadBatch(
                    stored.position,
                    f"offset {header.base_offset} where {segment.next_offset} belongs",
                )
            segment.note(header)
            durable_seen = max(durable_seen, stored.frame.durable_end(header.base_offset))
    except BadBatch as bad:
        return _Walk(file_size, str(bad), durable_seen)
    return _Walk(file_size, None, durable_seen)


def _make_durable(segment: Segment, durable_end: int) -> None:
    """Rewrite in place what may be in the page cache only, and sync (rule 40)."""
    _, position = segment.entry_before(durable_end)
    while position < segment.size_bytes:
        data = segment.file.read_at(position, min(CHUNK_BYTES, segment.size_bytes - position))
        if segment.file.write_at(position, (data,)) != len(data):
            raise OSError(errno.ENOSPC, "short rewrite", str(segment.path))
        position += len(data)
    segment.file.sync()


# --- what is kept beside the segments --------------------------------------------------------------------


def _load_epochs(
    files: Files, directory: Path, segments: list[Segment]
) -> tuple[LeaderEpochs, list[tuple[int, int]]]:
    """The epochs on record, up to the log end, and the record; the epochs come from the batches where it
    is missing or damaged.
    """
    log_end = segments[-1].next_offset
    try:
        content = read_document(files, directory / LEADER_EPOCHS, LEADER_EPOCHS)
    except DocumentDamaged:
        content = None
    if content is not None:
        on_record = [(epoch, start) for epoch, start in content["epochs"]]
        epochs = LeaderEpochs(on_record)
        epochs.cut_from(log_end)
        return epochs, on_record
    epochs = LeaderEpochs()
    for header in _headers_from(segments, segments[0].base_offset):
        if epochs.latest is None or header.leader_epoch > epochs.latest:
            epochs.begin(header.leader_epoch, header.base_offset)
    return epochs, []


def save_epochs(files: Files, directory: Path, epochs: LeaderEpochs) -> None:
    """Replace the record of leader epochs. Durable when it returns."""
    write_document(files, directory / LEADER_EPOCHS, LEADER_EPOCHS, {"epochs": epochs.entries()})


def save_producers(files: Files, directory: Path, producers: Producers, log_end: int) -> None:
    """Write the state of producers as of `log_end`; keep the one before it too, drop older ones."""
    path = directory / (segment_name(log_end) + PRODUCERS_SUFFIX)
    write_document(files, path, _PRODUCERS, {"producers": producers.snapshot()})
    for offset in _producer_snapshots(files, directory)[:-2]:
        files.unlink(directory / (segment_name(offset) + PRODUCERS_SUFFIX))


def load_producers(files: Files, directory: Path, segments: list[Segment]) -> Producers:
    """State as of the log end: the newest sound snapshot at or below it, then the batches after that.

    Snapshots past the log end are of a log that is gone, and are removed.
    """
    log_end = segments[-1].next_offset
    producers, offset = Producers(), segments[0].base_offset
    stale = False
    for candidate in reversed(_producer_snapshots(files, directory)):
        path = directory / (segment_name(candidate) + PRODUCERS_SUFFIX)
        if candidate > log_end:
            files.unlink(path)
            stale = True
            continue
        content = _sound_snapshot(files, path)
        if content is not None:
            producers, offset = Producers.restore(content["producers"]), candidate
            break
    if stale:  # or a crash could bring one back beside a log that has grown past it again
        files.sync_directory(directory)
    for header in _headers_from(segments, offset):
        producers.observe(header)
    return producers


def _sound_snapshot(files: Files, path: Path) -> dict[str, Any] | None:
    try:
        return read_document(files, path, _PRODUCERS)
    except DocumentDamaged:
        return None


def _producer_snapshots(files: Files, directory: Path) -> list[int]:
    """Offsets of the snapshots on disk, ascending."""
    return sorted(
        int(name.removesuffix(PRODUCERS_SUFFIX))
        for name in files.list(directory)
        if _PRODUCERS_NAME.fullmatch(name)
    )
