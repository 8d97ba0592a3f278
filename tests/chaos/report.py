"""What is told of a chaos run's strikes: how long writes stood still, and what explains that.

Two kinds are told apart. With fewer in sync than the topic wants, nothing may be acknowledged, however good
the brokers are: a strike that meets what is being repaired after the one before it makes such a pause. All
others are the brokers' and the clients' own.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

from tests.chaos.judge import Pause, Verdict, summary
from tests.chaos.nemesis import Strike
from tests.chaos.timeline import Timeline

NOTABLE_SECONDS: Final = 0.5
"""A pause that is no longer needs no explanation."""
FEW_SECONDS: Final = 0.05
"""With too few in sync for no longer, that is not what a pause comes from."""


class Report:
    """What came of each strike, in words."""

    def __init__(
        self, strikes: Sequence[Strike], found: Sequence[Pause | None], timeline: Timeline, verdict: Verdict
    ) -> None:
        self._strikes = strikes
        self._pauses = found
        self._timeline = timeline
        self._verdict = verdict

    def show(self) -> str:
        """The table at the end; its summary."""
        for number, (strike, pause) in enumerate(zip(self._strikes, self._pauses, strict=True), start=1):
            kind = "written everywhere after" if strike.counts_from_heal else "longest pause"
            line = f"{number:3} {strike}: {kind} {'FOR GOOD' if pause is None else self._told(pause, number)}"
            if strike.whole_at is not None and strike.healed_at is not None:
                line += f"; whole {strike.whole_at - strike.healed_at:.1f} s after it was healed"
            print(line)
        enough, few = self._alone(is_enough=True), self._alone(is_enough=False)
        more = [pause for strike, pause in self._each() if strike.is_whole and strike.counts_from_heal]
        wanted = self._timeline.min_insync
        print(f"one broker struck, {wanted} or more in sync through the pause: {_summary(enough)}")
        print(f"one broker struck, fewer than {wanted} in sync in some of the pause: {_summary(few)}")
        print(f"a majority struck, or cut from clients; from healing until all is written: {_summary(more)}")
        print(
            f"acknowledged {self._verdict.acknowledged:,}, read by a fresh process"
            f" {self._verdict.read_fresh:,}; {self._verdict.operations:,} operations judged"
        )
        told = f"{len(self._strikes)} strikes, {self._verdict.acknowledged} acknowledged"
        return f"{told}; pauses with enough in sync: {_summary(enough)}; with too few: {_summary(few)}"

    def _each(self) -> Iterable[tuple[Strike, Pause | None]]:
        return zip(self._strikes, self._pauses, strict=True)

    def _alone(self, *, is_enough: bool) -> list[Pause | None]:
        return [
            pause
            for strike, pause in self._each()
            if strike.is_whole
            and not strike.counts_from_heal
            and (self._too_few(pause) < FEW_SECONDS) is is_enough
        ]

    def _too_few(self, pause: Pause | None) -> float:
        if pause is None:
            return 0.0
        return self._timeline.between(pause.partition, pause.began_at, pause.ended_at).too_few

    def _told(self, pause: Pause, number: int) -> str:
        """A pause; if it is worth a look, with what explains it, and when to look into the logs."""
        if pause.seconds < NOTABLE_SECONDS:
            return f"{pause.seconds:.2f} s"
        standing = self._timeline.between(pause.partition, pause.began_at, pause.ended_at)
        began = datetime.fromtimestamp(time.time() - time.monotonic() + pause.began_at, UTC)
        words = [f"{pause.partition} from {began:%H:%M:%S.%f}"[:-3]]
        if standing.unheard > FEW_SECONDS:
            words.append(f"{standing.unheard:.2f} s of it with no broker that serves")
        if standing.too_few > FEW_SECONDS:
            words.append(
                f"{standing.too_few:.2f} s of it with fewer than {self._timeline.min_insync} in sync"
            )
        if standing.leaderless > FEW_SECONDS:
            words.append(f"{standing.leaderless:.2f} s of it without a leader")
        others = [
            str(other)
            for other, strike in enumerate(self._strikes, start=1)
            if other != number
            and strike.began_at < pause.ended_at
            and (strike.healed_at is None or strike.healed_at > pause.began_at)
        ]
        if others:
            words.append(f"strike {', '.join(others)} in it, too")
        return f"{pause.seconds:.2f} s ({'; '.join(words)})"


def _summary(found: Iterable[Pause | None]) -> str:
    return summary(None if pause is None else pause.seconds for pause in found)
