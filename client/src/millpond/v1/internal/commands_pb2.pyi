from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Envelope(_message.Message):
    __slots__ = ("format", "proposer", "sequence", "controller_epoch", "init_cluster", "register_broker", "claim_controller", "create_topic", "delete_topic", "add_partitions", "set_topic_config", "change_partitions", "allocate_producer_ids", "barrier", "add_voter", "remove_voter", "raise_feature_level", "fence_broker", "unfence_broker", "stop_broker", "alter_partitions", "give_up_partitions", "elect_leaders", "reassign_partitions", "finish_reassignments")
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    PROPOSER_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    CONTROLLER_EPOCH_FIELD_NUMBER: _ClassVar[int]
    INIT_CLUSTER_FIELD_NUMBER: _ClassVar[int]
    REGISTER_BROKER_FIELD_NUMBER: _ClassVar[int]
    CLAIM_CONTROLLER_FIELD_NUMBER: _ClassVar[int]
    CREATE_TOPIC_FIELD_NUMBER: _ClassVar[int]
    DELETE_TOPIC_FIELD_NUMBER: _ClassVar[int]
    ADD_PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    SET_TOPIC_CONFIG_FIELD_NUMBER: _ClassVar[int]
    CHANGE_PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    ALLOCATE_PRODUCER_IDS_FIELD_NUMBER: _ClassVar[int]
    BARRIER_FIELD_NUMBER: _ClassVar[int]
    ADD_VOTER_FIELD_NUMBER: _ClassVar[int]
    REMOVE_VOTER_FIELD_NUMBER: _ClassVar[int]
    RAISE_FEATURE_LEVEL_FIELD_NUMBER: _ClassVar[int]
    FENCE_BROKER_FIELD_NUMBER: _ClassVar[int]
    UNFENCE_BROKER_FIELD_NUMBER: _ClassVar[int]
    STOP_BROKER_FIELD_NUMBER: _ClassVar[int]
    ALTER_PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    GIVE_UP_PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    ELECT_LEADERS_FIELD_NUMBER: _ClassVar[int]
    REASSIGN_PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASSIGNMENTS_FIELD_NUMBER: _ClassVar[int]
    format: int
    proposer: bytes
    sequence: int
    controller_epoch: int
    init_cluster: InitCluster
    register_broker: RegisterBroker
    claim_controller: ClaimController
    create_topic: CreateTopic
    delete_topic: DeleteTopic
    add_partitions: AddPartitions
    set_topic_config: SetTopicConfig
    change_partitions: ChangePartitions
    allocate_producer_ids: AllocateProducerIds
    barrier: Barrier
    add_voter: AddVoter
    remove_voter: RemoveVoter
    raise_feature_level: RaiseFeatureLevel
    fence_broker: FenceBroker
    unfence_broker: UnfenceBroker
    stop_broker: StopBroker
    alter_partitions: AlterPartitions
    give_up_partitions: GiveUpPartitions
    elect_leaders: ElectLeaders
    reassign_partitions: ReassignPartitions
    finish_reassignments: FinishReassignments
    def __init__(self, format: _Optional[int] = ..., proposer: _Optional[bytes] = ..., sequence: _Optional[int] = ..., controller_epoch: _Optional[int] = ..., init_cluster: _Optional[_Union[InitCluster, _Mapping]] = ..., register_broker: _Optional[_Union[RegisterBroker, _Mapping]] = ..., claim_controller: _Optional[_Union[ClaimController, _Mapping]] = ..., create_topic: _Optional[_Union[CreateTopic, _Mapping]] = ..., delete_topic: _Optional[_Union[DeleteTopic, _Mapping]] = ..., add_partitions: _Optional[_Union[AddPartitions, _Mapping]] = ..., set_topic_config: _Optional[_Union[SetTopicConfig, _Mapping]] = ..., change_partitions: _Optional[_Union[ChangePartitions, _Mapping]] = ..., allocate_producer_ids: _Optional[_Union[AllocateProducerIds, _Mapping]] = ..., barrier: _Optional[_Union[Barrier, _Mapping]] = ..., add_voter: _Optional[_Union[AddVoter, _Mapping]] = ..., remove_voter: _Optional[_Union[RemoveVoter, _Mapping]] = ..., raise_feature_level: _Optional[_Union[RaiseFeatureLevel, _Mapping]] = ..., fence_broker: _Optional[_Union[FenceBroker, _Mapping]] = ..., unfence_broker: _Optional[_Union[UnfenceBroker, _Mapping]] = ..., stop_broker: _Optional[_Union[StopBroker, _Mapping]] = ..., alter_partitions: _Optional[_Union[AlterPartitions, _Mapping]] = ..., give_up_partitions: _Optional[_Union[GiveUpPartitions, _Mapping]] = ..., elect_leaders: _Optional[_Union[ElectLeaders, _Mapping]] = ..., reassign_partitions: _Optional[_Union[ReassignPartitions, _Mapping]] = ..., finish_reassignments: _Optional[_Union[FinishReassignments, _Mapping]] = ...) -> None: ...

