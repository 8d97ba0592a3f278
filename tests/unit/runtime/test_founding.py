"""Three voters with empty directories become one cluster, whatever crashes and is wiped on the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random

import pytest

from millpond.wire.errors import NotADataDirectory, StorageFailed
from millpond_broker.consensus.codec import decode, encode
from millpond_broker.consensus.store import FIRST_COMMAND_INDEX, Store, is_formatted
from millpond_broker.core.commands import AddVoter, Barrier, Command, Envelope, InitCluster
from millpond_broker.core.image import EMPTY, MetadataImage, apply
from millpond_broker.runtime.control_messages import Asked, Found, Founded, Replied
from millpond_broker.runtime.founding import Founding, FoundingOptions, answer_found
from millpond_broker.runtime.peers import Peer, PeerStream, Purpose, StreamClosed
from millpond_broker.storage.directory import DataDirectory
from tests.sim.disk import SimFiles, SimulatedCrash
from tests.unit.runtime.brokers import Inline
from tests.unit.runtime.streams import MemoryStreams, Network

DATA = Path("/data")
VOTERS = ((1, "a:1"), (2, "b:1"), (3, "c:1"))
SECONDS_MAX = 10.0


class Starter:
    """One voter: its disk, and what runs of it at its present start."""

    def __init__(
        self, network: Network, broker_id: int, voters: tuple[tuple[int, str], ...] = VOTERS
    ) -> None:
        self.network = network
        self.broker_id = broker_id
        self.voters = voters
        self.files = SimFiles(Random(broker_id))
        self.starts = 0
        self.image: MetadataImage = EMPTY
        self.directory: DataDirectory | None = None
        self.streams: MemoryStreams | None = None
        self.founding: Founding
        self.task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """As a broker does: directory, streams, founding, metadata."""
        self.starts += 1
        start = self.starts
        own_id = f"disk-{self.broker_id}-{start}"
        directory = DataDirectory.open(self.files, DATA, role="broker", new_id=own_id)
        self.directory, self.image = directory, EMPTY
        self.streams = MemoryStreams(self.network, dict(VOTERS)[self.broker_id])

        def me() -> Peer:
            cluster_id = self.image.cluster_id or b""
            return Peer(self.broker_id, directory.directory_id, bytes([start]) * 16, cluster_id)

        options = FoundingOptions(broker_id=self.broker_id, voters=self.voters, ask_seconds=0.001)
        self.founding = Founding(
            options,
            self.files,
            self.streams,
            disk=Inline(),
            new_id=lambda: bytes([16 * self.broker_id + start]) * 16,
        )
        self.streams.serve(Purpose.CONTROL, self._serve)
        await self.streams.start(me, self._admit)
        self.task = asyncio.create_task(self._found(directory))

    def _admit(self, peer: Peer) -> str | None:
        voter = self.image.voters.get(peer.broker_id)
        if voter is None or voter.directory_id == peer.directory_id:
            return None
        return f"broker {peer.broker_id} has another disk; a broker with a new disk needs a new id"

    async def _serve(self, stream: PeerStream) -> None:
        while True:
            for message in await stream.receive():
                assert isinstance(message, Asked)
                assert isinstance(message.question, Found)
                answer = self.founding.founded(stream.peer, message.question)
                stream.send(Replied(message.number, answer))

    async def _found(self, directory: DataDirectory) -> None:
        await self.founding.make_formatted(directory)
        store = Store.open(self.files, DATA)
        image = EMPTY
        for entry in store.journal.entries(FIRST_COMMAND_INDEX):
            image, _ = apply(image, entry.index, decode(entry.data))
        store.journal.close()
        self.image = image
        self.founding.follow(lambda: self.image)

    def go_on(self, command: Command | None = None) -> None:
        """Something was decided since the founding."""
        envelope = Envelope(b"p" * 16, self.image.version, 0, command or Barrier())
        self.image, _ = apply(self.image, self.image.version + 1, envelope)

    async def founded(self) -> None:
        """Wait for it; raises what it failed with."""
        assert self.task is not None
        async with asyncio.timeout(SECONDS_MAX):
            await asyncio.shield(self.task)

    async def end(self) -> None:
        """As a killed process does."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait([self.task])
            if not self.task.cancelled():
                self.task.exception()
        if self.streams is not None:
            await self.streams.close()
        if self.directory is not None:
            self.directory.close()
        self.task = self.streams = self.directory = None

    async def crash(self) -> None:
        """As its machine does."""
        await self.end()
        self.files.crash()

    async def wipe(self) -> None:
        """A new, empty disk under the same id."""
        await self.end()
        self.files = SimFiles(Random(self.broker_id + 100))


