"""Looks at the cluster once a second, by a client and by the engine: for the live view and the nemesis."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from typing import Final

from docker.errors import DockerException

import millpond
from millpond.admin import BrokerDescription, TopicDescription
from millpond.errors import MillpondError
from tests.chaos.containers import BROKERS, Containers

LOOK_SECONDS: Final = 1.0
ANSWER_SECONDS: Final = 3.0
AGAIN_SECONDS: Final = 0.2
CONNECT_SECONDS: Final = 60.0
RETENTION_MS: Final = 7 * 24 * 3600 * 1000
"""Of the topic, give or take a millisecond: a change that changes nothing."""


class Observer:
    """What was last seen. `run` it."""

    def __init__(self, containers: Containers, topic: str) -> None:
        self._containers = containers
        self._topic = topic
        self._seen: tuple[TopicDescription, list[BrokerDescription]] | None = None
        self._statuses: dict[int, str] = {}
        self._asked_at = float("-inf")
        self._changed = asyncio.Event()
        self._agreements = 0

    @property
    def controller(self) -> int | None:
        """Its broker id, as last seen."""
        brokers = self._seen[1] if self._seen else []
        return next((broker.id for broker in brokers if broker.controller), None)

    @property
    def leaders(self) -> Counter[int]:
        """How many partitions each broker leads."""
        partitions = self._seen[0].partitions if self._seen else ()
        return Counter(partition.leader for partition in partitions if partition.leader is not None)

    @property
    def busiest(self) -> int | None:
        """Who leads most."""
        return max(self.leaders, key=lambda broker: (self.leaders[broker], -broker), default=None)

    @property
    def is_whole(self) -> bool:
        """Every broker runs, every partition has a leader and all its replicas in sync."""
        if self._seen is None:
            return False
        topic, brokers = self._seen
        return all(broker.state == "running" for broker in brokers) and all(
            partition.leader is not None and len(partition.isr) == len(partition.replicas)
            for partition in topic.partitions
        )

    async def becomes_whole(self) -> None:
        """Wait until it is. Who answers may have been alone for long, and believe that nothing has happened:
        so a change of the metadata comes first, which takes a majority, and what is seen has to be later.
        """
        await self._agreed()
        instant = time.monotonic()
        while not (self.is_whole and self._asked_at > instant):
            self._changed.clear()
            await self._changed.wait()

    async def _agreed(self) -> None:
        while True:
            self._agreements += 1
            config = {"retention_ms": RETENTION_MS + self._agreements % 2}
            try:
                async with millpond.connect(self._containers.bootstrap, timeout=ANSWER_SECONDS) as client:
                    await client.admin.alter_topic(self._topic, config=config)
            except MillpondError:  # no majority yet: whoever waits has a bound
                await asyncio.sleep(AGAIN_SECONDS)
            else:
                return

    def line(self) -> str:
        """All of it, in a few words."""
        statuses = " ".join(
            f"{broker} {'up' if status == 'running' else status.upper()}"
            for broker, status in sorted(self._statuses.items())
        )
        age = time.monotonic() - self._asked_at
        if self._seen is None or age > 2 * ANSWER_SECONDS:
            return f"{statuses} | nobody answers"
        topic, brokers = self._seen
        fenced = [broker.id for broker in brokers if broker.state != "running"]
        behind = sum(len(partition.isr) < len(partition.replicas) for partition in topic.partitions)
        leaderless = sum(partition.leader is None for partition in topic.partitions)
        leaders = " ".join(f"{broker}:{self.leaders[broker]}" for broker in BROKERS)
        line = f"{statuses} | controller {self.controller or '-'} leaders {leaders} behind {behind}"
        return line + (f" none:{leaderless}" if leaderless else "") + (f" fenced {fenced}" if fenced else "")

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._ask())
            tasks.create_task(self._look())

    async def _look(self) -> None:
        while True:
            with contextlib.suppress(DockerException):  # busy with what it was told to do: next time
                self._statuses = await asyncio.to_thread(self._containers.statuses)
            await asyncio.sleep(LOOK_SECONDS)

    async def _ask(self) -> None:
        async with millpond.connect(self._containers.bootstrap, timeout=CONNECT_SECONDS) as client:
            while True:
                asked_at = time.monotonic()
                try:
                    # Not `describe_topic`, which would ask the leaders for the ends of their logs.
                    topics = await client.admin.list_topics(timeout=ANSWER_SECONDS)
                    brokers = await client.admin.brokers(timeout=ANSWER_SECONDS)
                except MillpondError:
                    pass
                else:
                    topic = next(topic for topic in topics if topic.name == self._topic)
                    self._seen, self._asked_at = (topic, brokers), asked_at
                    self._changed.set()
                await asyncio.sleep(max(0.0, asked_at + LOOK_SECONDS - time.monotonic()))
