"""A data directory: ours or refused untouched, one owner at a time, and which disk it is."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from millpond.wire.errors import DirectoryInUse, MillpondError, NotADataDirectory, UnsupportedFormat
from millpond_broker.storage.directory import LAYOUT, DataDirectory
from millpond_broker.storage.document import write_document
from millpond_broker.storage.files import Files, OsFiles
from tests.sim.disk import SimFiles, SimulatedCrash
from tests.unit.storage.builders import disk
from tests.unit.storage.tap import TapFiles, broken

FILES = OsFiles()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def held(path: Path) -> Iterator[DataDirectory]:
    directory = opened(path)
    yield directory
    directory.close()


def opened(
    path: Path, *, role: str = "embedded", new_id: str = "id-1", files: Files = FILES
) -> DataDirectory:
    return DataDirectory.open(files, path, role=role, new_id=new_id)


def tree(path: Path) -> dict[str, bytes | None]:
    """Everything under `path`: content of files, None for directories."""
    return {
        str(one.relative_to(path)): one.read_bytes() if one.is_file() else None
        for one in sorted(path.rglob("*"))
    }


def test_a_missing_directory_becomes_ours(held: DataDirectory, path: Path) -> None:
    assert held.directory_id == "id-1"
    assert held.partitions == path / "partitions"
    assert tree(path).keys() == {"identity", "lock", "partitions"}


def test_an_empty_directory_becomes_ours(path: Path) -> None:
    path.mkdir()
    opened(path).close()
    assert tree(path).keys() == {"identity", "lock", "partitions"}


def test_its_id_is_made_once_and_kept(path: Path) -> None:
    """DESIGN §5: it names this disk for good."""
    opened(path).close()
    again = opened(path, new_id="id-2")
    assert again.directory_id == "id-1"
    again.close()


def refused(path: Path, error: type[MillpondError], reason: str, role: str = "embedded") -> None:
    before = tree(path)
    with pytest.raises(error, match=reason):
        opened(path, role=role)
    assert tree(path) == before, "refused, and changed all the same"


@pytest.mark.parametrize("name", ["holiday.jpg", ".hidden", "identity.old", "partitions.bak"])
def test_a_directory_with_other_files_is_refused_untouched_and_one_of_them_named(
    path: Path, name: str
) -> None:
    path.mkdir()
    (path / name).write_bytes(b"mine")
    refused(path, NotADataDirectory, name)


def test_a_directory_with_files_of_its_owner_beside_ours_stays_ours(path: Path) -> None:
    """An identity settles whose it is; a stray note beside it harms nobody."""
    opened(path).close()
    (path / "README").write_bytes(b"do not touch")
    opened(path).close()


def test_a_file_is_no_directory(path: Path) -> None:
    path.write_bytes(b"file")
    with pytest.raises(NotADataDirectory, match="it is a file"):
        opened(path)
    assert path.read_bytes() == b"file"


def test_a_directory_whose_parent_is_missing_is_refused(path: Path) -> None:
    """A typing error must not grow a tree of directories."""
    with pytest.raises(NotADataDirectory, match="does not exist"):
        opened(path / "deep")
    assert not path.exists()


def test_the_directory_of_another_role_is_refused_untouched(path: Path) -> None:
    opened(path, role="broker").close()
    refused(path, NotADataDirectory, "role 'broker', not 'embedded'")
    opened(path, role="broker").close()


def test_a_layout_from_the_future_is_refused_untouched_and_names_the_cure(path: Path) -> None:
    opened(path).close()
    identity = {"layout": LAYOUT + 1, "directory_id": "id-1", "role": "embedded"}
    write_document(FILES, path / "identity", "identity", identity)
    refused(path, UnsupportedFormat, f"layout {LAYOUT + 1}.*newer millpond")


@pytest.mark.parametrize("data", [b"", b"garbage", b"identity 00000000 {}\n" * 2])
def test_a_damaged_identity_is_refused_untouched(path: Path, data: bytes) -> None:
    """Never a new identity over what may be somebody's data."""
    opened(path).close()
    (path / "identity").write_bytes(data)
    refused(path, NotADataDirectory, "sound")


