"""What the tests of the metadata log build with: a log on a simulated disk, and a broker's commands."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Final, TypeVar

from millpond_broker.consensus.metadata_log import Ok, ProposeOutcome
from millpond_broker.consensus.solo import SoloMetadataLog, SoloOptions
from millpond_broker.core.commands import AllocateProducerIds, ClaimController, Command
from millpond_broker.core.controller import plan
from millpond_broker.core.image import Applied, MetadataImage
from millpond_broker.storage.files import Files
from tests.unit.consensus.builders import DIRECTORY
from tests.unit.core.clusters import alive, disk_of, registration

T = TypeVar("T")
BROKER: Final = 1
TIMEOUT: Final = 20.0
"""For what takes no time at all."""


async def inline(call: Callable[[], T]) -> T:
    """Blocks the loop instead: the simulated disk belongs to one thread."""
    return call()


def ids(seed: int = 0) -> Callable[[], bytes]:
    """Ids from a seed."""
    random = Random(seed)
    return lambda: random.randbytes(16)


async def open_log(
    files: Files,
    *,
    seed: int = 0,
    broker_id: int = BROKER,
    directory_id: str = disk_of(BROKER),
    options: SoloOptions | None = None,
) -> SoloMetadataLog:
    """The log of a broker's start."""
    return await SoloMetadataLog.open(
        files,
        DIRECTORY,
        broker_id=broker_id,
        directory_id=directory_id,
        new_id=ids(seed),
        run_blocking=inline,
        options=options,
    )


@asynccontextmanager
async def opened(
    files: Files, *, seed: int = 0, options: SoloOptions | None = None
) -> AsyncIterator[SoloMetadataLog]:
    """The log, closed at the end, in whatever state it is then."""
    log = await open_log(files, seed=seed, options=options)
    try:
        yield log
    finally:
        await log.close()


def must(outcome: ProposeOutcome) -> Applied:
    """The result of a proposal that was applied."""
    assert isinstance(outcome, Ok), outcome
    assert isinstance(outcome.result, Applied), outcome.result
    return outcome.result


async def do(log: SoloMetadataLog, command: Command) -> Applied:
    """Propose a command that is applied."""
    return must(await log.propose(command, TIMEOUT))


async def join(log: SoloMetadataLog, start: int = 1) -> MetadataImage:
    """What a broker does at its start number `start`."""
    await do(log, registration(BROKER, start=start))
    await do(log, ClaimController(BROKER, log.term))
    for command in plan(log.image, alive(log.image, BROKER), 0):
        await do(log, command)
    return log.image


def allocation(image: MetadataImage, count: int = 1) -> AllocateProducerIds:
    """A command that gives a different value each time it is applied."""
    return AllocateProducerIds(BROKER, image.brokers[BROKER].epoch, count)
