"""Who votes: voters are added and removed through the log, and only they are heard."""

from __future__ import annotations

import pytest

from millpond_broker.consensus.metadata_log import NotApplied, Ok
from millpond_broker.consensus.peers import PeerIdentity
from millpond_broker.core.commands import AddVoter, Barrier, RemoveVoter, Voter
from tests.unit.consensus.raft.ring import CLUSTER, record, ring


def test_voters_change_one_at_a_time_through_the_log() -> None:
    with ring(3) as one:
        leader = one.controller()
        one.join(4)
        first, second = one.ask(leader, AddVoter(record(4))), one.ask(leader, RemoveVoter(leader % 3 + 1))
        one.until(lambda: first and second)
        assert isinstance(first[0], Ok)
        assert isinstance(second[0], NotApplied)
        one.settle()
        assert all(set(voter.voters) == {1, 2, 3, 4} for voter in one.voters.values())
        assert isinstance(one.do(leader, RemoveVoter(leader)), NotApplied)


def test_a_new_voter_knows_of_nobody_until_it_was_told() -> None:
    """By its own addition alone it would be the only voter, and elect itself."""
    with ring(3) as one:
        leader = one.controller()
        joiner = one.join(4)
        one.step(500)
        assert joiner.term == 0
        assert not joiner.voters
        one.isolate(4)
        added = one.ask(leader, AddVoter(record(4)))
        one.until(lambda: added)
        one.cut.clear()
        one.settle()
        assert set(joiner.voters) == {1, 2, 3, 4}
        assert one.voters[leader].term, "it deposed nobody"


def test_a_removed_voter_disturbs_nobody() -> None:
    with ring(3) as one:
        leader = one.controller()
        removed = leader % 3 + 1
        assert isinstance(one.do(leader, RemoveVoter(removed)), Ok)
        term = one.voters[leader].term
        one.step(1000)
        assert one.voters[leader].term == term
        assert isinstance(one.do(leader, Barrier()), Ok)


def test_an_uncommitted_change_of_voters_is_taken_back_with_its_entry() -> None:
    with ring(3) as one:
        leader = one.controller()
        one.isolate(leader)
        one.ask(leader, AddVoter(record(4)))
        one.step(2)
        assert set(one.voters[leader].voters) == {1, 2, 3, 4}, "it counts from the entry on"
        successor = one.controller(besides=leader)
        one.take_ids(successor, 3)
        one.cut.clear()
        one.settle()
        assert set(one.voters[leader].voters) == {1, 2, 3}


def test_a_restart_knows_a_change_of_voters_that_was_not_committed_yet() -> None:
    """It counts from the entry on, also for one that finds the entry on its disk."""
    with ring(3) as one:
        leader = one.controller()
        one.isolate(leader)
        one.ask(leader, AddVoter(record(4)))
        one.step(2)
        one.crash(leader)
        restarted = one.start(leader)
        restarted.tick()
        assert set(restarted.voters) == {1, 2, 3, 4}


def test_a_new_voter_that_restarts_knows_who_votes_from_its_log() -> None:
    """Whoever votes first is in the log's first command, committed or not: it is by construction."""
    with ring(3) as one:
        leader = one.controller()
        one.join(4)
        assert isinstance(one.do(leader, AddVoter(record(4))), Ok)
        one.settle()
        one.crash(4)
        restarted = one.start(4)
        assert set(restarted.voters) == {1, 2, 3, 4}


def test_a_voter_that_was_away_answers_a_leader_that_it_has_not_heard_of() -> None:
    """It was not there when that one was added, so it cannot know its address but from itself."""
    with ring(3) as one:
        leader = one.controller()
        away = leader % 3 + 1
        one.crash(away)
        one.join(4)
        assert isinstance(one.do(leader, AddVoter(record(4))), Ok)
        one.settle()
        voter = one.start(away)
        assert 4 not in voter.peer_addresses
        one.step(5)
        assert voter.peer_addresses[4] == record(4).address


def test_the_id_of_a_removed_voter_with_another_disk_can_be_added() -> None:
    """What the log says of the disk before is over for the new one that replays it."""
    with ring(3) as one:
        leader = one.controller()
        for command in (AddVoter(Voter(4, "a disk that is gone", "a:1")), RemoveVoter(4)):
            assert isinstance(one.do(leader, command), Ok)
        assert isinstance(one.do(leader, AddVoter(record(4))), Ok)
        one.join(4)
        one.settle()
        assert set(one.voters[4].voters) == {1, 2, 3, 4}


def test_a_change_of_voters_that_would_be_refused_gets_no_entry() -> None:
    with ring(3) as one:
        leader = one.controller()
        one.step(20)
        outcomes = one.ask(leader, AddVoter(record(4)), sequence=0)
        one.until(lambda: outcomes)
        assert isinstance(outcomes[0], NotApplied)
        assert set(one.voters[leader].voters) == {1, 2, 3}


@pytest.mark.parametrize(
    ("peer", "is_admitted"),
    [
        (PeerIdentity(2, "disk-2", CLUSTER), True),
        (PeerIdentity(2, "disk-2", b""), True),
        (PeerIdentity(2, "wiped", CLUSTER), False),
        (PeerIdentity(2, "disk-2", b"another cluster!"), False),
        (PeerIdentity(1, "disk-1", CLUSTER), False),
        (PeerIdentity(9, "disk-9", CLUSTER), True),
    ],
)
def test_who_is_let_in(peer: PeerIdentity, *, is_admitted: bool) -> None:
    with ring(3) as one:
        one.step(5)
        assert (one.voters[1].admit(peer) is None) == is_admitted
