"""What a consumer asks of whom, and what becomes of the answers."""

from __future__ import annotations

import random

import pytest

from millpond._core.cluster import ClusterView
from millpond._core.fetch_buffer import FetchedBatch, FetchedError, FetchedGap
from millpond._core.fetcher import CORRUPT_ATTEMPTS, Fetcher
from millpond._core.handout import Reading, RecordBatch, open_batch
from millpond._core.session import PING_AFTER_S, PONG_WITHIN_S, FetchedPart, Session
from millpond.wire.batch import seal
from millpond.wire.errors import (
    BrokerNotReady,
    ClusterUnavailable,
    CorruptBatch,
    NotLeader,
    OffsetOutOfRange,
    StorageFailed,
    UnsupportedFormat,
)
from millpond.wire.header import HEADER_BYTES
from millpond.wire.record import TopicPartition
from tests.unit.client_core.leader import TOPIC_ID, Leader, Log, cluster, placed

KEY = TopicPartition("t", 0)


def fetcher(
    *partitions: int, buffer_bytes: int = 1 << 20, raise_on_gap: bool = False, stop_at: int | None = None
) -> Fetcher:
    made = Fetcher(buffer_bytes=buffer_bytes, raise_on_gap=raise_on_gap, jitter=lambda: 0.0)
    for partition in partitions or (0,):
        made.add(TopicPartition("t", partition), TOPIC_ID, 0, stop_at=stop_at)
    return made


def opened(made: Fetcher, view: ClusterView | None = None, now: float = 0.0) -> Session:
    (session,) = made.plan(view or cluster(1), now)
    return session


def exchange(made: Fetcher, session: Session, leader: Leader, now: float = 0.0) -> None:
    """Everything that both ends have to say, until neither has more."""
    for _ in range(1000):
        ask = made.take_request(session, now)
        if ask is not None:
            leader.take(ask)
        parts = leader.respond()
        if parts or leader.pong:
            leader.pong = 0
            made.received(session, parts, now)
        elif ask is None:
            return
    raise AssertionError("they never stop talking")


def values(made: Fetcher, now: float = 0.0) -> list[bytes]:
    """Take everything that can be handed out."""
    found: list[bytes] = []
    while (item := made.pop(now)) is not None:
        assert isinstance(item, FetchedBatch), item
        for part in open_batch(item, Reading()):
            assert isinstance(part, RecordBatch), part
            found += part.values
    return found


def test_a_cursor_is_subscribed_where_its_leader_is() -> None:
    made = fetcher(0, 1)
    sessions = made.plan(cluster(1, 2), 0.0)
    assert sorted(session.broker for session in sessions) == [1, 2]
    assert made.plan(cluster(1, 2), 1.0) == []
    ask = made.take_request(sessions[0], 0.0)
    assert ask is not None
    assert [(start.handle, start.partition, start.offset) for start in ask.start] == [(1, 0, 0)]
    assert ask.ping == 1, "the first message asks for a sign of life"


def test_records_come_once_and_in_order() -> None:
    made, log = fetcher(), Log()
    log.append(b"a", b"b")
    session, leader = opened(made), Leader({0: log})
    exchange(made, session, leader)
    log.append(b"c")
    exchange(made, session, leader)
    assert values(made) == [b"a", b"b", b"c"]


def test_a_batch_that_begins_before_the_position_is_handed_out_from_the_position_on() -> None:
    made, log = fetcher(), Log()
    log.append(b"a", b"b", b"c")
    made.seek(KEY, 1)
    exchange(made, opened(made), Leader({0: log}))
    assert values(made) == [b"b", b"c"]


def test_a_batch_that_is_sent_twice_is_handed_out_once() -> None:
    made = fetcher()
    session = opened(made)
    data = bytes(placed([b"a", b"b"], 0).data)
    made.received(session, [FetchedPart(1, data + data, 2, 0, None), FetchedPart(1, data, 2, 0, None)], 0.0)
    assert values(made) == [b"a", b"b"]


