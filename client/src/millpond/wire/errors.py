"""The one error table: code, class, gRPC status, and whether a retry can help.

A class names its row in its class statement; `ERRORS` is the table those rows make. Facts are keyword
arguments and attributes, the message is made from them, so that a caller never parses text. An error of
a send also says whether the record may have been written (`outcome`, rule 8).
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Final, dataclass_transform


class ErrorCode(enum.StrEnum):
    """The name of an error on the wire and in logs. Names are never renamed, only added."""

    UNKNOWN_TOPIC = "UNKNOWN_TOPIC"
    TOPIC_EXISTS = "TOPIC_EXISTS"
    INVALID_TOPIC_NAME = "INVALID_TOPIC_NAME"
    UNKNOWN_PARTITION = "UNKNOWN_PARTITION"
    NOT_ENOUGH_BROKERS = "NOT_ENOUGH_BROKERS"
    OFFSET_OUT_OF_RANGE = "OFFSET_OUT_OF_RANGE"
    RECORD_TOO_LARGE = "RECORD_TOO_LARGE"
    CORRUPT_BATCH = "CORRUPT_BATCH"
    UNSUPPORTED_FORMAT = "UNSUPPORTED_FORMAT"
    NOT_ENOUGH_REPLICAS = "NOT_ENOUGH_REPLICAS"
    NOT_ENOUGH_REPLICAS_AFTER_APPEND = "NOT_ENOUGH_REPLICAS_AFTER_APPEND"
    NOT_LEADER = "NOT_LEADER"
    FENCED_EPOCH = "FENCED_EPOCH"
    OUT_OF_ORDER_SEQUENCE = "OUT_OF_ORDER_SEQUENCE"
    PRODUCER_FENCED = "PRODUCER_FENCED"
    BUFFER_FULL = "BUFFER_FULL"
    DELIVERY_TIMEOUT = "DELIVERY_TIMEOUT"
    OPERATION_TIMEOUT = "OPERATION_TIMEOUT"
    DELIVERY_FAILED = "DELIVERY_FAILED"
    PARTIAL_DELIVERY = "PARTIAL_DELIVERY"
    STORAGE_FULL = "STORAGE_FULL"
    COMMIT_FENCED = "COMMIT_FENCED"
    UNKNOWN_MEMBER = "UNKNOWN_MEMBER"
    DESERIALIZATION = "DESERIALIZATION"
    CLIENT_CLOSED = "CLIENT_CLOSED"
    FORKED_CLIENT = "FORKED_CLIENT"
    CLUSTER_UNAVAILABLE = "CLUSTER_UNAVAILABLE"
    DIRECTORY_IN_USE = "DIRECTORY_IN_USE"
    NOT_A_DATA_DIRECTORY = "NOT_A_DATA_DIRECTORY"
    INVALID_CONFIG = "INVALID_CONFIG"
    INVALID_GROUP_NAME = "INVALID_GROUP_NAME"
    INVALID_RECORD = "INVALID_RECORD"
    STORAGE_FAILED = "STORAGE_FAILED"
    BROKER_NOT_READY = "BROKER_NOT_READY"
    INVALID_REQUEST = "INVALID_REQUEST"
    INTERNAL = "INTERNAL"
    INVALID_UPDATE_VERSION = "INVALID_UPDATE_VERSION"
    INELIGIBLE_REPLICA = "INELIGIBLE_REPLICA"
    NOT_CONTROLLER = "NOT_CONTROLLER"


class Outcome(enum.StrEnum):
    """Whether a record whose send failed may be in the log all the same (rule 8)."""

    NOT_WRITTEN = "not_written"
    UNKNOWN = "unknown"


_rows: dict[ErrorCode, type[MillpondError]] = {}
_numbers: Final = MappingProxyType({code: number for number, code in enumerate(ErrorCode, start=1)})


@dataclass_transform(kw_only_default=True, eq_default=False)
class MillpondError(Exception):
    """Root of every error this project raises on purpose.

    Attributes common to all: `code` and `number` (the name and the protobuf number of the row), `status`
    (the gRPC status it travels under), `retriable` (the same call may succeed later, unchanged),
    `refresh_metadata` (ask the cluster who leads before that retry).
    """

    code: ClassVar[ErrorCode]
    number: ClassVar[int]
    status: ClassVar[str]
    retriable: ClassVar[bool] = False
    refresh_metadata: ClassVar[bool] = False
    message: ClassVar[str] = ""

    def __init_subclass__(
        cls,
        *,
        code: ErrorCode,
        status: str,
        retriable: bool = False,
        refresh_metadata: bool = False,
    ) -> None:
        super().__init_subclass__()
        assert code not in _rows or _rows[code].__qualname__ == cls.__qualname__, f"{code} has two classes"
        cls.code = code
        cls.number = _numbers[code]
        cls.status = status
        cls.retriable = retriable
        cls.refresh_metadata = refresh_metadata
        dataclass(kw_only=True, eq=False, repr=False)(cls)
        _rows[code] = cls

    def facts(self) -> dict[str, Any]:
        """The attributes that this error was raised with, by name."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def __str__(self) -> str:
        return self.message.format(**self.facts())

    def __repr__(self) -> str:
        facts = ", ".join(f"{name}={value!r}" for name, value in self.facts().items())
        return f"{type(self).__name__}({facts})"

    def __reduce__(self) -> tuple[Callable[..., MillpondError], tuple[type[MillpondError], dict[str, Any]]]:
        # Exception pickles its positional arguments, of which a keyword-only class has none.
        return _rebuild, (type(self), self.facts())