class InitCluster(_message.Message):
    __slots__ = ("cluster_id", "voters", "feature_level")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    VOTERS_FIELD_NUMBER: _ClassVar[int]
    FEATURE_LEVEL_FIELD_NUMBER: _ClassVar[int]
    cluster_id: bytes
    voters: _containers.RepeatedCompositeFieldContainer[Voter]
    feature_level: int
    def __init__(self, cluster_id: _Optional[bytes] = ..., voters: _Optional[_Iterable[_Union[Voter, _Mapping]]] = ..., feature_level: _Optional[int] = ...) -> None: ...

class Voter(_message.Message):
    __slots__ = ("broker_id", "directory_id", "address")
    BROKER_ID_FIELD_NUMBER: _ClassVar[int]
    DIRECTORY_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    broker_id: int
    directory_id: str
    address: str
    def __init__(self, broker_id: _Optional[int] = ..., directory_id: _Optional[str] = ..., address: _Optional[str] = ...) -> None: ...

class RegisterBroker(_message.Message):
    __slots__ = ("broker_id", "incarnation", "directory_id", "address", "peer_address", "rack", "version", "feature_level", "previous_epoch", "cuts")
    BROKER_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    DIRECTORY_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PEER_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    RACK_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FEATURE_LEVEL_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_EPOCH_FIELD_NUMBER: _ClassVar[int]
    CUTS_FIELD_NUMBER: _ClassVar[int]
    broker_id: int
    incarnation: bytes
    directory_id: str
    address: str
    peer_address: str
    rack: str
    version: str
    feature_level: int
    previous_epoch: int
    cuts: _containers.RepeatedCompositeFieldContainer[CutReport]
    def __init__(self, broker_id: _Optional[int] = ..., incarnation: _Optional[bytes] = ..., directory_id: _Optional[str] = ..., address: _Optional[str] = ..., peer_address: _Optional[str] = ..., rack: _Optional[str] = ..., version: _Optional[str] = ..., feature_level: _Optional[int] = ..., previous_epoch: _Optional[int] = ..., cuts: _Optional[_Iterable[_Union[CutReport, _Mapping]]] = ...) -> None: ...

class CutReport(_message.Message):
    __slots__ = ("topic_id", "partition", "last_epoch", "end")
    TOPIC_ID_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    LAST_EPOCH_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    topic_id: bytes
    partition: int
    last_epoch: int
    end: int
    def __init__(self, topic_id: _Optional[bytes] = ..., partition: _Optional[int] = ..., last_epoch: _Optional[int] = ..., end: _Optional[int] = ...) -> None: ...

class ClaimController(_message.Message):
    __slots__ = ("broker_id", "term")
    BROKER_ID_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    broker_id: int
    term: int
    def __init__(self, broker_id: _Optional[int] = ..., term: _Optional[int] = ...) -> None: ...

class Setting(_message.Message):
    __slots__ = ("key", "value")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    key: str
    value: str
    def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...

class Assignment(_message.Message):
    __slots__ = ("replicas",)
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    replicas: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, replicas: _Optional[_Iterable[int]] = ...) -> None: ...

class CreateTopic(_message.Message):
    __slots__ = ("topic_id", "name", "replicas", "min_insync", "config", "assignments")
    TOPIC_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    MIN_INSYNC_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    ASSIGNMENTS_FIELD_NUMBER: _ClassVar[int]
    topic_id: bytes
    name: str
    replicas: int
    min_insync: int
    config: _containers.RepeatedCompositeFieldContainer[Setting]
    assignments: _containers.RepeatedCompositeFieldContainer[Assignment]
    def __init__(self, topic_id: _Optional[bytes] = ..., name: _Optional[str] = ..., replicas: _Optional[int] = ..., min_insync: _Optional[int] = ..., config: _Optional[_Iterable[_Union[Setting, _Mapping]]] = ..., assignments: _Optional[_Iterable[_Union[Assignment, _Mapping]]] = ...) -> None: ...

