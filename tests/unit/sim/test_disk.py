"""The simulated disk keeps what the port promises, and no more than a real one has to.

What may happen is shown by many seeds: each outcome that a real disk could leave turns up in some
of them, and none that it could not.
"""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from millpond_broker.storage.files import Files
from tests.sim.disk import SimFiles, SimulatedCrash
from tests.sim.pages import SECTOR_BYTES

DATA = Path("/data")
LOG = DATA / "log"
OTHER = DATA / "other"
SEEDS = 200
"""Enough for an outcome of one in twenty to be missed once in thirty thousand runs; seeds are
fixed."""


def disk_with(random: Random, **contents: bytes) -> SimFiles:
    """A disk whose directory /data holds these files, all of it durable."""
    disk = SimFiles(random)
    disk.make_directory(DATA)
    for name, content in contents.items():
        file = disk.open(DATA / name, create=True)
        file.write_at(0, [content])
        file.sync()
        file.close()
    disk.sync_directory(Path("/"))
    disk.sync_directory(DATA)
    return disk


def read(disk: Files, path: Path = LOG) -> bytes:
    file = disk.open(path)
    return file.read_at(0, file.size())


def names(disk: Files, directory: Path = DATA) -> frozenset[str]:
    return frozenset(disk.list(directory))


def crashes(disk: SimFiles) -> Iterator[SimFiles]:
    """Many crashes of the state that `disk` is in."""
    for seed in range(SEEDS):
        crashed = disk.clone(Random(seed))
        crashed.crash()
        yield crashed


def raises(number: int, call: Callable[[], object]) -> None:
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        call()
    assert caught.value.errno == number


def sectors(*letters: bytes) -> bytes:
    return b"".join(letter * SECTOR_BYTES for letter in letters)


class TestContent:
    def test_synced_bytes_survive_every_crash(self) -> None:
        disk = disk_with(Random(1), log=sectors(b"a", b"b"))
        file = disk.open(LOG)
        file.write_at(SECTOR_BYTES, [sectors(b"c")])
        file.sync()
        assert {read(crashed) for crashed in crashes(disk)} == {sectors(b"a", b"c")}

    def test_each_unsynced_sector_is_kept_or_lost_on_its_own(self) -> None:
        disk = disk_with(Random(1), log=sectors(b"a", b"a", b"a"))
        disk.open(LOG).write_at(0, [sectors(b"b", b"b", b"b")])
        outcomes = {read(crashed)[::SECTOR_BYTES] for crashed in crashes(disk)}
        assert len(outcomes) == 2**3, "every mixture of old and new"

    def test_a_sector_may_keep_any_of_the_contents_it_was_given(self) -> None:
        disk = disk_with(Random(1), log=sectors(b"a"))
        file = disk.open(LOG)
        file.write_at(0, [sectors(b"b")])
        file.write_at(0, [sectors(b"c")])
        assert {read(crashed) for crashed in crashes(disk)} == set(map(sectors, (b"a", b"b", b"c")))

    def test_a_grown_length_may_be_old_or_new_or_in_between_and_lost_sectors_read_as_zeros(
        self,
    ) -> None:
        disk = disk_with(Random(1), log=b"old")
        grown = b"old" + sectors(b"n", b"n", b"n")
        disk.open(LOG).write_at(3, [sectors(b"n", b"n", b"n")])
        outcomes = [read(crashed) for crashed in crashes(disk)]
        lengths = {len(outcome) for outcome in outcomes}
        assert {3, len(grown)} < lengths
        assert any(length % SECTOR_BYTES for length in lengths - {3, len(grown)}), "torn inside"
        assert grown in outcomes
        assert any(outcome[:3] == b"old" and b"\0" * 500 in outcome for outcome in outcomes)
        for outcome in outcomes:
            assert outcome[:3] == b"old"
            assert all(byte in (0, there) for byte, there in zip(outcome, grown, strict=False))

    def test_growth_of_many_appends_stops_at_one_of_them_or_inside_it(self) -> None:
        disk = disk_with(Random(1), log=b"")
        file = disk.open(LOG)
        for position in range(0, 40, 10):
            file.write_at(position, [b"0123456789"])
        lengths = {len(read(crashed)) for crashed in crashes(disk)}
        assert {0, 10, 20, 30, 40} < lengths
        assert max(lengths) == 40

    def test_an_unsynced_truncation_happened_or_did_not(self) -> None:
        disk = disk_with(Random(1), log=sectors(b"a", b"b"))
        disk.open(LOG).truncate(100)
        assert {read(crashed) for crashed in crashes(disk)} == {b"a" * 100, sectors(b"a", b"b")}

    def test_a_synced_truncation_lets_nothing_old_come_back(self) -> None:
        disk = disk_with(Random(1), log=sectors(b"a", b"a"))
        file = disk.open(LOG)
        file.truncate(10)
        file.sync()
        file.write_at(900, [b"new"])
        for crashed in crashes(disk):
            assert set(read(crashed)[10:]) <= {0, *b"new"}

    def test_bytes_written_after_an_unsynced_truncation_may_land_in_the_old_length(self) -> None:
        disk = disk_with(Random(1), log=sectors(b"a", b"a"))
        file = disk.open(LOG)
        file.truncate(0)
        file.write_at(0, [b"new"])
        outcomes = {read(crashed) for crashed in crashes(disk)}
        assert b"new".ljust(SECTOR_BYTES, b"\0") + sectors(b"a") in outcomes
        assert {b"new", b"", sectors(b"a", b"a")} < outcomes

    def test_after_a_crash_what_is_read_is_durable(self) -> None:
        disk = disk_with(Random(1), log=b"")
        disk.open(LOG).write_at(0, [sectors(b"a", b"b", b"c")])
        disk.crash()
        left = read(disk)
        assert {read(crashed) for crashed in crashes(disk)} == {left}

    def test_a_clone_goes_its_own_way(self) -> None:
        disk = disk_with(Random(1), log=b"one")
        clone = disk.clone(Random(2))
        clone.open(LOG).write_at(0, [b"two"])
        clone.unlink(LOG)
        assert read(disk) == b"one"
        assert names(clone) == set()

    def test_equal_seeds_give_equal_crashes(self) -> None:
        disk = disk_with(Random(1), log=b"")
        disk.open(LOG).write_at(0, [bytes(range(256)) * 20])
        again = [read(crashed) for crashed in crashes(disk)]
        assert [read(crashed) for crashed in crashes(disk)] == again


