"""The error table: complete, consistent, and every row usable by a caller and by another
process.
"""

import copy
import pickle
import string
from dataclasses import MISSING, fields
from typing import Any

import pytest

import millpond.errors
from millpond.wire.errors import (
    ERRORS,
    DeliveryTimeout,
    ErrorCode,
    MillpondError,
    NotLeader,
    OperationTimeout,
    Outcome,
    StorageFull,
    UnknownTopic,
)

GRPC_STATUSES = {
    "CANCELLED",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "UNAVAILABLE",
    "DATA_LOSS",
    "INTERNAL",
}
FACTS: dict[str, Any] = {
    "str": "a {brace} and a name",
    "int": 7,
    "float": 2.5,
    "int | None": 8,
    "Outcome": Outcome.NOT_WRITTEN,
    "Any": ["anything"],
    "BaseException": ValueError("first"),
    "dict[str, str]": {"host:1": "refused"},
    "dict[int, MillpondError]": {},
}
ROWS = pytest.mark.parametrize("cls", ERRORS.values(), ids=lambda cls: cls.__name__)


def facts_of(cls: type[MillpondError]) -> dict[str, Any]:
    """A value for each fact of a row."""
    return {field.name: FACTS[str(field.type)] for field in fields(cls)}  # type: ignore[arg-type]  # every error class is a dataclass


def made(cls: type[MillpondError]) -> MillpondError:
    return cls(**facts_of(cls))


def test_every_code_has_one_class_and_one_number() -> None:
    assert set(ERRORS) == set(ErrorCode)
    assert len(set(ERRORS.values())) == len(ErrorCode)
    assert sorted(cls.number for cls in ERRORS.values()) == list(range(1, len(ErrorCode) + 1))
    assert all(code == code.name for code in ErrorCode)


def test_the_numbers_that_are_on_the_wire_never_change() -> None:
    pinned = (
        "UNKNOWN_TOPIC TOPIC_EXISTS INVALID_TOPIC_NAME UNKNOWN_PARTITION NOT_ENOUGH_BROKERS "
        "OFFSET_OUT_OF_RANGE RECORD_TOO_LARGE CORRUPT_BATCH UNSUPPORTED_FORMAT "
        "NOT_ENOUGH_REPLICAS NOT_ENOUGH_REPLICAS_AFTER_APPEND NOT_LEADER FENCED_EPOCH "
        "OUT_OF_ORDER_SEQUENCE PRODUCER_FENCED BUFFER_FULL DELIVERY_TIMEOUT OPERATION_TIMEOUT "
        "DELIVERY_FAILED PARTIAL_DELIVERY STORAGE_FULL COMMIT_FENCED UNKNOWN_MEMBER "
        "DESERIALIZATION CLIENT_CLOSED FORKED_CLIENT CLUSTER_UNAVAILABLE DIRECTORY_IN_USE "
        "NOT_A_DATA_DIRECTORY INVALID_CONFIG INVALID_GROUP_NAME INVALID_RECORD STORAGE_FAILED "
        "BROKER_NOT_READY INVALID_REQUEST INTERNAL INVALID_UPDATE_VERSION INELIGIBLE_REPLICA NOT_CONTROLLER"
    ).split()
    assert [code.value for code in ErrorCode][: len(pinned)] == pinned, "rows are only added"


def test_every_row_is_public() -> None:
    for cls in ERRORS.values():
        assert getattr(millpond.errors, cls.__name__) is cls


@ROWS
def test_a_row_says_how_it_travels_and_what_it_means(cls: type[MillpondError]) -> None:
    assert cls.status in GRPC_STATUSES
    assert ERRORS[cls.code] is cls
    assert cls.__doc__
    assert not (cls.refresh_metadata and cls.status == "INVALID_ARGUMENT")


@ROWS
def test_a_message_is_made_of_facts_that_the_error_has(cls: type[MillpondError]) -> None:
    named = {name for _, name, _, _ in string.Formatter().parse(cls.message) if name}
    assert named <= {field.name for field in fields(cls)}  # type: ignore[arg-type]  # every error class is a dataclass
    facts = facts_of(cls)
    text = str(cls(**facts))
    assert text
    assert all(str(facts[name]) in text for name in named)


