from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ReplicationMessage(_message.Message):
    __slots__ = ("hello", "stated", "acknowledged", "taken", "serving", "diverging", "out_of_range", "fenced", "unknown_epoch", "pushed")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    STATED_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGED_FIELD_NUMBER: _ClassVar[int]
    TAKEN_FIELD_NUMBER: _ClassVar[int]
    SERVING_FIELD_NUMBER: _ClassVar[int]
    DIVERGING_FIELD_NUMBER: _ClassVar[int]
    OUT_OF_RANGE_FIELD_NUMBER: _ClassVar[int]
    FENCED_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_EPOCH_FIELD_NUMBER: _ClassVar[int]
    PUSHED_FIELD_NUMBER: _ClassVar[int]
    hello: ReplicaHello
    stated: ReplicaStatement
    acknowledged: ReplicaAcknowledgement
    taken: ReplicaTaken
    serving: ReplicaServing
    diverging: ReplicaDiverging
    out_of_range: ReplicaOutOfRange
    fenced: ReplicaFenced
    unknown_epoch: ReplicaUnknownEpoch
    pushed: ReplicaPush
    def __init__(self, hello: _Optional[_Union[ReplicaHello, _Mapping]] = ..., stated: _Optional[_Union[ReplicaStatement, _Mapping]] = ..., acknowledged: _Optional[_Union[ReplicaAcknowledgement, _Mapping]] = ..., taken: _Optional[_Union[ReplicaTaken, _Mapping]] = ..., serving: _Optional[_Union[ReplicaServing, _Mapping]] = ..., diverging: _Optional[_Union[ReplicaDiverging, _Mapping]] = ..., out_of_range: _Optional[_Union[ReplicaOutOfRange, _Mapping]] = ..., fenced: _Optional[_Union[ReplicaFenced, _Mapping]] = ..., unknown_epoch: _Optional[_Union[ReplicaUnknownEpoch, _Mapping]] = ..., pushed: _Optional[_Union[ReplicaPush, _Mapping]] = ...) -> None: ...

class ReplicaHello(_message.Message):
    __slots__ = ("broker_id", "broker_epoch", "number")
    BROKER_ID_FIELD_NUMBER: _ClassVar[int]
    BROKER_EPOCH_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    broker_id: int
    broker_epoch: int
    number: int
    def __init__(self, broker_id: _Optional[int] = ..., broker_epoch: _Optional[int] = ..., number: _Optional[int] = ...) -> None: ...

class ReplicaSession(_message.Message):
    __slots__ = ("topic_id", "partition", "leader_epoch", "session")
    TOPIC_ID_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    LEADER_EPOCH_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    topic_id: bytes
    partition: int
    leader_epoch: int
    session: int
    def __init__(self, topic_id: _Optional[bytes] = ..., partition: _Optional[int] = ..., leader_epoch: _Optional[int] = ..., session: _Optional[int] = ...) -> None: ...

class ReplicaStatement(_message.Message):
    __slots__ = ("session", "follower", "broker_epoch", "fetch_offset", "last_epoch", "durable_end", "stated_in", "log_start")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    FOLLOWER_FIELD_NUMBER: _ClassVar[int]
    BROKER_EPOCH_FIELD_NUMBER: _ClassVar[int]
    FETCH_OFFSET_FIELD_NUMBER: _ClassVar[int]
    LAST_EPOCH_FIELD_NUMBER: _ClassVar[int]
    DURABLE_END_FIELD_NUMBER: _ClassVar[int]
    STATED_IN_FIELD_NUMBER: _ClassVar[int]
    LOG_START_FIELD_NUMBER: _ClassVar[int]
    session: ReplicaSession
    follower: int
    broker_epoch: int
    fetch_offset: int
    last_epoch: int
    durable_end: int
    stated_in: int
    log_start: int
    def __init__(self, session: _Optional[_Union[ReplicaSession, _Mapping]] = ..., follower: _Optional[int] = ..., broker_epoch: _Optional[int] = ..., fetch_offset: _Optional[int] = ..., last_epoch: _Optional[int] = ..., durable_end: _Optional[int] = ..., stated_in: _Optional[int] = ..., log_start: _Optional[int] = ...) -> None: ...

