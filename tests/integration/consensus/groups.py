"""Groups of voters in one process, on real disks, for tests of `GroupMetadataLog`."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Final

from millpond_broker.consensus.group import GroupMetadataLog, GroupOptions, format_founder
from millpond_broker.consensus.metadata_log import NotApplied, Ok
from millpond_broker.consensus.raft.library import Timing
from millpond_broker.consensus.raft.voter import VoterOptions
from millpond_broker.consensus.store import format_joiner
from millpond_broker.core.commands import ClaimController, Command, RegisterBroker, Voter
from millpond_broker.runtime.ports import DiskThread
from millpond_broker.storage.files import OsFiles
from tests.integration.consensus.hub import Hub

CLUSTER: Final = b"cluster of tests"
STEADY: Final = Timing(election_min=0.8, election_max=1.4, heartbeat=0.1, leader_fallback=2.0)
"""Longer than in production: a sync that waits for what others write is no reason for an election here."""
SECONDS_MAX: Final = 20.0


def voter(broker_id: int) -> Voter:
    """The record of a voter of tests."""
    return Voter(broker_id, f"disk-{broker_id}", f"broker-{broker_id}:7071")


async def until(condition: Callable[[], object]) -> None:
    """Wait for it; AssertionError after SECONDS_MAX."""
    try:
        async with asyncio.timeout(SECONDS_MAX):
            while not condition():
                await asyncio.sleep(0.005)  # a condition that nobody tells of
    except TimeoutError:
        raise AssertionError("it did not come about") from None


class Group:
    """Voters 1 to `count` of a new cluster, below a directory."""

    def __init__(self, root: Path, count: int, options: GroupOptions | None = None) -> None:
        self.root = root
        self.hub = Hub()
        self.options = options or GroupOptions(voter=VoterOptions(timing=STEADY), hand_over_seconds=2.0)
        self.logs: dict[int, GroupMetadataLog] = {}
        self.disk = DiskThread("disk of tests")
        founders = tuple(map(voter, range(1, count + 1)))
        self.configured = {founder.broker_id: founder.address for founder in founders}
        for founder in founders:
            directory = self.directory(founder.broker_id)
            format_founder(OsFiles(), directory, cluster_id=CLUSTER, voters=founders)

    def directory(self, broker_id: int) -> Path:
        """Of that voter, made if it is not there."""
        path = self.root / str(broker_id)
        path.mkdir(exist_ok=True)
        return path

    def format_joiner(self, broker_id: int) -> None:
        """A voter that is to be added."""
        format_joiner(OsFiles(), self.directory(broker_id))

    async def start(self, *broker_ids: int) -> None:
        """Start those voters, or all that have a directory."""
        for broker_id in broker_ids or sorted(int(path.name) for path in self.root.iterdir()):
            self.logs[broker_id] = await GroupMetadataLog.open(
                OsFiles(),
                self.directory(broker_id),
                broker_id=broker_id,
                directory_id=voter(broker_id).directory_id,
                new_id=lambda: uuid.uuid4().bytes,
                run_blocking=self.disk.run,
                make_links=self.hub.join,
                configured=self.configured,
                options=self.options,
            )

    async def stop(self, *broker_ids: int) -> None:
        """Stop those voters, or all."""
        for broker_id in broker_ids or tuple(self.logs):
            await self.logs.pop(broker_id).close()

    async def leader(self, *, besides: int | None = None) -> GroupMetadataLog:
        """The voter that leads, once there is one that is not `besides`."""
        found: list[GroupMetadataLog] = []

        def look() -> bool:
            found[:] = [log for key, log in self.logs.items() if log.term and key != besides]
            return bool(found)

        await until(look)
        return max(found, key=lambda log: log.term)

    def id_of(self, log: GroupMetadataLog) -> int:
        """The voter that this is the log of."""
        return next(key for key, value in self.logs.items() if value is log)

    async def controller(self, *, besides: int | None = None) -> GroupMetadataLog:
        """The leader, after its claim."""
        while True:
            log = await self.leader(besides=besides)
            outcome = await log.propose(ClaimController(self.id_of(log), log.term), SECONDS_MAX)
            if isinstance(outcome, Ok):
                return log
            assert isinstance(outcome, NotApplied), outcome

    async def do(self, log: GroupMetadataLog, command: Command) -> Ok:
        """What a command gave that is not refused a place."""
        outcome = await log.propose(command, SECONDS_MAX)
        assert isinstance(outcome, Ok), outcome
        return outcome

    async def same(self) -> None:
        """Wait until all that run have the same image."""
        await until(lambda: len({log.image.version for log in self.logs.values()}) == 1)
        assert len({log.snapshot().data for log in self.logs.values()}) == 1


def registration(broker_id: int) -> RegisterBroker:
    """Of a broker that has just started."""
    return RegisterBroker(
        broker_id, uuid.uuid4().bytes, f"disk-{broker_id}", "a:1", f"broker-{broker_id}:7071", "", "0"
    )