def test_after_a_lost_stream_it_goes_on_behind_what_was_buffered() -> None:
    made, log = fetcher(), Log()
    log.append(b"a")
    session = opened(made)
    exchange(made, session, Leader({0: log}))
    log.append(b"b")
    made.lost(session, None, 1.0)
    assert made.plan(cluster(1), 1.0) == [], "not at once"
    retry_at = made.retry_at()
    assert retry_at is not None
    assert 1.0 < retry_at <= 1.05
    again = opened(made, now=retry_at)
    ask = made.take_request(again, retry_at)
    assert ask is not None
    assert ask.start[0].offset == 1
    leader = Leader({0: log})
    leader.take(ask)
    exchange(made, again, leader, retry_at)
    assert values(made) == [b"a", b"b"]


def test_a_new_leader_is_gone_to_at_once_whatever_the_backoff() -> None:
    made = fetcher()
    session = opened(made, cluster(1))
    made.received(session, [FetchedPart(1, b"", 0, 0, NotLeader(topic="t", partition=0))], 5.0)
    assert made.plan(cluster(1), 5.0) == []
    (moved,) = made.plan(cluster(2, version=2, epoch=1), 5.0)
    assert moved.broker == 2
    assert session.closing, "a stream without subscriptions ends"


def test_a_leader_that_moved_while_all_was_well_is_followed() -> None:
    made, log = fetcher(), Log()
    log.append(b"a")
    session, leader = opened(made), Leader({0: log})
    exchange(made, session, leader)
    (moved,) = made.plan(cluster(2, version=2, epoch=1), 1.0)
    ask = made.take_request(session, 1.0)
    assert ask is not None
    assert ask.stop == (1,), "the old leader is told"
    late = bytes(placed([b"?"], 1).data)
    made.received(session, [FetchedPart(1, late, 2, 0, None)], 1.0)
    log.append(b"b")
    exchange(made, moved, Leader({0: log}), 1.0)
    assert values(made) == [b"a", b"b"], "what the old one still sent is not ours any more"


def test_without_a_leader_it_waits_and_says_so_when_it_lasts() -> None:
    made = fetcher()
    assert made.plan(cluster(None), 0.0) == []
    assert made.overdue(9.9, 10.0) is None
    assert isinstance(made.overdue(10.0, 10.0), NotLeader)
    assert made.overdue(10.1, 10.0) is None, "told once"
    assert len(made.plan(cluster(1, version=2), 10.2)) == 1


def test_partitions_of_one_cluster_that_is_down_are_one_trouble() -> None:
    made = fetcher(0, 1)
    for session in made.plan(cluster(1, 2), 0.0):
        made.lost(session, ClusterUnavailable(tried={"b": "refused"}), 0.0)
    assert made.troubled(4.9, 5.0) is None
    assert str(made.troubled(5.0, 5.0)) == "the leader of t-0 could not be reached: b (refused)"
    assert made.troubled(5.0, 5.0) is not None, "looking changes nothing"
    assert made.overdue(5.0, 5.0) is not None
    assert made.overdue(9.9, 5.0) is None, "told once for both"
    assert made.troubled(9.9, 0.0) is not None, "it is there all the same"
    assert made.overdue(10.0, 5.0) is not None


def test_trouble_ends_with_the_first_thing_that_comes() -> None:
    made, log = fetcher(), Log()
    log.append(b"a")
    made.lost(opened(made), ClusterUnavailable(tried={}), 0.0)
    exchange(made, opened(made, now=2.0), Leader({0: log}), 2.0)
    assert made.overdue(1000.0, 1.0) is None


def test_an_idle_stream_that_answers_is_no_trouble() -> None:
    made = fetcher()
    made.lost(opened(made), None, 0.0)
    session = opened(made, now=2.0)
    made.received(session, [], 2.5)
    assert made.overdue(100.0, 1.0) is not None, "it may be about to refuse the subscription"
    made.received(session, [], 3.5)
    assert made.overdue(200.0, 1.0) is None


