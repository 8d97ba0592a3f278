"""Group commit: one call for all dirty logs; none is told yes that may have lost something (rule 40)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from millpond.wire.errors import StorageFailed
from millpond.wire.record import TopicPartition
from millpond_broker.storage.files import FileSystem
from millpond_broker.storage.group_commit import FILES_SYNCED_ONE_BY_ONE_MAX, GroupCommit
from millpond_broker.storage.log import Log
from tests.sim.disk import SimFiles
from tests.unit.storage.builders import begun, contents, expected, fill, tiny
from tests.unit.storage.tap import TapFiles

ROOT = Path("/")
FEW = FILES_SYNCED_ONE_BY_ONE_MAX
MANY = FEW + 1


class CountingFiles(TapFiles):
    """Counts what the file-system handle is asked for."""

    def __init__(self, inner: SimFiles) -> None:
        super().__init__(inner)
        self.whole_syncs = 0
        self.handles_open = 0

    def file_system(self, path: Path) -> FileSystem | None:
        handle = super().file_system(path)
        return None if handle is None else _CountingHandle(self, handle)


class _CountingHandle:
    def __init__(self, files: CountingFiles, inner: FileSystem) -> None:
        self._files = files
        self._inner = inner
        files.handles_open += 1

    def sync(self) -> None:
        self._files.whole_syncs += 1
        self._inner.sync()

    def close(self) -> None:
        self._files.handles_open -= 1
        self._inner.close()


@pytest.fixture(params=[True, False], ids=["syncfs", "no syncfs"])
def files(request: pytest.FixtureRequest) -> CountingFiles:
    return CountingFiles(SimFiles(Random(0), whole_system_sync=request.param))


@pytest.fixture
def group(files: CountingFiles) -> Iterator[GroupCommit]:
    made = GroupCommit(files, ROOT)
    yield made
    made.close()
    assert files.handles_open == 0


def dirty(files: CountingFiles, count: int) -> list[Log]:
    """So many logs with three records each that nothing has synced."""
    logs = []
    for number in range(count):
        log = Log.open(files, Path(f"/log-{number}"), TopicPartition("orders", number), tiny())
        fill(log, 3)
        logs.append(log)
    files.clear()
    return logs


def has_whole_sync(files: CountingFiles) -> bool:
    handle = files.inner.file_system(ROOT)
    return handle is not None


@pytest.mark.parametrize("count", [1, FEW, MANY, 20])
def test_every_dirty_log_is_durable_by_the_cheaper_way(
    files: CountingFiles, group: GroupCommit, count: int
) -> None:
    """DESIGN §5: a few files one by one, more by one sync of the file system, where there is one."""
    logs = dirty(files, count)
    results = group.sync([begun(log) for log in logs])
    assert [result.error for result in results] == [None] * count
    assert [log.durable_end for log in logs] == [0] * count, "nothing counts before it is settled"
    for result in results:
        result.settle()
    assert [log.durable_end for log in logs] == [3] * count
    by_whole = count > FEW and has_whole_sync(files)
    assert files.whole_syncs == (1 if by_whole else 0)
    assert len(files.changes) == (0 if by_whole else count)
    assert isinstance(files.inner, SimFiles)
    files.inner.crash()
    for number in range(count):
        log = Log.open(files, Path(f"/log-{number}"), TopicPartition("orders", number), tiny())
        assert contents(log) == expected(0, 3)
        log.abandon()


def test_nothing_to_sync_is_nothing_done(files: CountingFiles, group: GroupCommit) -> None:
    assert group.sync([]) == []
    assert (files.whole_syncs, files.changes) == (0, [])


def test_a_failure_among_a_few_hits_its_own_log_only(files: CountingFiles, group: GroupCommit) -> None:
    """Rule 40: its fdatasync says whose bytes were lost."""
    logs = dirty(files, FEW)
    assert isinstance(files.inner, SimFiles)
    files.inner.fail_next_sync(Path("/log-0/00000000000000000000.log"))
    for result in group.sync([begun(log) for log in logs]):
        result.settle()
    assert logs[0].failure is not None
    assert [log.durable_end for log in logs] == [0] + [3] * (FEW - 1)
    with pytest.raises(StorageFailed):
        fill(logs[0], 1)
    for log in logs[1:]:
        fill(log, 1)
    logs[0].reopen()
    fill(logs[0], 1)
    for log in logs:
        log.abandon()


def test_a_failure_among_many_hits_every_log_where_it_does_not_say_whose_it_is(
    files: CountingFiles, group: GroupCommit
) -> None:
    """Rule 40: nobody's bytes count that may be the lost ones."""
    logs = dirty(files, MANY)
    assert isinstance(files.inner, SimFiles)
    files.inner.fail_next_sync(Path("/log-1/00000000000000000000.log"))
    for result in group.sync([begun(log) for log in logs]):
        result.settle()
    if has_whole_sync(files):
        assert all(log.failure is not None for log in logs)
        assert [log.durable_end for log in logs] == [0] * MANY
    else:
        assert [log.failure is not None for log in logs] == [number == 1 for number in range(MANY)]
    for log in logs:
        if log.failure is not None:
            log.reopen()
        else:
            log.truncate(0)
        fill(log, 2)
    for result in group.sync([begun(log) for log in logs]):
        with suppress(StorageFailed):
            result.settle()
    assert all(log.durable_end == 2 for log in logs), "the failure was told once, and is over"
    files.inner.crash()
    for number in range(MANY):
        log = Log.open(files, Path(f"/log-{number}"), TopicPartition("orders", number), tiny())
        assert contents(log) == expected(0, 2)
        log.abandon()


def test_logs_of_one_call_are_settled_in_any_order(files: CountingFiles, group: GroupCommit) -> None:
    logs = dirty(files, MANY)
    for result in reversed(group.sync([begun(log) for log in logs])):
        result.settle()
    assert all(log.durable_end == 3 for log in logs)
    for log in logs:
        log.abandon()


def test_what_is_appended_while_the_sync_runs_waits_for_the_next(
    files: CountingFiles, group: GroupCommit
) -> None:
    """What the sync covers was fixed when it was begun."""
    (log,) = dirty(files, 1)
    pending = begun(log)
    fill(log, 2)
    for result in group.sync([pending]):
        result.settle()
    assert (log.durable_end, log.log_end, log.is_dirty) == (3, 5, True)
    log.abandon()