class ReplicaAcknowledgement(_message.Message):
    __slots__ = ("session", "log_end", "durable_end", "log_start", "leaves")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    LOG_END_FIELD_NUMBER: _ClassVar[int]
    DURABLE_END_FIELD_NUMBER: _ClassVar[int]
    LOG_START_FIELD_NUMBER: _ClassVar[int]
    LEAVES_FIELD_NUMBER: _ClassVar[int]
    session: ReplicaSession
    log_end: int
    durable_end: int
    log_start: int
    leaves: bool
    def __init__(self, session: _Optional[_Union[ReplicaSession, _Mapping]] = ..., log_end: _Optional[int] = ..., durable_end: _Optional[int] = ..., log_start: _Optional[int] = ..., leaves: bool = ...) -> None: ...

class ReplicaTaken(_message.Message):
    __slots__ = ("topic_id", "partition", "size_bytes")
    TOPIC_ID_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    topic_id: bytes
    partition: int
    size_bytes: int
    def __init__(self, topic_id: _Optional[bytes] = ..., partition: _Optional[int] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class ReplicaServing(_message.Message):
    __slots__ = ("session", "from_offset", "high_watermark", "log_start")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    FROM_OFFSET_FIELD_NUMBER: _ClassVar[int]
    HIGH_WATERMARK_FIELD_NUMBER: _ClassVar[int]
    LOG_START_FIELD_NUMBER: _ClassVar[int]
    session: ReplicaSession
    from_offset: int
    high_watermark: int
    log_start: int
    def __init__(self, session: _Optional[_Union[ReplicaSession, _Mapping]] = ..., from_offset: _Optional[int] = ..., high_watermark: _Optional[int] = ..., log_start: _Optional[int] = ...) -> None: ...

class ReplicaDiverging(_message.Message):
    __slots__ = ("session", "epoch", "end")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    session: ReplicaSession
    epoch: int
    end: int
    def __init__(self, session: _Optional[_Union[ReplicaSession, _Mapping]] = ..., epoch: _Optional[int] = ..., end: _Optional[int] = ...) -> None: ...

class ReplicaOutOfRange(_message.Message):
    __slots__ = ("session", "log_start", "log_end", "starts_at")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    LOG_START_FIELD_NUMBER: _ClassVar[int]
    LOG_END_FIELD_NUMBER: _ClassVar[int]
    STARTS_AT_FIELD_NUMBER: _ClassVar[int]
    session: ReplicaSession
    log_start: int
    log_end: int
    starts_at: int
    def __init__(self, session: _Optional[_Union[ReplicaSession, _Mapping]] = ..., log_start: _Optional[int] = ..., log_end: _Optional[int] = ..., starts_at: _Optional[int] = ...) -> None: ...

class ReplicaFenced(_message.Message):
    __slots__ = ("session", "current_epoch")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    CURRENT_EPOCH_FIELD_NUMBER: _ClassVar[int]
    session: ReplicaSession
    current_epoch: int
    def __init__(self, session: _Optional[_Union[ReplicaSession, _Mapping]] = ..., current_epoch: _Optional[int] = ...) -> None: ...

class ReplicaUnknownEpoch(_message.Message):
    __slots__ = ("session", "current_epoch")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    CURRENT_EPOCH_FIELD_NUMBER: _ClassVar[int]
    session: ReplicaSession
    current_epoch: int
    def __init__(self, session: _Optional[_Union[ReplicaSession, _Mapping]] = ..., current_epoch: _Optional[int] = ...) -> None: ...

class ReplicaPush(_message.Message):
    __slots__ = ("session", "from_offset", "high_watermark", "log_start")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    FROM_OFFSET_FIELD_NUMBER: _ClassVar[int]
    HIGH_WATERMARK_FIELD_NUMBER: _ClassVar[int]
    LOG_START_FIELD_NUMBER: _ClassVar[int]
    session: ReplicaSession
    from_offset: int
    high_watermark: int
    log_start: int
    def __init__(self, session: _Optional[_Union[ReplicaSession, _Mapping]] = ..., from_offset: _Optional[int] = ..., high_watermark: _Optional[int] = ..., log_start: _Optional[int] = ...) -> None: ...
