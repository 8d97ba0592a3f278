"""Which segments a log may forget (rule 35): whole ones, the oldest first, below the high watermark only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Retained(NamedTuple):
    """What retention needs to know of a segment. `next_offset` is exclusive; `max_timestamp` None: empty."""

    next_offset: int
    size_bytes: int
    max_timestamp: int | None


def retained_from(
    sealed: Iterable[Retained],
    log_start: int,
    *,
    size_bytes: int,
    now_ms: int,
    retention_ms: int | None,
    retention_bytes: int | None,
    below: int,
) -> int:
    """The log start after dropping every sealed segment that time or size says; `log_start` if none.

    `sealed` comes oldest first and is asked for no more segments than it takes to find one that stays;
    `size_bytes` is that of the whole log. None as a limit means unlimited. Time drops a segment once its
    newest record is older than `retention_ms`; size drops one only if what remains still holds
    `retention_bytes`.
    """
    surplus = None if retention_bytes is None else size_bytes - retention_bytes
    for segment in sealed:
        if segment.next_offset > below or segment.max_timestamp is None:
            break
        too_old = retention_ms is not None and now_ms - segment.max_timestamp > retention_ms
        too_much = surplus is not None and surplus - segment.size_bytes >= 0
        if not (too_old or too_much):
            break
        if surplus is not None:
            surplus -= segment.size_bytes
        log_start = segment.next_offset
    return log_start