def _rebuild(cls: type[MillpondError], facts: dict[str, Any]) -> MillpondError:
    return cls(**facts)


# --- topics and partitions ---------------------------------------------------------------------------


class UnknownTopic(MillpondError, code=ErrorCode.UNKNOWN_TOPIC, status="NOT_FOUND", refresh_metadata=True):
    """No topic of that name exists; producing and consuming never create one."""

    topic: str
    outcome: Outcome = Outcome.NOT_WRITTEN
    message = "topic {topic!r} does not exist"


class TopicExists(MillpondError, code=ErrorCode.TOPIC_EXISTS, status="ALREADY_EXISTS"):
    """A topic of that name exists already."""

    topic: str
    message = "topic {topic!r} exists already"


class InvalidTopicName(MillpondError, code=ErrorCode.INVALID_TOPIC_NAME, status="INVALID_ARGUMENT"):
    """The name is not 1 to 249 of the characters a-z A-Z 0-9 . _ -, or is reserved."""

    topic: str
    reason: str
    message = "topic name {topic!r} {reason}"


class UnknownPartition(
    MillpondError, code=ErrorCode.UNKNOWN_PARTITION, status="NOT_FOUND", refresh_metadata=True
):
    """The topic has no partition of that number. `partitions` is how many it has."""

    topic: str
    partition: int
    partitions: int
    outcome: Outcome = Outcome.NOT_WRITTEN
    message = "topic {topic!r} has partitions 0 to {partitions} (exclusive), not {partition}"


class NotEnoughBrokers(MillpondError, code=ErrorCode.NOT_ENOUGH_BROKERS, status="FAILED_PRECONDITION"):
    """More replicas were asked for than there are brokers to hold them."""

    replicas: int
    brokers: int
    message = "{replicas} replicas need as many brokers, and there are {brokers}"


class OffsetOutOfRange(MillpondError, code=ErrorCode.OFFSET_OUT_OF_RANGE, status="OUT_OF_RANGE"):
    """The offset lies outside [log_start, log_end]; both ends are those at the time of the answer."""

    topic: str
    partition: int
    offset: int
    log_start: int
    log_end: int
    message = "{topic}-{partition} holds offsets {log_start} to {log_end} (exclusive), not {offset}"


# --- records and batches -----------------------------------------------------------------------------


