"""The credit of a replication stream (rule 38)."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from millpond_broker.core.credit import Credit, Turn


def test_an_untouched_window_admits_a_batch_of_any_size() -> None:
    """Rule 38: or one that is larger than the window would never pass."""
    credit = Credit[str](100, 50)
    credit.ready("a")
    assert credit.take() == Turn("a", 50)
    credit.pushed("a", 1000)
    credit.ready("b")
    assert credit.take() is None
    assert credit.returned("a", 1000)
    assert credit.take() == Turn("b", 50)


def test_one_partition_leaves_room_for_the_others() -> None:
    """Rule 38: a cap for each inside the window, and turns."""
    credit = Credit[str](100, 50)
    for key in "ab":
        credit.ready(key)
    assert credit.take() == Turn("a", 50)
    credit.pushed("a", 50)
    credit.ready("a")
    assert credit.take() == Turn("b", 50)
    credit.pushed("b", 20)
    credit.ready("b")
    assert credit.take() == Turn("b", 30), "a has its part"
    assert credit.returned("a", 10)
    assert credit.take() == Turn("a", 10)


def test_credit_comes_back_for_what_was_sent_and_for_no_more() -> None:
    credit = Credit[str](100, 50)
    credit.pushed("a", 10)
    assert not credit.returned("a", 11)
    assert not credit.returned("b", 0)
    assert not credit.returned("a", -1)
    assert credit.returned("a", 10)
    assert credit.outstanding_bytes == 0
    assert not credit._lanes, "nothing is kept of who has nothing"


def test_who_is_ready_twice_has_one_turn() -> None:
    credit = Credit[str](100, 50)
    credit.ready("a")
    credit.ready("a")
    assert credit.take() is not None
    assert credit.take() is None


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 80)), max_size=60))
def test_what_is_under_way_is_bounded_and_nobody_starves(rounds: list[tuple[int, int]]) -> None:
    credit = Credit[int](100, 40)
    sent: Counter[int] = Counter()
    turns: Counter[int] = Counter()
    for key in range(4):
        credit.ready(key)
    for key, size_bytes in rounds:
        if (turn := credit.take()) is not None:
            credit.pushed(turn.key, size_bytes)
            sent[turn.key] += size_bytes
            turns[turn.key] += 1
            credit.ready(turn.key)
        assert credit.outstanding_bytes == sent.total() < 100 + 80
        assert max(sent.values(), default=0) < 40 + 80
        back = min(size_bytes, sent[key])
        assert credit.returned(key, back) or not back
        sent[key] -= back
    for key in range(4):
        credit.returned(key, sent[key])
    for _ in range(4):
        turn = credit.take()
        assert turn is not None
        turns[turn.key] += 1
    assert len(turns) == 4, "everybody had a turn"
