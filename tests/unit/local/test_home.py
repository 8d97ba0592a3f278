"""The directory of a local cluster: one user at a time, and nothing left of temporary ones."""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path

import pytest

from millpond._local.home import LOCK, TEMPORARY, YOUNG_SECONDS, kept, temporary
from millpond.wire.errors import DirectoryInUse


@pytest.fixture(autouse=True)
def where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def left(where: Path, name: str) -> Path:
    """A directory as a killed predecessor leaves it."""
    directory = where / f"{TEMPORARY}{name}"
    (directory / "broker-1" / "data").mkdir(parents=True)
    for lock in (directory / LOCK, directory / "broker-1" / "data" / "lock"):
        lock.touch()
        before = lock.stat().st_mtime - YOUNG_SECONDS
        os.utime(lock, (before, before))
    return directory


def test_it_is_found_again_and_belongs_to_one_at_a_time(where: Path) -> None:
    directory = where / "a" / "b"
    with kept(directory):
        (directory / "file").touch()
        with pytest.raises(DirectoryInUse, match="another `millpond up`"), kept(directory):
            pass
    with kept(directory):
        assert (directory / "file").exists()
    assert (directory / ".gitignore").read_text() == "*\n"


def test_a_directory_that_was_there_gets_no_gitignore(where: Path) -> None:
    with kept(where):
        assert not (where / ".gitignore").exists()


def test_a_temporary_one_goes_with_the_block() -> None:
    with temporary() as directory:
        (directory / "file").touch()
    assert not directory.exists()


def test_what_a_killed_predecessor_left_goes_too_but_not_what_is_in_use(where: Path) -> None:
    gone, brokers_run, young, strange = left(where, "a"), left(where, "b"), left(where, "c"), where / "other"
    os.utime(young / LOCK)
    strange.mkdir()
    with (brokers_run / "broker-1" / "data" / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with temporary():
            assert not gone.exists()
            assert brokers_run.exists()
            assert young.exists()
            assert strange.exists()