class RecordTooLarge(MillpondError, code=ErrorCode.RECORD_TOO_LARGE, status="INVALID_ARGUMENT"):
    """A record or batch is larger than the limit. Sizes in bytes."""

    size_bytes: int
    limit_bytes: int
    outcome: Outcome = Outcome.NOT_WRITTEN
    message = "{size_bytes} bytes are more than the {limit_bytes} allowed"


class InvalidRecord(MillpondError, code=ErrorCode.INVALID_RECORD, status="INVALID_ARGUMENT"):
    """A record or batch says what a producer may not say: a time far ahead, a control bit, bad counts."""

    reason: str
    outcome: Outcome = Outcome.NOT_WRITTEN
    message = "{reason}"


class CorruptBatch(MillpondError, code=ErrorCode.CORRUPT_BATCH, status="DATA_LOSS"):
    """Bytes that should be a record batch are not one: a checksum, a length or a column is wrong.

    `offset` is the offset at which it was found, where it is known: what lies before it is sound.
    """

    reason: str
    offset: int | None = None
    outcome: Outcome = Outcome.NOT_WRITTEN
    message = "corrupt batch: {reason}"


class UnsupportedFormat(MillpondError, code=ErrorCode.UNSUPPORTED_FORMAT, status="UNIMPLEMENTED"):
    """Sound, but of a kind this version does not know or this installation cannot read."""

    what: str
    outcome: Outcome = Outcome.NOT_WRITTEN
    message = "{what}"


class DeserializationError(MillpondError, code=ErrorCode.DESERIALIZATION, status="INVALID_ARGUMENT"):
    """A deserializer failed. `record` holds the raw bytes; the position is already past it."""

    record: Any
    reason: str
    message = "cannot deserialize a record: {reason}"


# --- replication and fencing -------------------------------------------------------------------------


class NotEnoughReplicas(
    MillpondError, code=ErrorCode.NOT_ENOUGH_REPLICAS, status="UNAVAILABLE", retriable=True
):
    """Refused before append: fewer replicas in sync than min-insync asks for."""

    topic: str
    partition: int
    in_sync: int
    needed: int
    outcome: Outcome = Outcome.NOT_WRITTEN
    message = "{topic}-{partition} has {in_sync} replicas in sync and needs {needed}"


class NotEnoughReplicasAfterAppend(
    MillpondError, code=ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND, status="UNAVAILABLE", retriable=True
):
    """Appended, but too few replicas were in sync to confirm it; it may still commit."""

    topic: str
    partition: int
    in_sync: int
    needed: int
    outcome: Outcome = Outcome.UNKNOWN
    message = "{topic}-{partition} fell to {in_sync} replicas in sync of the {needed} needed after the append"


class NotLeader(
    MillpondError,
    code=ErrorCode.NOT_LEADER,
    status="FAILED_PRECONDITION",
    retriable=True,
    refresh_metadata=True,
):
    """This broker does not lead the partition. `leader` is the broker id that does, where it is known."""

    topic: str
    partition: int
    leader: int | None = None
    outcome: Outcome = Outcome.NOT_WRITTEN
    message = "this broker does not lead {topic}-{partition}; the leader is {leader}"


class FencedEpoch(
    MillpondError,
    code=ErrorCode.FENCED_EPOCH,
    status="FAILED_PRECONDITION",
    retriable=True,
    refresh_metadata=True,
):
    """The caller acts on an epoch that has ended."""

    epoch: int
    current: int
    outcome: Outcome = Outcome.NOT_WRITTEN
    message = "epoch {epoch} has ended; the current one is {current}"


class InvalidUpdateVersion(
    MillpondError,
    code=ErrorCode.INVALID_UPDATE_VERSION,
    status="ABORTED",
    retriable=True,
    refresh_metadata=True,
):
    """A partition changed after the change was decided on (rule 11): decide again from its state now."""

    partition_epoch: int
    current: int
    message = "decided on partition epoch {partition_epoch}, and {current} is the current one"


