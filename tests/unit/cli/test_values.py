"""What people write on a command line: times, offsets, settings, headers."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone

import click
import pytest

from millpond.cli.consume import patience_s
from millpond.cli.session import Common
from millpond.cli.values import headers_of, position_of, separator_of, settings_of, time_of

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "ago"),
    [
        ("-1h", timedelta(hours=1)),
        ("-30m", timedelta(minutes=30)),
        ("-90s", timedelta(seconds=90)),
        ("-250ms", timedelta(milliseconds=250)),
        ("-2d", timedelta(days=2)),
        ("-1w", timedelta(weeks=1)),
        ("-1h30m", timedelta(minutes=90)),
        ("-0s", timedelta()),
    ],
)
def test_a_time_may_say_how_long_ago(text: str, ago: timedelta) -> None:
    assert time_of(text, NOW) == NOW - ago


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-11-21T08:00:00Z", datetime(2026, 11, 21, 8, tzinfo=UTC)),
        ("2026-11-21T08:00:00.250+00:00", datetime(2026, 11, 21, 8, 0, 0, 250_000, tzinfo=UTC)),
        ("2026-11-21 08:00+02:00", datetime(2026, 11, 21, 8, tzinfo=timezone(timedelta(hours=2)))),
    ],
)
def test_a_time_is_iso_8601(text: str, time: datetime) -> None:
    assert time_of(text, NOW) == time


@pytest.mark.parametrize("text", ["2026-11-21T08:00:00", "2026-11-21 08:00", "2026-11-21"])
def test_a_time_without_a_zone_is_local_and_always_aware(text: str) -> None:
    time = time_of(text, NOW)
    assert time.tzinfo is not None
    assert time.replace(tzinfo=None) == datetime.fromisoformat(text)


@pytest.mark.parametrize(
    "text",
    ["", "-", "-h", "-1", "-1y", "1h", "-1h-", "yesterday", "2026-13-01", "-1.5h", "0001-01-01", "-٣h"],
)
def test_what_is_no_time_is_refused_with_an_example(text: str) -> None:
    try:
        time = time_of(text, NOW)
    except ValueError as error:
        assert repr(text) in str(error)  # noqa: PT017 - one year may be a local time, and may be none
    else:
        assert text == "0001-01-01"
        assert time.tzinfo is not None


def test_a_time_before_all_time_is_refused() -> None:
    with pytest.raises(ValueError, match="before all time"):
        time_of("-999999999w", NOW)


def test_a_position_is_a_word_an_offset_or_a_time() -> None:
    words = ("beginning", "end")
    assert position_of("beginning", words, NOW) == "beginning"
    assert position_of("0", words, NOW) == 0
    assert position_of("9223372036854775807", words, NOW) == (1 << 63) - 1
    assert position_of("-1h", words, NOW) == NOW - timedelta(hours=1)


@pytest.mark.parametrize("text", ["9223372036854775808", "9" * 5000, "middle", "-1", "1_000", "٣"])
def test_any_other_position_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a time|more than any offset"):
        position_of(text, ("beginning", "end"), NOW)


def test_the_refusal_of_a_position_names_the_words_that_would_do() -> None:
    with pytest.raises(ValueError, match="or beginning, end, an offset"):
        position_of("start", ("beginning", "end"), NOW)


def test_settings_are_pairs_whose_value_may_hold_an_equals_sign() -> None:
    assert settings_of(["a=1", "b=x=y", "c="]) == {"a": "1", "b": "x=y", "c": ""}


@pytest.mark.parametrize("words", [["a"], ["=1"], ["a=1", "a=2"], [""]])
def test_settings_that_are_no_pairs_or_stand_twice_are_refused(words: list[str]) -> None:
    with pytest.raises(click.BadParameter):
        settings_of(words)


def test_headers_keep_their_order_repeated_names_and_bytes() -> None:
    words = ["a=1", "b=\udcff", "a=2"]  # how Python has an argument's byte that is no UTF-8
    assert headers_of(words) == [("a", b"1"), ("b", b"\xff"), ("a", b"2")]


@pytest.mark.parametrize("word", ["a", "=1", "\udcff=1"])
def test_a_header_without_a_name_that_is_text_is_refused(word: str) -> None:
    with pytest.raises(click.BadParameter):
        headers_of([word])


def test_a_separator_is_any_bytes_and_a_tab_can_be_written() -> None:
    assert separator_of(":") == b":"
    assert separator_of("\\t") == b"\t"
    assert separator_of("=>") == b"=>"
    with pytest.raises(click.BadParameter):
        separator_of("")


@pytest.mark.parametrize(
    ("timeout", "follow", "expected"),
    [(None, False, 15.0), (None, True, math.inf), (2.0, False, 2.0), (2.0, True, 2.0)],
)
def test_who_follows_waits_for_the_cluster_unless_told_otherwise(
    timeout: float | None, follow: bool, expected: float
) -> None:
    common = Common(bootstrap="b:1", json=False, timeout=timeout)
    assert patience_s(common, follow=follow) == expected
