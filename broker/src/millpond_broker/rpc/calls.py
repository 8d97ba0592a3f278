"""What every call has in common: bytes to a message, typed refusals, and a deadline.

Messages are parsed here and not by gRPC, so that bytes that are no message get an error with a name, too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, NoReturn, Protocol, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from millpond.wire.errors import InternalError, InvalidRequest, MillpondError, OperationTimeout
from millpond_broker.observe.logs import event
from millpond_broker.rpc.translate import error_detail

_log: Final = logging.getLogger(__name__)

ERROR_KEY: Final = "millpond-error-bin"
"""Trailing metadata: the serialized ErrorDetail of a refused call."""
CALL_SECONDS_MAX: Final = 60.0
"""A unary call takes no longer, whatever its deadline: nothing waits for good."""

MESSAGE_BYTES_MAX: Final = 32 << 20
"""Largest message. Well above the largest batch, so that one that is too large is refused by its name."""
REQUEST_BYTES_MAX: Final = 2 << 20
"""A request that carries no records: 20,000 positions are half of it. Parsing and refusing one takes the loop
for milliseconds."""

M = TypeVar("M", bound=Message)
Context = grpc.aio.ServicerContext[bytes, bytes]


def parse(message: type[M], data: bytes, bytes_max: int = REQUEST_BYTES_MAX) -> M:
    """The message that the bytes are. Raises InvalidRequest."""
    if len(data) > bytes_max:
        raise InvalidRequest(
            reason=f"{len(data)} bytes of {message.DESCRIPTOR.name}; {bytes_max} are allowed"
        )
    try:
        return message.FromString(data)
    except DecodeError as error:
        raise InvalidRequest(reason=f"these bytes are no {message.DESCRIPTOR.name}: {error}") from None


async def refuse(context: Context, error: MillpondError) -> NoReturn:
    """End the call with the error: its status, one line, and its facts."""
    detail = error_detail(error)
    await context.abort(
        grpc.StatusCode[error.status], detail.message, ((ERROR_KEY, detail.SerializeToString()),)
    )
    raise AssertionError("abort raises")


def unary(
    request: type[M], answer: Callable[[M], Awaitable[Message]], bytes_max: int = REQUEST_BYTES_MAX
) -> grpc.RpcMethodHandler[Any, Any]:
    """The handler of a call with one request, of `bytes_max` at most, and one answer."""

    async def handle(data: bytes, context: Context) -> bytes:
        remaining = context.time_remaining()
        seconds = CALL_SECONDS_MAX if remaining is None else min(remaining, CALL_SECONDS_MAX)
        try:
            async with asyncio.timeout(seconds):
                return (await answer(parse(request, data, bytes_max))).SerializeToString()
        except MillpondError as error:
            await refuse(context, error)
        except TimeoutError:
            await refuse(context, OperationTimeout(what=request.DESCRIPTOR.name, timeout=seconds))
        except Exception as error:  # the root of a call: it is told and logged, and the broker goes on
            await refuse(context, _unexpected(request, error))

    return grpc.unary_unary_rpc_method_handler(handle)


def _unexpected(request: type[Message], error: Exception) -> InternalError:
    event(_log, logging.ERROR, "call_failed", request=request.DESCRIPTOR.name, error=repr(error), trace=error)
    return InternalError(reason=f"{type(error).__name__} in {request.DESCRIPTOR.name}")


class Session(Protocol):
    """One stream's state, between the task that reads and the one that writes."""

    def end_of_input(self) -> None:
        """The client has half-closed."""

    def fail(self, error: MillpondError) -> None:
        """The stream cannot go on; its writer is told."""

    def close(self) -> None:
        """The stream is gone."""


async def read_all(
    context: Context,
    session: Session,
    message: type[M],
    take: Callable[[M], None],
    room: Callable[[], Awaitable[None]],
    *,
    bytes_max: int = REQUEST_BYTES_MAX,
) -> None:
    """Read a stream to its end, each message, of `bytes_max` at most, only once there is `room`.

    What is wrong ends the stream.
    """
    try:
        while True:
            await room()
            data: object = await context.read()
            if data is grpc.aio.EOF:
                session.end_of_input()
                return
            assert isinstance(data, bytes), "no deserializer is set"
            take(parse(message, data, bytes_max))
    except MillpondError as error:
        session.fail(error)
    except asyncio.CancelledError:
        raise
    except Exception as error:  # a task's root: told to the writer, which ends the stream
        session.fail(_unexpected(message, error))


def bidi(run: Callable[[Context], Awaitable[None]]) -> grpc.RpcMethodHandler[Any, Any]:
    """The handler of a call with a stream each way, which `run` reads and writes through its context."""

    async def handle(_requests: object, context: Context) -> None:
        try:
            await run(context)
        except MillpondError as error:
            await refuse(context, error)

    return grpc.stream_stream_rpc_method_handler(handle)


async def serve(
    session: Session, reader: Coroutine[Any, Any, None], writer: Coroutine[Any, Any, None]
) -> None:
    """Run a stream's two sides; over when the writer is. Raises what the session failed with."""
    failure: MillpondError | None = None
    try:
        async with asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(reader)
            try:
                await writer
            except MillpondError as error:
                failure = error
            reading.cancel()
    finally:
        session.close()
    if failure is not None:
        raise failure
