"""Batches that lie, with a checksum that holds: the broker may store them, and every reader survives them.

Rule of PROOF §5: with the checksum left stale a batch is refused (`test_produce`); with it recomputed it may
be stored, and the SDK then yields one record with `.error` for the batch and moves on.
"""

from __future__ import annotations

import struct
from itertools import count

import pytest
from crc32c import crc32c
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import millpond
from millpond.v1 import offsets_pb2
from millpond.wire.batch import decode_batch, encode_batch, parse_batch
from millpond.wire.compression import Codec
from millpond.wire.header import CRC_START
from millpond.wire.record import Headers
from tests.integration.broker.conftest import NewTopic
from tests.integration.broker.raw import RawClient, code_of, now_ms
from tests.integration.broker.serving import Served
from tests.integration.broker.turns import cost, longest_turn

CRC_AT = CRC_START - 4
GOOD = [
    encode_batch([b"value-1", b"value-2"], now_ms()),
    encode_batch([b"v", None, b""], [now_ms(), now_ms() + 1, now_ms()], keys=[b"k", None, b"kk"]),
    encode_batch([b"v"] * 2, now_ms(), headers=[Headers({"name": b"content"}), Headers()]),
    encode_batch([b"compress me " * 20] * 5, now_ms(), codec=Codec.LZ4),
    encode_batch([b"compress me " * 20] * 5, now_ms(), codec=Codec.ZSTD),
    encode_batch([b"compress me " * 20] * 5, now_ms(), codec=Codec.GZIP),
]
_names = count()


def resealed(data: bytearray) -> bytes:
    """The bytes with the checksum that they ask for."""
    data[CRC_AT:CRC_START] = struct.pack(">I", crc32c(bytes(data[CRC_START:])))
    return bytes(data)


@st.composite
def lies(draw: st.DrawFn) -> bytes:
    """A batch with a few bytes changed behind the checksum, or cut, or grown, and sealed again."""
    data = bytearray(draw(st.sampled_from(GOOD)).data)
    for _ in range(draw(st.integers(1, 3))):
        data[draw(st.integers(CRC_START, len(data) - 1))] = draw(st.integers(0, 255))
    end = draw(st.one_of(st.just(0), st.integers(-20, 20)))
    data = data[:end] if end < 0 else data + bytes(end)
    if len(data) <= CRC_START:
        return bytes(data)
    data[8:12] = struct.pack(">i", len(data) - 12)
    return resealed(data)


@settings(max_examples=200, suppress_health_check=list(HealthCheck))
@given(data=st.data())
async def test_a_batch_that_lies_is_refused_or_read_as_one_bad_record(
    served: Served, client: RawClient, data: st.DataObject
) -> None:
    name = f"lied-to-{next(_names)}"
    topic = await client.create_topic(name)
    before, after = (bytes(encode_batch([word], now_ms()).data) for word in (b"before", b"after"))
    batches = data.draw(st.lists(lies(), min_size=1, max_size=5))
    results = await client.send(topic, before, *batches, after)
    stored = 0
    for result in results:
        if result.HasField("error"):
            assert code_of(result.error) != "INTERNAL"
        else:
            stored += 1
    async with (
        millpond.connect(served.address) as sdk,
        sdk.consumer(name, stop="end", on_bad_record="deliver") as consumer,
    ):
        records = [record async for record in consumer]
    assert records[0].value == b"before"
    assert records[-1].value == b"after"
    bad = [record for record in records if getattr(record, "error", None) is not None]
    assert len(bad) <= stored - 2, "one for each bad batch"
    assert [record.offset for record in records] == sorted({record.offset for record in records})
    await client.delete_topic(name)


@settings(max_examples=200, suppress_health_check=list(HealthCheck))
@given(data=st.data())
async def test_a_time_among_batches_that_lie_is_found_or_refused_by_name(
    client: RawClient, data: st.DataObject
) -> None:
    name = f"timed-{next(_names)}"
    topic = await client.create_topic(name)
    await client.send(topic, *data.draw(st.lists(lies(), min_size=1, max_size=5)))
    ends = await offset_at(client, topic, None)
    for at in (0, now_ms() - 60_000, data.draw(st.integers(0, 1 << 62)), now_ms() + 3_600_000):
        found = await offset_at(client, topic, at)
        if found.HasField("error"):
            assert code_of(found.error) == "CORRUPT_BATCH"
        elif found.HasField("offset"):
            assert ends.log_start <= found.offset < ends.high_watermark
    await client.delete_topic(name)


async def offset_at(client: RawClient, topic: bytes, timestamp: int | None) -> offsets_pb2.PartitionOffsets:
    query = offsets_pb2.OffsetQuery(topic_id=topic, timestamp=timestamp)
    request = offsets_pb2.ListOffsetsRequest(queries=[query])
    answer = await client.call("OffsetService", "ListOffsets", request)
    found = answer.offsets[0]
    assert isinstance(found, offsets_pb2.PartitionOffsets)
    return found


async def test_a_header_that_claims_a_later_time_than_its_records_is_told_at_the_first(
    client: RawClient, new_topic: NewTopic
) -> None:
    """Looking on would unpack one batch after another, as many as somebody made, in one turn of the loop."""
    topic = await new_topic()
    at = now_ms() - 1000
    liar = bytearray(encode_batch([b"x"] * 3, [at, at, at + 1]).data)
    liar[35:43] = struct.pack(">q", at + 500)  # its greatest timestamp
    await client.send(topic, resealed(liar), resealed(liar))
    assert (await offset_at(client, topic, at + 1)).offset == 2
    found = await offset_at(client, topic, at + 2)
    assert code_of(found.error) == "CORRUPT_BATCH"
    assert found.error.facts["offset"] == "0"


async def test_a_time_in_a_large_compressed_batch_is_found_without_unpacking_records(
    client: RawClient, new_topic: NewTopic
) -> None:
    count, at = 1 << 20, now_ms() - 1000
    topic = await new_topic()
    times = [at] * (count - 1) + [at + 1]
    uniform = encode_batch([b"x" * 40] * count, at, codec=Codec.ZSTD)
    mixed = encode_batch([b"x" * 40] * count, times, keys=[b"k"] * count, codec=Codec.ZSTD)
    results = await client.send(topic, bytes(uniform.data), bytes(mixed.data))
    assert not any(result.HasField("error") for result in results)
    assert (await offset_at(client, topic, at)).offset == 0

    async def ask() -> None:
        assert (await offset_at(client, topic, at + 1)).offset == 2 * count - 1

    batch = parse_batch(bytes(mixed.data))
    assert await longest_turn(ask) < 0.75 * cost(lambda: decode_batch(batch)), "about 0.3 of it"


async def test_a_bad_batch_is_raised_once_and_passed(served: Served, client: RawClient) -> None:
    topic = await client.create_topic("raises")
    bad = bytearray(GOOD[3].data)
    bad[-3] ^= 0xFF
    good = bytes(encode_batch([b"good"], now_ms()).data)
    results = await client.send(topic, good, resealed(bad), good)
    assert not any(result.HasField("error") for result in results)
    async with millpond.connect(served.address) as sdk, sdk.consumer("raises", stop="end") as consumer:
        values: list[bytes | None] = []

        async def read() -> None:
            async for record in consumer:
                values.extend([record.value])

        with pytest.raises(millpond.errors.DeserializationError) as raised:
            await read()
        assert raised.value.record.offset == 1
        await read()
    assert values == [b"good", b"good"]
