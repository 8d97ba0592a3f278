"""One file port, two disks: the machine's and the simulated one behave alike in all ordinary use.

What only one of them can show is elsewhere: crashes and faults in the simulator's own tests,
descriptors and processes at the end of this module.
"""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest

from millpond_broker.storage.files import BUFFERS_PER_WRITE_MAX, File, Files, FileSystem, OsFiles
from tests.sim.disk import SimFiles


class Disk(NamedTuple):
    """A file layer and an empty directory on it."""

    files: Files
    home: Path

    def create(self, name: str, content: bytes = b"") -> Path:
        path = self.home / name
        file = self.files.open(path, create=True)
        file.write_at(0, [content])
        file.close()
        return path

    def read(self, name: str) -> bytes:
        file = self.files.open(self.home / name)
        try:
            return file.read_at(0, 1 << 20)
        finally:
            file.close()


@pytest.fixture(params=["os", "simulated"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    if request.param == "os":
        return Disk(OsFiles(), tmp_path)
    return Disk(SimFiles(Random(0)), Path("/"))


@pytest.fixture
def file(disk: Disk) -> File:
    """An open file with the content 0123456789."""
    return disk.files.open(disk.create("file", b"0123456789"))


def raises(number: int, call: Callable[[], object]) -> None:
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        call()
    assert caught.value.errno == number


class TestOpening:
    def test_a_new_file_is_empty_and_there(self, disk: Disk) -> None:
        path = disk.home / "new"
        assert not disk.files.exists(path)
        file = disk.files.open(path, create=True)
        assert file.size() == 0
        assert disk.files.exists(path)
        file.close()

    def test_creating_what_is_there_raises_file_exists(self, disk: Disk) -> None:
        path = disk.create("file", b"content")
        with pytest.raises(FileExistsError):
            disk.files.open(path, create=True)
        disk.files.make_directory(disk.home / "directory")
        with pytest.raises(FileExistsError):
            disk.files.open(disk.home / "directory", create=True)
        assert disk.read("file") == b"content"

    def test_opening_what_is_missing_raises_file_not_found(self, disk: Disk) -> None:
        with pytest.raises(FileNotFoundError):
            disk.files.open(disk.home / "missing")
        with pytest.raises(FileNotFoundError):
            disk.files.open(disk.home / "missing" / "file", create=True)
        assert disk.files.list(disk.home) == {}

    def test_a_directory_opens_as_no_file(self, disk: Disk) -> None:
        disk.files.make_directory(disk.home / "directory")
        with pytest.raises(IsADirectoryError):
            disk.files.open(disk.home / "directory")

    def test_a_name_under_a_file_is_no_name(self, disk: Disk) -> None:
        under = disk.create("file") / "under"
        assert not disk.files.exists(under)
        with pytest.raises(NotADirectoryError):
            disk.files.open(under, create=True)

    def test_an_error_tells_the_path(self, disk: Disk) -> None:
        with pytest.raises(FileNotFoundError) as caught:
            disk.files.open(disk.home / "missing")
        assert Path(caught.value.filename) == disk.home / "missing"


class TestReadingAndWriting:
    def test_buffers_are_written_one_after_another(self, disk: Disk) -> None:
        file = disk.files.open(disk.home / "new", create=True)
        assert file.write_at(0, [b"ab", memoryview(b"cd"), b"", b"e"]) == 5
        assert file.read_at(0, 5) == b"abcde"
        file.close()

    def test_a_write_may_stand_anywhere(self, file: File) -> None:
        assert file.write_at(3, [b"xyz"]) == 3
        assert file.read_at(0, 10) == b"012xyz6789"
        assert file.write_at(8, [b"abcd"]) == 4
        assert file.read_at(0, 20) == b"012xyz67abcd"

    def test_a_gap_reads_as_zeros(self, file: File) -> None:
        file.write_at(1000, [b"end"])
        assert file.size() == 1003
        assert file.read_at(0, 2000) == b"0123456789" + bytes(990) + b"end"

    def test_writing_nothing_changes_nothing(self, file: File) -> None:
        assert file.write_at(100, []) == 0
        assert file.write_at(100, [b""]) == 0
        assert file.size() == 10

    def test_a_read_is_short_only_at_the_end(self, file: File) -> None:
        assert file.read_at(4, 3) == b"456"
        assert file.read_at(8, 10) == b"89"
        assert file.read_at(10, 10) == b""
        assert file.read_at(5000, 10) == b""
        assert file.read_at(3, 0) == b""

    def test_truncating_cuts_and_what_grows_again_reads_as_zeros(self, file: File) -> None:
        file.truncate(4)
        assert file.size() == 4
        assert file.read_at(0, 10) == b"0123"
        file.truncate(6)
        assert file.read_at(0, 10) == b"0123\0\0"
        file.write_at(7, [b"7"])
        assert file.read_at(0, 10) == b"0123\0\0\0" + b"7"

    def test_two_handles_see_the_same_file(self, disk: Disk) -> None:
        path = disk.create("file", b"old")
        one, two = disk.files.open(path), disk.files.open(path)
        one.write_at(0, [b"new and longer"])
        assert two.read_at(0, 100) == b"new and longer"
        one.close()
        two.truncate(3)
        assert two.size() == 3
        two.close()

    def test_as_many_buffers_as_the_limit_says_and_no_more(self, file: File) -> None:
        assert file.write_at(0, [b"a"] * BUFFERS_PER_WRITE_MAX) == BUFFERS_PER_WRITE_MAX
        raises(errno.EINVAL, lambda: file.write_at(0, [b"a"] * (BUFFERS_PER_WRITE_MAX + 1)))

    def test_a_negative_position_or_size_is_refused(self, file: File) -> None:
        with pytest.raises(AssertionError):
            file.write_at(-1, [b"a"])
        raises(errno.EINVAL, lambda: file.read_at(-1, 1))
        raises(errno.EINVAL, lambda: file.truncate(-1))

    def test_syncing_changes_nothing_that_is_read(self, file: File) -> None:
        file.write_at(0, [b"abc"])
        file.sync()
        file.sync()
        assert file.read_at(0, 10) == b"abc3456789"

    def test_a_closed_file_refuses_use_and_a_second_close_does_nothing(self, file: File) -> None:
        file.close()
        file.close()
        raises(errno.EBADF, lambda: file.read_at(0, 1))
        raises(errno.EBADF, lambda: file.write_at(0, [b"a"]))
        raises(errno.EBADF, file.size)
        raises(errno.EBADF, file.sync)


class TestNames:
    def test_a_listing_has_every_name_with_its_size_and_none_for_a_directory(self, disk: Disk) -> None:
        disk.create("file", b"12345")
        disk.create("empty")
        disk.files.make_directory(disk.home / "directory")
        disk.files.open(disk.home / "directory" / "inner", create=True).close()
        assert disk.files.list(disk.home) == {"file": 5, "empty": 0, "directory": 0}
        assert disk.files.list(disk.home / "directory") == {"inner": 0}

    def test_listing_what_is_no_directory_raises(self, disk: Disk) -> None:
        with pytest.raises(FileNotFoundError):
            disk.files.list(disk.home / "missing")
        with pytest.raises(NotADirectoryError):
            disk.files.list(disk.create("file"))

    def test_a_directory_is_made_once_and_only_in_one_that_is_there(self, disk: Disk) -> None:
        disk.files.make_directory(disk.home / "directory")
        with pytest.raises(FileExistsError):
            disk.files.make_directory(disk.home / "directory")
        with pytest.raises(FileExistsError):
            disk.files.make_directory(disk.create("file"))
        with pytest.raises(FileNotFoundError):
            disk.files.make_directory(disk.home / "missing" / "directory")

    def test_a_rename_moves_the_file_and_open_handles_follow(self, disk: Disk) -> None:
        path = disk.create("old", b"content")
        handle = disk.files.open(path)
        disk.files.rename(path, disk.home / "new")
        assert disk.files.list(disk.home) == {"new": 7}
        handle.write_at(0, [b"C"])
        handle.close()
        assert disk.read("new") == b"Content"

    def test_a_rename_replaces_its_target_and_old_handles_keep_the_old_file(self, disk: Disk) -> None:
        target = disk.create("target", b"old")
        handle = disk.files.open(target)
        disk.files.rename(disk.create("source", b"newer"), target)
        assert disk.files.list(disk.home) == {"target": 5}
        assert disk.read("target") == b"newer"
        assert handle.read_at(0, 10) == b"old"
        handle.close()

    def test_a_rename_onto_itself_does_nothing(self, disk: Disk) -> None:
        path = disk.create("file", b"content")
        disk.files.rename(path, path)
        assert disk.read("file") == b"content"

    def test_a_rename_may_cross_directories_and_move_one(self, disk: Disk) -> None:
        disk.files.make_directory(disk.home / "from")
        disk.files.make_directory(disk.home / "to")
        disk.create("from/file", b"content")
        disk.files.rename(disk.home / "from" / "file", disk.home / "to" / "file")
        disk.files.rename(disk.home / "to", disk.home / "from")
        assert disk.files.list(disk.home) == {"from": 0}
        assert disk.read("from/file") == b"content"

    def test_a_rename_that_makes_no_sense_is_refused_and_changes_nothing(self, disk: Disk) -> None:
        rename, home = disk.files.rename, disk.home
        path = disk.create("file")
        disk.files.make_directory(home / "directory")
        disk.create("directory/inner")
        disk.files.make_directory(home / "empty")
        raises(errno.ENOENT, lambda: rename(home / "missing", path))
        raises(errno.ENOENT, lambda: rename(path, home / "missing" / "file"))
        raises(errno.EISDIR, lambda: rename(path, home / "empty"))
        raises(errno.ENOTDIR, lambda: rename(home / "empty", path))
        raises(errno.ENOTEMPTY, lambda: rename(home / "empty", home / "directory"))
        raises(errno.EINVAL, lambda: rename(home / "directory", home / "directory" / "itself"))
        assert set(disk.files.list(home)) == {"file", "directory", "empty"}

    def test_an_unlinked_name_is_gone_and_open_handles_go_on(self, disk: Disk) -> None:
        path = disk.create("file", b"content")
        handle = disk.files.open(path)
        disk.files.unlink(path)
        assert disk.files.list(disk.home) == {}
        assert handle.read_at(0, 10) == b"content"
        handle.sync()
        handle.close()
        assert disk.create("file", b"another") == path

    def test_unlinking_what_is_no_file_raises(self, disk: Disk) -> None:
        with pytest.raises(FileNotFoundError):
            disk.files.unlink(disk.home / "missing")
        disk.files.make_directory(disk.home / "directory")
        with pytest.raises(IsADirectoryError):
            disk.files.unlink(disk.home / "directory")

    def test_only_an_empty_directory_is_removed(self, disk: Disk) -> None:
        remove, directory = disk.files.remove_directory, disk.home / "directory"
        disk.files.make_directory(directory)
        inner = disk.create("directory/inner")
        raises(errno.ENOTEMPTY, lambda: remove(directory))
        raises(errno.ENOTDIR, lambda: remove(inner))
        disk.files.unlink(inner)
        remove(directory)
        raises(errno.ENOENT, lambda: remove(directory))
        assert not disk.files.exists(directory)

    def test_syncing_what_is_no_directory_raises(self, disk: Disk) -> None:
        path = disk.create("file")
        disk.files.sync_directory(disk.home)
        with pytest.raises(FileNotFoundError):
            disk.files.sync_directory(disk.home / "missing")
        with pytest.raises(NotADirectoryError):
            disk.files.sync_directory(path)


class TestFileSystem:
    def whole(self, disk: Disk) -> FileSystem:
        whole = disk.files.file_system(disk.home)
        if whole is None:
            pytest.skip("this system reports no errors of a file system sync")
        return whole

    def test_a_whole_file_system_is_synced_as_often_as_is_asked(self, disk: Disk, file: File) -> None:
        whole = self.whole(disk)
        file.write_at(0, [b"abc"])
        whole.sync()
        whole.sync()
        whole.close()
        assert disk.read("file") == b"abc3456789"

    def test_a_closed_handle_refuses_use_and_a_second_close_does_nothing(self, disk: Disk) -> None:
        whole = self.whole(disk)
        whole.close()
        whole.close()
        raises(errno.EBADF, whole.sync)


class TestLocks:
    def test_a_lock_is_held_by_one_at_a_time(self, disk: Disk) -> None:
        path = disk.home / "lock"
        lock = disk.files.lock(path)
        assert disk.files.exists(path)
        with pytest.raises(BlockingIOError):
            disk.files.lock(path)
        lock.release()
        disk.files.lock(path).release()

    def test_a_second_release_does_not_take_a_lock_from_its_next_holder(self, disk: Disk) -> None:
        path = disk.home / "lock"
        first = disk.files.lock(path)
        first.release()
        second = disk.files.lock(path)
        first.release()
        with pytest.raises(BlockingIOError):
            disk.files.lock(path)
        second.release()

    def test_a_lock_leaves_the_content_of_its_file_alone(self, disk: Disk) -> None:
        path = disk.create("lock", b"content")
        lock = disk.files.lock(path)
        assert disk.read("lock") == b"content"
        lock.release()

    def test_a_lock_needs_a_directory_and_is_no_directory(self, disk: Disk) -> None:
        with pytest.raises(FileNotFoundError):
            disk.files.lock(disk.home / "missing" / "lock")
        disk.files.make_directory(disk.home / "directory")
        with pytest.raises(IsADirectoryError):
            disk.files.lock(disk.home / "directory")


def open_descriptors() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir() if entry.exists()}


class TestOsFiles:
    def test_a_refused_lock_leaves_no_descriptor_behind(self, tmp_path: Path) -> None:
        files = OsFiles()
        lock = files.lock(tmp_path / "lock")
        before = open_descriptors()
        for _ in range(3):
            with pytest.raises(BlockingIOError):
                files.lock(tmp_path / "lock")
        assert open_descriptors() == before
        lock.release()

    def test_a_lock_of_another_process_is_respected_and_ends_with_it(self, tmp_path: Path) -> None:
        path = tmp_path / "lock"
        program = (
            "import fcntl, sys\n"
            "file = open(sys.argv[1], 'a')\n"
            "fcntl.flock(file, fcntl.LOCK_EX)\n"
            "print('locked', flush=True)\n"
            "sys.stdin.read()\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", program, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"locked\n"
            with pytest.raises(BlockingIOError):
                OsFiles().lock(path)
            process.kill()
        OsFiles().lock(path).release()

    def test_a_forked_child_does_not_go_on_holding_the_lock_of_its_parent(self, tmp_path: Path) -> None:
        # The child must outlive its parent, so the parent is a process of its own.
        program = (
            "import os, sys\n"
            "from pathlib import Path\n"
            "from millpond_broker.storage.files import OsFiles\n"
            "lock = OsFiles().lock(Path(sys.argv[1]))\n"
            "if os.fork() == 0:\n"
            "    print('forked', flush=True)\n"
            "    sys.stdin.read()\n"
            "    os._exit(0)\n"
            "os._exit(0)\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / "lock")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        ) as parent:
            assert parent.stdout is not None
            assert parent.stdout.readline() == b"forked\n"
            assert parent.wait() == 0
            OsFiles().lock(tmp_path / "lock").release()

    def test_an_interrupted_read_is_continued_to_the_end_of_the_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = OsFiles().open(tmp_path / "file", create=True)
        file.write_at(0, [b"0123456789"])
        whole_read = os.pread
        monkeypatch.setattr(os, "pread", lambda fd, size, at: whole_read(fd, min(size, 3), at))
        assert file.read_at(1, 8) == b"12345678"
        assert file.read_at(4, 100) == b"456789"
        file.close()

    def test_what_is_no_regular_file_is_listed_without_size(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        assert OsFiles().list(tmp_path) == {"pipe": 0}

    def test_descriptors_are_not_inherited_by_programs_that_are_started(self, tmp_path: Path) -> None:
        files = OsFiles()
        file, lock = files.open(tmp_path / "file", create=True), files.lock(tmp_path / "lock")
        program = (
            "from pathlib import Path\n"
            "print([str(entry.resolve()) for entry in Path('/proc/self/fd').iterdir()])\n"
        )
        listed = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, check=True, close_fds=False
        )
        assert str(tmp_path).encode() not in listed.stdout
        file.close()
        lock.release()

    @pytest.mark.parametrize(
        ("system", "release", "reports"),
        [
            ("Linux", "5.8.0-generic", True),
            ("Linux", "6.1", True),
            ("Linux", "5.7.19", False),
            ("Linux", "4.19.0", False),
            ("Linux", "unknown", False),
            ("Darwin", "23.1.0", False),
        ],
    )
    def test_a_file_system_is_synced_only_where_its_errors_are_reported(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        system: str,
        release: str,
        reports: bool,
    ) -> None:
        name = os.uname_result((system, "host", release, "version", "machine"))
        monkeypatch.setattr(os, "uname", lambda: name)
        whole = OsFiles().file_system(tmp_path)
        assert (whole is not None) == reports
        if whole is not None:
            whole.close()
