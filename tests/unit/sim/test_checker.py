"""The checker finds each anomaly in a small history that contains it, and nothing in one that does not."""

from __future__ import annotations

from itertools import count

import pytest

from tests.sim.history.checker import check
from tests.sim.history.operations import (
    FAIL,
    INFO,
    INVOKE,
    OK,
    Assign,
    Crash,
    Delete,
    Gap,
    Operation,
    Poll,
    Refused,
    Send,
    Settings,
    Trim,
    from_lines,
    to_lines,
)

_TIME = count()


def sent(
    *values: str, at: int | None = 0, kind: str = OK, by: str = "p", acks: str = "all"
) -> list[Operation]:
    """A send, from its beginning to its end."""
    invoked = Send(time=next(_TIME), process=by, kind=INVOKE, partition="t-0", values=values, acks=acks)
    ended = Send(
        time=next(_TIME),
        process=by,
        kind=kind,
        partition="t-0",
        values=values,
        acks=acks,
        offset=at if kind == OK else None,
    )
    return [invoked, ended]


def read(*records: tuple[int, str], by: str = "r", hw: int = 100, session: str = "") -> list[Operation]:
    """A poll."""
    return [
        Poll(
            time=next(_TIME), process=by, partition="t-0", records=records, high_watermark=hw, session=session
        )
    ]


def assigned(offset: int, by: str = "r") -> list[Operation]:
    return [Assign(time=next(_TIME), process=by, partition="t-0", offset=offset)]


def all_sent(count: int) -> list[Operation]:
    """Values v0, v1, … at 0, 1, …, all read by somebody."""
    values = [f"v{number}" for number in range(count)]
    return [*sent(*values, by="all"), *read(*enumerate(values), by="reader of all")]


NOT_KEPT: list[Operation] = [Settings(partition="t-0", is_kept=False)]

BROKEN: dict[str, list[list[Operation]]] = {
    "lost-write": [[*sent("a", at=0), *sent("b", at=1), *read((1, "b"))]],
    "unseen": [[*sent("a", at=0), *sent("b", at=1), *read((0, "a"))], sent("a", at=0)],
    "inconsistent-offsets": [
        [*read((0, "a")), *read((0, "b"), by="another")],
        [*sent("a", at=0), *read((0, "b"), (1, "a"))],
    ],
    "duplicate": [[*sent("a", at=0), *read((0, "a"), (1, "a"))]],
    "G1a": [[*sent("a", kind=FAIL), *read((0, "a"))]],
    "int-poll-skip": [[*all_sent(3), *read((0, "v0"), (2, "v2"))]],
    "int-nonmonotonic-poll": [[*all_sent(3), *read((1, "v1"), (0, "v0"))]],
    "poll-skip": [
        [*all_sent(3), *read((0, "v0")), *read((2, "v2"))],
        [*all_sent(3), *assigned(1), *read((2, "v2"))],
    ],
    "nonmonotonic-poll": [
        [*all_sent(3), *read((1, "v1")), *read((0, "v0"))],
        [*all_sent(3), *assigned(1), *read((0, "v0"))],
    ],
    "nonmonotonic-send": [[*sent("a", at=1), *sent("b", at=0), *read((0, "b"), (1, "a"))]],
    "nonmonotonic-hw": [
        [*all_sent(2), *read((0, "v0"), (1, "v1"), hw=1)],
        [*all_sent(2), *read((0, "v0"), hw=2, session="s"), *read((1, "v1"), hw=1, session="s")],
    ],
    "out-of-range": [[Refused(time=0, process="r", partition="t-0", offset=7, error="OffsetOutOfRange")]],
}

