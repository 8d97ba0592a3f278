"""How several brokers become one cluster: the first start of voters whose data directories are empty.

Every voter without metadata asks all others that it is configured with, again and again. The one with the
lowest id founds the cluster once all of them have answered that they have none either: it draws the cluster's
id, and its first command pins each voter to the disk that answered. It keeps that, durably, before it tells
anybody; the others take it over as they ask.

    nobody else founds          only the lowest id does, and one that is not empty says so when it is asked
    a founder that dies         before it kept the command: as if nothing had been; after: it tells it again
    a disk that is wiped        comes back under another directory id, which the first command does not have:
                                it is refused, for it has forgotten how it voted
    one that comes later        is told that there is a cluster without it, and follows its metadata
    one that missed all that    is a voter that never said anything: it begins with the first command too, or,
                                where more has happened since, with nothing: the leader sends it all of that

Two foundings cannot both come to life whatever was wiped in between: each needs a majority of its voters, and
a disk is formatted once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from millpond.wire.errors import NotADataDirectory, StorageFailed, StorageFull
from millpond_broker.consensus.codec import decode, encode
from millpond_broker.consensus.store import (
    FIRST_COMMAND_INDEX,
    format_directory,
    format_joiner,
    is_formatted,
)
from millpond_broker.core.commands import REPLICATION_LEVEL, AddVoter, Envelope, InitCluster, Voter
from millpond_broker.core.image import MetadataImage
from millpond_broker.observe.logs import event
from millpond_broker.runtime.control_messages import Asked, Failed, Found, Founded, Replied
from millpond_broker.runtime.peers import (
    Peer,
    PeerRefused,
    PeerStreams,
    PeerUnreachable,
    Purpose,
    StreamClosed,
)
from millpond_broker.runtime.ports import Blocking
from millpond_broker.storage.belonging import read_belonging
from millpond_broker.storage.directory import DataDirectory
from millpond_broker.storage.files import DISK_FULL, Files

T = TypeVar("T")
_log: Final = logging.getLogger(__name__)

ASK_SECONDS: Final = 0.25
"""Between two rounds of questions."""
ANSWER_SECONDS_MAX: Final = 2.0
"""For a voter's answer, from the attempt to reach it."""
TELL_SECONDS: Final = 10.0
"""Between two lines in the log about what is still waited for, unless that changes."""


def answer_found(image: MetadataImage, peer: Peer) -> Founded:
    """What a voter with metadata tells one that has none: the command by which that one votes.

    At the very beginning it is the first of all. Later it is the addition of that voter: it never said
    anything in this cluster, or its disk would have another id, so that it may begin with an empty log. One
    whose disk is another learns from either that its place is taken.
    """
    if image.cluster_id is None:
        return Founded(None, "it waits for the log of its cluster itself")
    voter = image.voters.get(peer.broker_id)
    if voter is None:
        reason = f"broker {peer.broker_id} is no voter of cluster {image.cluster_id.hex()}"
        return Founded(None, reason, without_you=True)
    if image.version == FIRST_COMMAND_INDEX:
        voters = tuple(image.voters.values())
        return Founded(_first_command(image.cluster_id, voters, image.feature_level))
    return Founded(encode(Envelope(image.cluster_id, 1, 0, AddVoter(voter))))


@dataclass(frozen=True, kw_only=True)
class FoundingOptions:
    """Who founds the cluster, as this voter is configured."""

    broker_id: int
    voters: tuple[tuple[int, str], ...]
    """(broker id, host:port) of all of them, by id."""
    ask_seconds: float = ASK_SECONDS
    answer_seconds_max: float = ANSWER_SECONDS_MAX


@dataclass(frozen=True, slots=True)
class _Told:
    """What another voter said in this round."""

    peer: Peer
    answer: Founded


