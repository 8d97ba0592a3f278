from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Envelope(_message.Message):
    __slots__ = ("format", "proposer", "sequence", "controller_epoch", "init_cluster", "register_broker", "claim_controller", "create_topic", "delete_topic", "add_partitions", "set_topic_config", "change_partitions", "allocate_producer_ids", "barrier", "add_voter", "remove_voter")
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
    def __init__(self, format: _Optional[int] = ..., proposer: _Optional[bytes] = ..., sequence: _Optional[int] = ..., controller_epoch: _Optional[int] = ..., init_cluster: _Optional[_Union[InitCluster, _Mapping]] = ..., register_broker: _Optional[_Union[RegisterBroker, _Mapping]] = ..., claim_controller: _Optional[_Union[ClaimController, _Mapping]] = ..., create_topic: _Optional[_Union[CreateTopic, _Mapping]] = ..., delete_topic: _Optional[_Union[DeleteTopic, _Mapping]] = ..., add_partitions: _Optional[_Union[AddPartitions, _Mapping]] = ..., set_topic_config: _Optional[_Union[SetTopicConfig, _Mapping]] = ..., change_partitions: _Optional[_Union[ChangePartitions, _Mapping]] = ..., allocate_producer_ids: _Optional[_Union[AllocateProducerIds, _Mapping]] = ..., barrier: _Optional[_Union[Barrier, _Mapping]] = ..., add_voter: _Optional[_Union[AddVoter, _Mapping]] = ..., remove_voter: _Optional[_Union[RemoveVoter, _Mapping]] = ...) -> None: ...

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
    __slots__ = ("broker_id", "incarnation", "directory_id", "address", "peer_address", "rack", "version")
    BROKER_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    DIRECTORY_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PEER_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    RACK_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    broker_id: int
    incarnation: bytes
    directory_id: str
    address: str
    peer_address: str
    rack: str
    version: str
    def __init__(self, broker_id: _Optional[int] = ..., incarnation: _Optional[bytes] = ..., directory_id: _Optional[str] = ..., address: _Optional[str] = ..., peer_address: _Optional[str] = ..., rack: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

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
    __slots__ = ("topic_id", "set", "unset")
    TOPIC_ID_FIELD_NUMBER: _ClassVar[int]
    SET_FIELD_NUMBER: _ClassVar[int]
    UNSET_FIELD_NUMBER: _ClassVar[int]
    topic_id: bytes
    set: _containers.RepeatedCompositeFieldContainer[Setting]
    unset: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, topic_id: _Optional[bytes] = ..., set: _Optional[_Iterable[_Union[Setting, _Mapping]]] = ..., unset: _Optional[_Iterable[str]] = ...) -> None: ...

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
    __slots__ = ("voter",)
    VOTER_FIELD_NUMBER: _ClassVar[int]
    voter: Voter
    def __init__(self, voter: _Optional[_Union[Voter, _Mapping]] = ...) -> None: ...

class RemoveVoter(_message.Message):
    __slots__ = ("broker_id",)
    BROKER_ID_FIELD_NUMBER: _ClassVar[int]
    broker_id: int
    def __init__(self, broker_id: _Optional[int] = ...) -> None: ...
