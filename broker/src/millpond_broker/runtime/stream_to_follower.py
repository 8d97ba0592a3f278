"""The streams that followers open to this broker: what they state is answered, and what they lack is pushed.

One stream for each follower broker counts, that of the greatest number (rule 37). Partitions say whom they
have something for; those take turns within the stream's credit (rule 38). Answers and pushes without batches
cost no credit and never wait behind data.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, NamedTuple

from millpond.wire.errors import MillpondError
from millpond_broker.core.credit import Credit
from millpond_broker.core.in_sync import Member
from millpond_broker.core.replication import OutOfRange, Serving, UnknownLeaderEpoch
from millpond_broker.core.throttle import Throttle
from millpond_broker.observe.logs import event
from millpond_broker.runtime.partition import Key, Partition
from millpond_broker.runtime.peers import PeerStream, StreamClosed
from millpond_broker.runtime.ports import Clock
from millpond_broker.runtime.replication_messages import Acknowledged, Answered, Hello, Pushed, Stated, Taken

_log: Final = logging.getLogger(__name__)

WINDOW_BYTES: Final = 8 << 20
"""Pushed to one follower and not taken yet: bounds what one that is slow has to hold."""
LANE_BYTES_MAX: Final = 2 << 20
"""Of one partition: leaves room for the others."""
PUSH_BYTES_MAX: Final = 1 << 20
"""Read for one push: the loop has other work between two."""


AGAIN_SECONDS: Final = 0.2
"""Before what could not be read for a push is tried again."""
TELL_SECONDS: Final = 0.01
"""A high watermark waits so long for batches to travel with. By itself it took a third of the messages of a
partition that is written to all the time; consumers read from the leader, and a fail-over finds it again."""


class Session(NamedTuple):
    """An open session of one partition's follower, on one stream."""

    leader_epoch: int
    number: int


class Pace:
    """How fast replicas that are not in sync get what they lack, all together: whoever is in sync and the
    producers come first.
    """

    def __init__(self, bytes_per_second: int, clock: Clock) -> None:
        self._throttle = Throttle(bytes_per_second)
        self._clock = clock

    def wait_seconds(self) -> float:
        """For how long nothing is to be pushed to them."""
        return self._throttle.wait_ms(self._clock.monotonic() * 1000) / 1000

    def took(self, size_bytes: int) -> None:
        """So much was pushed."""
        self._throttle.took(size_bytes, self._clock.monotonic() * 1000)