class Founding:
    """Of one voter, at each of its starts. Whoever serves its control streams passes `Found` on to it."""

    def __init__(
        self,
        options: FoundingOptions,
        files: Files,
        streams: PeerStreams,
        *,
        disk: Blocking,
        new_id: Callable[[], bytes],
    ) -> None:
        assert options.broker_id in dict(options.voters), "it is one of them"
        self._options = options
        self._files = files
        self._streams = streams
        self._disk = disk
        self._new_id = new_id
        self._is_empty = False
        """Whether this voter has no metadata, and nothing is on its way to become them."""
        self._image: Callable[[], MetadataImage] | None = None
        self._told_last: dict[int, str] = {}
        self._tell_again_at = 0.0

    async def make_formatted(self, directory: DataDirectory) -> None:
        """Return once the data directory has metadata: at once, or after the founding, however long others
        take to come; or once it is known that there is a cluster, of which this broker is no voter.
        `streams` have been started by then.

        Raises NotADataDirectory: this disk has been wiped, in whole or in part. StorageFailed, StorageFull.
        """
        if await self._on_disk(directory, lambda: self._is_settled(directory)):
            return
        if await self._on_disk(directory, lambda: self._files.list(directory.partitions)):
            raise NotADataDirectory(
                path=str(directory.path), reason="it has partitions, and its metadata are gone"
            )
        self._is_empty = True
        event(_log, logging.INFO, "founding_begins", voters=[str(voter) for voter, _ in self._options.voters])
        while not await self._round(directory):  # noqa: ASYNC110 - others are asked; none of them comes to tell
            await asyncio.sleep(self._options.ask_seconds)

    def _is_settled(self, directory: DataDirectory) -> bool:
        path = directory.path
        return is_formatted(self._files, path) or read_belonging(self._files, path) is not None

    def follow(self, image: Callable[[], MetadataImage]) -> None:
        """From now on there are metadata to answer from."""
        self._image = image

    def founded(self, peer: Peer, question: Found) -> Founded:
        """The answer to a voter that has nothing yet: before, while and after this one is founded."""
        if self._image is not None:
            return answer_found(self._image(), peer)
        if not self._is_empty:
            return Founded(None, "it is starting")
        if question.voters != self._options.voters:
            return Founded(
                None,
                f"it is configured with voters {_text(self._options.voters)}, not {_text(question.voters)}",
            )
        return Founded(None)

    # --- asking ------------------------------------------------------------------------------------------

    async def _round(self, directory: DataDirectory) -> bool:
        """Ask everybody once; whether there are metadata now, or will be none of its own."""
        others = [(voter, address) for voter, address in self._options.voters if voter != self._me]
        said: dict[int, _Told | str | NotADataDirectory] = {}

        async def ask(broker_id: int, address: str) -> None:
            said[broker_id] = await self._ask(directory, broker_id, address)

        async with asyncio.TaskGroup() as tasks:
            for broker_id, address in others:
                tasks.create_task(ask(broker_id, address), name=f"founding: broker {broker_id}")
        for one in said.values():
            if isinstance(one, NotADataDirectory):
                raise one
        told = {broker_id: one for broker_id, one in said.items() if isinstance(one, _Told)}
        for one in told.values():
            if one.answer.first is not None and await self._adopt(directory, one.peer, one.answer.first):
                return True
        if any(one.answer.without_you for one in told.values()):
            self._is_empty = False
            event(_log, logging.INFO, "founded_without_it", broker=self._me)
            return True
        waits = {broker_id: one for broker_id, one in said.items() if isinstance(one, str)}
        waits |= {
            broker_id: one.answer.refused for broker_id, one in told.items() if one.answer.refused is not None
        }
        founder = min(voter for voter, _ in self._options.voters)
        if founder == self._me and not waits and all(one.answer.first is None for one in told.values()):
            await self._found(directory, told)
            return True
        self._tell(waits or {founder: "it has not founded the cluster yet"})
        return False

    @property
    def _me(self) -> int:
        return self._options.broker_id

    async def _ask(
        self, directory: DataDirectory, broker_id: int, address: str
    ) -> _Told | str | NotADataDirectory:
        """What it answered, or why there is no answer, for now or for good."""
        seconds = self._options.answer_seconds_max
        try:
            async with asyncio.timeout(seconds):
                stream = await self._streams.open(broker_id, address, Purpose.CONTROL, seconds)
                try:
                    stream.send(Asked(1, Found(self._options.voters)))
                    while True:
                        for message in await stream.receive():
                            match message:
                                case Replied(_, Founded() as answer):
                                    return _Told(stream.peer, answer)
                                case Replied(_, Failed(reason)):
                                    return reason
                finally:
                    stream.close()
        except PeerRefused as refused:
            # Nobody refuses for a while: who this is stands against what the cluster knows of its id.
            return NotADataDirectory(
                path=str(directory.path), reason=f"broker {broker_id} does not let it in: {refused}"
            )
        except (PeerUnreachable, StreamClosed, TimeoutError) as error:
            return str(error) or f"no answer within {seconds} s"

    def _tell(self, waits: dict[int, str]) -> None:
        now = asyncio.get_running_loop().time()
        if waits == self._told_last and now < self._tell_again_at:
            return
        self._told_last, self._tell_again_at = waits, now + TELL_SECONDS
        event(_log, logging.INFO, "founding_waits", brokers={str(key): text for key, text in waits.items()})

    # --- founding, and taking over -----------------------------------------------------------------------

    async def _found(self, directory: DataDirectory, told: dict[int, _Told]) -> None:
        voters = tuple(
            Voter(
                voter, directory.directory_id if voter == self._me else told[voter].peer.directory_id, address
            )
            for voter, address in self._options.voters
        )
        cluster_id = self._new_id()
        await self._format(directory, _first_command(cluster_id, voters, REPLICATION_LEVEL))
        event(_log, logging.INFO, "cluster_founded", cluster=cluster_id.hex(), voters=len(voters))

    async def _adopt(self, directory: DataDirectory, peer: Peer, first: bytes) -> bool:
        """Take over what another voter says; whether there was something for this one in it. Raises
        NotADataDirectory when its place belongs to another disk.
        """
        command = decode(first).command
        match command:
            case InitCluster():
                own = next((voter for voter in command.voters if voter.broker_id == self._me), None)
            case AddVoter():
                own = command.voter if command.voter.broker_id == self._me else None
            case _:
                own = None
        if own is None:
            event(
                _log, logging.WARNING, "founding_refused", peer=peer.broker_id, command=type(command).__name__
            )
            return False
        if own.directory_id != directory.directory_id:
            raise NotADataDirectory(
                path=str(directory.path),
                reason=f"its cluster knows broker {self._me} by data directory {own.directory_id}, not"
                f" {directory.directory_id}: a broker with a new disk needs a new id",
            )
        await self._format(directory, first if isinstance(command, InitCluster) else None)
        event(_log, logging.INFO, "cluster_joined", by=type(command).__name__, told_by=peer.broker_id)
        return True

    async def _format(self, directory: DataDirectory, first: bytes | None) -> None:
        """Durable when it returns. From here on this voter does not call itself empty any more, whatever
        comes of it: a start finds out.
        """
        self._is_empty = False

        def make() -> None:
            if first is None:
                format_joiner(self._files, directory.path)
                return
            command = decode(first).command
            assert isinstance(command, InitCluster), "by which a log begins"
            # As if all of them had voted for the first: every log that begins so begins alike.
            vote = str(command.voters[0].broker_id)
            format_directory(self._files, directory.path, first, term=1, vote=vote)

        await self._on_disk(directory, make)

    async def _on_disk(self, directory: DataDirectory, call: Callable[[], T]) -> T:
        try:
            return await self._disk.run(call)
        except OSError as error:
            if error.errno in DISK_FULL:
                raise StorageFull(path=str(directory.path)) from None
            raise StorageFailed(path=str(directory.path), reason=str(error)) from None


def _first_command(cluster_id: bytes, voters: tuple[Voter, ...], feature_level: int) -> bytes:
    return encode(Envelope(cluster_id, 1, 0, InitCluster(cluster_id, voters, feature_level)))


def _text(voters: tuple[tuple[int, str], ...]) -> str:
    return ", ".join(f"{broker_id}@{address}" for broker_id, address in voters) or "none"
