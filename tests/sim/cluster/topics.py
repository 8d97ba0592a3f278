"""Whoever administers the cluster: topics that are made, grown, moved, trimmed, deleted and made again.

All of it is done through the SDK, while others write and read. What a trim may take is said in the
history before it is asked for: nobody knows when a request that was not answered is carried out. What was
deleted, the metadata say in the end.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from millpond.client import Client as SdkClient
from millpond.wire.errors import MillpondError
from tests.sim.cluster.clients import Key, named
from tests.sim.cluster.sdk import SdkProcess
from tests.sim.cluster.world import World
from tests.sim.history.operations import Operation, Trim

STEADY: Final = "t"
"""The topic that is there all the time."""
PASSING: Final = "u"
"""One that is made, deleted, and made again."""
PARTITIONS_MAX: Final = 5
CHANGES: Final = ("make", "grow", "delete", "reassign", "trim", "elect", "drain", "configure")


class AdminProcess(SdkProcess):
    """See the module."""

    def __init__(self, world: World, host_id: int, name: str, history: list[Operation]) -> None:
        super().__init__(world, host_id, name)
        self.trimmed: dict[Key, int] = {}
        """Before which offset records may be gone."""
        self.client: SdkClient | None = None
        self._history = history
        self._config: dict[str, str] = {}
        self._replicas = 0
        self._actions: dict[str, Callable[[SdkClient], Awaitable[object]]] = {
            "make": self._make,
            "grow": self._grow,
            "delete": self._delete,
            "reassign": self._reassign,
            "trim": self._trim,
            "elect": lambda client: client.admin.elect_leaders(),
            "drain": lambda client: client.admin.drain(self.random.choice(list(world.hosts))),
            "configure": self._configure,
        }

    async def create(self, client: SdkClient, partitions: int, replicas: int, config: dict[str, str]) -> None:
        """Make the topic that stays."""
        self.client, self._replicas, self._config = client, replicas, config
        while True:
            try:
                await client.admin.create_topic(
                    STEADY, partitions=partitions, replicas=replicas, config=config, exist_ok=True
                )
            except MillpondError:
                await self.back_off()
            else:
                return

    def do(self, what: str) -> None:
        """Have it done now, if it can be. Nobody insists."""
        if self.client is not None and not self.stopping:
            self.begin(self._do(what, self.client))

    async def _do(self, what: str, client: SdkClient) -> None:
        try:
            await self._actions[what](client)
        except MillpondError as error:
            self.world.note(f"{what}: {error!r}")
        else:
            self.world.count(f"did {what}")

    # --- what it does -----------------------------------------------------------------------------------

    def _a_topic(self, client: SdkClient) -> str:
        names = [name for name in (STEADY, PASSING) if name in client.connection.view.topics]
        return self.random.choice(names) if names else STEADY

    async def _make(self, client: SdkClient) -> None:
        await client.admin.create_topic(
            PASSING, partitions=self.random.choice((1, 2)), replicas=self._replicas, config=self._config
        )

    async def _grow(self, client: SdkClient) -> None:
        name = self._a_topic(client)
        topic = await client.admin.describe_topic(name)
        if len(topic.partitions) < PARTITIONS_MAX:
            await client.admin.alter_topic(name, partitions=len(topic.partitions) + 1)

    async def _delete(self, client: SdkClient) -> None:
        await client.admin.delete_topic(PASSING)
        if self.random.random() < 0.5:
            await self._make(client)

    async def _reassign(self, client: SdkClient) -> None:
        name = self._a_topic(client)
        topic = client.connection.view.topics.get(name)
        if topic is not None:
            number = self.random.randrange(len(topic.partitions))
            replicas = self.random.sample(list(self.world.hosts), self._replicas)
            await client.admin.reassign(name, {number: replicas})

    async def _trim(self, client: SdkClient) -> None:
        topic = client.connection.view.topics.get(STEADY)
        if topic is None:
            return
        number = self.random.randrange(len(topic.partitions))
        ends = await client.admin.list_offsets(STEADY, at="end", partitions=[number])
        end = next(iter(ends.values()))
        offset = self.random.choice((end, end // 2, self.random.randint(0, end)))
        key = topic.topic_id, number
        self.trimmed[key] = max(offset, self.trimmed.get(key, 0))
        self._history.append(
            Trim(time=self.now(), process=self.name, partition=named(STEADY, key), offset=offset)
        )
        await client.admin.trim_topic(STEADY, before=offset, partition=number)

    async def _configure(self, client: SdkClient) -> None:
        size_bytes = self.random.choice((4096, 16384, 1 << 20))
        await client.admin.alter_topic(self._a_topic(client), config={"segment_bytes": size_bytes})
