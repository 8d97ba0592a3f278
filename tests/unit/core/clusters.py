"""What the metadata tests build with: a log of commands on an image, and ids that one can read."""

from __future__ import annotations

from typing import Final

from millpond_broker.core.commands import (
    ClaimController,
    Command,
    CreateTopic,
    Envelope,
    InitCluster,
    PartitionChange,
    RegisterBroker,
    Voter,
)
from millpond_broker.core.image import (
    EMPTY,
    Applied,
    CommandResult,
    MetadataImage,
    PartitionImage,
    Refused,
    apply,
)
from millpond_broker.core.sessions import Session

CLUSTER: Final = b"cluster of tests"
PROPOSER: Final = b"proposer of test"


def id_of(name: str) -> bytes:
    """16 bytes that one can read."""
    return name.encode().ljust(16, b".")


def disk_of(broker_id: int) -> str:
    """The directory id of a broker."""
    return f"disk-{broker_id}"


class Cluster:
    """Applies commands one after another, as one proposer that is the controller."""

    def __init__(self, image: MetadataImage = EMPTY) -> None:
        self.image = image
        self.index = image.version
        self.sequence = 0

    def do(self, command: Command, *, epoch: int | None = None) -> CommandResult:
        """The next proposal's result."""
        self.sequence += 1
        return self.send(self.envelope(command, self.sequence, epoch=epoch))

    def envelope(self, command: Command, sequence: int, *, epoch: int | None = None) -> Envelope:
        """A proposal of that sequence."""
        return Envelope(PROPOSER, sequence, self.image.controller_epoch if epoch is None else epoch, command)

    def send(self, envelope: Envelope) -> CommandResult:
        """The result of exactly this proposal."""
        self.index += 1
        self.image, result = apply(self.image, self.index, envelope)
        return result

    def must(self, command: Command) -> Applied:
        """The result of a command that is applied."""
        result = self.do(command)
        assert isinstance(result, Applied), result
        return result

    def refused(self, command: Command, *, epoch: int | None = None) -> Refused:
        """The result of a command that is refused, and changes nothing but the version."""
        before = self.image
        result = self.do(command, epoch=epoch)
        assert isinstance(result, Refused), result
        for field in ("topics", "topic_ids", "brokers", "voters", "controller_epoch", "next_producer_id"):
            assert getattr(self.image, field) == getattr(before, field)
        return result

    def partition(self, topic: str, number: int = 0) -> PartitionImage:
        """One partition now."""
        return self.image.topics[self.image.topic_ids[topic]].partitions[number]


def registration(broker_id: int, *, start: int = 1, directory_id: str | None = None) -> RegisterBroker:
    """What a broker says at its start number `start`."""
    return RegisterBroker(
        broker_id=broker_id,
        incarnation=id_of(f"start-{broker_id}-{start}"),
        directory_id=directory_id or disk_of(broker_id),
        address=f"host-{broker_id}:7070",
        peer_address=f"host-{broker_id}:7071",
        rack="",
        version="0.1",
    )


def cluster(*brokers: int) -> Cluster:
    """A cluster with these brokers running, the first of them its only voter and controller."""
    made = Cluster()
    made.must(InitCluster(CLUSTER, (Voter(brokers[0], disk_of(brokers[0])),)))
    for broker_id in brokers:
        made.must(registration(broker_id))
    made.must(ClaimController(brokers[0], 1))
    return made


def alive(image: MetadataImage, *brokers: int, at_ms: int = 0) -> dict[int, Session]:
    """Open sessions of these brokers since then, which have all the metadata. Unknown brokers have a session
    of nothing.
    """
    epochs = {key: broker.epoch for key, broker in image.brokers.items()}
    return {
        key: Session(epochs.get(key, 0), at_ms, applied_index=image.version, is_heard=True) for key in brokers
    }


def topic(
    name: str, *assignments: tuple[int, ...], min_insync: int = 1, config: dict[str, str] | None = None
) -> CreateTopic:
    """A topic with these replicas."""
    return CreateTopic(
        topic_id=id_of(name),
        name=name,
        replicas=len(assignments[0]),
        min_insync=min_insync,
        config=tuple((config or {}).items()),
        assignments=assignments,
    )


def change(name: str, old: PartitionImage, number: int = 0, **to: object) -> PartitionChange:
    """A change of a partition that is otherwise as it was."""
    values = {
        "leader": old.leader,
        "leader_epoch": old.leader_epoch,
        "isr": old.isr,
        "elr": old.elr,
        "partition_epoch_seen": old.partition_epoch,
    }
    return PartitionChange(topic_id=id_of(name), partition=number, **{**values, **to})  # type: ignore[arg-type]  # by field
