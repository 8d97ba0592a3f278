"""A broker's clients' side: what `rpc` does for streams and questions, on simulated connections."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from millpond.wire.errors import MillpondError
from millpond_broker.core.leader import Acks
from millpond_broker.runtime.broker import Broker
from millpond_broker.runtime.fetch import Fetched
from millpond_broker.runtime.peers import StreamClosed
from millpond_broker.runtime.produce import Batch, Result
from tests.sim.cluster.network import End

PRODUCE: Final = "produce"
FETCH: Final = "fetch"
ASK: Final = "ask"


@dataclass(frozen=True, slots=True)
class Batches:
    """A message of a produce stream."""

    batches: tuple[Batch, ...]
    acks: Acks


@dataclass(frozen=True, slots=True)
class Results:
    """What became of some."""

    results: tuple[Result, ...]


@dataclass(frozen=True, slots=True)
class Subscribe:
    """A position of a fetch stream."""

    handle: int
    topic_id: bytes
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Credit:
    """More room."""

    size_bytes: int


@dataclass(frozen=True, slots=True)
class FetchedSome:
    """What there is for a reader."""

    fetched: tuple[Fetched, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """`what` is one of those that `serve_clients` knows."""

    what: str
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Reply:
    """Its answer, or that of a stream that cannot go on."""

    value: Any
    error: MillpondError | None = None


Answered = Callable[[tuple[bytes, int], Acks], None]
"""Hears of each batch as it is acknowledged: of which partition, and for whom."""


def serve_clients(broker: Broker, answered: Answered) -> dict[str, Callable[[End], Awaitable[None]]]:
    """Handlers by kind of connection."""
    return {
        PRODUCE: lambda end: _ending(end, _produce(broker, end, answered)),
        FETCH: lambda end: _ending(end, _fetch(broker, end)),
        ASK: lambda end: _ending(end, _ask(broker, end)),
    }


async def _ending(end: End, served: Awaitable[None]) -> None:
    try:
        await served
    except MillpondError as error:
        end.send(Reply(None, error))
    except StreamClosed:
        pass


async def _both(reading: Awaitable[None], writing: Awaitable[None]) -> None:
    """Until the client is gone, or nothing more is to be said."""
    reader, writer = asyncio.ensure_future(reading), asyncio.ensure_future(writing)
    try:
        await asyncio.wait((reader, writer), return_when=asyncio.FIRST_COMPLETED)
        for task in (writer, reader):
            if task.done():
                task.result()
    finally:
        for task in (reader, writer):
            task.cancel()
        await asyncio.wait((reader, writer))
        for task in (reader, writer):
            if not task.cancelled():
                task.exception()  # looked at: the first one was raised


async def _produce(broker: Broker, end: End, answered: Answered) -> None:
    taken: dict[int, tuple[tuple[bytes, int], Acks]] = {}

    async def take() -> None:
        while True:
            for message in await end.receive():
                assert isinstance(message, Batches), "nothing else is sent"
                for batch in message.batches:
                    taken[batch.id] = ((batch.topic_id, batch.partition), message.acks)
                    session.offer(batch, message.acks)
                await session.room()

    async def give() -> None:
        while results := await session.take():
            for result in results:
                batch = taken.pop(result.id)
                if result.error is None:
                    answered(*batch)
            end.send(Results(tuple(results)))

    async with broker.produce_stream() as session:
        try:
            await _both(take(), give())
        finally:
            session.close()


async def _fetch(broker: Broker, end: End) -> None:
    async with broker.fetch_stream() as session:

        async def take() -> None:
            while True:
                for message in await end.receive():
                    match message:
                        case Subscribe(handle, topic_id, partition, offset):
                            session.start(handle, topic_id, partition, offset)
                        case Credit(size_bytes):
                            session.grant(size_bytes)

        async def give() -> None:
            while taken := await session.take():
                end.send(FetchedSome(tuple(taken.fetched)))

        try:
            await _both(take(), give())
        finally:
            session.close()


async def _ask(broker: Broker, end: End) -> None:
    while True:
        for question in await end.receive():
            try:
                end.send(Reply(await _answer(broker, question)))
            except MillpondError as error:
                end.send(Reply(None, error))


async def _answer(broker: Broker, question: Question) -> Any:
    match question.what:
        case "metadata":
            return broker.metadata()
        case "create":
            topic, version = await broker.topics().create(**question.facts)
            return topic, version
        case "reassign":
            return await broker.topics().replicas.reassign(**question.facts)
        case "producer id":
            return await broker.new_producer_id()
        case "offsets":
            return broker.offsets(**question.facts)
    raise AssertionError(f"{question.what} is no question")
