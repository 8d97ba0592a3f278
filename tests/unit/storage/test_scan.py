"""Where bytes from a disk become batches: each one vouched for, or none (DESIGN §4)."""

from __future__ import annotations

from pathlib import Path

import pytest

from millpond.wire.batch import encode_batch, seal
from millpond.wire.errors import UnsupportedFormat
from millpond.wire.frame import FRAME_BYTES
from millpond.wire.header import HEADER_BYTES
from millpond_broker.storage.files import File
from millpond_broker.storage.scan import BadBatch, scan, sound_frame_saw
from tests.sim.disk import SimFiles
from tests.unit.storage.builders import EPOCH, batch, disk, get, placed

PATH = Path("/segment")
VALUES = [b"", b"a", b"b" * 300, b"c" * 2000, b"d" * 7]


@pytest.fixture
def files() -> SimFiles:
    return disk()


@pytest.fixture
def file(files: SimFiles) -> File:
    opened = files.open(PATH, create=True)
    opened.write_at(
        0, [placed(batch(value), at, durable_end=max(0, at - 2)) for at, value in enumerate(VALUES)]
    )
    return opened


def positions(file: File) -> list[int]:
    return [stored.position for stored in scan(file, 0, file.size())] + [file.size()]


@pytest.mark.parametrize("chunk_bytes", [1, 70, 77, 100, 400, 1 << 20])
def test_batches_come_in_order_whatever_the_size_of_a_read(file: File, chunk_bytes: int) -> None:
    stored = list(scan(file, 0, file.size(), chunk_bytes))
    assert [one.batch.header.base_offset for one in stored] == list(range(5))
    assert [one.position for one in stored] + [file.size()] == [0] + [one.end_position for one in stored]
    assert [one.frame.durable_end(at) for at, one in enumerate(stored)] == [0, 0, 0, 1, 2]
    for one, value in zip(stored, VALUES, strict=True):
        sent = batch(value)
        assert one.batch.header == sent.header._replace(
            base_offset=one.batch.header.base_offset, leader_epoch=EPOCH
        )
        assert bytes(one.batch.data[21:]) == sent.data[21:]


def test_a_scan_may_begin_and_end_at_any_batch(file: File) -> None:
    at = positions(file)
    for first in range(6):
        for last in range(first, 6):
            seen = [one.batch.header.base_offset for one in scan(file, at[first], at[last], 100)]
            assert seen == list(range(first, last))


def take(file: File, end: int, positions: list[int]) -> int | None:
    """Collect positions of batches up to `end`; where a bad one ended it, if one did."""
    try:
        for one in scan(file, 0, end, 500):
            positions.append(one.position)  # noqa: PERF401 - what came before the error counts
    except BadBatch as bad:
        return bad.position
    return None


def test_at_every_length_the_whole_batches_come_and_then_the_torn_one_is_named(file: File) -> None:
    at = positions(file)
    for end in range(file.size()):
        whole = max(number for number, position in enumerate(at) if position <= end)
        seen: list[int] = []
        reached = take(file, end, seen)
        assert reached == (None if at[whole] == end else at[whole])
        assert seen == at[:whole]


def test_no_flipped_bit_of_a_batch_or_its_frame_goes_unseen(file: File, files: SimFiles) -> None:
    """DESIGN §4: the frame's checksum covers what the batch's own leaves bare."""
    start, end = positions(file)[1:3]
    for bit in range(8 * start, 8 * end):
        files.flip_bit(PATH, bit)
        with pytest.raises(BadBatch) as raised:
            list(scan(file, 0, file.size()))
        assert raised.value.position == start
        files.flip_bit(PATH, bit)


@pytest.mark.parametrize("length", [-(2**31), -12, -1, 0, 48])
def test_a_sound_frame_around_an_impossible_length_is_a_bad_batch(files: SimFiles, length: int) -> None:
    """It must not make the scan stand still, or run backwards."""
    one = batch(b"x")
    file = files.open(PATH, create=True)
    file.write_at(0, [placed(one._replace(header=one.header._replace(batch_length=length)), 0)])
    with pytest.raises(BadBatch, match="length"):
        list(scan(file, 0, file.size()))


