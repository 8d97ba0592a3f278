"""Streams between brokers: what is sent comes once, whole and in order, both ways, or the stream is over."""

from __future__ import annotations

import asyncio
import os
import random
from typing import Any

import pytest

from millpond.wire.errors import InvalidConfig
from millpond_broker.rpc.peer_port import PeerPort
from millpond_broker.rpc.peer_server import PeerPortOptions
from millpond_broker.rpc.peer_stream import QUEUED_BYTES_MAX, RECEIVED_BYTES_MAX, GrpcPeerStream
from millpond_broker.rpc.peer_streams import SERVED_PER_PEER_MAX
from millpond_broker.runtime.peers import PeerStream, PeerUnreachable, Purpose, StreamClosed
from millpond_broker.runtime.subscription_messages import At, Commands, NotServed, Subscribe, Whole
from tests.awake import awake
from tests.integration.peers.voters import SECRET, WAIT_SECONDS, Recorder
from tests.integration.streams.brokers import (
    Broker,
    acknowledged,
    answer,
    nothing_left,
    push,
    question,
    receive,
    until,
)
from tests.integration.streams.conftest import MakeBroker

MIB = 1 << 20


async def taken_until_the_end(stream: PeerStream) -> int:
    """How many messages came before it."""
    taken = 0
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            try:
                taken += len(await stream.receive())
            except StreamClosed:
                return taken


@pytest.mark.parametrize("purpose", Purpose)
async def test_both_ends_hear_each_other_in_order(broker: MakeBroker, purpose: Purpose) -> None:
    one, two = await broker(1), await broker(2)
    near, far = await one.pair(two, purpose)
    chance = random.Random(1)
    if purpose is Purpose.CONTROL:
        there: list[Any] = [question(number) for number in range(1, 5_000)]
        back: list[Any] = [answer(number) for number in range(1, 5_000)]
    elif purpose is Purpose.SUBSCRIPTION:
        there = [Subscribe(7)]
        back = [At(1, None), Whole(5, chance.randbytes(20 * MIB))]
        back += [Commands(number, ((number + 1, chance.randbytes(3_000)),)) for number in range(5, 500)]
        back += [At(500, 2), NotServed("no more", ((1, "a:1"),), for_good=True)]
    else:
        there = [acknowledged(number) for number in range(2_000)]
        back = [push(number, chance.randbytes(chance.choice([0, 100, 70_000]))) for number in range(500)]
        back += [push(600, chance.randbytes(5 * MIB)), push(601, b"")]

    async def send(stream: PeerStream, messages: list[Any]) -> None:
        for number in range(0, len(messages), 7):
            for message in messages[number : number + 7]:
                stream.send(message)
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(send(near, there))
        tasks.create_task(send(far, back))
        heard_far = tasks.create_task(receive(far, len(there)))
        heard_near = tasks.create_task(receive(near, len(back)))
    assert heard_far.result() == there
    assert heard_near.result() == back


async def test_each_end_knows_who_the_other_is_and_in_which_start(broker: MakeBroker) -> None:
    one, two = await broker(1), await broker(2)
    near, far = await one.pair(two)
    assert (near.peer, far.peer) == (two.me, one.me)
    assert one.asked == [two.me]
    assert two.asked == [one.me]


async def test_several_streams_of_one_purpose_are_streams_of_their_own(broker: MakeBroker) -> None:
    one, two = await broker(1), await broker(2)
    pairs = [await one.pair(two) for _ in range(3)]
    pairs.append(tuple(reversed(await two.pair(one))))  # type: ignore[arg-type]  # two in, two out
    for number, (near, _) in enumerate(pairs, start=1):
        near.send(question(number))
    for number, (_, far) in enumerate(pairs, start=1):
        assert await receive(far, 1) == [question(number)]
    pairs[0][0].close()
    with pytest.raises(StreamClosed):
        await pairs[0][1].receive()
    pairs[1][0].send(question(9))
    assert await receive(pairs[1][1], 1) == [question(9)]


