"""One voter among others in memory: what it promises, through what goes wrong."""

from __future__ import annotations

import errno
from collections.abc import Callable
from random import Random

import pytest

from millpond.wire.errors import NotADataDirectory
from millpond_broker.consensus import store as store_module
from millpond_broker.consensus.metadata_log import NotApplied, Ok, Unknown
from millpond_broker.consensus.raft.codec import BadMessage, decode, encode
from millpond_broker.consensus.raft.compaction import CompactionOptions
from millpond_broker.consensus.raft.messages import (
    Appended,
    AppendEntries,
    InstallSnapshot,
    NewerTerm,
    PreVote,
    PreVoted,
    RequestVote,
    Vote,
)
from millpond_broker.consensus.raft.voter import Voter, VoterFailed, VoterOptions
from millpond_broker.consensus.snapshots import Snapshot
from millpond_broker.consensus.store import Store
from millpond_broker.core.commands import (
    AllocateProducerIds,
    Barrier,
)
from millpond_broker.core.image import Applied
from tests.unit.consensus.raft.ring import DIRECTORY, Ring, ring


def ids(voter: Voter) -> int:
    """How many producer ids were taken."""
    return voter.image.next_producer_id


def sent(one: Ring, source: int, kind: type) -> list[object]:
    """Messages of a kind that are on the way from it."""
    return [
        message
        for origin, _, data in one.on_the_way
        if origin == source and isinstance(message := decode(data), kind)
    ]


def test_what_is_ok_is_applied_by_all() -> None:
    with ring(3) as one:
        leader = one.controller()
        one.take_ids(leader, 30)
        one.settle()
        assert [ids(voter) for voter in one.voters.values()] == [30, 30, 30]


def test_a_retry_of_what_was_done_counts_once() -> None:
    with ring(3) as one:
        leader = one.controller()
        command = AllocateProducerIds(1, one.voters[leader].image.brokers[1].epoch, 5)
        first = one.ask(leader, command, sequence=50)
        again = one.ask(leader, command, sequence=50)
        one.until(lambda: first and again)
        assert isinstance(first[0], Ok)
        assert isinstance(again[0], Ok)
        assert first[0].result == again[0].result == Applied(0)
        assert ids(one.voters[leader]) == 5


def test_a_power_loss_of_all_at_once_loses_nothing_that_was_ok() -> None:
    with ring(3) as one:
        leader = one.controller()
        one.take_ids(leader, 120)  # past a snapshot or two
        for broker_id in (1, 2, 3):
            one.crash(broker_id)
        for broker_id in (1, 2, 3):
            one.start(broker_id)
        leader = one.controller()
        assert ids(one.voters[leader]) == 120
        one.settle()


def test_a_leader_that_loses_its_place_says_unknown_at_once() -> None:
    with ring(3) as one:
        leader = one.controller()
        one.isolate(leader)
        epoch = one.voters[leader].image.brokers[1].epoch
        outcomes = one.ask(leader, AllocateProducerIds(1, epoch, 5), sequence=77)
        one.until(lambda: outcomes)
        assert isinstance(outcomes[0], Unknown)
        assert outcomes[0].sequence == 77
        successor = one.controller(besides=leader)
        one.take_ids(successor, 1)
        one.cut.clear()
        one.settle()
        assert ids(one.voters[leader]) == 1, "its own was never committed"
        assert isinstance(one.do(leader, Barrier()), NotApplied)


def test_who_misses_what_the_leader_forgot_gets_its_snapshot() -> None:
    with ring(3) as one:
        leader = one.controller()
        late = next(key for key in one.voters if key != leader)
        one.crash(late)
        one.take_ids(leader, 300)
        assert one.voters[leader]._store.journal.first_index > 100
        one.start(late)
        one.settle()
        assert ids(one.voters[late]) == 300
        assert one.voters[late].installed_index > 100
        one.crash(late)
        one.start(late)
        one.settle()


