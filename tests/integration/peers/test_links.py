"""Links between voters: what is sent comes once, whole and in order, or the link breaks and is made again."""

from __future__ import annotations

import logging
import random
import threading

import grpc
import pytest

from millpond.wire.errors import InvalidConfig, InvalidRequest
from millpond_broker.rpc.peer_frames import MESSAGE_BYTES_MAX
from millpond_broker.rpc.peer_links import GrpcPeerLinks
from millpond_broker.rpc.peer_server import PeerPortOptions
from tests.integration.peers.conftest import MakeVoter
from tests.integration.peers.processes import VoterProcess
from tests.integration.peers.raw import RawPeer
from tests.integration.peers.voters import (
    SECRET,
    WAIT_SECONDS,
    Recorder,
    Voter,
    link_all,
    nothing_left,
    until,
)


def test_two_voters_hear_each_other_in_order(voter: MakeVoter) -> None:
    one, two = voter(1), voter(2)
    link_all(one, two)
    sent = [f"message {number}".encode() for number in range(5_000)]
    for number in range(0, len(sent), 7):
        one.links.send(2, sent[number : number + 7])
        two.links.send(1, sent[number : number + 7])
    two.told.wait(lambda: len(two.told.messages.get(1, [])) >= len(sent))
    one.told.wait(lambda: len(one.told.messages.get(2, [])) >= len(sent))
    assert two.told.got(1) == one.told.got(2) == sent
    assert one.told.events == [("connected", 2)]