class IneligibleReplica(
    MillpondError,
    code=ErrorCode.INELIGIBLE_REPLICA,
    status="FAILED_PRECONDITION",
    retriable=True,
    refresh_metadata=True,
):
    """A broker may not join the replicas in sync, or lead: it is fenced, stopping, or was restarted."""

    broker: int
    reason: str
    message = "broker {broker} is not eligible: {reason}"


class NotController(
    MillpondError, code=ErrorCode.NOT_CONTROLLER, status="UNAVAILABLE", retriable=True, refresh_metadata=True
):
    """The broker that was asked is not the controller, or knows less than who asks. `controller` is the
    broker id of who is, where it is known.
    """

    controller: int | None = None
    message = "this broker is not the controller; that is {controller}"


class OutOfOrderSequence(MillpondError, code=ErrorCode.OUT_OF_ORDER_SEQUENCE, status="FAILED_PRECONDITION"):
    """A batch skips ahead of the producer's sequence in this partition (rule 17)."""

    producer_id: int
    sequence: int
    expected: int
    outcome: Outcome = Outcome.UNKNOWN
    message = "producer {producer_id} sent sequence {sequence}, expected {expected}"


class ProducerFenced(MillpondError, code=ErrorCode.PRODUCER_FENCED, status="FAILED_PRECONDITION"):
    """A newer incarnation of this producer exists (rule 18)."""

    producer_id: int
    epoch: int
    outcome: Outcome = Outcome.NOT_WRITTEN
    message = "producer {producer_id} epoch {epoch} was replaced by a newer one"


class CommitFenced(MillpondError, code=ErrorCode.COMMIT_FENCED, status="FAILED_PRECONDITION"):
    """The member that commits no longer owns the partition."""

    group: str
    message = "this member of group {group!r} no longer owns what it commits"


class UnknownMember(MillpondError, code=ErrorCode.UNKNOWN_MEMBER, status="NOT_FOUND"):
    """The group does not know this member: it was fenced or never joined."""

    group: str
    member: str
    message = "group {group!r} does not know member {member!r}"


class InvalidGroupName(MillpondError, code=ErrorCode.INVALID_GROUP_NAME, status="INVALID_ARGUMENT"):
    """The name is not 1 to 249 of the characters a-z A-Z 0-9 . _ -."""

    group: str
    reason: str
    message = "group name {group!r} {reason}"


# --- the client --------------------------------------------------------------------------------------


class BufferFull(MillpondError, code=ErrorCode.BUFFER_FULL, status="RESOURCE_EXHAUSTED", retriable=True):
    """The producer's buffer has no room for this record now."""

    buffer_bytes: int
    outcome: Outcome = Outcome.NOT_WRITTEN
    message = "the producer's buffer of {buffer_bytes} bytes is full"


class DeliveryTimeout(
    MillpondError, TimeoutError, code=ErrorCode.DELIVERY_TIMEOUT, status="DEADLINE_EXCEEDED"
):
    """A record was not acknowledged within delivery_timeout."""

    timeout: float
    outcome: Outcome = Outcome.UNKNOWN
    message = "no acknowledgement within {timeout} s"


class OperationTimeout(
    MillpondError, TimeoutError, code=ErrorCode.OPERATION_TIMEOUT, status="DEADLINE_EXCEEDED", retriable=True
):
    """A call did not end within its `timeout=`."""

    what: str
    timeout: float
    message = "{what} did not end within {timeout:.3g} s"


class DeliveryFailed(MillpondError, code=ErrorCode.DELIVERY_FAILED, status="ABORTED"):
    """Records whose failure nobody awaited. `first` is the error of the first of `count`."""

    count: int
    first: BaseException
    message = "{count} records were not delivered; the first: {first}"


class PartialDelivery(MillpondError, code=ErrorCode.PARTIAL_DELIVERY, status="ABORTED"):
    """Some records of a send_many failed. `result` has what succeeded, `failed` an error by index."""

    result: Any
    failed: dict[int, MillpondError]
    message = "some records of the call were not delivered; see .failed"


