"""A voter's directory at its start: which snapshot counts, what is a crash, and what is damage.

`pysyncobj.md` §7: a crash between a snapshot's rename and what follows it must not look like a gap.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from millpond_broker.consensus.journal import Base, Entry, EntryKind, Journal
from millpond_broker.consensus.records import JournalDamaged
from millpond_broker.consensus.snapshots import Snapshot, snapshot_indexes, write_snapshot
from millpond_broker.consensus.store import Store, format_directory, is_formatted
from tests.sim.disk import SimFiles, SimulatedCrash
from tests.unit.consensus.builders import DIRECTORY, HOME, disk, entries, entry, made

CRASHES = 6


def snapshot(index: int, term: int = 1) -> Snapshot:
    return Snapshot(index, term, b"image after %d" % index)


def store_with(last_index: int, files: SimFiles | None = None) -> Store:
    """A store with so many entries, all durable."""
    files = files or disk()
    journal = made(files)
    journal.append(entries(1, last_index + 1))
    journal.sync()
    journal.abandon()
    return Store.open(files, DIRECTORY)


def path_of(index: int) -> Path:
    return HOME / f"snapshot-{index:020d}"


def test_formatting_makes_all_of_it_or_nothing() -> None:
    """A first start that was cut short starts again; one that was not is never formatted again."""
    files = disk()
    whole = files.clone(Random(0))
    before = whole.operations
    format_directory(whole, DIRECTORY, b"init", term=1, vote="1")
    outcomes = set()
    for operations in range(whole.operations - before + 1):
        for seed in range(CRASHES):
            machine = files.clone(Random(seed))
            machine.crash_after(operations)
            with suppress(SimulatedCrash):
                format_directory(machine, DIRECTORY, b"init", term=1, vote="1")
            machine.crash()
            outcomes.add(is_formatted(machine, DIRECTORY))
            if not is_formatted(machine, DIRECTORY):
                format_directory(machine, DIRECTORY, b"init", term=1, vote="1")
            journal = Store.open(machine, DIRECTORY).journal
            assert journal.entries(1) == [
                Entry(1, 0, EntryKind.NO_OP, b""),
                Entry(2, 1, EntryKind.COMMAND, b"init"),
            ]
            assert (journal.term, journal.vote) == (1, "1")
    assert outcomes == {False, True}


def test_a_store_starts_from_its_latest_snapshot_and_the_entries_after_it() -> None:
    store = store_with(20)
    store.compact(snapshot(20))
    store.journal.append(entries(21, 25))
    store.journal.sync()
    store.files.crash()  # type: ignore[attr-defined]  # the simulated disk
    again = Store.open(store.files, DIRECTORY)
    assert again.snapshot == snapshot(20)
    assert again.journal.entries(21) == entries(21, 25)


def test_two_snapshots_are_kept_and_the_journal_from_the_older_one() -> None:
    store = store_with(20)
    for at in (20, 30, 40, 50):
        store.compact(snapshot(at))
        assert store.journal.last_index == at
        store.journal.append(entries(at + 1, at + 11))
        store.journal.sync()
    assert snapshot_indexes(store.files, HOME) == [50, 40]
    assert store.journal.first_index == 39, "two entries that the older snapshot has stay"
    assert store.journal.last_index == 60


def test_a_damaged_snapshot_is_replaced_by_the_one_before_it() -> None:
    store = store_with(20)
    store.compact(snapshot(20))
    store.journal.append(entries(21, 41))
    store.journal.sync()
    store.compact(snapshot(40))
    files = store.files
    assert isinstance(files, SimFiles)
    for bit in range(0, 8 * files.list(HOME)[path_of(40).name], 3):
        machine = files.clone(Random(bit))
        machine.flip_bit(path_of(40), bit)
        again = Store.open(machine, DIRECTORY)
        assert again.snapshot == snapshot(20)
        assert again.damaged_snapshots == (40,)
        assert again.journal.entries(21) == entries(21, 41)
    files.flip_bit(path_of(40), 300)
    Store.open(files, DIRECTORY).compact(snapshot(40))
    assert Store.open(files, DIRECTORY).snapshot == snapshot(40)
    assert snapshot_indexes(files, HOME) == [40, 20]
    Store.open(files, DIRECTORY).compact(snapshot(40))
    assert snapshot_indexes(files, HOME) == [40, 20], "taken again, it drives out nothing"


def test_a_damaged_first_snapshot_is_made_up_for_by_the_whole_journal() -> None:
    store = store_with(20)
    store.compact(snapshot(20))
    files = store.files
    assert isinstance(files, SimFiles)
    files.flip_bit(path_of(20), 99)
    again = Store.open(files, DIRECTORY)
    assert again.snapshot is None
    assert again.journal.entries(1) == entries(1, 21)


def test_a_gap_between_snapshot_and_journal_is_refused() -> None:
    """B2 and B8 of the reference: such a voter would start with an empty state, vote, and lead."""
    for kept in ((), (5,), (3, 8)):
        files = disk()
        journal = made(files, Base(first_index=10, previous_term=1))
        journal.append(entries(10, 15))
        journal.close()
        for index in kept:
            write_snapshot(files, HOME, snapshot(index))
        with pytest.raises(JournalDamaged, match="begins at entry 10"):
            Store.open(files, DIRECTORY)
        write_snapshot(files, HOME, snapshot(9))
        assert Store.open(files, DIRECTORY).snapshot == snapshot(9), "just before it is no gap"


def test_a_snapshot_of_another_term_just_before_the_journal_is_refused() -> None:
    files = disk()
    made(files, Base(first_index=10, previous_term=1)).close()
    write_snapshot(files, HOME, snapshot(9, term=2))
    with pytest.raises(JournalDamaged):
        Store.open(files, DIRECTORY)


def test_a_damaged_snapshot_of_what_the_journal_lacks_is_refused() -> None:
    store = store_with(20)
    files = store.files
    assert isinstance(files, SimFiles)
    write_snapshot(files, HOME, snapshot(30))
    files.flip_bit(path_of(30), 77)
    with pytest.raises(JournalDamaged, match=r"\[30\]"):
        Store.open(files, DIRECTORY)


@pytest.mark.parametrize("at", [snapshot(30), snapshot(15, term=2)], ids=["ahead", "conflicting"])
def test_a_snapshot_that_the_journal_does_not_reach_or_contradicts_stands_for_it(at: Snapshot) -> None:
    """It came from the leader, and the crash came before the journal was cleared. Term and vote stay."""
    store = store_with(20)
    store.journal.set_term(6, "3")
    write_snapshot(store.files, HOME, at)
    again = Store.open(store.files, DIRECTORY)
    assert again.snapshot == at
    assert (again.journal.first_index, again.journal.last_index) == (at.last_index + 1, at.last_index)
    assert again.journal.last_term == at.last_term
    assert (again.journal.term, again.journal.vote) == (6, "3")
    again.journal.append([entry(at.last_index + 1, 6)])


def test_a_crash_at_any_step_of_a_compaction_loses_nothing() -> None:
    store = store_with(20)
    store.compact(snapshot(20))
    store.journal.append(entries(21, 41, size=60))
    store.journal.sync()
    store.compact(snapshot(40))
    store.journal.append(entries(41, 51, size=60))
    store.journal.sync()
    files = store.files
    assert isinstance(files, SimFiles)

    def compact(machine: SimFiles) -> None:
        Store.open(machine, DIRECTORY).compact(snapshot(50))

    whole = files.clone(Random(0))
    before = whole.operations
    compact(whole)
    reached = set()
    for operations in range(whole.operations - before + 1):
        for seed in range(CRASHES):
            machine = files.clone(Random(seed))
            machine.crash_after(operations)
            with suppress(SimulatedCrash):
                compact(machine)
            machine.crash()
            again = Store.open(machine, DIRECTORY)
            assert again.snapshot in (snapshot(40), snapshot(50))
            assert again.journal.entries(41) == entries(41, 51, size=60)
            again.journal.append([entry(51)])
            again.journal.sync()
            reached.add(again.snapshot)
            again.compact(snapshot(51))
            assert not [name for name in machine.list(HOME) if name.endswith(".new")]
    assert len(reached) == 2


def test_a_rename_that_only_the_cache_has_is_durable_before_anything_is_built_on_it() -> None:
    """Rule 41: killed between a rename and the sync of its directory, a start sees the new name all the same.
    The power may still take it back, and with it what was appended to the new file.
    """
    files = disk()
    whole = files.clone(Random(0))
    before = whole.operations

    def grow(machine: SimFiles) -> None:
        if not is_formatted(machine, DIRECTORY):
            format_directory(machine, DIRECTORY, b"init", term=1, vote="1")
        store = Store.open(machine, DIRECTORY)
        for last in (10, 20):
            store.journal.append(entries(store.journal.last_index + 1, last + 1))
            store.journal.sync()
            store.compact(snapshot(last))
        store.journal.delete_to(15)

    grow(whole)
    for operations in range(whole.operations - before + 1):
        for seed in range(CRASHES):
            machine = files.clone(Random(seed))
            machine.crash_after(operations)
            with suppress(SimulatedCrash):
                grow(machine)
            machine.kill()
            if not is_formatted(machine, DIRECTORY):
                continue
            again = Store.open(machine, DIRECTORY)
            last = again.journal.last_index
            again.journal.append(entries(last + 1, last + 4))
            again.journal.sync()
            machine.crash()
            assert Store.open(machine, DIRECTORY).journal.last_index == last + 3


def test_a_directory_without_a_journal_does_not_start() -> None:
    files = disk()
    files.make_directory(HOME)
    with pytest.raises(FileNotFoundError):
        Store.open(files, DIRECTORY)
    assert is_formatted(files, DIRECTORY), "nor is it formatted again"


def test_a_journal_left_half_made_is_in_nobodys_way() -> None:
    store = store_with(5)
    files = store.files
    files.open(HOME / "journal.new", create=True).write_at(0, [b"half"])
    again = Store.open(files, DIRECTORY)
    again.compact(snapshot(5))
    again.journal.delete_to(3)
    assert Journal.open(files, HOME).first_index == 3