SOUND: dict[str, list[Operation]] = {
    "nothing at all": [],
    "sent and read": [*sent("a", "b", at=0), *sent("c", at=2), *read((0, "a"), (1, "b")), *read((2, "c"))],
    "read before it was acknowledged": [
        *sent("a", at=0)[:1],
        *read((0, "a")),
        *sent("a", at=0)[1:],
    ],
    "an unknown outcome, written": [*sent("a", kind=INFO), *read((0, "a"))],
    "an unknown outcome, not written": [*sent("a", kind=INFO), *sent("b", at=0), *read((0, "b"))],
    "a failure, not written": [*sent("a", kind=FAIL), *sent("b", at=0), *read((0, "b"))],
    "a send that never ended": [*sent("a")[:1]],
    "acknowledged by a leader alone, and lost": [*sent("a", acks="leader"), *sent("b"), *read((0, "b"))],
    "a topic that may lose": [*NOT_KEPT, *sent("a", at=0), *sent("b", at=0), *read((0, "b"))],
    "read from the beginning again": [*all_sent(2), *read((1, "v1")), *assigned(0), *read((0, "v0"))],
    "a gap where nobody knows of anything": [*read((0, "a"), (5, "b")), *read((9, "c"))],
    "two processes, each in its order": [*all_sent(2), *read((1, "v1")), *read((0, "v0"), by="another")],
    "two senders, each in its order": [
        *sent("a", at=1),
        *sent("b", at=0, by="another"),
        *read((0, "b"), (1, "a")),
    ],
    "a high watermark that moved back with the leader": [
        *all_sent(2),
        *read((0, "v0"), hw=2, session="1"),
        *read((1, "v1"), hw=2, session="2"),
        *read((0, "v0"), hw=1, session="3", by="another"),
    ],
    "a client that crashed": [*sent("a")[:1], Crash(time=1, process="p"), *read((0, "a"))],
}


@pytest.mark.parametrize(
    ("name", "history"), [(name, history) for name, histories in BROKEN.items() for history in histories]
)
def test_an_anomaly_is_found(name: str, history: list[Operation]) -> None:
    assert name in {anomaly.name for anomaly in check(history)}


@pytest.mark.parametrize("name", SOUND)
def test_nothing_is_found_where_nothing_is_wrong(name: str) -> None:
    assert check(SOUND[name]) == []


def test_a_history_survives_being_written_down() -> None:
    history = [operation for sound in SOUND.values() for operation in sound]
    assert from_lines(to_lines(history)) == history


def trimmed(offset: int) -> list[Operation]:
    return [Trim(time=next(_TIME), process="admin", partition="t-0", offset=offset)]


def gap(offset: int, resumed_at: int, by: str = "r") -> list[Operation]:
    return [
        Gap(time=next(_TIME), process=by, partition="t-0", offset=offset, resumed_at=resumed_at),
    ]


def test_what_was_trimmed_is_no_loss() -> None:
    sends = [operation for number in range(4) for operation in sent(f"v{number}", at=number)]
    later = [*assigned(0), *read((2, "v2"), (3, "v3"))]
    assert {anomaly.name for anomaly in check([*sends, *later])} == {"lost-write", "poll-skip"}
    assert check([*sends, *trimmed(2), *later]) == []
    assert {anomaly.name for anomaly in check([*sends, *trimmed(1), *later])} == {"lost-write", "poll-skip"}


def test_a_gap_is_right_where_it_was_trimmed_only() -> None:
    sends = [operation for number in range(4) for operation in sent(f"v{number}", at=number)]
    reads = [*assigned(0), *read((0, "v0")), *gap(1, 3), *read((3, "v3"))]
    assert check([*sends, *trimmed(3), *reads]) == []
    assert "gap" in {anomaly.name for anomaly in check([*sends, *trimmed(2), *reads])}


def test_what_a_deleted_topic_had_is_no_loss_but_may_not_be_wrong() -> None:
    deleted = [Delete(time=next(_TIME), process="admin", partition="t-0")]
    assert check([*sent("v0", at=0), *deleted]) == []
    doubled = [*read((0, "v0")), *read((1, "v0"), by="other")]
    assert {anomaly.name for anomaly in check([*doubled, *deleted])} == {"duplicate"}
