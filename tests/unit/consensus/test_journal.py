"""The journal on a disk that keeps only what was synced: nothing confirmed is lost, nothing damaged believed.

Rule 40, and what the Raft library needs of a journal.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from random import Random

import pytest

from millpond.wire.errors import StorageFull, UnsupportedFormat
from millpond_broker.consensus.journal import FORMAT, Base, Entry, EntryKind, Journal, JournalFailed
from millpond_broker.consensus.records import JournalDamaged
from tests.sim.disk import SimFiles, SimulatedCrash
from tests.unit.consensus.builders import FILE, HOME, disk, entries, entry, made, reopened

CRASHES = 6


@pytest.fixture
def files() -> SimFiles:
    return disk()


def test_a_new_journal_is_empty_and_durable(files: SimFiles) -> None:
    made(files).abandon()
    files.crash()
    journal = reopened(files)
    assert (journal.first_index, journal.last_index, journal.last_term) == (1, 0, 0)
    assert (journal.term, journal.vote, journal.commit_index, len(journal)) == (0, None, 0, 0)


def test_what_was_synced_is_there_after_any_crash_and_what_was_not_may_be_in_order(files: SimFiles) -> None:
    journal = made(files)
    journal.append(entries(1, 4))
    journal.sync()
    assert not journal.dirty
    journal.append(entries(4, 9, size=400))
    assert journal.dirty
    seen = set()
    for seed in range(40):
        machine = files.clone(Random(seed))
        machine.crash()
        found = reopened(machine)
        assert found.entries(1) == entries(1, 4) + entries(4, found.last_index + 1, size=400)
        seen.add(found.last_index)
    assert seen >= {3, 8}
    assert all(3 <= last <= 8 for last in seen)


def test_term_and_vote_are_durable_at_once(files: SimFiles) -> None:
    """Raft §5.2: a vote that is forgotten is given twice."""
    journal = made(files)
    for term, vote in ((1, None), (1, "2"), (3, ""), (4, "a:7071")):
        journal.set_term(term, vote)
        for seed in range(CRASHES):
            machine = files.clone(Random(seed))
            machine.crash()
            found = reopened(machine)
            assert (found.term, found.vote) == (term, vote)


def test_a_vote_is_given_once_a_term(files: SimFiles) -> None:
    journal = made(files)
    journal.set_term(2, "1")
    journal.set_term(2, "1")
    with pytest.raises(AssertionError, match="one vote"):
        journal.set_term(2, "2")
    with pytest.raises(AssertionError, match="never go back"):
        journal.set_term(1, None)


def test_entries_that_were_taken_back_stay_away(files: SimFiles) -> None:
    journal = made(files)
    journal.append(entries(1, 6))
    journal.delete_from(4)
    journal.delete_from(9)
    journal.append(entries(4, 6, term=2))
    journal.sync()
    files.crash()
    assert reopened(files).entries(1) == entries(1, 4) + entries(4, 6, term=2)


def test_an_unsynced_taking_back_and_what_follows_it_are_lost_together_or_not(files: SimFiles) -> None:
    """New entries never stand behind old ones that they replace."""
    journal = made(files)
    journal.append(entries(1, 6, size=300))
    journal.sync()
    journal.delete_from(4)
    journal.append(entries(4, 8, term=2, size=300))
    for seed in range(60):
        machine = files.clone(Random(seed))
        machine.crash()
        found = reopened(machine).entries(1)
        replaced = entries(1, 4, size=300) + entries(4, len(found) + 1, term=2, size=300)
        assert found in (entries(1, 6, size=300), replaced)


def test_what_is_committed_is_not_taken_back(files: SimFiles) -> None:
    journal = made(files)
    journal.append(entries(1, 5))
    journal.note_commit(3)
    with pytest.raises(AssertionError, match="committed stays"):
        journal.delete_from(3)
    journal.delete_from(4)
    journal.note_commit(2)
    assert journal.commit_index == 3, "it does not go back"


def test_the_commit_index_is_written_with_the_next_append(files: SimFiles) -> None:
    """Unsynced by itself: it may be forgotten, never be ahead."""
    journal = made(files)
    journal.append(entries(1, 5))
    journal.note_commit(3)
    journal.sync()
    assert reopened(files).commit_index == 0
    journal.append([entry(5)])
    journal.sync()
    files.crash()
    assert reopened(files).commit_index == 3


def test_forgetting_the_front_keeps_the_rest_with_term_and_vote(files: SimFiles) -> None:
    journal = made(files)
    journal.set_term(3, "1")
    journal.append([*entries(1, 4), *entries(4, 9, term=2)])
    journal.sync()
    before = journal.size_bytes
    journal.delete_to(6)
    assert journal.size_bytes < before
    for machine in (files, files.clone(Random(1))):
        machine.crash()
        found = reopened(machine)
        assert found.entries(1) == found.entries(6) == entries(6, 9, term=2)
        assert (found.first_index, found.last_index, found.term, found.vote) == (6, 8, 3, "1")
        assert [found.term_at(index) for index in (4, 5, 6, 9)] == [None, 2, 2, None]
        found.append([entry(9, 3)])
        found.sync()


def test_forgetting_everything_leaves_a_journal_to_go_on_with(files: SimFiles) -> None:
    journal = made(files)
    journal.set_term(7, "1")
    journal.append(entries(1, 4, term=5))
    journal.reset(40, 6)
    assert (journal.first_index, journal.last_index, journal.last_term) == (40, 39, 6)
    journal.append([entry(40, 7)])
    journal.sync()
    files.crash()
    assert reopened(files).entries(0) == [entry(40, 7)]


# --- crashes at every step -------------------------------------------------------------------------------


def every_crash(files: SimFiles, change: Callable[[SimFiles], None]) -> list[SimFiles]:
    """The disks that are left when the power goes, or the process, before each operation of `change`."""
    whole = files.clone(Random(0))
    before = whole.operations
    change(whole)
    left = []
    for operations in range(whole.operations - before + 1):
        for seed in range(CRASHES):
            machine = files.clone(Random(seed))
            machine.crash_after(operations)
            with suppress(SimulatedCrash):
                change(machine)
            if seed:
                machine.crash()
            else:
                machine.kill()
            left.append(machine)
    return left


def test_a_crash_at_any_step_of_a_compaction_leaves_the_journal_before_or_after(files: SimFiles) -> None:
    """B2 of the reference: nothing is rewritten in place."""
    journal = made(files)
    journal.set_term(2, "1")
    journal.append(entries(1, 30, size=100))
    journal.sync()

    def compact(machine: SimFiles) -> None:
        reopened(machine).delete_to(20)

    firsts = set()
    for machine in every_crash(files, compact):
        found = reopened(machine)
        firsts.add(found.first_index)
        assert found.entries(1) == entries(found.first_index, 30, size=100)
        assert (found.term, found.vote) == (2, "1")
    assert firsts == {1, 20}


def test_a_crash_at_any_step_of_a_start_changes_nothing_that_counts(files: SimFiles) -> None:
    """What a start keeps of an unsynced tail, no later start may lose (rule 40)."""
    journal = made(files)
    journal.append(entries(1, 4))
    journal.sync()
    journal.append(entries(4, 12, size=300))
    for seed in range(8):
        torn = files.clone(Random(seed))
        torn.crash()
        kept = reopened(torn.clone(Random(0))).entries(1)
        for machine in every_crash(torn, lambda machine: reopened(machine).abandon()):
            assert reopened(machine).entries(1) == kept


def test_appends_and_syncs_survive_a_crash_at_any_step(files: SimFiles) -> None:
    made(files).abandon()
    confirmed: dict[int, int] = {}

    def work(machine: SimFiles) -> None:
        confirmed[id(machine)] = 0
        journal = reopened(machine)
        for start in range(1, 13, 3):
            journal.append(entries(start, start + 3, size=200))
            journal.sync()
            confirmed[id(machine)] = start + 2
            journal.note_commit(start + 2)
        journal.close()

    for machine in every_crash(files, work):
        found = reopened(machine)
        assert found.entries(1) == entries(1, found.last_index + 1, size=200)
        assert found.last_index >= confirmed[id(machine)]


# --- a failing disk --------------------------------------------------------------------------------------


def test_after_a_failed_sync_the_journal_is_dead(files: SimFiles) -> None:
    """Rule 40: a failed fdatasync is never retried, and nothing is written after it."""
    journal = made(files)
    journal.append([entry(1)])
    files.fail_next_sync(FILE)
    with pytest.raises(JournalFailed):
        journal.sync()
    operations = files.operations
    for use in (
        journal.sync,
        lambda: journal.append([entry(2)]),
        lambda: journal.set_term(5, None),
        lambda: journal.delete_from(1),
        lambda: journal.delete_to(1),
        lambda: journal.reset(5, 1),
    ):
        with pytest.raises(JournalFailed):
            use()
    journal.close()
    assert files.operations == operations, "it does not touch the disk any more"


def test_what_a_failed_sync_left_in_the_cache_counts_only_once_it_is_durable(files: SimFiles) -> None:
    """Rule 40: pages that are clean and lost. A start writes them again, or they would go with the power."""
    journal = made(files)
    journal.append(entries(1, 4, size=300))
    files.fail_next_sync(FILE)
    with pytest.raises(JournalFailed):
        journal.sync()
    files.kill()
    found = reopened(files)
    assert found.entries(1) == entries(1, 4, size=300), "the page cache shows it"
    for seed in range(CRASHES):
        machine = files.clone(Random(seed))
        machine.crash()
        assert reopened(machine).entries(1) == entries(1, 4, size=300)


def test_a_start_on_a_disk_that_cannot_sync_fails(files: SimFiles) -> None:
    made(files).abandon()
    files.fail_next_sync(FILE)
    with pytest.raises(OSError, match="nput/output"):
        reopened(files)


def test_a_write_error_is_as_final_as_a_failed_sync(files: SimFiles) -> None:
    journal = made(files)
    files.fail_writes(FILE)
    with pytest.raises(JournalFailed):
        journal.append([entry(1)])
    files.heal()
    with pytest.raises(JournalFailed):
        journal.append([entry(1)])


@pytest.mark.parametrize("room_bytes", [0, 1, 40, 500])
def test_on_a_full_disk_an_append_is_refused_whole_and_works_again_with_room(
    files: SimFiles, room_bytes: int
) -> None:
    """Rule 40: it passes; and what was refused never comes back."""
    journal = made(files)
    journal.append([entry(1)])
    files.capacity_bytes = files.list(HOME)[FILE.name] + room_bytes
    with pytest.raises(StorageFull):
        journal.append(entries(2, 9, size=100))
    for seed in range(CRASHES):
        machine = files.clone(Random(seed))
        machine.crash()
        machine.capacity_bytes = None
        assert reopened(machine).entries(1) == [entry(1)]
    with pytest.raises(StorageFull):
        journal.set_term(1, "1" * 500)
    assert journal.term == 0
    files.capacity_bytes = None
    journal.append([entry(2)])
    journal.sync()
    files.crash()
    assert reopened(files).entries(1) == [entry(1), entry(2)]


def test_on_a_full_disk_a_compaction_leaves_the_journal_as_it_was(files: SimFiles) -> None:
    journal = made(files)
    journal.append(entries(1, 10))
    journal.sync()
    files.capacity_bytes = files.list(HOME)[FILE.name] + 100
    with pytest.raises(StorageFull):
        journal.delete_to(3)
    assert set(files.list(HOME)) == {FILE.name}
    files.capacity_bytes = None
    journal.append([entry(10)])
    journal.sync()
    files.crash()
    assert reopened(files).entries(1) == entries(1, 11)


def test_a_directory_that_cannot_be_synced_ends_a_compaction_for_good(files: SimFiles) -> None:
    """Under the name may be either file: an append to one of them could get lost."""
    journal = made(files)
    journal.append(entries(1, 10))
    journal.sync()
    files.fail_next_sync(HOME)
    with pytest.raises(JournalFailed):
        journal.delete_to(5)
    with pytest.raises(JournalFailed):
        journal.append([entry(10)])
    files.crash()
    found = reopened(files)
    assert found.entries(1) == entries(found.first_index, 10)


# --- damage ----------------------------------------------------------------------------------------------


def test_no_flipped_bit_loses_or_changes_what_was_durable(files: SimFiles) -> None:
    """A journal that was closed vouches for all of itself: any flip is refused, or harmless."""
    journal = made(files)
    journal.set_term(2, "1")
    journal.append([*entries(1, 4, size=50), *entries(4, 6, term=2, size=700)])
    journal.sync()
    journal.close()
    size = files.list(HOME)[FILE.name]
    refused = 0
    for bit in range(0, 8 * size, 13):
        machine = files.clone(Random(bit))
        machine.flip_bit(FILE, bit)
        try:
            found = reopened(machine)
        except JournalDamaged:
            refused += 1
            assert machine.list(HOME) == files.list(HOME), "nothing was changed"
            continue
        assert len(found) == 5
        assert (found.term, found.vote) == (2, "1")
    assert refused >= 0.9 * (8 * size // 13), "but for the closing mark itself"


@pytest.mark.parametrize("closed", [True, False])
def test_a_journal_that_somebody_cut_is_refused_as_far_as_it_can_tell(files: SimFiles, closed: bool) -> None:
    journal = made(files)
    for index in range(1, 8):
        journal.append([entry(index)])
        journal.sync()
    if closed:
        journal.close()
    size = files.list(HOME)[FILE.name]
    for cut in range(0, size, 16):
        machine = files.clone(Random(cut))
        machine.cut(FILE, cut)
        try:
            found = reopened(machine)
        except JournalDamaged:
            continue
        assert found.entries(1) == entries(1, found.last_index + 1), "what is left is sound"


def test_a_journal_whose_beginning_is_gone_is_refused(files: SimFiles) -> None:
    made(files).abandon()
    files.cut(FILE, 0)
    with pytest.raises(JournalDamaged, match="does not begin"):
        reopened(files)


def test_a_journal_of_a_later_format_is_refused(files: SimFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("millpond_broker.consensus.journal.FORMAT", FORMAT + 1)
    made(files).abandon()
    monkeypatch.undo()
    with pytest.raises(UnsupportedFormat, match=f"format {FORMAT + 1}"):
        reopened(files)


def test_what_a_start_cut_it_says(files: SimFiles) -> None:
    journal = made(files)
    journal.append([entry(1)])
    journal.sync()
    journal.close()
    file = files.open(FILE)
    file.write_at(file.size(), [bytes(700)])
    found = reopened(files)
    assert found.cut_bytes == 700
    assert found.entries(1) == [entry(1)]


def test_every_kind_of_entry_comes_back(files: SimFiles) -> None:
    """The Raft library's own are kept for it."""
    said = [Entry(index, 0, kind, bytes([kind])) for index, kind in enumerate(EntryKind, start=1)]
    journal = made(files, Base(term=4, vote="1"))
    journal.append(said)
    journal.close()
    journal.close()
    found = reopened(files)
    assert found.entries(1) == said
    assert (found.term, found.vote) == (4, "1")


def test_closing_makes_everything_durable(files: SimFiles) -> None:
    journal = made(files)
    journal.append(entries(1, 5, size=400))
    journal.close()
    files.crash()
    assert reopened(files).last_index == 4


def test_a_failed_open_gives_its_descriptor_back(files: SimFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    made(files).abandon()
    files.cut(FILE, 8)
    closed = []
    opened = files.open

    def watched(path: object, *, create: bool = False) -> object:
        file = opened(path, create=create)  # type: ignore[arg-type]  # passed on as it came
        monkeypatch.setattr(file, "close", lambda: closed.append(path))
        return file

    monkeypatch.setattr(files, "open", watched)
    with pytest.raises(JournalDamaged):
        Journal.open(files, HOME)
    assert closed == [FILE]
