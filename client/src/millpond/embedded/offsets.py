r"""What consumer groups committed: a log of its own, read at the start, kept short by snapshots.

A record's key is `<group>\0<partition>`, its value the next offset as 8 bytes. When the log has grown past
its first segment, and to twice what it was shortened to, everything that holds is written again and the
rest is trimmed.
"""

from __future__ import annotations

import logging
import struct
import threading
from collections.abc import Callable, Mapping
from typing import Final

from millpond.embedded.commits import Commits
from millpond.embedded.partition import Partition, RawRecord, Ticket
from millpond.wire.batch import Batch, encode_batch
from millpond.wire.errors import CorruptBatch, MillpondError

_NEXT_OFFSET: Final = struct.Struct(">q")
_READ_BYTES: Final = 1 << 20
_logger = logging.getLogger("millpond.embedded")


class GroupOffsets:
    """Next offset by (group, partition). Thread-safe."""

    def __init__(self, partition: Partition, commits: Commits, now_ms: Callable[[], int]) -> None:
        self._partition = partition
        self._commits = commits
        self._now_ms = now_ms
        self._lock = threading.Lock()
        self._next: dict[tuple[str, int], int] = {}
        # What the log held when it was last shortened: it is due again at twice that, not sooner, for
        # what holds may be larger than a segment.
        self._kept_bytes = 0
        self.damage: CorruptBatch | None = None
        self._load()

    def _load(self) -> None:
        """Replay the log. What lies past damage is lost: groups resume earlier, and commits are refused."""
        offset = self._partition.log.log_start
        try:
            while records := self._partition.read(offset, _READ_BYTES):
                for record in records:
                    key, next_offset = _decode(record)
                    self._next[key] = next_offset
                offset = records[-1].offset + 1
        except CorruptBatch as error:
            self.damage = error
            _logger.error(  # noqa: TRY400 - no bug to trace
                "commits of groups are lost from there on, and no more are taken: %s", error
            )

    def get(self, group: str, partition: int) -> int | None:
        """What the group committed for the partition; None if nothing."""
        with self._lock:
            return self._next.get((group, partition))

    def groups(self) -> dict[str, dict[int, int]]:
        """Next offsets by group and partition."""
        with self._lock:
            table: dict[str, dict[int, int]] = {}
            for (group, partition), offset in sorted(self._next.items()):
                table.setdefault(group, {})[partition] = offset
            return table

    def commit(self, group: str, partition: int, next_offset: int) -> None:
        """Commit; as durable as the queue's records when it returns. Raises as an append does, and
        CorruptBatch when the log is damaged.
        """
        if self.damage is not None:
            raise self.damage
        ticket = self._append(group, partition, next_offset)
        if self._partition.waits_for_sync:
            self._wait(ticket)
        log = self._partition.log
        if len(log.segments()) > 1 and log.size_bytes > 2 * self._kept_bytes:
            self._compact()

    def take_back(self, group: str, partition: int, next_offset: int) -> None:
        """Correct a commit that outlived its records. Durable when it returns, whatever the queue's flush
        setting: the offsets it covered are given out again, and a later start could not tell. In memory
        only when the log is damaged. Raises as `commit`.
        """
        if self.damage is None:
            self._wait(self._append(group, partition, next_offset))
        with self._lock:
            self._next[group, partition] = next_offset

    def _append(self, group: str, partition: int, next_offset: int) -> Ticket:
        """The lock is held over append and memory, so that both have the same order of commits; not over
        the sync, so that commits of many threads share one.
        """
        with self._lock:
            ticket = self._partition.append([self._batch({(group, partition): next_offset})])
            self._next[group, partition] = next_offset
        return ticket

    def _wait(self, ticket: Ticket) -> None:
        for error in self._commits.wait([ticket]).values():
            raise error

    def _batch(self, offsets: Mapping[tuple[str, int], int]) -> Batch:
        keys = [b"%s\0%d" % (group.encode(), partition) for group, partition in offsets]
        return encode_batch(list(map(_NEXT_OFFSET.pack, offsets.values())), self._now_ms(), keys=keys)

    def _compact(self) -> None:
        """Write what holds into the newest segment, then drop the ones before it. The commit that came
        here is safe already: if this fails, the next one tries again.
        """
        try:
            with self._lock:
                ticket = self._partition.append([self._batch(self._next)])
            self._wait(ticket)
            with self._partition.lock:
                log = self._partition.log
                log.trim(max(log.log_start, ticket.base_offset))
                self._kept_bytes = log.size_bytes
        except MillpondError as error:
            _logger.warning("the log of committed offsets could not be shortened: %s", error)


def _decode(record: RawRecord) -> tuple[tuple[str, int], int]:
    """((group, partition), next offset). Raises CorruptBatch for what no commit wrote."""
    try:
        group, _, number = (record.key or b"").rpartition(b"\0")
        (next_offset,) = _NEXT_OFFSET.unpack(record.value or b"")
        return (group.decode(), int(number)), next_offset
    except (struct.error, ValueError):
        raise CorruptBatch(
            reason=f"the record at {record.offset} is no commit", offset=record.offset
        ) from None
