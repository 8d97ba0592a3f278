"""The embedded queue: what `millpond.embedded.open` returns."""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

from millpond.embedded.commits import Commits
from millpond.embedded.offsets import GroupOffsets
from millpond.embedded.partition import Partition, RawRecord, Ticket
from millpond.embedded.settings import load_settings
from millpond.embedded.shield import Arrivals, Shield
from millpond.embedded.stats import GroupStats, QueueStats, lag_records, partition_stats, with_shares
from millpond.wire.batch import Batch, encode_batch
from millpond.wire.errors import (
    ClientClosed,
    CorruptBatch,
    InvalidConfig,
    InvalidRecord,
    MillpondError,
    OffsetOutOfRange,
    OperationTimeout,
    Outcome,
    PartialDelivery,
    RecordTooLarge,
    StorageFailed,
    StorageFull,
    UnknownPartition,
)
from millpond.wire.names import check_group_name
from millpond.wire.partitioner import partition_for
from millpond.wire.record import TopicPartition
from millpond_broker.core.topic_config import TopicConfig
from millpond_broker.storage.directory import DataDirectory
from millpond_broker.storage.files import DISK_FULL, Files, OsFiles
from millpond_broker.storage.group_commit import GroupCommit
from millpond_broker.storage.log import Log, LogOptions

TOPIC: Final = "queue"
"""What `record.topic` says."""
PARTITIONS_MAX: Final = 1024
"""Each holds a file open, and a process may have that many unless its limits were raised."""
_OFFSETS_TOPIC: Final = "__offsets"
_OFFSETS_SEGMENT_BYTES: Final = 1 << 20
_BATCH_RECORDS_MAX: Final = 10_000
_BATCH_BYTES_MAX: Final = 1 << 20
"""A call with many records is cut into batches of this size: what a reader unpacks at once."""
_READ_BYTES: Final = 1 << 20
_RETENTION_SECONDS: Final = 5.0
"""How often a queue that is written to looks for segments to drop: what it may exceed its limits by."""
_CLOSE_SECONDS_MAX: Final = 130.0
"""A little more than a producer waits for a disk that hangs: calls under way end before it."""

_logger = logging.getLogger("millpond.embedded")


def open(  # noqa: A001 - the public name; users write embedded.open
    path: str | os.PathLike[str],
    *,
    partitions: int | None = None,
    flush: Literal["commit", "interval"] = "commit",
    config: Mapping[str, str | int] | None = None,
    files: Files | None = None,
) -> Queue:
    """Open the queue in directory `path`; an empty or missing directory becomes one.

    `partitions` and `flush` are fixed when the queue is made and must be the same again. `partitions` None:
    4 for a new queue, and whatever another has. `flush="commit"`: a record is on disk when `produce`
    returns. `"interval"`: faster, and a power loss may take what was produced in the last second
    (`flush_interval_ms`).
    `config` takes topic settings by name, such as `{"retention_bytes": 1 << 30}`; they hold for this
    opening, and by default nothing is ever dropped. `files` is for tests of failing disks.

    Raises DirectoryInUse when another process, or another Queue of this one, has it open;
    NotADataDirectory, UnsupportedFormat (made by a later version), InvalidConfig, StorageFull,
    StorageFailed. A queue that was there before is as it was then.
    """
    settings = TopicConfig.parse(config or {}, base=TopicConfig(retention_ms=None))
    if "flush" in (config or {}):
        raise InvalidConfig(key="flush", reason="is a parameter of open(), not of config")
    if flush == "commit" and "flush_interval_ms" in (config or {}):
        raise InvalidConfig(key="flush_interval_ms", reason="means nothing with flush='commit'")
    if flush not in ("commit", "interval"):
        raise InvalidConfig(key="flush", reason=f"{flush!r} is not one of commit, interval")
    if partitions is not None and not (isinstance(partitions, int) and 1 <= partitions <= PARTITIONS_MAX):
        raise InvalidConfig(
            key="partitions", reason=f"{partitions!r} is not a whole number within 1 to {PARTITIONS_MAX}"
        )
    return Queue(files or OsFiles(), Path(path).absolute(), partitions, replace(settings, flush=flush))


