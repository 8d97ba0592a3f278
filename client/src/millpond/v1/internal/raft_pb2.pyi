from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RaftMessage(_message.Message):
    __slots__ = ("term", "append", "appended", "request_vote", "vote", "snapshot", "pre_vote", "pre_voted", "newer_term", "timeout_now", "address")
    TERM_FIELD_NUMBER: _ClassVar[int]
    APPEND_FIELD_NUMBER: _ClassVar[int]
    APPENDED_FIELD_NUMBER: _ClassVar[int]
    REQUEST_VOTE_FIELD_NUMBER: _ClassVar[int]
    VOTE_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    PRE_VOTE_FIELD_NUMBER: _ClassVar[int]
    PRE_VOTED_FIELD_NUMBER: _ClassVar[int]
    NEWER_TERM_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_NOW_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    term: int
    append: AppendEntries
    appended: Appended
    request_vote: RequestVote
    vote: Vote
    snapshot: InstallSnapshot
    pre_vote: RequestVote
    pre_voted: PreVoted
    newer_term: NewerTerm
    timeout_now: TimeoutNow
    address: Address
    def __init__(self, term: _Optional[int] = ..., append: _Optional[_Union[AppendEntries, _Mapping]] = ..., appended: _Optional[_Union[Appended, _Mapping]] = ..., request_vote: _Optional[_Union[RequestVote, _Mapping]] = ..., vote: _Optional[_Union[Vote, _Mapping]] = ..., snapshot: _Optional[_Union[InstallSnapshot, _Mapping]] = ..., pre_vote: _Optional[_Union[RequestVote, _Mapping]] = ..., pre_voted: _Optional[_Union[PreVoted, _Mapping]] = ..., newer_term: _Optional[_Union[NewerTerm, _Mapping]] = ..., timeout_now: _Optional[_Union[TimeoutNow, _Mapping]] = ..., address: _Optional[_Union[Address, _Mapping]] = ...) -> None: ...

class RaftEntry(_message.Message):
    __slots__ = ("term", "kind", "data")
    TERM_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    term: int
    kind: int
    data: bytes
    def __init__(self, term: _Optional[int] = ..., kind: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class AppendEntries(_message.Message):
    __slots__ = ("commit_index", "previous_index", "previous_term", "entries")
    COMMIT_INDEX_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_INDEX_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_TERM_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    commit_index: int
    previous_index: int
    previous_term: int
    entries: _containers.RepeatedCompositeFieldContainer[RaftEntry]
    def __init__(self, commit_index: _Optional[int] = ..., previous_index: _Optional[int] = ..., previous_term: _Optional[int] = ..., entries: _Optional[_Iterable[_Union[RaftEntry, _Mapping]]] = ...) -> None: ...

class Appended(_message.Message):
    __slots__ = ("next_index", "success")
    NEXT_INDEX_FIELD_NUMBER: _ClassVar[int]
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    next_index: int
    success: bool
    def __init__(self, next_index: _Optional[int] = ..., success: bool = ...) -> None: ...

class RequestVote(_message.Message):
    __slots__ = ("last_index", "last_term")
    LAST_INDEX_FIELD_NUMBER: _ClassVar[int]
    LAST_TERM_FIELD_NUMBER: _ClassVar[int]
    last_index: int
    last_term: int
    def __init__(self, last_index: _Optional[int] = ..., last_term: _Optional[int] = ...) -> None: ...

class Vote(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class InstallSnapshot(_message.Message):
    __slots__ = ("last_index", "last_term", "crc32c", "data")
    LAST_INDEX_FIELD_NUMBER: _ClassVar[int]
    LAST_TERM_FIELD_NUMBER: _ClassVar[int]
    CRC32C_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    last_index: int
    last_term: int
    crc32c: int
    data: bytes
    def __init__(self, last_index: _Optional[int] = ..., last_term: _Optional[int] = ..., crc32c: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class PreVoted(_message.Message):
    __slots__ = ("granted", "asked_term")
    GRANTED_FIELD_NUMBER: _ClassVar[int]
    ASKED_TERM_FIELD_NUMBER: _ClassVar[int]
    granted: bool
    asked_term: int
    def __init__(self, granted: bool = ..., asked_term: _Optional[int] = ...) -> None: ...

class NewerTerm(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Address(_message.Message):
    __slots__ = ("address",)
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    address: str
    def __init__(self, address: _Optional[str] = ...) -> None: ...

class TimeoutNow(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
