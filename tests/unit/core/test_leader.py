"""Where the high watermark moves, and who may be answered then (rules 6 to 8): a leader by itself.

With followers: test_leader_stories. All of it under any faults: tests/property/test_replication.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millpond.wire.errors import NotEnoughReplicas
from millpond_broker.core.in_sync import Committed, Standing
from millpond_broker.core.leader import Acks, Leader, Reign, Step


def reign(*, waits_for_sync: bool = True, min_insync: int = 1) -> Reign:
    return Reign(
        topic="orders",
        partition=0,
        broker_id=1,
        broker_epoch=7,
        leader_epoch=3,
        waits_for_sync=waits_for_sync,
        committed=Committed(
            partition_epoch=0,
            replicas=frozenset({1, 2}),
            isr=frozenset({1}),
            min_insync=min_insync,
            brokers={1: Standing(7, may_join=True)},
        ),
    )


def leader(
    log_end: int = 0,
    durable_end: int = 0,
    *,
    log_start: int = 0,
    waits_for_sync: bool = True,
    min_insync: int = 1,
) -> Leader[str]:
    return Leader(
        reign(waits_for_sync=waits_for_sync, min_insync=min_insync),
        log_start=log_start,
        log_end=log_end,
        durable_end=durable_end,
        high_watermark=log_start,
        now_ms=0,
    )


def nothing(step: Step[str]) -> bool:
    return not any(step)


def test_with_flush_commit_the_high_watermark_follows_what_is_durable() -> None:
    """Rule 6."""
    machine = leader()
    assert nothing(machine.advance(0, 10, 0, 0))
    assert machine.high_watermark == 0
    assert machine.advance(0, 10, 7, 0).high_watermark_moved
    assert machine.high_watermark == 7


def test_with_flush_interval_it_follows_the_log_end() -> None:
    machine = leader(waits_for_sync=False)
    machine.advance(0, 10, 0, 0)
    assert machine.high_watermark == 10


@pytest.mark.parametrize(("log_end", "durable_end"), [(9, 9), (10, 7)])
def test_a_leader_that_loses_bytes_within_its_epoch_is_our_bug(log_end: int, durable_end: int) -> None:
    """Rule 12: it resigns first."""
    machine = leader(10, 8)
    with pytest.raises(AssertionError):
        machine.advance(0, log_end, durable_end, 0)
    assert machine.high_watermark == 8


def test_a_leader_that_lacks_what_was_committed_is_our_bug() -> None:
    """Rule 6."""
    with pytest.raises(AssertionError, match="what is committed is here"):
        Leader[str](reign(), log_start=0, log_end=9, durable_end=5, high_watermark=6, now_ms=0)


def test_a_new_leader_tells_no_offsets_before_it_reached_its_start() -> None:
    """Rules 1 and 7."""
    machine = leader(10, 4)
    assert not machine.answers_offsets
    machine.advance(0, 12, 10, 0)
    assert machine.answers_offsets


def test_below_min_insync_it_stands_still_and_refuses_acks_of_all() -> None:
    """Rules 6 and 8."""
    machine = leader(5, 5, log_start=2, min_insync=2)
    assert machine.high_watermark == 2
    machine.advance(2, 9, 9, 0)
    assert machine.high_watermark == 2
    with pytest.raises(NotEnoughReplicas) as refused:
        machine.check_in_sync()
    assert refused.value.facts() | {"in_sync": 1, "needed": 2} == refused.value.facts()


def test_a_waiter_is_answered_when_its_end_is_reached_and_not_before() -> None:
    """Rule 8."""
    machine = leader()
    machine.advance(0, 3, 0, 0)
    assert not machine.wait(1, Acks.ALL, "first")
    assert not machine.wait(3, Acks.LEADER, "third")
    assert not machine.wait(2, Acks.ALL, "second")
    assert machine.advance(0, 3, 2, 0).committed == ["first", "second"]
    assert machine.advance(0, 3, 3, 0).written == ["third"]
    assert machine.wait(3, Acks.ALL, "late"), "reached already"
    assert machine.retire() == []


def test_the_end_of_the_epoch_gives_everybody_back_once() -> None:
    """Rule 8: whoever waits then will never know from here."""
    machine = leader()
    machine.advance(0, 3, 0, 0)
    for end, acks in ((3, Acks.ALL), (1, Acks.LEADER), (2, Acks.ALL)):
        machine.wait(end, acks, f"{end}")
    assert machine.retire() == ["1", "2", "3"]
    assert machine.retire() == []
    step = machine.advance(0, 3, 3, 0)
    assert step.written == step.committed == []


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 5), st.sampled_from([None, Acks.ALL, Acks.LEADER])),
        max_size=30,
    ),
    st.booleans(),
)
def test_every_waiter_is_settled_once_and_never_before_its_end(
    steps: list[tuple[int, int, Acks | None]], waits_for_sync: bool
) -> None:
    machine = leader(waits_for_sync=waits_for_sync)
    log_end = durable_end = 0
    waiting: dict[str, int] = {}
    for number, (appended, synced, acks) in enumerate(steps):
        log_end += appended
        durable_end = min(log_end, durable_end + synced)
        before = machine.high_watermark
        step = machine.advance(0, log_end, durable_end, number)
        assert machine.high_watermark >= before
        assert machine.high_watermark <= (durable_end if waits_for_sync else log_end)
        for token in step.written + step.committed:
            assert waiting.pop(token) <= machine.high_watermark
        if acks is not None:
            if machine.wait(log_end, acks, str(number)):
                assert log_end <= machine.high_watermark
            else:
                waiting[str(number)] = log_end
    assert sorted(machine.retire()) == sorted(waiting)