@ROWS
def test_an_error_keeps_its_facts_and_shows_them(cls: type[MillpondError]) -> None:
    facts = facts_of(cls)
    error = cls(**facts)
    assert error.facts() == facts
    assert all(getattr(error, name) == value for name, value in facts.items())
    assert repr(error).startswith(f"{cls.__name__}(")
    assert all(f"{name}={value!r}" in repr(error) for name, value in facts.items())


@ROWS
@pytest.mark.parametrize("how", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
def test_an_error_survives_a_copy_and_a_way_to_another_process(cls: type[MillpondError], how: Any) -> None:
    error = made(cls)
    again = how(error)
    assert type(again) is cls
    assert str(again) == str(error)
    assert set(again.facts()) == set(error.facts())


@ROWS
def test_a_fact_that_is_missing_or_unknown_is_refused(cls: type[MillpondError]) -> None:
    facts = facts_of(cls)
    with pytest.raises(TypeError):
        cls(**{**facts, "unheard_of": 1})
    with pytest.raises(TypeError):
        cls(*facts.values())
    needed = [field.name for field in fields(cls) if field.default is MISSING]  # type: ignore[arg-type]  # every error class is a dataclass
    for name in needed:
        with pytest.raises(TypeError, match=name):
            cls(**{key: value for key, value in facts.items() if key != name})


def test_timeouts_are_also_the_language_s_own() -> None:
    own = {cls for cls in ERRORS.values() if issubclass(cls, TimeoutError)}
    assert own == {DeliveryTimeout, OperationTimeout}
    with pytest.raises(TimeoutError, match=r"topics\(\) did not end within 1.5 s"):
        raise OperationTimeout(what="topics()", timeout=1.5)


def test_an_error_of_a_send_says_whether_the_record_may_be_in_the_log() -> None:
    defaults = {
        cls.__name__: field.default
        for cls in ERRORS.values()
        for field in fields(cls)  # type: ignore[arg-type]  # every error class is a dataclass
        if field.name == "outcome"
    }
    unknown = {name for name, outcome in defaults.items() if outcome is Outcome.UNKNOWN}
    assert unknown == {
        "DeliveryTimeout",
        "InternalError",
        "NotEnoughReplicasAfterAppend",
        "OutOfOrderSequence",
        "StorageFailed",
    }
    not_written = {name for name, outcome in defaults.items() if outcome is Outcome.NOT_WRITTEN}
    assert not_written == {
        "BrokerNotReady",
        "BufferFull",
        "ClientClosed",
        "CorruptBatch",
        "FencedEpoch",
        "ForkedClient",
        "InvalidRecord",
        "InvalidRequest",
        "NotEnoughReplicas",
        "NotLeader",
        "ProducerFenced",
        "RecordTooLarge",
        "StorageFull",
        "UnknownPartition",
        "UnknownTopic",
        "UnsupportedFormat",
    }
    assert set(defaults) == unknown | not_written, "no send leaves it open"


def test_an_outcome_may_be_told_apart_from_its_default() -> None:
    error = StorageFull(path="/data", outcome=Outcome.UNKNOWN)
    assert error.outcome is Outcome.UNKNOWN
    assert pickle.loads(pickle.dumps(error)).outcome is Outcome.UNKNOWN


def test_an_error_is_raised_and_caught_like_any_other() -> None:
    with pytest.raises(MillpondError, match="topic 'orders' does not exist") as caught:
        raise UnknownTopic(topic="orders")
    caught.value.add_note("a note is no fact")
    assert caught.value.facts() == {"topic": "orders", "outcome": Outcome.NOT_WRITTEN}
    assert pickle.loads(pickle.dumps(caught.value)).facts() == {
        "topic": "orders",
        "outcome": Outcome.NOT_WRITTEN,
    }


def test_who_leads_is_asked_again_where_that_can_help() -> None:
    asking = {cls.__name__ for cls in ERRORS.values() if cls.refresh_metadata}
    of_brokers = {"InvalidUpdateVersion", "IneligibleReplica", "NotController"}
    of_clients = {"UnknownTopic", "UnknownPartition", "NotLeader", "FencedEpoch", "BrokerNotReady"}
    assert asking == of_clients | of_brokers
    assert NotLeader(topic="orders", partition=0).leader is None


def test_a_second_class_for_a_code_is_refused() -> None:
    with pytest.raises(AssertionError, match="two classes"):

        class Another(MillpondError, code=ErrorCode.NOT_LEADER, status="UNAVAILABLE"):
            pass

    assert ERRORS[ErrorCode.NOT_LEADER] is NotLeader
