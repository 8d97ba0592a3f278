"""What a partition remembers of its producers (rules 16 to 19)."""

from __future__ import annotations

import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millpond.wire.batch import ANONYMOUS, Producer, encode_batch
from millpond.wire.errors import OutOfOrderSequence, ProducerFenced
from millpond.wire.header import BatchHeader
from millpond_broker.core import producers as core_producers
from millpond_broker.core.producers import (
    BATCHES_REMEMBERED,
    EXPIRY_MS,
    PRODUCERS_KEPT,
    Producers,
    SeenBatch,
)

SEQUENCE_MAX = 2**31 - 1


def header(offset: int, producer: Producer, records: int = 1, timestamp: int = 1000) -> BatchHeader:
    return encode_batch([b"v"] * records, timestamp, producer=producer).header._replace(base_offset=offset)


def seen(producers: Producers, producer_id: int) -> list[SeenBatch]:
    state = producers.get(producer_id)
    assert state is not None
    return list(state.batches)


def test_a_batch_is_remembered_with_its_sequences_offset_and_time() -> None:
    """Rule 16."""
    producers = Producers()
    producers.observe(header(40, Producer(7, 2, 100), records=3, timestamp=555))
    state = producers.get(7)
    assert state is not None
    assert state.epoch == 2
    assert list(state.batches) == [SeenBatch(100, 102, 40, 555)]


def test_only_the_last_five_batches_are_remembered() -> None:
    """Rules 16 and 19: as many as may be in flight."""
    producers = Producers()
    for number in range(8):
        producers.observe(header(number, Producer(7, 0, number)))
    assert BATCHES_REMEMBERED == 5
    assert [batch.first_sequence for batch in seen(producers, 7)] == [3, 4, 5, 6, 7]


def test_producers_are_remembered_apart() -> None:
    """Rule 16."""
    producers = Producers()
    producers.observe(header(0, Producer(1, 0, 0)))
    producers.observe(header(1, Producer(2, 4, 50)))
    assert len(producers) == 2
    assert seen(producers, 1) == [SeenBatch(0, 0, 0, 1000)]
    assert seen(producers, 2) == [SeenBatch(50, 50, 1, 1000)]
    assert producers.get(3) is None


def test_a_new_epoch_forgets_the_batches_of_the_old_one() -> None:
    """Rules 16 and 18: a sequence says nothing across epochs."""
    producers = Producers()
    producers.observe(header(0, Producer(7, 0, 0)))
    producers.observe(header(1, Producer(7, 1, 0)))
    state = producers.get(7)
    assert state is not None
    assert (state.epoch, list(state.batches)) == (1, [SeenBatch(0, 0, 1, 1000)])


def test_sequences_wrap_to_zero_after_the_largest_int32() -> None:
    """Rule 17."""
    producers = Producers()
    producers.observe(header(0, Producer(7, 0, SEQUENCE_MAX - 1), records=2))
    producers.observe(header(2, Producer(7, 0, 0), records=1))
    producers.observe(header(3, Producer(8, 0, SEQUENCE_MAX), records=3))
    assert seen(producers, 7) == [
        SeenBatch(SEQUENCE_MAX - 1, SEQUENCE_MAX, 0, 1000),
        SeenBatch(0, 0, 2, 1000),
    ]
    assert seen(producers, 8) == [SeenBatch(SEQUENCE_MAX, 1, 3, 1000)]


def test_batches_without_a_producer_are_not_remembered() -> None:
    """Rule 16 is about producers that have an id."""
    producers = Producers()
    producers.observe(header(0, Producer()))
    assert len(producers) == 0


def crowd(producers: Producers, offset: int, timestamp: int) -> None:
    """As many others as are remembered in any case."""
    for number in range(PRODUCERS_KEPT):
        producers.observe(header(offset + number, Producer(1000 + number, 0, 0), timestamp=timestamp))


def test_a_producer_silent_for_more_than_a_day_is_forgotten() -> None:
    """Rule 19: by its newest batch."""
    producers = Producers()
    producers.observe(header(0, Producer(1, 0, 0), timestamp=1000))
    producers.observe(header(1, Producer(2, 0, 0), timestamp=1000))
    producers.observe(header(2, Producer(2, 0, 1), timestamp=1001))
    crowd(producers, 3, timestamp=1001)
    producers.expire(1000 + EXPIRY_MS)
    assert len(producers) == 2 + PRODUCERS_KEPT
    producers.expire(1001 + EXPIRY_MS)
    assert producers.get(1) is None
    assert len(seen(producers, 2)) == 2


def test_a_few_producers_are_remembered_however_long_they_are_silent() -> None:
    """Forgetting one with a batch under way would let it be written twice."""
    producers = Producers()
    producers.observe(header(0, Producer(1, 0, 0), timestamp=1000))
    producers.expire(1000 + 10 * EXPIRY_MS)
    assert producers.get(1) is not None


def test_the_longest_silent_goes_first_and_no_more_than_needed() -> None:
    producers = Producers()
    producers.observe(header(0, Producer(1, 0, 0), timestamp=1000))
    producers.observe(header(1, Producer(2, 0, 0), timestamp=2000))
    crowd(producers, 2, timestamp=3000)
    producers.observe(header(5000, Producer(1000, 0, 1), timestamp=3000 + 2 * EXPIRY_MS))
    producers.expire(3000 + 2 * EXPIRY_MS)
    assert len(producers) == PRODUCERS_KEPT
    assert producers.get(1) is producers.get(2) is None