def test_failures_in_a_row_wait_longer_each_time() -> None:
    made = fetcher()
    now, waits = 0.0, []
    for _ in range(8):
        made.lost(opened(made, now=now), None, now)
        retry_at = made.retry_at()
        assert retry_at is not None
        waits.append(retry_at - now)
        now = retry_at
    assert waits == sorted(waits)
    assert waits[-1] == pytest.approx(0.5)


def test_a_stream_without_a_word_is_pinged_and_then_given_up() -> None:
    made = fetcher()
    session = opened(made, now=100.0)
    made.take_request(session, 100.0)
    made.received(session, [], 100.1)
    assert made.take_request(session, 101.0) is None
    ask = made.take_request(session, 100.1 + PING_AFTER_S)
    assert ask is not None
    assert ask.ping == 2
    asked = 100.1 + PING_AFTER_S
    assert made.take_request(session, asked + 1) is None, "one ping at a time"
    assert not session.stalled(asked + PONG_WITHIN_S - 0.1)
    assert session.stalled(asked + PONG_WITHIN_S)
    made.received(session, [], asked + 1)
    assert not session.stalled(asked + 100)


def test_seeking_drops_what_was_fetched_and_asks_under_a_new_handle() -> None:
    made, log = fetcher(), Log()
    log.append(b"a")
    log.append(b"b")
    session, leader = opened(made), Leader({0: log})
    exchange(made, session, leader)
    made.seek(KEY, 1)
    assert made.plan(cluster(1), 0.0) == [], "on the same stream"
    exchange(made, session, leader)
    assert values(made) == [b"b"]
    assert leader.used == {1, 2}
    assert made.buffer.bytes == 0


def test_credit_is_shared_and_given_anew_for_what_was_handed_out() -> None:
    made = fetcher(0, 1, buffer_bytes=1000)
    one, two = made.plan(cluster(1, 2), 0.0)
    asks = [made.take_request(session, 0.0) for session in (one, two)]
    assert [ask.credit_bytes for ask in asks if ask] == [500, 500]
    data = bytes(placed([b"x" * 200], 0).data)
    assert 250 < len(data) < 500
    made.received(one, [FetchedPart(1, data, 1, 0, None)], 0.0)
    assert made.take_request(one, 0.0) is None, "it still lies in the buffer"
    assert made.pop(0.0) is not None
    ask = made.take_request(one, 0.0)
    assert ask is not None
    assert ask.credit_bytes == len(data)


def test_a_stream_that_came_late_is_not_starved_by_one_that_holds_all_the_credit() -> None:
    made, log = fetcher(0, 1, buffer_bytes=1000), Log()
    first = opened(made, cluster(1, None))
    ask = made.take_request(first, 0.0)
    assert ask is not None
    assert ask.credit_bytes == 1000
    log.append(b"a")
    log.append(b"b")
    second, leader = opened(made, cluster(1, 2, version=2), now=1.0), Leader({1: log})
    for value in (b"a", b"b"):
        exchange(made, second, leader, 1.0)
        assert values(made) == [value]


def test_credit_never_exceeds_the_buffer_and_comes_in_large_steps() -> None:
    made, log = fetcher(buffer_bytes=10_000), Log()
    for _ in range(500):
        log.append(b"x" * 100)
    session, leader = opened(made), Leader({0: log})
    grants = 0
    taken = 0
    while taken < 500:
        if (ask := made.take_request(session, 0.0)) is not None:
            grants += bool(ask.credit_bytes)
            leader.take(ask)
        made.received(session, leader.respond(), 0.0)
        assert made.buffer.bytes + max(0, session.outstanding_bytes) <= 10_000
        taken += len([made.pop(0.0)])
    assert grants < 25


@pytest.mark.parametrize("credit_max", [1, 150, 1000, 9000])
def test_a_leader_that_forgets_credit_beyond_its_limit_is_read_to_the_end(credit_max: int) -> None:
    made, log = fetcher(buffer_bytes=10_000), Log()
    for _ in range(300):
        log.append(b"x" * 100)
    session, leader = opened(made), Leader({0: log}, credit_max)
    taken = 0
    for _ in range(2000):
        if (ask := made.take_request(session, 0.0)) is not None:
            leader.take(ask)
        made.received(session, leader.respond(), 0.0)
        taken += made.pop(0.0) is not None
    assert taken == 300


