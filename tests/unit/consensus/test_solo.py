"""The metadata log of one voter: what was answered stays, whatever happens to the process or the power.

DESIGN §7; rule 40: a failed sync ends the process.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import TypeVar

import pytest

from millpond.wire.errors import ErrorCode, NotADataDirectory, StorageFailed, StorageFull
from millpond_broker.consensus.codec import decode_snapshot
from millpond_broker.consensus.metadata_log import MetadataLogFailed, NotApplied, Ok, Unknown
from millpond_broker.consensus.solo import SoloMetadataLog, SoloOptions
from millpond_broker.core.commands import (
    Barrier,
    Command,
    DeleteTopic,
    InitCluster,
    RegisterBroker,
    SetTopicConfig,
    Voter,
)
from millpond_broker.core.image import MetadataImage, Refused, digest
from millpond_broker.storage.files import OsFiles
from tests.sim.disk import SimFiles, SimulatedCrash
from tests.unit.consensus.builders import DIRECTORY, FILE, HOME, disk
from tests.unit.consensus.solos import TIMEOUT, allocation, do, ids, inline, join, must, open_log, opened
from tests.unit.core.clusters import disk_of, id_of, topic

T = TypeVar("T")


# --- starting ------------------------------------------------------------------------------------------


async def test_a_first_start_makes_a_cluster_with_this_broker_as_its_voter() -> None:
    files = disk()
    async with opened(files) as log:
        assert log.image.cluster_id == ids()()
        assert log.image.voters == {1: Voter(1, disk_of(1))}
        (first,) = log.committed(1)
        assert isinstance(first.envelope.command, InitCluster)
        assert first.index == log.image.version == 2, (
            "an entry that every voter's log begins with is before it"
        )
    async with opened(files, seed=5) as log:
        assert log.image.cluster_id == ids()(), "the id is made once"


async def test_every_start_is_a_new_term() -> None:
    """The controller's epoch is the term that it claims: it must not come twice."""
    files = disk()
    terms = []
    for start in range(3):
        log = await open_log(files, seed=start)
        await join(log, start)
        terms.append((log.term, log.image.controller_epoch))
        await log.close()
        files.crash()
    assert terms == [(2, 2), (3, 3), (4, 4)]


async def test_an_image_comes_back_as_it_was() -> None:
    files = disk()
    async with opened(files) as log:
        await join(log)
        await do(log, topic("orders", (1,), config={"retention_ms": "5"}))
        await do(log, allocation(log.image, 10))
        before = log.image
    async with opened(files, seed=1) as log:
        assert log.image == before
        assert digest(log.image) == digest(before)


@pytest.mark.parametrize(("broker_id", "directory_id"), [(2, disk_of(1)), (1, "another disk")])
async def test_metadata_of_another_broker_or_disk_are_refused(broker_id: int, directory_id: str) -> None:
    files = disk()
    await (await open_log(files)).close()
    with pytest.raises(NotADataDirectory, match="belong to broker 1"):
        await open_log(files, broker_id=broker_id, directory_id=directory_id)


async def test_logs_without_metadata_are_not_taken_for_a_first_start() -> None:
    """Their topics would be unknown, and they would be removed."""
    files = disk()
    partitions = DIRECTORY / "partitions"
    files.make_directory(partitions)
    files.make_directory(partitions / "orders-0-abc")
    with pytest.raises(NotADataDirectory, match="metadata are gone"):
        await open_log(files)
    assert not files.exists(HOME)


async def test_damage_is_an_error_that_says_where_and_changes_nothing() -> None:
    files = disk()
    async with opened(files) as log:
        await join(log)
    files.flip_bit(FILE, 3000)
    before = files.list(HOME)
    with pytest.raises(StorageFailed, match="at byte"):
        await open_log(files)
    assert files.list(HOME) == before


async def test_a_full_disk_is_an_error_of_its_own() -> None:
    files = disk()
    files.capacity_bytes = 100
    with pytest.raises(StorageFull):
        await open_log(files)
    files.capacity_bytes = None
    await (await open_log(files)).close()


# --- proposing -----------------------------------------------------------------------------------------


async def test_proposals_are_answered_in_order_and_share_their_syncs() -> None:
    files = disk()
    async with opened(files) as log:
        await join(log)
        before = files.operations
        outcomes = await asyncio.gather(*(log.propose(allocation(log.image), TIMEOUT) for _ in range(100)))
        assert [must(outcome).value for outcome in outcomes] == list(range(100))
        indexes = [outcome.index for outcome in outcomes if isinstance(outcome, Ok)]
        assert indexes == list(range(indexes[0], indexes[0] + 100))
        assert files.operations - before < 10, "not one for each"


