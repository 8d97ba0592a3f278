"""Brokers that do not vote, beside voters in memory: their metadata log, and all that rests on it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from random import Random
from typing import Any

from millpond_broker.consensus.metadata_log import MetadataLog
from millpond_broker.runtime.member_log import MemberLog, MemberOptions, VoterLog
from millpond_broker.runtime.peers import Peer, Purpose
from millpond_broker.runtime.subscriptions import Subscriptions
from millpond_broker.storage.directory import DataDirectory
from tests.sim.disk import SimFiles
from tests.sim.loop import SimLoop, simulated
from tests.unit.runtime.brokers import Inline
from tests.unit.runtime.members import Cluster, Node
from tests.unit.runtime.streams import MemoryStreams
from tests.unit.runtime.voters import address_of, directory_of, incarnation_of

DATA = Path("/data")


class Following(Cluster):
    """Three voters, of which 1 leads, and whoever follows them."""

    def __init__(self) -> None:
        super().__init__(1, 2, 3)
        self.files: dict[int, SimFiles] = {}
        self.opened: dict[int, MemberLog] = {}
        self.directories: dict[int, DataDirectory] = {}

    async def start(self, broker_id: int, start: int = 0) -> Node:
        """A voter, which also serves subscriptions."""
        node = await super().start(broker_id, start)
        subscriptions = Subscriptions(node.metadata, broker_id, directory_of(broker_id))
        node.streams.serve(Purpose.SUBSCRIPTION, subscriptions.serve)
        return node

    async def open(
        self, broker_id: int, start: int = 0, *, disk: str = "", configured: tuple[int, ...] = (1, 2, 3)
    ) -> MemberLog:
        """The log of a broker that does not vote, or not yet. `disk`: another one than it had; `configured`:
        with which voters it is.
        """
        files = self.files.setdefault(broker_id, SimFiles(Random(broker_id)))
        directory = DataDirectory.open(files, DATA, role="broker", new_id=disk or directory_of(broker_id))
        self.directories[broker_id] = directory
        streams = MemoryStreams(self.network, address_of(broker_id))
        peer = Peer(broker_id, directory.directory_id, incarnation_of(broker_id, start), b"")
        await streams.start(lambda: peer, lambda _peer: None)

        async def open_voter(_addresses: Mapping[int, str]) -> VoterLog:
            return self.voters.logs[broker_id]

        try:
            log = await MemberLog.open(
                MemberOptions(broker_id=broker_id, configured={key: address_of(key) for key in configured}),
                files,
                directory,
                streams,
                disk=Inline(),
                open_voter=open_voter,
            )
        except BaseException:  # as a broker that does not start; re-raised
            directory.close()
            await streams.close()
            raise
        self.opened[broker_id] = log
        return log

    async def follow(self, broker_id: int, start: int = 0) -> Node:
        """A whole broker that does not vote."""
        log: MetadataLog = await self.open(broker_id, start)
        self.voters.logs[broker_id] = log  # type: ignore[assignment]  # where a node looks for its own
        node = self.nodes[broker_id] = Node(self, broker_id, start)
        del self.voters.logs[broker_id]
        await node.up()
        return node

    async def end(self, broker_id: int) -> None:
        """As when its process is killed."""
        if broker_id in self.nodes:
            await self.kill(broker_id)
        log = self.opened.pop(broker_id)
        await log._streams.close()
        await log.close()
        self.directories.pop(broker_id).close()

    async def follows_no_leader(self, broker_id: int) -> int:
        """Have it follow a voter that does not lead; which."""
        while (followed := self.followed(broker_id)) in (None, self.voters.leader):
            self.opened[broker_id].look_elsewhere()
            await asyncio.sleep(0.3)
        assert followed is not None
        return followed

    def followed(self, broker_id: int) -> int | None:
        """The voter that it follows now."""
        stream = self.opened[broker_id]._subscriber._stream
        return None if stream is None else stream.peer.broker_id


def play(story: Callable[[Following], Coroutine[Any, Any, None]], *, seconds: float = 120.0) -> None:
    """Three voters run, of which 1 leads, and what happens then. Time is virtual."""

    async def run() -> None:
        cluster = Following()
        cluster.voters.elect(1)
        try:
            for broker_id in (1, 2, 3):
                await cluster.start(broker_id)
            await cluster.running()
            await story(cluster)
        finally:
            for broker_id in list(cluster.opened):
                await cluster.end(broker_id)
            for broker_id in list(cluster.nodes):
                await cluster.kill(broker_id)

    with simulated(SimLoop()) as loop:
        loop.run_for(run(), seconds)