class TestNames:
    def test_unsynced_creates_are_each_kept_or_lost_even_when_their_content_is_synced(self) -> None:
        disk = disk_with(Random(1))
        for name in "ab":
            file = disk.open(DATA / name, create=True)
            file.write_at(0, [b"content"])
            file.sync()
        outcomes = set()
        for crashed in crashes(disk):
            outcomes.add(names(crashed))
            assert all(read(crashed, DATA / name) == b"content" for name in names(crashed))
        assert outcomes == {frozenset(), frozenset("a"), frozenset("b"), frozenset("ab")}

    def test_unsynced_unlinks_are_each_kept_or_lost(self) -> None:
        disk = disk_with(Random(1), a=b"", b=b"")
        disk.unlink(DATA / "a")
        disk.unlink(DATA / "b")
        outcomes = {names(crashed) for crashed in crashes(disk)}
        assert outcomes == {frozenset(), frozenset("a"), frozenset("b"), frozenset("ab")}

    def test_a_directory_sync_confirms_every_name_in_it(self) -> None:
        disk = disk_with(Random(1), a=b"a", b=b"b", c=b"c")
        disk.open(DATA / "d", create=True)
        disk.unlink(DATA / "a")
        disk.rename(DATA / "b", DATA / "e")
        disk.sync_directory(DATA)
        assert {names(crashed) for crashed in crashes(disk)} == {frozenset("cde")}

    def test_a_directory_sync_confirms_no_other_directory_and_no_content(self) -> None:
        disk = disk_with(Random(1))
        disk.make_directory(DATA / "inner")
        disk.open(LOG, create=True).write_at(0, [b"content"])
        disk.sync_directory(DATA)
        disk.open(DATA / "inner" / "file", create=True)
        inner = {names(crashed, DATA / "inner") for crashed in crashes(disk)}
        assert inner == {frozenset(), frozenset({"file"})}
        assert {b"", b"content"} < {read(crashed) for crashed in crashes(disk)}

    def test_an_unsynced_directory_takes_what_is_in_it_along(self) -> None:
        disk = disk_with(Random(1))
        disk.make_directory(DATA / "inner")
        disk.open(DATA / "inner" / "file", create=True)
        disk.sync_directory(DATA / "inner")
        outcomes = {names(crashed, DATA / "inner") if names(crashed) else None for crashed in crashes(disk)}
        assert outcomes == {None, frozenset({"file"})}

    def test_an_unsynced_rename_leaves_the_old_target_or_the_new_one(self) -> None:
        disk = disk_with(Random(1), log=b"old", other=b"new")
        disk.rename(OTHER, LOG)
        assert names(disk) == {"log"}
        outcomes = {(names(crashed), read(crashed)) for crashed in crashes(disk)}
        assert outcomes == {(frozenset({"log", "other"}), b"old"), (frozenset({"log"}), b"new")}

    def test_a_replaced_document_is_the_old_or_the_new_one_whatever_was_lost(self) -> None:
        disk = disk_with(Random(1), log=b"0")
        for version in (b"1", b"2", b"3"):
            file = disk.open(OTHER, create=True)
            file.write_at(0, [version])
            file.sync()
            disk.rename(OTHER, LOG)
        assert {read(crashed) for crashed in crashes(disk)} == {b"0", b"1", b"2", b"3"}

    def test_no_name_that_was_confirmed_is_buried_under_a_later_one(self) -> None:
        disk = disk_with(Random(1), log=b"old")
        disk.rename(LOG, OTHER)
        disk.open(LOG, create=True)
        disk.rename(OTHER, DATA / "third")
        for crashed in crashes(disk):
            assert b"old" in {read(crashed, DATA / name) for name in names(crashed)}

    def test_a_confirmed_rename_is_not_undone_by_an_earlier_one(self) -> None:
        disk = disk_with(Random(1), log=b"content")
        for name in ("one", "two"):
            disk.make_directory(DATA / name)
        disk.sync_directory(DATA)
        disk.rename(LOG, DATA / "one" / "log")
        disk.rename(DATA / "one" / "log", DATA / "two" / "log")
        disk.sync_directory(DATA / "two")
        for crashed in crashes(disk):
            assert read(crashed, DATA / "two" / "log") == b"content"
            assert names(crashed, DATA / "one") == frozenset()

    def test_a_renamed_directory_keeps_what_is_in_it(self) -> None:
        disk = disk_with(Random(1), log=b"content")
        disk.rename(DATA, Path("/moved"))
        outcomes = set()
        for crashed in crashes(disk):
            (home,) = names(crashed, Path("/"))
            outcomes.add(home)
            assert read(crashed, Path("/") / home / "log") == b"content"
        assert outcomes == {"data", "moved"}

    def test_an_unsynced_removal_of_a_directory_happened_or_did_not(self) -> None:
        disk = disk_with(Random(1), log=b"content")
        disk.unlink(LOG)
        disk.remove_directory(DATA)
        outcomes = {names(crashed) if names(crashed, Path("/")) else None for crashed in crashes(disk)}
        assert outcomes == {None, frozenset(), frozenset({"log"})}

    def test_a_file_system_sync_confirms_every_name_and_every_byte(self) -> None:
        disk = disk_with(Random(1), log=b"")
        disk.make_directory(DATA / "inner")
        file = disk.open(DATA / "inner" / "file", create=True)
        file.write_at(0, [sectors(b"a", b"b")])
        disk.rename(LOG, OTHER)
        whole = disk.file_system(DATA)
        assert whole is not None
        whole.sync()
        for crashed in crashes(disk):
            assert names(crashed) == {"inner", "other"}
            assert read(crashed, DATA / "inner" / "file") == sectors(b"a", b"b")

    def test_a_system_may_have_no_file_system_sync(self) -> None:
        assert SimFiles(Random(1), whole_system_sync=False).file_system(Path("/")) is None


