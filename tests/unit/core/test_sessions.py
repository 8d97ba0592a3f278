"""Who is alive, as a controller sees it: the controller's half of rule 39, and rule 44."""

from __future__ import annotations

from dataclasses import replace

import pytest

from millpond_broker.core.controller import plan
from millpond_broker.core.sessions import Heard, Heartbeat, Probe, SessionOptions, Sessions
from tests.unit.core.clusters import id_of, topic
from tests.unit.core.replicas import Replicated, replicated

OPTIONS = SessionOptions()
START_MS = 1_000_000


def claimed(*brokers: int) -> tuple[Replicated, Sessions]:
    c = replicated(*(brokers or (1, 2)))
    return c, Sessions(OPTIONS, c.image, START_MS)


def beat(c: Replicated, broker_id: int, *, applied: int | None = None, lag_ms: int = 0) -> Heartbeat:
    return Heartbeat(
        broker_id, c.epoch(broker_id), c.image.version if applied is None else applied, 2, lag_ms
    )


def ticked(sessions: Sessions, from_ms: int, to_ms: int) -> dict[int, int]:
    """Ticks in time; when each session ended."""
    ended = {}
    for now_ms in range(from_ms, to_ms + 1, OPTIONS.tick_ms):
        ended.update(dict.fromkeys(sessions.tick(now_ms), now_ms))
    return ended


def test_a_new_controller_gives_everybody_a_full_session() -> None:
    """Rule 39: nobody's silence was its to hear so far."""
    _, sessions = claimed()
    assert set(sessions.open) == {1, 2}
    assert not any(session.is_heard for session in sessions.open.values())
    ended = ticked(sessions, START_MS, START_MS + 5000)
    assert ended == dict.fromkeys((1, 2), START_MS + OPTIONS.session_ms)


def test_a_heartbeat_extends_a_session_by_as_much_as_the_lease_it_gives() -> None:
    """Rule 39: the lease counts from when it was sent, and so ends before."""
    c, sessions = claimed()
    ticked(sessions, START_MS, START_MS + 2000)
    assert sessions.heard(beat(c, 1), START_MS + 2050) is Heard.EXTENDED
    ended = ticked(sessions, START_MS + 2100, START_MS + 9000)
    assert ended == {2: START_MS + 3000, 1: START_MS + 5100}
    assert not sessions.open


def test_heartbeats_that_have_arrived_are_heard_before_anybody_is_expired() -> None:
    """Rule 39."""
    c, sessions = claimed()
    ticked(sessions, START_MS, START_MS + 2900)
    assert sessions.tick(START_MS + 3000, [beat(c, 1)]) == (2,)
    assert set(sessions.open) == {1}


def test_a_pause_of_the_controller_puts_everything_off_by_as_much() -> None:
    """Rule 39: in it nobody could be heard."""
    _, sessions = claimed()
    ticked(sessions, START_MS, START_MS + 2000)
    assert sessions.connection_closed(2, START_MS + 2000) is not None
    assert sessions.tick(START_MS + 62_000) == ()
    ended = ticked(sessions, START_MS + 62_100, START_MS + 70_000)
    assert ended == {2: START_MS + 62_200, 1: START_MS + 62_900}


def test_what_comes_in_during_a_pause_does_not_hide_it() -> None:
    """The gap is between ticks: events are told as they come."""
    c, sessions = claimed()
    sessions.tick(START_MS)
    sessions.heard(beat(c, 1), START_MS + 3400)
    assert sessions.tick(START_MS + 3450) == ()
    assert set(sessions.open) == {1, 2}


def test_a_new_controller_probes_everybody_once() -> None:
    """Rule 39."""
    c, sessions = claimed()
    probes = sessions.claimed(START_MS)
    assert probes == tuple(Probe(key, c.epoch(key), c.image.brokers[key].incarnation) for key in (1, 2))
    assert sessions.claimed(START_MS + 1) == (), "they are under way"


@pytest.mark.parametrize(
    ("found", "is_alive"), [("same", True), ("refused", False), ("another", False), ("nothing", False)]
)
def test_a_closed_connection_is_probed_and_whoever_does_not_accept_in_time_is_dead(
    found: str, is_alive: bool
) -> None:
    """Rule 39: refused, unreachable, unanswered within 300 ms, or another incarnation."""
    _, sessions = claimed()
    sessions.tick(START_MS)
    probe = sessions.connection_closed(2, START_MS + 10)
    assert probe is not None
    assert sessions.connection_closed(2, START_MS + 20) is None, "one is under way"
    answers = {"same": probe.incarnation, "refused": None, "another": id_of("another")}
    if found in answers:
        sessions.probed(probe, answers[found], START_MS + 30)
        assert (2 in sessions.open) is is_alive
    else:
        sessions.tick(START_MS + 300)
        assert 2 in sessions.open
    ticked(sessions, START_MS + 310, START_MS + 1000)
    assert (2 in sessions.open) is is_alive
    assert 1 in sessions.open


def test_an_answered_probe_does_not_extend_a_session() -> None:
    """A process that accepts connections may hang otherwise."""
    _, sessions = claimed()
    ticked(sessions, START_MS, START_MS + 2900)
    probe = sessions.connection_closed(1, START_MS + 2900)
    assert probe is not None
    sessions.probed(probe, probe.incarnation, START_MS + 2950)
    assert set(ticked(sessions, START_MS + 3000, START_MS + 3000)) == {1, 2}


