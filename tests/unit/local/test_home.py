"""The directory of a local cluster: one user at a time, and nothing left of temporary ones."""

from __future__ import annotations

import fcntl
import tempfile
from pathlib import Path

import pytest

from millpond._local.examining import LOCK
from millpond._local.home import TEMPORARY, in_use, kept, running, temporary
from millpond.wire.errors import DirectoryInUse, InvalidConfig


@pytest.fixture(autouse=True)
def where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def left(where: Path, name: str) -> Path:
    """A directory as a killed predecessor leaves it."""
    directory = where / f"{TEMPORARY}{name}"
    (directory / "broker-1" / "data").mkdir(parents=True)
    for path in ("up.lock", "cluster.json", "broker-1/data/lock", "broker-1/broker.toml", "broker-1/log"):
        (directory / path).touch()
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
    (where / f"{TEMPORARY}unlocked").mkdir()  # somebody makes it just now
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
