"""A directory that `millpond up` is given: what it was made with is known, and nothing else is guessed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from millpond._local.configuring import Addresses, write_configs
from millpond._local.examining import examine
from millpond._local.record import RECORD, Record, read_record, write_record
from millpond.wire.errors import InvalidConfig, MillpondError, NotADataDirectory, UnsupportedFormat

PEERS = ("127.0.0.1:7071", "127.0.0.1:7081", "127.0.0.1:7091")


def configured(directory: Path, count: int = 3) -> None:
    """As a start leaves it whose brokers have not done anything yet."""
    peers = PEERS if count == 3 else ("127.0.0.1:7071",)
    write_configs(
        directory, count, {}, addresses=[Addresses("127.0.0.1:1", peer, "127.0.0.1:2") for peer in peers]
    )


def has_data(directory: Path, *numbers: int) -> None:
    for number in numbers:
        (directory / f"broker-{number}" / "data" / "metadata").mkdir(parents=True)
        (directory / f"broker-{number}" / "data" / "identity").touch()


def founded(directory: Path) -> Record:
    """A cluster of three that has been ready."""
    record = Record(3, PEERS, is_founded=True)
    write_record(directory, record)
    configured(directory)
    has_data(directory, 1, 2, 3)
    return record


def contents(directory: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in directory.rglob("*")}


def refused(directory: Path, wanted: int | None = None) -> MillpondError:
    """With what it is refused; nothing has changed then."""
    before = contents(directory)
    with pytest.raises((InvalidConfig, NotADataDirectory, UnsupportedFormat)) as raised:
        examine(directory, wanted)
    assert contents(directory) == before
    assert isinstance(raised.value, MillpondError)
    return raised.value


def test_a_new_or_empty_one_gets_as_many_as_are_asked_for_or_three(tmp_path: Path) -> None:
    assert examine(tmp_path / "new", None) == Record(3, (), is_founded=False)
    assert examine(tmp_path, 5) == Record(5, (), is_founded=False)


def test_a_disk_of_its_own_holds_nobodys_files(tmp_path: Path) -> None:
    for name in ("lost+found", "broker-1/lost+found"):
        (tmp_path / name).mkdir(parents=True)
        assert examine(tmp_path, None) == Record(3, (), is_founded=False)


def test_a_cluster_is_found_again_as_it_was(tmp_path: Path) -> None:
    record = founded(tmp_path)
    assert examine(tmp_path, None) == record == examine(tmp_path, 3)
    (tmp_path / "notes.txt").touch()  # once it is ours, others may lay their things beside
    (tmp_path / "broker-2" / "broker.toml").unlink()
    (tmp_path / "secret").unlink()
    assert examine(tmp_path, None).brokers == 3, "what follows from the rest is written again"


@pytest.mark.parametrize("wanted", [None, 2, 3])
@pytest.mark.parametrize("lost", ["broker-2", "broker-2/data", "broker-2/data/metadata"])
def test_a_broker_that_is_missing_does_not_make_it_a_smaller_cluster(
    lost: str, wanted: int | None, tmp_path: Path
) -> None:
    founded(tmp_path)
    shutil.rmtree(tmp_path / lost)
    error = str(refused(tmp_path, wanted))
    if wanted == 2:
        assert "has a cluster of 3, not 2" in error
    else:
        assert f"has a cluster of 3, and {lost}" in error
        assert "docs/operations.md" in error


def test_a_single_one_that_is_missing_can_only_be_put_back(tmp_path: Path) -> None:
    write_record(tmp_path, Record(1, (), is_founded=True))
    assert "put it back, or remove the whole directory" in str(refused(tmp_path))


def test_one_too_many_is_refused(tmp_path: Path) -> None:
    founded(tmp_path)
    (tmp_path / "broker-4").mkdir()
    assert "has a cluster of 3, and broker-4 is one too many" in str(refused(tmp_path))


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ('7081"\n', '7089"\n', "cluster.peer_listen is 127.0.0.1:7089, and was 127.0.0.1:7081"),
        ('"id" = 2', '"id" = 4', "broker.id is 4, and was 2"),
        (', "3@127.0.0.1:7091"', "", r"cluster.voters is [1@127.0.0.1:7071, 2@127.0.0.1:7081], and was [1@"),
        ("[", "(", "is damaged"),
    ],
)
def test_a_configuration_that_says_something_else_is_not_written_over(
    before: str, after: str, told: str, tmp_path: Path
) -> None:
    founded(tmp_path)
    path = tmp_path / "broker-2" / "broker.toml"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))
    assert f"{path}: {told}" in str(refused(tmp_path))


@pytest.mark.parametrize(
    "changed",
    [
        {"brokers": 2},
        {"brokers": 0},
        {"brokers": 8, "peers": [f"127.0.0.1:{port}" for port in range(1, 9)]},
        {"brokers": True},
        {"brokers": "3"},
        {"peers": None},
        {"peers": [1, 2, 3]},
        {"peers": [PEERS[0]] * 3},
        {"founded": 1},
        {"format": None},
        {"format": True},
        {"format": 0},
    ],
)
def test_a_record_that_is_damaged_is_no_record(changed: dict[str, Any], tmp_path: Path) -> None:
    founded(tmp_path)
    path = tmp_path / RECORD
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    assert "cluster.json is damaged" in str(refused(tmp_path))
    for text in ("", "{", "[]", "3", "\xff"):
        path.write_bytes(text.encode("latin-1"))
        assert "cluster.json is damaged" in str(refused(tmp_path))
    path.unlink()
    assert examine(tmp_path, None).peers == PEERS, "as it says that it can be made again"


def test_a_record_of_a_later_version_is_not_guessed_at(tmp_path: Path) -> None:
    (tmp_path / RECORD).write_text('{"format": 2}')
    assert "knows up to 1; use a newer millpond" in str(refused(tmp_path))


# --- ended in the middle of the first start --------------------------------------------------------------


def test_before_anybody_has_data_it_begins_again_with_as_many_at_any_port(tmp_path: Path) -> None:
    (tmp_path / "cluster.json.new").touch()  # as it is written
    assert examine(tmp_path, 2).brokers == 2
    write_record(tmp_path, Record(3, PEERS, is_founded=False))
    nobody = Record(3, (), is_founded=False)
    assert examine(tmp_path, None) == nobody
    (tmp_path / "broker-1").mkdir()
    (tmp_path / "broker-1" / "broker.toml").touch()
    (tmp_path / "secret").touch()
    assert examine(tmp_path, None) == nobody
    configured(tmp_path)
    (tmp_path / "broker-2" / "data").mkdir()
    assert examine(tmp_path, None) == nobody


@pytest.mark.parametrize("has_record", [True, False])
def test_before_anybody_has_data_another_number_may_be_asked_for(has_record: bool, tmp_path: Path) -> None:
    if has_record:
        write_record(tmp_path, Record(3, PEERS, is_founded=False))
    assert examine(tmp_path, 1) == Record(1, (), is_founded=False)
    configured(tmp_path)
    assert examine(tmp_path, 5) == Record(5, (), is_founded=False)
    error = str(refused(tmp_path, 1))
    assert "more brokers there than 1, and none has metadata: remove broker-2, broker-3, or" in error
    for number in (2, 3):
        shutil.rmtree(tmp_path / f"broker-{number}")
    assert examine(tmp_path, 1) == Record(1, (), is_founded=False)
    has_data(tmp_path, 1)
    error = str(refused(tmp_path, 1))
    assert "has a cluster of 3, not 1: the number is fixed once there are data" in error


def test_once_one_has_metadata_the_others_keep_their_addresses(tmp_path: Path) -> None:
    record = Record(3, PEERS, is_founded=False)
    write_record(tmp_path, record)
    configured(tmp_path)
    has_data(tmp_path, 1)
    for number in (2, 3):
        (tmp_path / f"broker-{number}" / "data").mkdir()
        (tmp_path / f"broker-{number}" / "data" / "identity").touch()
    assert examine(tmp_path, None) == record
    # Who has answered at the founding has a disk that the metadata name.
    (tmp_path / "broker-3" / "data" / "identity").unlink()
    assert "broker-3/data/identity is missing" in str(refused(tmp_path))


def test_an_empty_secret_is_of_a_start_that_was_killed(tmp_path: Path) -> None:
    (tmp_path / "secret").touch()
    configured(tmp_path)
    assert (tmp_path / "secret").stat().st_size == 64
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600


# --- made before there was a record ----------------------------------------------------------------------


def test_without_a_record_the_configurations_say_what_it_is(tmp_path: Path) -> None:
    configured(tmp_path)
    assert examine(tmp_path, None) == Record(3, (), is_founded=False), "nobody has data: as it was meant"
    has_data(tmp_path, 1, 2, 3)
    assert examine(tmp_path, None) == Record(3, PEERS, is_founded=False)
    shutil.rmtree(tmp_path / "broker-2")
    assert "has a cluster of 3, and broker-2 is missing" in str(refused(tmp_path))
    for number in (1, 3):
        (tmp_path / f"broker-{number}" / "broker.toml").unlink()
    assert "says how many brokers it has" in str(refused(tmp_path))


def test_a_single_one_without_a_record_is_found_again(tmp_path: Path) -> None:
    configured(tmp_path, 1)
    has_data(tmp_path, 1)
    assert examine(tmp_path, None) == Record(1, (), is_founded=False)
    assert read_record(tmp_path) is None
    assert "has a cluster of 1, not 3" in str(refused(tmp_path, 3))


def test_more_voters_than_there_can_be_are_of_somebody_else(tmp_path: Path) -> None:
    configured(tmp_path)
    has_data(tmp_path, 1, 2, 3)
    path = tmp_path / "broker-1" / "broker.toml"
    more = "".join(f', "{number}@127.0.0.1:{number}"' for number in range(4, 9))
    path.write_text(path.read_text().replace('7091"', f'7091"{more}'))
    assert "as `millpond up` does not make them" in str(refused(tmp_path))


def test_brokers_that_do_not_vote_are_somebody_elses_cluster(tmp_path: Path) -> None:
    addresses = [Addresses("127.0.0.1:1", peer, "127.0.0.1:2") for peer in PEERS]
    write_configs(tmp_path, 3, {}, 2, addresses=addresses)
    has_data(tmp_path, 1, 2, 3)
    assert "has a cluster of 2, and broker-3 is one too many" in str(refused(tmp_path))


# --- not ours --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["notes.txt", ".git/config", "broker-1/src/x.py", "broker-01/log", "broker-x/log"]
)
def test_a_strangers_files_are_left_alone_and_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    error = refused(tmp_path)
    assert isinstance(error, NotADataDirectory)
    found = name.rpartition("/")[0] or name
    found = "broker-1/src" if name.startswith("broker-1/") else found
    assert f"it holds other files, {found!r} for one" in str(error)
    assert "--data" in str(error)