class ClientClosed(MillpondError, code=ErrorCode.CLIENT_CLOSED, status="CANCELLED"):
    """The object was closed; make a new one."""

    what: str
    outcome: Outcome = Outcome.NOT_WRITTEN
    message = "this {what} is closed"


class ForkedClient(MillpondError, code=ErrorCode.FORKED_CLIENT, status="FAILED_PRECONDITION"):
    """The object was made before a fork and used in the child: sockets, locks and files are the parent's."""

    what: str
    outcome: Outcome = Outcome.NOT_WRITTEN
    message = "this {what} was opened before fork(); open one in the child"


class ClusterUnavailable(
    MillpondError, code=ErrorCode.CLUSTER_UNAVAILABLE, status="UNAVAILABLE", retriable=True
):
    """No broker could be reached, or none that may answer: with `leader_of`, that partition's leader.

    `tried` maps each address to what went wrong there.
    """

    tried: dict[str, str]
    leader_of: str = ""
    """`topic-partition`; empty where any broker would have done."""

    def __str__(self) -> str:
        tried = ", ".join(
            f"{address} ({reason})" if address else reason for address, reason in self.tried.items()
        )
        whom = f"the leader of {self.leader_of} could not" if self.leader_of else "no broker could"
        return f"{whom} be reached: {tried or 'no address is known'}"


class BrokerNotReady(
    MillpondError,
    code=ErrorCode.BROKER_NOT_READY,
    status="UNAVAILABLE",
    retriable=True,
    refresh_metadata=True,
):
    """The broker is starting or stopping, or has no room for the request now; nothing of it was done."""

    reason: str
    outcome: Outcome = Outcome.NOT_WRITTEN
    message = "the broker is not ready: {reason}"


class InvalidRequest(MillpondError, code=ErrorCode.INVALID_REQUEST, status="INVALID_ARGUMENT"):
    """A request means nothing: a field is missing or out of bounds. Nothing of it was done."""

    reason: str
    outcome: Outcome = Outcome.NOT_WRITTEN
    message = "invalid request: {reason}"


class InternalError(MillpondError, code=ErrorCode.INTERNAL, status="INTERNAL"):
    """A broker failed in a way that has no name; its log says more."""

    reason: str
    outcome: Outcome = Outcome.UNKNOWN
    message = "the broker failed: {reason}"


# --- disks and configuration -------------------------------------------------------------------------


class StorageFull(MillpondError, code=ErrorCode.STORAGE_FULL, status="RESOURCE_EXHAUSTED", retriable=True):
    """The disk has no room. Nothing was written; reads go on; writes succeed again once there is room."""

    path: str
    outcome: Outcome = Outcome.NOT_WRITTEN
    message = "no space left for {path}; free some and try again"


class StorageFailed(MillpondError, code=ErrorCode.STORAGE_FAILED, status="UNAVAILABLE", retriable=True):
    """The disk failed under a partition, which takes no writes until it was reopened (rule 40)."""

    path: str
    reason: str
    outcome: Outcome = Outcome.UNKNOWN
    message = "storage failed at {path}: {reason}"


class DirectoryInUse(
    MillpondError, code=ErrorCode.DIRECTORY_IN_USE, status="FAILED_PRECONDITION", retriable=True
):
    """Another process, or another object of this one, has the directory open."""

    path: str
    holder: str
    message = "{path} is in use by {holder}"


class NotADataDirectory(MillpondError, code=ErrorCode.NOT_A_DATA_DIRECTORY, status="FAILED_PRECONDITION"):
    """The directory holds something else, or a damaged identity; nothing in it was touched."""

    path: str
    reason: str
    message = "{path} is not a millpond data directory: {reason}"


class InvalidConfig(MillpondError, code=ErrorCode.INVALID_CONFIG, status="INVALID_ARGUMENT"):
    """A setting is unknown or out of bounds. `key` is its name as it was given."""

    key: str
    reason: str
    message = "{key}: {reason}"


ERRORS: Final = MappingProxyType(_rows)
"""Code to class, complete: what the rpc layer and the client translate with."""

assert set(ERRORS) == set(ErrorCode), "every code has its class"