def test_a_second_open_in_this_process_is_refused_until_the_first_is_closed(path: Path) -> None:
    first = opened(path)
    with pytest.raises(DirectoryInUse) as raised:
        opened(path)
    assert raised.value.path == str(path)
    assert raised.value.retriable
    first.close()
    opened(path).close()


OPEN_ELSEWHERE = """
import sys
from pathlib import Path
from millpond.wire.errors import DirectoryInUse
from millpond_broker.storage.directory import DataDirectory
from millpond_broker.storage.files import OsFiles
try:
    DataDirectory.open(OsFiles(), Path(sys.argv[1]), role="embedded", new_id="other")
except DirectoryInUse:
    print("in use")
else:
    print("open")
    sys.stdout.flush()
    sys.stdin.read()
"""


def elsewhere(path: Path) -> subprocess.Popen[bytes]:
    """Another process that opens the directory, says how that went, and holds it until its stdin ends."""
    return subprocess.Popen(
        [sys.executable, "-c", OPEN_ELSEWHERE, str(path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def test_a_second_process_is_refused(held: DataDirectory, path: Path) -> None:
    with elsewhere(path) as process:
        output, _ = process.communicate(timeout=30)
    assert output == b"in use\n"
    assert held.directory_id == "id-1"


def test_a_directory_that_another_process_holds_is_refused_and_free_once_that_was_killed(path: Path) -> None:
    """The kernel drops the lock, however the process ends."""
    with elsewhere(path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        with pytest.raises(DirectoryInUse):
            opened(path)
        process.kill()
        process.wait(timeout=30)
    again = opened(path)
    assert again.directory_id == "other"
    again.close()


def test_the_child_of_a_fork_does_not_keep_the_lock(path: Path) -> None:
    """Or it would hold the directory after its parent closed it."""
    directory = opened(path)
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.write(ready[1], b"r")
        os.read(go[0], 1)
        os._exit(0)
    assert os.read(ready[0], 1) == b"r"
    with pytest.raises(DirectoryInUse):
        opened(path)
    directory.close()
    opened(path).close()
    os.write(go[1], b"g")
    assert os.waitpid(child, 0)[1] == 0
    for descriptor in (*ready, *go):
        os.close(descriptor)


@pytest.mark.parametrize("at", ["create identity.new", "rename identity", "make_directory partitions"])
def test_an_open_that_fails_releases_the_lock(path: Path, at: str) -> None:
    tap = TapFiles(FILES)
    tap.plan = lambda change: broken() if change == at else None
    with pytest.raises(OSError, match="error"):
        opened(path, files=tap)
    opened(path).close()


def test_a_refused_role_releases_the_lock(path: Path) -> None:
    opened(path).close()
    with pytest.raises(NotADataDirectory):
        opened(path, role="broker")
    opened(path).close()


def first_open(files: SimFiles) -> DataDirectory:
    return opened(Path("/data"), files=files)


def test_a_crash_at_any_step_of_the_first_open_leaves_a_directory_that_opens() -> None:
    """Rule 41: nothing half made is taken for foreign."""
    whole = disk()
    first_open(whole)
    assert whole.operations >= 8
    for operations in range(whole.operations):
        for seed in range(6):
            files = disk(seed)
            files.crash_after(operations)
            with pytest.raises(SimulatedCrash):
                first_open(files)
            files.crash()
            again = opened(Path("/data"), files=files, new_id="id-2")
            assert again.directory_id in ("id-1", "id-2")
            assert files.exists(again.partitions)


def test_an_open_directory_survives_any_crash() -> None:
    """Rule 41: its identity is durable before anything is stored under it."""
    for seed in range(12):
        files = disk(seed)
        first_open(files)
        files.crash()
        again = opened(Path("/data"), files=files, new_id="id-2")
        assert again.directory_id == "id-1"