async def test_a_refusal_is_an_answer() -> None:
    async with opened(disk()) as log:
        outcome = await log.propose(DeleteTopic(id_of("none")), TIMEOUT)
        assert isinstance(outcome, Ok)
        assert isinstance(outcome.result, Refused)
        assert outcome.result.code is ErrorCode.UNKNOWN_TOPIC


async def test_a_command_too_large_is_not_applied() -> None:
    async with opened(disk()) as log:
        huge = SetTopicConfig(id_of("t"), (("k", "v" * (2 << 20)),), ())
        assert isinstance(await log.propose(huge, TIMEOUT), NotApplied)
        must(await log.propose(Barrier(), TIMEOUT))


async def test_a_callback_sees_each_image_before_its_proposal_is_answered() -> None:
    async with opened(disk()) as log:
        seen: list[int] = []
        stop = log.subscribe(lambda image: seen.append(image.version))
        first = await log.propose(Barrier(), TIMEOUT)
        assert isinstance(first, Ok)
        assert seen == [first.index] == [log.image.version]
        stop()
        stop()
        await log.propose(Barrier(), TIMEOUT)
        assert seen == [first.index]
        assert await log.barrier(TIMEOUT) == log.image.version


async def test_a_retry_of_a_proposal_counts_once() -> None:
    async with opened(disk()) as log:
        await join(log)
        first = await log.propose(allocation(log.image), TIMEOUT, sequence=77)
        again = await log.propose(allocation(log.image), TIMEOUT, sequence=77)
        assert must(first) == must(again)
        assert log.image.next_producer_id == 1


async def test_a_command_of_an_older_epoch_is_refused() -> None:
    async with opened(disk()) as log:
        await join(log)
        outcome = await log.propose(allocation(log.image), TIMEOUT, controller_epoch=1)
        assert isinstance(outcome, Ok)
        assert isinstance(outcome.result, Refused)
        assert outcome.result.code is ErrorCode.FENCED_EPOCH


class Held:
    """Runs what blocks only when it is told to."""

    def __init__(self) -> None:
        self.free = asyncio.Event()
        self.free.set()
        self.waiting = asyncio.Event()

    async def run(self, call: Callable[[], T]) -> T:
        self.waiting.set()
        await self.free.wait()
        return call()


async def held_log(files: SimFiles, held: Held, options: SoloOptions | None = None) -> SoloMetadataLog:
    return await SoloMetadataLog.open(
        files,
        DIRECTORY,
        broker_id=1,
        directory_id=disk_of(1),
        new_id=ids(),
        run_blocking=held.run,
        options=options,
    )


async def test_what_was_not_begun_by_its_deadline_is_not_applied_and_what_was_is_unknown() -> None:
    held = Held()
    log = await held_log(disk(), held)
    await join(log)
    held.free.clear()
    held.waiting.clear()
    command = allocation(log.image, 7)
    async with asyncio.TaskGroup() as tasks:
        begun = tasks.create_task(log.propose(command, 0.05))
        await held.waiting.wait()
        waiting = tasks.create_task(log.propose(command, 0.01))
        cancelled = tasks.create_task(log.propose(command, TIMEOUT))
        await asyncio.wait([waiting, begun])
        cancelled.cancel()
    unknown = begun.result()
    assert isinstance(waiting.result(), NotApplied)
    assert isinstance(unknown, Unknown)
    assert log.image.next_producer_id == 0, "nothing is seen before the sync"
    held.free.set()
    assert must(await log.propose(command, TIMEOUT, sequence=unknown.sequence)).value == 0, "it was applied"
    assert log.image.next_producer_id == 7, "once, and the others never"
    await log.close()


async def test_proposals_in_flight_are_bounded_and_others_wait_for_room() -> None:
    held = Held()
    log = await held_log(disk(), held, SoloOptions(in_flight_max=3))
    await join(log)
    held.free.clear()
    held.waiting.clear()
    command = allocation(log.image)
    async with asyncio.TaskGroup() as tasks:
        inside = [tasks.create_task(log.propose(command, TIMEOUT)) for _ in range(3)]
        await held.waiting.wait()
        refused = await log.propose(command, 0.01)
        assert isinstance(refused, NotApplied)
        behind = [tasks.create_task(log.propose(command, TIMEOUT)) for _ in range(9)]
        held.free.set()
    assert sorted(str(must(task.result()).value) for task in inside + behind) == sorted(map(str, range(12)))
    await log.close()


