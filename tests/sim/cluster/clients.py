"""Clients of simulated brokers: machines of their own, which know brokers by their network only."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any, Final

from millpond.wire.errors import MillpondError
from millpond_broker.core.image import MetadataImage
from millpond_broker.runtime.peers import PeerUnreachable, StreamClosed
from tests.sim.cluster.network import End
from tests.sim.cluster.serving import ASK, Question, Reply
from tests.sim.cluster.world import World
from tests.sim.loop import Owner

ASK_SECONDS: Final = 2.0
"""For an answer to a question."""
BACK_OFF_SECONDS: Final = (0.05, 0.3)

Key = tuple[bytes, int]
"""A partition: its topic's id, and its number."""


class NoAnswer(Exception):
    """Nobody answered, or not with what was asked for."""


class Client:
    """A process with a name. Its tasks are started by `begin`."""

    def __init__(self, world: World, host_id: int, name: str) -> None:
        self.world = world
        self.host_id = host_id
        self.name = name
        self.random = Random(f"{world.seed} client {name}")
        self.owner = Owner(name)
        self.stopping = False
        """It begins nothing new."""
        world.network.add(host_id)
        world.network.up(host_id, self.owner)

    def begin(self, *coroutines: Any) -> None:
        """Run these, in this process."""

        def begin() -> None:
            for coroutine in coroutines:
                self.world.loop.create_task(self._whole(coroutine), name=self.name)

        self.world.loop.call_soon(begin, context=self.owner.context)

    async def _whole(self, coroutine: Any) -> None:
        try:
            await coroutine
        except Exception as error:  # a client's own fault, or an anomaly that it found: ends the run
            self.world.client_failed(self.owner, error)

    def now(self) -> float:
        """As histories have it."""
        return round(self.world.loop.time(), 6)

    async def back_off(self) -> None:
        """Wait a little before the next attempt."""
        await asyncio.sleep(self.random.uniform(*BACK_OFF_SECONDS))

    async def open(self, broker_id: int, kind: str) -> End:
        """A connection to a broker. Raises NoAnswer."""
        try:
            return await self.world.network.open(self.owner, self.host_id, broker_id, kind, ASK_SECONDS)
        except PeerUnreachable as error:
            raise NoAnswer(str(error)) from None

    async def ask(self, broker_id: int, what: str, **facts: Any) -> Any:
        """The answer of one broker. Raises NoAnswer, and what the question was refused with."""
        end = await self.open(broker_id, ASK)
        try:
            async with asyncio.timeout(ASK_SECONDS):
                end.send(Question(what, facts))
                reply = (await end.receive())[0]
        except (StreamClosed, TimeoutError):
            raise NoAnswer(f"{broker_id} does not answer {what}") from None
        finally:
            end.close()
        assert isinstance(reply, Reply), "nothing else is answered"
        if reply.error is not None:
            raise reply.error
        return reply.value

    async def ask_anybody(self, what: str, **facts: Any) -> Any:
        """The answer of some broker, at last: who refuses is asked again, or another is."""
        while True:
            try:
                return await self.ask(self.random.choice(list(self.world.hosts)), what, **facts)
            except (NoAnswer, MillpondError):
                await self.back_off()

    async def leader_of(self, topic: str, partition: int) -> tuple[bytes, int]:
        """The topic's id and the partition's leader, as some broker has it who knows of one."""
        while True:
            image: MetadataImage = await self.ask_anybody("metadata")
            if topic in image.topic_ids:
                found = image.topics[image.topic_ids[topic]]
                leader = found.partitions[partition].leader
                if leader is not None:
                    return found.topic_id, leader
            await self.back_off()


def partition_name(topic: str, partition: int) -> str:
    """As histories have it, where no two topics have the same name."""
    return f"{topic}-{partition}"


def named(topic: str, key: Key) -> str:
    """As histories have it, where a topic may be made again under its name."""
    return f"{topic}.{key[0].hex()[:8]}-{key[1]}"
