"""What is kept beside the segments: leader epochs and the state of producers.

Both can be made again from the batches; the files spare a start reading all of them. A producer snapshot
past the log end is of a log that is gone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from millpond.wire.header import BatchHeader
from millpond_broker.core.epochs import LeaderEpochs
from millpond_broker.core.producers import Producers
from millpond_broker.storage.document import DocumentDamaged, read_document, write_document
from millpond_broker.storage.files import Files
from millpond_broker.storage.scan import BadBatch, Unsound
from millpond_broker.storage.segment import Segment, segment_name

_LEADER_EPOCHS: Final = "leader-epochs"
_PRODUCERS: Final = "producers"
_PRODUCERS_SUFFIX: Final = ".producers"
_PRODUCERS_NAME: Final = re.compile(r"\d{20}" + re.escape(_PRODUCERS_SUFFIX))


def load_epochs(
    files: Files, directory: Path, segments: list[Segment]
) -> tuple[LeaderEpochs, list[tuple[int, int]]]:
    """The epochs on record, up to the log end, and the record; the epochs come from the batches where it
    is missing or damaged.
    """
    log_end = segments[-1].next_offset
    try:
        content = read_document(files, directory / _LEADER_EPOCHS, _LEADER_EPOCHS)
    except DocumentDamaged:
        content = None
    if content is not None:
        on_record = [(epoch, start) for epoch, start in content["epochs"]]
        epochs = LeaderEpochs(on_record)
        epochs.cut_from(log_end)
        return epochs, on_record
    epochs, end = LeaderEpochs(), segments[0].base_offset
    for header in _headers_from(segments, end):
        if epochs.latest is None or header.leader_epoch > epochs.latest:
            epochs.begin(header.leader_epoch, end)
        end = header.next_offset
    return epochs, []


def with_epochs(epochs: LeaderEpochs, log_end: int, headers: Sequence[BatchHeader]) -> LeaderEpochs:
    """The epochs once these batches are at the log end: each begins where the batch before its first ends.

    Not at its first batch: what compaction took out in front of that may have been of either epoch, and a
    follower that has something there, of the older one, must not believe that we agree (rule 3). Entries at
    the log end are of batches that were not written after all, unless these are the ones; greater epochs are
    of a log that was emptied since, and were lost in an election.
    """
    first_epoch = headers[0].leader_epoch
    extended = LeaderEpochs(
        (epoch, start) for epoch, start in epochs.entries() if start < log_end and epoch <= first_epoch
    )
    for header in headers:
        if extended.latest is None or header.leader_epoch > extended.latest:
            extended.begin(header.leader_epoch, log_end)
        log_end = header.next_offset
    return extended


def save_epochs(files: Files, directory: Path, epochs: LeaderEpochs) -> None:
    """Replace the record of leader epochs. Durable when it returns."""
    write_document(files, directory / _LEADER_EPOCHS, _LEADER_EPOCHS, {"epochs": epochs.entries()})


def save_producers(files: Files, directory: Path, producers: Producers, log_end: int) -> None:
    """Write the state of producers as of `log_end`; keep the one before it too, drop older ones."""
    path = directory / (segment_name(log_end) + _PRODUCERS_SUFFIX)
    write_document(files, path, _PRODUCERS, {"producers": producers.snapshot()})
    for offset in _producer_snapshots(files, directory)[:-2]:
        files.unlink(directory / (segment_name(offset) + _PRODUCERS_SUFFIX))


def load_producers(files: Files, directory: Path, segments: list[Segment]) -> Producers:
    """State as of the log end: the newest sound snapshot at or below it, then the batches after that.

    Snapshots past the log end are of a log that is gone, and are removed.
    """
    log_end = segments[-1].next_offset
    producers, offset = Producers(), segments[0].base_offset
    stale = False
    for candidate in reversed(_producer_snapshots(files, directory)):
        path = directory / (segment_name(candidate) + _PRODUCERS_SUFFIX)
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


def forget_all(files: Files, directory: Path) -> None:
    """Leave no epoch and no producer behind: the batches are gone. Durable when it returns."""
    save_epochs(files, directory, LeaderEpochs())
    for offset in _producer_snapshots(files, directory):
        files.unlink(directory / (segment_name(offset) + _PRODUCERS_SUFFIX))
    files.sync_directory(directory)


def _sound_snapshot(files: Files, path: Path) -> dict[str, Any] | None:
    try:
        return read_document(files, path, _PRODUCERS)
    except DocumentDamaged:
        return None


def _producer_snapshots(files: Files, directory: Path) -> list[int]:
    """Offsets of the snapshots on disk, ascending."""
    return sorted(
        int(name.removesuffix(_PRODUCERS_SUFFIX))
        for name in files.list(directory)
        if _PRODUCERS_NAME.fullmatch(name)
    )


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
