"""gRPC on simulated connections, as far as both ends of it notice.

`Channel` is what the SDK gets from `grpc.aio.insecure_channel`: calls with one answer, and streams.
`serve_calls` runs a broker's own handlers (`rpc/server.py:services`) on what comes. Messages pass as the
bytes that they would be. Each call is a connection of its own: one may break while others go on, and none is
ordered after another.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

import grpc
import grpc.aio

from millpond_broker.rpc.server import services
from millpond_broker.runtime.broker import Broker
from millpond_broker.runtime.peers import PeerUnreachable, StreamClosed
from tests.sim.cluster.network import End, Network
from tests.sim.loop import Owner

CALL: Final = "call"
"""The kind of these connections."""
CONNECT_SECONDS: Final = 2.0
"""As the SDK has it for one attempt to connect."""


@dataclass(frozen=True, slots=True)
class Begin:
    """The first message: which method, and how long its caller waits."""

    path: str
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Data:
    """One message, either way."""

    data: bytes


@dataclass(frozen=True, slots=True)
class NoMore:
    """The caller has half-closed."""


@dataclass(frozen=True, slots=True)
class Status:
    """The end, from the broker. Nothing follows."""

    code: grpc.StatusCode
    details: str = ""
    trailing: tuple[tuple[str, bytes], ...] = ()


# --- the caller's end -----------------------------------------------------------------------------------


class Channel:
    """One broker's address, as the SDK's links know it."""

    def __init__(self, network: Network, owner: Owner, host_id: int, address: str) -> None:
        self._network = network
        self._owner = owner
        self._host_id = host_id
        self._target = broker_of(address)
        self._calls: dict[Call, None] = {}

    def unary_unary(self, path: str, **codec: Any) -> Callable[..., Awaitable[Any]]:
        async def call(request: Any, *, timeout: float, metadata: Any) -> Any:
            del metadata
            made = self._call(path, codec, timeout)
            try:
                async with asyncio.timeout(timeout):
                    await made.write(request)
                    await made.done_writing()
                    answer = await made.read()
            except TimeoutError:
                raise _failed(Status(grpc.StatusCode.DEADLINE_EXCEEDED)) from None
            finally:
                made.cancel()
            if answer is grpc.aio.EOF:
                raise _failed(Status(grpc.StatusCode.INTERNAL, "no answer"))
            return answer

        return call

    def stream_stream(self, path: str, **codec: Any) -> Callable[..., Call]:
        return lambda metadata: self._call(path, codec, None)

    def unary_stream(self, path: str, **codec: Any) -> Callable[..., Call]:
        def call(request: Any, *, metadata: Any) -> Call:
            del metadata
            return self._call(path, codec, None, request)

        return call

    def _call(self, path: str, codec: Any, seconds: float | None, request: Any = None) -> Call:
        def connect() -> Awaitable[End]:
            wait = CONNECT_SECONDS if seconds is None else min(seconds, CONNECT_SECONDS)
            return self._network.open(self._owner, self._host_id, self._target, CALL, wait)

        call = Call(connect, Begin(path, seconds), codec, self._calls, request)
        self._calls[call] = None
        return call

    async def close(self) -> None:
        for call in list(self._calls):
            call.cancel()


class Call:
    """One call, as its caller has it (grpc.aio.StreamStreamCall). One task reads, one writes."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[End]],
        begin: Begin,
        codec: Any,
        calls: dict[Call, None],
        request: Any,
    ) -> None:
        self._begin = begin
        self._encode = codec["request_serializer"]
        self._decode = codec["response_deserializer"]
        self._calls = calls
        self._request = request
        self._end: End | None = None
        self._inbox: deque[bytes] = deque()
        self._status: Status | None = None
        loop = asyncio.get_running_loop()
        # It belongs to this call, and ends by itself or with it.
        self._opening = loop.create_task(self._open(connect), name=f"call {begin.path}")

    async def _open(self, connect: Callable[[], Awaitable[End]]) -> None:
        try:
            end = await connect()
        except PeerUnreachable as error:
            words = "connection refused" if "refuses" in str(error) else "connection timed out"
            self._finish(Status(grpc.StatusCode.UNAVAILABLE, words))
            return
        if self._status is not None:
            end.close()
            return
        self._end = end
        end.send(self._begin)
        if self._request is not None:
            end.send(Data(self._encode(self._request)))
            end.send(NoMore())

    async def _opened(self) -> End | None:
        if not self._opening.done():
            await asyncio.wait((self._opening,))
        if not self._opening.cancelled():
            self._opening.result()  # a fault of this simulator's is told
        return self._end

    async def read(self) -> Any:
        """The next message, or EOF. Raises AioRpcError for a status other than OK."""
        try:
            end = await self._opened()
            while not self._inbox and self._status is None:
                assert end is not None, "it is open, or has ended"
                await self._receive(end)
        except asyncio.CancelledError:  # as gRPC has it: whoever gives up a read gives up the call
            self.cancel()
            raise
        if self._inbox:
            return self._decode(self._inbox.popleft())
        assert self._status is not None, "it has ended"
        if self._status.code is not grpc.StatusCode.OK:
            raise _failed(self._status)
        return grpc.aio.EOF

    async def _receive(self, end: End) -> None:
        try:
            messages = await end.receive()
        except StreamClosed:
            self._finish(Status(grpc.StatusCode.UNAVAILABLE, "connection reset"))
            return
        for message in messages:
            if isinstance(message, Data):
                self._inbox.append(message.data)
            else:
                self._finish(message)

    async def write(self, message: Any) -> None:
        """Put one on its way. Raises AioRpcError if the call failed, InvalidStateError once it is over."""
        end = await self._opened()
        if self._status is not None or end is None:
            if self._status is not None and self._status.code is not grpc.StatusCode.OK:
                raise _failed(self._status)
            raise asyncio.InvalidStateError("the call is over")
        end.send(Data(self._encode(message)))

    async def done_writing(self) -> None:
        """Half-close."""
        end = await self._opened()
        if end is not None and self._status is None:
            end.send(NoMore())

    def done(self) -> bool:
        return self._status is not None

    def cancel(self) -> None:
        """End it here; the broker hears of it later."""
        self._finish(Status(grpc.StatusCode.CANCELLED))
        self._opening.cancel()

    async def code(self) -> grpc.StatusCode:
        assert self._status is not None, "asked at its end"
        return self._status.code

    async def details(self) -> str:
        return "" if self._status is None else self._status.details

    async def initial_metadata(self) -> grpc.aio.Metadata:
        return grpc.aio.Metadata()

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        return grpc.aio.Metadata(*(() if self._status is None else self._status.trailing))

    def _finish(self, status: Status) -> None:
        if self._status is None:
            self._status = status
            self._calls.pop(self, None)
            if self._end is not None:
                self._end.close()


