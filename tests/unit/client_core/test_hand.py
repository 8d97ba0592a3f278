"""What a consumer has in hand, and where it stands."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from millpond._core.fetch_buffer import FetchedGap
from millpond._core.fetcher import Fetcher
from millpond._core.hand import Hand
from millpond._core.handout import Reading
from millpond._core.serdes import decode_with
from millpond._core.session import FetchedPart
from millpond.wire.errors import ClientClosed, CorruptBatch, DeserializationError
from millpond.wire.record import TopicPartition
from tests.unit.client_core.leader import TOPIC_ID, cluster, placed


class Table:
    """A hand over a fetcher of partitions 0 and 1, and what it was dealt."""

    def __init__(self, reading: Reading = Reading(), stop_at: int | None = None) -> None:  # noqa: B008 - immutable
        self.gaps: list[FetchedGap] = []
        self.fetcher = Fetcher(buffer_bytes=1 << 20, raise_on_gap=False, jitter=lambda: 0.0)
        self.cursors = [
            self.fetcher.add(TopicPartition("t", partition), TOPIC_ID, 0, stop_at=stop_at)
            for partition in (0, 1)
        ]
        (self.session,) = self.fetcher.plan(cluster(1, 1), 0.0)
        self.hand: Hand[object, object] = Hand(self.fetcher, reading, self.gaps.append)

    def deal(self, partition: int, offset: int, values: Sequence[bytes], log_start: int = 0) -> None:
        batch = placed(values, offset)
        end = batch.header.next_offset
        part = FetchedPart(partition + 1, bytes(batch.data), end, log_start, None)
        self.fetcher.received(self.session, [part], 0.0)

    def take_record(self) -> object:
        if self.hand.at >= len(self.hand.records):
            assert self.hand.load(0.0)
        self.hand.at += 1
        return self.hand.records[self.hand.at - 1].value

    @property
    def positions(self) -> list[int]:
        return [self.hand.position(cursor) for cursor in self.cursors]


def test_the_position_is_the_first_record_not_handed_out() -> None:
    table = Table()
    table.deal(0, 0, [b"a", b"b"])
    table.deal(1, 0, [b"c"])
    assert table.positions == [0, 0]
    assert table.take_record() == b"a"
    assert table.positions == [1, 0]
    assert table.take_record() == b"b"
    assert table.positions == [2, 0]
    assert table.take_record() == b"c"
    assert table.positions == [2, 1]
    assert not table.hand.load(0.0)
    assert table.positions == [2, 1]


def test_a_whole_batch_is_handed_out_at_once_and_the_rest_of_one_begun() -> None:
    table = Table()
    table.deal(0, 0, [b"a", b"b", b"c"])
    table.deal(0, 3, [b"d"])
    assert table.take_record() == b"a"
    rest = table.hand.take(0.0)
    assert rest is not None
    assert list(rest.values) == [b"b", b"c"]
    assert table.positions == [3, 0]
    whole = table.hand.take(0.0)
    assert whole is not None
    assert list(whole.values) == [b"d"]
    assert table.positions == [4, 0]
    assert table.hand.take(0.0) is None


def test_an_error_is_raised_once_in_its_place_and_passed() -> None:
    table = Table(Reading(decode_value=decode_with(int, "v")))
    table.deal(0, 0, [b"1", b"x", b"3"])
    assert table.take_record() == 1
    with pytest.raises(DeserializationError):
        table.hand.load(0.0)
    assert table.positions == [2, 0]
    assert table.take_record() == 3


def test_an_error_put_off_comes_first_the_next_time() -> None:
    table = Table()
    table.deal(0, 0, [b"a"])
    table.hand.defer(ClientClosed(what="x"))
    assert not table.hand.finished
    with pytest.raises(ClientClosed):
        table.hand.load(0.0)
    assert table.take_record() == b"a"


def test_moving_a_partition_drops_it_from_the_hand_and_no_other() -> None:
    table = Table()
    table.deal(0, 0, [b"a", b"b"])
    table.deal(1, 0, [b"c", b"d"])
    assert table.take_record() == b"a"
    table.fetcher.seek(TopicPartition("t", 1), 1)
    table.hand.moved(table.cursors[1])
    assert table.take_record() == b"b", "the one in hand stays"
    table.fetcher.seek(TopicPartition("t", 0), 7)
    table.hand.moved(table.cursors[0])
    assert table.positions == [7, 1]
    assert not table.hand.load(0.0)


def test_a_gap_is_told_before_what_follows_it() -> None:
    table = Table()
    table.deal(0, 5, [b"f"], log_start=5)
    assert table.take_record() == b"f"
    assert [(gap.skipped, gap.resumed_at) for gap in table.gaps] == [(5, 5)]
    assert table.positions == [6, 0]


def test_it_is_finished_when_all_that_was_wanted_was_handed_out() -> None:
    table = Table(stop_at=1)
    table.deal(0, 0, [b"a", b"b"])
    table.deal(1, 0, [b"c"])
    assert table.take_record() == b"a"
    assert not table.hand.finished
    assert table.take_record() == b"c"
    assert table.hand.finished
    assert table.positions == [1, 1]


def test_what_a_leader_refused_is_raised_behind_what_it_sent() -> None:
    table = Table()
    table.deal(0, 0, [b"a"])
    broken = CorruptBatch(reason="disk", offset=1)
    table.fetcher.received(table.session, [FetchedPart(1, b"", 0, 0, broken)], 0.0)
    assert table.take_record() == b"a"
    with pytest.raises(CorruptBatch):
        table.hand.load(0.0)
    assert table.positions == [1, 0]
