"""Times as arguments take them: int milliseconds UTC, or an aware datetime."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def milliseconds(time: int | datetime, what: str = "timestamp") -> int:
    """Milliseconds since 1970 UTC, rounded down.

    Raises ValueError for a datetime without a time zone, of which nobody can say when it is, and TypeError
    for anything else; both name `what`.
    """
    if isinstance(time, datetime):
        if time.tzinfo is None:
            raise ValueError(f"{what}={time!r} has no time zone; give it one, as in datetime.now(UTC)")
        return (time - _EPOCH) // timedelta(milliseconds=1)
    if isinstance(time, int) and not isinstance(time, bool):
        return time
    raise TypeError(f"{what}= takes int milliseconds or an aware datetime, not {type(time).__name__}")