def test_a_batch_larger_than_the_whole_buffer_comes_through_and_the_next_too() -> None:
    made, log = fetcher(buffer_bytes=50), Log()
    for name in (b"a", b"b", b"c"):
        log.append(name * 5000)
    session, leader = opened(made), Leader({0: log})
    got = []
    for _ in range(3):
        exchange(made, session, leader)
        assert len(made.buffer) == 1
        got += values(made)
    assert [value[:1] for value in got] == [b"a", b"b", b"c"]


def test_a_larger_batch_than_what_is_left_of_the_credit_is_not_waited_for_for_ever() -> None:
    made, log = fetcher(buffer_bytes=1000), Log()
    log.append(b"x" * 100)
    log.append(b"y" * 950)
    session, leader = opened(made), Leader({0: log})
    exchange(made, session, leader)
    assert len(values(made)) == 1
    exchange(made, session, leader)
    assert len(values(made)) == 1


def test_it_is_finished_where_it_stops_and_not_before_all_was_handed_out() -> None:
    made, log = fetcher(0, 1, stop_at=2), Log()
    log.append(b"a")
    log.append(b"b", b"c")
    session, leader = opened(made, cluster(1, 1)), Leader({0: log, 1: log})
    exchange(made, session, leader)
    assert not made.finished
    assert values(made) == [b"a", b"b", b"a", b"b"], "and what came after the end is left out"
    assert made.finished
    assert made.retry_at() is None
    made.plan(cluster(1, 1), 1.0)
    assert session.closing


def test_retention_that_was_faster_is_told_and_counted() -> None:
    made, log = fetcher(), Log()
    for value in (b"a", b"b", b"c"):
        log.append(value)
    log.trim(2)
    session, leader = opened(made), Leader({0: log})
    exchange(made, session, leader)
    made.plan(cluster(1), 0.0)
    exchange(made, session, leader)
    gap = made.pop(0.0)
    assert isinstance(gap, FetchedGap)
    assert (gap.skipped, gap.resumed_at) == (2, 2)
    assert values(made) == [b"c"]


def test_a_hole_within_a_stream_is_a_gap_as_far_as_the_log_start() -> None:
    made = fetcher()
    session = opened(made)
    made.received(session, [FetchedPart(1, bytes(placed([b"d"], 8).data), 9, 5, None)], 0.0)
    gap = made.pop(0.0)
    assert isinstance(gap, FetchedGap)
    assert gap.skipped == 5, "the rest is what compaction left out"
    assert values(made) == [b"d"]


def test_who_begins_at_the_beginning_has_missed_nothing() -> None:
    made, log = Fetcher(buffer_bytes=1000, raise_on_gap=True, jitter=lambda: 0.0), Log()
    made.add(KEY, TOPIC_ID, 0, floating=True)
    log.append(b"a")
    log.append(b"b")
    log.trim(1)
    session, leader = opened(made), Leader({0: log})
    exchange(made, session, leader)
    made.plan(cluster(1), 0.0)
    exchange(made, session, leader)
    assert values(made) == [b"b"]
    log.append(b"c")
    log.append(b"d")
    log.trim(3)
    made.received(session, [FetchedPart(2, bytes(log.batches[0].data), 4, 3, None)], 0.0)
    item = made.pop(0.0)
    assert isinstance(item, FetchedError), "but from then on it would be told"