class DeleteTopic(_message.Message):
    __slots__ = ("topic_id",)
    TOPIC_ID_FIELD_NUMBER: _ClassVar[int]
    topic_id: bytes
    def __init__(self, topic_id: _Optional[bytes] = ...) -> None: ...

class AddPartitions(_message.Message):
    __slots__ = ("topic_id", "first_partition", "assignments")
    TOPIC_ID_FIELD_NUMBER: _ClassVar[int]
    FIRST_PARTITION_FIELD_NUMBER: _ClassVar[int]
    ASSIGNMENTS_FIELD_NUMBER: _ClassVar[int]
    topic_id: bytes
    first_partition: int
    assignments: _containers.RepeatedCompositeFieldContainer[Assignment]
    def __init__(self, topic_id: _Optional[bytes] = ..., first_partition: _Optional[int] = ..., assignments: _Optional[_Iterable[_Union[Assignment, _Mapping]]] = ...) -> None: ...

class SetTopicConfig(_message.Message):
    __slots__ = ("topic_id", "set", "unset", "min_insync")
    TOPIC_ID_FIELD_NUMBER: _ClassVar[int]
    SET_FIELD_NUMBER: _ClassVar[int]
    UNSET_FIELD_NUMBER: _ClassVar[int]
    MIN_INSYNC_FIELD_NUMBER: _ClassVar[int]
    topic_id: bytes
    set: _containers.RepeatedCompositeFieldContainer[Setting]
    unset: _containers.RepeatedScalarFieldContainer[str]
    min_insync: int
    def __init__(self, topic_id: _Optional[bytes] = ..., set: _Optional[_Iterable[_Union[Setting, _Mapping]]] = ..., unset: _Optional[_Iterable[str]] = ..., min_insync: _Optional[int] = ...) -> None: ...

class ChangePartitions(_message.Message):
    __slots__ = ("changes",)
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    changes: _containers.RepeatedCompositeFieldContainer[PartitionChange]
    def __init__(self, changes: _Optional[_Iterable[_Union[PartitionChange, _Mapping]]] = ...) -> None: ...

class PartitionChange(_message.Message):
    __slots__ = ("topic_id", "partition", "leader", "leader_epoch", "isr", "elr", "partition_epoch_seen")
    TOPIC_ID_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    LEADER_EPOCH_FIELD_NUMBER: _ClassVar[int]
    ISR_FIELD_NUMBER: _ClassVar[int]
    ELR_FIELD_NUMBER: _ClassVar[int]
    PARTITION_EPOCH_SEEN_FIELD_NUMBER: _ClassVar[int]
    topic_id: bytes
    partition: int
    leader: int
    leader_epoch: int
    isr: _containers.RepeatedScalarFieldContainer[int]
    elr: _containers.RepeatedScalarFieldContainer[int]
    partition_epoch_seen: int
    def __init__(self, topic_id: _Optional[bytes] = ..., partition: _Optional[int] = ..., leader: _Optional[int] = ..., leader_epoch: _Optional[int] = ..., isr: _Optional[_Iterable[int]] = ..., elr: _Optional[_Iterable[int]] = ..., partition_epoch_seen: _Optional[int] = ...) -> None: ...

class AllocateProducerIds(_message.Message):
    __slots__ = ("broker_id", "broker_epoch", "count")
    BROKER_ID_FIELD_NUMBER: _ClassVar[int]
    BROKER_EPOCH_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    broker_id: int
    broker_epoch: int
    count: int
    def __init__(self, broker_id: _Optional[int] = ..., broker_epoch: _Optional[int] = ..., count: _Optional[int] = ...) -> None: ...

class Barrier(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class AddVoter(_message.Message):
    __slots__ = ("voter", "decided_on")
    VOTER_FIELD_NUMBER: _ClassVar[int]
    DECIDED_ON_FIELD_NUMBER: _ClassVar[int]
    voter: Voter
    decided_on: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, voter: _Optional[_Union[Voter, _Mapping]] = ..., decided_on: _Optional[_Iterable[int]] = ...) -> None: ...

