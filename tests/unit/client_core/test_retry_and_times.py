"""Waiting, deadlines, and the two ways to write a time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from millpond._core.retry import Backoff, Deadline
from millpond._core.times import milliseconds


def test_delays_double_up_to_the_cap_and_spread_over_their_upper_half() -> None:
    backoff = Backoff(first_s=0.1, factor=2.0, max_s=1.0)
    assert [backoff.delay_s(failures, 0.0) for failures in (1, 2, 3, 4, 5)] == [0.05, 0.1, 0.2, 0.4, 0.5]
    assert backoff.delay_s(10_000, 0.999) < 1.0
    assert backoff.delay_s(1, 0.5) == pytest.approx(0.075)


def test_a_deadline_runs_out() -> None:
    deadline = Deadline.after(10.0, 2.5)
    assert deadline.left_s(11.0) == 1.5
    assert not deadline.expired(12.4)
    assert deadline.expired(12.5)
    assert deadline.left_s(20.0) == 0.0


def test_a_time_is_milliseconds_or_an_aware_datetime() -> None:
    assert milliseconds(17) == 17
    assert milliseconds(datetime(1970, 1, 1, 0, 0, 1, 999, tzinfo=UTC)) == 1000
    assert milliseconds(datetime(1970, 1, 1, 1, tzinfo=timezone(timedelta(hours=1)))) == 0
    assert milliseconds(datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)) == -1


def test_a_time_of_no_zone_or_no_kind_is_refused_by_the_arguments_name() -> None:
    with pytest.raises(ValueError, match=r"since=.*no time zone"):
        milliseconds(datetime(2026, 1, 1), "since")  # noqa: DTZ001 - what is refused
    for wrong in ("now", 1.5, True):
        with pytest.raises(TypeError, match="timestamp= takes"):
            milliseconds(wrong)  # type: ignore[arg-type]  # what is refused
