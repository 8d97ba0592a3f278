"""A bad wire: whatever it does, a voter hears what was sent, once, in order, and whole until a break."""

from __future__ import annotations

import random
import threading

import pytest

from tests.integration.peers.conftest import MakeVoter
from tests.integration.peers.proxy import Wire
from tests.integration.peers.voters import Voter, until


class Stream:
    """Numbered messages, sent as fast as they are heard or thereabouts."""

    def __init__(self, one: Voter, two: Voter, seed: int) -> None:
        self._one, self._two = one, two
        self._random = random.Random(seed)
        self._stop = threading.Event()
        self.sent = 0
        self.heard: list[int] = []
        two.told.take = self._take
        self._thread = threading.Thread(target=self._send)
        self._thread.start()

    def _send(self) -> None:
        while not self._stop.wait(0.002):
            batch = []
            for _ in range(self._random.choice([1, 1, 1, 20, 200])):
                self.sent += 1
                size = self._random.choice([0, 0, 10, 300, 5_000])
                batch.append(self.sent.to_bytes(8, "big") + bytes([self.sent % 251]) * size)
            self._one.links.send(self._two.id, batch)

    def _take(self, _: int, message: bytes) -> bool:
        number = int.from_bytes(message[:8], "big")
        assert set(message[8:]) <= {number % 251}, "a message is what was sent"
        self.heard.append(number)
        return True

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        assert self.heard == sorted(set(self.heard)), "in order, and none twice"
        gaps = sum(later != earlier + 1 for earlier, later in zip(self.heard, self.heard[1:], strict=False))
        assert gaps <= self._one.told.count("connected", self._two.id), "nothing is left out but by a break"


@pytest.mark.parametrize("seed", range(2))
def test_a_wire_that_is_cut_over_and_over_repeats_and_reorders_nothing(voter: MakeVoter, seed: int) -> None:
    one, two = voter(1), voter(2)
    chance = random.Random(seed)
    with Wire(("127.0.0.1", two.port)) as wire:
        one.links.connect(2, wire.address)
        one.told.wait(lambda: one.told.linked(2))
        stream = Stream(one, two, seed)
        for _ in range(6):
            connected = one.told.count("connected", 2)
            heard = len(stream.heard) + chance.choice([1, 50, 500])
            until(lambda: len(stream.heard) >= heard)  # noqa: B023 - waited for within the round
            wire.cut()
            one.told.wait(lambda: one.told.count("connected", 2) > connected)  # noqa: B023 - as above
        stream.close()
        one.close()
    assert one.told.count("disconnected", 2) >= 6


@pytest.mark.parametrize("seed", range(2))
def test_a_wire_that_changes_bytes_changes_no_message(voter: MakeVoter, seed: int) -> None:
    """What gRPC lets pass, the MAC does not. A byte may hit nothing that matters; most break the link."""
    one, two = voter(1), voter(2)
    chance = random.Random(seed)
    with Wire(("127.0.0.1", two.port)) as wire:
        one.links.connect(2, wire.address)
        one.told.wait(lambda: one.told.linked(2))
        stream = Stream(one, two, seed)
        for number in range(1, 11):
            wire.flip_later(chance.randrange(20_000))
            until(lambda: wire.flipped >= number)  # noqa: B023 - waited for within the round
            one.told.wait(lambda: one.told.linked(2))
            heard = len(stream.heard)
            until(lambda: len(stream.heard) > heard)  # noqa: B023 - as above
        stream.close()
        one.close()
    assert one.told.count("disconnected", 2) >= 5


def test_a_wire_that_carries_nothing_is_given_up_in_seconds_and_used_again_when_it_does(
    voter: MakeVoter,
) -> None:
    """As when a host dies without a word, or a switch does."""
    one, two = voter(1), voter(2)
    with Wire(("127.0.0.1", two.port)) as wire:
        one.links.connect(2, wire.address)
        one.told.wait(lambda: one.told.linked(2))
        stream = Stream(one, two, 0)
        until(lambda: bool(stream.heard))
        wire.hold()
        assert one.told.wait(lambda: not one.told.linked(2)) < 3.5
        wire.let_go()
        assert one.told.wait(lambda: one.told.linked(2)) < 3.5
        heard = len(stream.heard)
        until(lambda: len(stream.heard) > heard)
        stream.close()
        one.close()
