"""What a chaos run knows of leaders and ISRs at each time, and what its report makes of a pause by that."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from millpond._core.cluster import PartitionView
from tests.chaos.judge import Pause, Verdict
from tests.chaos.nemesis import Strike
from tests.chaos.report import Report
from tests.chaos.timeline import Standing, Timeline


def _told(epoch: int, leader: int | None, *isr: int) -> PartitionView:
    return PartitionView(0, leader, epoch, epoch, (1, 2, 3), isr, ())


def _timeline() -> Timeline:
    """Whole until 10; one in sync until 13; nobody leads until 14; whole again."""
    timeline = Timeline("t", min_insync=2)
    timeline.heard(1, 0.5)
    timeline.note(0, _told(1, 1, 1, 2, 3), 5.0)
    timeline.note(0, _told(2, 1, 1), 10.0)
    timeline.note(0, _told(3, None, 1), 13.0)
    timeline.note(0, _told(4, 2, 2, 3), 14.0)
    return timeline


def test_of_a_stretch_of_time_it_says_how_long_writes_could_not_be_acknowledged() -> None:
    timeline = _timeline()
    assert timeline.between("t-0", 9.0, 15.0) == Standing(leaderless=1.0, too_few=3.0)
    assert timeline.between("t-0", 11.0, 12.5) == Standing(leaderless=0.0, too_few=1.5)
    assert timeline.between("t-0", 13.5, 13.75) == Standing(leaderless=0.25, too_few=0.0)
    assert timeline.between("t-0", 1.0, 9.0) == timeline.between("t-0", 14.0, 99.0) == Standing()
    assert timeline.between("t-1", 1.0, 99.0) == Standing(), "nothing was told of it"


def test_the_time_in_which_no_broker_serves_is_told_by_itself() -> None:
    timeline = Timeline("t", min_insync=2)
    timeline.heard(1, 1.0)
    timeline.heard(1, 2.0)
    timeline.note(0, _told(1, 1, 1), 3.0)
    timeline.heard(-1, 4.0)
    timeline.heard(-1, 5.0)
    timeline.heard(1, 8.0)
    assert timeline.between("t-0", 4.5, 9.0) == Standing(unheard=3.0, too_few=1.5)


def test_metadata_that_somebody_has_later_than_others_change_nothing() -> None:
    timeline = _timeline()
    timeline.note(0, _told(2, 1, 1), 20.0)
    timeline.note(0, _told(4, 2, 2, 3), 21.0)
    assert timeline.between("t-0", 14.0, 99.0) == Standing()


def test_it_is_written_as_lines_in_the_order_of_time(tmp_path: Path) -> None:
    timeline = _timeline()
    timeline.note(1, _told(1, 3, 3), 7.0)
    timeline.write(tmp_path / "metadata.log")
    lines = [json.loads(line) for line in (tmp_path / "metadata.log").read_text().splitlines()]
    assert [(line["time"], line["partition"]) for line in lines[:3]] == [(5, "t-0"), (7, "t-1"), (10, "t-0")]
    assert lines[2]["isr"] == [1]


def _strike(began_at: float, healing_at: float) -> Strike:
    return Strike(("term",), (1,), began_at, healing_at=healing_at, healed_at=healing_at)


def test_a_pause_with_too_few_in_sync_is_told_apart_from_others(capsys: pytest.CaptureFixture[str]) -> None:
    strikes = [_strike(6.0, 7.0), _strike(9.9, 12.0), _strike(13.9, 14.0), _strike(20.0, 21.0)]
    found = [Pause("t-0", 6.0, 6.7), Pause("t-0", 9.9, 14.5), Pause("t-0", 13.9, 14.5), None]
    report = Report(
        strikes, found, _timeline(), Verdict(acknowledged=9, read_fresh=9, operations=9, anomalies=[])
    )
    summary = report.show()
    told = capsys.readouterr().out.splitlines()
    assert "longest pause 0.70 s (t-0 from " in told[0]
    assert "in sync" not in told[0]
    assert "4.60 s (" in told[1]
    assert (
        "3.00 s of it with fewer than 2 in sync; 1.00 s of it without a leader; strike 3 in it, too"
        in told[1]
    )
    assert "FOR GOOD" in told[3]
    assert summary == (
        "4 strikes, 9 acknowledged; pauses with enough in sync: median 0.70 s, p95 0.70 s, max 0.70 s of 2;"
        " with too few: median 4.60 s, p95 4.60 s, max 4.60 s of 1"
    )
