"""The lease by itself: how long a broker may answer without asking anybody (rule 39)."""

from __future__ import annotations

from millpond_broker.consensus.raft.library import Timing
from millpond_broker.runtime.heartbeats import (
    BEAT_SECONDS,
    GAP_SECONDS_MAX,
    SESSION_SECONDS,
    UNHEARD_SECONDS_MAX,
    Lease,
)


class Time:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def boottime(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now

    def now_ms(self) -> int:
        return int(self.now * 1000)


def run_for(lease: Lease, time: Time, seconds: float) -> None:
    """A process that has its turns."""
    end = time.now + seconds
    while time.now < end:
        time.now = min(end, time.now + 0.5)
        assert lease.awake()


def test_it_lasts_a_session_from_when_the_heartbeat_was_sent() -> None:
    time = Time()
    lease = Lease(time, is_alone=False)
    assert not lease.holds()
    lease.extend(time.now - 0.5)
    run_for(lease, time, SESSION_SECONDS - 0.6)
    assert lease.holds()
    run_for(lease, time, 0.1)
    assert not lease.holds()


def test_a_controllers_word_to_itself_is_as_old_as_its_majority_may_be() -> None:
    """Rule 39: cut off, it leads the voters in its own eyes until it misses their answers; another one may
    lead by then. Its lease must not be longer for it than that of any other broker.
    """
    time = Time()
    lease = Lease(time, is_alone=False)
    cut_at = time.now
    run_for(lease, time, Timing().leader_fallback)
    lease.extend(time.now, by_itself=True)
    run_for(lease, time, cut_at + SESSION_SECONDS - time.now)
    assert not lease.holds()
    lease.extend(time.now, by_itself=True)
    assert lease.holds()
    assert Timing().leader_fallback + Timing().heartbeat < UNHEARD_SECONDS_MAX, "it looks now and then"
    assert SESSION_SECONDS - UNHEARD_SECONDS_MAX > 2 * BEAT_SECONDS, "some may be late"


def test_who_was_held_up_has_none_before_it_was_heard_again() -> None:
    """A leader that is resumed after a pause answers nothing by what it knew before."""
    time = Time()
    lease = Lease(time, is_alone=False)
    lease.extend(time.now)
    time.now += GAP_SECONDS_MAX + 0.01
    assert not lease.holds(), "before anybody had a turn to find out"
    sent_before = time.now - 0.1
    assert not lease.awake()
    lease.extend(sent_before)
    assert not lease.holds(), "an answer that lay in a socket meanwhile"
    assert lease.awake()
    lease.extend(time.now)
    assert lease.holds()


def test_a_fenced_broker_has_none_whatever_is_answered_to_what_it_said_before() -> None:
    time = Time()
    lease = Lease(time, is_alone=False)
    lease.extend(time.now)
    run_for(lease, time, 0.5)
    lease.end()
    lease.extend(time.now - 0.1)
    assert not lease.holds()


def test_a_broker_alone_always_has_one() -> None:
    time = Time()
    lease = Lease(time, is_alone=True)
    time.now += 1000.0
    assert lease.holds()