@asynccontextmanager
async def starters(*broker_ids: int) -> AsyncIterator[list[Starter]]:
    network = Network()
    made = [Starter(network, broker_id) for broker_id in broker_ids]
    try:
        yield made
    finally:
        for one in made:
            await one.end()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS_MAX):
        while not condition():
            await asyncio.sleep(0.001)


async def turns(count: int = 50) -> None:
    """So many rounds of questions."""
    for _ in range(count):
        await asyncio.sleep(0.001)


def check_one_cluster(voters: list[Starter]) -> None:
    assert len({one.image.cluster_id for one in voters}) == 1
    assert voters[0].image.cluster_id
    for one in voters:
        assert one.directory is not None
        assert one.image.voters[one.broker_id].directory_id == one.directory.directory_id
        assert one.image.feature_level == 2
        assert {known.broker_id: known.address for known in one.image.voters.values()} == dict(VOTERS)


# --- the usual way ---------------------------------------------------------------------------------------


async def test_three_empty_voters_become_one_cluster_in_whatever_order_they_start() -> None:
    for order in ((1, 2, 3), (3, 2, 1), (2, 3, 1)):
        async with starters(*order) as made:
            for one in made:
                assert not any(is_formatted(other.files, DATA) for other in made)
                await one.start()
                await turns(5)
            for one in made:
                await one.founded()
            check_one_cluster(made)


async def test_all_begin_with_the_same_entries_term_and_vote() -> None:
    async with starters(1, 2, 3) as made:
        for one in made:
            await one.start()
        for one in made:
            await one.founded()
        logs = []
        for one in made:
            store = Store.open(one.files, DATA)
            logs.append((store.journal.entries(1), store.journal.term, store.journal.vote))
            store.journal.close()
        assert logs[0] == logs[1] == logs[2]


async def test_nothing_is_founded_while_one_is_missing() -> None:
    async with starters(1, 2) as made:
        for one in made:
            await one.start()
        await turns()
        assert not any(is_formatted(one.files, DATA) for one in made)


async def test_nothing_is_founded_with_a_voter_that_is_configured_with_others() -> None:
    async with starters(1, 2, 3) as made:
        made[2].voters = ((1, "a:1"), (3, "c:1"))
        for one in made:
            await one.start()
        await turns()
        assert not any(is_formatted(one.files, DATA) for one in made)
        await made[2].end()
        made[2].voters = VOTERS
        await made[2].start()
        for one in made:
            await one.founded()
        check_one_cluster(made)


# --- crashes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("victim", [0, 1, 2])
async def test_a_crash_at_any_write_of_any_voter_leaves_one_cluster(victim: int) -> None:
    for operations in range(1, 60):
        async with starters(1, 2, 3) as made:
            for one in made:
                await one.start()  # the directory itself is made before: it has tests of its own
                if one is made[victim]:
                    one.files.crash_after(operations)
            crashed = asyncio.create_task(_crashed(made[victim]))
            await crashed
            if not crashed.result():
                for one in made:
                    await one.founded()
                break
            await made[victim].crash()
            await turns(5)
            await made[victim].start()
            for one in made:
                await one.founded()
            check_one_cluster(made)
    else:
        pytest.fail("the founding never got through")
    assert operations > 3


async def _crashed(one: Starter) -> bool:
    """Whether it came to a crash, and not to its founding."""
    assert one.task is not None
    await asyncio.wait([one.task], timeout=SECONDS_MAX)
    return isinstance(one.task.exception(), SimulatedCrash)


async def test_the_first_command_is_told_again_after_a_crash_of_all() -> None:
    async with starters(1, 2, 3) as made:
        network = made[0].network
        for one in made:
            await one.start()
        await made[0].founded()
        network.cut = {2, 3}
        for one in made:
            await one.crash()
        network.cut = set()
        for one in reversed(made):
            await one.start()
        for one in made:
            await one.founded()
        check_one_cluster(made)


async def test_any_voter_tells_one_that_missed_the_founding() -> None:
    async with starters(1, 2, 3) as made:
        for one in made:
            await one.start()
        await until(lambda: is_formatted(made[0].files, DATA))
        made[0].network.cut = {3}
        await made[0].founded()
        await made[1].founded()
        await made[0].end()
        made[0].network.cut = set()
        await made[2].founded()
        check_one_cluster([made[1], made[2]])


# --- voters that come late, and disks that were wiped ----------------------------------------------------


async def test_a_voter_that_missed_the_founding_begins_with_nothing_once_more_has_happened() -> None:
    async with starters(1, 2, 3) as made:
        late = made[2]
        await late.start()
        assert late.directory is not None
        own_id = late.directory.directory_id
        for one in made[:2]:
            await one.start()
        await made[0].founded()
        if not is_formatted(late.files, DATA):
            await late.end()
        await made[1].founded()
        for one in made[:2]:
            one.go_on()
        if late.task is None:
            await late.start()
        await late.founded()
        assert late.directory is not None
        assert late.directory.directory_id == own_id
        answer = answer_found(made[0].image, Peer(3, own_id, b"i" * 16, b""))
        assert answer.first is not None
        assert isinstance(decode(answer.first).command, AddVoter)