class TestFailedSync:
    def fail(self, disk: SimFiles, content: bytes, *, written: float = 0.0) -> None:
        """Write over the start of the log, and let the sync of that fail."""
        file = disk.open(LOG)
        file.write_at(0, [content])
        disk.fail_next_sync(LOG, written=written)
        raises(errno.EIO, file.sync)

    def test_what_it_covered_is_readable_and_a_later_sync_succeeds_without_writing_it(self) -> None:
        disk = disk_with(Random(1), log=sectors(b"a", b"b"))
        self.fail(disk, sectors(b"n"))
        disk.open(LOG).sync()
        assert read(disk) == sectors(b"n", b"b")
        assert {read(crashed) for crashed in crashes(disk)} == {sectors(b"a", b"b")}

    def test_a_file_system_sync_does_not_bring_lost_pages_back(self) -> None:
        disk = disk_with(Random(1), log=sectors(b"a"))
        self.fail(disk, sectors(b"n"))
        whole = disk.file_system(DATA)
        assert whole is not None
        whole.sync()
        assert {read(crashed) for crashed in crashes(disk)} == {sectors(b"a")}

    def test_a_length_grown_over_lost_pages_is_synced_later_and_shows_zeros(self) -> None:
        disk = disk_with(Random(1), log=b"")
        self.fail(disk, b"new")
        disk.open(LOG).sync()
        assert {read(crashed) for crashed in crashes(disk)} == {b"\0\0\0"}

    def test_rewriting_in_place_makes_lost_pages_dirty_again(self) -> None:
        disk = disk_with(Random(1), log=sectors(b"a"))
        self.fail(disk, sectors(b"n"))
        file = disk.open(LOG)
        file.write_at(0, [read(disk)])
        file.sync()
        assert {read(crashed) for crashed in crashes(disk)} == {sectors(b"n")}

    def test_writing_part_of_a_lost_sector_writes_all_of_it(self) -> None:
        disk = disk_with(Random(1), log=sectors(b"a", b"a"))
        self.fail(disk, sectors(b"n", b"n"))
        file = disk.open(LOG)
        file.write_at(7, [b"x"])
        file.sync()
        expected = b"nnnnnnnx" + b"n" * (SECTOR_BYTES - 8) + sectors(b"a")
        assert {read(crashed) for crashed in crashes(disk)} == {expected}

    def test_lost_pages_outlive_the_process_in_the_cache_only(self) -> None:
        disk = disk_with(Random(1), log=sectors(b"a"))
        self.fail(disk, sectors(b"n"))
        disk.kill()
        assert read(disk) == sectors(b"n")
        disk.crash()
        assert read(disk) == sectors(b"a")

    def test_lost_pages_read_as_they_were_once_they_are_evicted(self) -> None:
        disk = disk_with(Random(1), log=sectors(b"a", b"a"))
        self.fail(disk, sectors(b"n"))
        disk.open(LOG).write_at(SECTOR_BYTES, [sectors(b"d")])
        disk.evict()
        assert read(disk) == sectors(b"a", b"d"), "dirty pages stay"

    def test_it_may_have_written_some_sectors_which_then_are_durable(self) -> None:
        outcomes = set()
        for seed in range(SEEDS):
            disk = disk_with(Random(seed), log=sectors(b"a", b"a"))
            self.fail(disk, sectors(b"n", b"n"), written=0.5)
            left = {read(crashed)[::SECTOR_BYTES] for crashed in crashes(disk.clone(Random(seed)))}
            assert len(left) == 1, "the failed sync has decided"
            outcomes |= left
        assert outcomes == {b"aa", b"an", b"na", b"nn"}

    def test_it_strikes_once_and_only_the_file_it_names(self) -> None:
        disk = disk_with(Random(1), log=b"", other=b"")
        disk.fail_next_sync(LOG)
        disk.open(OTHER).sync()
        file = disk.open(LOG)
        raises(errno.EIO, file.sync)
        file.sync()

    def test_without_a_name_it_strikes_the_next_file_that_is_synced(self) -> None:
        disk = disk_with(Random(1), log=b"", other=b"")
        disk.fail_next_sync()
        disk.sync_directory(DATA)
        raises(errno.EIO, disk.open(OTHER).sync)
        disk.open(LOG).sync()

    def test_every_handle_that_was_open_reports_it_once_and_a_new_one_does_not(self) -> None:
        disk = disk_with(Random(1), log=b"")
        whole = disk.file_system(DATA)
        assert whole is not None
        other_handle = disk.open(LOG)
        self.fail(disk, b"new")
        raises(errno.EIO, other_handle.sync)
        other_handle.sync()
        raises(errno.EIO, whole.sync)
        whole.sync()
        disk.open(LOG).sync()

    def test_a_file_system_sync_that_fails_for_one_file_confirms_no_other(self) -> None:
        disk = disk_with(Random(1), log=sectors(b"a"), other=sectors(b"a"))
        for path in (LOG, OTHER):
            disk.open(path).write_at(0, [sectors(b"n")])
        whole = disk.file_system(DATA)
        assert whole is not None
        disk.fail_next_sync(LOG)
        raises(errno.EIO, whole.sync)
        assert {read(crashed) for crashed in crashes(disk)} == {sectors(b"a")}
        outcomes = {read(crashed, OTHER) for crashed in crashes(disk)}
        assert outcomes == {sectors(b"a"), sectors(b"n")}

    def test_a_file_system_sync_that_fails_without_a_name_loses_every_page_it_covered(self) -> None:
        disk = disk_with(Random(1), log=sectors(b"a"), other=sectors(b"a"))
        whole = disk.file_system(DATA)
        assert whole is not None
        for path in (LOG, OTHER):
            disk.open(path).write_at(0, [sectors(b"n")])
        disk.fail_next_sync()
        raises(errno.EIO, whole.sync)
        whole.sync()
        for crashed in crashes(disk):
            assert read(crashed) == read(crashed, OTHER) == sectors(b"a")

    def test_of_a_directory_it_leaves_the_names_unconfirmed_until_the_next(self) -> None:
        disk = disk_with(Random(1))
        disk.open(LOG, create=True)
        disk.fail_next_sync(DATA)
        raises(errno.EIO, lambda: disk.sync_directory(DATA))
        assert {names(crashed) for crashed in crashes(disk)} == {frozenset(), frozenset({"log"})}
        disk.sync_directory(DATA)
        assert {names(crashed) for crashed in crashes(disk)} == {frozenset({"log"})}


