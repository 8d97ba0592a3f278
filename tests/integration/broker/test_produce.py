"""What a produce stream takes, what it answers, and what it refuses."""

from __future__ import annotations

import asyncio

import grpc
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millpond.v1 import produce_pb2
from millpond.wire.batch import Producer
from tests.integration.broker.conftest import NewTopic
from tests.integration.broker.raw import RawClient, batch, code_of, detail_of, drain
from tests.integration.broker.serving import Served


async def test_each_batch_gets_the_offset_of_its_first_record(client: RawClient, new_topic: NewTopic) -> None:
    topic = await new_topic()
    results = await client.send(topic, batch([b"a", b"b"]), batch([b"c"]), batch([b"d"]))
    assert [result.base_offset for result in results] == [0, 2, 3]
    assert await client.read(topic, 0, 4) == [b"a", b"b", b"c", b"d"]


@pytest.mark.parametrize("acks", [produce_pb2.ACKS_ALL, produce_pb2.ACKS_LEADER])
@pytest.mark.parametrize("flush", ["commit", "interval"])
async def test_what_was_acknowledged_can_be_read(
    client: RawClient, new_topic: NewTopic, acks: int, flush: str
) -> None:
    topic = await new_topic(flush=flush)
    (result,) = await client.send(topic, batch([b"x"]), acks=acks)
    assert not result.HasField("error")
    assert await client.read(topic, 0, 1) == [b"x"]


async def test_acks_none_gets_no_result_and_is_written(client: RawClient, new_topic: NewTopic) -> None:
    topic = await new_topic()
    assert await client.send(topic, batch([b"x"]), acks=produce_pb2.ACKS_NONE) == []
    assert await client.read(topic, 0, 1) == [b"x"]


async def test_a_retry_gets_the_old_offset_and_is_not_written_again(
    client: RawClient, new_topic: NewTopic
) -> None:
    """Rule 17."""
    topic = await new_topic()
    first, second = batch([b"a", b"b"], Producer(900, 0, 0)), batch([b"c"], Producer(900, 0, 2))
    results = await client.send(topic, first, second, first, second)
    assert [result.base_offset for result in results] == [0, 2, 0, 2]
    await client.send(topic, batch([b"end"]))
    assert await client.read(topic, 0, 4) == [b"a", b"b", b"c", b"end"]


async def test_a_retry_is_answered_only_when_the_first_try_would_be(
    served: Served, client: RawClient, new_topic: NewTopic
) -> None:
    """Rule 17 with rule 8: recognised, but not durable yet."""
    topic = await new_topic()
    data = batch([b"a"], Producer(901, 0, 0))
    served.syncs.hold()
    duplicates = served.broker.metrics.duplicates
    first, retry = (asyncio.ensure_future(client.send(topic, data)) for _ in range(2))
    try:
        while served.broker.metrics.duplicates == duplicates:
            await asyncio.sleep(0)
        assert not first.done()
        assert not retry.done()
    finally:
        served.syncs.release()
    for (result,) in await asyncio.gather(first, retry):
        assert result.base_offset == 0
        assert not result.HasField("error")


async def test_a_gap_in_a_producer_s_sequence_is_refused(client: RawClient, new_topic: NewTopic) -> None:
    """Rule 17."""
    topic = await new_topic()
    results = await client.send(topic, batch([b"a"], Producer(902, 0, 0)), batch([b"c"], Producer(902, 0, 2)))
    assert code_of(results[1].error) == "OUT_OF_ORDER_SEQUENCE"
    assert results[1].error.facts["expected"] == "1"


async def test_an_older_epoch_of_a_producer_is_fenced(client: RawClient, new_topic: NewTopic) -> None:
    """Rule 18."""
    topic = await new_topic()
    results = await client.send(topic, batch([b"a"], Producer(903, 1, 0)), batch([b"b"], Producer(903, 0, 1)))
    assert code_of(results[1].error) == "PRODUCER_FENCED"


async def test_what_is_wrong_with_one_batch_is_said_of_it_alone(
    client: RawClient, new_topic: NewTopic
) -> None:
    topic = await new_topic(record_bytes_max="1000")
    damaged = bytearray(batch([b"damaged"]))
    damaged[-1] ^= 1
    far_ahead = batch([b"x"], timestamp=1 << 50)
    results = await client.send(
        topic,
        batch([b"good"]),
        bytes(damaged),
        b"",
        b"\0" * 61,
        far_ahead,
        batch([b"x" * 2000]),
        batch([b"x" * (5 << 20)]),
        batch([b"good"]),
    )
    codes = [code_of(result.error) if result.HasField("error") else "" for result in results]
    assert codes == [
        "",
        "CORRUPT_BATCH",
        "CORRUPT_BATCH",
        codes[3],
        "INVALID_RECORD",
        "RECORD_TOO_LARGE",
        "RECORD_TOO_LARGE",
        "",
    ]
    assert codes[3] in ("CORRUPT_BATCH", "UNSUPPORTED_FORMAT")
    assert [result.base_offset for result in results if not result.HasField("error")] == [0, 1]
    assert all(result.error.facts.get("outcome", "not_written") == "not_written" for result in results)