class Queue:
    """An open queue. Made by `millpond.embedded.open`; close it, or use it in a `with`.

    Every method may be called from any thread, and from a signal handler. Ctrl-C in a call leaves it to
    end by itself: a record that was being produced may be written. After a fork the queue is the parent's:
    the child gets ForkedClient. After `close`, ClientClosed.
    """

    def __init__(self, files: Files, path: Path, partitions: int | None, config: TopicConfig) -> None:
        self.path = path
        self._config = config
        self._pid = os.getpid()
        self._shield = Shield("queue")
        self._arrivals = Arrivals()
        # `_changed` guards the two below it; never used in the main thread, see `shield`.
        self._changed = threading.Condition()
        self._closing = False
        self._calls = 0
        # Held by `close`: a second one returns when the first has let everything go.
        self._close_turn = threading.RLock()
        self._closed = False
        self._next_keyless = 0
        self._retention_due = 0.0
        self._partitions: list[Partition] = []
        self._flusher = threading.Thread(target=self._flush_forever, name="millpond-flush", daemon=True)
        # Whatever stops an open, nothing of it may linger: the stack lets go, last taken first.
        with ExitStack() as taken:
            taken.callback(self._shield.stop)
            try:
                self._directory = DataDirectory.open(files, path, role="embedded", new_id=uuid.uuid4().hex)
                taken.callback(self._directory.close)
                group_commit = GroupCommit(files, path)
                taken.callback(group_commit.close)
                self._commits = Commits(group_commit)
                taken.callback(self._abandon_logs)
                self._open_logs(files, partitions)
            except OSError as error:
                full = error.errno in DISK_FULL
                raise (
                    StorageFull(path=str(path)) if full else StorageFailed(path=str(path), reason=str(error))
                ) from error
            if config.flush == "interval":
                self._flusher.start()
            self._taken = taken.pop_all()

    def _open_logs(self, files: Files, partitions: int | None) -> None:
        settings = load_settings(files, self._directory, partitions, self._config.flush)
        config = self._config
        options = LogOptions(
            segment_bytes=config.segment_bytes,
            segment_ms=config.segment_ms,
            retention_ms=config.retention_ms,
            retention_bytes=config.retention_bytes,
        )

        def place(topic: str, number: int) -> Path:
            return self._directory.partitions / f"{topic}-{number}-{settings.topic_id}"

        # The offsets are made last: if they are there, so was everything.
        was_whole = files.exists(place(_OFFSETS_TOPIC, 0))

        def open_log(topic: str, number: int, options: LogOptions) -> Partition:
            directory = place(topic, number)
            if was_whole and not files.exists(directory):
                _logger.error("%s is gone, with what it held; it begins anew, empty", directory)
            log = Log.open(files, directory, TopicPartition(topic, number), options)
            _tell(log)
            partition = Partition(log, waits_for_sync=config.flush == "commit")
            self._partitions.append(partition)
            return partition

        for number in range(settings.partitions):
            open_log(TOPIC, number, options)
        offsets = open_log(
            _OFFSETS_TOPIC, 0, LogOptions(segment_bytes=_OFFSETS_SEGMENT_BYTES, segment_ms=None)
        )
        self._data = self._partitions[: settings.partitions]
        self._offsets = GroupOffsets(offsets, self._commits, _now_ms)
        self._clamp_offsets()
        self._retain()

    def _clamp_offsets(self) -> None:
        """A commit may outlive the records it covers, when a power loss took those (flush=interval); their
        offsets will be given to new records, which the group has not seen.
        """
        for group, committed in self._offsets.groups().items():
            for number, offset in committed.items():
                log = self._data[number].log
                if offset > log.log_end and log.corruption is None:
                    _logger.warning(
                        "group %s had committed up to %d of partition %d, which ends at %d; it resumes there",
                        *(group, offset, number, log.log_end),
                    )
                    self._offsets.take_back(group, number, log.log_end)

    # --- producing ------------------------------------------------------------------------------------

    def produce(self, key: bytes | None, value: bytes | None) -> tuple[int, int]:
        """Append one record; its (partition, offset), on disk by then unless the queue flushes at intervals.

        The same key goes to the same partition, in order; None to any. A value of None is a tombstone.
        Calls from many threads share their syncs. Raises TypeError for anything but bytes or None,
        RecordTooLarge, StorageFull (nothing written), StorageFailed or DeliveryTimeout (see `.outcome`),
        CorruptBatch (that partition takes no records any more).
        """
        return self._shield.run(self._produce, key, value)

    def _produce(self, key: bytes | None, value: bytes | None) -> tuple[int, int]:
        with self._call():
            self._check_record(key, value)
            number = self._partition_of(key, self._keyless())
            batch = encode_batch([value], _now_ms(), keys=None if key is None else [key])
            ticket = self._data[number].append([batch])
            for error in self._confirmed([ticket]).values():
                raise error
            return number, ticket.base_offset

    def produce_many(self, pairs: Iterable[tuple[bytes | None, bytes | None]]) -> list[tuple[int, int]]:
        """Append many (key, value) records under one sync; their (partition, offset) in the order given.

        All of them are in memory meanwhile. Records of one partition are appended together or not at all;
        those without a key go to one partition, in order. Raises as `produce` does, with nothing written,
        when a record is unfit or a partition takes none; PartialDelivery when some partitions' records
        were written and others' not: `.result` has None at the indexes of `.failed`.
        """
        # First, in the caller's thread: the iterable is the caller's code, and may use this queue itself.
        taken = list(pairs)
        return self._shield.run(self._produce_many, taken)

    def _produce_many(self, pairs: Sequence[tuple[bytes | None, bytes | None]]) -> list[tuple[int, int]]:
        with self._call():
            columns = self._columns(pairs)
            for number in columns:
                self._data[number].check_takes_appends()
            tickets: dict[int, Ticket] = {}
            failed: dict[int, MillpondError] = {}
            now_ms = _now_ms()
            for number, column in columns.items():
                try:
                    tickets[number] = self._data[number].append(column.batches(now_ms))
                except (StorageFull, StorageFailed, CorruptBatch) as error:
                    failed[number] = error
            unconfirmed = self._confirmed(list(tickets.values()))
            for number, ticket in tickets.items():
                if ticket in unconfirmed:
                    failed[number] = unconfirmed[ticket]
            return _results(columns, tickets, failed)

    def _columns(self, pairs: Sequence[tuple[bytes | None, bytes | None]]) -> dict[int, _Column]:
        columns: dict[int, _Column] = {}
        keyless = self._keyless()
        for index, (key, value) in enumerate(pairs):
            self._check_record(key, value)
            number = self._partition_of(key, keyless)
            column = columns.get(number)
            if column is None:
                column = columns[number] = _Column()
            column.add(index, key, value)
        return columns

    def _confirmed(self, tickets: list[Ticket]) -> Mapping[Ticket, MillpondError]:
        """Wait as this queue's flush setting says, then let consumers know; the tickets that failed."""
        failed = self._commits.wait(tickets) if self._config.flush == "commit" else {}
        self._arrivals.notify()
        if time.monotonic() >= self._retention_due:
            self._retain()
        return failed

    def _check_record(self, key: bytes | None, value: bytes | None) -> None:
        for name, part in (("key", key), ("value", value)):
            if part is not None and not isinstance(part, bytes):
                raise TypeError(f"{name} must be bytes or None, not {type(part).__name__}; encode it first")
        size_bytes = len(key or b"") + len(value or b"")
        if size_bytes > self._config.record_bytes_max:
            raise RecordTooLarge(size_bytes=size_bytes, limit_bytes=self._config.record_bytes_max)

    def _partition_of(self, key: bytes | None, keyless: int) -> int:
        return keyless if key is None else partition_for(key, len(self._data))

    def _keyless(self) -> int:
        """Where a record without a key goes: each call to the next partition in turn that is not corrupt;
        to the next one all the same, and its error, when all are.
        """
        first = self._next_keyless = (self._next_keyless + 1) % len(self._data)
        turns = (*range(first, len(self._data)), *range(first))
        return next((number for number in turns if self._data[number].log.corruption is None), first)

    # --- consuming ------------------------------------------------------------------------------------

    def consume(
        self, group: str, *, partitions: Sequence[int] | None = None, timeout: float | None = None
    ) -> Iterator[RawRecord]:
        """Records from where `group` last committed (the beginning, at first), in order per partition.

        Asking for the next record commits nothing; call `commit`. At the end the iterator waits for more:
        for `timeout` seconds without a record, for ever if None; it ends then, and when the queue is
        closed. Workers that share a group divide `partitions` among themselves. Records that retention
        dropped before the group came to them are skipped with a warning in the log.

        Raises InvalidGroupName, UnknownPartition; while iterating, StorageFailed when the disk cannot be
        read, and CorruptBatch for a damaged partition: logged at once, raised when the others have no more
        records at hand.
        """
        check_group_name(group)
        numbers = list(range(len(self._data)) if partitions is None else partitions)
        for number in numbers:
            self._check_partition(number)
        if timeout is not None and not timeout >= 0:
            raise ValueError(f"timeout must be at least 0 s, not {timeout}")
        positions = self._shield.run(self._positions, group, numbers)
        return self._records(group, positions, timeout)

    def _positions(self, group: str, numbers: Sequence[int]) -> dict[int, int]:
        with self._call():
            return {number: self._committed(group, number) for number in numbers}

    def _records(self, group: str, positions: dict[int, int], timeout: float | None) -> Iterator[RawRecord]:
        damage: CorruptBatch | None = None
        idle_since = time.monotonic()
        while positions or damage is not None:
            arrivals = self._arrivals.count
            handed_out = 0
            for number in list(positions):
                try:
                    position, records = self._shield.run(self._read, group, number, positions[number])
                except ClientClosed:
                    return
                except OffsetOutOfRange:
                    continue  # trimmed while it was read: the next round starts higher
                except CorruptBatch as error:
                    _logger.error(  # noqa: TRY400 - no bug to trace
                        "group %s cannot go on in partition %d: %s", group, number, error
                    )
                    damage = damage or error
                    del positions[number]
                    continue
                positions[number] = position
                for record in records:
                    if self._closing or self._is_forked():
                        break  # and the next read says which
                    yield record
                    positions[number] = record.offset + 1
                    handed_out += 1
            if handed_out:
                idle_since = time.monotonic()
            elif damage is not None:
                raise damage
            elif not self._await_arrival(arrivals, idle_since, timeout):
                return

    def _read(self, group: str, number: int, position: int) -> tuple[int, list[RawRecord]]:
        """Where to read on, at the log start or after it, and the records from there."""
        with self._call():
            position = self._at_least_log_start(group, number, position)
            return position, self._data[number].read(position, _READ_BYTES)

    def _await_arrival(self, arrivals: int, idle_since: float, timeout: float | None) -> bool:
        """Wait for something to be produced; False when the time is up or the queue is closing."""
        left = None if timeout is None else idle_since + timeout - time.monotonic()
        if self._closing:
            return False
        return self._arrivals.wait(arrivals, left) and not self._closing

    def commit(self, group: str, record: RawRecord) -> None:
        """`group` is done with `record` and everything before it in its partition. As durable as a record
        when it returns, so commit every so many records where that is slow. A commit of an earlier record
        takes the group back. Raises InvalidGroupName, UnknownPartition, InvalidRecord for a record that
        is not in this queue, and as `produce` does.
        """
        check_group_name(group)
        self._shield.run(self._commit, group, record)

    def _commit(self, group: str, record: RawRecord) -> None:
        with self._call():
            self._check_partition(record.partition)
            _, log_end = self._data[record.partition].bounds()
            if record.topic != TOPIC or not 0 <= record.offset < log_end:
                raise InvalidRecord(
                    reason=f"{record.topic}-{record.partition} offset {record.offset} is not in this queue"
                )
            self._offsets.commit(group, record.partition, record.offset + 1)

    def _committed(self, group: str, number: int) -> int:
        committed = self._offsets.get(group, number)
        return self._data[number].bounds()[0] if committed is None else committed

    def _at_least_log_start(self, group: str, number: int, position: int) -> int:
        log_start, _ = self._data[number].bounds()
        if position < log_start:
            _logger.warning(
                "group %s skips %d records of partition %d that retention dropped",
                *(group, log_start - position, number),
            )
        return max(position, log_start)

    def _check_partition(self, number: int) -> None:
        if not 0 <= number < len(self._data):
            raise UnknownPartition(topic=TOPIC, partition=number, partitions=len(self._data))

    # --- looking at it --------------------------------------------------------------------------------

    def stats(self) -> QueueStats:
        """Partitions with their sizes and shares, and how far each group is."""
        return self._shield.run(self._stats)

    def _stats(self) -> QueueStats:
        with self._call():
            partitions = [partition_stats(number, entry) for number, entry in enumerate(self._data)]
            groups = {
                group: GroupStats(committed, lag_records(committed, partitions))
                for group, committed in self._offsets.groups().items()
            }
            return QueueStats(with_shares(partitions), groups)

    # --- life -----------------------------------------------------------------------------------------

    @contextmanager
    def _call(self) -> Iterator[None]:
        """A call is under way: `close` waits for it."""
        with self._changed:
            if self._closing:
                raise ClientClosed(what="queue")
            self._calls += 1
        try:
            yield
        finally:
            with self._changed:
                self._calls -= 1
                if self._closing:
                    self._changed.notify_all()

    def _is_forked(self) -> bool:
        return os.getpid() != self._pid

    def _flush_forever(self) -> None:
        """The thread of flush=interval: started by `__init__`, ended by `close`."""
        failed: set[Partition] = set()
        while True:
            with self._changed:
                if self._changed.wait_for(lambda: self._closing, self._config.flush_interval_ms / 1000):
                    return
            try:
                self._commits.sync(self._partitions)
            except MillpondError as error:
                _logger.error("not flushed, %s: %s", self.path, error)  # noqa: TRY400 - no bug to trace
            for partition in self._partitions:
                failure = partition.log.failure
                if failure is not None and partition not in failed:
                    failed.add(partition)
                    _logger.error("acknowledged records may be lost, no more are taken: %s", failure)

    def _retain(self) -> None:
        """Drop what retention says may go. Trouble is logged: the records that called are safe already."""
        self._retention_due = time.monotonic() + _RETENTION_SECONDS
        for partition in self._data:
            with partition.lock:
                log = partition.log
                if log.failure is None and log.corruption is None:
                    try:
                        log.retain(_now_ms(), partition.readable_end)
                    except MillpondError as error:
                        _logger.warning("retention of %s: %s", log.directory, error)

    def close(self) -> None:
        """Wait for calls under way, make everything durable, let the directory go. Again: does nothing.

        Iterators of `consume` end. Raises OperationTimeout when a call does not end: the directory stays
        locked, and this may be called again. Raises StorageFailed when the last sync fails, or, with
        flush="interval", when an earlier one did; the directory is let go all the same.
        """
        self._shield.run(self._close)
        self._shield.join(_CLOSE_SECONDS_MAX)

    def _close(self) -> None:
        with self._close_turn:
            with self._changed:
                self._closing = True
                self._changed.notify_all()
                self._arrivals.notify()
                if not self._changed.wait_for(lambda: not self._calls, _CLOSE_SECONDS_MAX):
                    raise OperationTimeout(what="closing the queue", timeout=_CLOSE_SECONDS_MAX)
            if self._closed:
                return
            self._closed = True
            with self._taken:  # which lets go of everything, whatever happens
                if self._flusher.ident is not None:
                    self._flusher.join()
                self._close_logs()

    def _close_logs(self) -> None:
        troubles: list[MillpondError] = []
        for partition in self._partitions:
            with partition.lock:
                if partition.log.failure is not None and not partition.waits_for_sync:
                    troubles.append(partition.log.failure)  # of records that were acknowledged unsynced
                try:
                    partition.log.close(broker_epoch=0)
                except StorageFull as error:
                    # The records are synced by then; what lacks room is the word that the next start
                    # need not verify them.
                    _logger.warning("closed without a mark of it: %s", error)
                except MillpondError as error:
                    troubles.append(error)
        if troubles:
            raise troubles[0]

    def _abandon_logs(self) -> None:
        for partition in self._partitions:
            partition.log.abandon()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Column:
    """The records of one produce_many that go to one partition, and where each stood in the call."""

    def __init__(self) -> None:
        self.indexes: list[int] = []
        self._keys: list[bytes | None] = []
        self._values: list[bytes | None] = []
        self._cuts = [0]
        self._batch_bytes = 0

    def add(self, index: int, key: bytes | None, value: bytes | None) -> None:
        size_bytes = len(key or b"") + len(value or b"")
        in_batch = len(self.indexes) - self._cuts[-1]
        if in_batch and (in_batch >= _BATCH_RECORDS_MAX or self._batch_bytes + size_bytes > _BATCH_BYTES_MAX):
            self._cuts.append(len(self.indexes))
            self._batch_bytes = 0
        self._batch_bytes += size_bytes
        self.indexes.append(index)
        self._keys.append(key)
        self._values.append(value)

    def batches(self, now_ms: int) -> list[Batch]:
        ends = [*self._cuts[1:], len(self.indexes)]
        return [
            encode_batch(self._values[start:end], now_ms, keys=self._keys[start:end])
            for start, end in zip(self._cuts, ends, strict=True)
        ]