def test_a_snapshot_waits_for_one_that_lags_but_not_for_ever() -> None:
    """Before `entries_max` a leader keeps what it would have to send a snapshot for."""
    options = VoterOptions(compaction=CompactionOptions(entries=20, entries_max=200))
    with ring(3, options) as one:
        leader = one.controller()
        one.take_ids(leader, 30)  # one snapshot, with all there
        late = next(key for key in one.voters if key != leader)
        one.crash(late)
        one.take_ids(leader, 40)  # one more, which leaves nobody behind
        store = one.voters[leader]._store
        taken = store.snapshot
        one.take_ids(leader, 100)
        assert store.snapshot is taken
        one.take_ids(leader, 150)
        assert store.snapshot is not taken


def test_a_damaged_snapshot_is_refused_and_nothing_acknowledged() -> None:
    with ring(3) as one:
        leader = one.controller()
        one.take_ids(leader, 5)
        follower = next(key for key in one.voters if key != leader)
        voter = one.voters[follower]
        before = voter.image
        snapshot = Snapshot(500, one.voters[leader].term, b"{}")
        for checksum in (0, 0x12345678):
            message = InstallSnapshot(one.voters[leader].term, snapshot, checksum)
            voter.receive(leader, encode(message))
        voter.tick()
        answers = [decode(data) for _, data in voter.take_outgoing()]
        assert all(isinstance(answer, Appended) and not answer.success for answer in answers)
        assert voter.image is before
        one.settle()


def test_an_old_snapshot_takes_nothing_back() -> None:
    with ring(3) as one:
        leader = one.controller()
        one.take_ids(leader, 120)
        one.settle()
        follower = next(key for key in one.voters if key != leader)
        snapshot = one.voters[leader]._store.snapshot
        assert snapshot is not None
        one.take_ids(leader, 5)
        one.settle()
        term = one.voters[leader].term
        one.voters[leader].send_snapshot(follower)
        one.step(5)
        assert one.voters[follower].image.version == one.voters[leader].image.version
        assert one.voters[leader].term == term


def test_a_failed_sync_ends_the_voter_before_anything_leaves() -> None:
    with ring(3) as one:
        leader = one.controller()
        voter = one.voters[leader]
        one.step(20)
        one.disks[leader].fail_next_sync()
        outcomes = one.ask(leader, Barrier())
        with pytest.raises(VoterFailed):
            voter.tick()
        assert not voter.take_outgoing()
        with pytest.raises(VoterFailed):
            voter.tick()
        voter.abandon()
        assert isinstance(outcomes[0], Unknown)


def test_a_leader_with_a_full_disk_gives_its_place_to_one_that_has_room() -> None:
    with ring(3) as one:
        leader = one.controller()
        one.step(20)
        one.fill(leader)
        assert isinstance(one.do(leader, Barrier()), NotApplied)
        one.until(lambda: not one.voters[leader].is_leader)
        successor = one.controller(besides=leader)
        one.take_ids(successor, 5)
        one.step(300)
        assert not one.voters[leader].is_leader, "it stands for nothing meanwhile"
        one.disks[leader].capacity_bytes = None
        one.settle()


def test_a_lone_voter_with_a_full_disk_refuses_and_heals() -> None:
    with ring(1) as one:
        leader = one.controller()
        term = one.voters[leader].term
        one.fill(leader)
        for _ in range(20):
            assert isinstance(one.do(leader, Barrier()), NotApplied)
        one.disks[leader].capacity_bytes = None
        assert isinstance(one.do(one.leader(), Barrier()), Ok)
        assert one.voters[leader].term == term, "it went on leading"


def test_a_follower_with_a_full_disk_catches_up_later() -> None:
    with ring(3) as one:
        leader = one.controller()
        follower = next(key for key in one.voters if key != leader)
        one.fill(follower)
        one.take_ids(leader, 20)
        assert ids(one.voters[follower]) < 20
        one.disks[follower].capacity_bytes = None
        one.settle()


def test_a_snapshot_that_a_full_disk_has_no_room_for_comes_again() -> None:
    with ring(3) as one:
        leader = one.controller()
        late = next(key for key in one.voters if key != leader)
        one.crash(late)
        one.take_ids(leader, 300)
        one.fill(late)
        one.start(late)
        one.step(100)
        assert one.voters[late].image.version < one.voters[leader].image.version
        one.disks[late].capacity_bytes = None
        one.settle()