def test_a_gap_can_be_an_error_which_stays_until_somebody_moves() -> None:
    made, log = fetcher(raise_on_gap=True), Log()
    log.append(b"a")
    log.append(b"b")
    log.trim(1)
    session, leader, now = opened(made), Leader({0: log}), 0.0
    for _ in range(2):
        exchange(made, session, leader, now)
        item = made.pop(now)
        assert isinstance(item, FetchedError)
        assert isinstance(item.error, OffsetOutOfRange)
        assert (item.error.offset, item.error.log_start) == (0, 1)
        now += 10.0
        assert made.plan(cluster(1), now) == []
    made.seek(KEY, 1)
    made.plan(cluster(1), now)
    exchange(made, session, leader, now)
    assert values(made) == [b"b"]


def test_an_offset_past_the_end_is_an_error() -> None:
    made, log = fetcher(), Log()
    made.seek(KEY, 5)
    exchange(made, opened(made), Leader({0: log}))
    item = made.pop(0.0)
    assert isinstance(item, FetchedError)
    assert isinstance(item.error, OffsetOutOfRange)


def test_errors_come_after_what_was_fetched_before_them() -> None:
    made = fetcher()
    session = opened(made)
    broken = CorruptBatch(reason="disk", offset=1)
    data = bytes(placed([b"a"], 0).data)
    made.received(session, [FetchedPart(1, data, 9, 0, None), FetchedPart(1, b"", 0, 0, broken)], 0.0)
    assert made.plan(cluster(1), 9.0) == [], "halted until it was raised"
    assert isinstance(made.pop(9.0), FetchedBatch)
    item = made.pop(9.0)
    assert isinstance(item, FetchedError)
    assert item.error is broken
    session.closing = False
    retry_at = made.retry_at()
    assert retry_at is not None
    assert retry_at > 9.0


def test_errors_that_pass_are_waited_out_and_told_when_they_last() -> None:
    made = fetcher()
    session = opened(made)
    failed = StorageFailed(path="/d", reason="io")
    made.received(session, [FetchedPart(1, b"", 0, 0, failed)], 1.0)
    assert made.pop(1.0) is None
    assert made.overdue(2.0, 30.0) is None
    assert made.overdue(31.0, 30.0) is failed


def test_a_wrong_checksum_is_fetched_again_and_then_told() -> None:
    made = fetcher()
    good = bytes(placed([b"a"], 0).data)
    bad = bytearray(placed([b"b"], 1).data)
    bad[-1] ^= 1
    now = 0.0
    session = opened(made)
    for attempt in range(1, CORRUPT_ATTEMPTS + 1):
        assert made.pop(now) is None
        ask = made.take_request(session, now)
        assert ask is not None
        assert ask.start[0].offset == min(1, attempt - 1)
        data = (good if attempt == 1 else b"") + bytes(bad)
        made.received(session, [FetchedPart(attempt, data, 2, 0, None)], now)
        if attempt == 1:
            assert values(made) == [b"a"]
        now += 2.0
        made.plan(cluster(1), now)
    item = made.pop(now)
    assert isinstance(item, FetchedError)
    assert isinstance(item.error, CorruptBatch)
    assert item.error.offset == 1


@pytest.mark.parametrize("base_offset", [2, 9, 1 << 40])
def test_a_batch_that_cannot_stand_where_it_says_is_asked_for_again(base_offset: int) -> None:
    made = Fetcher(buffer_bytes=1000, raise_on_gap=False, jitter=lambda: 0.0)
    made.add(KEY, TOPIC_ID, 1, holes=False)
    session = opened(made)
    made.received(session, [FetchedPart(1, bytes(placed([b"b"], base_offset).data), 9, 0, None)], 0.0)
    assert made.pop(0.0) is None
    assert made.retry_at() is not None


def test_a_batch_of_a_later_kind_is_passed_on_as_unreadable() -> None:
    made = fetcher()
    session = opened(made)
    sound = placed([b"a"], 0)
    odd = seal(sound.header._replace(attributes=sound.header.attributes | 1 << 14), sound.data[HEADER_BYTES:])
    data = bytes(odd.data) + bytes(placed([b"b"], 1).data)
    made.received(session, [FetchedPart(1, data, 2, 0, None)], 0.0)
    item = made.pop(0.0)
    assert isinstance(item, FetchedBatch)
    assert isinstance(item.unreadable, UnsupportedFormat)
    assert values(made) == [b"b"]


