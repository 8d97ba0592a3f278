"""Errors as they travel: what a broker says becomes the class it means, whatever is missing."""

from __future__ import annotations

import pytest

from millpond._transport.translate import error_in, error_of
from millpond.v1.errors_pb2 import ErrorDetail
from millpond.wire.errors import (
    ERRORS,
    ClusterUnavailable,
    CorruptBatch,
    DeliveryFailed,
    InternalError,
    MillpondError,
    NotLeader,
    OffsetOutOfRange,
    OperationTimeout,
    Outcome,
    StorageFailed,
    UnknownTopic,
)


def detail(cls: type[MillpondError], **facts: str) -> ErrorDetail:
    return ErrorDetail(code=cls.number, message="told", facts=facts)  # type: ignore[arg-type]  # numbers are open


def test_facts_have_the_types_of_the_class() -> None:
    error = error_of(
        detail(OffsetOutOfRange, topic="a", partition="1", offset="2", log_start="3", log_end="4")
    )
    assert isinstance(error, OffsetOutOfRange)
    assert error.facts() == {"topic": "a", "partition": 1, "offset": 2, "log_start": 3, "log_end": 4}


def test_an_optional_fact_left_out_is_none() -> None:
    error = error_of(detail(NotLeader, topic="a", partition="0", outcome="unknown"))
    assert isinstance(error, NotLeader)
    assert error.leader is None
    assert error.outcome is Outcome.UNKNOWN
    assert error_of(detail(CorruptBatch, reason="checksum", offset="7")).facts()["offset"] == 7


def test_a_missing_outcome_is_that_of_the_class() -> None:
    assert error_of(detail(StorageFailed, path="/d", reason="io")).facts()["outcome"] is Outcome.UNKNOWN


@pytest.mark.parametrize("cls", list(ERRORS.values()), ids=lambda cls: cls.__name__)
def test_every_error_can_be_told_without_any_fact_and_with_nonsense(cls: type[MillpondError]) -> None:
    for facts in ({}, dict.fromkeys(cls.__dataclass_fields__, "nonsense")):  # type: ignore[attr-defined]  # a dataclass
        error = error_of(detail(cls, **facts))
        assert type(error) is cls
        assert str(error)


def test_facts_of_other_types() -> None:
    assert error_of(detail(OperationTimeout, what="x", timeout="1.5")).facts()["timeout"] == 1.5
    failed = error_of(detail(DeliveryFailed, count="2", first="boom"))
    assert isinstance(failed, DeliveryFailed)
    assert "boom" in str(failed.first)
    assert error_of(detail(ClusterUnavailable, tried="b1 refused")).facts()["tried"] == {"": "b1 refused"}


def test_a_code_of_a_newer_broker_is_an_internal_error_that_says_so() -> None:
    error = error_of(ErrorDetail(code=4711, message="moon phase"))  # type: ignore[arg-type]  # an open enum
    assert isinstance(error, InternalError)
    assert "4711" in str(error)
    assert "moon phase" in str(error)


def test_the_error_is_found_in_trailing_metadata() -> None:
    told = detail(UnknownTopic, topic="a").SerializeToString()
    assert isinstance(error_in((("other", "x"), ("millpond-error-bin", told))), UnknownTopic)
    assert error_in(()) is None
    assert error_in(None) is None
    assert error_in((("millpond-error-bin", b"\xff\xff"),)) is None
