"""Where the high watermark moves, and who may be answered then (rules 6 to 8)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millpond.wire.errors import NotEnoughReplicas
from millpond_broker.core.leader import Acks, Leader, Reign


def reign(*, waits_for_sync: bool = True, in_sync: int = 1, min_insync: int = 1) -> Reign:
    return Reign(
        topic="orders",
        partition=0,
        leader_epoch=3,
        in_sync=in_sync,
        min_insync=min_insync,
        waits_for_sync=waits_for_sync,
    )


def leader(log_end: int = 0, durable_end: int = 0, **how: bool) -> Leader[str]:
    return Leader(reign(**how), log_end, durable_end, 0)


def test_with_flush_commit_the_high_watermark_follows_what_is_durable() -> None:
    """Rule 6."""
    machine = leader()
    assert machine.advance(10, 0) == (False, [])
    assert machine.high_watermark == 0
    assert machine.advance(10, 7) == (True, [])
    assert machine.high_watermark == 7


def test_with_flush_interval_it_follows_the_log_end() -> None:
    machine = leader(waits_for_sync=False)
    machine.advance(10, 0)
    assert machine.high_watermark == 10


def test_it_never_moves_back_within_an_epoch() -> None:
    """Rule 6: also when the log is cut."""
    machine = leader(10, 10)
    assert machine.high_watermark == 10
    assert machine.advance(6, 6) == (False, [])
    assert machine.high_watermark == 10


def test_a_new_leader_tells_no_offsets_before_it_reached_its_start() -> None:
    """Rules 1 and 7."""
    machine = leader(10, 4)
    assert not machine.answers_offsets
    machine.advance(12, 10)
    assert machine.answers_offsets


def test_below_min_insync_it_stands_still_and_refuses_acks_of_all() -> None:
    """Rules 6 and 8."""
    machine = Leader[str](reign(in_sync=1, min_insync=2), 5, 5, 2)
    assert machine.high_watermark == 2
    machine.advance(9, 9)
    assert machine.high_watermark == 2
    with pytest.raises(NotEnoughReplicas) as refused:
        machine.check_in_sync()
    assert refused.value.facts() | {"in_sync": 1, "needed": 2} == refused.value.facts()


def test_a_waiter_is_answered_when_its_end_is_reached_and_not_before() -> None:
    """Rule 8."""
    machine = leader()
    machine.advance(3, 0)
    assert not machine.wait(1, Acks.ALL, "first")
    assert not machine.wait(3, Acks.LEADER, "third")
    assert not machine.wait(2, Acks.ALL, "second")
    assert machine.advance(3, 2).settled == ["first", "second"]
    assert machine.advance(3, 3).settled == ["third"]
    assert machine.wait(3, Acks.ALL, "late"), "reached already"
    assert machine.retire() == []


def test_the_end_of_the_epoch_gives_everybody_back_once() -> None:
    """Rule 8: whoever waits then will never know from here."""
    machine = leader()
    machine.advance(3, 0)
    for end, acks in ((3, Acks.ALL), (1, Acks.LEADER), (2, Acks.ALL)):
        machine.wait(end, acks, f"{end}")
    assert machine.retire() == ["1", "2", "3"]
    assert machine.retire() == []
    assert machine.advance(3, 3).settled == []


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
    machine = Leader[int](reign(waits_for_sync=waits_for_sync), 0, 0, 0)
    log_end = durable_end = 0
    waiting: dict[int, int] = {}
    for number, (appended, synced, acks) in enumerate(steps):
        log_end += appended
        durable_end = min(log_end, durable_end + synced)
        before = machine.high_watermark
        settled = machine.advance(log_end, durable_end).settled
        assert machine.high_watermark >= before
        assert machine.high_watermark <= (durable_end if waits_for_sync else log_end)
        for token in settled:
            assert waiting.pop(token) <= machine.high_watermark
        if acks is not None:
            if machine.wait(log_end, acks, number):
                assert log_end <= machine.high_watermark
            else:
                waiting[number] = log_end
    assert sorted(machine.retire()) == sorted(waiting)
