"""Readers: each follows one partition at its high watermark, wherever its leader is."""

from __future__ import annotations

import asyncio
from typing import Final

from millpond.wire.batch import decode_batch, parse_batch
from millpond.wire.errors import OffsetOutOfRange
from millpond.wire.header import parse_header
from millpond_broker.runtime.fetch import Fetched
from millpond_broker.runtime.peers import StreamClosed
from tests.sim.cluster.clients import Client, NoAnswer, partition_name
from tests.sim.cluster.network import End
from tests.sim.cluster.serving import FETCH, Credit, FetchedSome, Reply, Subscribe
from tests.sim.cluster.world import World
from tests.sim.history.operations import Assign, Operation, Poll, Refused

CREDIT_BYTES: Final = 16 << 10
SILENCE_SECONDS: Final = 3.0
"""Without records, after which a reader looks for the leader again."""
AGAIN_SECONDS: Final = 6.0
"""On average, after which one reads from the beginning again."""


class ModelReader(Client):
    """See the module. `rereads`: from time to time it begins again, somewhere."""

    def __init__(
        self,
        world: World,
        host_id: int,
        name: str,
        history: list[Operation],
        *,
        topic: str,
        partition: int,
        rereads: bool = True,
    ) -> None:
        super().__init__(world, host_id, name)
        self.next_offset = 0
        self._history = history
        self._topic = topic
        self.partition = partition
        self._rereads = rereads
        self._sessions = 0

    def read(self) -> None:
        """Begin to."""
        self._assign(0)
        self.begin(self._run())

    def _assign(self, offset: int) -> None:
        self.next_offset = offset
        self._history.append(Assign(time=self._now(), process=self.name, partition=self._name, offset=offset))

    @property
    def _name(self) -> str:
        return partition_name(self._topic, self.partition)

    def _now(self) -> float:
        return round(self.world.loop.time(), 6)

    async def _run(self) -> None:
        while not self.stopping:
            topic_id, leader = await self.leader_of(self._topic, self.partition)
            try:
                end = await self.open(leader, FETCH)
            except NoAnswer:
                await self.back_off()
                continue
            self._sessions += 1
            try:
                await self._follow(end, topic_id, f"{self.name} at {leader}, {self._sessions}")
            except (StreamClosed, TimeoutError):
                pass
            finally:
                end.close()
            await self.back_off()

    async def _follow(self, end: End, topic_id: bytes, session: str) -> None:
        end.send(Subscribe(1, topic_id, self.partition, self.next_offset))
        end.send(Credit(CREDIT_BYTES))
        ends_at = self.world.loop.time() + self.random.expovariate(1 / AGAIN_SECONDS)
        while not self.stopping:
            async with asyncio.timeout(SILENCE_SECONDS):
                messages = await end.receive()
            for message in messages:
                if isinstance(message, Reply):
                    return
                assert isinstance(message, FetchedSome), "nothing else is answered"
                for fetched in message.fetched:
                    if not self._take(fetched, session):
                        return
                    end.send(Credit(len(fetched.batches)))
            if self._rereads and self.world.loop.time() >= ends_at:
                self._assign(self.random.choice((0, self.next_offset // 2)))
                return

    def _take(self, fetched: Fetched, session: str) -> bool:
        """What came; whether more may."""
        if fetched.error is not None:
            if isinstance(fetched.error, OffsetOutOfRange):
                self._history.append(
                    Refused(
                        time=self._now(),
                        process=self.name,
                        partition=self._name,
                        offset=self.next_offset,
                        error=str(fetched.error),
                    )
                )
            return False
        assert fetched.bounds is not None, "bounds come with whatever is no error"
        records = tuple(
            (offset, value) for offset, value in decoded(fetched.batches) if offset >= self.next_offset
        )
        if records:
            self.next_offset = records[-1][0] + 1
        self._history.append(
            Poll(
                time=self._now(),
                process=self.name,
                partition=self._name,
                records=records,
                high_watermark=fetched.bounds.high_watermark,
                session=session,
            )
        )
        return True


def decoded(data: bytes) -> list[tuple[int, str]]:
    """(offset, value) of every record in these batches."""
    found = []
    at = 0
    while at < len(data):
        size = parse_header(data, at).size_bytes
        batch = decode_batch(parse_batch(data[at : at + size]))
        found += [
            (offset, (value or b"").decode())
            for offset, value in zip(batch.offsets, batch.values, strict=True)
        ]
        at += size
    return found