class StreamToFollower:
    """One stream. `run` is its task."""

    def __init__(
        self, stream: PeerStream, hello: Hello, find: Callable[[Key], Partition | None], pace: Pace
    ) -> None:
        self.hello: Final = hello
        self._pace = pace
        self._member = Member(hello.broker_id, hello.broker_epoch)
        self._stream = stream
        self._find = find
        # At most the partitions of this broker.
        self._sessions: dict[Key, Session] = {}
        self._credit: Credit[Key] = Credit(WINDOW_BYTES, LANE_BYTES_MAX)
        # Those that said so since the last look, each once.
        self._due: dict[Key, None] = {}
        # Those that wait for the rate at which replicas may catch up, or could not be read; and the timer
        # that ends it.
        self._paced: dict[Key, None] = {}
        self._unpacing: asyncio.TimerHandle | None = None
        self._wake = asyncio.Event()

    def close(self) -> None:
        """Another has taken its place, or the broker stops."""
        self._stream.close()

    def ready(self, partition: Partition) -> None:
        """That partition has something for this follower."""
        if partition.key in self._sessions:
            self._due[partition.key] = None
            self._wake.set()

    async def run(self, messages: list[object]) -> None:
        """Serve until the stream is over. `messages` came behind the first."""
        try:
            async with asyncio.TaskGroup() as tasks:
                pushing = tasks.create_task(self._push_all(), name="pushes")
                try:
                    while True:
                        for message in messages:
                            self._take(message)
                        messages = await self._stream.receive()
                except StreamClosed:
                    pushing.cancel()
        finally:
            if self._unpacing is not None:
                self._unpacing.cancel()
            sessions, self._sessions = self._sessions, {}
            for key, session in sessions.items():
                if (partition := self._find(key)) is not None:
                    partition.lost(self._member, session.leader_epoch, session.number)

    # --- what the follower says -----------------------------------------------------------------------

    def _take(self, message: object) -> None:
        match message:
            case Stated():
                self._stated(message)
            case Acknowledged(topic_id, number, acknowledgement):
                if (partition := self._find((topic_id, number))) is not None:
                    partition.acknowledged(self._member, acknowledgement)
            case Taken(topic_id, number, size_bytes):
                if not self._credit.returned((topic_id, number), size_bytes):
                    event(_log, logging.WARNING, "credit_refused", follower=self._member.broker_id)
                    self._stream.close()
                self._wake.set()
            case _:
                event(_log, logging.WARNING, "follower_message_refused", message=type(message).__name__)
                self._stream.close()

    def _stated(self, message: Stated) -> None:
        key, statement = (message.topic_id, message.partition), message.statement
        if (statement.follower, statement.broker_epoch) != self._member:
            event(_log, logging.WARNING, "statement_refused", follower=self._member.broker_id)
            self._stream.close()
            return
        partition = self._find(key)
        self._sessions.pop(key, None)
        if partition is None:  # the metadata that give it to us are still on their way, or it is gone
            unknown = UnknownLeaderEpoch(statement.leader_epoch, statement.session, current_epoch=0)
            self._stream.send(Answered(*key, unknown))
            return
        # The answer leaves before any push: whoever pushes has not had a turn yet.
        self._sessions[key] = Session(statement.leader_epoch, statement.session)
        answer = partition.stated(statement)
        if not isinstance(answer, Serving):
            del self._sessions[key]
        self._stream.send(Answered(*key, answer))

    # --- pushing --------------------------------------------------------------------------------------

    async def _push_all(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            self._take_due()
            while (turn := self._credit.take()) is not None:
                if self._is_paced(turn.key):
                    continue
                if self._push(turn.key, min(turn.bytes_max, PUSH_BYTES_MAX)):
                    await asyncio.sleep(0)  # the loop has other work, too
                    self._take_due()

    def _take_due(self) -> None:
        """What needs no credit leaves; the rest takes turns."""
        due, self._due = self._due, {}
        for key in due:
            if not self._push(key, 0):
                self._credit.ready(key)

    def _is_paced(self, key: Key) -> bool:
        """Whether a partition that catches up has to wait; its turn comes again."""
        partition = self._find(key)
        if partition is None or partition.is_in_sync(self._member.broker_id):
            return False
        wait_seconds = self._pace.wait_seconds()
        if wait_seconds:
            self._later(key, wait_seconds)
        return wait_seconds > 0

    def _later(self, key: Key, seconds: float) -> None:
        self._paced[key] = None
        if self._unpacing is None:
            self._unpacing = asyncio.get_running_loop().call_later(seconds, self._unpace)

    def _unpace(self) -> None:
        self._unpacing = None
        paced, self._paced = self._paced, {}
        for key in paced:
            self._credit.ready(key)
        self._wake.set()

    def _push(self, key: Key, bytes_max: int) -> bool:
        """One turn of a partition, which has as many bytes, or none; whether anything was pushed."""
        partition = self._find(key)
        if partition is None or key not in self._sessions:
            return False
        try:
            due = partition.next_push(self._member.broker_id, bytes_max)
        except MillpondError as error:
            event(_log, logging.ERROR, "not_pushed", log=str(partition.name), error=str(error))
            self._later(key, AGAIN_SECONDS)
            return False
        if due is None:
            return False
        if isinstance(due, OutOfRange):
            del self._sessions[key]
            self._stream.send(Answered(*key, due))
            return False
        push, data = due
        self._stream.send(Pushed(*key, push, data))
        self._credit.pushed(key, len(data))
        if data and not partition.is_in_sync(self._member.broker_id):
            self._pace.took(len(data))
        self._credit.ready(key)  # until there is nothing left for it
        return True


class StreamsToFollowers:
    """All of them, by follower."""

    def __init__(self, find: Callable[[Key], Partition | None], pace: Pace) -> None:
        self._find = find
        self._pace = pace
        # One for each other broker.
        self._current: dict[int, StreamToFollower] = {}
        # High watermarks that followers are owed when the timer ends: one a partition, the first since then.
        self._owed: dict[Partition, int] = {}
        self._telling: asyncio.TimerHandle | None = None

    async def serve(self, stream: PeerStream) -> None:
        """A broker has opened a stream; until it is over."""
        try:
            first, *rest = await stream.receive()
        except StreamClosed:
            return
        if not isinstance(first, Hello) or first.broker_id != stream.peer.broker_id:
            event(_log, logging.WARNING, "follower_refused", peer=stream.peer.broker_id)
            return
        current = self._current.get(first.broker_id)
        if current is not None:
            if _rank(current.hello) >= _rank(first):
                return  # late: a newer one has overtaken it (rule 37)
            current.close()
        served = self._current[first.broker_id] = StreamToFollower(stream, first, self._find, self._pace)
        event(_log, logging.INFO, "follower_came", follower=first.broker_id, number=first.number)
        try:
            await served.run(rest)
        finally:
            if self._current.get(first.broker_id) is served:
                del self._current[first.broker_id]

    def push(self, partition: Partition, followers: list[int]) -> None:
        """There is something to push to these."""
        for follower in followers:
            if (stream := self._current.get(follower)) is not None:
                stream.ready(partition)

    def tell_later(self, partition: Partition) -> None:
        """Its high watermark has moved; the next batches tell it, too."""
        if self._current:
            self._owed.setdefault(partition, partition.high_watermark)
            if self._telling is None:
                self._telling = asyncio.get_running_loop().call_later(TELL_SECONDS, self._tell)

    def _tell(self) -> None:
        self._telling = None
        owed, self._owed = self._owed, {}
        for partition, high_watermark in owed.items():
            partition.owe(high_watermark)
            if partition.leader is not None and partition.high_watermark > high_watermark:
                self.tell_later(partition)

    def close(self) -> None:
        """Nothing is told any more."""
        if self._telling is not None:
            self._telling.cancel()


def _rank(hello: Hello) -> tuple[int, int]:
    return hello.broker_epoch, hello.number
