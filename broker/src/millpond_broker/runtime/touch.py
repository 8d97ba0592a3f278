"""How old what this broker knows may be, and whether it is to be called ready: by answers to its heartbeats.

Beside the lease (rule 39), which says what a broker may do. This is for people, and for whoever picks a
broker: nothing is decided by it. A broker that stood still was out of touch as long, until its next answer.
"""

from __future__ import annotations

from typing import Final

from millpond_broker.runtime.ports import Clock

CURRENT_SECONDS_MAX: Final = 3.0
"""Since a heartbeat was sent that the controller answered: a session (rule 39). Who has heard nothing since
cannot say who leads, and who is alive."""
UNREADY_SECONDS: Final = 5.0
"""Out of its session for so long a broker is not ready: longer than a controller's fail-over takes, by which
no load balancer should be emptied."""


class Touch:
    """When the controller was last heard of, and when this broker last was in a session."""

    def __init__(self, clock: Clock, *, is_alone: bool) -> None:
        """`is_alone`: there are no others, and what is known here is all that there is."""
        self._clock = clock
        self._is_alone = is_alone
        self._heard_at = self._in_session_at = clock.boottime()

    def joined(self) -> None:
        """The metadata say that this broker has been let in: its first answer in a session is under way."""
        self._in_session_at = self._clock.boottime()

    def heard(self, known_at: float, *, in_session: bool) -> None:
        """The controller, which a majority of the voters followed at that time (of `Clock.boottime`), has
        answered; with a session that goes on, or that this broker is none of those in one.
        """
        self._heard_at = max(self._heard_at, known_at)
        if in_session:
            self._in_session_at = max(self._in_session_at, known_at)

    def unheard_seconds(self) -> float:
        """Since the controller was heard of."""
        return 0.0 if self._is_alone else self._clock.boottime() - self._heard_at

    def out_of_session_seconds(self) -> float:
        """Since this broker was in a session."""
        return 0.0 if self._is_alone else self._clock.boottime() - self._in_session_at

    def why_not_ready(self) -> str | None:
        """In words; None: it is ready, as far as the others go."""
        seconds, unheard = self.out_of_session_seconds(), self.unheard_seconds()
        if seconds <= UNREADY_SECONDS:
            return None
        if unheard > CURRENT_SECONDS_MAX:
            return f"out of touch: no controller has answered for {unheard:.0f} s"
        return f"fenced for {seconds:.0f} s: it is out of the cluster, or catching up"
