"""A host that runs a voter, with the adapter, on a simulated disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random

from millpond.wire.errors import NotADataDirectory, StorageFull
from millpond_broker.consensus.codec import decode, encode
from millpond_broker.consensus.journal import JournalFailed
from millpond_broker.consensus.metadata_log import CommittedEntry, ProposeOutcome
from millpond_broker.consensus.raft.compaction import CompactionOptions
from millpond_broker.consensus.raft.guards import Guards
from millpond_broker.consensus.raft.voter import Voter, VoterFailed, VoterOptions
from millpond_broker.consensus.records import JournalDamaged
from millpond_broker.consensus.store import (
    FIRST_COMMAND_INDEX,
    METADATA,
    Store,
    format_directory,
    format_joiner,
)
from millpond_broker.core.commands import Envelope, InitCluster
from millpond_broker.core.commands import Voter as VoterRecord
from millpond_broker.core.image import CommandResult
from tests.sim.disk import SimFiles, SimulatedCrash
from tests.sim.raft.checker import Anomaly
from tests.sim.raft.judge import Judge
from tests.sim.raft.world import CannotStart, Ended, Host, World

DATA = Path("/data")
CLUSTER_ID = b"simulated group!"
OPTIONS = VoterOptions(compaction=CompactionOptions(entries=60, entries_max=200))
"""Snapshots are frequent: most of what goes wrong does so around them."""


def record_of(host_id: int) -> VoterRecord:
    """A voter, as others know it."""
    return VoterRecord(host_id, f"disk-{host_id}", f"host-{host_id}:1")


class VoterProcess:
    """See `world.Process`. What the voter raises becomes an end of the process, or an anomaly."""

    def __init__(self, host: VoterHost, voter: Voter) -> None:
        self.host = host
        self.voter = voter

    @property
    def leads_term(self) -> int:
        return self.voter._library.term if self.voter.is_leader else 0

    @property
    def peers(self) -> Sequence[int]:
        return sorted(self.voter.peer_addresses)

    def admits(self, peer: int) -> bool:
        if self.host.admits_all:
            return True
        other = self.host.world.hosts[peer].process
        assert isinstance(other, VoterProcess), "it runs"
        return self.voter.admit(other.voter.identity()) is None

    def tick(self) -> None:
        self._guarded(self.voter.tick)

    def receive(self, peer: int, message: bytes) -> None:
        before = self.voter.image
        self._guarded(lambda: self.voter.receive(peer, message))
        if self.voter.image is not before:  # entries are applied in ticks only
            self.host.world.count("snapshot installed")
            self.host.judge.begins(self.host.host_id, self.voter.image, is_start=False)

    def take_outgoing(self) -> Sequence[tuple[int, bytes]]:
        return self.voter.take_outgoing()

    def peer_connected(self, peer: int) -> None:
        self.voter.peer_connected(peer)

    def peer_disconnected(self, peer: int) -> None:
        self.voter.peer_disconnected(peer)

    def propose(self, data: bytes, done: Callable[[ProposeOutcome], None]) -> None:
        self.voter.propose(data, done)

    def hand_over(self) -> None:
        self._guarded(self.voter.transfer_leadership)

    def _guarded(self, action: Callable[[], object]) -> None:
        try:
            action()
        except SimulatedCrash:
            raise Ended(self.host.dies_by) from None
        except VoterFailed as failed:
            self.host.explain(failed)
            raise Ended("failed") from None


class VoterHost(Host):
    """`founders`: formatted with them in the first command; None for one that others add."""

    def __init__(
        self,
        world: World,
        judge: Judge,
        host_id: int,
        *,
        seed: int,
        founders: Sequence[int] | None,
        known: Mapping[int, str],
        guards: Guards,
        admits_all: bool = False,
        options: VoterOptions = OPTIONS,
    ) -> None:
        super().__init__(host_id)
        self.world = world
        self.judge = judge
        self.disk = SimFiles(Random(f"disk {seed} {host_id}"))
        self.dies_by = "power"
        self._random = Random(f"voter {seed} {host_id}")
        self._known = known
        self._guards = guards
        self.admits_all = admits_all
        self._directory_id = record_of(host_id).directory_id
        self._options = options
        self._voter: Voter | None = None
        self._disk_may_fail = False
        self._was_wiped = False
        self._sound: SimFiles | None = None
        """The disk as it was before a bit of it was turned."""
        self.disk.make_directory(DATA)
        self.disk.sync_directory(Path("/"))
        if founders is None:
            format_joiner(self.disk, DATA)
        else:
            voters = tuple(map(record_of, founders))
            first = encode(Envelope(CLUSTER_ID, 1, 0, InitCluster(CLUSTER_ID, voters)))
            format_directory(self.disk, DATA, first, term=1, vote=str(founders[0]))

    @property
    def is_damaged(self) -> bool:
        """A bit of its disk was turned, and it has not started since."""
        return self._sound is not None

    def boot(self) -> VoterProcess:
        store = self._open()
        try:
            voter = Voter(
                store,
                broker_id=self.host_id,
                directory_id=self._directory_id,
                now=self.world.clock,
                random=self._random,
                options=self._options,
                guards=self._guards,
                configured=self._known,
                on_applied=self._applied,
            )
        except VoterFailed as failed:
            self.explain(failed)
            raise Ended("failed") from None
        self._voter = voter
        if store.snapshot is None and voter.image.version:
            (first,) = store.journal.entries(FIRST_COMMAND_INDEX, 1)
            self.judge.formatted(CommittedEntry(first.index, first.term, decode(first.data)))
        self.judge.begins(self.host_id, voter.image, is_start=True)
        return VoterProcess(self, voter)

    def end(self, how: str) -> None:
        voter, self._voter = self._voter, None
        if voter is not None and how == "stop":
            try:
                voter.close()
            except SimulatedCrash:
                how = self.dies_by
        elif voter is not None and how == "failed":
            voter.abandon()
        if how == "power":
            self.disk.crash()
        else:
            self.disk.kill()

    def explain(self, failed: VoterFailed) -> None:
        """A voter may fail when its disk did. Raises Anomaly for any other reason."""
        cause: BaseException | None = failed
        while cause is not None:
            if isinstance(cause, Anomaly):  # found where it applied an entry
                raise cause
            if isinstance(cause, NotADataDirectory) and self._was_wiped:
                self.is_gone = True
                return
            if isinstance(cause, JournalFailed | OSError | StorageFull) and self._disk_may_fail:
                self.world.count("voter failed")
                return
            cause = cause.__cause__ or cause.__context__
        raise Anomaly("assertion", f"voter {self.host_id}: {failed}") from failed

    def _open(self) -> Store:
        try:
            store = Store.open(self.disk, DATA)
        except SimulatedCrash:
            raise Ended(self.dies_by) from None
        except JournalDamaged as damaged:
            if self._sound is None:
                raise Anomaly("refused-to-start", f"voter {self.host_id}: {damaged}") from None
            self._sound = None
            self.world.count("damage refused")
            raise CannotStart(str(damaged)) from None
        except OSError as error:
            if not self._disk_may_fail:
                raise Anomaly("assertion", f"voter {self.host_id}: {error}") from error
            raise Ended("failed") from None
        self._check_damage(store)
        return store

    def _check_damage(self, store: Store) -> None:
        """A start on a damaged disk has lost nothing."""
        if self._sound is None:
            return
        self._sound.heal()  # a clone has the faults, too
        sound, self._sound = Store.open(self._sound, DATA), None
        found, expected = store.journal, sound.journal
        first = max(found.first_index, expected.first_index)
        if (found.term, found.vote, found.entries(first)) != (
            expected.term,
            expected.vote,
            expected.entries(first),
        ):
            raise Anomaly("damage-unnoticed", f"voter {self.host_id}: a bit was turned, and entries are gone")
        expected.abandon()
        self.world.count("damage harmless")

    def _applied(self, entry: CommittedEntry, result: CommandResult) -> None:
        self.judge.applied(self.host_id, entry, result)

    def hand_over(self) -> None:
        """Let another voter lead, if this one does."""
        self.world.call(self, lambda process: process.hand_over())

    # --- faults of its disk -----------------------------------------------------------------------------

    def crash_inside(self, random: Random) -> None:
        self.dies_by = random.choice(("power", "power", "kill"))
        if self._voter is not None and random.random() < 0.5:
            self._voter.compact_soon()
        self.disk.crash_after(random.randrange(random.choice((3, 12, 60))))

    def fail_sync(self, random: Random) -> None:
        self._disk_may_fail = True
        self.disk.fail_next_sync(written=random.choice((0.0, 0.5, 1.0)))

    def fill_disk(self, random: Random) -> None:
        self._disk_may_fail = True
        used = sum(len(pages.cached) for pages in self.disk._all_pages())
        self.disk.capacity_bytes = used + random.choice((0, 500, 20_000))

    def wipe(self) -> None:
        """Somebody puts an empty disk in, under the same id, while it is down."""
        assert self._voter is None, "it is down"
        self._was_wiped = True
        self._directory_id += "-again"
        self.disk = SimFiles(self._random)
        self.disk.make_directory(DATA)
        self.disk.sync_directory(Path("/"))
        format_joiner(self.disk, DATA)

    def compact(self) -> None:
        if self._voter is not None:
            self._voter.compact_soon()

    def flip(self, random: Random) -> bool:
        if self._voter is not None:
            return False
        home = DATA / METADATA
        names = [(name, size) for name, size in sorted(self.disk.list(home).items()) if size]
        name, size = random.choice(names)
        self._sound = self.disk.clone(Random(random.random()))
        self.disk.flip_bit(home / name, random.randrange(size * 8))
        return True

    def mend_disk(self) -> None:
        self.disk.heal()
        self.disk.capacity_bytes = None
        self.disk._operations_left = None
