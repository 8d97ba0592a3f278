"""The public names, pinned: one that comes or goes is a decision, and shows in this file."""

from __future__ import annotations

import millpond
from millpond import embedded, errors, testing

PUBLIC = [
    "Ack",
    "Client",
    "Consumer",
    "Delivery",
    "Headers",
    "Producer",
    "Record",
    "RecordBatch",
    "SendResult",
    "Serde",
    "SerdeContext",
    "TopicPartition",
    "__version__",
    "connect",
]

EMBEDDED = ["GroupStats", "PartitionStats", "Queue", "QueueStats", "open"]

TESTING = ["LocalCluster"]

ERRORS = [
    "ERRORS",
    "BrokerNotReady",
    "BufferFull",
    "ClientClosed",
    "ClusterUnavailable",
    "CommitFenced",
    "CorruptBatch",
    "DeliveryFailed",
    "DeliveryTimeout",
    "DeserializationError",
    "DirectoryInUse",
    "ErrorCode",
    "FencedEpoch",
    "ForkedClient",
    "IneligibleReplica",
    "InternalError",
    "InvalidConfig",
    "InvalidGroupName",
    "InvalidRecord",
    "InvalidRequest",
    "InvalidTopicName",
    "InvalidUpdateVersion",
    "MillpondError",
    "NotADataDirectory",
    "NotController",
    "NotEnoughBrokers",
    "NotEnoughReplicas",
    "NotEnoughReplicasAfterAppend",
    "NotLeader",
    "OffsetOutOfRange",
    "OperationTimeout",
    "OutOfOrderSequence",
    "Outcome",
    "PartialDelivery",
    "ProducerFenced",
    "RecordTooLarge",
    "StorageFailed",
    "StorageFull",
    "TopicExists",
    "UnknownMember",
    "UnknownPartition",
    "UnknownTopic",
    "UnsupportedFormat",
]


def test_the_package_exports_exactly_this() -> None:
    assert sorted(millpond.__all__) == sorted(PUBLIC)


def test_the_embedded_queue_exports_exactly_this() -> None:
    assert sorted(embedded.__all__) == sorted(EMBEDDED)


def test_the_support_for_tests_exports_exactly_this() -> None:
    assert sorted(testing.__all__) == sorted(TESTING)


def test_the_errors_are_exactly_these() -> None:
    assert sorted(errors.__all__) == sorted(ERRORS)


def test_every_exported_name_is_there() -> None:
    for module in (millpond, embedded, errors, testing):
        for name in module.__all__:
            assert hasattr(module, name), f"{module.__name__}.{name}"


def test_every_error_of_the_table_is_public() -> None:
    assert {cls.__name__ for cls in errors.ERRORS.values()} <= set(errors.__all__)
