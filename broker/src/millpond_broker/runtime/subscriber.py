"""A broker's side of rule 44: the metadata of one that does not vote, from whichever voter serves it.

It follows one voter at a time: the next one when the stream breaks, falls silent, or its voter knows of
nobody who leads. Commands are applied by the same `apply` to the same image as everywhere, so that it does
not matter from whom each came. Nothing of it is kept on disk: a broker that starts can do nothing without a
voter, which has all of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Final

from millpond.wire.errors import NotADataDirectory, UnsupportedFormat
from millpond_broker.consensus.codec import decode, decode_snapshot
from millpond_broker.core.image import EMPTY, MetadataImage, apply
from millpond_broker.observe.logs import event
from millpond_broker.runtime.asking import OPEN_SECONDS_MAX, Target
from millpond_broker.runtime.peers import (
    PeerRefused,
    PeerStream,
    PeerStreams,
    PeerUnreachable,
    Purpose,
    StreamClosed,
)
from millpond_broker.runtime.subscription_messages import (
    At,
    Commands,
    FromVoter,
    NotServed,
    Subscribe,
    Whole,
)
from millpond_broker.runtime.subscriptions import AT_SECONDS, voter_addresses
from millpond_broker.storage.directory import DataDirectory

_log: Final = logging.getLogger(__name__)

SILENCE_SECONDS_MAX: Final = 3 * AT_SECONDS
"""Of a voter that says where it is every half second. Half a session: another one is found in the rest."""
WHOLE_SECONDS_MAX: Final = 10.0
"""The same while what it said to have is on its way: an image may be large."""
LEADERLESS_SECONDS_MAX: Final = 1.5
"""At a voter that knows of no leader: an election takes less, and who is cut off stays so."""
RETRY_SECONDS: Final = 0.25
"""After a voter that did not serve."""
TELL_SECONDS: Final = 10.0
"""Between two lines in the log about who is not there, unless that changes."""


class Subscriber:
    """`run` is its task; it follows while it is `wanted`."""

    def __init__(
        self,
        streams: PeerStreams,
        directory: DataDirectory,
        broker_id: int,
        configured: Mapping[int, str],
        *,
        cluster_id: bytes | None,
        on_news: Callable[[], None],
    ) -> None:
        """`configured`: host:port of voters, by id, for as long as the metadata do not tell. `cluster_id`:
        that this disk belongs to; None: to none yet. `on_news` is called when there is some.
        """
        self.image: MetadataImage = EMPTY
        self.leader: int | None = None
        """Who leads the voters, as far as the one that is followed knows."""
        self._streams = streams
        self._directory = directory
        self._broker_id = broker_id
        self._configured = dict(configured)
        self._cluster_id = cluster_id
        self._on_news = on_news
        self._wanted = asyncio.Event()
        self._stream: PeerStream | None = None
        self._told: dict[int, str] = {}  # voters that one who does not vote named
        self._leaderless_since: float | None = None
        self._promised = 0  # the version that the voter has, as far as it said
        self._said_last: dict[str, str] = {}
        self._say_again_at = 0.0

    def want(self, *, wanted: bool) -> None:
        """Follow, or stop following, from now on."""
        if wanted == self._wanted.is_set():
            return
        if wanted:
            self._wanted.set()
        else:
            self._wanted.clear()
            self.leader = None  # it is not kept up to date any more
            self.look_elsewhere()

    def look_elsewhere(self) -> None:
        """Follow another voter: this one is behind."""
        if self._stream is not None:
            self._stream.close()

    def know(self, image: MetadataImage) -> None:
        """There is a newer image here, from elsewhere."""
        if image.version > self.image.version:
            self.image = image
            self._cluster_id = self._cluster_id or image.cluster_id

    async def run(self) -> None:
        """Follow until cancelled. Raises NotADataDirectory for a disk of another cluster, or in the place of
        another disk; UnsupportedFormat.
        """
        turn = self._broker_id  # so that not everybody begins with the same one
        waits: dict[str, str] = {}
        while True:
            await self._wanted.wait()
            candidates = self._candidates()
            if not candidates:
                self._say({"": "no voter is known"})
                await asyncio.sleep(RETRY_SECONDS)
                continue
            target = candidates[turn % len(candidates)]
            turn += 1
            began = asyncio.get_running_loop().time()
            why = await self._follow(target)
            if why is None:
                waits = {}
                # One that served for a while is left for the next at once.
                if asyncio.get_running_loop().time() - began < RETRY_SECONDS:
                    await asyncio.sleep(RETRY_SECONDS)
                continue
            waits[str(target.broker_id)] = why
            if len(waits) >= len(candidates):
                self._say(waits)
            await asyncio.sleep(RETRY_SECONDS)

    def _candidates(self) -> list[Target]:
        """Who votes as far as is known; and those that are configured, of whom some may vote by now."""
        known = {**self._configured, **self._told, **dict(voter_addresses(self.image))}
        return [Target(key, address) for key, address in known.items() if key != self._broker_id]

    async def _follow(self, target: Target) -> str | None:
        """Until it has to be another one; why it did not serve, None if it did."""
        try:
            stream = await self._streams.open(*target, Purpose.SUBSCRIPTION, OPEN_SECONDS_MAX)
        except PeerRefused as refused:
            if self.image is EMPTY:
                # Nobody refuses for a while: who this is stands against what the cluster knows of its id.
                raise self._not_ours(f"broker {target.broker_id} does not let it in: {refused}") from None
            return str(refused)
        except PeerUnreachable as error:
            return str(error)
        self._stream = stream
        self._leaderless_since, self._promised = None, 0
        has_served, why = False, "its stream broke"
        try:
            stream.send(Subscribe(self.image.version))
            while self._wanted.is_set():
                is_late = self.image.version < self._promised
                async with asyncio.timeout(WHOLE_SECONDS_MAX if is_late else SILENCE_SECONDS_MAX):
                    messages = await stream.receive()
                for message in messages:
                    if isinstance(message, NotServed):
                        return self._refused(message)
                    if not self._take(message):
                        return f"broker {target.broker_id} sent what does not follow {self.image.version}"
                has_served = True
                self._on_news()
                if self._is_leaderless():
                    why = "it knows of nobody who leads"
                    break
        except StreamClosed:
            pass
        except TimeoutError:
            why = "it fell silent"
        finally:
            self._stream = None
            stream.close()
        if self._wanted.is_set():
            event(_log, logging.INFO, "subscription_over", voter=target.broker_id, reason=why)
        return None if has_served else why

    def _take(self, message: FromVoter) -> bool:
        """What a voter sent; False for what does not follow."""
        match message:
            case Whole(version, data):
                try:
                    image = decode_snapshot(data)
                except ValueError as error:
                    raise UnsupportedFormat(what=f"an image of the metadata: {error}") from None
                self._belongs(image)
                if version > self.image.version:
                    self.image = image
            case Commands(after, entries):
                if after > self.image.version:
                    return False
                image = self.image
                for index, data in entries:
                    if index > image.version:
                        image, _ = apply(image, index, decode(data))
                self._belongs(image)
                self.image = image
            case At(version, leader):
                self._promised, self.leader = version, leader
                if leader is not None:
                    self._leaderless_since = None
                elif self._leaderless_since is None:
                    self._leaderless_since = asyncio.get_running_loop().time()
        return True

    def _is_leaderless(self) -> bool:
        since = self._leaderless_since
        return since is not None and asyncio.get_running_loop().time() - since > LEADERLESS_SECONDS_MAX

    def _refused(self, refused: NotServed) -> str:
        if refused.for_good:
            raise self._not_ours(refused.reason)
        self._told.update(refused.voters)
        return refused.reason

    def _belongs(self, image: MetadataImage) -> None:
        """What this disk has is of one cluster: another's metadata would have all of it deleted."""
        if self._cluster_id is None:
            self._cluster_id = image.cluster_id
        if image.cluster_id != self._cluster_id:
            found = "none" if image.cluster_id is None else image.cluster_id.hex()
            known = "none" if self._cluster_id is None else self._cluster_id.hex()
            raise self._not_ours(f"it belongs to cluster {known}, and the voters are of cluster {found}")

    def _not_ours(self, reason: str) -> NotADataDirectory:
        return NotADataDirectory(path=str(self._directory.path), reason=reason)

    def _say(self, waits: dict[str, str]) -> None:
        now = asyncio.get_running_loop().time()
        if waits == self._said_last and now < self._say_again_at:
            return
        self._said_last, self._say_again_at = dict(waits), now + TELL_SECONDS
        event(_log, logging.INFO, "no_voter_serves", brokers=waits)