class TestFullDisk:
    def test_a_write_at_the_limit_writes_what_fits_and_the_next_one_nothing(self) -> None:
        disk = disk_with(Random(1), log=b"", other=b"12345")
        disk.capacity_bytes = 10
        file = disk.open(LOG)
        assert file.write_at(0, [b"abc", b"defg"]) == 5
        raises(errno.ENOSPC, lambda: file.write_at(5, [b"h"]))
        assert read(disk) == b"abcde"

    def test_bytes_that_are_there_may_be_written_over(self) -> None:
        disk = disk_with(Random(1), log=b"12345")
        disk.capacity_bytes = 5
        file = disk.open(LOG)
        assert file.write_at(0, [b"abcde"]) == 5
        assert file.write_at(3, [b"xyz"]) == 2
        assert file.write_at(0, []) == 0
        assert read(disk) == b"abcxy"

    def test_a_gap_counts_as_much_as_what_follows_it(self) -> None:
        disk = disk_with(Random(1), log=b"")
        disk.capacity_bytes = 10
        file = disk.open(LOG)
        raises(errno.ENOSPC, lambda: file.write_at(10, [b"a"]))
        raises(errno.ENOSPC, lambda: file.truncate(11))
        assert file.size() == 0
        assert file.write_at(8, [b"abcd"]) == 2

    def test_no_name_is_made_without_room(self) -> None:
        disk = disk_with(Random(1), log=b"12345")
        disk.capacity_bytes = 5
        raises(errno.ENOSPC, lambda: disk.open(OTHER, create=True))
        raises(errno.ENOSPC, lambda: disk.make_directory(OTHER))
        raises(errno.ENOSPC, lambda: disk.lock(OTHER))
        assert names(disk) == {"log"}

    def test_room_comes_back_by_truncating_unlinking_and_a_larger_disk(self) -> None:
        disk = disk_with(Random(1), log=b"12345", other=b"12345")
        disk.capacity_bytes = 10
        file = disk.open(LOG)
        raises(errno.ENOSPC, lambda: file.write_at(5, [b"6"]))
        file.truncate(4)
        assert file.write_at(4, [b"5"]) == 1
        disk.unlink(OTHER)
        assert file.write_at(5, [b"67890"]) == 5
        disk.capacity_bytes = 11
        assert file.write_at(10, [b"1"]) == 1


