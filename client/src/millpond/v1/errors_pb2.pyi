from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ErrorCode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ERROR_CODE_UNSPECIFIED: _ClassVar[ErrorCode]
    ERROR_CODE_UNKNOWN_TOPIC: _ClassVar[ErrorCode]
    ERROR_CODE_TOPIC_EXISTS: _ClassVar[ErrorCode]
    ERROR_CODE_INVALID_TOPIC_NAME: _ClassVar[ErrorCode]
    ERROR_CODE_UNKNOWN_PARTITION: _ClassVar[ErrorCode]
    ERROR_CODE_NOT_ENOUGH_BROKERS: _ClassVar[ErrorCode]
    ERROR_CODE_OFFSET_OUT_OF_RANGE: _ClassVar[ErrorCode]
    ERROR_CODE_RECORD_TOO_LARGE: _ClassVar[ErrorCode]
    ERROR_CODE_CORRUPT_BATCH: _ClassVar[ErrorCode]
    ERROR_CODE_UNSUPPORTED_FORMAT: _ClassVar[ErrorCode]
    ERROR_CODE_NOT_ENOUGH_REPLICAS: _ClassVar[ErrorCode]
    ERROR_CODE_NOT_ENOUGH_REPLICAS_AFTER_APPEND: _ClassVar[ErrorCode]
    ERROR_CODE_NOT_LEADER: _ClassVar[ErrorCode]
    ERROR_CODE_FENCED_EPOCH: _ClassVar[ErrorCode]
    ERROR_CODE_OUT_OF_ORDER_SEQUENCE: _ClassVar[ErrorCode]
    ERROR_CODE_PRODUCER_FENCED: _ClassVar[ErrorCode]
    ERROR_CODE_BUFFER_FULL: _ClassVar[ErrorCode]
    ERROR_CODE_DELIVERY_TIMEOUT: _ClassVar[ErrorCode]
    ERROR_CODE_OPERATION_TIMEOUT: _ClassVar[ErrorCode]
    ERROR_CODE_DELIVERY_FAILED: _ClassVar[ErrorCode]
    ERROR_CODE_PARTIAL_DELIVERY: _ClassVar[ErrorCode]
    ERROR_CODE_STORAGE_FULL: _ClassVar[ErrorCode]
    ERROR_CODE_COMMIT_FENCED: _ClassVar[ErrorCode]
    ERROR_CODE_UNKNOWN_MEMBER: _ClassVar[ErrorCode]
    ERROR_CODE_DESERIALIZATION: _ClassVar[ErrorCode]
    ERROR_CODE_CLIENT_CLOSED: _ClassVar[ErrorCode]
    ERROR_CODE_FORKED_CLIENT: _ClassVar[ErrorCode]
    ERROR_CODE_CLUSTER_UNAVAILABLE: _ClassVar[ErrorCode]
    ERROR_CODE_DIRECTORY_IN_USE: _ClassVar[ErrorCode]
    ERROR_CODE_NOT_A_DATA_DIRECTORY: _ClassVar[ErrorCode]
    ERROR_CODE_INVALID_CONFIG: _ClassVar[ErrorCode]
    ERROR_CODE_INVALID_GROUP_NAME: _ClassVar[ErrorCode]
    ERROR_CODE_INVALID_RECORD: _ClassVar[ErrorCode]
    ERROR_CODE_STORAGE_FAILED: _ClassVar[ErrorCode]
    ERROR_CODE_BROKER_NOT_READY: _ClassVar[ErrorCode]
    ERROR_CODE_INVALID_REQUEST: _ClassVar[ErrorCode]
    ERROR_CODE_INTERNAL: _ClassVar[ErrorCode]
    ERROR_CODE_INVALID_UPDATE_VERSION: _ClassVar[ErrorCode]
    ERROR_CODE_INELIGIBLE_REPLICA: _ClassVar[ErrorCode]
    ERROR_CODE_NOT_CONTROLLER: _ClassVar[ErrorCode]
ERROR_CODE_UNSPECIFIED: ErrorCode
ERROR_CODE_UNKNOWN_TOPIC: ErrorCode
ERROR_CODE_TOPIC_EXISTS: ErrorCode
ERROR_CODE_INVALID_TOPIC_NAME: ErrorCode
ERROR_CODE_UNKNOWN_PARTITION: ErrorCode
ERROR_CODE_NOT_ENOUGH_BROKERS: ErrorCode
ERROR_CODE_OFFSET_OUT_OF_RANGE: ErrorCode
ERROR_CODE_RECORD_TOO_LARGE: ErrorCode
ERROR_CODE_CORRUPT_BATCH: ErrorCode
ERROR_CODE_UNSUPPORTED_FORMAT: ErrorCode
ERROR_CODE_NOT_ENOUGH_REPLICAS: ErrorCode
ERROR_CODE_NOT_ENOUGH_REPLICAS_AFTER_APPEND: ErrorCode
ERROR_CODE_NOT_LEADER: ErrorCode
ERROR_CODE_FENCED_EPOCH: ErrorCode
ERROR_CODE_OUT_OF_ORDER_SEQUENCE: ErrorCode
ERROR_CODE_PRODUCER_FENCED: ErrorCode
ERROR_CODE_BUFFER_FULL: ErrorCode
ERROR_CODE_DELIVERY_TIMEOUT: ErrorCode
ERROR_CODE_OPERATION_TIMEOUT: ErrorCode
ERROR_CODE_DELIVERY_FAILED: ErrorCode
ERROR_CODE_PARTIAL_DELIVERY: ErrorCode
ERROR_CODE_STORAGE_FULL: ErrorCode
ERROR_CODE_COMMIT_FENCED: ErrorCode
ERROR_CODE_UNKNOWN_MEMBER: ErrorCode
ERROR_CODE_DESERIALIZATION: ErrorCode
ERROR_CODE_CLIENT_CLOSED: ErrorCode
ERROR_CODE_FORKED_CLIENT: ErrorCode
ERROR_CODE_CLUSTER_UNAVAILABLE: ErrorCode
ERROR_CODE_DIRECTORY_IN_USE: ErrorCode
ERROR_CODE_NOT_A_DATA_DIRECTORY: ErrorCode
ERROR_CODE_INVALID_CONFIG: ErrorCode
ERROR_CODE_INVALID_GROUP_NAME: ErrorCode
ERROR_CODE_INVALID_RECORD: ErrorCode
ERROR_CODE_STORAGE_FAILED: ErrorCode
ERROR_CODE_BROKER_NOT_READY: ErrorCode
ERROR_CODE_INVALID_REQUEST: ErrorCode
ERROR_CODE_INTERNAL: ErrorCode
ERROR_CODE_INVALID_UPDATE_VERSION: ErrorCode
ERROR_CODE_INELIGIBLE_REPLICA: ErrorCode
ERROR_CODE_NOT_CONTROLLER: ErrorCode

class ErrorDetail(_message.Message):
    __slots__ = ("code", "message", "facts")
    class FactsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    FACTS_FIELD_NUMBER: _ClassVar[int]
    code: ErrorCode
    message: str
    facts: _containers.ScalarMap[str, str]
    def __init__(self, code: _Optional[_Union[ErrorCode, str]] = ..., message: _Optional[str] = ..., facts: _Optional[_Mapping[str, str]] = ...) -> None: ...
