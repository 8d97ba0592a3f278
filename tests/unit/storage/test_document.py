"""Checkpoints and settings: replaced whole or not at all; no flipped bit spoils one (rule 41)."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from millpond_broker.storage.document import DocumentDamaged, read_document, write_document
from tests.sim.disk import SimFiles, SimulatedCrash
from tests.unit.storage.builders import disk, get, put
from tests.unit.storage.tap import TapFiles

HOME = Path("/home")
PATH = HOME / "settings"
OLD: dict[str, Any] = {"name": "old", "number": 1}
NEW: dict[str, Any] = {"name": "new", "number": None}
CRASHES = 8


@pytest.fixture
def files() -> SimFiles:
    made = disk()
    made.make_directory(HOME)
    made.sync_directory(Path("/"))
    return made


def stored(files: SimFiles) -> dict[str, Any] | None:
    return read_document(files, PATH, "settings")


def test_a_document_that_was_never_written_is_none(files: SimFiles) -> None:
    assert stored(files) is None


def test_a_document_reads_back_as_it_was_written(files: SimFiles) -> None:
    content = {"list": [1, [2, "é"]], "none": None, "text": "two words"}
    write_document(files, PATH, "settings", content)
    assert stored(files) == content


def test_a_document_is_one_readable_line_twice(files: SimFiles) -> None:
    """For whoever looks with `cat`."""
    write_document(files, PATH, "settings", OLD)
    lines = get(files, PATH).decode().splitlines()
    assert lines[0] == lines[1]
    assert lines[0].startswith("settings ")
    assert lines[0].rstrip().endswith('{"name":"old","number":1}')
    assert len(get(files, PATH)) == 2 * 512, "the copies share no sector"


def test_a_document_of_another_kind_is_damaged(files: SimFiles) -> None:
    write_document(files, PATH, "settings", OLD)
    with pytest.raises(DocumentDamaged, match="settings"):
        read_document(files, PATH, "checkpoint")


def test_a_written_document_survives_any_crash(files: SimFiles) -> None:
    """Rule 41: the rename's directory entry is synced before the call returns."""
    for content in (OLD, NEW):
        write_document(files, PATH, "settings", content)
        for seed in range(CRASHES):
            machine = files.clone(Random(seed))
            machine.crash()
            assert stored(machine) == content


def crashes_at_every_operation(files: SimFiles, change: Callable[[SimFiles], None]) -> list[SimFiles]:
    """The disks that `change` leaves when the power goes before each of its operations."""
    whole = files.clone(Random(0))
    before = whole.operations
    change(whole)
    left = []
    for operations in range(whole.operations - before):
        for seed in range(CRASHES):
            machine = files.clone(Random(seed))
            machine.crash_after(operations)
            with pytest.raises(SimulatedCrash):
                change(machine)
            machine.crash()
            left.append(machine)
    assert len(left) >= 4 * CRASHES
    return left


def test_a_crash_while_replacing_leaves_the_old_or_the_new(files: SimFiles) -> None:
    """Rule 41: atomically, by rename."""
    write_document(files, PATH, "settings", OLD)
    seen = []
    for machine in crashes_at_every_operation(
        files, lambda target: write_document(target, PATH, "settings", NEW)
    ):
        seen.append(stored(machine))
        write_document(machine, PATH, "settings", NEW)
        assert stored(machine) == NEW, "what a crash left beside it is in nobody's way"
    assert OLD in seen
    assert NEW in seen
    assert all(content in (OLD, NEW) for content in seen)


def test_a_crash_while_overwriting_on_a_full_disk_leaves_the_old_or_the_new(
    files: SimFiles,
) -> None:
    """Rules 40 and 41: one copy after the other, a sync between, so that one is always sound."""
    write_document(files, PATH, "settings", OLD)
    files.capacity_bytes = 1024
    seen = [
        stored(machine)
        for machine in crashes_at_every_operation(
            files, lambda target: write_document(target, PATH, "settings", NEW)
        )
    ]
    assert OLD in seen
    assert NEW in seen
    assert all(content in (OLD, NEW) for content in seen)


@pytest.mark.parametrize("room_bytes", [0, 1, 511, 512, 1000, 1023])
def test_on_a_full_disk_a_version_of_the_same_length_is_written_in_place(
    files: SimFiles, room_bytes: int
) -> None:
    """Rule 40: a log must be trimmable exactly then."""
    write_document(files, PATH, "settings", OLD)
    files.capacity_bytes = 1024 + room_bytes
    write_document(files, PATH, "settings", NEW)
    assert files.list(HOME) == {PATH.name: 1024}, "the attempt beside it is gone"
    files.crash()
    assert stored(files) == NEW


def test_on_a_full_disk_a_longer_version_is_refused_and_the_old_one_stays(files: SimFiles) -> None:
    """Rule 40."""
    write_document(files, PATH, "settings", OLD)
    files.capacity_bytes = 1024
    with pytest.raises(OSError, match="o space") as raised:
        write_document(files, PATH, "settings", {"name": "x" * 600})
    assert raised.value.errno == errno.ENOSPC
    assert stored(files) == OLD
    files.crash()
    assert stored(files) == OLD


def test_on_a_full_disk_a_first_version_is_refused(files: SimFiles) -> None:
    """Rule 40."""
    files.capacity_bytes = 600
    with pytest.raises(OSError, match="Errno 28"):
        write_document(files, PATH, "settings", OLD)
    assert stored(files) is None
    files.capacity_bytes = None
    write_document(files, PATH, "settings", NEW)
    assert stored(files) == NEW


@pytest.mark.parametrize("content", [OLD, {"name": "x" * 500}])
def test_no_single_flipped_bit_changes_what_is_read(files: SimFiles, content: dict[str, Any]) -> None:
    """Two copies, each with its checksum."""
    write_document(files, PATH, "settings", content)
    for bit in range(8 * len(get(files, PATH))):
        files.flip_bit(PATH, bit)
        assert stored(files) == content, f"bit {bit}"
        files.flip_bit(PATH, bit)


def test_damage_to_both_copies_is_reported_and_never_read_as_content(files: SimFiles) -> None:
    write_document(files, PATH, "settings", OLD)
    for byte in range(len("settings ")):
        files.flip_bit(PATH, 8 * byte)
        files.flip_bit(PATH, 8 * (512 + byte))
        with pytest.raises(DocumentDamaged):
            stored(files)
        files.flip_bit(PATH, 8 * byte)
        files.flip_bit(PATH, 8 * (512 + byte))


def test_a_document_cut_short_is_sound_or_damaged_but_never_different(files: SimFiles) -> None:
    write_document(files, PATH, "settings", OLD)
    data = get(files, PATH)
    damaged = 0
    for size in range(len(data)):
        path = HOME / f"cut-{size}"
        put(files, path, data[:size])
        try:
            assert read_document(files, path, "settings") == OLD
        except DocumentDamaged:
            damaged += 1
    assert damaged >= 40, "less than one whole line is damage"


def test_reading_and_writing_leave_no_file_open(files: SimFiles) -> None:
    tap = TapFiles(files)
    write_document(tap, PATH, "settings", OLD)
    files.capacity_bytes = 1024
    write_document(tap, PATH, "settings", NEW)
    read_document(tap, PATH, "settings")
    assert not +tap.open_files
