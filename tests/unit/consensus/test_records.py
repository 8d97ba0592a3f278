"""Records of the journal: what a crash may leave is cut, what was durable is never cut (rule 40)."""

from __future__ import annotations

from contextlib import suppress
from random import Random

import pytest

from millpond_broker.consensus.records import (
    SECTOR_BYTES,
    UNIT_BYTES,
    Draft,
    JournalDamaged,
    Kind,
    pack,
    scan,
)


def written(*payloads: bytes, durable: int | None = None) -> bytes:
    """Records one after another; each saw everything before it as durable, or up to `durable`."""
    data = b""
    for index, payload in enumerate(payloads):
        seen = len(data) if durable is None else durable
        data += pack(Draft(Kind.ENTRY, index, payload, flags=1), len(data), seen)
    return data


def payloads(data: bytes) -> list[bytes]:
    return [record.payload for record in scan(data).records]


LETTERS = (b"", b"a", b"b" * 31, b"c" * 32, b"d" * 700, b"e" * 2000)


def test_records_come_back_as_they_were_written() -> None:
    data = written(*LETTERS)
    found = scan(data)
    assert [(record.index, record.payload) for record in found.records] == list(enumerate(LETTERS))
    assert (found.end, found.torn) == (len(data), None)
    assert all(record.position % UNIT_BYTES == 0 for record in found.records)


@pytest.mark.parametrize("size", range(0, 800, 7))
def test_a_file_cut_short_in_the_last_write_is_cut_back_to_it(size: int) -> None:
    synced = written(b"a" * 40)
    data = synced + pack(Draft(Kind.ENTRY, 1, b"b" * 700), len(synced), len(synced))
    assert payloads(data[: len(synced) + size]) == [b"a" * 40] + ([b"b" * 700] if size >= 736 else [])


def test_a_file_cut_short_in_what_was_durable_is_refused() -> None:
    """A file that replaced another says of itself that it is durable as a whole."""
    whole = pack(Draft(Kind.BASE), 0, 128) + pack(Draft(Kind.ENTRY, 1, b"a" * 60), 32, 128)
    assert payloads(whole) == [b"", b"a" * 60]
    with pytest.raises(JournalDamaged, match="was durable"):
        scan(whole[:-UNIT_BYTES])


@pytest.mark.parametrize("length", [100, 512, 1500])
def test_sectors_that_were_never_written_are_cut_wherever_they_lie(length: int) -> None:
    """Of one group of writes that no sync confirmed, each sector by itself may be missing."""
    synced = written(b"s" * 300)
    data = synced
    for index in range(4):
        data += pack(Draft(Kind.ENTRY, index, bytes([65 + index]) * length), len(data), len(synced))
    for lost in range(len(synced) // SECTOR_BYTES, len(data) // SECTOR_BYTES + 1):
        holed = bytearray(data)
        start = max(len(synced), lost * SECTOR_BYTES)  # what the sector held before is not lost
        end = min(len(data), (lost + 1) * SECTOR_BYTES)
        if start >= end:
            continue
        holed[start:end] = bytes(end - start)
        found = scan(bytes(holed))
        assert found.end <= start, "nothing past the hole counts"
        assert found.end >= len(synced)
        assert found.torn is not None


def test_zeros_at_the_end_are_cut() -> None:
    data = written(b"a", b"b")
    found = scan(data + bytes(4096))
    assert (found.end, found.torn) == (len(data), "zeros")


def test_zeros_below_what_a_later_record_saw_durable_are_damage() -> None:
    data = bytearray(written(b"a" * 500, b"b" * 500, b"c" * 500))
    data[512:1024] = bytes(512)
    with pytest.raises(JournalDamaged):
        scan(bytes(data))


def test_no_flipped_bit_goes_unseen() -> None:
    """Rule 40's other half: what was durable is refused rather than cut or believed."""
    data = written(*LETTERS)
    for bit in range(0, 8 * len(data), 5):
        flipped = bytearray(data)
        flipped[bit >> 3] ^= 1 << (bit & 7)
        with pytest.raises(JournalDamaged):
            scan(bytes(flipped))


def test_a_value_that_quotes_a_journal_is_no_evidence() -> None:
    """A checksum holds for one position: copied elsewhere, even aligned, a record is nothing."""
    quoted = written(*[b"q" * 20] * 9)
    synced = written(b"a")
    assert scan(quoted).records[5].durable_end > len(synced)
    torn = pack(Draft(Kind.ENTRY, 1, quoted), len(synced), len(synced))[:-UNIT_BYTES]
    assert payloads(synced + torn) == [b"a"]


def test_any_bytes_are_read_torn_or_refused() -> None:
    random = Random(3)
    for _ in range(300):
        data = random.randbytes(random.randint(0, 300))
        with suppress(JournalDamaged):
            assert scan(data).records == []
