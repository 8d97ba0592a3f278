"""Rule 35: whole segments, the oldest first, below the high watermark only."""

from __future__ import annotations

from collections.abc import Iterator

from millpond_broker.core.retention import Retained, retained_from

NOW_MS = 10_000


def start(
    sealed: list[Retained],
    *,
    size_bytes: int = 0,
    retention_ms: int | None = None,
    retention_bytes: int | None = None,
    below: int = 1 << 40,
    log_start: int = 0,
) -> int:
    return retained_from(
        sealed,
        log_start,
        size_bytes=size_bytes,
        now_ms=NOW_MS,
        retention_ms=retention_ms,
        retention_bytes=retention_bytes,
        below=below,
    )


SEGMENTS = [Retained(10, 100, 1000), Retained(20, 100, 2000), Retained(30, 100, 3000)]


def test_without_limits_nothing_goes() -> None:
    """Rule 35."""
    assert start(SEGMENTS, size_bytes=400, log_start=3) == 3


def test_time_drops_a_segment_once_its_newest_record_is_older_than_the_limit() -> None:
    """Rule 35: now - largest timestamp > retention, not >=."""
    assert start(SEGMENTS, retention_ms=NOW_MS - 2000) == 10
    assert start(SEGMENTS, retention_ms=NOW_MS - 2001) == 20
    assert start(SEGMENTS, retention_ms=1) == 30


def test_a_younger_segment_protects_the_older_times_behind_it() -> None:
    """Rule 35: only from the oldest on, so the log keeps no hole."""
    mixed = [Retained(10, 100, 1000), Retained(20, 100, 9999), Retained(30, 100, 1000)]
    assert start(mixed, retention_ms=5000) == 10


def test_a_time_in_the_future_pins_its_segment() -> None:
    """Rule 35."""
    assert start([Retained(10, 100, NOW_MS + 1)], retention_ms=1) == 0


def test_size_drops_a_segment_only_if_the_rest_still_holds_the_limit() -> None:
    """Rule 35: while (total - limit) - segment >= 0."""
    assert start(SEGMENTS, size_bytes=350, retention_bytes=251) == 0
    assert start(SEGMENTS, size_bytes=350, retention_bytes=250) == 10
    assert start(SEGMENTS, size_bytes=350, retention_bytes=151) == 10
    assert start(SEGMENTS, size_bytes=350, retention_bytes=150) == 20
    assert start(SEGMENTS, size_bytes=350, retention_bytes=0) == 30


def test_time_and_size_work_together_and_time_counts_towards_size() -> None:
    """Rule 35: what time dropped is no surplus any more."""
    assert start(SEGMENTS, size_bytes=350, retention_ms=NOW_MS - 1500, retention_bytes=250) == 10
    assert start(SEGMENTS, size_bytes=350, retention_ms=NOW_MS - 1500, retention_bytes=150) == 20


def test_nothing_at_or_past_the_high_watermark_goes() -> None:
    """Rule 35."""
    assert start(SEGMENTS, retention_ms=1, below=19) == 10
    assert start(SEGMENTS, retention_ms=1, below=20) == 20
    assert start(SEGMENTS, size_bytes=350, retention_bytes=0, below=9) == 0


def test_an_empty_segment_stays_and_protects_what_is_behind_it() -> None:
    """Rule 35: it has no newest record to be too old."""
    assert start([Retained(0, 0, None), Retained(10, 100, 1)], retention_ms=1) == 0


def test_no_segment_is_asked_for_beyond_the_first_that_stays() -> None:
    """Opening a segment to learn its age costs a read."""
    asked = []

    def segments() -> Iterator[Retained]:
        for segment in SEGMENTS:
            asked.append(segment.next_offset)
            yield segment

    dropped = retained_from(
        segments(),
        0,
        size_bytes=0,
        now_ms=NOW_MS,
        retention_ms=NOW_MS - 1500,
        retention_bytes=None,
        below=30,
    )
    assert (dropped, asked) == (10, [10, 20])