class TestInjectedErrors:
    def test_reads_of_a_chosen_file_fail_until_healed(self) -> None:
        disk = disk_with(Random(1), log=b"log", other=b"other")
        disk.fail_reads(LOG)
        raises(errno.EIO, lambda: read(disk))
        assert read(disk, OTHER) == b"other"
        disk.crash()
        raises(errno.EIO, lambda: read(disk))
        disk.heal()
        assert read(disk) == b"log"

    def test_writes_to_a_chosen_file_fail_and_change_nothing_until_healed(self) -> None:
        disk = disk_with(Random(1), log=b"log")
        file = disk.open(LOG)
        disk.fail_writes(LOG)
        raises(errno.EIO, lambda: file.write_at(0, [b"new"]))
        raises(errno.EIO, lambda: file.truncate(0))
        assert read(disk) == b"log"
        disk.heal()
        assert file.write_at(0, [b"new"]) == 3

    def test_healing_takes_back_a_sync_failure_that_has_not_struck(self) -> None:
        disk = disk_with(Random(1), log=b"")
        disk.fail_next_sync(LOG)
        disk.heal()
        disk.open(LOG).sync()

    def test_a_flipped_bit_is_flipped_on_disk_and_in_the_cache(self) -> None:
        disk = disk_with(Random(1), log=b"\x00\x00")
        disk.flip_bit(LOG, 11)
        assert read(disk) == b"\x00\x08"
        assert {read(crashed) for crashed in crashes(disk)} == {b"\x00\x08"}

    def test_a_flipped_bit_is_not_put_right_by_a_write_that_was_pending(self) -> None:
        disk = disk_with(Random(1), log=b"")
        file = disk.open(LOG)
        file.write_at(0, [b"\x00\x00"])
        disk.flip_bit(LOG, 0)
        file.sync()
        assert {read(crashed) for crashed in crashes(disk)} == {b"\x01\x00"}

    def test_a_file_cut_by_somebody_else_is_short_at_once_and_for_good(self) -> None:
        disk = disk_with(Random(1), log=b"content", other=b"short")
        disk.cut(LOG, 4)
        disk.cut(OTHER, 100)
        assert read(disk) == b"cont"
        assert {read(crashed) for crashed in crashes(disk)} == {b"cont"}
        assert read(disk, OTHER) == b"short"