def test_a_partition_that_is_removed_hands_out_nothing_more() -> None:
    made, log = fetcher(0, 1), Log()
    log.append(b"a")
    session, leader = opened(made, cluster(1, 1)), Leader({0: log, 1: log})
    exchange(made, session, leader)
    made.remove(KEY)
    item = made.pop(0.0)
    assert isinstance(item, FetchedBatch)
    assert item.cursor.key == TopicPartition("t", 1)
    assert made.pop(0.0) is None


@pytest.mark.parametrize("seed", range(40))
def test_whatever_breaks_no_record_comes_twice_and_none_is_left_out(seed: int) -> None:
    """Leaders that move, streams that break, replies cut short, corrupted or late; buffers of all sizes."""
    rng = random.Random(seed)
    logs = {0: Log(), 1: Log(), 2: Log()}
    made = fetcher(0, 1, 2, buffer_bytes=rng.choice([1, 300, 5000, 100_000]))
    places = [1, 1, 2]
    now, version, produced = 0.0, 1, 0
    view = cluster(*places)
    streams: dict[int, tuple[Session, Leader]] = {}
    got: dict[int, list[bytes]] = {0: [], 1: [], 2: []}

    def logs_of(broker: int) -> dict[int, Log]:
        return {partition: logs[partition] for partition, leader in enumerate(places) if leader == broker}

    def step(*, faults: bool) -> None:
        nonlocal now, version, produced, view
        now += rng.random() * 0.3
        for session in made.plan(view, now):
            streams[session.id] = session, Leader(logs_of(session.broker))
        for number, (session, leader) in list(streams.items()):
            if (ask := made.take_request(session, now)) is not None:
                leader.take(ask)
            parts = leader.respond(rng.randrange(4) if faults else 1000)
            if faults and parts and rng.random() < 0.1:
                part = parts[-1]
                spoiled = bytearray(part.batches or b"?")
                # The last byte: not a base offset, for which its place alone vouches (see the test on that).
                spoiled[-1] ^= 1 << rng.randrange(8)
                parts[-1] = part._replace(batches=bytes(spoiled) if part.batches else b"")
            made.received(session, parts, now)
            if session.closing or (faults and rng.random() < 0.1):
                del streams[number]
                made.lost(session, None, now)
        while rng.random() < 0.7 and (item := made.pop(now)) is not None:
            if isinstance(item, FetchedBatch):
                for opened_part in open_batch(item, Reading()):
                    assert isinstance(opened_part, RecordBatch)
                    got[opened_part.partition] += opened_part.values
            else:
                assert isinstance(item, FetchedError)
                assert isinstance(item.error, CorruptBatch), item

    for _ in range(150):
        partition = rng.randrange(3)
        records = [b"%d" % number for number in range(produced, produced + rng.randrange(1, 20))]
        produced += len(records)
        logs[partition].append(*records)
        if rng.random() < 0.1:
            places[partition] = rng.choice([1, 2, 3])
            version += 1
            for session, leader in streams.values():
                leader.logs = logs_of(session.broker)
                leader.places = {
                    handle: place for handle, place in leader.places.items() if place[0] in leader.logs
                }
            view = cluster(*places, version=version, epoch=version)
        step(faults=True)
    for _ in range(5000):
        step(faults=False)
        if sum(map(len, got.values())) == produced:
            break
    for partition, log in logs.items():
        wanted = [value for batch in log.batches for value in _plain(batch.data)]
        assert got[partition] == wanted


def _plain(data: bytes | memoryview) -> list[bytes | None]:
    from millpond.wire.batch import decode_batch, parse_batch  # noqa: PLC0415 - beside its only use

    return list(decode_batch(parse_batch(data)).values)


def test_a_stream_that_ended_politely_is_told_as_that() -> None:
    made = fetcher()
    made.lost(opened(made), None, 0.0)
    assert isinstance(made.overdue(60.0, 30.0), BrokerNotReady)