async def test_a_slow_receiver_holds_its_sender_and_no_more_than_its_bound(broker: MakeBroker) -> None:
    """64 MiB are pushed at once; what is not taken stays where it came from."""
    one, two = await broker(1), await broker(2)
    near, far = await one.pair(two, Purpose.REPLICATION)
    assert isinstance(near, GrpcPeerStream)
    data = os.urandom(MIB)

    def held() -> int:
        assert isinstance(near, GrpcPeerStream)
        return near._come_bytes - near._taken_bytes

    for number in range(40):
        far.send(push(number, data))
    await until(lambda: held() >= RECEIVED_BYTES_MAX)
    for number in range(40, 64):
        far.send(push(number, data))
    taken: list[Any] = []
    while len(taken) < 64:
        assert held() < RECEIVED_BYTES_MAX + 2 * MIB
        await asyncio.sleep(0.02)
        assert held() < RECEIVED_BYTES_MAX + 2 * MIB
        taken += await near.receive()
    assert [(message.partition, len(message.data)) for message in taken] == [(n, MIB) for n in range(64)]
    far.send(push(99, b"the end"))
    assert await receive(near, 1) == [push(99, b"the end")]


@pytest.mark.parametrize("by", ["opener", "server"])
async def test_a_stream_whose_other_end_takes_nothing_is_broken_off_at_the_bound(
    broker: MakeBroker, by: str
) -> None:
    one, two = await broker(1), await broker(2)
    pair = await one.pair(two, Purpose.REPLICATION)
    sender, other = pair if by == "opener" else tuple(reversed(pair))
    data, sent = os.urandom(4 * MIB), 0
    assert isinstance(sender, GrpcPeerStream)
    while sender.end_reason is None:
        sender.send(push(sent, data))
        sent += 1
        assert sender._put_bytes - sender._sent_bytes <= QUEUED_BYTES_MAX
        await asyncio.sleep(0.001)
    assert QUEUED_BYTES_MAX <= sent * len(data) < QUEUED_BYTES_MAX + RECEIVED_BYTES_MAX + 12 * MIB
    with pytest.raises(StreamClosed, match="no_room"):
        await sender.receive()
    assert await taken_until_the_end(other) < sent
    sender.send(push(0, data))  # dropped


@pytest.mark.parametrize("by", ["opener", "server"])
async def test_what_came_before_the_end_is_handed_out_and_then_the_end_for_ever(
    broker: MakeBroker, by: str
) -> None:
    one, two = await broker(1), await broker(2)
    pair = await one.pair(two)
    closer, other = pair if by == "opener" else tuple(reversed(pair))
    closer.send(question(1))
    closer.send(question(2))
    assert isinstance(other, GrpcPeerStream)
    await until(lambda: len(other._inbox) == 2)
    waiting = asyncio.timeout(5)
    closer.close()
    closer.close()
    await until(lambda: other.end_reason is not None)
    async with waiting:
        assert await other.receive() == [question(1), question(2)]
        for _ in range(2):
            with pytest.raises(StreamClosed):
                await other.receive()
            with pytest.raises(StreamClosed):
                await closer.receive()
    other.send(question(3))
    closer.send(question(4))


@pytest.mark.parametrize("by", ["opener", "server"])
async def test_who_waits_is_told_of_the_end_at_once(broker: MakeBroker, by: str) -> None:
    one, two = await broker(1), await broker(2)
    pair = await one.pair(two)
    closer, other = pair if by == "opener" else tuple(reversed(pair))
    async with asyncio.timeout(WAIT_SECONDS), asyncio.TaskGroup() as tasks:

        async def wait(stream: PeerStream) -> None:
            with pytest.raises(StreamClosed):
                await stream.receive()

        waits = [tasks.create_task(wait(stream)) for stream in (closer, other)]
        await asyncio.sleep(0)
        closed_at = awake()
        closer.close()
        await asyncio.wait(waits)
        assert awake() - closed_at < 2


async def test_a_receive_that_is_cancelled_loses_nothing(broker: MakeBroker) -> None:
    one, two = await broker(1), await broker(2)
    near, far = await one.pair(two)
    for number in range(1, 50):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await far.receive()
        near.send(question(number))
    assert await receive(far, 49) == [question(number) for number in range(1, 50)]


async def test_a_stream_ends_when_its_handler_returns_and_when_it_fails(
    broker: MakeBroker, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = await broker(1), await broker(2)

    async def answers_once(stream: PeerStream) -> None:
        stream.send(answer(1))
        await stream.receive()

    async def fails(_: PeerStream) -> None:
        raise RuntimeError("a mistake")

    two.streams.serve(Purpose.CONTROL, answers_once)
    two.streams.serve(Purpose.REPLICATION, fails)
    near = await one.open(two)
    assert await receive(near, 1) == [answer(1)]
    near.send(question(1))
    with pytest.raises(StreamClosed):
        await near.receive()
    failed = await one.open(two, Purpose.REPLICATION)
    with pytest.raises(StreamClosed):
        await failed.receive()
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
        "peer_stream_failed"
    ]


