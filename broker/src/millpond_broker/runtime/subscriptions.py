"""A voter's side of rule 44: what is committed goes to each broker that subscribes, in order, as it comes.

The image first, whole, where the commands before it are not kept any more. What goes out is bounded by the
stream, which is broken off when its other end does not take it; a subscriber then asks for what it lacks.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from millpond_broker.consensus.codec import encode, encode_snapshot
from millpond_broker.core.commands import Undecodable
from millpond_broker.core.image import MetadataImage
from millpond_broker.observe.logs import event
from millpond_broker.runtime.metadata import Metadata
from millpond_broker.runtime.peers import PeerStream, StreamClosed
from millpond_broker.runtime.subscription_messages import At, Commands, NotServed, Subscribe, Whole

_log: Final = logging.getLogger(__name__)

AT_SECONDS: Final = 0.5
"""Between two words on where this voter is: by them a subscriber knows that it is still there."""
COMMANDS_BYTES_MAX: Final = 1 << 20
"""In one message, but for a larger command: no more than a frame takes."""
FIRST_SECONDS_MAX: Final = 2.0
"""For whoever opened the stream to say what it wants, or to hear why it gets nothing."""


class Subscriptions:
    """Of one broker. `serve` takes one stream."""

    def __init__(self, metadata: Metadata, broker_id: int, directory_id: str) -> None:
        self._metadata = metadata
        self._broker_id = broker_id
        self._directory_id = directory_id
        # The last image that was sent whole: brokers that start together share the work.
        self._whole = Whole(0, b"")

    async def serve(self, stream: PeerStream) -> None:
        """Send what is committed until the stream is over."""
        with suppress(StreamClosed, TimeoutError):  # whoever opened it has gone, or was cut off before a word
            await self._serve(stream)

    async def _serve(self, stream: PeerStream) -> None:
        async with asyncio.timeout(FIRST_SECONDS_MAX):
            first = (await stream.receive())[0]
        refusal = self._refusal(stream)
        if refusal is not None or not isinstance(first, Subscribe):
            stream.send(refusal or NotServed("a subscription begins with where it goes on"))
            async with asyncio.timeout(FIRST_SECONDS_MAX):
                await stream.receive()  # closing at once could lose what was said
            return
        # This call is the owner that a task must have: it has ended when it returns.
        sending = asyncio.Task(self._send(stream, first.after), name=f"metadata to {stream.peer.broker_id}")
        try:
            while True:
                await stream.receive()  # nothing more is said there: this ends with the stream
        finally:
            sending.cancel()
            await asyncio.wait([sending])

    def _refusal(self, stream: PeerStream) -> NotServed | None:
        """Rule 12: under one broker id, no other disk will do. Whoever knows no cluster yet is let in without
        being asked for its disk.
        """
        image, peer = self._metadata.image, stream.peer
        broker, voter = image.brokers.get(peer.broker_id), image.voters.get(peer.broker_id)
        disk = broker.directory_id if broker else voter.directory_id if voter else peer.directory_id
        if disk != peer.directory_id:
            reason = f"broker id {peer.broker_id} belongs to data directory {disk}, not {peer.directory_id}"
            return NotServed(f"{reason}: a broker with a new disk needs a new id", for_good=True)
        if not votes(image, self._broker_id, self._directory_id):
            return NotServed(f"broker {self._broker_id} does not vote", voter_addresses(image))
        return None

    async def _send(self, stream: PeerStream, known: int) -> None:
        changed = asyncio.Event()

        def follow(_image: MetadataImage) -> None:
            changed.set()

        end = self._metadata.subscribe(follow)
        # That somebody is there is said before an image that may take its time.
        stream.send(At(self._metadata.image.version, self._metadata.log.leader))
        try:
            while True:
                changed.clear()
                image = self._metadata.image
                if not votes(image, self._broker_id, self._directory_id):
                    return
                for message in self._news(image, known):
                    stream.send(message)
                known = max(known, image.version)
                stream.send(At(image.version, self._metadata.log.leader))
                with suppress(TimeoutError):
                    async with asyncio.timeout(AT_SECONDS):
                        await changed.wait()
        except Exception as error:  # a task's root: a mistake of ours ends this stream and no other
            event(_log, logging.ERROR, "subscription_failed", peer=stream.peer.broker_id, trace=error)
        finally:
            end()
            stream.close()

    def _news(self, image: MetadataImage, known: int) -> Sequence[Whole | Commands]:
        """All from that version on to this image."""
        if known >= image.version:
            return []
        commands = self._commands(image, known)
        if commands is not None:
            return commands
        if self._whole.version > known and (since := self._commands(image, self._whole.version)) is not None:
            return [self._whole, *since]
        self._whole = Whole(image.version, encode_snapshot(image))
        return [self._whole]

    def _commands(self, image: MetadataImage, known: int) -> list[Commands] | None:
        """None where they are not kept, or cannot be passed on."""
        messages: list[Commands] = []
        after, entries, size = known, list[tuple[int, bytes]](), 0
        try:
            for entry in self._metadata.log.committed(known + 1):
                if entry.index > image.version:
                    break
                if isinstance(entry.envelope.command, Undecodable):
                    return None  # of a newer version
                data = encode(entry.envelope)
                if entries and size + len(data) > COMMANDS_BYTES_MAX:
                    messages.append(Commands(after, tuple(entries)))
                    after, entries, size = entries[-1][0], [], 0
                entries.append((entry.index, data))
                size += len(data)
        except LookupError:
            return None
        if entries:
            messages.append(Commands(after, tuple(entries)))
            after = entries[-1][0]
        return messages if after == image.version else None


def votes(image: MetadataImage, broker_id: int, directory_id: str) -> bool:
    """Whether that broker, with that disk, is a voter."""
    voter = image.voters.get(broker_id)
    return voter is not None and voter.directory_id == directory_id


def voter_addresses(image: MetadataImage) -> tuple[tuple[int, str], ...]:
    """(broker id, host:port) of the voters, as far as they are known. One that was the only voter has no
    address in the log: it is where it registered.
    """
    found = []
    for voter in image.voters.values():
        broker = image.brokers.get(voter.broker_id)
        if address := (broker.peer_address if broker else "") or voter.address:
            found.append((voter.broker_id, address))
    return tuple(found)
