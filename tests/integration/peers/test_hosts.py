"""Hosts that stop answering, or move: noticed in time, and found again."""

from __future__ import annotations

import time

import pytest

from millpond_broker.rpc.peer_connection import ATTEMPT_SECONDS_MAX, HURRIED_SECONDS
from tests.awake import awake
from tests.integration.peers.conftest import MakeVoter
from tests.integration.peers.nameserver import NameServer
from tests.integration.peers.processes import VoterProcess
from tests.integration.peers.voters import until


def test_a_peer_that_stands_still_is_lost_within_seconds_and_found_when_it_goes_on(voter: MakeVoter) -> None:
    """Its kernel still takes what is sent, so that only the lack of an answer tells."""
    one = voter(1)
    with VoterProcess(2, {1: one.address}) as process:
        one.links.connect(2, process.address)
        one.told.wait(lambda: one.told.linked(2))
        process.wait("connected", 1)
        process.pause()
        assert one.told.wait(lambda: not one.told.linked(2)) < 3.5
        until(lambda: one.links._incoming._links == [])  # nor is it served for longer
        process.resume()
        assert one.told.wait(lambda: one.told.linked(2)) < 3.5
        process.wait("connected", 1)  # its own link broke as well, for this end had given it up
        one.links.send(2, [b"echo"])
        one.told.wait(lambda: one.told.messages.get(2) == [b"echo"])
        process.stop()


def test_a_peer_whose_name_moves_to_another_address_is_found_there(voter: MakeVoter) -> None:
    with NameServer("127.0.0.2") as names:
        one = voter(1, resolver=f"dns://127.0.0.1:{names.port}/")
        two = voter(2, listen="127.0.0.2:0")
        one.links.connect(2, f"voter-2.peers.test:{two.port}")
        one.wait_linked(two)
        two.close()
        one.told.wait(lambda: not one.told.linked(2))
        moved = voter(2, listen=f"127.0.0.3:{two.port}")
        names.address = "127.0.0.3"
        assert one.told.wait(lambda: one.told.linked(2)) < 2.5
        one.links.send(2, [b"at the new address"])
        moved.told.wait(lambda: moved.told.messages.get(1) == [b"at the new address"])
        one.close()  # before its name server


@pytest.mark.parametrize("since", [0.0, HURRIED_SECONDS], ids=["just-asked", "asked-before"])
def test_a_peer_that_comes_back_is_found_though_the_name_server_has_not_answered_yet(
    voter: MakeVoter, since: float
) -> None:
    """A container that is stopped has no name, and name servers may take their time to say so. Whoever asked
    in that time finds the peer once it comes, and not only when the question is given up.
    """
    with NameServer("127.0.0.2") as names:
        names.is_silent = True
        one = voter(1, resolver=f"dns://127.0.0.1:{names.port}/")
        two = voter(2, listen="127.0.0.2:0")
        one.links.connect(2, f"voter-2.peers.test:{two.port}")
        until(lambda: names.questions > 0)
        asked_at, silent_until = awake(), time.monotonic()
        names.is_silent = False
        until(lambda: time.monotonic() - silent_until > since)
        two.links.connect(1, one.address)
        one.wait_linked(two)
        assert awake() - asked_at < ATTEMPT_SECONDS_MAX / 2
        one.close()  # before its name server


def test_a_link_that_works_stays_when_its_peer_is_heard_of_again(voter: MakeVoter) -> None:
    one, two = voter(1), voter(2)
    one.connect(two)
    linked_at = time.monotonic()
    one.wait_linked(two)
    until(lambda: time.monotonic() - linked_at > HURRIED_SECONDS)
    for _ in range(3):
        one.links._hurry(2)
    one.links.send(2, [b"on the same link"])
    two.told.wait(lambda: two.told.messages.get(1) == [b"on the same link"])
    assert one.told.events == [("connected", 2)]
