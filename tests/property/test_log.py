"""A log on a disk that keeps only what was synced, held against a list: nothing confirmed is lost,
nothing torn is served.

The machine appends, takes a leader's pushes with gaps and of many epochs, syncs, reads, rolls, truncates,
trims, drops by retention, starts anew, closes and opens again, in any order, while the process is killed, the
power fails between and *inside* operations, syncs fail, the disk fills up and reads back what it likes of
what was never synced. After every start the log must hold a prefix of what was appended, at least as long as
what was confirmed, each record at its offset with its value, time and epoch; its epochs are those of its
records, and its high watermark is one that was noted. `make storage-fuzz EXAMPLES=n` runs more of the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from itertools import cycle, repeat
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from millpond.wire.batch import Batch, decode_batch, encode_batch
from millpond.wire.errors import StorageFailed, StorageFull
from millpond.wire.record import TopicPartition
from millpond_broker.storage.group_commit import GroupCommit
from millpond_broker.storage.log import Log, LogOptions, PendingSync
from millpond_broker.storage.replica import parse_push
from tests.sim.disk import SimFiles, SimulatedCrash
from tests.unit.storage.builders import placed

DIRECTORY = Path("/log")
FAR_FUTURE_MS = 10**12
ACTS = ("append", "append", "push", "truncate", "restart", "trim", "retain", "checkpoint", "close", "sync")
Sizes = list[list[tuple[int, int]]]
"""Batches, as (value size, timestamp) of each record."""
SYNCS_IN_FLIGHT_MAX = 3


class Held(NamedTuple):
    """What the model knows of a record."""

    value: bytes
    timestamp: int
    epoch: int


class LogMachine(RuleBasedStateMachine):
    """The model: `records` by offset up to `end`, of which those below `confirmed` must survive. `marks`: the
    least and the greatest high watermark that may be on record.
    """

    @initialize(
        seed=st.integers(0, 2**32),
        segment_bytes=st.sampled_from([1_500, 4_096, 20_000]),
        index_interval_bytes=st.sampled_from([1, 200, 1_000]),
        whole_system_sync=st.booleans(),
    )
    def start(
        self, seed: int, segment_bytes: int, index_interval_bytes: int, whole_system_sync: bool
    ) -> None:
        self.disk = SimFiles(Random(seed), whole_system_sync=whole_system_sync)
        self.segment_bytes = segment_bytes
        self.index_interval_bytes = index_interval_bytes
        self.records: dict[int, Held] = {}
        self.end = self.confirmed = 0
        self.starts = {0}
        self.anew: int | None = None
        self.start_before = 0
        self.marks = (0, 0)
        self.epoch = 0
        self.serial = 0
        self.syncs: list[PendingSync] = []
        self.open()

    def open(self) -> None:
        options = LogOptions(
            segment_bytes=self.segment_bytes,
            index_interval_bytes=self.index_interval_bytes,
            sealed_segments_open_max=2,
        )
        self.log = Log.open(self.disk, DIRECTORY, TopicPartition("t", 0), options)
        # None one by one: where the disk can sync as a whole, that is what is tested.
        self.group = GroupCommit(self.disk, DIRECTORY, one_by_one_max=0)
        self.syncs.clear()

    def open_and_compare(self) -> None:
        """Start again; the log is the model's prefix, and the model becomes what the log is."""
        self.open()
        assert self.log.corruption is None
        assert self.log.log_start in self.starts
        assert self.log.log_end >= self.confirmed, "what was confirmed is there"
        assert self.log.durable_end == self.log.log_end, "a start leaves nothing half durable"
        self.compare()
        low, high = (max(self.log.log_start, min(mark, self.log.log_end)) for mark in self.marks)
        assert low <= self.log.high_watermark <= high, "it is one that was noted"
        self.settle()

    def compare(self) -> None:
        """The log holds the model's records between its ends, and knows of their epochs."""
        start, end = self.log.log_start, self.log.log_end
        held = {offset: record for offset, record in sorted(self.records.items()) if start <= offset < end}
        assert self.read_from(start) == held
        for offset, record in held.items():
            epoch, epoch_end = self.log.epochs.end_offset_for(record.epoch, end) or (None, 0)
            assert epoch == record.epoch
            assert epoch_end > offset
            _, earlier_end = self.log.epochs.end_offset_for(record.epoch - 1, end) or (None, 0)
            assert earlier_end <= offset
        if self.anew is not None and start == self.anew != self.start_before:
            assert end == start, "of the log before nothing is left"
        if held:
            assert end == max(held) + 1, "a log ends where its last batch ends"
            assert self.log.last_epoch == held[end - 1].epoch
        else:
            assert end == start

    def settle(self) -> None:
        """The model takes over where the log starts and ends."""
        start, end = self.log.log_start, self.log.log_end
        self.records = {offset: held for offset, held in self.records.items() if start <= offset < end}
        self.end, self.confirmed, self.starts = end, self.log.durable_end, {start}
        self.anew = None
        self.marks = (min(self.marks[0], end), min(self.marks[1], end))

    def read_from(self, offset: int, bytes_max: int = 3_000) -> dict[int, Held]:
        found: dict[int, Held] = {}
        position = offset
        while stored := self.log.read(position, bytes_max, self.log.log_end):
            for item in stored:
                decoded = decode_batch(item.batch)
                epochs = repeat(item.batch.header.leader_epoch)
                held = map(Held, map(bytes, filter(None, decoded.values)), decoded.timestamps, epochs)
                found.update(pair for pair in zip(decoded.offsets, held, strict=True) if pair[0] >= offset)
            position = stored[-1].batch.header.next_offset
        return found

    # --- what a log does ----------------------------------------------------------------------------

    def expect(self, offset: int, sizes: list[tuple[int, int]], epoch: int) -> Batch:
        """A batch of (value size, timestamp) pairs; the model expects it at `offset` before it is there."""
        held = []
        for size, timestamp in sizes:
            self.serial += 1
            # Filled with the magic byte, the one that a search for sound frames goes by.
            held.append(Held(b"%d:" % self.serial + b"\x03" * size, timestamp, epoch))
        self.records.update(enumerate(held, start=offset))
        return encode_batch([item.value for item in held], [item.timestamp for item in held])

    def append(self, batches: Sizes, *, new_epoch: bool = False) -> None:
        self.epoch += new_epoch
        encoded = []
        offset = self.end
        for sizes in batches:
            encoded.append(self.expect(offset, sizes, self.epoch))
            offset += len(sizes)
        appended = self.log.append(encoded, self.epoch)
        assert appended == (self.end, offset)
        self.end = offset

    def push(self, batches: Sizes, steps: list[tuple[int, int]]) -> None:
        """Append as a follower: with a gap and some epochs before each batch. The epochs go on from that of
        the last batch, also when there was a later one that was cut.
        """
        data = b""
        epoch, offset = self.log.last_epoch or 0, self.end
        base_offset = offset + steps[0][0]
        for sizes, (gap, epochs) in zip(batches, cycle(steps), strict=False):
            offset, epoch = offset + gap, epoch + epochs
            batch = self.expect(offset, sizes, epoch)
            data += placed(batch, offset, durable_end=0, epoch=epoch)
            offset += len(sizes)
        self.epoch = max(self.epoch, epoch)
        pushed = parse_push(data)
        assert self.log.append_replica(pushed) == (base_offset, offset)
        self.end = offset
        framed = self.log.read_framed(base_offset, 1 << 20, offset)
        assert parse_push(framed.data).bounds == pushed.bounds

    def finish(self, pending: PendingSync) -> None:
        for result in self.group.sync([pending]):
            result.settle()
        self.confirmed = self.log.durable_end
        assert self.log.high_watermark <= max(self.log.log_start, self.marks[1]), (
            "growth alone commits nothing"
        )

    batches: st.SearchStrategy[Sizes] = st.lists(
        st.lists(st.tuples(st.sampled_from([0, 20, 600]), st.integers(0, 20)), min_size=1, max_size=6),
        min_size=1,
        max_size=4,
    )

    steps = st.lists(
        st.tuples(st.sampled_from([0, 0, 0, 1, 5, 40]), st.sampled_from([0, 0, 1, 3])),
        min_size=1,
        max_size=4,
    )
    """Before a batch of a push: a gap, and how many epochs later it is."""

    @rule(batches=batches, new_epoch=st.booleans())
    def appends(self, batches: Sizes, new_epoch: bool) -> None:
        self.append(batches, new_epoch=new_epoch)

    @rule(batches=batches, steps=steps)
    def is_pushed_to(self, batches: Sizes, steps: list[tuple[int, int]]) -> None:
        self.push(batches, steps)

    @rule(part=st.floats(0, 1.2))
    def notes_a_high_watermark(self, part: float) -> None:
        self.log.note_high_watermark(int(part * self.end))
        mark = self.log.high_watermark
        assert mark <= self.log.durable_end
        self.marks = (min(self.marks[0], mark), max(self.marks[1], mark))

    def checkpoint(self) -> None:
        self.log.checkpoint()
        self.marks = (self.log.high_watermark,) * 2

    @rule()
    def writes_a_checkpoint(self) -> None:
        self.checkpoint()

    @rule()
    def syncs_now(self) -> None:
        pending = self.log.begin_sync()
        if pending is not None:
            self.finish(pending)
            self.mend()

    def mend(self) -> None:
        """A descriptor may tell, late, of a failure that a reopening has mended: conservative, and mended
        again.
        """
        if self.log.failure is not None:
            self.log.reopen()
            self.settle()

    @precondition(lambda self: len(self.syncs) < SYNCS_IN_FLIGHT_MAX)
    @rule()
    def begins_a_sync(self) -> None:
        pending = self.log.begin_sync()
        if pending is not None:
            self.syncs.append(pending)

    @precondition(lambda self: self.syncs)
    @rule()
    def ends_a_sync(self) -> None:
        self.finish(self.syncs.pop(0))
        self.mend()

    @rule(part=st.floats(0, 1), bytes_max=st.sampled_from([1, 700, 1 << 20]))
    def reads(self, part: float, bytes_max: int) -> None:
        start = self.log.log_start
        offset = start + int(part * (self.end - start))
        expected = {at: held for at, held in self.records.items() if at >= offset}
        assert self.read_from(offset, bytes_max) == expected

    @rule(timestamp=st.integers(0, 21))
    def looks_up_a_time(self, timestamp: int) -> None:
        first = next(
            (
                (at, held.timestamp)
                for at, held in sorted(self.records.items())
                if held.timestamp >= timestamp
            ),
            None,
        )
        assert self.log.find_time(timestamp) == first

    def truncate(self, part: float) -> None:
        start = self.log.log_start
        offset = start + int(part * (self.end - start))
        self.expect_cut(offset)
        end = self.log.truncate(offset)
        assert start <= end <= offset
        self.settle()

    def expect_cut(self, offset: int) -> None:
        # As far as the batch that reaches past the offset; it holds at most six records.
        below = sorted(at for at in self.records if at < offset)
        self.confirmed = min(self.confirmed, below[-7] + 1 if len(below) > 6 else self.log.log_start)
        self.marks = (min(self.marks[0], self.confirmed), self.marks[1])

    @rule(part=st.floats(0, 1))
    def truncates(self, part: float) -> None:
        self.truncate(part)

    def restart(self, part: float) -> None:
        self.expect_restart(part)
        assert self.anew is not None
        self.log.restart_at(self.anew)
        self.records.clear()
        assert self.log.position() == (self.anew, self.anew, self.anew, None)
        assert self.log.epochs.entries() == []
        self.marks = (self.anew, self.anew)
        self.settle()

    def expect_restart(self, part: float) -> None:
        """Anywhere, also before and far behind the log."""
        self.anew = int(part * (self.end + 20))
        self.start_before = self.log.log_start
        self.starts.add(self.anew)
        self.confirmed = 0
        self.marks = (0, max(self.marks[1], self.anew))

    @rule(part=st.floats(0, 1))
    def starts_anew(self, part: float) -> None:
        self.restart(part)

    def trim(self, part: float) -> None:
        start = self.log.log_start
        target = start + int(part * (self.log.durable_end - start))
        self.starts.add(target)
        self.log.trim(target)
        assert self.log.log_start == target
        self.settle()

    @rule(part=st.floats(0, 1))
    def trims(self, part: float) -> None:
        self.trim(part)

    def retain(self, limit: int) -> None:
        self.starts |= {segment.next_offset for segment in self.log.segments()}
        self.log.options = LogOptions(
            segment_bytes=self.segment_bytes,
            index_interval_bytes=self.index_interval_bytes,
            retention_bytes=limit or None,
            retention_ms=None if limit else 1,
        )
        below = self.log.durable_end
        self.log.retain(FAR_FUTURE_MS, below)
        assert self.log.log_start <= below
        if limit:
            sealed = self.log.segments()[:-1]
            assert (
                not sealed
                or self.log.size_bytes - sealed[0].size_bytes < limit
                or sealed[0].next_offset > below
            )
        self.settle()

    @rule(limit=st.sampled_from([0, 2_000, 8_000]))
    def retains(self, limit: int) -> None:
        self.retain(limit)

    # --- how it stops -------------------------------------------------------------------------------

    def close(self) -> None:
        while self.syncs:
            self.ends_a_sync()
        mark = self.log.high_watermark
        self.log.close(broker_epoch=7)
        self.confirmed = self.end
        self.marks = (mark, mark)

    @rule(power_fails=st.booleans())
    def is_closed(self, power_fails: bool) -> None:
        self.close()
        self.disk.crash() if power_fails else self.disk.kill()
        self.open_and_compare()
        assert self.log.recovery.clean_epoch == 7

    @rule()
    def process_is_killed(self) -> None:
        end = self.end
        self.disk.kill()
        self.open_and_compare()
        assert self.log.log_end == end, "the page cache survives a process"

    @rule()
    def power_fails(self) -> None:
        self.disk.crash()
        self.open_and_compare()

    @rule(
        operations=st.integers(0, 30),
        what=st.sampled_from([*ACTS, "open"]),
        part=st.floats(0, 1),
        pushed=st.tuples(batches, steps),
        only_process=st.booleans(),
    )
    def stops_inside(
        self,
        operations: int,
        what: str,
        part: float,
        pushed: tuple[Sizes, list[tuple[int, int]]],
        only_process: bool,
    ) -> None:
        before = dict(self.records)
        acts: dict[str, Callable[[], None]] = {
            "append": lambda: self.append(pushed[0], new_epoch=part > 0.8),
            "push": lambda: self.push(*pushed),
            "restart": lambda: self.restart(part),
            "checkpoint": self.checkpoint,
            "truncate": lambda: self.truncate(part),
            "trim": lambda: self.trim(part),
            "retain": lambda: self.retain(0 if part < 0.5 else 2_000),
            "close": self.close,
            "sync": self.syncs_now,
            "open": self.open,
        }
        if what == "open":
            self.disk.kill()
        self.disk.crash_after(operations)
        try:
            acts[what]()
        except SimulatedCrash:
            self.records = before | self.records
        else:
            self.disk.crash_after(10**9)
        self.disk.kill() if only_process else self.disk.crash()
        self.open_and_compare()

    # --- failing disks ------------------------------------------------------------------------------

    @rule(
        written=st.sampled_from([0.0, 0.5, 1.0]),
        memory_is_short=st.booleans(),
        then=st.sampled_from(["reopen", "kill, then power", "power"]),
    )
    def a_sync_fails(self, written: float, memory_is_short: bool, then: str) -> None:
        """Rule 40: out of service, cut back to what was confirmed, and nothing that a later start
        presents as durable is lost after it.
        """
        pending = self.log.begin_sync()
        if pending is None:
            return
        self.disk.fail_next_sync(written=written)
        self.finish(pending)
        self.disk.heal()
        assert self.log.failure is not None
        self.refuses_appends()
        if memory_is_short:
            self.disk.evict()
        while self.syncs:
            self.finish(self.syncs.pop(0))
        confirmed = self.confirmed
        assert self.read_below(confirmed) == {at: held for at, held in self.records.items() if at < confirmed}
        if then == "reopen":
            self.log.reopen()
            assert self.log.log_end == self.log.durable_end == confirmed
            self.settle()
            return
        if then == "kill, then power":
            self.disk.kill()
            self.open_and_compare()
        self.disk.crash()
        self.open_and_compare()

    def refuses_appends(self) -> None:
        with pytest.raises(StorageFailed) as refused:
            self.log.append([encode_batch([b"refused"], 0)], self.epoch)
        assert refused.value.outcome == "not_written"

    def read_below(self, end: int) -> dict[int, Held]:
        return {at: held for at, held in self.read_from(self.log.log_start).items() if at < end}

    @rule(
        room=st.sampled_from([0, 100, 600, 1_500, 3_000]),
        trims=st.booleans(),
        power_fails=st.booleans(),
        steps=st.none() | steps,
    )
    def the_disk_is_full(
        self, room: int, trims: bool, power_fails: bool, steps: list[tuple[int, int]] | None
    ) -> None:
        """Rule 40: refused whole, not back after a crash; trimming works all the same."""
        self.disk.capacity_bytes = used_bytes(self.disk) + room
        for size in (0, 300, 900, 900):
            held = dict(self.records)
            try:
                batches = [[(size, 1)], [(900, 1)]]  # of which the first may fit
                self.append(batches) if steps is None else self.push(batches, steps)
            except StorageFull:  # its outcome, "not written", is what the model goes by
                self.records = held
                assert self.log.log_end == self.end
                self.confirmed = self.log.durable_end
                if trims:
                    self.trim(1.0)
        self.reads(0.0, 1 << 20)
        if power_fails:
            self.disk.crash()
        self.disk.capacity_bytes = None
        if power_fails:
            self.open_and_compare()

    @rule(
        what=st.sampled_from(["truncate", "restart", "trim", "retain"]),
        part=st.floats(0, 1),
        fault=st.sampled_from(["a directory's sync", "any sync", "no room"]),
    )
    def a_change_fails_half_way(self, what: str, part: float, fault: str) -> None:
        """Rule 41: out of service or as before, and `reopen` finishes it: what was to be cut stays cut."""
        start, before = self.log.log_start, self.end
        target = start + int(part * (before - start))
        if fault == "no room":
            self.disk.capacity_bytes = used_bytes(self.disk)
        else:
            self.disk.fail_next_sync(DIRECTORY if fault == "a directory's sync" else None)
        try:
            if what == "truncate":
                self.expect_cut(target)
                self.log.truncate(target)
            elif what == "restart":
                self.restart(part)
            elif what == "trim":
                self.trim(part)
            else:
                self.retain(0 if part < 0.5 else 2_000)
        except (StorageFailed, StorageFull):
            pass
        self.disk.heal()
        self.disk.capacity_bytes = None
        while self.log.failure is not None:
            with suppress(StorageFailed):  # another descriptor may still tell of the same failure
                self.log.reopen()
            if what == "truncate" and self.log.failure is None and self.log.generation_start <= target:
                assert self.log.log_end <= max(target, self.log.log_start)
        if what == "restart":
            assert self.log.log_start == self.log.log_end
        self.compare()
        assert self.log.durable_end >= self.confirmed
        self.settle()

    @rule()
    def writing_fails(self) -> None:
        path = self.log._segments.last.path
        self.disk.fail_writes(path)
        try:
            self.log.append([encode_batch([b"x" * 100], 0)], self.epoch)
        except StorageFailed:
            self.disk.heal()
            self.log.reopen()
            self.settle()
        else:  # it went into a new segment
            self.disk.heal()
            self.records[self.end] = Held(b"x" * 100, 0, self.epoch)
            self.end += 1


def used_bytes(disk: SimFiles) -> int:
    """Bytes in the log's files, as the disk's capacity counts them."""
    return sum(disk.list(DIRECTORY).values())


LogMachine.TestCase.settings = settings(
    max_examples=int(os.environ.get("EXAMPLES", "400")),
    stateful_step_count=50,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestLog = LogMachine.TestCase
