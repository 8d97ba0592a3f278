"""The metadata log of one broker of several: as a voter, as a subscriber, or between the two.

A voter's own log and a subscription give prefixes of the same committed commands, so that the image here is
simply the newer one of the two. Whoever votes and hears of a leader needs no subscription; everybody else
has one. That one rule covers them all:

    a broker that does not vote     subscribes, and has no log of its own
    one that is to be added         makes an empty log, durably, before it is added: the entry that adds it
                                    may need its vote; until then, and until that log has caught up, it
                                    subscribes
    one that was removed            hears from no leader any more, subscribes, learns so, and closes its log
                                    for good: its disk says that it does not vote again
    one that is cut off             subscribes as soon as it reaches any voter

Owner of the subscriber's task, of the one that decides, and of the voter's log.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, TypeVar

from millpond.wire.errors import BrokerNotReady, NotADataDirectory, StorageFailed, StorageFull
from millpond_broker.consensus.codec import encode_snapshot
from millpond_broker.consensus.metadata_log import (
    CommittedEntry,
    MetadataLog,
    MetadataLogFailed,
    NotApplied,
    ProposeOutcome,
    Watchers,
)
from millpond_broker.consensus.snapshots import Snapshot
from millpond_broker.consensus.store import format_joiner, is_formatted
from millpond_broker.core.commands import Command, Envelope
from millpond_broker.core.image import EMPTY, MetadataImage
from millpond_broker.observe.logs import event
from millpond_broker.runtime.asking import Target, Unanswered, ask_once
from millpond_broker.runtime.control_messages import Failed, Here, Ready, Reply, Who
from millpond_broker.runtime.peers import PeerStreams
from millpond_broker.runtime.ports import Blocking
from millpond_broker.runtime.subscriber import Subscriber
from millpond_broker.runtime.subscriptions import voter_addresses, votes
from millpond_broker.storage.belonging import Belonging, Part, read_belonging, write_belonging
from millpond_broker.storage.directory import DataDirectory
from millpond_broker.storage.files import DISK_FULL, Files

T = TypeVar("T")
_log: Final = logging.getLogger(__name__)

GRACE_SECONDS: Final = 1.0
"""Without a leader until a voter subscribes: an election takes less."""
LOOK_SECONDS: Final = 0.25
"""How often it is looked at whether there is a leader."""
DOUBT_SECONDS: Final = 5.0
"""How long a voter that is behind subscribes, too."""
REACH_SECONDS_MAX: Final = 2.0
"""For the voters to answer one that is to be added."""


class VoterLog(MetadataLog, Protocol):
    """The log of one that votes."""

    def hand_over(self) -> None:
        """Let another voter lead, if this one does: soon, or not at all."""


OpenVoter = Callable[[Mapping[int, str]], Awaitable[VoterLog]]
"""Opens the log in the formatted data directory. Gets host:port of voters, by id."""


@dataclass(frozen=True, kw_only=True)
class MemberOptions:
    """Who this is, and where voters were, as it is configured."""

    broker_id: int
    configured: Mapping[int, str]
    grace_seconds: float = GRACE_SECONDS


class MemberLog:
    """Implements MetadataLog. Made by `open`."""

    def __init__(
        self,
        options: MemberOptions,
        files: Files,
        directory: DataDirectory,
        streams: PeerStreams,
        *,
        disk: Blocking,
        open_voter: OpenVoter,
        belonging: Belonging | None,
    ) -> None:
        self._options = options
        self._files = files
        self._directory = directory
        self._streams = streams
        self._disk = disk
        self._open_voter = open_voter
        self._belonging = belonging
        self._loop = asyncio.get_running_loop()
        self._image: MetadataImage = EMPTY
        self._voter: VoterLog | None = None
        self._end_following: Callable[[], None] = lambda: None  # the voter's log
        self._watching: asyncio.Task[None] | None = None  # whether it fails
        self._has_voted = False
        """Whether this disk was seen among the voters, in this start."""
        self._led_at = self._loop.time()
        self._doubt_until = float("-inf")
        self._watchers = Watchers()
        self._changing = asyncio.Lock()
        """Held while a voter's log is made or closed."""
        self._wake = asyncio.Event()
        self._has_image = asyncio.Event()
        """Or never will."""
        self._failure: BaseException | None = None
        self._has_failed = asyncio.Event()
        self._closing = False
        self._subscriber = Subscriber(
            streams,
            directory,
            options.broker_id,
            options.configured,
            cluster_id=None if belonging is None else belonging.cluster_id,
            on_news=self._follow,
        )
        # This object is the owner that a task must have: `close` ends it. `open` lets it begin.
        self._task: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        options: MemberOptions,
        files: Files,
        directory: DataDirectory,
        streams: PeerStreams,
        *,
        disk: Blocking,
        open_voter: OpenVoter,
    ) -> MemberLog:
        """The log of a broker of that data directory, which has a voter's metadata or none. Waits until there
        is an image: for one without metadata, until a voter serves it.

        What the disk belongs to is durable then. Raises NotADataDirectory, UnsupportedFormat, StorageFailed,
        StorageFull.
        """
        is_voters, belonging, partitions = await _on_disk(
            disk,
            directory,
            lambda: (
                is_formatted(files, directory.path),
                read_belonging(files, directory.path),
                files.list(directory.partitions),
            ),
        )
        if partitions and belonging is None and not is_voters:
            raise NotADataDirectory(
                path=str(directory.path), reason="it has partitions, and its metadata are gone"
            )
        if belonging is not None and belonging.part is Part.VOTER and not is_voters:
            raise NotADataDirectory(path=str(directory.path), reason="it voted, and its metadata are gone")
        self = cls(options, files, directory, streams, disk=disk, open_voter=open_voter, belonging=belonging)
        try:
            if is_voters and (belonging is None or belonging.part is not Part.REMOVED):
                await self._begin_to_vote()
            self._task = asyncio.Task(self._run(), name="metadata member")
            await self._first_image()
        except BaseException:  # cancelled, or failed: nothing is left behind; re-raised
            await self.close()
            raise
        return self

    async def _first_image(self) -> None:
        await self._has_image.wait()
        if self._failure is not None:
            raise self._failure
        if self._belonging is None:  # once it votes, its disk does so with its metadata or never again
            await self._belong(Part.FOLLOWER if self._voter is None else Part.VOTER)

    # --- the port ---------------------------------------------------------------------------------------

    @property
    def image(self) -> MetadataImage:
        return self._image

    @property
    def term(self) -> int:
        return 0 if self._voter is None else self._voter.term

    @property
    def leader(self) -> int | None:
        """Whom the voter here hears, or the one that is followed names."""
        voted = None if self._voter is None else self._voter.leader
        return self._subscriber.leader if voted is None else voted

    async def propose(
        self,
        command: Command,
        timeout: float,
        *,
        sequence: int | None = None,
        controller_epoch: int | None = None,
    ) -> ProposeOutcome:
        if self._voter is None:
            return NotApplied("this broker does not vote")
        return await self._voter.propose(
            command, timeout, sequence=sequence, controller_epoch=controller_epoch
        )

    async def propose_for(self, envelope: Envelope, timeout: float) -> ProposeOutcome:
        if self._voter is None:
            return NotApplied("this broker does not vote")
        return await self._voter.propose_for(envelope, timeout)

    async def barrier(self, timeout: float) -> int:
        if self._voter is None:
            raise BrokerNotReady(reason="no barrier: this broker does not vote")
        return await self._voter.barrier(timeout)

    def subscribe(self, callback: Callable[[MetadataImage], None]) -> Callable[[], None]:
        return self._watchers.add(callback)

    def committed(self, from_index: int) -> Iterator[CommittedEntry]:
        if self._voter is None:
            raise LookupError("this broker keeps no commands")
        return self._voter.committed(from_index)

    def snapshot(self) -> Snapshot:
        if self._voter is not None and self._voter.image.version >= self._image.version:
            return self._voter.snapshot()
        # Of no term: a voter never begins with it.
        return Snapshot(self._image.version, 0, encode_snapshot(self._image))

    def look_elsewhere(self) -> None:
        self._doubt_until = self._loop.time() + DOUBT_SECONDS
        self._subscriber.look_elsewhere()
        self._wake.set()

    async def failed(self) -> None:
        await self._has_failed.wait()
        raise MetadataLogFailed(str(self._failure)) from self._failure

    async def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        async with self._changing:
            await self._stop_voting()

    # --- what administrators ask for --------------------------------------------------------------------

    async def make_ready(self) -> Reply:
        """Before this broker is added as a voter: make the log that it keeps then, durably, and listen to the
        others. Answers Ready with the voters that it reaches; Failed.
        """
        async with self._changing:
            image, part = self._image, None if self._belonging is None else self._belonging.part
            if self._closing:
                return Failed("this broker is stopping")
            if part is Part.REMOVED:
                return Failed("its disk was a voter's, which was removed: only a new broker id can be added")
            if self._voter is None:
                path = self._directory.path
                await _on_disk(self._disk, self._directory, lambda: _format(self._files, path))
            if part is not Part.VOTER:
                # Before it can say anything, and once there is a log: a disk that voted and has none is
                # refused at its next start.
                await self._belong(Part.VOTER)
            if self._voter is None:
                await self._begin_to_vote()
                event(_log, logging.INFO, "ready_to_vote", broker=self._options.broker_id)
        return Ready(self._directory.directory_id, await self._reached(image))

    def hand_over(self) -> None:
        """Let another voter lead, if this one does."""
        if self._voter is not None:
            self._voter.hand_over()

    async def _reached(self, image: MetadataImage) -> tuple[int, ...]:
        reached: list[int] = []

        async def ask(broker_id: int, address: str) -> None:
            with suppress(Unanswered):
                target = Target(broker_id, address)
                if isinstance(await ask_once(self._streams, target, Who(), REACH_SECONDS_MAX), Here):
                    reached.append(broker_id)

        async with asyncio.TaskGroup() as tasks:
            for broker_id, address in voter_addresses(image):
                if broker_id != self._options.broker_id:
                    tasks.create_task(ask(broker_id, address), name=f"is voter {broker_id} reached")
        return tuple(sorted(reached))

    # --- the two sources --------------------------------------------------------------------------------

    def _follow(self) -> None:
        """There may be something newer in one of them."""
        voter = self._voter
        if voter is not None:
            self._subscriber.know(voter.image)
        newest = self._subscriber.image
        assert newest.version >= self._image.version, "metadata only goes forward"
        self._image = newest
        self._wake.set()
        if newest.cluster_id is not None:
            self._has_image.set()
        self._watchers.tell(newest)

    async def _begin_to_vote(self) -> None:
        addresses = {**self._options.configured, **dict(voter_addresses(self._image))}
        addresses.pop(self._options.broker_id, None)
        voter = await self._open_voter(addresses)
        self._voter = voter
        self._led_at = self._loop.time()
        # This object is the owner that a task must have: `_stop_voting` ends it.
        self._watching = asyncio.Task(self._watch(voter), name="voter")
        self._end_following = voter.subscribe(lambda _image: self._follow())
        self._follow()

    async def _watch(self, voter: MetadataLog) -> None:
        try:
            await voter.failed()
        except MetadataLogFailed as error:
            self._fail(error)

    async def _stop_voting(self) -> None:
        voter = self._voter
        if voter is None:
            return
        assert self._watching is not None, "made with it"
        self._end_following()
        self._watching.cancel()
        await asyncio.wait([self._watching])
        await voter.close()
        self._voter = None  # last: whoever cuts this off comes here again, and it is closed then

    # --- the task ---------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._subscriber.run(), name="subscriber")
                tasks.create_task(self._decide(), name="voter or subscriber")
        except* Exception as group:  # the task's root: whatever it was, the process has to end
            self._fail(group.exceptions[0])

    def _fail(self, error: BaseException) -> None:
        self._failure = self._failure or error
        self._has_failed.set()
        self._has_image.set()

    async def _decide(self) -> None:
        while True:
            self._wake.clear()
            self._subscriber.want(wanted=self._needs_subscription())
            if self._was_removed():
                try:
                    async with self._changing:
                        await self._retire()
                except (StorageFull, StorageFailed) as error:  # its word counts no more whenever it stops
                    event(_log, logging.WARNING, "not_retired", error=str(error))
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._wake.wait()

    def _votes(self, image: MetadataImage) -> bool:
        return votes(image, self._options.broker_id, self._directory.directory_id)

    def _needs_subscription(self) -> bool:
        voter, now = self._voter, self._loop.time()
        if voter is None or not self._votes(voter.image):
            return True
        if voter.leader is not None:
            self._led_at = now
        return now - self._led_at > self._options.grace_seconds or now < self._doubt_until

    def _was_removed(self) -> bool:
        """Whether it voted and votes no more. One that is to be added, and is not yet, never voted."""
        votes_now = self._votes(self._image)
        self._has_voted |= votes_now
        if self._voter is not None:
            self._has_voted |= self._votes(self._voter.image)
        return self._voter is not None and self._has_voted and not votes_now

    async def _retire(self) -> None:
        """For good: durable before the log is closed."""
        await self._belong(Part.REMOVED)
        await self._stop_voting()
        event(_log, logging.INFO, "votes_no_more", broker=self._options.broker_id)
        self._follow()

    async def _belong(self, part: Part) -> None:
        cluster_id = self._image.cluster_id
        assert cluster_id is not None, "there is an image"
        belonging = Belonging(cluster_id, part)
        await _on_disk(
            self._disk, self._directory, lambda: write_belonging(self._files, self._directory.path, belonging)
        )
        self._belonging = belonging


def _format(files: Files, directory: Path) -> None:
    """An empty log to vote with; the one of an attempt that came no further will do."""
    if not is_formatted(files, directory):
        format_joiner(files, directory)


async def _on_disk(disk: Blocking, directory: DataDirectory, call: Callable[[], T]) -> T:
    try:
        return await disk.run(call)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise StorageFull(path=str(directory.path)) from None
        raise StorageFailed(path=str(directory.path), reason=str(error)) from None