async def test_what_is_written_and_not_yet_answered_is_not_told_as_committed() -> None:
    done, free = asyncio.Event(), asyncio.Event()
    free.set()

    async def answers_late(call: Callable[[], T]) -> T:
        result = call()
        done.set()
        await free.wait()
        return result

    log = await SoloMetadataLog.open(
        disk(),
        DIRECTORY,
        broker_id=1,
        directory_id=disk_of(1),
        new_id=ids(),
        run_blocking=answers_late,
    )
    await join(log)
    version = log.image.version
    done.clear()
    free.clear()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(log.propose(Barrier(), TIMEOUT))
        await done.wait()
        assert log._store.journal.last_index == version + 1
        assert list(log.committed(version + 1)) == []
        free.set()
    assert [entry.index for entry in log.committed(version + 1)] == [version + 1]
    await log.close()


async def test_closing_ends_what_is_under_way_and_refuses_what_comes() -> None:
    files = disk()
    held = Held()
    log = await held_log(files, held)
    await join(log)
    held.free.clear()
    held.waiting.clear()
    async with asyncio.TaskGroup() as tasks:
        begun = tasks.create_task(log.propose(allocation(log.image), TIMEOUT))
        await held.waiting.wait()
        closing = tasks.create_task(log.close())
        await asyncio.sleep(0)
        late = await log.propose(Barrier(), TIMEOUT)
        held.free.set()
        await closing
    must(begun.result())
    assert isinstance(late, NotApplied)
    assert isinstance(await log.propose(Barrier(), TIMEOUT), NotApplied)
    await log.close()
    files.crash()
    async with opened(files, seed=1) as again:
        assert again.image.next_producer_id == 1


# --- a failing disk ------------------------------------------------------------------------------------


async def test_after_a_failed_sync_waiters_know_nothing_and_later_ones_are_not_applied() -> None:
    """Rule 40: the process has to end; `failed` tells it so."""
    files = disk()
    async with opened(files) as log:
        await join(log)
        before = log.image
        seen: list[MetadataImage] = []
        log.subscribe(seen.append)
        files.fail_next_sync(FILE)
        outcomes = await asyncio.gather(*(log.propose(allocation(before), TIMEOUT) for _ in range(3)))
        assert all(isinstance(outcome, Unknown) for outcome in outcomes)
        assert len({outcome.sequence for outcome in outcomes if isinstance(outcome, Unknown)}) == 3
        assert isinstance(await log.propose(allocation(before), TIMEOUT), NotApplied)
        assert log.image is before
        assert not seen
        with pytest.raises(MetadataLogFailed):
            await log.failed()
        with pytest.raises(MetadataLogFailed):
            await log.barrier(TIMEOUT)
    files.crash()
    async with opened(files, seed=1) as again:
        assert again.image.next_producer_id in range(4), "unknown is what it said"


async def test_a_full_disk_refuses_proposals_until_there_is_room() -> None:
    """Rule 40: it passes."""
    files = disk()
    async with opened(files) as log:
        await join(log)
        files.capacity_bytes = sum(files.list(HOME).values())
        assert isinstance(await log.propose(allocation(log.image), TIMEOUT), NotApplied)
        files.capacity_bytes = None
        assert (await do(log, allocation(log.image))).value == 0


async def test_a_callback_that_raises_ends_the_log() -> None:
    """It would miss an image; no image is taken back."""
    async with opened(disk()) as log:

        def broken(_image: MetadataImage) -> None:
            raise RuntimeError("a bug")

        log.subscribe(broken)
        assert isinstance(await log.propose(Barrier(), TIMEOUT), Unknown)
        with pytest.raises(MetadataLogFailed, match="a bug"):
            await log.failed()


# --- compaction ----------------------------------------------------------------------------------------


async def test_the_journal_stays_short_and_the_image_comes_back() -> None:
    files = disk()
    options = SoloOptions(compact_entries=10)
    async with opened(files, options=options) as log:
        await join(log)
        for _ in range(60):
            await do(log, allocation(log.image))
        assert len(log._store.journal) <= 3 * options.compact_entries
        snapshots = [name for name in files.list(HOME) if name.startswith("snapshot-")]
        assert len(snapshots) == 2
        with pytest.raises(LookupError):
            log.committed(1)
        first = log._store.journal.first_index
        assert [entry.index for entry in log.committed(first)] == list(range(first, log.image.version + 1))
        assert list(log.committed(log.image.version + 1)) == []
        assert decode_snapshot(log.snapshot().data) == log.image
        before = log.image
    files.crash()
    async with opened(files, seed=1, options=options) as log:
        assert log.image == before
        await do(log, allocation(await join(log, 2)))


async def test_a_large_journal_is_compacted_by_its_bytes() -> None:
    files = disk()
    async with opened(files, options=SoloOptions(compact_bytes=4000)) as log:
        await join(log)
        for _ in range(100):
            await do(log, allocation(log.image))
        assert files.list(HOME)[FILE.name] < 16_000
        assert any(name.startswith("snapshot-") for name in files.list(HOME))


