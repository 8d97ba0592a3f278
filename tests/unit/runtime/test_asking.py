"""Questions and answers over one control stream: numbered, bounded, and told when there will be none."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from millpond_broker.runtime import asking
from millpond_broker.runtime.asking import (
    Answer,
    Conversation,
    Line,
    Target,
    Unanswered,
    answers_nothing,
    ask_once,
)
from millpond_broker.runtime.control_messages import Failed, Here, Question, Reply, Who
from millpond_broker.runtime.peers import Peer, PeerStream, Purpose
from tests.unit.runtime.streams import MemoryStream, MemoryStreams, Network

PEERS = [Peer(key, f"disk-{key}", bytes([key] * 16), bytes(16)) for key in range(3)]


class Answers:
    """Answers as a test says; `waiting` counts questions that have no answer yet."""

    def __init__(self) -> None:
        self.may_go = asyncio.Event()
        self.may_go.set()
        self.waiting = 0
        self.fails = False

    def __call__(self, _peer: Peer, _question: Question) -> Reply | Awaitable[Reply]:
        return self._answer()

    async def _answer(self) -> Reply:
        self.waiting += 1
        try:
            await self.may_go.wait()
        finally:
            self.waiting -= 1
        if self.fails:
            raise ZeroDivisionError
        return Here(b"answered")


@asynccontextmanager
async def talking(answers: Answer) -> AsyncIterator[tuple[Conversation, MemoryStream]]:
    """One that asks, and the stream under it; the other end answers."""
    network = Network()
    mine, theirs = MemoryStream(network, PEERS[2]), MemoryStream(network, PEERS[1])
    mine.other, theirs.other = theirs, mine
    asker, answerer = Conversation(mine, answers_nothing), Conversation(theirs, answers)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(asker.run())
        tasks.create_task(answerer.run())
        try:
            yield asker, mine
        finally:
            asker.close()


async def test_each_question_gets_its_own_answer() -> None:
    async with talking(Answers()) as (asker, _):
        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(asker.ask(Who(), 5)) for _ in range(10)]
        assert [task.result() for task in asked] == [Here(b"answered")] * 10


async def test_a_question_without_an_answer_ends_at_its_deadline_and_leaves_the_stream() -> None:
    answers = Answers()
    answers.may_go.clear()
    async with talking(answers) as (asker, _):
        with pytest.raises(Unanswered, match="no answer within") as told:
            await asker.ask(Who(), 0.01)
        assert told.value.was_asked
        answers.may_go.set()
        assert await asker.ask(Who(), 5) == Here(b"answered")


async def test_a_stream_that_breaks_answers_everybody_and_ends_what_is_under_way() -> None:
    answers = Answers()
    answers.may_go.clear()
    async with talking(answers) as (asker, stream):
        asked = [asyncio.ensure_future(asker.ask(Who(), 60)) for _ in range(3)]
        while answers.waiting < 3:
            await asyncio.sleep(0)
        stream.close()
        for told in await asyncio.gather(*asked, return_exceptions=True):
            assert isinstance(told, Unanswered)
            assert told.was_asked
        with pytest.raises(Unanswered, match="over") as late:
            await asker.ask(Who(), 1)
        assert not late.value.was_asked
    assert answers.waiting == 0


async def test_questions_are_bounded_at_both_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = Answers()
    answers.may_go.clear()
    async with talking(answers) as (asker, _):
        monkeypatch.setattr(asking, "QUESTIONS_MAX", 2)
        asked = [asyncio.ensure_future(asker.ask(Who(), 60)) for _ in range(2)]
        while answers.waiting < 2:
            await asyncio.sleep(0)
        with pytest.raises(Unanswered, match="2 questions wait") as told:
            await asker.ask(Who(), 60)
        assert not told.value.was_asked
        asker._waiting.clear()  # as one that does not count
        refused = await asker.ask(Who(), 60)
        assert refused == Failed("2 questions are under way")
        for task in asked:
            task.cancel()
        monkeypatch.undo()
        with pytest.raises(KeyError):  # of what was cleared
            await asyncio.gather(*asked)


async def test_an_answer_that_was_not_begun_is_not_left_behind() -> None:
    """A stream that breaks in the turn in which a question came ends its answer before the first step."""
    answers = Answers()
    begun: list[Coroutine[Any, Any, Reply]] = []

    def answer(_peer: Peer, _question: Question) -> Reply | Awaitable[Reply]:
        begun.append(answers._answer())
        assert asking_stream.other is not None
        asking_stream.other.close()
        return begun[-1]

    async with talking(answer) as (asker, asking_stream):
        with pytest.raises(Unanswered):
            await asker.ask(Who(), 60)
    assert [inspect.getcoroutinestate(coroutine) for coroutine in begun] == [inspect.CORO_CLOSED]


async def test_a_mistake_in_an_answer_leaves_the_stream(caplog: pytest.LogCaptureFixture) -> None:
    answers = Answers()
    answers.fails = True
    async with talking(answers) as (asker, _):
        with caplog.at_level(logging.ERROR):
            assert await asker.ask(Who(), 5) == Failed("ZeroDivisionError while it was answered")
        answers.fails = False
        assert await asker.ask(Who(), 5) == Here(b"answered")
    assert [record.message for record in caplog.records] == ["question_failed"]


@asynccontextmanager
async def network(*broker_ids: int) -> AsyncIterator[dict[int, MemoryStreams]]:
    """Brokers that say who they are."""
    wires, made = Network(), {}
    for key in broker_ids:
        streams = made[key] = MemoryStreams(wires, f"b{key}")

        async def serve(stream: PeerStream, key: int = key) -> None:
            await Conversation(stream, lambda _peer, _question: Here(bytes([key]))).run()

        streams.serve(Purpose.CONTROL, serve)
        await streams.start(lambda key=key: PEERS[key], lambda _peer: None)  # type: ignore[misc]  # bound now
    try:
        yield made
    finally:
        for streams in made.values():
            await streams.close()


async def test_a_line_follows_whom_it_is_to_ask() -> None:
    async with network(0, 1, 2) as streams:
        whom: list[Target | None] = [Target(1, "b1")]
        line = Line(streams[0], lambda: whom[0])
        assert await line.ask(Who(), 5) == Here(b"\x01")
        whom[0] = Target(2, "b2")
        line.follow()
        assert await line.ask(Who(), 5) == Here(b"\x02")
        whom[0] = None
        with pytest.raises(Unanswered, match="nobody is known"):
            await line.ask(Who(), 5)
        await line.close()
        whom[0] = Target(2, "b2")
        with pytest.raises(Unanswered):
            await line.ask(Who(), 5)


async def test_a_line_has_one_stream_for_many_and_opens_another_when_it_broke() -> None:
    async with network(0, 1) as streams:
        line = Line(streams[0], lambda: Target(1, "b1"))
        async with asyncio.TaskGroup() as tasks:
            for _ in range(20):
                tasks.create_task(line.ask(Who(), 5))
        assert len(streams[1]._tasks) == 1
        line.hang_up()
        assert await line.ask(Who(), 5) == Here(b"\x01")
        await line.close()


async def test_nobody_there_is_told_in_words() -> None:
    async with network(0) as streams:
        with pytest.raises(Unanswered, match="broker 7: nobody") as told:
            await ask_once(streams[0], Target(7, "b7"), Who(), 1)
        assert not told.value.was_asked
