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
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from millpond.wire.errors import CorruptBatch
from millpond_broker.core.epochs import LeaderEpochs
from millpond_broker.core.producers import Producers
from millpond_broker.storage.checkpoint import Checkpoint
from millpond_broker.storage.files import Files
from millpond_broker.storage.scan import CHUNK_BYTES, BadBatch, Unsound, behind, sound_frame_saw
from millpond_broker.storage.segment import Segment, follows, segment_bases
from millpond_broker.storage.sidecars import load_epochs, load_producers, save_epochs


class Corruption(NamedTuple):
    """Where a log stopped being sound, and how that was seen."""

    offset: int
    reason: str


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
    log_end: int = 0
    """Where the log ends after the start: with `last_epoch`, what the report says."""
    last_epoch: int | None = None
    """The leader epoch of the last batch that is left; None if none is."""

    may_have_lost: bool = False
    """Whether bytes were cut, now or by an earlier start that told nobody. With flush=commit they may have
    been acknowledged: nothing at the end of a log tells a write that was cut short from one that a disk gave
    back spoiled (rule 15)."""


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
    while True:
        try:
            return _start(files, directory, index_interval_bytes, checkpoint)
        except Unsound as found:
            # A batch that was believed unread turned out bad: believe nothing from there on. Each turn goes
            # further back, so there are not many.
            assert checkpoint is not None, "without a checkpoint nothing is believed unread"
            if checkpoint.corrupt_at is not None and found.offset >= checkpoint.corrupt_at:
                raise CorruptBatch(reason=f"{directory}: {found.reason}", offset=found.offset) from None
            checkpoint = replace(checkpoint, clean=None, corrupt_at=found.offset)


def _start(files: Files, directory: Path, index_interval_bytes: int, stored: Checkpoint | None) -> Recovered:
    segments = _segments(files, directory, index_interval_bytes)
    # If the checkpoint is lost, nobody knows whether there were gaps.
    checkpoint = stored or Checkpoint(
        log_start=segments[0].base_offset if segments else 0, may_have_gaps=bool(segments)
    )
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
        segments, report = _verify(files, directory, segments, checkpoint)
    has_lost = checkpoint.has_lost or report.cut_bytes > 0
    log_end = segments[-1].next_offset
    if report.corruption is not None:
        checkpoint = replace(checkpoint, clean=None, corrupt_at=report.corruption.offset)
        checkpoint.write(files, directory)
    elif report.clean_epoch is None:
        checkpoint = Checkpoint(
            log_start=checkpoint.log_start,
            durable_end=log_end,
            high_watermark=min(checkpoint.high_watermark, log_end),
            may_have_gaps=checkpoint.may_have_gaps,
            has_lost=has_lost,
        )
        checkpoint.write(files, directory)
    epochs, on_record = load_epochs(files, directory, segments)
    if report.corruption is None and epochs.entries() != on_record:
        # Or what was cut would count again, once the log has grown past where it began.
        save_epochs(files, directory, epochs)
    producers = load_producers(files, directory, segments)
    if report.clean_epoch is not None and checkpoint.clean is not None:
        last_epoch = checkpoint.clean.last_epoch
    else:
        last_epoch = next((at.last_epoch() for at in reversed(segments) if at.size_bytes), None)
    report = replace(report, log_end=log_end, last_epoch=last_epoch, may_have_lost=has_lost)
    for segment in segments[:-1]:  # verification may have opened all of them, and there may be many
        segment.release()
    return Recovered(segments, checkpoint, log_end, epochs, producers, report)


def _load_indexes(segment: Segment) -> None:
    try:
        segment.load_indexes()
    except BadBatch as bad:
        raise Unsound(segment.base_offset, str(bad)) from None


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


def _verify(
    files: Files, directory: Path, segments: list[Segment], checkpoint: Checkpoint
) -> tuple[list[Segment], Recovery]:
    """Verify from the checkpoint on, cut what is torn, make the rest durable."""
    trusted = checkpoint.durable_end
    if checkpoint.corrupt_at is not None:
        trusted = min(trusted, checkpoint.corrupt_at)
    first = max(at for at, segment in enumerate(segments) if at == 0 or segment.base_offset <= trusted)
    verified_bytes = 0
    for at, segment in enumerate(segments[first:-1], start=first):
        walk = _walk(segment, trusted, may_have_gaps=checkpoint.may_have_gaps)
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
    walk = _walk(last, trusted, may_have_gaps=checkpoint.may_have_gaps)
    verified_bytes += last.size_bytes
    if (corruption := _corruption_in_last(last, walk, checkpoint.durable_end)) is not None:
        return segments, Recovery(None, verified_bytes, corruption=corruption)
    cut_bytes = walk.file_size - last.size_bytes
    if cut_bytes:
        if not checkpoint.has_lost:
            replace(checkpoint, clean=None, has_lost=True).write(files, directory)
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


def _walk(segment: Segment, trusted: int, *, may_have_gaps: bool) -> _Walk:
    """Note every sound batch of `segment`, from where its indexes know `trusted`."""
    file_size = segment.size_bytes
    segment.resume(trusted)
    resumed_at = segment.size_bytes
    walk = _note_all(segment, file_size, may_have_gaps=may_have_gaps)
    if walk.bad is not None and segment.size_bytes == resumed_at > 0:
        # The very first batch is not sound where the index places it: doubt the index before the log.
        segment.restart()
        walk = _note_all(segment, file_size, may_have_gaps=may_have_gaps)
    return walk


def _note_all(segment: Segment, file_size: int, *, may_have_gaps: bool) -> _Walk:
    durable_seen, resumed_at = 0, segment.size_bytes
    try:
        for stored in segment.batches(resumed_at, end=file_size):
            header = stored.batch.header
            if not follows(
                header,
                segment.next_offset,
                gap_ok=may_have_gaps and not stored.position == resumed_at > 0,
            ):
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
