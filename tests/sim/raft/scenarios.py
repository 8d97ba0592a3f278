"""Short stories, each told so that one guard is what it depends on. The fuzz alone would find them, rarely.

A story is what happens until all is healed; then the group has to be well, as after any run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pysyncobj.node import Node

from millpond_broker.consensus.metadata_log import ProposeOutcome
from millpond_broker.core.commands import AddVoter, Command, SetTopicConfig
from tests.sim.raft.checker import check_flaps
from tests.sim.raft.run import Group
from tests.sim.raft.voters import VoterHost, VoterProcess, record_of

PATIENCE_SECONDS = 20.0
"""For what a story waits for."""
FLAP_SECONDS = 60.0
ABOUT_1_MIB = 1_000_000


class StoryDidNotHappen(Exception):
    """What a story waits for did not come: it shows nothing."""


def _process(group: Group, host_id: int) -> VoterProcess:
    process = group.world.hosts[host_id].process
    assert isinstance(process, VoterProcess), "it runs"
    return process


def _until(group: Group, done: Callable[[], bool]) -> None:
    if not group.world.run_until(group.world.now + PATIENCE_SECONDS, done=done):
        raise StoryDidNotHappen


def _leader(group: Group, among: Sequence[int] | None = None) -> int:
    """Wait until one of them leads, and has applied what was before."""

    def leading() -> list[int]:
        voters = [process for process in group.voters() if process.voter.term]
        voters.sort(key=lambda process: -process.voter.term)
        return [p.host.host_id for p in voters if among is None or p.host.host_id in among]

    _until(group, lambda: bool(leading()))
    return leading()[0]


def _run(group: Group, seconds: float) -> None:
    group.world.run_until(group.world.now + seconds)


def _ask(group: Group, host_id: int, count: int, size: int = 100) -> None:
    """So many commands at once."""
    for _ in range(count):
        _propose(group, host_id, SetTopicConfig(b"no such topic id", (("note", "x" * size),), ()))


def _propose(group: Group, host_id: int, command: Command) -> None:
    def told(_outcome: ProposeOutcome) -> None:
        """The judge hears of it."""

    group.workload.propose(group.world.hosts[host_id], group.workload.new_key(), command, told)


def _cut(group: Group, some: Sequence[int], others: Sequence[int]) -> None:
    """Nothing arrives, either way, and nobody notices."""
    for one in some:
        for other in others:
            if one != other:
                group.world.cut(one, other, silent=True)
                group.world.cut(other, one, silent=True)


def _mend(group: Group, some: Sequence[int], others: Sequence[int]) -> None:
    """Whatever was held back is lost, the links are made anew."""
    for one in some:
        for other in others:
            for pair in ((one, other), (other, one)):
                if one != other:
                    _lose(group, *pair)
                    group.world.mend(*pair)


def _lose(group: Group, source: int, target: int) -> None:
    group.world.links[source, target].queue.clear()
    group.world.break_link(source, target)


def tail_of_deposed(group: Group) -> None:
    """`known_commit`: a deposed leader hears again what it has, and how far the leader's log is committed,
    before it hears what takes the place of its own tail.
    """
    old = _leader(group)
    others = [host_id for host_id in group.founders if host_id != old]
    follower, third = others
    _ask(group, old, 3)
    _run(group, 1.0)
    # Five large entries reach one follower, and nobody knows that they did.
    _cut(group, [third], [old])
    group.world.cut(follower, old, silent=True)
    _ask(group, old, 5, size=ABOUT_1_MIB - 100_000)
    _run(group, 0.2)
    group.world.cut(old, follower, silent=True)
    _ask(group, old, 12)
    _cut(group, [third], [old])
    new = _leader(group, others)
    _ask(group, new, 12)
    _run(group, 1.0)
    _mend(group, [old], others)
    group.world.links[new, old].jitter = 0.05
    _run(group, 2.0)


def long_tail(group: Group) -> None:
    """`resend_from`: a deposed leader has a long tail that nobody else has."""
    old = _leader(group)
    others = [host_id for host_id in group.founders if host_id != old]
    _cut(group, [old], others)
    _ask(group, old, 400)
    new = _leader(group, others)
    _ask(group, new, 400)
    _run(group, 1.0)
    _mend(group, [old], others)


def late_answers(group: Group) -> None:
    """`is_answer_of_term`: answers to an earlier leadership of the same voter arrive in a later one."""
    old = _leader(group)
    slow, *rest = [host_id for host_id in group.founders if host_id != old]
    group.world.cut(slow, old, silent=True)
    _cut(group, [old], rest)
    _ask(group, old, 12)
    _run(group, 0.3)
    group.world.cut(old, slow, silent=True)
    _cut(group, [slow], rest)
    between = _leader(group, rest)
    _mend(group, [slow], rest)
    _run(group, 1.0)
    _mend(group, [old], rest)
    _run(group, 1.0)
    between = _leader(group, rest)
    _process(group, between).voter._library.transferLeadership(Node(old))
    _leader(group, [old])
    # Now it has one voter with it, and the late answers of another.
    friend, *rest = rest
    _cut(group, [old, friend], rest)
    _cut(group, [friend], [slow])
    _ask(group, old, 3)
    _run(group, 0.05)
    group.world.mend(slow, old)
    _run(group, 0.5)
    group.world.end(old, "kill")
    group.world.hosts[old].is_gone = True  # until all is healed
    new = _leader(group, [slow, *rest])
    _ask(group, new, 12)
    _run(group, 1.0)
    group.world.hosts[old].is_gone = False


def late_refusals(group: Group) -> None:
    """`is_snapshot_needed`: a snapshot is sent once more to one that has gone on since, as for a refusal that
    was on its way for long.
    """
    leader = _leader(group)
    other = next(host_id for host_id in group.founders if host_id != leader)
    voter = _process(group, leader).voter
    _ask(group, leader, 20)
    _run(group, 0.5)
    voter.compact_soon()
    _run(group, 0.3)
    _ask(group, leader, 10)
    _run(group, 0.5)
    voter.send_snapshot(other)
    _run(group, 2.0)


def deaf_voter(group: Group) -> None:
    """`may_stand`: one voter can be heard, and hears nobody."""
    leader = _leader(group)
    deaf = next(host_id for host_id in group.founders if host_id != leader)
    before = group.judge.elected.changes
    for host_id in group.founders:
        if host_id != deaf:
            group.world.cut(host_id, deaf, silent=True)
    _run(group, FLAP_SECONDS)
    check_flaps(group.judge.elected.changes - before, FLAP_SECONDS)


def unheard_leader(group: Group) -> None:
    """`grants_pre_vote`: again and again one voter does not hear the leader, whom all others hear."""
    leader = _leader(group)
    before, ends_at = group.judge.elected.changes, group.world.now + FLAP_SECONDS
    while group.world.now < ends_at:
        leader = _leader(group)
        one = next(host_id for host_id in group.founders if host_id != leader)
        group.world.cut(leader, one, silent=True)
        _run(group, 1.5)
        group.world.mend(leader, one)
        _run(group, 1.5)
    check_flaps(group.judge.elected.changes - before, FLAP_SECONDS)


def one_ahead_in_term(group: Group) -> None:
    """`tells_newer_term`: a voter has entered a term that nobody else has heard of."""
    leader = _leader(group)
    others = [host_id for host_id in group.founders if host_id != leader]
    term = _process(group, leader).voter.term
    _run(group, 0.5)
    _cut(group, [leader], others)
    terms = {other: _process(group, other).voter._library for other in others}
    _until(group, lambda: any(library.term > term for library in terms.values()))
    ahead = next(other for other in others if terms[other].term > term)
    _cut(group, [ahead], group.founders)
    _mend(group, [leader], [other for other in others if other != ahead])
    _run(group, 0.6)
    _mend(group, [ahead], group.founders)


def two_at_once(group: Group) -> None:
    """`may_change_voters`: a leader that is cut off from its voters adds two others at once."""
    leader = _leader(group)
    others = [host_id for host_id in group.founders if host_id != leader]
    new = [max(group.founders) + 1, max(group.founders) + 2]
    for host_id in new:
        group.add_joiner(host_id)
    _run(group, 0.5)
    _cut(group, [leader, *new], others)
    for host_id in new:
        _propose(group, leader, AddVoter(record_of(host_id)))
    _run(group, 0.3)
    _ask(group, leader, 12)
    _run(group, 0.4)
    _leader(group, others)
    _run(group, 0.5)


def wiped_under_its_id(group: Group) -> None:
    """`Voter.admit`: a voter's disk is replaced by an empty one, and it starts under the same id."""
    leader = _leader(group)
    wiped, third = [host_id for host_id in group.founders if host_id != leader]
    _run(group, 0.5)
    _cut(group, [third], [leader, wiped])
    _ask(group, leader, 5)
    _run(group, 0.5)
    group.world.hosts[wiped].is_gone = True
    group.world.end(wiped, "power")
    host = group.world.hosts[wiped]
    assert isinstance(host, VoterHost), "a voter"
    host.wipe()
    host.is_gone = False
    _cut(group, [leader], [wiped])
    group.world.start(wiped)
    _mend(group, [third], [wiped])
    _run(group, 5.0)
    # If those two have made a leader, it takes commands now.
    for process in group.voters():
        if process.voter.term and process.host.host_id != leader:
            _ask(group, process.host.host_id, 8)
    _run(group, 1.0)
    host.is_gone = True
    group.world.end(wiped, "power")
    group.replacer.lose(host)


