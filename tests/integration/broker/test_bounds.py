"""Requests that are too long, in every field that has a length: refused by name, and in little time."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from millpond.v1 import admin_pb2, fetch_pb2, offsets_pb2, produce_pb2
from millpond.wire.errors import InvalidRequest, StorageFailed
from millpond_broker.rpc.translate import TEXT_BYTES_MAX, error_detail
from tests.integration.broker.raw import RawClient, code_of, detail_of
from tests.integration.broker.turns import cost, longest_turn

LONG = (300, 3_000, 9_000, 20_000, 200_000, 2_000_000)


def varint(number: int) -> bytes:
    """As protobuf writes it."""
    data = b""
    while number > 127:
        data += bytes([number & 127 | 128])
        number >>= 7
    return data + bytes([number])


async def code_of_refusal(call: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    detail = detail_of(refused.value)
    assert detail is not None, refused.value
    assert refused.value.details() == detail.message
    return code_of(detail)


def too_long(topic_id: bytes, length: int) -> list[tuple[str, Any]]:
    x = "x" * length
    trims = [admin_pb2.TrimPartition(partition=0)]
    return [
        ("CreateTopic", admin_pb2.CreateTopicRequest(name=x, partitions=1)),
        ("CreateTopic", admin_pb2.CreateTopicRequest(name="ok", partitions=1, config={"retention_ms": x})),
        ("CreateTopic", admin_pb2.CreateTopicRequest(name="ok", partitions=1, config={x: "1"})),
        ("DeleteTopic", admin_pb2.DeleteTopicRequest(name=x)),
        ("DeleteTopic", admin_pb2.DeleteTopicRequest(name="\N{GRINNING FACE}" * (length // 4))),
        ("AlterTopic", admin_pb2.AlterTopicRequest(name="t", unset=[x])),
        ("TrimTopic", admin_pb2.TrimTopicRequest(topic_id=topic_id + x.encode(), partitions=trims)),
    ]


@pytest.mark.parametrize("length", LONG)
async def test_names_and_settings_of_any_length_are_refused_by_name(
    client: RawClient, new_topic: Any, length: int
) -> None:
    """What gRPC sends with a refusal has a bound of its own, beyond which the refusal loses its name."""
    topic = await new_topic()
    expected = {"INVALID_TOPIC_NAME", "UNKNOWN_TOPIC", "INVALID_CONFIG", "INVALID_REQUEST"}
    for method, request in too_long(topic, length):
        assert await code_of_refusal(client.call("AdminService", method, request)) in expected


async def test_topic_ids_of_any_length_are_refused_by_name_in_streams(client: RawClient) -> None:
    topic_id = b"x" * 12_000_000
    produce = client.produce()
    item = produce_pb2.ProduceBatch(id=1, topic_id=topic_id)
    await produce.write(produce_pb2.ProduceRequest(acks=produce_pb2.ACKS_ALL, batches=[item]))
    (result,) = (await produce.read()).results
    assert code_of(result.error) == "INVALID_REQUEST"
    await produce.done_writing()
    fetch = client.fetch()
    await fetch.write(fetch_pb2.FetchRequest(start=[fetch_pb2.FetchStart(handle=1, topic_id=topic_id)]))
    assert await code_of_refusal(fetch.read()) == "INVALID_REQUEST"


async def test_an_answer_to_the_most_queries_fits_a_message(client: RawClient) -> None:
    queries = [offsets_pb2.OffsetQuery(topic_id=b"x" * 60)] * 20_000
    request = offsets_pb2.ListOffsetsRequest(queries=queries)
    answer = await client.call("OffsetService", "ListOffsets", request, timeout=30)
    assert {code_of(found.error) for found in answer.offsets} == {"INVALID_REQUEST"}
    request.queries.extend([offsets_pb2.OffsetQuery(topic_id=b"x" * 1500)] * 20_000)
    assert await code_of_refusal(client.call("OffsetService", "ListOffsets", request)) == "INVALID_REQUEST"


@pytest.mark.parametrize("count", [20_001, 30_000_000])
async def test_a_list_of_subscriptions_to_stop_has_a_bound(client: RawClient, count: int) -> None:
    """The broker takes the list of 30 MB for what it is before it parses it: others are not kept waiting."""
    packed = b"\x1a" + varint(count) + b"\x01" * count  # field 3, made without a message on this side

    async def send() -> None:
        stream = client.fetch()
        await stream.write(fetch_pb2.FetchRequest(ping=1))
        await stream.read()
        await stream.write(packed)
        assert await code_of_refusal(stream.read()) == "INVALID_REQUEST"

    longest = await longest_turn(send)
    if count > 1_000_000:  # a short one is parsed before it is refused
        assert longest < cost(lambda: fetch_pb2.FetchRequest.FromString(packed)) / 2


def test_what_an_error_says_is_cut_where_it_gets_too_long() -> None:
    detail = error_detail(InvalidRequest(reason="é" * 10_000))
    assert len(detail.message.encode()) <= TEXT_BYTES_MAX
    assert detail.facts["reason"].endswith("é…")
    assert error_detail(InvalidRequest(reason="short")).facts["reason"] == "short"


def test_an_error_about_a_path_that_is_no_unicode_can_be_sent() -> None:
    detail = error_detail(StorageFailed(path="/data/\udcff", reason="gone"))
    assert detail.facts["path"] == "/data/\\udcff"
