"""What `open` accepts, what it refuses, and that a refusal changes nothing and keeps nothing."""

from __future__ import annotations

import errno
import itertools
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from millpond import embedded
from millpond.errors import (
    DirectoryInUse,
    InvalidConfig,
    NotADataDirectory,
    StorageFailed,
    StorageFull,
    UnsupportedFormat,
)
from millpond.wire.batch import encode_batch, seal
from millpond.wire.header import HEADER_BYTES
from millpond.wire.record import TopicPartition
from millpond_broker.storage import directory as layout
from millpond_broker.storage.files import OsFiles
from millpond_broker.storage.log import Log, LogOptions
from tests.unit.embedded.watched import FailAt, WatchedFiles


def contents(directory: Path) -> dict[str, tuple[bytes, int]]:
    """Every file below a directory, with its bytes and when it was changed."""
    return {
        str(path.relative_to(directory)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def made(directory: Path, **options: Any) -> None:
    """A closed queue with one record in it."""
    with embedded.open(directory, files=WatchedFiles(syncs_really=False), **options) as queue:
        queue.produce(b"k", b"v")


@pytest.mark.parametrize("kind", [str, Path])
def test_a_missing_directory_becomes_a_queue(directory: Path, kind: Any) -> None:
    with embedded.open(kind(directory)) as queue:
        assert queue.path == directory
        assert len(queue.stats().partitions) == 4


def test_an_empty_directory_becomes_a_queue_and_a_relative_path_is_that_of_the_moment(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory.mkdir()
    monkeypatch.chdir(directory.parent)
    with embedded.open(directory.name) as queue:
        monkeypatch.chdir("/")
        queue.produce(b"k", b"v")
        assert queue.path == directory
    made(directory)


def test_a_second_open_in_the_same_process_is_refused_until_the_first_is_closed(
    directory: Path,
) -> None:
    with embedded.open(directory) as queue:
        before = contents(directory)
        with pytest.raises(DirectoryInUse) as caught:
            embedded.open(directory)
        assert caught.value.path == str(directory)
        assert caught.value.retriable
        assert contents(directory) == before
        queue.produce(b"k", b"v")
    with embedded.open(directory) as queue:
        assert queue.stats().records == 1


def test_a_directory_with_other_files_is_left_untouched(directory: Path) -> None:
    directory.mkdir()
    (directory / "thesis.txt").write_text("years of work")
    before = contents(directory)
    with pytest.raises(NotADataDirectory, match=r"thesis\.txt"):
        embedded.open(directory)
    assert contents(directory) == before


def test_a_file_or_a_missing_parent_is_no_place_for_a_queue(directory: Path) -> None:
    with pytest.raises(NotADataDirectory, match="does not exist"):
        embedded.open(directory / "deeper")
    assert not directory.exists()
    directory.write_text("a file")
    with pytest.raises(NotADataDirectory, match="it is a file"):
        embedded.open(directory)
    assert directory.read_text() == "a file"


def test_a_brokers_directory_is_refused(directory: Path) -> None:
    layout.DataDirectory.open(OsFiles(), directory, role="broker", new_id="1").close()
    before = contents(directory)
    with pytest.raises(NotADataDirectory, match="broker"):
        embedded.open(directory)
    assert contents(directory) == before


def test_a_directory_from_the_future_is_refused_untouched(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "LAYOUT", layout.LAYOUT + 1)
    made(directory)
    monkeypatch.undo()
    before = contents(directory)
    with pytest.raises(UnsupportedFormat, match="newer millpond"):
        embedded.open(directory)
    assert contents(directory) == before


@pytest.mark.parametrize("document", ["identity", "queue"])
def test_a_single_flipped_bit_in_a_settings_document_does_no_harm(directory: Path, document: str) -> None:
    made(directory)
    path = directory / document
    sound = path.read_bytes()
    for position in range(0, len(sound), 41):
        path.write_bytes(sound[:position] + bytes([sound[position] ^ 4]) + sound[position + 1 :])
        with embedded.open(directory) as queue:
            assert queue.stats().records == 1


@pytest.mark.parametrize("document", ["identity", "queue"])
def test_a_settings_document_that_is_damaged_beyond_that_is_refused(directory: Path, document: str) -> None:
    made(directory)
    (directory / document).write_bytes(b"garbage")
    with pytest.raises(NotADataDirectory, match=document):
        embedded.open(directory)
    assert (directory / document).read_bytes() == b"garbage"


def test_partitions_without_their_settings_are_refused_and_not_replaced_by_an_empty_queue(
    directory: Path,
) -> None:
    made(directory)
    settings = (directory / "queue").read_bytes()
    (directory / "queue").unlink()
    with pytest.raises(NotADataDirectory, match="settings"):
        embedded.open(directory)
    (directory / "queue").write_bytes(settings)
    with embedded.open(directory) as queue:
        assert queue.stats().records == 1


def test_partitions_must_be_the_same_again_or_none_for_whatever_it_has(directory: Path) -> None:
    made(directory, partitions=3)
    before = contents(directory)
    with pytest.raises(InvalidConfig, match="this queue has 3") as caught:
        embedded.open(directory, partitions=4)
    assert caught.value.key == "partitions"
    assert contents(directory) == before
    with embedded.open(directory, partitions=None) as queue:
        assert len(queue.stats().partitions) == 3


def test_a_new_queue_has_four_partitions_when_none_are_asked_for(directory: Path) -> None:
    with embedded.open(directory, partitions=None) as queue:
        assert len(queue.stats().partitions) == 4


def test_flush_must_be_the_same_again(directory: Path) -> None:
    made(directory, flush="interval")
    before = contents(directory)
    with pytest.raises(InvalidConfig, match="made with 'interval'") as caught:
        embedded.open(directory)
    assert caught.value.key == "flush"
    assert contents(directory) == before
    made(directory, flush="interval")


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"partitions": 0}, "partitions"),
        ({"partitions": 1025}, "partitions"),
        ({"partitions": 2.5}, "partitions"),
        ({"partitions": "4"}, "partitions"),
        ({"flush": "never"}, "flush"),
        ({"config": {"retention_byte": 1}}, "retention_byte"),
        ({"config": {"flush": "interval"}}, "flush"),
        ({"config": {"segment_bytes": 1}}, "segment_bytes"),
        ({"config": {"flush_interval_ms": 50}}, "flush_interval_ms"),
        ({"config": {"retention_ms": "a week"}}, "retention_ms"),
        ({"config": {"record_bytes_max": -1}}, "record_bytes_max"),
        ({"config": {"cleanup_policy": "compact"}}, "cleanup_policy"),
        ({"config": {"compression": "zstd"}}, "compression"),
    ],
)
def test_a_wrong_setting_is_named_and_nothing_is_made(
    directory: Path, options: dict[str, Any], key: str
) -> None:
    with pytest.raises(InvalidConfig, match=key) as caught:
        embedded.open(directory, **options)
    assert caught.value.key == key
    assert not directory.exists()


