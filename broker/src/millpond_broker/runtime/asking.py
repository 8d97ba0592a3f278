"""Questions and answers over control streams (`control_messages`): both ends, and a line to one broker.

A `Conversation` is one stream: its own questions, numbered, and those of the other end, which are handed to
who answers them. A `Line` keeps one to whoever is to be asked, and opens another as that changes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Final, NamedTuple

from millpond_broker.observe.logs import event
from millpond_broker.runtime.control_messages import Asked, Failed, Question, Replied, Reply
from millpond_broker.runtime.peers import (
    Peer,
    PeerStream,
    PeerStreams,
    PeerUnreachable,
    Purpose,
    StreamClosed,
)

_log: Final = logging.getLogger(__name__)

QUESTIONS_MAX: Final = 512
"""On one stream, of each end, that wait for their answers: more than a broker's proposals in flight."""
OPEN_SECONDS_MAX: Final = 1.0
"""For a stream to open: a third of a session, so that a lost one costs no broker its place."""

Answer = Callable[[Peer, Question], Reply | Awaitable[Reply]]
"""Answers a question of a peer, at once or later. What takes its time is cancelled with the stream."""


class Unanswered(Exception):
    """There was no answer: nobody to ask, no stream, one that broke, or no answer in time. What was asked may
    have been done all the same, unless `was_asked` is False.
    """

    def __init__(self, reason: str, *, was_asked: bool) -> None:
        super().__init__(reason)
        self.was_asked = was_asked


def answers_nothing(_peer: Peer, question: Question) -> Reply:
    """For ends that only ask."""
    return Failed(f"{type(question).__name__} is not answered here")


class Conversation:
    """One control stream. `run` takes what comes; everything ends with it."""

    def __init__(self, stream: PeerStream, answer: Answer) -> None:
        self._stream = stream
        self._answer = answer
        self._waiting: dict[int, asyncio.Future[Reply]] = {}  # at most QUESTIONS_MAX
        self._answering: set[asyncio.Task[None]] = set()  # at most QUESTIONS_MAX
        self._asked = 0
        self.is_over = False

    @property
    def peer(self) -> Peer:
        """Who is at the other end."""
        return self._stream.peer

    async def run(self) -> None:
        """Answer, and hand answers out, until the stream is over. Whoever still waits is told so."""
        try:
            while True:
                for message in await self._stream.receive():
                    if isinstance(message, Asked):
                        self._take(message)
                    elif (waiting := self._waiting.get(message.number)) is not None and not waiting.done():
                        waiting.set_result(message.reply)
        except StreamClosed:
            pass
        finally:
            self.close()
            for task in self._answering:
                task.cancel()
            if self._answering:
                await asyncio.wait(self._answering)

    async def ask(self, question: Question, seconds: float) -> Reply:
        """The answer. Raises Unanswered."""
        if self.is_over:
            raise Unanswered("the stream is over", was_asked=False)
        if len(self._waiting) >= QUESTIONS_MAX:
            raise Unanswered(f"{QUESTIONS_MAX} questions wait for answers already", was_asked=False)
        self._asked += 1
        number = self._asked
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[number] = reply
        try:
            self._stream.send(Asked(number, question))
            async with asyncio.timeout(seconds):
                return await reply
        except TimeoutError:
            raise Unanswered(f"no answer within {seconds:.3g} s", was_asked=True) from None
        finally:
            del self._waiting[number]

    def close(self) -> None:
        """Over: whoever waits is told so. `run` ends."""
        self.is_over = True
        self._stream.close()
        for reply in self._waiting.values():
            if not reply.done():
                reply.set_exception(Unanswered("the stream broke", was_asked=True))

    def _take(self, asked: Asked) -> None:
        if len(self._answering) >= QUESTIONS_MAX:
            self._stream.send(Replied(asked.number, Failed(f"{QUESTIONS_MAX} questions are under way")))
            return
        answer = self._answer(self._stream.peer, asked.question)
        if isinstance(answer, Awaitable):
            # This object is the owner that a task must have: `run` ends it.
            task = asyncio.Task(self._answer_later(asked.number, answer), name="answer")
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
            if isinstance(answer, Coroutine):
                # A task that is cancelled before its first step has not begun what it was to await.
                task.add_done_callback(lambda _task: answer.close())
        else:
            self._stream.send(Replied(asked.number, answer))

    async def _answer_later(self, number: int, answer: Awaitable[Reply]) -> None:
        try:
            reply = await answer
        except Exception as error:  # a task's root: a mistake of ours leaves one question without its answer
            event(_log, logging.ERROR, "question_failed", peer=self._stream.peer.broker_id, trace=error)
            reply = Failed(f"{type(error).__name__} while it was answered")
        self._stream.send(Replied(number, reply))


class Target(NamedTuple):
    """A broker to ask, and where it is reached."""

    broker_id: int
    address: str


class Line:
    """Asks one broker, the one that `target` names now, on one stream of its own."""

    def __init__(self, streams: PeerStreams, target: Callable[[], Target | None]) -> None:
        self._streams = streams
        self._target = target
        self._opening = asyncio.Lock()
        self._open: tuple[Target, Conversation] | None = None
        self._running: set[asyncio.Task[None]] = set()  # one, and those that are ending
        self._is_closed = False

    async def ask(self, question: Question, seconds: float) -> Reply:
        """The answer. Raises Unanswered."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + seconds
        try:
            async with asyncio.timeout_at(give_up_at):
                conversation = await self._reach()
        except TimeoutError:
            raise Unanswered(f"no stream within {seconds:.3g} s", was_asked=False) from None
        return await conversation.ask(question, max(0.0, give_up_at - loop.time()))

    def follow(self) -> None:
        """Who is to be asked may have changed: what was asked of another is not waited for."""
        if self._open is not None and self._open[0] != self._target():
            self.hang_up()

    def hang_up(self) -> None:
        """Give the stream up; the next question opens another."""
        if self._open is not None:
            self._open[1].close()
            self._open = None

    async def close(self) -> None:
        """Over, with everything that waits."""
        self._is_closed = True
        self.hang_up()
        if self._running:
            await asyncio.wait(self._running)

    async def _reach(self) -> Conversation:
        async with self._opening:
            target = self._target()
            if self._is_closed or target is None:
                raise Unanswered("nobody is known who could be asked", was_asked=False)
            if self._open is not None and self._open[0] == target and not self._open[1].is_over:
                return self._open[1]
            self.hang_up()
            try:
                stream = await self._streams.open(*target, Purpose.CONTROL, OPEN_SECONDS_MAX)
            except PeerUnreachable as error:
                raise Unanswered(f"broker {target.broker_id}: {error}", was_asked=False) from None
            conversation = Conversation(stream, answers_nothing)
            # This object is the owner that a task must have: `close` awaits it.
            task = asyncio.Task(conversation.run(), name=f"line to broker {target.broker_id}")
            self._running.add(task)
            task.add_done_callback(self._running.discard)
            self._open = target, conversation
            if self._is_closed:  # meanwhile
                self.hang_up()
            return conversation


async def ask_once(streams: PeerStreams, target: Target, question: Question, seconds: float) -> Reply:
    """The answer, over a stream of its own, in that time altogether. Raises Unanswered."""
    line = Line(streams, lambda: target)
    try:
        return await line.ask(question, seconds)
    finally:
        await line.close()
