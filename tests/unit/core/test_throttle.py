"""A rate that is not exceeded for long."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from millpond_broker.core.throttle import Throttle


def test_who_took_too_much_is_waited_for() -> None:
    throttle = Throttle(1000)
    assert throttle.wait_ms(5) == 0
    throttle.took(500, 5)
    assert throttle.wait_ms(5) == 500
    assert throttle.wait_ms(505) == 0


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 3000)), max_size=60))
def test_the_rate_holds_but_for_the_last(takes: list[tuple[int, int]]) -> None:
    throttle, now_ms, taken = Throttle(1000), 0.0, 0
    for size, later_ms in takes:
        now_ms += later_ms
        if throttle.wait_ms(now_ms) == 0:
            assert taken <= now_ms, "a byte a millisecond, before this one"
            throttle.took(size, now_ms)
            taken += size