@pytest.mark.parametrize("length", [-(2**31), -12, 0, 2**31 - 1])
def test_an_unknown_magic_with_an_impossible_length_ends_the_scan(files: SimFiles, length: int) -> None:
    """One way or the other, but typed."""
    one = batch(b"x")
    header = one.header._replace(batch_length=length, magic=9)
    file = files.open(PATH, create=True)
    file.write_at(0, [placed(one._replace(header=header), 0)])
    with pytest.raises((BadBatch, UnsupportedFormat)):
        list(scan(file, 0, file.size()))


def test_a_length_that_runs_past_the_end_is_refused_before_room_is_made_for_it(files: SimFiles) -> None:
    """No decoder allocates more than is there."""
    one = batch(b"x")
    file = files.open(PATH, create=True)
    file.write_at(0, [placed(one._replace(header=one.header._replace(batch_length=2**31 - 1)), 0)])
    with pytest.raises(BadBatch, match="run past the end"):
        list(scan(file, 0, file.size()))


def test_a_batch_whose_checksums_hold_and_whose_counts_do_not_is_bad(files: SimFiles) -> None:
    one = batch(b"x")
    wrong = seal(one.header._replace(record_count=5), one.data[HEADER_BYTES:])
    file = files.open(PATH, create=True)
    file.write_at(0, [placed(wrong, 0)])
    with pytest.raises(BadBatch, match="5 records"):
        list(scan(file, 0, file.size()))


# --- what a later frame saw -----------------------------------------------------------------------


def test_a_later_sound_batch_that_knew_a_durable_end_past_the_bad_one_convicts_it(file: File) -> None:
    """DESIGN §4: batches 3 and 4 saw 1 and 2 records durable."""
    at = positions(file)
    end = file.size()
    assert sound_frame_saw(file, at[0] + 1, end, 0)
    assert sound_frame_saw(file, at[1] + 1, end, 1)
    assert not sound_frame_saw(file, at[2] + 1, end, 2)
    assert not sound_frame_saw(file, at[4] + 1, end, 0), "none is left to see it"
    assert not sound_frame_saw(file, at[3] + 1, end - 1, 1), "one that is torn itself says nothing"


@pytest.mark.parametrize("chunk_bytes", [FRAME_BYTES + 21, 64, 100, 333])
def test_a_frame_is_found_wherever_it_lies_between_two_reads(
    files: SimFiles, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int
) -> None:
    monkeypatch.setattr("millpond_broker.storage.scan.CHUNK_BYTES", chunk_bytes)
    for junk in range(0, 2 * chunk_bytes, 5):
        path = Path(f"/junk-{junk}")
        file = files.open(path, create=True)
        file.write_at(0, [b"\x03" * junk, placed(batch(b"x"), 9, durable_end=8), b"\x03" * 50])
        assert sound_frame_saw(file, 0, file.size(), 7)
        assert not sound_frame_saw(file, 0, file.size(), 8)


def test_a_frame_at_a_smaller_offset_is_no_witness(files: SimFiles) -> None:
    """A payload that quotes an older batch must not convict."""
    file = files.open(PATH, create=True)
    file.write_at(0, [placed(batch(b"x"), 5, durable_end=5)])
    assert sound_frame_saw(file, 0, file.size(), 4)
    assert not sound_frame_saw(file, 0, file.size(), 5)
    assert not sound_frame_saw(file, 0, file.size(), 9)


def test_a_distance_too_long_to_store_says_nothing(files: SimFiles) -> None:
    """DESIGN §4: saturated."""
    file = files.open(PATH, create=True)
    file.write_at(0, [placed(encode_batch([b"x"], 0), 2**33, durable_end=3)])
    assert not sound_frame_saw(file, 0, file.size(), 1)
    assert get(files, PATH)[4:8] == b"\xff" * 4
