from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ControlHeard(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CONTROL_HEARD_UNSPECIFIED: _ClassVar[ControlHeard]
    CONTROL_HEARD_EXTENDED: _ClassVar[ControlHeard]
    CONTROL_HEARD_FENCED: _ClassVar[ControlHeard]
    CONTROL_HEARD_IGNORED: _ClassVar[ControlHeard]
    CONTROL_HEARD_STRANGER: _ClassVar[ControlHeard]
CONTROL_HEARD_UNSPECIFIED: ControlHeard
CONTROL_HEARD_EXTENDED: ControlHeard
CONTROL_HEARD_FENCED: ControlHeard
CONTROL_HEARD_IGNORED: ControlHeard
CONTROL_HEARD_STRANGER: ControlHeard

class ControlMessage(_message.Message):
    __slots__ = ("number", "propose", "beat", "who", "found", "ready_to_vote", "hand_over", "proposed", "beaten", "here", "founded", "failed", "ready")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    PROPOSE_FIELD_NUMBER: _ClassVar[int]
    BEAT_FIELD_NUMBER: _ClassVar[int]
    WHO_FIELD_NUMBER: _ClassVar[int]
    FOUND_FIELD_NUMBER: _ClassVar[int]
    READY_TO_VOTE_FIELD_NUMBER: _ClassVar[int]
    HAND_OVER_FIELD_NUMBER: _ClassVar[int]
    PROPOSED_FIELD_NUMBER: _ClassVar[int]
    BEATEN_FIELD_NUMBER: _ClassVar[int]
    HERE_FIELD_NUMBER: _ClassVar[int]
    FOUNDED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    number: int
    propose: ControlPropose
    beat: ControlBeat
    who: ControlWho
    found: ControlFound
    ready_to_vote: ControlReadyToVote
    hand_over: ControlHandOver
    proposed: ControlProposed
    beaten: ControlBeaten
    here: ControlHere
    founded: ControlFounded
    failed: ControlFailed
    ready: ControlReady
    def __init__(self, number: _Optional[int] = ..., propose: _Optional[_Union[ControlPropose, _Mapping]] = ..., beat: _Optional[_Union[ControlBeat, _Mapping]] = ..., who: _Optional[_Union[ControlWho, _Mapping]] = ..., found: _Optional[_Union[ControlFound, _Mapping]] = ..., ready_to_vote: _Optional[_Union[ControlReadyToVote, _Mapping]] = ..., hand_over: _Optional[_Union[ControlHandOver, _Mapping]] = ..., proposed: _Optional[_Union[ControlProposed, _Mapping]] = ..., beaten: _Optional[_Union[ControlBeaten, _Mapping]] = ..., here: _Optional[_Union[ControlHere, _Mapping]] = ..., founded: _Optional[_Union[ControlFounded, _Mapping]] = ..., failed: _Optional[_Union[ControlFailed, _Mapping]] = ..., ready: _Optional[_Union[ControlReady, _Mapping]] = ...) -> None: ...

class ControlPropose(_message.Message):
    __slots__ = ("envelope", "timeout_ms")
    ENVELOPE_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    envelope: bytes
    timeout_ms: int
    def __init__(self, envelope: _Optional[bytes] = ..., timeout_ms: _Optional[int] = ...) -> None: ...

class ControlProposed(_message.Message):
    __slots__ = ("leader", "ok", "not_applied", "unknown")
    LEADER_FIELD_NUMBER: _ClassVar[int]
    OK_FIELD_NUMBER: _ClassVar[int]
    NOT_APPLIED_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    leader: int
    ok: ControlCommitted
    not_applied: ControlNotApplied
    unknown: ControlUnknown
    def __init__(self, leader: _Optional[int] = ..., ok: _Optional[_Union[ControlCommitted, _Mapping]] = ..., not_applied: _Optional[_Union[ControlNotApplied, _Mapping]] = ..., unknown: _Optional[_Union[ControlUnknown, _Mapping]] = ...) -> None: ...

class ControlCommitted(_message.Message):
    __slots__ = ("index", "applied", "refused")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    index: int
    applied: ControlValue
    refused: ControlRefused
    def __init__(self, index: _Optional[int] = ..., applied: _Optional[_Union[ControlValue, _Mapping]] = ..., refused: _Optional[_Union[ControlRefused, _Mapping]] = ...) -> None: ...

class ControlNotApplied(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class ControlUnknown(_message.Message):
    __slots__ = ("reason", "sequence")
    REASON_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    reason: str
    sequence: int
    def __init__(self, reason: _Optional[str] = ..., sequence: _Optional[int] = ...) -> None: ...

class ControlValue(_message.Message):
    __slots__ = ("number", "data", "refused")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    number: int
    data: bytes
    refused: ControlRefusedItems
    def __init__(self, number: _Optional[int] = ..., data: _Optional[bytes] = ..., refused: _Optional[_Union[ControlRefusedItems, _Mapping]] = ...) -> None: ...

class ControlRefusedItems(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[ControlRefusedItem]
    def __init__(self, items: _Optional[_Iterable[_Union[ControlRefusedItem, _Mapping]]] = ...) -> None: ...

class ControlRefusedItem(_message.Message):
    __slots__ = ("position", "refused")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    position: int
    refused: ControlRefused
    def __init__(self, position: _Optional[int] = ..., refused: _Optional[_Union[ControlRefused, _Mapping]] = ...) -> None: ...

class ControlRefused(_message.Message):
    __slots__ = ("code", "facts")
    CODE_FIELD_NUMBER: _ClassVar[int]
    FACTS_FIELD_NUMBER: _ClassVar[int]
    code: str
    facts: _containers.RepeatedCompositeFieldContainer[ControlFact]
    def __init__(self, code: _Optional[str] = ..., facts: _Optional[_Iterable[_Union[ControlFact, _Mapping]]] = ...) -> None: ...

class ControlFact(_message.Message):
    __slots__ = ("name", "text", "number")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    name: str
    text: str
    number: int
    def __init__(self, name: _Optional[str] = ..., text: _Optional[str] = ..., number: _Optional[int] = ...) -> None: ...

class ControlBeat(_message.Message):
    __slots__ = ("broker_id", "broker_epoch", "applied_index", "feature_level", "loop_lag_ms", "digest")
    BROKER_ID_FIELD_NUMBER: _ClassVar[int]
    BROKER_EPOCH_FIELD_NUMBER: _ClassVar[int]
    APPLIED_INDEX_FIELD_NUMBER: _ClassVar[int]
    FEATURE_LEVEL_FIELD_NUMBER: _ClassVar[int]
    LOOP_LAG_MS_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    broker_id: int
    broker_epoch: int
    applied_index: int
    feature_level: int
    loop_lag_ms: int
    digest: bytes
    def __init__(self, broker_id: _Optional[int] = ..., broker_epoch: _Optional[int] = ..., applied_index: _Optional[int] = ..., feature_level: _Optional[int] = ..., loop_lag_ms: _Optional[int] = ..., digest: _Optional[bytes] = ...) -> None: ...

class ControlBeaten(_message.Message):
    __slots__ = ("heard", "controller_epoch", "version", "leader", "everywhere", "differs")
    HEARD_FIELD_NUMBER: _ClassVar[int]
    CONTROLLER_EPOCH_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    EVERYWHERE_FIELD_NUMBER: _ClassVar[int]
    DIFFERS_FIELD_NUMBER: _ClassVar[int]
    heard: ControlHeard
    controller_epoch: int
    version: int
    leader: int
    everywhere: int
    differs: bool
    def __init__(self, heard: _Optional[_Union[ControlHeard, str]] = ..., controller_epoch: _Optional[int] = ..., version: _Optional[int] = ..., leader: _Optional[int] = ..., everywhere: _Optional[int] = ..., differs: bool = ...) -> None: ...

class ControlWho(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ControlHere(_message.Message):
    __slots__ = ("incarnation",)
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    incarnation: bytes
    def __init__(self, incarnation: _Optional[bytes] = ...) -> None: ...

class ControlFound(_message.Message):
    __slots__ = ("voters",)
    VOTERS_FIELD_NUMBER: _ClassVar[int]
    voters: _containers.RepeatedCompositeFieldContainer[ControlVoter]
    def __init__(self, voters: _Optional[_Iterable[_Union[ControlVoter, _Mapping]]] = ...) -> None: ...

class ControlVoter(_message.Message):
    __slots__ = ("broker_id", "address")
    BROKER_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    broker_id: int
    address: str
    def __init__(self, broker_id: _Optional[int] = ..., address: _Optional[str] = ...) -> None: ...

class ControlFounded(_message.Message):
    __slots__ = ("first", "refused", "without_you")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    WITHOUT_YOU_FIELD_NUMBER: _ClassVar[int]
    first: bytes
    refused: str
    without_you: bool
    def __init__(self, first: _Optional[bytes] = ..., refused: _Optional[str] = ..., without_you: bool = ...) -> None: ...

class ControlReadyToVote(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ControlReady(_message.Message):
    __slots__ = ("directory_id", "reached")
    DIRECTORY_ID_FIELD_NUMBER: _ClassVar[int]
    REACHED_FIELD_NUMBER: _ClassVar[int]
    directory_id: str
    reached: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, directory_id: _Optional[str] = ..., reached: _Optional[_Iterable[int]] = ...) -> None: ...

class ControlHandOver(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ControlFailed(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...
