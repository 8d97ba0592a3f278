"""When a broker that ended is started again."""

from __future__ import annotations

from millpond._local import restarts
from millpond._local.restarts import Restarts


def test_it_is_started_again_later_each_time_and_not_for_ever() -> None:
    one = Restarts()
    waits = [one.after(0.0) for _ in range(restarts.STARTS_MAX)]
    assert waits[:4] == [0.5, 1.0, 2.0, 4.0]
    assert max(filter(None, waits)) == restarts.LONGEST_SECONDS
    assert None not in waits
    assert one.after(restarts.STEADY_SECONDS - 1) is None


def test_one_that_ran_for_a_minute_begins_anew() -> None:
    one = Restarts()
    for _ in range(5):
        one.after(0.0)
    assert one.after(restarts.STEADY_SECONDS) == restarts.FIRST_SECONDS


def test_who_wants_none_gets_none() -> None:
    assert Restarts(enabled=False).after(1000.0) is None
