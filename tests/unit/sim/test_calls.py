"""Simulated gRPC: what the SDK and a broker's handlers notice of it is what they would of the real one."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from random import Random
from typing import Any

import grpc
import grpc.aio
import pytest

from tests.sim.cluster.calls import CALL, Channel, client_address_of, serve_calls, unseen
from tests.sim.cluster.network import PATIENCE_SECONDS, Network
from tests.sim.loop import Owner, SimLoop, simulated

BYTES = {"request_serializer": bytes, "response_deserializer": bytes}


class Pair:
    """A broker on host 1 with three methods, and a channel to it on host 2."""

    def __init__(self, loop: SimLoop) -> None:
        self.loop = loop
        self.network = Network(loop, Random(1), lambda _what, _about: None)
        self.owners = {host_id: Owner(f"host {host_id}") for host_id in (1, 2)}
        for host_id, owner in self.owners.items():
            self.network.add(host_id)
            self.network.up(host_id, owner)
        self.cancelled = 0
        self.left: list[float | None] = []
        methods: dict[str, Any] = {
            "/s/Echo": grpc.unary_unary_rpc_method_handler(self._echo),
            "/s/Refuse": grpc.unary_unary_rpc_method_handler(self._refuse),
            "/s/Hang": grpc.unary_unary_rpc_method_handler(self._hang),
            "/s/Count": grpc.unary_stream_rpc_method_handler(self._count),
            "/s/Talk": grpc.stream_stream_rpc_method_handler(self._talk),
        }
        self.network.serve(1, CALL, serve_calls(methods, lambda _path: unseen))
        self.channel = Channel(self.network, self.owners[2], 2, client_address_of(1))

    async def _echo(self, data: bytes, context: Any) -> bytes:
        self.left.append(context.time_remaining())
        return data

    async def _refuse(self, data: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.NOT_FOUND, "no such thing", (("error-bin", data),))
        raise AssertionError

    async def _hang(self, _data: bytes, _context: Any) -> bytes:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return b""

    async def _count(self, data: bytes, context: Any) -> None:
        for number in range(int(data)):
            await context.write(str(number).encode())

    async def _talk(self, _requests: object, context: Any) -> None:
        try:
            while (data := await context.read()) is not grpc.aio.EOF:
                await context.write(data.upper())
            await context.write(b"bye")
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    def run(self, coro: Coroutine[Any, Any, Any], seconds: float = 10.0) -> Any:
        async def within() -> Any:
            return await coro

        return self.loop.run_for(within(), seconds)

    def call(self, path: str, data: bytes = b"x", seconds: float = 1.0) -> Coroutine[Any, Any, Any]:
        async def call() -> Any:
            return await self.channel.unary_unary(path, **BYTES)(data, timeout=seconds, metadata=())

        return call()


@pytest.fixture
def pair() -> Iterator[Pair]:
    with simulated(SimLoop()) as loop:
        yield Pair(loop)
        assert loop.end() == []


def test_a_call_has_its_answer_and_its_handler_the_deadline(pair: Pair) -> None:
    assert pair.run(pair.call("/s/Echo", b"hello")) == b"hello"
    (left,) = pair.left
    assert left is not None
    assert 0.5 < left <= 1.0


def test_a_refusal_comes_with_its_status_and_metadata(pair: Pair) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        pair.run(pair.call("/s/Refuse", b"why"))
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    assert refused.value.details() == "no such thing"
    assert dict(refused.value.trailing_metadata()) == {"error-bin": b"why"}


def test_a_call_that_takes_too_long_ends_at_both_ends(pair: Pair) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as late:
        pair.run(pair.call("/s/Hang"))
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    pair.loop.run(pair.loop.time() + 1)
    assert pair.cancelled == 1


def test_who_does_not_listen_refuses(pair: Pair) -> None:
    pair.network.down(1)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        pair.run(pair.call("/s/Echo"))
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert refused.value.details() == "connection refused"


def test_a_stream_ends_by_half_close_with_all_that_was_said(pair: Pair) -> None:
    async def talk() -> list[Any]:
        call = pair.channel.stream_stream("/s/Talk", **BYTES)(metadata=())
        for word in (b"one", b"two"):
            await call.write(word)
        await call.done_writing()
        heard = [await call.read() for _ in range(4)]
        return [*heard, await call.code()]

    assert pair.run(talk()) == [b"ONE", b"TWO", b"bye", grpc.aio.EOF, grpc.StatusCode.OK]


def test_every_message_of_a_stream_arrives_before_its_end(pair: Pair) -> None:
    async def count() -> list[Any]:
        call = pair.channel.unary_stream("/s/Count", **BYTES)(b"50", metadata=())
        heard = []
        while (data := await call.read()) is not grpc.aio.EOF:
            heard.append(data)
        return heard

    assert pair.run(count()) == [str(number).encode() for number in range(50)]


def test_who_gives_up_a_read_gives_up_the_call(pair: Pair) -> None:
    async def give_up() -> Any:
        call = pair.channel.stream_stream("/s/Talk", **BYTES)(metadata=())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await call.read()
        return call.done()

    assert pair.run(give_up())
    pair.loop.run(pair.loop.time() + 1)
    assert pair.cancelled == 1


def test_a_stream_to_a_broker_that_died_is_unavailable(pair: Pair) -> None:
    async def talk() -> Any:
        call = pair.channel.stream_stream("/s/Talk", **BYTES)(metadata=())
        await call.write(b"one")
        assert await call.read() == b"ONE"
        pair.owners[1].is_dead = True
        pair.network.down(1)
        return await call.read()

    with pytest.raises(grpc.aio.AioRpcError) as broken:
        pair.run(talk(), PATIENCE_SECONDS[1] + 1)
    assert broken.value.code() is grpc.StatusCode.UNAVAILABLE