class RemoveVoter(_message.Message):
    __slots__ = ("broker_id", "decided_on")
    BROKER_ID_FIELD_NUMBER: _ClassVar[int]
    DECIDED_ON_FIELD_NUMBER: _ClassVar[int]
    broker_id: int
    decided_on: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, broker_id: _Optional[int] = ..., decided_on: _Optional[_Iterable[int]] = ...) -> None: ...

class RaiseFeatureLevel(_message.Message):
    __slots__ = ("level", "supporters")
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    SUPPORTERS_FIELD_NUMBER: _ClassVar[int]
    level: int
    supporters: _containers.RepeatedCompositeFieldContainer[BrokerStart]
    def __init__(self, level: _Optional[int] = ..., supporters: _Optional[_Iterable[_Union[BrokerStart, _Mapping]]] = ...) -> None: ...

class BrokerStart(_message.Message):
    __slots__ = ("broker_id", "broker_epoch")
    BROKER_ID_FIELD_NUMBER: _ClassVar[int]
    BROKER_EPOCH_FIELD_NUMBER: _ClassVar[int]
    broker_id: int
    broker_epoch: int
    def __init__(self, broker_id: _Optional[int] = ..., broker_epoch: _Optional[int] = ...) -> None: ...

class FenceBroker(_message.Message):
    __slots__ = ("broker_id", "broker_epoch")
    BROKER_ID_FIELD_NUMBER: _ClassVar[int]
    BROKER_EPOCH_FIELD_NUMBER: _ClassVar[int]
    broker_id: int
    broker_epoch: int
    def __init__(self, broker_id: _Optional[int] = ..., broker_epoch: _Optional[int] = ...) -> None: ...

class UnfenceBroker(_message.Message):
    __slots__ = ("broker_id", "broker_epoch")
    BROKER_ID_FIELD_NUMBER: _ClassVar[int]
    BROKER_EPOCH_FIELD_NUMBER: _ClassVar[int]
    broker_id: int
    broker_epoch: int
    def __init__(self, broker_id: _Optional[int] = ..., broker_epoch: _Optional[int] = ...) -> None: ...

class StopBroker(_message.Message):
    __slots__ = ("broker_id", "broker_epoch")
    BROKER_ID_FIELD_NUMBER: _ClassVar[int]
    BROKER_EPOCH_FIELD_NUMBER: _ClassVar[int]
    broker_id: int
    broker_epoch: int
    def __init__(self, broker_id: _Optional[int] = ..., broker_epoch: _Optional[int] = ...) -> None: ...

class AlterPartitions(_message.Message):
    __slots__ = ("broker_id", "broker_epoch", "changes")
    BROKER_ID_FIELD_NUMBER: _ClassVar[int]
    BROKER_EPOCH_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    broker_id: int
    broker_epoch: int
    changes: _containers.RepeatedCompositeFieldContainer[InSyncChange]
    def __init__(self, broker_id: _Optional[int] = ..., broker_epoch: _Optional[int] = ..., changes: _Optional[_Iterable[_Union[InSyncChange, _Mapping]]] = ...) -> None: ...

class InSyncChange(_message.Message):
    __slots__ = ("topic_id", "partition", "leader_epoch", "partition_epoch_seen", "isr", "unseated")
    TOPIC_ID_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    LEADER_EPOCH_FIELD_NUMBER: _ClassVar[int]
    PARTITION_EPOCH_SEEN_FIELD_NUMBER: _ClassVar[int]
    ISR_FIELD_NUMBER: _ClassVar[int]
    UNSEATED_FIELD_NUMBER: _ClassVar[int]
    topic_id: bytes
    partition: int
    leader_epoch: int
    partition_epoch_seen: int
    isr: _containers.RepeatedCompositeFieldContainer[InSyncMember]
    unseated: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, topic_id: _Optional[bytes] = ..., partition: _Optional[int] = ..., leader_epoch: _Optional[int] = ..., partition_epoch_seen: _Optional[int] = ..., isr: _Optional[_Iterable[_Union[InSyncMember, _Mapping]]] = ..., unseated: _Optional[_Iterable[int]] = ...) -> None: ...

