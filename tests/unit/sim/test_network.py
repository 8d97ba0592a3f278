"""The simulated network: what a connection promises, and what it does not."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest

from millpond_broker.runtime.peers import PeerUnreachable, StreamClosed
from tests.sim.cluster.network import PATIENCE_SECONDS, End, Network
from tests.sim.loop import Owner, SimLoop, simulated

LONG = PATIENCE_SECONDS[1] + 1.0


class Pair:
    """Two hosts; 2 keeps what it hears."""

    def __init__(self, loop: SimLoop, seed: int = 0) -> None:
        self.loop = loop
        self.network = Network(loop, Random(seed), lambda _what, _about: None)
        self.owners = {host_id: Owner(f"host {host_id}") for host_id in (1, 2)}
        self.heard: list[object] = []
        self.accepted: list[End] = []
        self.ended = 0
        for host_id, owner in self.owners.items():
            self.network.add(host_id)
            self.network.up(host_id, owner)
        self.network.serve(2, "talk", self._listen)

    async def _listen(self, end: End) -> None:
        self.accepted.append(end)
        try:
            while True:
                self.heard += await end.receive()
        except StreamClosed:
            self.ended += 1

    def open(self, seconds: float = 1.0) -> End:
        return self.loop.run_for(self.network.open(self.owners[1], 1, 2, "talk", seconds), seconds + 1)

    def run(self, seconds: float) -> None:
        self.loop.run(self.loop.time() + seconds)


@pytest.fixture
def pair() -> Iterator[Pair]:
    with simulated(SimLoop()) as loop:
        yield Pair(loop)
        assert loop.end() == []


def test_messages_arrive_once_whole_and_in_order(pair: Pair) -> None:
    end = pair.open()
    for number in range(100):
        end.send(number)
    pair.run(1)
    assert pair.heard == list(range(100))


def test_answers_go_the_other_way(pair: Pair) -> None:
    end = pair.open()
    pair.run(0.1)
    pair.accepted[0].send("answer")
    assert pair.loop.run_for(end.receive(), 1) == ["answer"]


def test_what_a_cut_holds_back_arrives_behind_it(pair: Pair) -> None:
    end = pair.open()
    pair.network.cut(1, 2)
    end.send("held back")
    pair.run(0.5)
    assert pair.heard == []
    pair.network.mend(1, 2)
    pair.run(0.1)
    assert pair.heard == ["held back"]


def test_both_ends_give_up_a_connection_that_is_silent_for_long(pair: Pair) -> None:
    end = pair.open()
    pair.network.cut(2, 1)  # one way is enough: no end hears that it is heard
    end.send("arrives, since that way is open")
    pair.run(LONG)
    assert pair.heard == ["arrives, since that way is open"]
    assert end.is_over
    assert pair.ended == 1
    with pytest.raises(StreamClosed):
        pair.loop.run_for(end.receive(), 1)


def test_a_connection_that_breaks_has_delivered_some_prefix() -> None:
    arrived = set()
    for seed in range(20):
        with simulated(SimLoop()) as loop:
            pair = Pair(loop, seed)
            end = pair.open()
            for number in range(5):
                end.send(number)
            pair.network.break_between(1, 2)
            pair.run(0.1)
            assert pair.heard == list(range(len(pair.heard)))
            assert pair.ended == 1
            arrived.add(len(pair.heard))
            loop.end()
    assert len(arrived) > 3


def test_a_closed_end_says_nothing_and_the_other_learns_it(pair: Pair) -> None:
    end = pair.open()
    pair.run(0.1)
    end.close()
    end.close()
    end.send("too late")
    pair.run(0.1)
    assert pair.heard == []
    assert pair.ended == 1


def test_nobody_there_is_told_at_once(pair: Pair) -> None:
    pair.network.down(2)
    began = pair.loop.time()
    with pytest.raises(PeerUnreachable):
        pair.open(5.0)
    assert pair.loop.time() - began < 0.1


def test_nobody_to_be_heard_takes_the_whole_time(pair: Pair) -> None:
    pair.network.cut(2, 1)
    began = pair.loop.time()
    with pytest.raises(PeerUnreachable):
        pair.open(5.0)
    assert pair.loop.time() - began == pytest.approx(5.0)


def test_a_paused_process_hears_everything_when_it_goes_on(pair: Pair) -> None:
    end = pair.open()
    pair.owners[2].is_paused = True
    end.send("later")
    pair.run(0.5)
    assert pair.heard == []
    pair.loop.resume(pair.owners[2])
    pair.run(0.1)
    assert pair.heard == ["later"]


def test_the_end_of_a_process_ends_its_connections(pair: Pair) -> None:
    end = pair.open()
    pair.run(0.1)
    pair.owners[2].is_dead = True
    pair.network.down(2)
    pair.run(0.1)
    assert end.is_over