def _results(
    columns: Mapping[int, _Column], tickets: Mapping[int, Ticket], failed: Mapping[int, MillpondError]
) -> list[tuple[int, int]]:
    """(partition, offset) in the order of the call. Raises what `produce_many` raises."""
    count = sum(len(column.indexes) for column in columns.values())
    result: list[tuple[int, int] | None] = [None] * count
    errors: dict[int, MillpondError] = {}
    for number, column in columns.items():
        if number in failed:
            errors.update(dict.fromkeys(column.indexes, failed[number]))
        else:
            for offset, index in enumerate(column.indexes, start=tickets[number].base_offset):
                result[index] = (number, offset)
    if errors and len(errors) == count:
        # Of several reasons one that leaves the outcome open: `not_written` would invite duplicates.
        raise max(failed.values(), key=lambda error: getattr(error, "outcome", None) == Outcome.UNKNOWN)
    if errors:
        raise PartialDelivery(result=result, failed=errors)
    return [place for place in result if place is not None]


def _tell(log: Log) -> None:
    """Log what a start found, if it was anything but a clean stop."""
    found = log.recovery
    if found.corruption is not None:
        _logger.error("%s is corrupt at offset %d: %s", log.directory, *found.corruption)
    elif found.cut_bytes:
        _logger.warning(
            "%s: cut %d torn bytes at offset %d", log.directory, found.cut_bytes, found.cut_offset
        )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