def vote_that_came_twice(group: Group) -> None:
    """`is_vote_counted`: a candidate reaches one voter of four, and its vote comes more than once."""
    leader = _leader(group)
    others = [host_id for host_id in group.founders if host_id != leader]
    term = _process(group, leader).voter.term
    _run(group, 0.5)
    host = group.world.hosts[leader]
    host.is_gone = True
    group.world.end(leader, "kill")
    voters = {other: _process(group, other).voter for other in others}
    _until(group, lambda: any(voter._library.term > term for voter in voters.values()))
    candidate = next(other for other in others if voters[other]._library.term > term)
    friend, *rest = [other for other in others if other != candidate]
    for other in rest:  # of what it asked nothing has arrived yet
        group.world.links[candidate, other].queue.clear()
    host.is_gone = False
    group.world.start(leader)
    _cut(group, [candidate, friend], [*rest, leader])
    _leader(group, [*rest, leader])
    _run(group, 0.5)


def forgotten_acknowledgement(group: Group) -> None:
    """`sync_before_sending`: a follower acknowledges, loses power, and decides what comes next."""
    leader = _leader(group)
    follower, third = [host_id for host_id in group.founders if host_id != leader]
    _run(group, 0.5)
    _cut(group, [third], [leader, follower])
    journal = _process(group, follower).voter._store.journal
    last = journal.last_index + 10
    _ask(group, leader, 10)
    _until(group, lambda: journal.last_index >= last)
    group.world.cut(leader, follower, silent=True)
    _run(group, 0.1)
    group.world.end(leader, "kill")
    host = group.world.hosts[leader]
    host.is_gone = True
    group.world.end(follower, "power")
    _mend(group, [third], [follower])
    _run(group, 3.0)
    for process in group.voters():
        if process.voter.term:
            _ask(group, process.host.host_id, 20)
    _run(group, 1.0)
    host.is_gone = False


def needs_a_snapshot(group: Group) -> None:
    """`image_of`: a voter is away for so long that the others have forgotten what it lacks."""
    leader = _leader(group)
    lagging = next(host_id for host_id in group.founders if host_id != leader)
    group.world.end(lagging, "kill")
    group.world.hosts[lagging].is_gone = True
    for _ in range(3):
        _ask(group, leader, 20)
        _run(group, 0.5)
        _process(group, leader).voter.compact_soon()
        _run(group, 0.1)
    group.world.hosts[lagging].is_gone = False
    group.world.start(lagging)
    _run(group, 20.0)
