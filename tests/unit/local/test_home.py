"""The directory of a local cluster: one user at a time, and nothing left of temporary ones."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path

import pytest

from millpond._local import home
from millpond._local.examining import LOCK, MARK, foreign_entry
from millpond._local.home import BEGUN_SECONDS, TEMPORARY, in_use, kept, running, temporary
from millpond.wire.errors import DirectoryInUse, InvalidConfig


@pytest.fixture(autouse=True)
def where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def left(where: Path, name: str) -> Path:
    """A directory as a killed predecessor leaves it."""
    directory = where / f"{TEMPORARY}{name}"
    directory.mkdir(mode=0o700)
    (directory / LOCK).touch()
    (directory / MARK).write_text(str(directory))
    fill(directory)
    return directory


def fill(directory: Path) -> None:
    (directory / "broker-1" / "data").mkdir(parents=True)
    for path in ("cluster.json", "broker-1/data/lock", "broker-1/broker.toml", "broker-1/log"):
        (directory / path).touch()


def begun(where: Path, name: str, *entries: str, mode: int = 0o700, ago: float = 2 * BEGUN_SECONDS) -> Path:
    """As one leaves it who is killed as it makes it."""
    directory = where / f"{TEMPORARY}{name}"
    directory.mkdir(mode=mode)
    for entry in entries:
        (directory / entry).touch()
    then = time.time() - ago
    os.utime(directory, (then, then))
    return directory


def nothing() -> None:
    """Is wrong."""


def test_it_is_found_again_and_belongs_to_one_at_a_time(where: Path) -> None:
    directory = where / "a" / "b"
    with kept(directory, nothing):
        (directory / "file").touch()
        with pytest.raises(DirectoryInUse, match="another `millpond up`"), kept(directory, nothing):
            pass
    with kept(directory, nothing):
        assert (directory / "file").exists()
    assert (directory / ".gitignore").read_text() == "*\n"


def test_a_directory_that_was_there_gets_no_gitignore(where: Path) -> None:
    with kept(where, nothing):
        assert not (where / ".gitignore").exists()


def test_a_temporary_one_goes_with_the_block() -> None:
    with temporary() as directory:
        assert (directory / MARK).read_text() == str(directory)
        (directory / "file").touch()
    assert not directory.exists()


def test_what_is_wrong_is_raised_before_it_is_made(where: Path) -> None:
    def wrong() -> None:
        raise InvalidConfig(key="port", reason="is taken")

    with pytest.raises(InvalidConfig), kept(where / "new", wrong):
        pass
    assert not list(where.iterdir())


def test_what_a_killed_predecessor_left_goes_but_not_what_is_in_use(where: Path) -> None:
    gone, has_data_open, process_lives, is_owned = (left(where, name) for name in "abcd")
    locks = (has_data_open / "broker-1/data/lock", process_lives / "broker-1/log", is_owned / LOCK)
    files = [path.open() for path in locks]
    try:
        for file in files:
            fcntl.flock(file, fcntl.LOCK_EX)
        assert in_use(has_data_open) == has_data_open / "broker-1/data"
        assert running(process_lives) == [1]
        with temporary():
            assert not gone.exists()
            assert all(path.exists() for path in locks)
    finally:
        for file in files:
            file.close()
    assert in_use(has_data_open) is None
    assert running(process_lives) == []


def test_nothing_goes_that_is_not_known_to_be_such_a_directory(where: Path) -> None:
    (where / "other").mkdir()
    (where / f"{TEMPORARY}file").touch()
    begun(where, "just-now", ago=0)
    begun(where, "by-hand", mode=0o755)
    begun(where, "with-something", "cluster.json")
    with kept(where / f"{TEMPORARY}mine", nothing) as mine:
        fill(mine)
    copied_from = left(where, "original")
    shutil.copytree(copied_from, where / f"{TEMPORARY}copied")
    copied_from.rename(where / f"{TEMPORARY}moved")
    with_notes, home_with_notes, elsewhere = left(where, "notes"), left(where, "home"), left(where, "x")
    (with_notes / "notes.txt").touch()
    (home_with_notes / "broker-1" / "notes.txt").touch()
    elsewhere.rename(where / "kept")
    (where / f"{TEMPORARY}link").symlink_to(where / "kept")
    before = sorted(where.rglob("*"))
    with temporary():
        pass
    assert sorted(where.rglob("*")) == before


def test_it_has_its_lock_before_anybody_can_take_it_for_one_that_was_left() -> None:
    with temporary() as directory, (directory / LOCK).open() as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_one_that_was_left_and_is_named_by_somebody_is_kept_from_then_on(where: Path) -> None:
    one, other = left(where, "one"), left(where, "other")
    (where / "link").symlink_to(other)
    for name in (one, where / "link"):
        with kept(name, nothing):
            pass
    (other / "ephemeral").write_text("notes")  # a file of theirs, by chance
    with kept(other, nothing):
        pass
    with temporary():
        pass
    assert (one / "cluster.json").exists()
    assert (other / "ephemeral").read_text() == "notes"


def test_one_that_somebody_begins_to_keep_as_it_is_looked_at_stays(
    where: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = left(where, "one")

    def is_kept_meanwhile(directory: Path) -> str | None:
        found = foreign_entry(directory)
        with kept(directory, nothing):
            return found

    monkeypatch.setattr(home, "foreign_entry", is_kept_meanwhile)
    with temporary():
        pass
    assert (one / "cluster.json").exists()


def test_what_one_left_that_was_killed_as_it_made_or_removed_its_own_goes(where: Path) -> None:
    begun(where, "made")
    begun(where, "locked", LOCK)
    begun(where, "marked", LOCK, MARK)
    with temporary() as directory:
        assert list(where.iterdir()) == [directory]


def test_a_removal_that_is_killed_is_gone_on_with(where: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = left(where, "one")
    remove, removed = shutil.rmtree, []

    def killed(path: Path, *, ignore_errors: bool) -> None:
        removed.append(path.name)
        if path == one:
            raise KeyboardInterrupt
        remove(path, ignore_errors=ignore_errors)

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt), temporary():
            pass
    assert removed == ["broker-1", one.name]
    assert sorted(path.name for path in one.iterdir()) == [MARK, LOCK]
    with temporary() as directory:
        assert list(where.iterdir()) == [directory]


def test_others_do_not_hide_what_is_to_go(where: Path) -> None:
    """As many as one start removes, that are none of its own: of another user's, say."""
    for number in range(home.LEFT_MAX):
        (where / f"{TEMPORARY}{number}").mkdir()
    one = left(where, "z")
    with temporary():
        assert not one.exists()


def test_two_first_starts_at_once_are_told_by_the_lock(where: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one is quicker by a moment."""
    make = Path.mkdir

    def quicker(path: Path, *, parents: bool) -> None:
        make(path)
        make(path, parents=parents)

    monkeypatch.setattr(Path, "mkdir", quicker)
    with kept(where / "new", nothing), pytest.raises(DirectoryInUse), kept(where / "new", nothing):
        pass
    assert sorted(path.name for path in where.rglob("*")) == ["new", LOCK]


def test_a_lock_that_was_removed_as_it_was_opened_is_nobodys(
    where: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A temporary one goes as somebody begins to keep it: the lock of a removed file would be had by many."""
    one, lock = left(where, "one"), fcntl.flock

    def goes(descriptor: int, operation: int) -> None:
        shutil.rmtree(one)
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", goes)
    with pytest.raises(DirectoryInUse, match="removes it"), kept(one, nothing):
        pass
    assert not one.exists()