def test_what_several_threads_send_is_not_mixed(voter: MakeVoter) -> None:
    one, two = voter(1), voter(2)
    link_all(one, two)

    def send(thread: int) -> None:
        for number in range(500):
            one.links.send(2, [b"%d:%d:%s" % (thread, number, b"x" * 300), b"%d:%d+" % (thread, number)])

    threads = [threading.Thread(target=send, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    two.told.wait(lambda: len(two.told.messages.get(1, [])) >= 4_000)
    got = two.told.got(1)
    for sender in range(4):
        mine = [message for message in got if message.startswith(b"%d:" % sender)]
        assert [int(message.split(b":")[1].rstrip(b"+")) for message in mine] == [n // 2 for n in range(1000)]
    assert all(got[at + 1].endswith(b"+") for at in range(0, 4_000, 2)), (
        "what was sent together came together"
    )


def test_three_voters_each_hear_both_others(voter: MakeVoter) -> None:
    three = [voter(1), voter(2), voter(3)]
    link_all(*three)
    for one in three:
        for other in three:
            if other is not one:
                one.links.send(other.id, [b"from %d to %d" % (one.id, other.id)])
    for one in three:
        others = [other.id for other in three if other is not one]
        until(lambda: len(one.told.messages) == 2)  # noqa: B023 - waited for within the round
        for peer in others:
            assert one.told.got(peer) == [b"from %d to %d" % (peer, one.id)]
        assert {peer.directory_id for peer in one.told.admitted} == {f"directory-{n}" for n in others}


def test_a_link_works_while_the_other_direction_has_none(voter: MakeVoter) -> None:
    one, two = voter(1), voter(2)
    one.connect(two)
    one.wait_linked(two)
    one.links.send(2, [b"hello"])
    two.links.send(1, [b"dropped, for there is no link"])
    two.told.wait(lambda: two.told.messages.get(1) == [b"hello"])
    assert one.told.messages == {}
    assert two.told.events == []


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 40 << 20, MESSAGE_BYTES_MAX])
def test_messages_of_every_size_arrive_whole_with_others_behind_them(voter: MakeVoter, size: int) -> None:
    one, two = voter(1), voter(2)
    link_all(one, two)
    message = random.Random(size).randbytes(size)
    one.links.send(2, [message, b"behind it"])
    one.links.send(2, [message[:100]])
    two.told.wait(lambda: len(two.told.messages.get(1, [])) >= 3)
    assert two.told.got(1) == [message, b"behind it", message[:100]]
    assert one.told.events == [("connected", 2)]


def test_a_message_that_is_too_large_is_refused_by_name_and_harms_nothing(voter: MakeVoter) -> None:
    one, two = voter(1), voter(2)
    link_all(one, two)
    with pytest.raises(InvalidRequest, match=str(MESSAGE_BYTES_MAX)):
        one.links.send(2, [b"not sent either", bytes(MESSAGE_BYTES_MAX + 1)])
    one.links.send(2, [b"after it"])
    two.told.wait(lambda: bool(two.told.messages))
    assert two.told.got(1) == [b"after it"]


def test_a_voter_that_comes_back_on_its_port_is_found_within_a_second_or_two(voter: MakeVoter) -> None:
    one, two = voter(1), voter(2)
    link_all(one, two)
    for times in range(1, 4):
        two.close()
        one.told.wait(lambda times=times: one.told.count("disconnected", 2) == times)  # type: ignore[misc]  # a lambda with a default
        one.links.send(2, [b"dropped"])
        two = voter(2, listen=two.address)
        assert one.told.wait(lambda: one.told.linked(2)) < 2.5
        one.links.send(2, [b"again"])
        two.told.wait(lambda: bool(two.told.messages))  # noqa: B023 - waited for within the round
        assert two.told.got(1) == [b"again"]


def test_a_voter_that_stops_is_nothing_to_warn_of(voter: MakeVoter, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    one, two = voter(1), voter(2)
    link_all(one, two)
    two.close()
    until(lambda: any(record.getMessage() == "peer_lost" for record in caplog.records))
    assert [record.getMessage() for record in caplog.records if record.levelno > logging.INFO] == []


def test_a_voter_may_be_connected_to_before_it_is_there(voter: MakeVoter) -> None:
    one, two = voter(1), voter(2)
    address = two.address
    two.close()
    one.links.connect(2, address)
    until(lambda: one.links._links[2]._not_before > 0)  # it has tried
    two = voter(2, listen=address)
    one.wait_linked(two)


def test_a_killed_process_is_lost_at_once_and_its_successor_found(voter: MakeVoter) -> None:
    one = voter(1)
    with VoterProcess(2, {1: one.address}) as process:
        one.links.connect(2, process.address)
        one.told.wait(lambda: one.told.linked(2))
        process.wait("connected", 1)
        one.links.send(2, [b"echo"])
        one.told.wait(lambda: one.told.messages.get(2) == [b"echo"])
        process.kill()
        assert one.told.wait(lambda: not one.told.linked(2)) < 1.5
    with VoterProcess(2, {1: one.address}, listen=process.address) as process:
        assert one.told.wait(lambda: one.told.linked(2)) < 2.5
        process.wait("connected", 1)
        one.links.send(2, [b"echo again"])
        one.told.wait(lambda: one.told.messages.get(2) == [b"echo", b"echo again"])
        process.stop()
        one.told.wait(lambda: not one.told.linked(2))


def test_a_peer_that_comes_in_is_called_back_without_delay(voter: MakeVoter) -> None:
    """The pause between attempts ends when the peer has shown that it is there."""
    one, two = voter(1), voter(2)
    address = two.address
    two.close()
    one.links.connect(2, address)
    link = one.links._links[2]
    until(lambda: link._not_before - link._earliest > 0.5)  # several attempts were in vain
    until(lambda: link._connection is None)  # between two of them
    with link._changed:
        link._not_before = link._earliest + 10 * WAIT_SECONDS
    two = voter(2, listen=address)
    two.connect(one)
    two.wait_linked(one)
    one.wait_linked(two)


def test_a_link_given_up_tells_nothing_and_carries_nothing(voter: MakeVoter) -> None:
    one, two = voter(1), voter(2)
    link_all(one, two)
    link = one.links._links[2]
    one.links.disconnect(2)
    one.links.send(2, [b"dropped"])
    assert link.join(5)
    assert one.told.events == [("connected", 2)]
    assert two.told.messages == {}
    one.told.events.clear()
    one.connect(two)
    one.wait_linked(two)
    one.links.send(2, [b"heard"])
    two.told.wait(lambda: two.told.messages.get(1) == [b"heard"])


def test_a_link_made_again_waits_for_what_its_predecessor_is_still_telling(voter: MakeVoter) -> None:
    one, two = voter(1), voter(2)
    tell = one.told._tell
    held, told_again, goes_on = threading.Event(), threading.Event(), threading.Event()

    def slowly(what: str, broker_id: int) -> None:
        if held.is_set():
            told_again.set()
        else:
            held.set()
            assert goes_on.wait(30)
        tell(what, broker_id)

    one.told._tell = slowly  # type: ignore[method-assign]  # what it is told passes here
    one.connect(two)
    assert held.wait(10)
    one.links.disconnect(2)
    one.connect(two)
    assert not told_again.wait(0.5), "a link takes milliseconds"
    goes_on.set()
    until(lambda: one.told.count("connected", 2) == 2)
    one.told.mistakes.clear()  # a link given up is not told of: connected may follow connected here


def test_giving_up_and_connecting_over_and_over_ends_connected(voter: MakeVoter) -> None:
    one, two = voter(1), voter(2)
    for _ in range(30):
        one.connect(two)
        one.links.disconnect(2)
        one.told.events.clear()
    one.connect(two)
    one.wait_linked(two)
    one.links.send(2, [b"heard"])
    two.told.wait(lambda: two.told.messages.get(1) == [b"heard"])
    one.told.mistakes.clear()  # a link given up is not told of: connected may follow connected here


def test_a_link_follows_its_peer_to_another_address(voter: MakeVoter) -> None:
    one, old, new = voter(1), voter(2), voter(2)
    one.connect(old)
    one.wait_linked(old)
    one.links.connect(2, old.address)  # the same again changes nothing
    one.links.connect(2, new.address)
    one.told.wait(lambda: one.told.count("connected", 2) == 2)
    one.links.send(2, [b"to the new one"])
    new.told.wait(lambda: new.told.messages.get(1) == [b"to the new one"])
    assert one.told.events == [("connected", 2), ("disconnected", 2), ("connected", 2)]
    assert old.told.messages == {}


def test_a_newer_link_replaces_an_older_one_of_the_same_peer(voter: MakeVoter) -> None:
    two = voter(2)
    with RawPeer(two.address) as old, RawPeer(two.address) as new:
        old.handshake(2)
        old.messages(b"old 1")
        two.told.wait(lambda: two.told.messages.get(1) == [b"old 1"])
        new.handshake(2)
        new.messages(b"new 1")
        two.told.wait(lambda: two.told.messages.get(1) == [b"old 1", b"new 1"])
        assert old.ended()[0] is grpc.StatusCode.CANCELLED, "at once, although it says nothing"
        new.messages(b"new 2")
        two.told.wait(lambda: len(two.told.messages[1]) >= 3)
        assert two.told.got(1) == [b"old 1", b"new 1", b"new 2"]


def test_what_a_replaced_link_has_brought_already_is_not_heard_any_more(voter: MakeVoter) -> None:
    """It was replaced while its first message of three was being taken; the newer one's wait for that."""
    two = voter(2)
    heard: list[bytes] = []
    first, goes_on = threading.Event(), threading.Event()

    def take(_: int, message: bytes) -> bool:
        heard.append(message)
        first.set()
        return goes_on.wait(30)

    two.told.take = take
    with RawPeer(two.address) as old, RawPeer(two.address) as new:
        old.handshake(2)
        old.messages(b"old 1", b"old 2", b"old 3")
        assert first.wait(10)
        new.handshake(2)
        new.messages(b"new 1")
        assert heard == [b"old 1"]
        goes_on.set()
        until(lambda: b"new 1" in heard)
        until(lambda: len(two.links._incoming._links) == 1)
    assert heard == [b"old 1", b"new 1"]


def test_no_message_of_a_replaced_link_comes_after_one_of_the_newer(voter: MakeVoter) -> None:
    """However many links come, each replaced while it is sending as fast as it can."""
    two = voter(2)
    seen: list[int] = []

    def take(_: int, message: bytes) -> bool:
        seen.append(int(message))
        return True

    two.told.take = take
    peers = []
    try:
        for number in range(12):
            peer = RawPeer(two.address)
            peers.append(peer)
            peer.handshake(2)
            for _ in range(200):
                peer.messages(b"%d" % number)
            until(lambda number=number: number in seen)  # type: ignore[misc]  # a lambda with a default
    finally:
        for peer in peers:
            peer.__exit__(None, None, None)
    assert seen == sorted(seen)


def test_a_port_that_is_taken_is_refused_by_name(voter: MakeVoter) -> None:
    one = voter(1)
    with nothing_left():
        with pytest.raises(InvalidConfig) as caught:
            Voter(2, listen=one.address)
        assert caught.value.key == "cluster.peer_listen"


def test_links_that_were_never_started_can_be_closed() -> None:
    with nothing_left():
        GrpcPeerLinks(Recorder(1), SECRET, PeerPortOptions(listen="127.0.0.1:0")).close()


def test_closing_ends_everything_even_with_much_under_way(voter: MakeVoter) -> None:
    """And nothing is told after it."""
    with nothing_left():
        one, two = voter(1), voter(2)
        link_all(one, two)
        one.links.connect(3, "127.0.0.1:1")  # nobody there
        one.links.connect(4, "192.0.2.1:7071")  # nobody answers
        one.links.connect(5, "no-such-host.invalid:7071")
        one.links.send(2, [bytes(20 << 20)])
        one.close()
        told = list(one.told.events), {peer: len(messages) for peer, messages in one.told.messages.items()}
        one.links.send(2, [b"dropped"])
        one.links.connect(2, two.address)
        one.links.disconnect(2)
        one.links.close()
        two.close()
        assert (one.told.events, {p: len(m) for p, m in one.told.messages.items()}) == told
