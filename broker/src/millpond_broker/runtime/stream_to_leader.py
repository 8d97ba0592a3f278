"""The stream to one leader broker, kept through whatever breaks it, for all partitions that follow it here.

What comes is handed to each partition's `Following`; credit goes back for every push, whatever became of it
(rule 38).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from millpond_broker.core.in_sync import Member
from millpond_broker.observe.logs import event
from millpond_broker.runtime.following import Following
from millpond_broker.runtime.partition import Key
from millpond_broker.runtime.peers import PeerStream, PeerStreams, PeerUnreachable, Purpose, StreamClosed
from millpond_broker.runtime.replication_messages import Answered, FromFollower, Hello, Pushed, Taken

_log: Final = logging.getLogger(__name__)

OPEN_SECONDS_MAX: Final = 2.0
"""Of one attempt: a host that answers nothing is tried again rather than waited for."""
PAUSE_SECONDS_MIN: Final = 0.05
PAUSE_SECONDS_MAX: Final = 0.5
"""Between attempts, doubled each time: a leader that is back is followed within half a second."""
TAKEN_BYTES_MAX: Final = 256 << 10
"""Of pushes that were taken, before the leader hears of it: little of a partition's share of the window."""
TAKEN_SECONDS_MAX: Final = 0.02
"""Likewise. Most often credit travels with an acknowledgement, and takes no message of its own."""


class StreamToLeader:
    """See the module. `run` is its task; it ends when it is cancelled."""

    def __init__(
        self,
        leader: int,
        streams: PeerStreams,
        *,
        address: Callable[[], str | None],
        me: Callable[[], Member | None],
        next_number: Callable[[], int],
    ) -> None:
        """`address`: host:port of that broker now, None: unknown. `me`: this broker as it is registered, None
        before it is. `next_number`: greater with each call.
        """
        self.leader: Final = leader
        self._streams = streams
        self._address = address
        self._me = me
        self._next_number = next_number
        # What follows that leader here: at most the partitions of this broker.
        self._followings: dict[Key, Following] = {}
        self._stream: PeerStream | None = None
        # What was taken of pushes on this stream, and not returned as credit yet.
        self._taken: dict[Key, int] = {}
        self._taken_bytes = 0
        self._returning: asyncio.TimerHandle | None = None
        self._hurry = asyncio.Event()

    def __len__(self) -> int:
        return len(self._followings)

    def add(self, key: Key, following: Following) -> None:
        """One more partition; takes the place of what followed for it before."""
        self._followings[key] = following
        if self._stream is not None:
            following.connected(self._send)
        else:
            self._hurry.set()

    def remove(self, key: Key) -> Following | None:
        """It does not follow that leader any more; what did."""
        return self._followings.pop(key, None)

    async def run(self) -> None:
        """Keep a stream until cancelled."""
        pause = PAUSE_SECONDS_MIN
        while True:
            while not self._followings:
                self._hurry.clear()
                await self._hurry.wait()
            if await self._one_stream():
                pause = PAUSE_SECONDS_MIN
            self._hurry.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._hurry.wait()
            pause = min(2 * pause, PAUSE_SECONDS_MAX)

    async def _one_stream(self) -> bool:
        """Open one and use it until it breaks; whether anything came."""
        address, me = self._address(), self._me()
        if address is None or me is None:
            return False
        try:
            stream = await self._streams.open(self.leader, address, Purpose.REPLICATION, OPEN_SECONDS_MAX)
        except PeerUnreachable as error:
            event(_log, logging.INFO, "leader_not_reached", leader=self.leader, error=str(error))
            return False
        came = False
        try:
            stream.send(Hello(me.broker_id, me.broker_epoch, self._next_number()))
            self._stream = stream
            for following in list(self._followings.values()):
                following.connected(self._send)
            while True:
                messages = await stream.receive()
                came = True
                self._take(messages)
        except StreamClosed as closed:
            event(_log, logging.INFO, "leader_lost", leader=self.leader, error=str(closed))
        finally:
            self._stream = None
            self._take_nothing()
            stream.close()
            for following in list(self._followings.values()):
                following.disconnected()
        return came

    def _take(self, messages: list[object]) -> None:
        for message in messages:
            assert isinstance(message, Answered | Pushed), "what a leader says"
            key = (message.topic_id, message.partition)
            following = self._followings.get(key)
            if isinstance(message, Answered):
                if following is not None:
                    following.answered(message.answer)
                continue
            if message.data:
                self._has_taken(key, len(message.data))
            if following is not None:
                following.pushed(message.push, message.data)

    # --- credit (rule 38) -----------------------------------------------------------------------------

    def _has_taken(self, key: Key, size_bytes: int) -> None:
        self._taken[key] = self._taken.get(key, 0) + size_bytes
        self._taken_bytes += size_bytes
        if self._taken_bytes >= TAKEN_BYTES_MAX:
            self._return()
        elif self._returning is None:
            self._returning = asyncio.get_running_loop().call_later(TAKEN_SECONDS_MAX, self._return)

    def _send(self, message: FromFollower) -> None:
        """What a partition says; credit goes with it."""
        if self._stream is not None:
            self._return()
            self._stream.send(message)

    def _return(self) -> None:
        taken = self._take_nothing()
        if self._stream is not None:
            for key, size_bytes in taken.items():
                self._stream.send(Taken(*key, size_bytes))

    def _take_nothing(self) -> dict[Key, int]:
        """What was taken so far; from here on it is nothing."""
        if self._returning is not None:
            self._returning.cancel()
            self._returning = None
        taken, self._taken, self._taken_bytes = self._taken, {}, 0
        return taken
