"""A file that is there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from millpond._local.whole import write_whole


def test_it_takes_the_place_of_the_one_before_with_the_mode_it_is_given(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, "one", 0o600)
    assert path.stat().st_mode & 0o777 == 0o600
    write_whole(path, "two", 0o600)
    assert path.read_text() == "two"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_kill_at_any_instant_leaves_the_one_before_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_whole(path, "one")

    def killed(_descriptor: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", killed)
        with pytest.raises(KeyboardInterrupt):
            write_whole(path, "two")
    assert path.read_text() == "one"
    (tmp_path / "file.new").chmod(0o000)  # what it left is not in the way, whatever it is like
    write_whole(path, "three")
    assert path.read_text() == "three"


def test_it_is_synced_before_it_has_its_name_and_its_name_before_it_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, synced = tmp_path / "file", []
    monkeypatch.setattr(
        os,
        "fsync",
        lambda descriptor: synced.append(
            (str(Path(f"/proc/self/fd/{descriptor}").readlink()), path.exists())
        ),
    )
    write_whole(path, "one")
    assert synced == [(f"{path}.new", False), (str(tmp_path), True)]
    write_whole(path, "one")
    assert synced[2:] == [(str(tmp_path), True)], "its writer may have been killed before that"


def test_one_that_is_the_same_needs_no_room(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, "one")
    before = path.stat().st_ino
    write_whole(path, "one")
    assert path.stat().st_ino == before
