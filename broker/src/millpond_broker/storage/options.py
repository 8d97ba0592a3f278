"""What a log is told when it is opened."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LogOptions:
    """What a log needs to know of its topic and its broker."""

    segment_bytes: int = 64 << 20
    """A segment that would grow past this is sealed. Larger: fewer files; smaller: retention and recovery
    work in finer steps."""
    segment_ms: int | None = 7 * 24 * 3600 * 1000
    """A segment whose records would span more time than this is sealed, so that retention by time can
    drop old ones. None: unlimited."""
    retention_ms: int | None = None
    """Records older than this may go, a whole segment at a time. None: kept."""
    retention_bytes: int | None = None
    """Oldest segments may go while the rest holds at least this. None: kept."""
    index_interval_bytes: int = 4096
    """An index entry every so many bytes: what a look-up scans at most, against memory for entries."""
    sealed_segments_open_max: int = 8
    """Sealed segments that keep file and indexes open after a read: descriptors and memory against
    opening again."""