async def test_a_compaction_without_room_is_left_for_later() -> None:
    files = disk()
    async with opened(files, options=SoloOptions(compact_entries=5)) as log:
        await join(log)
        files.capacity_bytes = sum(files.list(HOME).values()) + 900
        for _ in range(5):
            await do(log, allocation(log.image))
        files.capacity_bytes = None
        for _ in range(12):
            await do(log, allocation(log.image))
        assert log.image.next_producer_id == 17
        assert any(name.startswith("snapshot-") for name in files.list(HOME))


# --- crashes at every step -----------------------------------------------------------------------------


def registration_of(start: int) -> RegisterBroker:
    return RegisterBroker(1, id_of(f"start {start}"), disk_of(1), "a:1", "a:2", "", "0.1")


LIFE: list[Command] = [
    registration_of(1),
    topic("orders", (1,)),
    *[Barrier()] * 4,
    DeleteTopic(id_of("orders")),
    topic("billing", (1,), (1,)),
]


async def life(files: SimFiles, answered: list[MetadataImage]) -> None:
    """A broker's life, from its first start on; `answered` has the image at each answer."""
    log = await open_log(files, options=SoloOptions(compact_entries=6))
    answered.append(log.image)
    try:
        for command in LIFE:
            outcome = await log.propose(command, TIMEOUT)
            if not isinstance(outcome, Ok):
                raise SimulatedCrash
            answered.append(log.image)
    finally:
        with suppress(SimulatedCrash):
            await log.close()


async def test_a_crash_at_any_step_of_a_life_loses_nothing_that_was_answered() -> None:
    """And what was not answered is there as a whole, in its place, or not at all."""
    whole = disk()
    begun = whole.operations
    history: list[MetadataImage] = []
    await life(whole, history)
    by_version = {image.version: image for image in history}
    for operations in range(whole.operations - begun + 1):
        for seed in range(4):
            machine = disk(seed)
            machine.crash_after(operations)
            answered: list[MetadataImage] = []
            with suppress(SimulatedCrash):
                await life(machine, answered)
            if seed:
                machine.crash()
            else:
                machine.kill()
            log = await open_log(machine, seed=9)
            if log.image.cluster_id != history[0].cluster_id:
                assert not answered, "the first start had not come to its end, and this one was the first"
                await log.close()
                continue
            assert log.image == by_version[log.image.version], "an image of that history"
            if answered:
                assert log.image.version >= answered[-1].version
            await do(log, registration_of(2))
            await log.close()


async def test_the_same_proposals_make_the_same_image_however_often_it_stopped() -> None:
    """Determinism through journal, snapshot and restart."""
    images: list[MetadataImage] = []
    for starts in (1, len(LIFE)):
        files, per_start = disk(), len(LIFE) // starts
        for start in range(starts):
            async with opened(files, options=SoloOptions(compact_entries=2)) as log:
                for sequence in range(start * per_start, (start + 1) * per_start):
                    await log.propose(LIFE[sequence], TIMEOUT, sequence=sequence + 1)
                images.append(log.image)
    assert images[0] == images[-1]
    assert digest(images[0]) == digest(images[-1])


# --- the real thing ------------------------------------------------------------------------------------


async def test_on_a_real_disk_with_a_thread_it_is_the_same(tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("data")
    threads = set()

    async def in_thread(call: Callable[[], T]) -> T:
        def named() -> T:
            threads.add(threading.current_thread())
            return call()

        return await asyncio.to_thread(named)

    for start in range(3):
        log = await SoloMetadataLog.open(
            OsFiles(),
            directory,
            broker_id=1,
            directory_id=disk_of(1),
            new_id=ids(start),
            run_blocking=in_thread,
            options=SoloOptions(compact_entries=20),
        )
        await join(log, start)
        outcomes = await asyncio.gather(*(log.propose(allocation(log.image), TIMEOUT) for _ in range(50)))
        assert {must(outcome).value for outcome in outcomes} == set(range(50 * start, 50 * start + 50))
        await log.close()
    assert threading.main_thread() not in threads, "the loop is never blocked"


async def test_an_open_that_is_cancelled_gives_its_descriptor_back() -> None:
    files = disk()
    held = asyncio.Event()

    async def never_answers(call: Callable[[], T]) -> T:
        result = await inline(call)
        held.set()
        await asyncio.Event().wait()
        return result

    async def start() -> None:
        await SoloMetadataLog.open(
            files,
            DIRECTORY,
            broker_id=1,
            directory_id=disk_of(1),
            new_id=ids(),
            run_blocking=never_answers,
        )

    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(start())
        await held.wait()
        task.cancel()
    await (await open_log(files, seed=Random(1).randrange(9))).close()
