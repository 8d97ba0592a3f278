"""The cluster's metadata as a deterministic state machine: `apply` is the only thing that changes it.

Every voter applies the same commands in the same order and must come to the same image, in every version of
this program that can read them. So `apply` reads no clock and draws nothing, iterates nothing unordered, and
never fails for a command that could be decoded: what it refuses, it refuses as a value, everywhere alike. An
exception here is a bug of ours, and ends the process before images part ways. A change of what `apply` does
with a command that may be in somebody's log needs a new feature level.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from millpond.wire.errors import (
    FencedEpoch,
    InternalError,
    InvalidRequest,
    MillpondError,
    UnsupportedFormat,
)
from millpond_broker.core import broker_commands, replication_commands, topic_commands
from millpond_broker.core.commands import (
    FEATURE_LEVEL,
    ID_BYTES,
    REPLICATION_LEVEL,
    AddPartitions,
    AddVoter,
    AllocateProducerIds,
    AlterPartitions,
    Barrier,
    ChangePartitions,
    ClaimController,
    Command,
    CreateTopic,
    DeleteTopic,
    ElectLeaders,
    Envelope,
    FenceBroker,
    FinishReassignments,
    GiveUpPartitions,
    InitCluster,
    RaiseFeatureLevel,
    ReassignPartitions,
    RegisterBroker,
    RemoveVoter,
    SetTopicConfig,
    StopBroker,
    Undecodable,
    UnfenceBroker,
)
from millpond_broker.core.results import Applied, CommandResult, Refused, RefusedItem
from millpond_broker.core.snapshot import digest, from_snapshot, to_snapshot
from millpond_broker.core.state import (
    EMPTY,
    BrokerImage,
    BrokerState,
    MetadataImage,
    PartitionImage,
    ProposerImage,
    TopicImage,
    frozen,
)

__all__ = [
    "EMPTY",
    "Applied",
    "BrokerImage",
    "BrokerState",
    "CommandResult",
    "MetadataImage",
    "PartitionImage",
    "ProposerImage",
    "Refused",
    "RefusedItem",
    "TopicImage",
    "apply",
    "digest",
    "from_snapshot",
    "to_snapshot",
]

PROPOSERS_MAX: Final = 64
"""Proposers whose results are kept. Each start of a broker is one, and two where its log proposes barriers: a
cluster of twenty may start anew whole and be remembered. A retry comes within seconds."""
RESULTS_REMEMBERED: Final = 256
"""Results kept of each proposer: as many as it has in flight at once, so that any of them can be retried."""
PROPOSAL_TOO_OLD: Final = "this proposal is too old for its outcome to be known"

_FREE_OF_EPOCH: Final = (InitCluster, ClaimController, Barrier, AddVoter, RemoveVoter)
"""Commands that need no controller."""

LEVEL_OF: Final[dict[type, int]] = {
    FenceBroker: REPLICATION_LEVEL,
    UnfenceBroker: REPLICATION_LEVEL,
    StopBroker: REPLICATION_LEVEL,
    AlterPartitions: REPLICATION_LEVEL,
    GiveUpPartitions: REPLICATION_LEVEL,
    ElectLeaders: REPLICATION_LEVEL,
    ReassignPartitions: REPLICATION_LEVEL,
    FinishReassignments: REPLICATION_LEVEL,
}
"""From which feature level on a command has an effect, where that is not the first."""

_Handler = Callable[[MetadataImage, int, Any], tuple[MetadataImage, Applied]]


def _undecodable(_image: MetadataImage, _index: int, command: Undecodable) -> tuple[MetadataImage, Applied]:
    raise UnsupportedFormat(what=command.reason)


def _barrier(image: MetadataImage, _index: int, _command: Barrier) -> tuple[MetadataImage, Applied]:
    return image, Applied()


HANDLERS: Final[dict[type, _Handler]] = {
    InitCluster: broker_commands.init_cluster,
    RegisterBroker: broker_commands.register_broker,
    ClaimController: broker_commands.claim_controller,
    AllocateProducerIds: broker_commands.allocate_producer_ids,
    CreateTopic: topic_commands.create_topic,
    DeleteTopic: topic_commands.delete_topic,
    AddPartitions: topic_commands.add_partitions,
    SetTopicConfig: topic_commands.set_topic_config,
    ChangePartitions: topic_commands.change_partitions,
    Barrier: _barrier,
    AddVoter: broker_commands.add_voter,
    RemoveVoter: broker_commands.remove_voter,
    RaiseFeatureLevel: broker_commands.raise_feature_level,
    FenceBroker: broker_commands.fence_broker,
    UnfenceBroker: broker_commands.unfence_broker,
    StopBroker: broker_commands.stop_broker,
    AlterPartitions: replication_commands.alter_partitions,
    GiveUpPartitions: replication_commands.give_up_partitions,
    ElectLeaders: replication_commands.elect_leaders,
    ReassignPartitions: replication_commands.reassign_partitions,
    FinishReassignments: replication_commands.finish_reassignments,
    Undecodable: _undecodable,
}
"""What each command does. A handler raises a MillpondError to refuse; it has changed nothing then."""


def apply(image: MetadataImage, index: int, envelope: Envelope) -> tuple[MetadataImage, CommandResult]:
    """The next image, whose version is `index`, and what the command gave. Indexes grow, not by one each:
    entries that are no commands have some.
    """
    assert index > image.version, "commands are applied once, in order"
    envelope = _as_its_level_reads_it(image, envelope)
    known = earlier_result(image, envelope)
    if known is not None:
        return replace(image, version=index), known
    changed, result = _execute(image, index, envelope)
    if not _leaves_no_trace(image, envelope.command, result):
        changed = replace(changed, proposers=frozen(_remember(image, index, envelope, result)))
    return replace(changed, version=index), result


def _as_its_level_reads_it(image: MetadataImage, envelope: Envelope) -> Envelope:
    """A command that comes too early is what it is to versions that do not know it: bytes."""
    command = envelope.command
    if image.feature_level >= level_of(command):
        return envelope
    # The words of the decoder: a result of these is told, and never kept.
    return replace(
        envelope, command=Undecodable("a command, or a field of one, that this version does not know")
    )


def level_of(command: Command | Undecodable) -> int:
    """The feature level that a command needs, with the fields that are set in it."""
    match command:
        case RegisterBroker(feature_level=0, previous_epoch=0, cuts=()):
            return 0
        case RegisterBroker():
            return REPLICATION_LEVEL
        case SetTopicConfig():
            return 0 if command.min_insync is None else REPLICATION_LEVEL
        case _:
            return LEVEL_OF.get(type(command), 0)


def _leaves_no_trace(image: MetadataImage, command: Command | Undecodable, result: CommandResult) -> bool:
    """Whether nothing is remembered of a proposal: of bytes, whose proposer may be part of what is wrong;
    and of a level that was not raised, which other voters may not even be able to read.
    """
    is_refused_level = isinstance(command, RaiseFeatureLevel) and isinstance(result, Refused)
    return isinstance(command, Undecodable) or (is_refused_level and image.feature_level < REPLICATION_LEVEL)


def _execute(image: MetadataImage, index: int, envelope: Envelope) -> tuple[MetadataImage, CommandResult]:
    command = envelope.command
    try:
        _check_envelope(image, envelope)
        return HANDLERS[type(command)](image, index, command)
    except MillpondError as error:
        return image, Refused.of(error)


def _check_envelope(image: MetadataImage, envelope: Envelope) -> None:
    command, epoch = envelope.command, envelope.controller_epoch
    if isinstance(command, Undecodable):
        return
    if len(envelope.proposer) != ID_BYTES or envelope.sequence < 1:
        raise InvalidRequest(reason="a proposal is named by 16 bytes and a sequence from 1 on")
    if not isinstance(command, InitCluster) and image.cluster_id is None:
        raise InvalidRequest(reason="there is no cluster yet")
    if image.feature_level > FEATURE_LEVEL:
        raise UnsupportedFormat(what=f"feature level {image.feature_level}; this version has {FEATURE_LEVEL}")
    if isinstance(command, _FREE_OF_EPOCH):
        return
    if epoch < image.controller_epoch:
        raise FencedEpoch(epoch=epoch, current=image.controller_epoch)
    if epoch > image.controller_epoch:
        raise InvalidRequest(reason=f"controller epoch {epoch} has not been claimed")


# --- retries (rule 12: whatever its outcome was, a proposal counts once) -------------------------------


def earlier_result(image: MetadataImage, envelope: Envelope) -> CommandResult | None:
    """What this very proposal gave before; None if it is new."""
    proposer = image.proposers.get(envelope.proposer)
    if proposer is None or isinstance(envelope.command, Undecodable):
        return None
    if envelope.sequence < proposer.forgotten_below:
        return Refused.of(InternalError(reason=PROPOSAL_TOO_OLD))
    return next((result for sequence, result in proposer.results if sequence == envelope.sequence), None)


def _remember(
    image: MetadataImage, index: int, envelope: Envelope, result: CommandResult
) -> dict[bytes, ProposerImage]:
    proposers = dict(image.proposers)
    if len(envelope.proposer) != ID_BYTES or envelope.sequence < 1:
        return proposers
    known = proposers.get(envelope.proposer)
    results = [*(known.results if known else ()), (envelope.sequence, result)]
    results.sort(key=lambda entry: entry[0])
    dropped, kept = results[:-RESULTS_REMEMBERED], results[-RESULTS_REMEMBERED:]
    forgotten_below = dropped[-1][0] + 1 if dropped else known.forgotten_below if known else 0
    proposers[envelope.proposer] = ProposerImage(index, forgotten_below, tuple(kept))
    if len(proposers) > PROPOSERS_MAX:
        # Indexes are distinct, so that every voter forgets the same one.
        del proposers[min(proposers, key=lambda name: proposers[name].last_index)]
    return proposers