class InSyncMember(_message.Message):
    __slots__ = ("broker_id", "broker_epoch", "stated_in")
    BROKER_ID_FIELD_NUMBER: _ClassVar[int]
    BROKER_EPOCH_FIELD_NUMBER: _ClassVar[int]
    STATED_IN_FIELD_NUMBER: _ClassVar[int]
    broker_id: int
    broker_epoch: int
    stated_in: int
    def __init__(self, broker_id: _Optional[int] = ..., broker_epoch: _Optional[int] = ..., stated_in: _Optional[int] = ...) -> None: ...

class GiveUpPartitions(_message.Message):
    __slots__ = ("broker_id", "broker_epoch", "partitions")
    BROKER_ID_FIELD_NUMBER: _ClassVar[int]
    BROKER_EPOCH_FIELD_NUMBER: _ClassVar[int]
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    broker_id: int
    broker_epoch: int
    partitions: _containers.RepeatedCompositeFieldContainer[GiveUp]
    def __init__(self, broker_id: _Optional[int] = ..., broker_epoch: _Optional[int] = ..., partitions: _Optional[_Iterable[_Union[GiveUp, _Mapping]]] = ...) -> None: ...

class GiveUp(_message.Message):
    __slots__ = ("topic_id", "partition", "partition_epoch_seen", "leaves")
    TOPIC_ID_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    PARTITION_EPOCH_SEEN_FIELD_NUMBER: _ClassVar[int]
    LEAVES_FIELD_NUMBER: _ClassVar[int]
    topic_id: bytes
    partition: int
    partition_epoch_seen: int
    leaves: bool
    def __init__(self, topic_id: _Optional[bytes] = ..., partition: _Optional[int] = ..., partition_epoch_seen: _Optional[int] = ..., leaves: bool = ...) -> None: ...

class ElectLeaders(_message.Message):
    __slots__ = ("elections",)
    ELECTIONS_FIELD_NUMBER: _ClassVar[int]
    elections: _containers.RepeatedCompositeFieldContainer[Election]
    def __init__(self, elections: _Optional[_Iterable[_Union[Election, _Mapping]]] = ...) -> None: ...

class Election(_message.Message):
    __slots__ = ("topic_id", "partition", "leader", "partition_epoch_seen", "kind")
    TOPIC_ID_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    PARTITION_EPOCH_SEEN_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    topic_id: bytes
    partition: int
    leader: int
    partition_epoch_seen: int
    kind: int
    def __init__(self, topic_id: _Optional[bytes] = ..., partition: _Optional[int] = ..., leader: _Optional[int] = ..., partition_epoch_seen: _Optional[int] = ..., kind: _Optional[int] = ...) -> None: ...

class ReassignPartitions(_message.Message):
    __slots__ = ("reassignments",)
    REASSIGNMENTS_FIELD_NUMBER: _ClassVar[int]
    reassignments: _containers.RepeatedCompositeFieldContainer[Reassignment]
    def __init__(self, reassignments: _Optional[_Iterable[_Union[Reassignment, _Mapping]]] = ...) -> None: ...

class Reassignment(_message.Message):
    __slots__ = ("topic_id", "partition", "replicas", "partition_epoch_seen")
    TOPIC_ID_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    PARTITION_EPOCH_SEEN_FIELD_NUMBER: _ClassVar[int]
    topic_id: bytes
    partition: int
    replicas: _containers.RepeatedScalarFieldContainer[int]
    partition_epoch_seen: int
    def __init__(self, topic_id: _Optional[bytes] = ..., partition: _Optional[int] = ..., replicas: _Optional[_Iterable[int]] = ..., partition_epoch_seen: _Optional[int] = ...) -> None: ...

class FinishReassignments(_message.Message):
    __slots__ = ("partitions",)
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    partitions: _containers.RepeatedCompositeFieldContainer[PartitionSeen]
    def __init__(self, partitions: _Optional[_Iterable[_Union[PartitionSeen, _Mapping]]] = ...) -> None: ...

class PartitionSeen(_message.Message):
    __slots__ = ("topic_id", "partition", "partition_epoch_seen")
    TOPIC_ID_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    PARTITION_EPOCH_SEEN_FIELD_NUMBER: _ClassVar[int]
    topic_id: bytes
    partition: int
    partition_epoch_seen: int
    def __init__(self, topic_id: _Optional[bytes] = ..., partition: _Optional[int] = ..., partition_epoch_seen: _Optional[int] = ...) -> None: ...