def test_a_setting_that_is_nearly_right_is_suggested(directory: Path) -> None:
    with pytest.raises(InvalidConfig, match="did you mean retention_bytes"):
        embedded.open(directory, config={"retention_byte": 1})


def test_settings_may_come_as_text(directory: Path) -> None:
    with embedded.open(directory, config={"record_bytes_max": "10", "retention_ms": "-1"}) as queue:
        queue.produce(b"12345", b"67890")


def crashed(directory: Path) -> None:
    """A queue with one more record that no clean close vouches for: recovery has work to do."""
    queue = embedded.open(directory, files=WatchedFiles(syncs_really=False))
    queue.produce(b"k", b"w")
    queue._closing = True
    queue._taken.close()


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.ENOSPC])
def test_an_open_that_fails_at_any_operation_lets_everything_go_and_can_be_repeated(
    directory: Path, number: int
) -> None:
    """No lock and no descriptor stays (the fixture looks), nothing hinders the next open."""
    made(directory)
    for n in itertools.count(1):
        crashed(directory)
        files = WatchedFiles(syncs_really=False)
        files.hook = failure = FailAt(n, number)
        with suppress(StorageFailed, StorageFull):
            embedded.open(directory, files=files).close()
        if not failure.fired:
            break
    assert n > 20, "there were operations to fail at"
    with embedded.open(directory) as queue:
        assert [record.value for record in queue.consume("group", timeout=0)] == [b"v"] + [b"w"] * n


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_the_first_open_may_fail_at_any_operation_and_be_repeated(tmp_path: Path, number: int) -> None:
    for n in itertools.count(1):
        files = WatchedFiles(syncs_really=False)
        files.hook = failure = FailAt(n, number)
        directory = tmp_path / f"queue-{n}"
        with suppress(StorageFailed, StorageFull):
            embedded.open(directory, partitions=1, files=files).close()
        made(directory, partitions=1)
        with embedded.open(directory, partitions=1) as queue:
            assert queue.stats().records == 1
        if not failure.fired:
            break


def test_a_queue_cannot_be_made_where_nobody_may_write(directory: Path) -> None:
    files = WatchedFiles()

    def refuse(operation: str, path: Path) -> None:
        raise PermissionError(errno.EACCES, "permission denied", str(path))

    files.hook = refuse
    with pytest.raises(StorageFailed, match="permission denied"):
        embedded.open(directory, files=files)


def test_a_queue_that_holds_a_batch_from_the_future_is_not_opened_and_keeps_nothing_open(
    directory: Path,
) -> None:
    made(directory, partitions=2)
    crashed_log(directory)
    before = {name: data for name, (data, _) in contents(directory).items() if name.endswith(".log")}
    with pytest.raises(UnsupportedFormat):
        embedded.open(directory, partitions=2)
    after = {name: data for name, (data, _) in contents(directory).items() if name.endswith(".log")}
    assert after == before


def crashed_log(directory: Path) -> None:
    """The last partition gets a sound batch with an attribute that this version does not know."""
    path = max((directory / "partitions").glob("queue-1-*"))
    log = Log.open(OsFiles(), path, TopicPartition("queue", 1), LogOptions())
    plain = encode_batch([b"v"], 0)
    log.append([seal(plain.header._replace(attributes=1 << 15), plain.data[HEADER_BYTES:])], 0)
    log.abandon()


def test_a_partition_whose_directory_is_gone_begins_anew_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with embedded.open(tmp_path / "queue", partitions=2) as queue:
        queue.produce_many([(b"%d" % number, b"v") for number in range(20)])
    (gone,) = (tmp_path / "queue" / "partitions").glob("queue-1-*")
    shutil.rmtree(gone)
    with embedded.open(tmp_path / "queue", partitions=None) as queue:
        assert queue.stats().partitions[1].log_end == 0
        assert queue.stats().partitions[0].log_end > 0
    assert [record.levelname for record in caplog.records if gone.name in record.getMessage()] == ["ERROR"]