async def test_a_voter_that_begins_with_nothing_does_not_pass_for_an_empty_one() -> None:
    assert answer_found(EMPTY, Peer(2, "d", b"i" * 16, b"")).refused is not None


@pytest.mark.parametrize("goes_on", [False, True])
@pytest.mark.parametrize("victim", [0, 1, 2])
async def test_a_wiped_disk_under_an_old_id_is_refused(victim: int, *, goes_on: bool) -> None:
    async with starters(1, 2, 3) as made:
        for one in made:
            await one.start()
        for one in made:
            await one.founded()
        for one in made if goes_on else ():
            one.go_on()
        await made[victim].wipe()
        await made[victim].start()
        with pytest.raises(NotADataDirectory, match="a broker with a new disk needs a new id"):
            await made[victim].founded()
        assert not is_formatted(made[victim].files, DATA)


async def test_the_place_of_another_disk_is_not_taken_even_if_nobody_checks_at_the_door() -> None:
    async with starters(1, 2, 3) as made:
        for one in made:
            await one.start()
        for one in made:
            await one.founded()
            assert one.streams is not None
            one.streams.admit = lambda _: None
        await made[1].wipe()
        await made[1].start()
        with pytest.raises(NotADataDirectory, match="disk-2-1, not disk-2-2"):
            await made[1].founded()


async def test_a_founder_wiped_before_anybody_took_its_command_founds_anew() -> None:
    async with starters(1, 2, 3) as made:
        for one in made:
            await one.start()
        await until(lambda: is_formatted(made[0].files, DATA))
        made[0].network.cut = {1}
        if any(is_formatted(one.files, DATA) for one in made[1:]):
            pytest.skip("somebody was quicker")
        await made[0].wipe()
        made[0].network.cut = set()
        await made[0].start()
        for one in made:
            await one.founded()
        check_one_cluster(made)


async def test_metadata_that_are_gone_below_partitions_are_not_founded_anew() -> None:
    async with starters(1) as (one,):
        directory = DataDirectory.open(one.files, DATA, role="broker", new_id="d")
        one.files.make_directory(directory.partitions / "t-0-x")
        directory.close()
        await one.start()
        with pytest.raises(NotADataDirectory, match="its metadata are gone"):
            await one.founded()


async def test_a_disk_that_fails_says_so() -> None:
    async with starters(1, 2, 3) as made:
        for one in made:
            await one.start()
        made[1].files.fail_next_sync()
        with pytest.raises(StorageFailed):
            await made[1].founded()


# --- answers ---------------------------------------------------------------------------------------------


async def test_who_is_no_voter_is_told_that_there_is_a_cluster_without_it() -> None:
    async with starters(1, 2, 3) as made:
        for one in made:
            await one.start()
        for one in made:
            await one.founded()
        answer = answer_found(made[0].image, Peer(4, "d", b"i" * 16, b""))
        assert answer.first is None
        assert answer.refused is not None
        assert "no voter" in answer.refused
        assert answer.without_you


async def test_who_comes_to_a_cluster_that_was_founded_without_it_founds_none_and_waits_for_none() -> None:
    """Rule 44: it follows, and may be added later, however it is configured."""
    async with starters(1, 2, 3) as made:
        for one in made[:2]:
            one.voters = VOTERS[:2]
            await one.start()
        for one in made[:2]:
            await one.founded()
        late = made[2]
        await late.start()
        assert late.task is not None
        late.task.cancel()  # which would go on to a voter's log
        await asyncio.wait([late.task])
        assert late.directory is not None
        async with asyncio.timeout(SECONDS_MAX):
            await late.founding.make_formatted(late.directory)
        assert not is_formatted(late.files, DATA)
        assert late.streams is not None
        question = Found(VOTERS)
        assert late.founding.founded(Peer(1, "d", b"i" * 16, b""), question).refused == "it is starting"


async def test_a_first_command_without_a_place_for_this_voter_is_not_taken() -> None:
    async with starters(1, 2) as made:
        stranger = encode(Envelope(b"c" * 16, 1, 0, InitCluster(b"c" * 16, (), 2)))

        async def serve(stream: PeerStream) -> None:
            for message in await stream.receive():
                stream.send(Replied(message.number, Founded(stranger)))
            with suppress(StreamClosed):
                await stream.receive()

        await made[0].start()
        await made[1].start()
        await turns(5)
        assert made[1].streams is not None
        made[1].streams.serve(Purpose.CONTROL, serve)
        await turns()
        assert not is_formatted(made[0].files, DATA)
