"""Who is not let in, and what strangers and peers that do wrong cannot do to a good stream."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, suppress
from typing import Any

import grpc
import pytest

from millpond.v1.internal import peer_pb2 as pb
from millpond_broker.rpc import control_codec
from millpond_broker.rpc.peer_frames import BODY, LAST, STREAM_PAYLOAD_BYTES_MAX, Cutter
from millpond_broker.rpc.peer_gate import HANDSHAKES_MAX
from millpond_broker.rpc.peer_server import SERVICE
from millpond_broker.rpc.peer_stream import GrpcPeerStream
from millpond_broker.runtime.peers import PeerRefused, PeerUnreachable, Purpose, StreamClosed
from tests.awake import awake
from tests.integration.peers.raw import RawPeer
from tests.integration.peers.test_strangers import GARBAGE
from tests.integration.peers.voters import WAIT_SECONDS
from tests.integration.streams.brokers import Broker, answer, question, receive, until
from tests.integration.streams.conftest import MakeBroker

CONTROL = f"/{SERVICE.full_name}/Control"
REPLICATION = f"/{SERVICE.full_name}/Replication"


async def unreachable(attempt: Awaitable[object]) -> str:
    """Why it was."""
    began = awake()
    with pytest.raises(PeerUnreachable) as caught:
        await attempt
    assert awake() - began < 6
    return str(caught.value)


async def test_a_broker_with_another_secret_opens_nothing_and_is_asked_about_by_nobody(
    broker: MakeBroker,
) -> None:
    one, two = await broker(1), await broker(2, secret=b"another secret than ours")
    assert "secret" in await unreachable(one.open(two))
    assert "secret" in await unreachable(two.open(one))
    assert one.asked == two.asked == []
    assert two.came.empty()


async def test_a_peer_that_the_server_does_not_admit_gets_no_stream(broker: MakeBroker) -> None:
    one, two = await broker(1), await broker(2)
    two.refused[1] = "it has another disk"
    with pytest.raises(PeerRefused, match="it has another disk"):
        await one.open(two)
    assert one.asked == []
    del two.refused[1]
    await one.pair(two)


async def test_a_peer_that_the_opener_does_not_admit_gets_no_stream(broker: MakeBroker) -> None:
    one, two = await broker(1), await broker(2)
    one.refused[2] = "it has another disk"
    with pytest.raises(PeerRefused, match="it has another disk"):
        await one.open(two)
    if not two.came.empty():  # it was over before it was of use
        with pytest.raises(StreamClosed):
            await two.came.get_nowait().receive()
    del one.refused[2]
    await one.open(two)


async def test_a_refusal_by_a_stranger_is_not_taken_for_a_peers(broker: MakeBroker) -> None:
    """Who is refused by a peer may give up for good."""
    one = await broker(1)

    def deny(_requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        context.abort(grpc.StatusCode.PERMISSION_DENIED, "go away")

    handlers: dict[str, Any] = {"Control": grpc.stream_stream_rpc_method_handler(deny)}
    with ThreadPoolExecutor(1) as threads:
        server = grpc.server(threads)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE.full_name, handlers),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        with pytest.raises(PeerUnreachable) as caught:
            await one.streams.open(2, f"127.0.0.1:{port}", Purpose.CONTROL, 5)
        assert not isinstance(caught.value, PeerRefused)
        assert "go away" in str(caught.value)
        await asyncio.to_thread(server.stop(None).wait)


async def test_another_broker_at_the_address_is_not_taken_for_the_one_that_is_meant(
    broker: MakeBroker,
) -> None:
    one, three = await broker(1), await broker(3)
    assert "broker 3" in await unreachable(one.streams.open(2, three.address, Purpose.CONTROL, 5))
    assert "broker 1" in await unreachable(one.streams.open(1, one.address, Purpose.CONTROL, 5))
    assert three.came.empty()


async def test_a_purpose_that_nobody_serves_yet_is_refused(broker: MakeBroker) -> None:
    one = await broker(1)
    two = Broker(2)
    await two.start(Purpose.CONTROL)
    assert "nobody serves that" in await unreachable(one.open(two, Purpose.REPLICATION))
    await one.pair(two)
    await two.close()


async def test_where_nobody_answers_the_attempt_ends_in_time(broker: MakeBroker) -> None:
    one = await broker(1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent_address = f"127.0.0.1:{silent.getsockname()[1]}"
        for address in ("127.0.0.1:1", silent_address, "192.0.2.1:7071", "no-such-host.invalid:7071"):
            began = awake()
            with pytest.raises(PeerUnreachable):
                await one.streams.open(2, address, Purpose.CONTROL, 0.3)
            assert awake() - began < 4.0


# --- peers that hold the secret --------------------------------------------------------------------------


@asynccontextmanager
async def proven(two: Broker, method: str, role: pb.PeerRole) -> AsyncIterator[RawPeer]:
    """A raw peer after its handshake. What it waits for, it waits for on a thread."""
    with RawPeer(two.address, method=method) as raw:
        await asyncio.to_thread(raw.handshake, 2, role=role)
        assert raw.proven is not None
        raw.cutter = Cutter(raw.proven.key, STREAM_PAYLOAD_BYTES_MAX)
        yield raw


def parcels(raw: RawPeer, *made: tuple[bytes, bytes]) -> None:
    for frame in raw.cutter.cut_parcels(made):
        raw.send(frame)


@pytest.mark.parametrize(
    "what", ["message", "altered", "again", "noise", "hello", "body", "flags", "mirrored"]
)
async def test_a_stream_that_goes_wrong_after_its_proof_is_ended_and_nothing_after_that_is_heard(
    broker: MakeBroker, what: str
) -> None:
    two = await broker(2)
    sound = control_codec.encode(question(1))
    async with proven(two, CONTROL, pb.PEER_ROLE_CONTROL) as raw:
        far = await two.came.get()
        parcels(raw, sound)
        assert await receive(far, 1) == [question(1)]
        frame = next(raw.cutter.cut_parcels([sound]))
        match what:
            case "message":
                raw.send(frame)
                parcels(raw, (b"\xff junk", b""))
            case "altered":
                raw.send(frame[:-3] + bytes([frame[-3] ^ 1]) + frame[-2:])
            case "again":
                raw.send(frame)
                raw.send(frame)
            case "noise":
                raw.send(b"\xff\xff\xff")
            case "hello":
                raw.send(pb.PeerFrame(hello=pb.PeerHello(version=1)))
            case "body":
                raw.send(frame)
                parcels(raw, (sound[0], b"of no use"))
            case "flags":
                raw.send(frame)
                raw.cutter._add(b"x", LAST | BODY | 4)
                raw.send(next(raw.cutter._rest()))
            case "mirrored":
                # What a broker has sent itself is sound in the other direction only.
                far.send(answer(1))
                frame_back = await asyncio.to_thread(raw.read)
                await until(lambda: isinstance(far, GrpcPeerStream) and not far._is_handed)
                raw.send(frame_back)
        parcels(raw, sound)
        code, details = await asyncio.to_thread(raw.ended)
    assert code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.DATA_LOSS), details
    with suppress(StreamClosed):  # the sound one before it may have come in time
        assert await far.receive() == [question(1)]
    with pytest.raises(StreamClosed):
        await far.receive()
    await until(lambda: not two.streams._served)


async def test_a_proof_for_one_purpose_opens_no_stream_of_another(broker: MakeBroker) -> None:
    two = await broker(2)
    with RawPeer(two.address, method=REPLICATION) as raw:
        with pytest.raises(grpc.RpcError):
            await asyncio.to_thread(raw.handshake, 2, role=pb.PEER_ROLE_CONTROL)
        assert raw.call.code() is grpc.StatusCode.UNIMPLEMENTED
    assert two.came.empty()


async def test_a_peer_that_sends_and_never_reads_is_held_by_its_own_window(broker: MakeBroker) -> None:
    two = await broker(2)
    async with proven(two, CONTROL, pb.PEER_ROLE_CONTROL) as raw:
        far = await two.came.get()
        for number in range(1, 2_000):
            parcels(raw, control_codec.encode(question(number)))
        assert len(await receive(far, 1_999)) == 1_999


# --- strangers -------------------------------------------------------------------------------------------


@asynccontextmanager
async def bouncing(one: Broker, two: Broker) -> AsyncIterator[Callable[[], float]]:
    """A stream in use all the time; gives the longest that a message and its answer have taken so far (s)."""
    near, far = await one.pair(two)
    slowest, stop = 0.0, asyncio.Event()

    async def echo() -> None:
        with suppress(StreamClosed):
            while True:
                for message in await far.receive():
                    far.send(message)

    async def bounce() -> None:
        nonlocal slowest
        while not stop.is_set():
            began = awake()
            near.send(question(1))
            assert await receive(near, 1) == [question(1)]
            slowest = max(slowest, awake() - began)
            await asyncio.sleep(0.002)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(echo())
        bounces = tasks.create_task(bounce())
        yield lambda: slowest
        stop.set()
        await bounces
        near.close()
    assert slowest < 2.0, "the good stream was held up"


@pytest.mark.parametrize("what", ["nothing", "noise", "TLS", "settings", "HTTP/2 noise"])
async def test_connections_with_garbage_leave_a_good_stream_alone(broker: MakeBroker, what: str) -> None:
    one, two = await broker(1), await broker(2)
    host, _, port = two.address.rpartition(":")

    def disturb() -> None:
        with ExitStack() as stack:
            for _ in range(300):
                stranger = stack.enter_context(socket.create_connection((host, int(port)), 5))
                try:
                    stranger.sendall(GARBAGE[what])
                except OSError:
                    continue  # closed on us already, which is fine
            time.sleep(0.2)

    async with bouncing(one, two):
        await asyncio.to_thread(disturb)


async def test_a_port_scan_leaves_a_good_stream_alone(broker: MakeBroker) -> None:
    one, two = await broker(1), await broker(2)
    host, _, port = two.address.rpartition(":")

    def scan() -> None:
        for _ in range(1_000):
            socket.create_connection((host, int(port)), 5).close()

    async with bouncing(one, two):
        await asyncio.to_thread(scan)


@pytest.mark.parametrize("method", [CONTROL, REPLICATION])
async def test_streams_that_open_and_say_nothing_keep_no_peer_out(broker: MakeBroker, method: str) -> None:
    one, two = await broker(1), await broker(2)
    async with bouncing(one, two):
        with ExitStack() as stack:
            silent = [stack.enter_context(RawPeer(two.address, 100 + number, method)) for number in range(60)]
            await until(lambda: len(two.streams._port.gate._visits) == HANDSHAKES_MAX)
            async with asyncio.timeout(WAIT_SECONDS):
                await one.open(two)
            codes: list[Any] = [await asyncio.to_thread(raw.ended) for raw in silent]
            assert {code for code, _ in codes} == {grpc.StatusCode.CANCELLED}