async def test_an_unknown_topic_and_partition_are_named(client: RawClient, new_topic: NewTopic) -> None:
    topic = await new_topic(partitions=2)
    (unknown,) = await client.send(b"\1" * 16, batch([b"x"]))
    assert code_of(unknown.error) == "UNKNOWN_TOPIC"
    (out_of_range,) = await client.send(topic, batch([b"x"]), partition=2)
    assert code_of(out_of_range.error) == "UNKNOWN_PARTITION"
    assert out_of_range.error.facts["partitions"] == "2"


@pytest.mark.parametrize(
    "message",
    [
        b"\xff\xff\xff",
        produce_pb2.ProduceRequest(batches=[produce_pb2.ProduceBatch(id=1)]),
        produce_pb2.ProduceRequest(acks=77),  # type: ignore[arg-type]  # on purpose
    ],
)
async def test_a_message_that_means_nothing_ends_the_stream_with_its_name(
    client: RawClient, message: object
) -> None:
    stream = client.produce()
    await stream.write(message)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await drain(stream)
    detail = detail_of(refused.value)
    assert detail is not None
    assert code_of(detail) == "INVALID_REQUEST"
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_batches_in_one_message_go_to_their_partitions(client: RawClient, new_topic: NewTopic) -> None:
    topic = await new_topic(partitions=3)
    stream = client.produce()
    items = [
        produce_pb2.ProduceBatch(id=7 + n, topic_id=topic, partition=n % 3, batch=batch([b"%d" % n]))
        for n in range(9)
    ]
    await stream.write(produce_pb2.ProduceRequest(acks=produce_pb2.ACKS_ALL, batches=items))
    await stream.done_writing()
    results = [result async for response in stream for result in response.results]
    assert {result.id: result.base_offset for result in results} == {7 + n: n // 3 for n in range(9)}


async def test_nothing_is_answered_or_shown_before_it_is_durable(
    served: Served, client: RawClient, new_topic: NewTopic
) -> None:
    """Rules 6 to 8 with flush=commit: the answer and the high watermark wait for the sync."""
    topic = await new_topic()
    served.syncs.hold()
    try:
        sending = asyncio.ensure_future(client.send(topic, batch([b"a"]), batch([b"b"])))
        while served.broker.offsets(topic, 0, None)[0].log_end < 2:
            await asyncio.sleep(0)
        assert served.broker.offsets(topic, 0, None)[0].high_watermark == 0
        assert not sending.done()
    finally:
        served.syncs.release()
    assert [result.base_offset for result in await sending] == [0, 1]
    assert served.broker.offsets(topic, 0, None)[0].high_watermark == 2


async def test_a_stream_over_its_bound_is_not_read_on(
    served: Served, client: RawClient, new_topic: NewTopic
) -> None:
    """Bounded memory under a flood: what is unanswered stays within the bound and one message."""
    topic = await new_topic()
    limits = served.broker.options.produce
    data = batch([b"x" * 1_000_000])
    served.syncs.hold()
    try:
        sending = asyncio.ensure_future(client.send(topic, *[data] * 40))
        while served.broker.unanswered_bytes < limits.stream_bytes_max:
            await asyncio.sleep(0.001)
        for _ in range(200):
            await asyncio.sleep(0.001)
            assert served.broker.unanswered_bytes < limits.stream_bytes_max + len(data)
    finally:
        served.syncs.release()
    results = await sending
    assert [result.base_offset for result in results] == list(range(40))
    assert served.broker.unanswered_bytes == 0


@settings(max_examples=300, suppress_health_check=list(HealthCheck))
@given(st.data())
async def test_a_flipped_byte_is_refused_or_changes_nothing(
    client: RawClient, mutated_topic: bytes, data: st.DataObject
) -> None:
    """The checksum covers all but what the leader writes itself: offset and leader epoch."""
    good = batch([b"value-1", b"value-2"])
    at = data.draw(st.integers(0, len(good) - 1))
    damaged = bytearray(good)
    damaged[at] ^= data.draw(st.integers(1, 255))
    (result,) = await client.send(mutated_topic, bytes(damaged))
    if result.HasField("error"):
        assert code_of(result.error) in ("CORRUPT_BATCH", "UNSUPPORTED_FORMAT", "RECORD_TOO_LARGE")
        assert result.error.facts.get("outcome", "not_written") == "not_written"
    else:
        assert at < 8 or 12 <= at < 16, "only what the leader overwrites is not under the checksum"
        assert await client.read(mutated_topic, result.base_offset, 2) == [b"value-1", b"value-2"]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def mutated_topic(client: RawClient) -> bytes:
    return await client.create_topic("mutated")
