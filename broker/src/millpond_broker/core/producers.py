"""What a partition remembers of its producers (rule 16): epoch and the last five batches of each.

Rebuilt from snapshot and log on every replica, so that a retry is recognised by whichever leads.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from millpond.wire.errors import OutOfOrderSequence, ProducerFenced
from millpond.wire.header import NO_PRODUCER_ID, BatchHeader

BATCHES_REMEMBERED: Final = 5
"""As many as a producer may have in flight (rule 19): any retry it can send is among them."""
EXPIRY_MS: Final = 24 * 3600 * 1000
"""A producer silent for a day may be forgotten (rule 19)."""
PRODUCERS_KEPT: Final = 1000
"""So many are remembered however long they are silent: forgetting is for the sake of memory, and whoever is
forgotten with a batch under way may write it twice."""
PRODUCERS_MAX: Final = 50_000
"""So many are remembered at most, however short their silence: 20 MB of memory, and a snapshot that takes the
loop for 0.2 s. A batch of 77 bytes is enough to become one. Whoever is forgotten for others' sake has been
silent while 50,000 wrote."""
_SEQUENCE_MODULUS: Final = 1 << 31


class SeenBatch(NamedTuple):
    """One batch as it was appended. Sequences wrap to 0 after 2**31 - 1.

    `timestamp` is the time of the log then: the latest that any batch so far had. A batch's own may lie far
    back, and would have its producer forgotten at once.
    """

    first_sequence: int
    last_sequence: int
    base_offset: int
    timestamp: int


class ProducerState:
    """Epoch of one producer in one partition, and its last batches, oldest first."""

    __slots__ = ("batches", "epoch")

    def __init__(self, epoch: int, batches: Iterable[SeenBatch] = ()) -> None:
        self.epoch = epoch
        self.batches = tuple(batches)[-BATCHES_REMEMBERED:]

    def note(self, batch: SeenBatch) -> None:
        """The latest."""
        self.batches = (*self.batches[1 - BATCHES_REMEMBERED :], batch)


def _last_sequence(header: BatchHeader) -> int:
    return (header.base_sequence + header.last_offset_delta) % _SEQUENCE_MODULUS


class Producers:
    """State by producer id. Batches arrive in offset order; `observe` is the only mutator but expiry."""

    def __init__(self) -> None:
        # In the order of their latest batches, the longest silent first; at most PRODUCERS_MAX.
        self._states: dict[int, ProducerState] = {}
        # The latest time of any batch so far; it does not go back.
        self._latest = 0

    def __len__(self) -> int:
        return len(self._states)

    def get(self, producer_id: int) -> ProducerState | None:
        """What is known of a producer; None for one never seen or expired."""
        return self._states.get(producer_id)

    def check(self, header: BatchHeader) -> SeenBatch | None:
        """Whether a batch may be appended next (rules 17 and 18): None if so, else the batch that it repeats.

        Raises OutOfOrderSequence, ProducerFenced. Nothing is noted; `observe` does that after the append.
        """
        if header.producer_id == NO_PRODUCER_ID:
            return None
        state = self._states.get(header.producer_id)
        if state is None:
            return None  # never seen, or forgotten: any sequence may be its next
        if header.producer_epoch < state.epoch:
            raise ProducerFenced(producer_id=header.producer_id, epoch=header.producer_epoch)
        first, last = header.base_sequence, _last_sequence(header)
        if header.producer_epoch > state.epoch:
            expected = 0
        else:
            for seen in state.batches:
                if seen.first_sequence == first and seen.last_sequence == last:
                    return seen
            expected = (state.batches[-1].last_sequence + 1) % _SEQUENCE_MODULUS
        if first != expected:
            raise OutOfOrderSequence(producer_id=header.producer_id, sequence=first, expected=expected)
        return None

    def observe(self, header: BatchHeader) -> None:
        """Note a batch that is in the log. Batches without a producer id are not remembered."""
        self._latest = max(self._latest, header.max_timestamp)
        if header.producer_id == NO_PRODUCER_ID:
            return
        state = self._states.pop(header.producer_id, None)
        if state is None or state.epoch != header.producer_epoch:
            state = ProducerState(header.producer_epoch)
        state.note(SeenBatch(header.base_sequence, _last_sequence(header), header.base_offset, self._latest))
        self._states[header.producer_id] = state
        if len(self._states) > PRODUCERS_MAX:
            del self._states[next(iter(self._states))]

    def expire(self, now_ms: int) -> None:
        """Forget who has been silent for EXPIRY_MS, the longest silent first, down to PRODUCERS_KEPT."""
        spare = len(self._states) - PRODUCERS_KEPT
        if spare <= 0:
            return
        silent = sorted(
            (state.batches[-1].timestamp, producer_id)
            for producer_id, state in self._states.items()
            if now_ms - state.batches[-1].timestamp > EXPIRY_MS
        )
        for _, producer_id in silent[:spare]:
            del self._states[producer_id]

    def snapshot(self) -> list[Any]:
        """Everything, as plain lists: [[producer id, epoch, [[first, last, offset, timestamp], …]], …]."""
        return [
            [producer_id, state.epoch, [list(batch) for batch in state.batches]]
            for producer_id, state in sorted(self._states.items())
        ]

    @classmethod
    def restore(cls, snapshot: list[Any]) -> Producers:
        """The table that `snapshot` was taken of."""
        table = cls()
        # A snapshot is in the order of ids; silence goes by the offset of the latest batch.
        for producer_id, epoch, batches in sorted(snapshot, key=lambda entry: entry[2][-1][2])[
            -PRODUCERS_MAX:
        ]:
            state = ProducerState(epoch, [SeenBatch(*batch) for batch in batches])
            table._states[producer_id] = state
            table._latest = max(table._latest, state.batches[-1].timestamp)
        return table
