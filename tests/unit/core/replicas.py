"""What the tests of replication's metadata build with: a cluster of level 2, and words for what goes on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from millpond_broker.core.commands import (
    AlterPartitions,
    BrokerStart,
    ClaimController,
    CutReport,
    Election,
    ElectionKind,
    ElectLeaders,
    FenceBroker,
    FinishReassignments,
    GiveUp,
    GiveUpPartitions,
    InitCluster,
    InSyncChange,
    InSyncMember,
    PartitionSeen,
    RaiseFeatureLevel,
    Reassignment,
    ReassignPartitions,
    StopBroker,
    UnfenceBroker,
    Voter,
)
from millpond_broker.core.controller import PlanOptions, plan
from millpond_broker.core.image import Applied, CommandResult, PartitionImage, Refused
from millpond_broker.core.sessions import Session
from tests.unit.core.clusters import CLUSTER, Cluster, disk_of, id_of, registration

ORDERS = id_of("orders")


class Replicated(Cluster):
    """A cluster whose brokers come and go. Partitions are those of "orders" unless another topic is named."""

    def epoch(self, broker_id: int) -> int:
        """Of the latest start."""
        return self.image.brokers[broker_id].epoch

    def start(
        self,
        broker_id: int,
        number: int = 1,
        *,
        previous_epoch: int | None = None,
        cuts: Iterable[tuple[int, int | None, int]] = (),
        rack: str = "",
    ) -> CommandResult:
        """A broker registers, after a clean stop unless another `previous_epoch` is given; `cuts` are
        (partition, last epoch, end).
        """
        known = self.image.brokers.get(broker_id)
        clean = 0 if known is None else known.epoch
        reports = tuple(CutReport(ORDERS, partition, epoch, end) for partition, epoch, end in cuts)
        return self.do(
            replace(
                registration(broker_id, start=number),
                feature_level=2,
                previous_epoch=clean if previous_epoch is None else previous_epoch,
                cuts=reports,
                rack=rack,
            )
        )

    def fence(self, *brokers: int) -> None:
        for broker_id in brokers:
            self.must(FenceBroker(broker_id, self.epoch(broker_id)))

    def unfence(self, *brokers: int) -> None:
        for broker_id in brokers:
            self.must(UnfenceBroker(broker_id, self.epoch(broker_id)))

    def stop(self, broker_id: int) -> None:
        self.must(StopBroker(broker_id, self.epoch(broker_id)))

    def restart(
        self,
        broker_id: int,
        number: int = 2,
        *,
        previous_epoch: int | None = None,
        cuts: Iterable[tuple[int, int | None, int]] = (),
    ) -> None:
        """Fenced, and there again as another start, not yet unfenced."""
        self.fence(broker_id)
        result = self.start(broker_id, number, previous_epoch=previous_epoch, cuts=cuts)
        assert isinstance(result, Applied), result

    def in_sync(
        self, *isr: int, by: int | None = None, number: int = 0, unseated: tuple[int, ...] = (), **of: int
    ) -> Refused | None:
        """The leader asks for this ISR; what of it was refused."""
        old = self.partition("orders", number)
        sender = by or old.leader or 0
        change = InSyncChange(
            ORDERS,
            number,
            of.get("leader_epoch", old.leader_epoch),
            of.get("seen", old.partition_epoch),
            tuple(
                InSyncMember(
                    member,
                    of.get("member_epoch") or self.epoch_or_none(member),
                    of.get("stated_in", old.partition_epoch),
                )
                for member in isr
            ),
            unseated,
        )
        return only(self.must(AlterPartitions(sender, self.epoch(sender), (change,))))

    def epoch_or_none(self, broker_id: int) -> int:
        broker = self.image.brokers.get(broker_id)
        return 0 if broker is None else broker.epoch

    def give_up(self, broker_id: int, *, leaves: bool, number: int = 0) -> Refused | None:
        seen = self.partition("orders", number).partition_epoch
        item = GiveUp(ORDERS, number, seen, leaves)
        return only(self.must(GiveUpPartitions(broker_id, self.epoch(broker_id), (item,))))

    def elect(self, leader: int, kind: ElectionKind | int, number: int = 0) -> Refused | None:
        seen = self.partition("orders", number).partition_epoch
        return only(self.must(ElectLeaders((Election(ORDERS, number, leader, seen, kind),))))

    def reassign(self, *replicas: int, number: int = 0) -> Refused | None:
        seen = self.partition("orders", number).partition_epoch
        return only(self.must(ReassignPartitions((Reassignment(ORDERS, number, replicas, seen),))))

    def finish(self, number: int = 0) -> Refused | None:
        seen = self.partition("orders", number).partition_epoch
        return only(self.must(FinishReassignments((PartitionSeen(ORDERS, number, seen),))))

    def sessions(self, *brokers: int, at_ms: int = 0) -> dict[int, Session]:
        """Open sessions of these brokers, which have all the metadata."""
        return {
            key: Session(self.epoch(key), at_ms, self.image.version, feature_level=2, is_heard=True)
            for key in brokers
        }

    def control(
        self, *live: int, now_ms: int = 0, options: PlanOptions | None = None, rounds: int = 9
    ) -> None:
        """What a controller does while these are alive, until it has nothing to do; all of it applies."""
        commands = plan(self.image, self.sessions(*live), now_ms, options)
        for _ in range(rounds):
            for command in commands:
                assert self.must(command).value in (None, ()), command
            commands = plan(self.image, self.sessions(*live), now_ms, options)
        assert not commands, f"there is always something to do: {commands}"

    @property
    def says(self) -> str:
        """Partition 0 in one line."""
        return said(self.partition("orders"))


def said(state: PartitionImage) -> str:
    """A partition in a line that one can read: leader and its epoch, ISR, ELR, and what is rare."""

    def names(members: Iterable[int]) -> str:
        return ",".join(map(str, members)) or "-"

    words = [f"leader {state.leader or '-'} in {state.leader_epoch}", f"isr {names(state.isr)}"]
    words += [f"elr {names(state.elr)}"] if state.elr else []
    words += [f"last {state.last_leader}"] if state.last_leader is not None else []
    words += [f"cut {names(cut.broker_id for cut in state.cuts)}"] if state.cuts else []
    words += ["recovering"] if state.is_recovering else []
    words += ["offline"] if state.is_offline else []
    words += [f"adding {names(state.adding)}"] if state.adding else []
    words += [f"removing {names(state.removing)}"] if state.removing else []
    return ", ".join(words)


def only(result: Applied) -> Refused | None:
    """What was refused of a command with one item."""
    assert isinstance(result.value, tuple)
    return result.value[0].refused if result.value else None


def replicated(*brokers: int) -> Replicated:
    """A cluster of level 2 in which these brokers run; the first is voter and controller."""
    made = Replicated()
    made.must(InitCluster(CLUSTER, (Voter(brokers[0], disk_of(brokers[0])),), 2))
    made.must(ClaimController(brokers[0], 1))
    for broker_id in brokers:
        made.start(broker_id)
        made.unfence(broker_id)
    return made


def raised(made: Cluster) -> None:
    """A cluster of level 1 at level 2."""
    starts = tuple(BrokerStart(key, broker.epoch) for key, broker in made.image.brokers.items())
    made.must(RaiseFeatureLevel(2, starts))