def test_one_that_hears_nobody_deposes_nobody() -> None:
    """Rule: a voter that can send and not hear goes to no new term."""
    with ring(3) as one:
        leader = one.controller()
        term = one.voters[leader].term
        deaf = next(key for key in one.voters if key != leader)
        one.cut = {(other, deaf) for other in one.voters}
        one.step(1000)
        assert one.voters[leader].term == term
        one.cut.clear()
        one.settle()
        assert one.voters[leader].term == term


def test_one_that_is_cut_off_names_nobody_as_leader_after_a_while() -> None:
    """Who asks it where to send what is to be proposed, or follows it, would go by what it heard last."""
    with ring(3) as one:
        leader = one.controller()
        out = next(voter for voter in (1, 2, 3) if voter != leader)
        one.until(lambda: one.voters[out].leader == leader)
        one.isolate(out)
        one.step(150)
        assert one.voters[out].leader == leader, "another election may be under way"
        one.step(100)
        assert one.voters[out].leader is None
        one.cut.clear()
        one.until(lambda: one.voters[out].leader == leader)


def test_one_in_a_newer_term_is_heard_of() -> None:
    """It ignores the leader, and may not stand against it: the leader has to give way once."""
    with ring(3) as one:
        leader = one.controller()
        ahead = next(key for key in one.voters if key != leader)
        term = one.voters[leader].term
        one.voters[ahead].receive(leader, encode(RequestVote(term + 5, 0, 0)))
        one.step(3)
        assert sent(one, ahead, NewerTerm) or one.voters[leader].term != term
        one.leader()
        one.step(300)
        assert one.voters[one.leader()].term > term + 5
        one.settle()


def test_a_pre_vote_is_refused_while_a_leader_is_heard_and_by_a_longer_log() -> None:
    with ring(3) as one:
        leader = one.controller()
        one.step(20)
        follower = next(key for key in one.voters if key != leader)
        voter = one.voters[follower]
        term = one.voters[leader].term

        def answer(question: PreVote) -> PreVoted:
            voter.receive(leader, encode(question))
            voter.tick()
            (message,) = [
                message for _, data in voter.take_outgoing() if isinstance(message := decode(data), PreVoted)
            ]
            return message

        assert not answer(PreVote(term + 1, 10**6, term)).granted
        one.isolate(follower)
        one.step(60)  # longer than the shortest time-out
        assert answer(PreVote(term + 1, 10**6, term)).granted
        assert not answer(PreVote(term + 1, 1, 0)).granted
        assert not answer(PreVote(term, 10**6, term)).granted


def test_a_vote_counts_once() -> None:
    """By two of five, one of them twice, nobody is elected."""
    with ring(5) as one:
        one.step()
        for other in (2, 3, 4, 5):
            one.crash(other)
        alone = one.voters[1]
        for other in (2, 3, 4, 5):
            alone.peer_connected(other)
        one.until(lambda: sent(one, 1, PreVote))
        asked = next(iter(sent(one, 1, PreVote)))
        assert isinstance(asked, PreVote)
        for other in (2, 3):
            alone.receive(other, encode(PreVoted(1, granted=True, asked_term=asked.term)))
        one.until(lambda: sent(one, 1, RequestVote))
        for _ in range(5):
            alone.receive(2, encode(Vote(asked.term)))
        assert not alone.is_leader
        alone.receive(9, encode(Vote(asked.term)))
        assert not alone.is_leader, "9 is no voter"
        alone.receive(3, encode(Vote(asked.term)))
        assert alone.is_leader


def test_an_answer_of_another_term_counts_for_nothing() -> None:
    with ring(3) as one:
        leader = one.controller()
        voter = one.voters[leader]
        one.isolate(leader)
        outcomes = one.ask(leader, Barrier())
        voter.tick()
        last = voter._store.journal.last_index
        for peer in set(one.voters) - {leader}:
            voter.receive(peer, encode(Appended(voter.term - 1, last + 1, success=True)))
            for success in (True, False):
                voter.receive(peer, encode(Appended(voter.term, last + 100, success=success)))
        voter.tick()
        assert not outcomes
        one.cut.clear()
        one.until(lambda: outcomes)
        assert isinstance(outcomes[0], Ok), "and it goes on"