class TestStopping:
    def test_the_operation_after_the_last_allowed_one_is_not_performed(self) -> None:
        disk = disk_with(Random(1), log=b"")
        file = disk.open(LOG)
        disk.crash_after(1)
        file.write_at(0, [b"first"])
        with pytest.raises(SimulatedCrash):
            file.write_at(5, [b"second"])
        disk.kill()
        assert read(disk) == b"first"

    def test_everything_raises_from_the_crash_on_until_the_machine_starts_again(self) -> None:
        disk = disk_with(Random(1), log=b"")
        file, lock, whole = disk.open(LOG), disk.lock(OTHER), disk.file_system(DATA)
        assert whole is not None
        disk.crash_after(0)
        calls: list[Callable[[], object]] = [
            file.sync,
            file.size,
            whole.sync,
            lambda: file.read_at(0, 1),
            lambda: file.write_at(0, [b"a"]),
            lambda: file.truncate(0),
            lambda: disk.open(LOG),
            lambda: disk.exists(LOG),
            lambda: disk.list(DATA),
            lambda: disk.lock(LOG),
            lambda: disk.file_system(DATA),
            lambda: disk.rename(LOG, OTHER),
            lambda: disk.unlink(LOG),
            lambda: disk.make_directory(DATA / "inner"),
            lambda: disk.remove_directory(DATA),
            lambda: disk.sync_directory(DATA),
        ]
        for call in calls:
            with pytest.raises(SimulatedCrash):
                call()
        file.close()
        whole.close()
        lock.release()
        disk.crash()
        assert read(disk) == b""

    def test_only_what_changes_something_counts_as_an_operation(self) -> None:
        disk = disk_with(Random(1), log=b"")
        before = disk.operations
        read(disk)
        disk.exists(LOG)
        disk.list(DATA)
        disk.lock(LOG)
        assert disk.operations == before
        file = disk.open(OTHER, create=True)
        file.write_at(0, [b"a"])
        file.truncate(0)
        file.sync()
        disk.sync_directory(DATA)
        assert disk.operations == before + 5

    @pytest.mark.parametrize("stop", [SimFiles.crash, SimFiles.kill])
    def test_handles_are_dead_and_locks_free_afterwards(self, stop: Callable[[SimFiles], None]) -> None:
        disk = disk_with(Random(1), log=b"content")
        file, lock, whole = disk.open(LOG), disk.lock(LOG), disk.file_system(DATA)
        assert whole is not None
        stop(disk)
        raises(errno.EBADF, file.size)
        raises(errno.EBADF, file.sync)
        raises(errno.EBADF, whole.sync)
        raises(errno.EBADF, lambda: file.write_at(0, [b"new"]))
        held = disk.lock(LOG)
        lock.release()
        with pytest.raises(BlockingIOError):
            disk.lock(LOG)
        held.release()
        file.close()

    def test_a_killed_process_loses_nothing_that_it_wrote(self) -> None:
        disk = disk_with(Random(1), log=b"")
        disk.open(LOG).write_at(0, [b"content"])
        disk.open(OTHER, create=True)
        disk.kill()
        assert read(disk) == b"content"
        assert names(disk) == {"log", "other"}
        assert len({(read(crashed), names(crashed)) for crashed in crashes(disk)}) > 2
