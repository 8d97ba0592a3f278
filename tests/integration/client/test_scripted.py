"""A consumer and a connection against a broker that misbehaves."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import assert_type

import pytest
import pytest_asyncio

import millpond
from millpond.client import Client
from millpond.errors import (
    ClientClosed,
    ClusterUnavailable,
    DeserializationError,
    ForkedClient,
    InvalidConfig,
    MillpondError,
    OffsetOutOfRange,
    OperationTimeout,
    TopicExists,
    UnknownPartition,
    UnknownTopic,
)
from tests.awake import awake
from tests.integration.client.scripted import ScriptedBroker


@pytest_asyncio.fixture
async def broker() -> AsyncIterator[ScriptedBroker]:
    made = ScriptedBroker(partitions=2)
    await made.start()
    yield made
    await made.stop()


@pytest_asyncio.fixture
async def client(broker: ScriptedBroker) -> AsyncIterator[Client]:
    before = asyncio.all_tasks()
    async with millpond.connect(broker.address, client_id="tests", timeout=10.0) as made:
        yield made
    left = {task for task in asyncio.all_tasks() - before if task.get_name().startswith("millpond-")}
    assert not left, "closing a client leaves no task"


async def until(holds: Callable[[], bool], within_s: float = 30.0) -> None:
    async with asyncio.timeout(within_s):
        while not holds():
            await asyncio.sleep(0.005)


async def values(consumer: millpond.Consumer[bytes | None, bytes | None], count: int) -> list[object]:
    found: list[object] = []
    async with asyncio.timeout(20):
        async for record in consumer:
            found.append(record.value)
            if len(found) == count:
                break
    return found


async def test_records_come_as_they_are_appended(broker: ScriptedBroker, client: Client) -> None:
    broker.append(0, b"a", b"b")
    async with client.consumer("t") as consumer:
        assert await values(consumer, 2) == [b"a", b"b"]
        assert consumer.position("t", 0) == 2
        broker.append(1, b"c")
        assert await values(consumer, 1) == [b"c"]
    assert broker.client_ids == {"tests"}
    await until(lambda: broker.streams == 0)


async def test_a_broken_stream_is_opened_anew_without_loss_or_repeat(
    broker: ScriptedBroker, client: Client
) -> None:
    async with client.consumer("t") as consumer:
        for number in range(20):
            broker.append(0, b"%d" % number)
            if number % 5 == 4:
                broker.break_streams()
            if number % 3 == 0:
                await asyncio.sleep(0.01)
        assert await values(consumer, 20) == [b"%d" % number for number in range(20)]
    assert broker.streams_ever > 1


async def test_a_broker_that_comes_back_is_read_on(broker: ScriptedBroker, client: Client) -> None:
    async with client.consumer("t") as consumer:
        broker.append(0, b"a")
        assert await values(consumer, 1) == [b"a"]
        await broker.stop()
        broker.append(0, b"b")
        assert await consumer.poll(timeout=0.3) == []
        await broker.start()
        started = awake()
        assert await values(consumer, 1) == [b"b"]
        assert awake() - started < 3.0


async def test_a_stalled_stream_is_given_up_and_opened_anew(
    broker: ScriptedBroker, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("millpond._core.session.PING_AFTER_S", 0.1)
    monkeypatch.setattr("millpond._core.session.PONG_WITHIN_S", 0.3)
    async with client.consumer("t") as consumer:
        broker.append(0, b"a")
        assert await values(consumer, 1) == [b"a"]
        broker.stalled = True
        broker.append(0, b"b")
        before = broker.streams_ever
        await until(lambda: broker.streams_ever > before)
        broker.stalled = False
        broker.changed()
        assert await values(consumer, 1) == [b"b"]


async def test_trouble_that_lasts_is_raised_instead_of_hanging(broker: ScriptedBroker) -> None:
    async with (
        millpond.connect(broker.address, timeout=2.0) as client,
        client.consumer("t", trouble_timeout=0.8) as consumer,
    ):
        await broker.stop()
        for _ in range(2):  # told anew after as long again, once for both partitions
            started, awake_at = time.monotonic(), awake()
            with pytest.raises(ClusterUnavailable) as caught:
                await anext(consumer)
            assert time.monotonic() - started > 0.5
            assert awake() - awake_at < 10.0
            assert broker.address in caught.value.tried
            assert str(caught.value).startswith("the leader of t-")
        broker.append(0, b"a")
        await broker.start()
        found: list[object] = []
        async with asyncio.timeout(20):
            while not found:  # told again, perhaps: a channel may take longer than that to connect anew
                with contextlib.suppress(ClusterUnavailable):
                    found = await values(consumer, 1)
        assert found == [b"a"], "it is as usable as before"


async def test_a_consumer_outlasts_what_its_client_would_not_wait_for(
    broker: ScriptedBroker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("millpond.consumer.TROUBLE_TOLD_S", 0.2)
    monkeypatch.setattr("millpond._core.session.PING_AFTER_S", 0.1)
    async with millpond.connect(broker.address, timeout=1.5) as client, client.consumer("t") as consumer:
        broker.append(0, b"a")
        assert await values(consumer, 1) == [b"a"]
        await broker.stop()
        reading = asyncio.ensure_future(values(consumer, 1))
        await until(lambda: "; reading waits for it" in caplog.text)
        done, _ = await asyncio.wait((reading,), timeout=3.5)
        assert not done, "longer than the client's own time-out, and than it is between two looks"
        broker.append(0, b"b")
        await broker.start()
        assert await reading == [b"b"]
        reading = asyncio.ensure_future(values(consumer, 1))
        await until(lambda: "reading goes on" in caplog.text)
        broker.append(1, b"c")
        assert await reading == [b"c"]
    said = [record.getMessage() for record in caplog.records if record.name == "millpond"]
    assert len(said) == 2, said
    assert said[0].startswith("the leader of t-")


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan")])
async def test_a_trouble_timeout_that_is_no_time_is_refused(client: Client, seconds: float) -> None:
    with pytest.raises(InvalidConfig, match="trouble_timeout"):
        client.consumer("t", trouble_timeout=seconds)


async def test_stop_at_the_end_reads_what_there_was(broker: ScriptedBroker, client: Client) -> None:
    broker.append(0, b"a", b"b")
    async with client.consumer("t", stop="end") as consumer:
        broker.append(0, b"c")
        assert [record.value async for record in consumer] == [b"a", b"b"]
        assert consumer.finished
        assert await consumer.poll(timeout=5.0) == []
        assert [record.value async for record in consumer] == []
    async with client.consumer("t", stop="end", partitions=[1]) as consumer:
        assert [record async for record in consumer] == []


async def test_new_partitions_are_taken_up(broker: ScriptedBroker, client: Client) -> None:
    async with client.consumer("t", start="end") as consumer:
        broker.add_partition()
        broker.append(2, b"new")
        assert await values(consumer, 1) == [b"new"]
        assert [key.partition for key in consumer.assignment] == [0, 1, 2]


async def test_a_topic_that_is_deleted_is_told(broker: ScriptedBroker, client: Client) -> None:
    async with client.consumer("t") as consumer, client.consumer(pattern="t.*") as matching:
        broker.delete_topic()
        with pytest.raises(UnknownTopic):
            await anext(consumer)
        await until(lambda: matching.assignment == [])
        assert await matching.poll(timeout=0.05) == [], "to a pattern it just does not belong any more"


async def test_a_topic_that_does_not_exist_is_told_when_opening(client: Client) -> None:
    with pytest.raises(UnknownTopic):
        await client.consumer("nothing")
    with pytest.raises(UnknownPartition):
        await client.consumer("t", partitions=[7])


async def test_poll_gives_what_is_there_or_nothing_in_time(broker: ScriptedBroker, client: Client) -> None:
    async with client.consumer("t") as consumer:
        started, awake_at = time.monotonic(), awake()
        assert await consumer.poll(timeout=0.2) == []
        assert time.monotonic() - started > 0.15
        assert awake() - awake_at < 5.0
        broker.append(0, *(b"%d" % number for number in range(10)))
        polled = await consumer.poll(max_records=4, timeout=5.0)
        polled += await consumer.poll(max_records=4, timeout=5.0)
        assert consumer.position("t", 0) == 8
        assert [record.value for record in polled] == [b"%d" % number for number in range(8)]
        assert await values(consumer, 1) == [b"8"]
        batch = await anext(consumer.batches())
        assert (list(batch.values), list(batch.offsets)) == ([b"9"], [9])


async def test_a_cancelled_wait_loses_nothing(broker: ScriptedBroker, client: Client) -> None:
    async with client.consumer("t") as consumer:
        got: list[bytes | None] = []
        for number in range(200):
            if number % 3 == 0:
                broker.append(0, b"%d" % number)
            waiting = asyncio.ensure_future(anext(consumer))
            await asyncio.sleep(0.0005 * (number % 7))
            waiting.cancel()
            try:
                got.append((await waiting).value)
            except asyncio.CancelledError:
                continue
        while len(got) < len(range(0, 200, 3)) and (records := await consumer.poll(timeout=20.0)):
            got += [record.value for record in records]
    assert got == [b"%d" % number for number in range(0, 200, 3)]


async def test_seek_goes_back_and_forth(broker: ScriptedBroker, client: Client) -> None:
    broker.append(0, b"a", b"b", b"c")
    async with client.consumer("t") as consumer:
        assert await values(consumer, 2) == [b"a", b"b"]
        await consumer.seek("t", 0, offset=1)
        assert consumer.position("t", 0) == 1
        assert await values(consumer, 2) == [b"b", b"c"]
        await consumer.seek("t", 0, to="beginning")
        assert await values(consumer, 1) == [b"a"]
        await consumer.seek("t", 0, to="end")
        broker.append(0, b"d")
        assert await values(consumer, 1) == [b"d"]
        for wrong in ({}, {"offset": 1, "to": "end"}):
            with pytest.raises(TypeError, match="exactly one"):
                await consumer.seek("t", 0, **wrong)  # type: ignore[arg-type]  # what is refused
        with pytest.raises(UnknownPartition):
            await consumer.seek("t", 9, offset=0)
        await consumer.seek("t", 0, offset=99)
        with pytest.raises(OffsetOutOfRange):
            await anext(consumer)


async def test_seeking_with_a_full_buffer_makes_room_for_what_is_wanted(
    broker: ScriptedBroker, client: Client
) -> None:
    for _ in range(20):
        broker.append(0, b"x" * 1000)
    async with client.consumer("t", buffer_bytes=3000) as consumer:
        assert len(await values(consumer, 1)) == 1
        for _ in range(5):
            await asyncio.sleep(0.01)
            await consumer.seek("t", 0, offset=15)
            started = awake()
            assert (await anext(consumer)).offset == 15
            assert awake() - started < 2.5, "not by a stream that stalled"


async def test_retention_that_was_faster_is_counted_or_raised(
    broker: ScriptedBroker, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    broker.append(0, b"a")
    broker.append(0, b"b")
    broker.logs[0].trim(1)
    async with client.consumer("t", start=0) as consumer:
        assert await values(consumer, 1) == [b"b"]
        assert consumer.records_skipped == 1
        assert "retention deleted 1 records" in caplog.text
    async with client.consumer("t", start=0, on_gap="raise", partitions=[0]) as consumer:
        with pytest.raises(OffsetOutOfRange):
            await anext(consumer)
        await consumer.seek("t", 0, offset=1)
        assert await values(consumer, 1) == [b"b"]


async def test_a_bad_record_is_raised_once_and_passed(broker: ScriptedBroker, client: Client) -> None:
    broker.append(0, b"1", b"x", b"3")
    async with client.consumer("t", value_deserializer=int) as consumer:
        assert (await anext(consumer)).value == 1
        with pytest.raises(DeserializationError) as caught:
            await anext(consumer)
        assert caught.value.record.value == b"x"
        assert consumer.position("t", 0) == 2
        assert (await anext(consumer)).value == 3
        await consumer.seek("t", 0, offset=0)
        assert [record.value for record in await consumer.poll()] == [1]
        with pytest.raises(DeserializationError):
            await consumer.poll()
        assert [record.value for record in await consumer.poll()] == [3]
    async with client.consumer("t", value_deserializer=int, on_bad_record="deliver") as consumer:
        records = await consumer.poll()
        assert [record.value for record in records] == [1, b"x", 3]
        assert [record.error is not None for record in records] == [False, True, False]


async def test_options_that_mean_nothing_are_refused(client: Client) -> None:
    with pytest.raises(InvalidConfig) as caught:
        client.consumer("t", group="billing")
    assert caught.value.key == "group"
    with pytest.raises(TypeError, match="topics"):
        client.consumer()
    with pytest.raises(ValueError, match="stop="):
        client.consumer("t", stop="soon")  # type: ignore[call-overload]  # what is refused
    with pytest.raises(InvalidConfig):
        client.consumer("t", buffer_bytes=0)
    async with client.consumer("t") as consumer:
        with pytest.raises(InvalidConfig):
            await consumer.commit()


async def test_a_closed_consumer_says_so_also_to_who_is_waiting(client: Client) -> None:
    consumer = await client.consumer("t")
    waiting = asyncio.ensure_future(anext(consumer))
    await asyncio.sleep(0.02)
    await consumer.close()
    with pytest.raises(ClientClosed):
        await waiting
    with pytest.raises(ClientClosed):
        await consumer.poll()
    await consumer.close()


async def test_closing_the_client_closes_its_consumers(broker: ScriptedBroker) -> None:
    client = await millpond.connect(broker.address)
    consumer = await client.consumer("t")
    await client.close()
    with pytest.raises(ClientClosed):
        await anext(consumer)
    with pytest.raises(ClientClosed):
        await client.admin.brokers()
    await until(lambda: broker.streams == 0)


async def test_cancelling_a_reader_leaves_no_task_or_stream(broker: ScriptedBroker) -> None:
    reading = asyncio.Event()

    async def read() -> None:
        async with millpond.connect(broker.address) as client, client.consumer("t") as consumer:
            reading.set()
            async for _ in consumer:
                pass

    before = asyncio.all_tasks()
    task = asyncio.ensure_future(read())
    await reading.wait()
    await until(lambda: broker.streams == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not {task for task in asyncio.all_tasks() - before if task.get_name().startswith("millpond-")}
    await until(lambda: broker.streams == 0)


async def test_every_address_is_named_when_none_answers() -> None:
    started = awake()
    with pytest.raises(ClusterUnavailable) as caught:
        await millpond.connect("127.0.0.1:1,127.0.0.1:2", timeout=0.5)
    assert awake() - started < 10.0
    assert caught.value.tried == dict.fromkeys(("127.0.0.1:1", "127.0.0.1:2"), "connection refused")


async def test_the_next_address_is_asked_when_one_does_not_answer(broker: ScriptedBroker) -> None:
    async with millpond.connect(f"127.0.0.1:1,{broker.address}") as client:
        assert [each.id for each in await client.admin.brokers()] == [1]


async def test_a_call_ends_by_its_timeout(broker: ScriptedBroker, client: Client) -> None:
    broker.stalled = True
    started = awake()
    with pytest.raises(OperationTimeout):
        await client.admin.describe_topic("t", timeout=0.3)
    assert awake() - started < 1.4, "before it is known for silent"


async def test_a_topic_whose_creation_was_not_answered_was_created(
    broker: ScriptedBroker, client: Client
) -> None:
    with pytest.raises(TopicExists):
        await client.admin.create_topic("t", partitions=2)
    broker.delete_topic()
    await until(lambda: "t" not in client.connection.view.topics)
    made = await client.admin.create_topic("t", partitions=2)
    assert (made.name, len(made.partitions)) == ("t", 2)


async def test_the_environment_names_the_cluster(
    broker: ScriptedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLPOND_BOOTSTRAP", broker.address)
    async with millpond.connect() as client:
        assert await client.admin.list_offsets("t", at="end") == {("t", 0): 0, ("t", 1): 0}


@pytest.mark.parametrize(
    "refusal",
    [UnknownPartition(topic="t", partition=1, partitions=1), UnknownTopic(topic="0" * 32)],
    ids=["partition", "topic"],
)
async def test_a_leader_that_has_not_heard_of_what_the_client_knows_is_asked_again(
    broker: ScriptedBroker, client: Client, refusal: MillpondError
) -> None:
    """Until it has; or until the client hears that the topic is gone, whose name it then tells."""
    broker.refuses_offsets = refusal
    asking = asyncio.ensure_future(client.admin.list_offsets("t", at="end"))
    done, _ = await asyncio.wait((asking,), timeout=0.3)
    assert not done
    broker.refuses_offsets = None
    assert await asking == {("t", 0): 0, ("t", 1): 0}
    broker.refuses_offsets = refusal
    asking = asyncio.ensure_future(client.admin.list_offsets("t", at="end"))
    await asyncio.sleep(0)
    broker.delete_topic()
    with pytest.raises(UnknownTopic) as gone:
        await asking
    assert gone.value.topic == "t"


async def test_use_after_a_fork_is_refused(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the hook in a forked child leaves it; a real fork under gRPC is no test of ours."""
    from millpond._transport import connection  # noqa: PLC0415 - beside its only use

    with monkeypatch.context() as forked:
        forked.setattr(connection, "_forks", connection._forks + 1)
        with pytest.raises(ForkedClient):
            await client.admin.brokers()
        with pytest.raises(ForkedClient):
            await client.consumer("t")
    assert await client.admin.brokers()


async def test_a_client_not_opened_says_what_to_do() -> None:
    with pytest.raises(ClientClosed, match="await it"):
        _ = millpond.connect("127.0.0.1:1").admin


async def test_types_follow_the_deserializers(broker: ScriptedBroker, client: Client) -> None:
    """Held by mypy; what runs is only that the types tell the truth."""
    broker.append(0, b"1")
    plain = client.consumer("t")
    assert_type(plain, millpond.Consumer[bytes | None, bytes | None])
    assert_type(
        client.consumer("t", key_deserializer=bytes.decode), millpond.Consumer[str | None, bytes | None]
    )
    async with client.consumer("t", value_deserializer=int, start="beginning") as numbers:
        assert_type(numbers, millpond.Consumer[bytes | None, int | None])
        record = await anext(numbers)
        assert_type(record, millpond.Record[bytes | None, int | None])
        assert record.value == 1
        with pytest.raises(TypeError):
            client.consumer("t", bufer_bytes=1)  # type: ignore[call-overload]  # what is refused
