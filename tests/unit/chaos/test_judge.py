"""A chaos run's verdict: what it must find in a history, and what in none."""

from __future__ import annotations

from pathlib import Path

from tests.chaos.judge import FRESH, Pause, differences, judge, merged, pauses, summary, write_history
from tests.chaos.nemesis import Strike
from tests.sim.history.operations import FAIL, INFO, INVOKE, OK, Assign, Operation, Poll, Send


def _send(time: float, kind: str, value: str, offset: int | None = None, partition: str = "t-0") -> Send:
    return Send(time=time, process="w", kind=kind, partition=partition, values=(value,), offset=offset)


def _read(time: float, *records: tuple[int, str], process: str = FRESH) -> list[Operation]:
    return [
        Assign(time=time, process=process, partition="t-0", offset=records[0][0]),
        Poll(
            time=time,
            process=process,
            partition="t-0",
            records=records,
            high_watermark=records[-1][0] + 1,
        ),
    ]


SENT = [_send(1.0, INVOKE, "a"), _send(1.1, INVOKE, "b"), _send(1.2, OK, "a", 0), _send(1.3, OK, "b", 1)]


def test_what_was_acknowledged_and_read_afresh_is_clean() -> None:
    verdict = judge([*SENT, *_read(2.0, (0, "a"), (1, "b"))])
    assert (verdict.acknowledged, verdict.read_fresh, verdict.anomalies) == (2, 2, [])


def test_what_the_fresh_reader_lacks_is_told_even_if_another_had_read_it() -> None:
    verdict = judge([*SENT, *_read(1.5, (0, "a"), (1, "b"), process="r1"), *_read(2.0, (0, "a"))])
    assert verdict.anomalies == ["unread-afresh t-0: b at 1, which is None"]


def test_another_value_at_an_acknowledged_offset_is_told() -> None:
    told = " ".join(judge([*SENT, *_read(2.0, (0, "a"), (1, "x"))]).anomalies)
    assert "inconsistent-offsets" in told
    assert "unread-afresh t-0: b at 1, which is x" in told


def test_two_values_acknowledged_at_one_offset_are_not_both_read() -> None:
    history = [*SENT, _send(1.4, INVOKE, "c"), _send(1.5, OK, "c", 1), *_read(2.0, (0, "a"), (1, "c"))]
    assert "unread-afresh t-0: b at 1, which is c" in judge(history).anomalies


def test_what_somebody_read_may_not_vanish_acknowledged_or_not() -> None:
    unknown = [_send(1.4, INVOKE, "c"), _send(1.6, INFO, "c")]
    others = _read(1.5, (0, "a"), (1, "b"), (2, "c"), process="r1")
    whole = _read(2.0, (0, "a"), (1, "b"), (2, "c"))
    assert judge([*SENT, *unknown, *others, *whole]).anomalies == []
    found = judge([*SENT, *unknown, *others, *_read(2.0, (0, "a"), (1, "b"))]).anomalies
    assert found == ["vanished t-0: c at 2, read by r1, which is None"]


def test_what_nobody_sent_is_told() -> None:
    found = judge([*SENT, *_read(2.0, (0, "a"), (1, "b"), (2, "q"))]).anomalies
    assert found == ["phantom t-0: q at 2, which nobody sent"]


def test_the_checkers_anomalies_are_in_it() -> None:
    history = [
        *SENT,
        _send(1.4, INVOKE, "c"),
        _send(1.5, FAIL, "c"),
        *_read(2.0, (0, "a"), (1, "b"), (2, "c")),
    ]
    assert [found.split()[0] for found in judge(history).anomalies] == ["G1a"]


def test_a_run_in_which_nothing_was_acknowledged_proves_nothing() -> None:
    assert judge([_send(1.0, INVOKE, "a"), _send(2.0, INFO, "a")]).anomalies == [
        "nothing was acknowledged at all"
    ]


def test_histories_are_merged_by_time_and_a_torn_last_line_is_none(tmp_path: Path) -> None:
    write_history(SENT[0::2], tmp_path / "one.jsonl")
    write_history(SENT[1::2], tmp_path / "two.jsonl")
    with (tmp_path / "two.jsonl").open("a") as file:
        file.write('{"time": 9.0, "process": "w", "ki')
    assert list(merged(tmp_path.glob("*.jsonl"))) == SENT


def test_replicas_that_have_other_batches_are_told() -> None:
    same = {"t-0": "2 batches, aa", "t-1": "1 batches, bb"}
    assert differences({1: same, 2: same, 3: same}) == []
    found = differences({1: same, 2: same | {"t-1": "1 batches, cc"}, 3: {"t-0": "2 batches, aa"}})
    assert found == ["replicas-differ t-1: {1: '1 batches, bb', 2: '1 batches, cc', 3: None}"]


def _strike(began_at: float, healing_at: float, *, from_heal: bool = False) -> Strike:
    return Strike(("kill",), (1,), began_at, healing_at=healing_at, counts_from_heal=from_heal)


def _written(partition: str, *times: float) -> list[Operation]:
    found: list[Operation] = []
    for offset, acked_at in enumerate(times):
        value = f"{partition}.{offset}"
        found.append(_send(acked_at - 0.1, INVOKE, value, partition=partition))
        found.append(_send(acked_at, OK, value, offset, partition=partition))
    return found


def test_a_pause_is_the_longest_of_the_partition_that_was_hit_worst() -> None:
    history = [*_written("t-0", 1, 2, 3, 4, 5, 6), *_written("t-1", 1, 2, 5, 6), *_written("t-2", 1, 9)]
    assert pauses(history[:-4], [_strike(2.5, 4.0)]) == [Pause("t-1", 2.5, 5)]
    assert pauses(history[:-4], [_strike(2.5, 2.6)]) == [Pause("t-1", 2.5, 5)], "it outlasts the strike"
    assert pauses(history[:-4], [_strike(5.2, 5.4)]) == [Pause("t-0", 5.2, 6)]


def test_where_only_healing_helps_the_time_is_from_its_beginning() -> None:
    history = [*_written("t-0", 1, 2, 6.5), *_written("t-1", 1, 2, 7)]
    assert pauses(history, [_strike(2.5, 6.0, from_heal=True)]) == [Pause("t-1", 6.0, 7)]
    # What was sent before says nothing: it may have been acknowledged before.
    assert pauses(history, [_strike(2.5, 6.45, from_heal=True)]) == [None]


def test_a_partition_that_is_never_written_again_is_told() -> None:
    history = [*_written("t-0", 1, 2, 3, 4), *_written("t-1", 1, 2)]
    assert pauses(history, [_strike(2.5, 3.5)]) == [None]


def test_a_partition_that_was_never_written_at_all_is_told() -> None:
    history = [*_written("t-0", 1, 2, 3, 4), _send(1.0, INVOKE, "x", partition="t-1")]
    assert pauses(history, [_strike(2.5, 3.5)]) == [None]


def test_a_summary_of_times_has_the_worst_of_them() -> None:
    assert summary([3.0, None, 1.0, 2.0]) == "median 2.00 s, p95 3.00 s, max 3.00 s of 3"
    assert summary([None]) == "none"
