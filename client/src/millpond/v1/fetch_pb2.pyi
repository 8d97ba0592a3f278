from millpond.v1 import errors_pb2 as _errors_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FetchRequest(_message.Message):
    __slots__ = ("credit_bytes", "start", "stop", "ping")
    CREDIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    PING_FIELD_NUMBER: _ClassVar[int]
    credit_bytes: int
    start: _containers.RepeatedCompositeFieldContainer[FetchStart]
    stop: _containers.RepeatedScalarFieldContainer[int]
    ping: int
    def __init__(self, credit_bytes: _Optional[int] = ..., start: _Optional[_Iterable[_Union[FetchStart, _Mapping]]] = ..., stop: _Optional[_Iterable[int]] = ..., ping: _Optional[int] = ...) -> None: ...

class FetchStart(_message.Message):
    __slots__ = ("handle", "topic_id", "partition", "offset")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    TOPIC_ID_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    handle: int
    topic_id: bytes
    partition: int
    offset: int
    def __init__(self, handle: _Optional[int] = ..., topic_id: _Optional[bytes] = ..., partition: _Optional[int] = ..., offset: _Optional[int] = ...) -> None: ...

class FetchResponse(_message.Message):
    __slots__ = ("fetched", "pong")
    FETCHED_FIELD_NUMBER: _ClassVar[int]
    PONG_FIELD_NUMBER: _ClassVar[int]
    fetched: _containers.RepeatedCompositeFieldContainer[Fetched]
    pong: int
    def __init__(self, fetched: _Optional[_Iterable[_Union[Fetched, _Mapping]]] = ..., pong: _Optional[int] = ...) -> None: ...

class Fetched(_message.Message):
    __slots__ = ("handle", "batches", "high_watermark", "log_start", "error")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    HIGH_WATERMARK_FIELD_NUMBER: _ClassVar[int]
    LOG_START_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    handle: int
    batches: bytes
    high_watermark: int
    log_start: int
    error: _errors_pb2.ErrorDetail
    def __init__(self, handle: _Optional[int] = ..., batches: _Optional[bytes] = ..., high_watermark: _Optional[int] = ..., log_start: _Optional[int] = ..., error: _Optional[_Union[_errors_pb2.ErrorDetail, _Mapping]] = ...) -> None: ...
