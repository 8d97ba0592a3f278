from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SubscriptionMessage(_message.Message):
    __slots__ = ("subscribe", "whole", "commands", "at", "refused")
    SUBSCRIBE_FIELD_NUMBER: _ClassVar[int]
    WHOLE_FIELD_NUMBER: _ClassVar[int]
    COMMANDS_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    subscribe: Subscribe
    whole: SubscriptionWhole
    commands: SubscriptionCommands
    at: SubscriptionAt
    refused: SubscriptionRefused
    def __init__(self, subscribe: _Optional[_Union[Subscribe, _Mapping]] = ..., whole: _Optional[_Union[SubscriptionWhole, _Mapping]] = ..., commands: _Optional[_Union[SubscriptionCommands, _Mapping]] = ..., at: _Optional[_Union[SubscriptionAt, _Mapping]] = ..., refused: _Optional[_Union[SubscriptionRefused, _Mapping]] = ...) -> None: ...

class Subscribe(_message.Message):
    __slots__ = ("after",)
    AFTER_FIELD_NUMBER: _ClassVar[int]
    after: int
    def __init__(self, after: _Optional[int] = ...) -> None: ...

class SubscriptionWhole(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: int
    def __init__(self, version: _Optional[int] = ...) -> None: ...

class SubscriptionCommands(_message.Message):
    __slots__ = ("after", "commands")
    AFTER_FIELD_NUMBER: _ClassVar[int]
    COMMANDS_FIELD_NUMBER: _ClassVar[int]
    after: int
    commands: _containers.RepeatedCompositeFieldContainer[SubscriptionCommand]
    def __init__(self, after: _Optional[int] = ..., commands: _Optional[_Iterable[_Union[SubscriptionCommand, _Mapping]]] = ...) -> None: ...

class SubscriptionCommand(_message.Message):
    __slots__ = ("index", "envelope")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    ENVELOPE_FIELD_NUMBER: _ClassVar[int]
    index: int
    envelope: bytes
    def __init__(self, index: _Optional[int] = ..., envelope: _Optional[bytes] = ...) -> None: ...

class SubscriptionAt(_message.Message):
    __slots__ = ("version", "leader")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    version: int
    leader: int
    def __init__(self, version: _Optional[int] = ..., leader: _Optional[int] = ...) -> None: ...

class SubscriptionRefused(_message.Message):
    __slots__ = ("reason", "voters", "for_good")
    REASON_FIELD_NUMBER: _ClassVar[int]
    VOTERS_FIELD_NUMBER: _ClassVar[int]
    FOR_GOOD_FIELD_NUMBER: _ClassVar[int]
    reason: str
    voters: _containers.RepeatedCompositeFieldContainer[SubscriptionVoter]
    for_good: bool
    def __init__(self, reason: _Optional[str] = ..., voters: _Optional[_Iterable[_Union[SubscriptionVoter, _Mapping]]] = ..., for_good: bool = ...) -> None: ...

class SubscriptionVoter(_message.Message):
    __slots__ = ("broker_id", "address")
    BROKER_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    broker_id: int
    address: str
    def __init__(self, broker_id: _Optional[int] = ..., address: _Optional[str] = ...) -> None: ...
