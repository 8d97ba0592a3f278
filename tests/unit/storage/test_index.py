"""The sparse index: a cache that is right or is not believed (rule 36 for the one of times)."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millpond_broker.storage.files import File
from millpond_broker.storage.index import OFFSET_KEY, TIME_KEY, SparseIndex
from tests.sim.disk import SimFiles
from tests.unit.storage.builders import disk, get

PATH = Path("/index")
ENTRIES = [(0, 0), (3, 100), (9, 250), (10, 400), (40, 900)]


@pytest.fixture
def files() -> SimFiles:
    return disk()


@pytest.fixture
def file(files: SimFiles) -> File:
    return files.open(PATH, create=True)


def filled(entries: list[tuple[int, int]] = ENTRIES, code: str = OFFSET_KEY, base: int = 7) -> SparseIndex:
    index = SparseIndex(code, base)
    for key, value in entries:
        index.add(key, value)
        index.covered = value + 10
    return index


def loaded(file: File, code: str = OFFSET_KEY, base: int = 7) -> SparseIndex:
    index = SparseIndex(code, base)
    index.load(file)
    return index


def entries_of(index: SparseIndex) -> list[tuple[int, int]]:
    return list(zip(index._keys, index._values, strict=True))


@given(
    st.dictionaries(st.integers(0, 2**31 - 1), st.integers(0, 2**31), max_size=20),
    st.integers(0, 2**31 - 1),
)
def test_floor_and_below_agree_with_a_search_through_all_entries(pairs: dict[int, int], key: int) -> None:
    """Rule 36's floor, and the offset index's."""
    entries = list(zip(sorted(pairs), sorted(pairs.values()), strict=True))
    index = filled(entries)
    assert index.floor(key) == max((entry for entry in entries if entry[0] <= key), default=(0, 0))
    smaller = [entry for entry in entries if entry[0] < key]
    assert index.below(key) == (smaller[-1][1] if smaller else 0)


def test_an_entry_whose_key_does_not_grow_is_left_out() -> None:
    """Rule 36: append only if T grows."""
    index = filled([(5, 10), (5, 20), (4, 30), (6, 40)], TIME_KEY)
    assert entries_of(index) == [(5, 10), (6, 40)]
    assert (index.last_key(), index.last_value()) == (6, 40)


def test_an_empty_index_knows_the_beginning_only() -> None:
    index = SparseIndex(OFFSET_KEY, 0)
    assert (len(index), index.last_key(), index.last_value()) == (0, None, 0)
    assert index.floor(100) == (0, 0)
    assert index.below(100) == 0


@pytest.mark.parametrize("code", [OFFSET_KEY, TIME_KEY])
def test_what_was_flushed_loads_again_in_one_block_or_in_many(file: File, code: str) -> None:
    """With how much of the segment it covers."""
    index = SparseIndex(code, 7)
    for key, value in ENTRIES:
        index.add(key, value)
        index.covered = value + 10
        index.flush(file)
        again = loaded(file, code)
        assert entries_of(again) == entries_of(index)
        assert again.covered == index.covered
    again = loaded(file, code)
    again.add(50, 1000)
    again.covered = 1010
    again.flush(file)
    assert entries_of(loaded(file, code)) == [*ENTRIES, (50, 1000)]


def test_times_before_1970_and_far_ahead_keep_their_order(file: File) -> None:
    """Rule 36."""
    entries = [(-(2**62), 1), (-1, 2), (0, 3), (2**62, 4)]
    index = filled(entries, TIME_KEY)
    index.flush(file)
    assert entries_of(loaded(file, TIME_KEY)) == entries
    assert (index.below(-1), index.below(0), index.below(1)) == (1, 2, 3)


def test_a_flush_with_nothing_new_writes_nothing(file: File, files: SimFiles) -> None:
    index = filled()
    index.flush(file)
    before = get(files, PATH)
    index.flush(file)
    assert get(files, PATH) == before
    again = loaded(file)
    again.flush(file)
    assert get(files, PATH) == before


def test_covering_more_without_a_new_entry_is_written(file: File) -> None:
    """Or the next start would doubt an index that is right."""
    index = filled()
    index.flush(file)
    index.covered += 50
    index.flush(file)
    assert loaded(file).covered == index.covered
    assert entries_of(loaded(file)) == ENTRIES


@pytest.mark.parametrize(("code", "base"), [(OFFSET_KEY, 8), (TIME_KEY, 7)])
def test_the_index_of_another_segment_or_kind_is_not_believed(file: File, code: str, base: int) -> None:
    filled().flush(file)
    assert (len(loaded(file, code, base)), loaded(file, code, base).covered) == (0, 0)


def blocks(file: File) -> list[tuple[int, list[tuple[int, int]], int]]:
    """Flush the entries in three blocks; after each the length, the entries and what is covered."""
    index = SparseIndex(OFFSET_KEY, 7)
    states: list[tuple[int, list[tuple[int, int]], int]] = [(0, [], 0)]
    for at, (key, value) in enumerate(ENTRIES):
        index.add(key, value)
        index.covered = value + 10
        if at in {0, 2, 4}:
            index.flush(file)
            states.append((file.size(), entries_of(index), index.covered))
    return states


def test_every_flipped_bit_ends_the_index_at_the_block_it_is_in(file: File, files: SimFiles) -> None:
    """Nothing of that block or behind it is believed, and it does not claim to cover that."""
    states = blocks(file)
    for bit in range(8 * file.size()):
        files.flip_bit(PATH, bit)
        index = loaded(file)
        sound = max(state for state in states if 8 * state[0] <= bit)
        assert (entries_of(index), index.covered) == sound[1:], f"bit {bit}"
        files.flip_bit(PATH, bit)


def test_an_index_cut_at_any_length_ends_at_its_last_whole_block(file: File) -> None:
    states = blocks(file)
    for size in reversed(range(file.size() + 1)):
        file.truncate(size)
        index = loaded(file)
        sound = max(state for state in states if state[0] <= size)
        assert (entries_of(index), index.covered) == sound[1:], f"{size} bytes"


def test_a_flush_after_a_damaged_tail_replaces_it(file: File, files: SimFiles) -> None:
    states = blocks(file)
    files.flip_bit(PATH, 8 * states[-2][0] + 100)
    index = loaded(file)
    index.add(77, 5000)
    index.covered = 6000
    index.flush(file)
    again = loaded(file)
    assert entries_of(again) == [*states[-2][1], (77, 5000)]
    assert again.covered == 6000


def test_a_flush_that_found_too_little_room_is_made_up_for_by_the_next(file: File, files: SimFiles) -> None:
    """Rule 40: a short write is no block."""
    index = filled(ENTRIES[:2])
    index.flush(file)
    files.capacity_bytes = file.size() + 5
    for key, value in ENTRIES[2:]:
        index.add(key, value)
        index.covered = value + 10
    index.flush(file)
    assert entries_of(loaded(file)) == ENTRIES[:2]
    files.capacity_bytes = None
    index.flush(file)
    assert entries_of(loaded(file)) == ENTRIES
    assert loaded(file).covered == index.covered


def test_after_a_cut_no_entry_past_it_is_known_and_the_file_is_written_anew(file: File) -> None:
    """Rule 41: what an index says past a cut would mislead a later start."""
    index = filled()
    index.flush(file)
    index.keep_values_up_to(250, 260)
    assert entries_of(index) == ENTRIES[:3]
    assert index.covered == 260
    index.add(11, 300)
    index.covered = 310
    index.flush(file)
    assert entries_of(loaded(file)) == [*ENTRIES[:3], (11, 300)]
    assert loaded(file).covered == 310