async def test_a_message_that_cannot_be_sent_is_the_senders_to_know(broker: MakeBroker) -> None:
    one, two = await broker(1), await broker(2)
    near, far = await one.pair(two, Purpose.REPLICATION)
    with pytest.raises(ValueError, match="range"):
        near.send(acknowledged(-1))
    near.send(acknowledged(1))
    assert await receive(far, 1) == [acknowledged(1)]


async def test_the_newest_streams_of_a_peer_are_served_and_the_oldest_goes(broker: MakeBroker) -> None:
    one, two = await broker(1), await broker(2)
    pairs = [await one.pair(two) for _ in range(SERVED_PER_PEER_MAX + 2)]
    for near, far in pairs[:2]:
        for end in (near, far):
            with pytest.raises(StreamClosed):
                await end.receive()
    for near, far in pairs[2:]:
        near.send(question(1))
        assert await receive(far, 1) == [question(1)]


async def test_voters_links_share_the_port_from_when_they_are_made_until_they_are_closed(
    broker: MakeBroker,
) -> None:
    one, two = await broker(1), await broker(2)
    near, far = await one.pair(two)
    told = {1: Recorder(1), 2: Recorder(2)}
    links_one = one.port.links(told[1])
    links_one.connect(2, two.address)
    await until(lambda: links_one._links[2]._not_before > 0)  # type: ignore[attr-defined]  # it has tried
    assert told[1].events == []
    links_two = two.port.links(told[2])
    links_two.connect(1, one.address)
    await until(lambda: told[1].linked(2) and told[2].linked(1))
    links_one.send(2, [b"heard"])
    await until(lambda: told[2].got(1) == [b"heard"])
    await asyncio.to_thread(links_two.close)
    await until(lambda: not told[1].linked(2))
    assert told[2].events == [("connected", 1)], "nothing is told after it"
    near.send(question(1))
    assert await receive(far, 1) == [question(1)], "streams go on"
    again = Recorder(2)
    links_again = two.port.links(again)
    await until(lambda: told[1].linked(2))
    links_one.send(2, [b"heard again"])
    await until(lambda: again.got(1) == [b"heard again"])
    await asyncio.to_thread(links_one.close)
    await asyncio.to_thread(links_again.close)
    assert told[1].mistakes == told[2].mistakes == again.mistakes == []


async def test_where_others_reach_it_is_what_is_configured_or_else_where_it_listens() -> None:
    async with nothing_left():
        for advertise, wanted in (("", "127.0.0.1:"), ("broker-1.example:7071", "broker-1.example:7071")):
            options = PeerPortOptions(listen="127.0.0.1:0", advertise=advertise)
            streams = PeerPort(SECRET, options).streams
            address = await streams.start(lambda: Broker(1).me, lambda _: None)
            assert address.startswith(wanted)
            assert not address.endswith(":0")
            await streams.close()


async def test_a_port_that_is_taken_is_refused_by_name(broker: MakeBroker) -> None:
    one = await broker(1)
    async with nothing_left():
        other = Broker(2, listen=one.address)
        with pytest.raises(InvalidConfig) as caught:
            await other.start()
        assert caught.value.key == "cluster.peer_listen"
        await other.close()


async def test_a_port_that_was_never_started_can_be_closed() -> None:
    async with nothing_left():
        await Broker(1).close()


async def test_closing_ends_everything_even_with_much_under_way() -> None:
    async with nothing_left():
        one, two = Broker(1), Broker(2)
        await one.start()
        await two.start()
        near, far = await one.pair(two, Purpose.REPLICATION)
        back, forth = await two.pair(one, Purpose.REPLICATION)
        for stream in (near, far, back, forth):
            for number in range(5):
                stream.send(push(number, bytes(4 * MIB)))
        await two.close()
        for stream in (near, far, back, forth):
            await taken_until_the_end(stream)
        with pytest.raises(PeerUnreachable):
            await two.open(one)
        await two.close()
        await one.close()


async def test_an_attempt_that_is_given_up_leaves_nothing(broker: MakeBroker) -> None:
    one, two = await broker(1), await broker(2)
    for turns in range(20):
        attempt = asyncio.ensure_future(one.open(two))
        for _ in range(turns):
            await asyncio.sleep(0.0005)
        attempt.cancel()
        try:
            (await attempt).close()
        except asyncio.CancelledError:
            continue
    await until(lambda: not one.streams._dials)
    await until(lambda: not two.streams._served)
    await until(lambda: not two.streams._readers)