def test_a_repeated_append_takes_nothing_back() -> None:
    with ring(3) as one:
        leader = one.controller()
        one.take_ids(leader, 10)
        one.settle()
        follower = next(key for key in one.voters if key != leader)
        voter, journal = one.voters[follower], one.voters[leader]._store.journal
        first = journal.entries(journal.first_index)[0]
        last = voter._store.journal.last_index
        repeated = AppendEntries(
            journal.term,
            journal.commit_index,
            first.index - 1,
            journal.term_at(first.index - 1) or 0,
            (first,),
        )
        size = voter._store.journal.size_bytes
        voter.receive(leader, encode(repeated))
        assert voter._store.journal.last_index == last
        assert voter._store.journal.size_bytes == size, "nothing was written"


def test_a_leader_hands_over() -> None:
    with ring(3) as one:
        leader = one.controller()
        one.step(20)
        began = one.now
        assert one.voters[leader].transfer_leadership()
        one.until(lambda: one.voters[leader].term == 0)
        one.leader(besides=leader)
        assert one.now - began < 0.2, "nobody had to miss it first"


def test_the_metadata_of_another_disk_are_refused() -> None:
    with ring(3) as one:
        one.step(5)
        one.voters[1].close()
        store = Store.open(one.disks[1], DIRECTORY)
        with pytest.raises(NotADataDirectory, match="disk-1"):
            Voter(store, broker_id=1, directory_id="another", now=lambda: one.now, random=Random(1))


def test_nobody_stands_because_its_clock_went_on_in_the_middle_of_a_tick() -> None:
    """A process may be stopped anywhere, for as long as an election takes: also between what lets the library
    stand and the library's own look at the clock.
    """
    with ring(3) as one:
        leader = one.controller()
        term = one.voters[leader].term
        joiner = one.join(4)
        follower = leader % 3 + 1
        for key in (4, follower):
            library = one.voters[key]._library
            real_tick = library.tick

            def tick(real_tick: Callable[[], None] = real_tick) -> None:
                one.now += 3.0
                try:
                    real_tick()
                finally:
                    one.now -= 3.0

            library.tick = tick  # type: ignore[method-assign]  # the pause
        one.step(300)
        assert joiner.term == 0
        assert joiner.voters == {}
        assert one.voters[leader].term == term


def test_a_snapshot_is_installed_though_tidying_up_behind_it_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with ring(3) as one:
        leader = one.controller()
        late = next(key for key in one.voters if key != leader)
        one.take_ids(leader, 60)
        one.settle()
        one.crash(late)
        one.take_ids(leader, 300)

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "no room")

        monkeypatch.setattr(store_module, "remove_other_snapshots", full)
        one.start(late)
        one.step(100)
        monkeypatch.undo()
        one.settle()
        assert ids(one.voters[late]) == 360


def test_a_snapshot_on_its_way_is_not_followed_by_what_cannot_be_had_without_it() -> None:
    with ring(3) as one:
        leader = one.controller()
        late = next(key for key in one.voters if key != leader)
        one.crash(late)
        one.take_ids(leader, 300)
        one.fill(late)
        one.start(late)
        said = 0
        for _ in range(100):
            one.step()
            said += sum(
                len(data) for source, target, data in one.on_the_way if (source, target) == (leader, late)
            )
        assert said < 60_000, "one snapshot and heartbeats"


def test_a_snapshot_that_was_lost_holds_nobody_up_in_a_later_leadership() -> None:
    """The leader that sent it was deposed, and leads again: what it owed is of a time that is over."""
    with ring(3) as one:
        leader = one.controller()
        late, other = (key for key in one.voters if key != leader)
        one.take_ids(leader, 60)
        one.settle()
        one.voters[leader]._snapshots_out[late] = (10**6, one.now + 1000.0)  # whatever it was, for long
        one.isolate(leader)
        one.controller(besides=leader)
        one.cut.clear()
        one.settle()
        one.crash(other)
        successor = one.controller(besides=0)
        if successor != leader:
            assert one.voters[successor].transfer_leadership()
            one.until(lambda: one.voters[leader].term)
        one.controller()
        one.take_ids(leader, 3)


def test_bytes_that_are_no_message_change_nothing() -> None:
    with ring(3) as one:
        one.controller()
        for data in (b"", b"\xff" * 40, b"\x08\x01", encode(AppendEntries(3, 0, 2**63, 0, ()))):
            with pytest.raises(BadMessage):
                one.voters[1].receive(2, data)
        one.settle()
