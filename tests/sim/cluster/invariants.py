"""What holds at every moment of a run, looked at from outside by somebody who sees everything.

Looked at after every round of callbacks; partitions of which nothing moved are passed over. Records below a
high watermark are compared once on each replica, and again, all of them, on each new leader.

    one-leader              one leader for each leader epoch, in one start of one broker
    monotone-hw             the high watermark does not move back within an epoch
    log-matching            below its high watermark a replica has what was committed there
    leader-completeness     a new leader has everything that was committed before it
    isr-reaches-hw          so has every registered member of ISR and ELR that is there, and cut nothing
    maximal-isr             the leader of the latest epoch counts whoever the controller may elect
    acknowledged            what is acknowledged to all is committed
    uncommitted-read        what a reader is given is committed
    log-start               a log begins where somebody had it trimmed, and not further on
    stale-leader            one that was paused, and fenced for it, acknowledges nothing (rule 39)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from millpond_broker.core.image import BrokerState, MetadataImage, PartitionImage, TopicImage
from millpond_broker.core.leader import Acks, Leader
from millpond_broker.runtime.partition import Partition
from millpond_broker.storage.log import Log
from millpond_broker.storage.scan import Unsound
from tests.sim.cluster.process import BrokerHost
from tests.sim.cluster.world import Anomaly, World

READ_BYTES: Final = 1 << 20

Key = tuple[bytes, int]


class Committed(NamedTuple):
    """A batch below a high watermark."""

    next_offset: int
    leader_epoch: int
    crc: int
    by: str
    """Who had it there first."""


@dataclass
class _Truth:
    """What is known to be committed in a partition."""

    batches: dict[int, Committed] = field(default_factory=dict)
    """By base offset."""
    has_holes: bool = False
    """Some of it could not be read where it was committed."""
    high_watermark: int = 0
    leaders: dict[int, str] = field(default_factory=dict)
    """By leader epoch, the start of a broker."""
    by_epoch: dict[int, int] = field(default_factory=dict)
    """The high watermark of each leader epoch."""


@dataclass
class _Seen:
    """What a replica was last seen with."""

    leader: Leader[Any] | None = None
    log: Log | None = None
    high_watermark: int = -1
    log_end: int = -1
    durable_end: int = -1
    compared_to: int = 0
    """The end of what was compared."""

    def is_same(self, partition: Partition) -> bool:
        """Whether nothing moved since. Asked of every replica after each round: by far the most frequent
        lines of a run.
        """
        log, leader = partition.log, partition.leader
        if leader is not self.leader or log is not self.log:
            return False
        if (partition.high_watermark if leader is None else leader.high_watermark) != self.high_watermark:
            return False
        return log is None or (log.log_end == self.log_end and log.durable_end == self.durable_end)

    def note(self, partition: Partition) -> None:
        """That is how it is now."""
        self.leader, self.log, self.high_watermark = partition.leader, partition.log, partition.high_watermark
        if partition.log is not None:
            self.log_end, self.durable_end = partition.log.log_end, partition.log.durable_end


class Invariants:
    """See the module. `look` raises Anomaly."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._truths: dict[Key, _Truth] = {}
        self._seen: dict[int, dict[Key, _Seen]] = {broker_id: {} for broker_id in world.hosts}
        self._version = 0
        self.trimmed: dict[Key, int] = {}
        """Before which offset somebody wants records gone."""
        self.only_pauses = False
        """Brokers are paused, and nothing else happens to them: then stale leaders are silent."""
        world.on_answered = self.answered
        world.on_gone.append(self._gone)

    def committed_end(self, key: Key) -> int:
        """The greatest high watermark that any leader had."""
        return self._truth(key).high_watermark

    def look(self) -> None:
        """After a round."""
        moved: dict[Key, None] = {}
        ran = self._world.loop.ran
        for host in self._world.hosts.values():
            if host.owner not in ran or host.broker is None or host.broker._partitions is None:
                continue
            seen = self._seen[host.broker_id]
            for key, partition in host.broker._partitions._held.items():
                known = seen.get(key)
                if known is None:
                    known = seen[key] = _Seen()
                if not known.is_same(partition):
                    self._look_at(host, partition, known)
                    moved[key] = None
        image = self._world.voters.snapshots[self._world.voters.last_index]
        if image.version != self._version:
            self._version = image.version
            moved = {
                (topic.topic_id, number): None
                for topic in image.topics.values()
                for number in range(len(topic.partitions))
            }
        for key in moved:
            self._look_at_members(image, key)

    # --- one replica --------------------------------------------------------------------------------------

    def _look_at(self, host: BrokerHost, partition: Partition, seen: _Seen) -> None:
        log, leader = partition.log, partition.leader
        high_watermark = partition.high_watermark
        key = partition.key
        if log is None or log.failure is not None:
            seen.note(partition)
            return
        where = f"broker {host.broker_id}, {partition.name.topic}-{partition.name.partition}"
        if leader is not None:
            self._look_at_leader(host, partition, seen, where)
        truth = self._truth(key)
        if log.log_start > self.trimmed.get(key, 0):
            told = f"{where} begins at {log.log_start}, trimmed to {self.trimmed.get(key, 0)}"
            raise Anomaly("log-start", told)
        start = max(min(seen.compared_to, log.log_end), log.log_start)
        self._compare(log, start, min(high_watermark, truth.high_watermark), truth, where)
        if leader is not None:
            self._commit(log, high_watermark, truth, where)
        seen.compared_to = max(start, high_watermark)
        seen.note(partition)

    def _look_at_leader(self, host: BrokerHost, partition: Partition, seen: _Seen, where: str) -> None:
        log, leader = partition.log, partition.leader
        assert log is not None, "it was opened"
        assert leader is not None, "it leads"
        truth = self._truth(partition.key)
        epoch, high_watermark = leader.reign.leader_epoch, leader.high_watermark
        assert host.owner is not None, "it runs"
        who = truth.leaders.setdefault(epoch, host.owner.name)
        if who != host.owner.name:
            raise Anomaly("one-leader", f"{where}: epoch {epoch} is led by {who} and {host.owner.name}")
        if epoch not in truth.by_epoch:
            self._complete(log, truth, f"{where}, new leader of epoch {epoch}")
            seen.compared_to = truth.high_watermark
        known = truth.by_epoch.get(epoch, 0)
        if high_watermark < known:
            raise Anomaly("monotone-hw", f"{where}: {high_watermark} after {known} in epoch {epoch}")
        truth.by_epoch[epoch] = high_watermark

    def _commit(self, log: Log, high_watermark: int, truth: _Truth, where: str) -> None:
        """A leader's high watermark moved: what lies below it is committed, now at the latest."""
        end = start = max(truth.high_watermark, log.log_start)
        for base, batch in _batches(log, start, high_watermark, where):
            truth.batches[base] = batch
            end = batch.next_offset
        truth.has_holes |= end < high_watermark
        truth.high_watermark = max(truth.high_watermark, high_watermark)

    def _complete(self, log: Log, truth: _Truth, where: str) -> None:
        if log.corruption is not None:
            return  # the only one there is: it serves what is sound (rule 15)
        if log.log_end < truth.high_watermark:
            told = f"{where}: its log ends at {log.log_end}, and {truth.high_watermark} is committed"
            raise Anomaly("leader-completeness", told)
        self._compare(log, log.log_start, truth.high_watermark, truth, where, name="leader-completeness")

    def _compare(
        self, log: Log, start: int, end: int, truth: _Truth, where: str, *, name: str = "log-matching"
    ) -> None:
        for base, batch in _batches(log, start, end, where):
            known = truth.batches.get(base)
            if known is None and truth.has_holes:
                known = truth.batches[base] = batch
            if known is None or known[:3] != batch[:3]:
                raise Anomaly(name, f"{where}: {batch} at {base}, where {known} was committed")

    # --- what the metadata says ---------------------------------------------------------------------------

    def _look_at_members(self, image: MetadataImage, key: Key) -> None:
        topic = image.topics.get(key[0])
        if topic is not None and key[1] < len(topic.partitions):
            state = topic.partitions[key[1]]
            self._look_at_ends(image, topic, state, key)
            self._look_at_maximal(topic, state, key)

    def _look_at_ends(self, image: MetadataImage, topic: TopicImage, state: PartitionImage, key: Key) -> None:
        if topic.config.flush != "commit":
            return
        truth = self._truth(key)
        cut = {cut.broker_id for cut in state.cuts}
        for member in (*state.isr, *state.elr):
            partition = self._registered(image, member, key)
            if member in cut or partition is None or partition.log is None:
                continue
            log = partition.log
            is_sound = log.failure is None and log.corruption is None  # who is not says so, and leaves
            if is_sound and log.durable_end < truth.high_watermark:
                told = f"broker {member} has {topic.name}-{key[1]} up to {log.durable_end}"
                raise Anomaly("isr-reaches-hw", f"{told}, and {truth.high_watermark} is committed: {state}")

    def _look_at_maximal(self, topic: TopicImage, state: PartitionImage, key: Key) -> None:
        if state.leader is None or len(state.isr) < topic.min_insync_of(len(state.replicas)):
            return
        partition = self._partition(state.leader, key)
        if partition is None or partition.leader is None:
            return
        leader = partition.leader
        if leader.reign.leader_epoch != state.leader_epoch:
            return
        missing = {*state.isr, *state.elr} - leader.in_sync.maximal
        if missing:
            told = f"{topic.name}-{key[1]}: {sorted(missing)} of {state}"
            raise Anomaly("maximal-isr", f"{told} is not in {sorted(leader.in_sync.maximal)}")

    def _registered(self, image: MetadataImage, broker_id: int, key: Key) -> Partition | None:
        """A broker's replica, if the start that runs is the one that the metadata knows."""
        partition, known = self._partition(broker_id, key), image.brokers.get(broker_id)
        broker = self._world.hosts[broker_id].broker
        if partition is None or known is None or broker is None or broker._partitions is None:
            return None
        return partition if known.incarnation == broker._partitions._options.incarnation else None

    def _partition(self, broker_id: int, key: Key) -> Partition | None:
        host = self._world.hosts[broker_id]
        if host.owner is None or host.broker is None or host.broker._partitions is None:
            return None
        return host.broker._partitions._held.get(key)

    # --- what else happens --------------------------------------------------------------------------------

    def acknowledged(self, key: Key, end: int, who: str) -> None:
        """A producer was told that everything below `end` is with all."""
        known = self._truth(key).high_watermark
        if end > known:
            raise Anomaly("acknowledged", f"{who} up to {end}, and {known} is committed")

    def was_read(self, key: Key, end: int, who: str) -> None:
        """A reader was given records up to there."""
        known = self._truth(key).high_watermark
        if end > known:
            raise Anomaly("uncommitted-read", f"{who} read up to {end}, and {known} is committed")

    def answered(self, host: BrokerHost, key: Key, acks: Acks) -> None:
        """A broker acknowledges a batch now. What all have, it may at any time."""
        leaders = self._truth(key).leaders
        if acks is not Acks.LEADER or not leaders or host.owner is None:
            return
        epoch, who = max(leaders.items())
        if who == host.owner.name:
            return
        self._world.count("stale acknowledgements")
        # Who lost a leadership otherwise has its lease, and up to a session to hear of it.
        if self.only_pauses and self._is_fenced(host):
            told = f"{host.owner.name} acknowledges to a producer what {who}, in epoch {epoch}, lacks"
            self._world.failure = self._world.failure or Anomaly("stale-leader", told)

    def _is_fenced(self, host: BrokerHost) -> bool:
        image = self._world.voters.snapshots[self._world.voters.last_index]
        broker = image.brokers.get(host.broker_id)
        return broker is not None and broker.state is BrokerState.FENCED

    def _gone(self, host: BrokerHost) -> None:
        """What the next process has is looked at anew."""
        self._seen[host.broker_id].clear()

    def _truth(self, key: Key) -> _Truth:
        return self._truths.setdefault(key, _Truth())


def _batches(log: Log, start: int, end: int, where: str) -> list[tuple[int, Committed]]:
    """The batches of a log from one offset to another, which are where batches end. Read without its reader,
    which would remember what it found; up to where a disk has gone bad.
    """
    found: list[tuple[int, Committed]] = []
    try:
        for stored in log._segments.batches_from(start, READ_BYTES) if start < end else ():
            header = stored.batch.header
            if header.base_offset >= end:
                break
            batch = Committed(header.next_offset, header.leader_epoch, header.crc, where)
            found.append((header.base_offset, batch))
    except (Unsound, OSError):
        pass
    return found