def test_records_of_long_ago_do_not_have_their_producer_forgotten() -> None:
    """Rule 19 is about silence: a producer that fills in last week's records is not silent."""
    producers = Producers()
    now = 100 * EXPIRY_MS
    crowd(producers, 0, timestamp=now)
    producers.observe(header(5000, Producer(1, 0, 0), timestamp=now - 7 * EXPIRY_MS))
    producers.expire(now)
    assert producers.get(1) is not None


def test_so_many_producers_are_remembered_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each batch may be another producer's: the one whose latest batch lies farthest back makes room, also
    after the table was restored.
    """
    monkeypatch.setattr(core_producers, "PRODUCERS_MAX", 3)
    producers = Producers()
    for offset, producer_id in enumerate((9, 8, 7, 9, 6)):
        producers.observe(header(offset, Producer(producer_id, 0, offset)))
    assert len(producers) == 3
    assert producers.get(8) is None
    assert [batch.base_offset for batch in seen(producers, 9)] == [0, 3]
    restored = Producers.restore(producers.snapshot())
    restored.observe(header(5, Producer(5, 0, 0)))
    assert restored.get(7) is None
    assert len(restored) == len(Producers.restore(restored.snapshot())) == 3


def test_a_producer_of_one_batch_takes_little_memory() -> None:
    """77 bytes of log make one."""
    count = 10_000
    headers = [header(number, Producer(number, 0, 0)) for number in range(count)]
    tracemalloc.start()
    try:
        producers = Producers()
        for one in headers:
            producers.observe(one)
        taken_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken_bytes / count < 500


@given(
    st.lists(
        st.tuples(st.integers(1, 4), st.integers(0, 2), st.integers(0, SEQUENCE_MAX), st.integers(1, 3)),
        max_size=30,
    )
)
def test_a_snapshot_restores_the_same_state_through_json(
    batches: list[tuple[int, int, int, int]],
) -> None:
    """Rule 16: snapshot plus the rest of the log equals the whole log, wherever it is cut."""
    headers = []
    offset = 0
    for producer_id, epoch, sequence, records in batches:
        headers.append(header(offset, Producer(producer_id, epoch, sequence), records))
        offset += records
    whole = Producers()
    for one in headers:
        whole.observe(one)
    for cut in range(len(headers) + 1):
        before = Producers()
        for one in headers[:cut]:
            before.observe(one)
        restored = Producers.restore(json.loads(json.dumps(before.snapshot())))
        for one in headers[cut:]:
            restored.observe(one)
        assert restored.snapshot() == whole.snapshot()


def test_a_producer_that_was_never_seen_may_begin_anywhere() -> None:
    """Rule 18."""
    assert Producers().check(header(0, Producer(7, 2, 100))) is None


def test_the_next_sequence_is_taken_and_any_other_refused() -> None:
    """Rule 17."""
    producers = Producers()
    producers.observe(header(0, Producer(7, 0, 0), records=3))
    assert producers.check(header(0, Producer(7, 0, 3))) is None
    with pytest.raises(OutOfOrderSequence) as refused:
        producers.check(header(0, Producer(7, 0, 4)))
    assert (refused.value.sequence, refused.value.expected) == (4, 3)


def test_a_retry_is_recognised_among_the_last_five_batches() -> None:
    """Rule 17: by its first and last sequence, both."""
    producers = Producers()
    for number in range(6):
        producers.observe(header(10 + number, Producer(7, 0, number)))
    for number in range(1, 6):
        assert producers.check(header(0, Producer(7, 0, number))) == SeenBatch(
            number, number, 10 + number, 1000
        )
    with pytest.raises(OutOfOrderSequence):
        producers.check(header(0, Producer(7, 0, 0)))
    with pytest.raises(OutOfOrderSequence):
        producers.check(header(0, Producer(7, 0, 5), records=2))


def test_sequences_wrap_to_zero() -> None:
    """Rule 17: they are int32."""
    producers = Producers()
    producers.observe(header(0, Producer(7, 0, SEQUENCE_MAX - 1), records=3))
    assert seen(producers, 7) == [SeenBatch(SEQUENCE_MAX - 1, 0, 0, 1000)]
    assert producers.check(header(0, Producer(7, 0, 1))) is None
    assert producers.check(header(0, Producer(7, 0, SEQUENCE_MAX - 1), records=3)) is not None


def test_a_newer_epoch_starts_at_zero() -> None:
    """Rule 18."""
    producers = Producers()
    producers.observe(header(0, Producer(7, 1, 50)))
    assert producers.check(header(0, Producer(7, 2, 0))) is None
    with pytest.raises(OutOfOrderSequence) as refused:
        producers.check(header(0, Producer(7, 2, 51)))
    assert refused.value.expected == 0


def test_an_older_epoch_is_fenced() -> None:
    """Rule 18."""
    producers = Producers()
    producers.observe(header(0, Producer(7, 2, 0)))
    with pytest.raises(ProducerFenced) as refused:
        producers.check(header(0, Producer(7, 1, 1)))
    assert (refused.value.producer_id, refused.value.epoch) == (7, 1)


def test_a_batch_without_a_producer_is_always_taken() -> None:
    assert Producers().check(header(0, ANONYMOUS)) is None