def _failed(status: Status) -> grpc.aio.AioRpcError:
    trailing = grpc.aio.Metadata(*status.trailing)
    return grpc.aio.AioRpcError(status.code, grpc.aio.Metadata(), trailing, status.details)


def client_address_of(broker_id: int) -> str:
    """Where clients reach it."""
    return f"broker-{broker_id}.sim:7070"


def broker_of(address: str) -> int:
    """Whose address that is."""
    return int(address.removeprefix("broker-").partition(".")[0])


# --- the broker's end -----------------------------------------------------------------------------------


class _Aborted(Exception):
    """A handler ends its call with a status."""

    def __init__(self, status: Status) -> None:
        super().__init__(status)
        self.status = status


@dataclass(eq=False)
class _Context:
    """What a handler has of its call (grpc.aio.ServicerContext)."""

    end: End
    ends_at: float | None
    seen: Callable[[str, bytes], None]
    inbox: deque[Data | NoMore] = field(default_factory=deque)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    async def read(self) -> Any:
        while not self.inbox:
            self.arrived.clear()
            await self.arrived.wait()
        if isinstance(self.inbox[0], NoMore):
            return grpc.aio.EOF
        message = self.inbox.popleft()
        assert isinstance(message, Data), "there is no other"
        self.seen("<", message.data)
        return message.data

    async def write(self, data: bytes) -> None:
        self.seen(">", data)
        self.end.send(Data(data))

    async def abort(self, code: grpc.StatusCode, details: str, trailing: Any = ()) -> NoReturn:
        raise _Aborted(Status(code, details, tuple(trailing)))

    def time_remaining(self) -> float | None:
        return None if self.ends_at is None else self.ends_at - asyncio.get_running_loop().time()


Seen = Callable[[str, bytes], None]
"""Hears of each message of a call that a broker reads ("<") or writes (">"), as bytes."""


def methods_of(broker: Broker) -> dict[str, Any]:
    """A broker's handlers by the path of their calls."""
    return {
        f"/{service}/{name}": handler
        for service, handlers in services(broker).items()
        for name, handler in handlers.items()
    }


def serve_calls(methods: Mapping[str, Any], watch: Callable[[str], Seen]) -> Callable[[End], Awaitable[None]]:
    """The handler of such connections, as a broker's server is from its start. `watch` is asked at each call,
    by its path, who hears of its messages.
    """

    async def serve(end: End) -> None:
        try:
            begin, *rest = await end.receive()
        except StreamClosed:
            return
        now = asyncio.get_running_loop().time()
        ends_at = None if begin.seconds is None else now + begin.seconds
        context = _Context(end, ends_at, watch(begin.path))
        context.inbox.extend(rest)
        await _serve(end, methods[begin.path], context)

    return serve


def unseen(_way: str, _data: bytes) -> None:
    """Nobody hears of it."""
    return


async def _serve(end: End, handler: Any, context: _Context) -> None:
    """Until the caller hangs up, which it does once it has the status."""
    loop = asyncio.get_running_loop()
    working = loop.create_task(_work(handler, context), name="handler")
    hearing = loop.create_task(_hear(end, context), name="hearing")
    try:
        await asyncio.wait((working, hearing), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            end.send(working.result())
            await asyncio.wait((hearing,))
    finally:
        working.cancel()
        hearing.cancel()
        await asyncio.wait((working, hearing))
        if not working.cancelled():
            working.exception()  # looked at: it was raised, or its caller is gone


async def _hear(end: End, context: _Context) -> None:
    while True:
        try:
            context.inbox.extend(await end.receive())
        except StreamClosed:
            return
        context.arrived.set()


async def _work(handler: Any, context: _Context) -> Status:
    try:
        if handler.unary_unary is not None:
            await context.write(await handler.unary_unary(await context.read(), context))
        elif handler.unary_stream is not None:
            await handler.unary_stream(await context.read(), context)
        else:
            await handler.stream_stream(None, context)
    except _Aborted as aborted:
        return aborted.status
    return Status(grpc.StatusCode.OK)