def test_what_was_sent_before_a_connection_closed_is_no_answer_to_its_probe() -> None:
    c, sessions = claimed()
    sessions.tick(START_MS)
    assert sessions.connection_closed(2, START_MS) is not None
    sessions.heard(beat(c, 2), START_MS + 100)
    assert ticked(sessions, START_MS + 100, START_MS + 400) == {2: START_MS + 300}


def test_an_answer_to_a_probe_of_an_earlier_start_says_nothing() -> None:
    c, sessions = claimed()
    probe = sessions.connection_closed(2, START_MS)
    assert probe is not None
    c.restart(2)
    sessions.follow(c.image, START_MS + 50)
    sessions.probed(probe, None, START_MS + 60)
    assert 2 in sessions.open
    assert sessions.connection_closed(9, START_MS + 60) is None


def test_a_new_start_has_a_full_session_and_one_that_was_fenced_has_to_be_heard() -> None:
    """Rule 15 asks who is there: who registered is, for a session."""
    c, sessions = claimed()
    c.fence(2)
    again = Sessions(OPTIONS, c.image, START_MS)
    assert set(again.open) == {1}
    assert again.heard(beat(c, 2), START_MS + 5) is Heard.FENCED
    assert again.open[2].opened_at_ms == START_MS + 5
    c.start(2, 2)
    ticked(sessions, START_MS, START_MS + 600)
    sessions.follow(c.image, START_MS + 700)
    assert sessions.open[2].broker_epoch == c.epoch(2)
    ended = ticked(sessions, START_MS + 700, START_MS + 5000)
    assert ended[2] == START_MS + 3700


def test_a_session_that_ended_opens_again_only_once_the_broker_is_fenced() -> None:
    """Rule 39: a lease that is given meanwhile would outlive its leadership."""
    c, sessions = claimed()
    ticked(sessions, START_MS, START_MS + 3000)
    assert sessions.heard(beat(c, 1), START_MS + 3000) is Heard.IGNORED
    assert not sessions.open
    c.fence(1)
    sessions.follow(c.image, START_MS + 3010)
    assert sessions.heard(beat(c, 1), START_MS + 3020) is Heard.FENCED
    assert sessions.open[1].opened_at_ms == START_MS + 3020
    c.unfence(1)
    sessions.follow(c.image, START_MS + 3030)
    assert sessions.heard(beat(c, 1), START_MS + 3040) is Heard.EXTENDED


def test_a_broker_whose_loop_hangs_is_silent_whoever_heartbeats_for_it() -> None:
    """Rule 39: a hung loop is fenced, and has no lease when it goes on."""
    c, sessions = claimed()
    ended = {}
    for now_ms in range(START_MS, START_MS + 4000, OPTIONS.tick_ms):
        lag_ms = now_ms - START_MS
        heard = sessions.heard(beat(c, 1, lag_ms=lag_ms), now_ms)
        sessions.heard(beat(c, 2), now_ms)
        assert (heard is Heard.EXTENDED) == (lag_ms < OPTIONS.session_ms)
        ended.update(dict.fromkeys(sessions.tick(now_ms), now_ms))
    assert set(sessions.open) == {1, 2}, "it was heard until then"
    for now_ms in range(START_MS + 4000, START_MS + 7000, OPTIONS.tick_ms):
        sessions.heard(beat(c, 1, lag_ms=now_ms - START_MS), now_ms)
        sessions.heard(beat(c, 2), now_ms)
        ended.update(dict.fromkeys(sessions.tick(now_ms), now_ms))
    assert ended == {1: START_MS + 5900}


def test_a_stranger_registers_or_learns_that_it_is_over() -> None:
    """Rule 12."""
    c, sessions = claimed()
    stale = replace(beat(c, 1), broker_epoch=c.epoch(1) - 1)
    assert sessions.heard(stale, START_MS) is Heard.STRANGER
    assert sessions.heard(replace(stale, broker_id=9), START_MS) is Heard.STRANGER


def test_what_a_broker_has_of_the_metadata_only_grows() -> None:
    """Rule 44: heartbeats may overtake one another."""
    c, sessions = claimed()
    for applied in (5, 9, 7):
        sessions.heard(beat(c, 1, applied=applied), START_MS)
    session = sessions.open[1]
    assert (session.applied_index, session.is_heard, session.feature_level) == (9, True, 2)


def test_a_controller_and_its_sessions_fence_and_unfence_by_what_is_heard() -> None:
    """Rules 12, 14, 39 together: a leader is lost, another leads, it comes back and catches up."""
    c, sessions = claimed(1, 2)
    c.must(topic("orders", (2, 1), min_insync=1))
    story = []
    for now_ms in range(START_MS, START_MS + 9000, OPTIONS.tick_ms):
        at = now_ms - START_MS
        sessions.heard(beat(c, 1), now_ms)
        if not 1000 <= at < 6000:
            sessions.heard(beat(c, 2), now_ms)
        sessions.tick(now_ms)
        for command in plan(c.image, sessions.open, now_ms):
            c.must(command)
            story.append(f"{at} {type(command).__name__}: {c.says}")
        sessions.follow(c.image, now_ms)
    assert story == [
        "3900 FenceBroker: leader 1 in 1, isr 1",
        "6000 UnfenceBroker: leader 1 in 1, isr 1",
    ]
