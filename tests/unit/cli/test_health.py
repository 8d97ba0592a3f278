"""Whether a cluster is healthy, and what is said when it is not."""

from __future__ import annotations

import uuid
from dataclasses import replace

import pytest

from millpond.admin import BrokerDescription, PartitionDescription, TopicDescription
from millpond.cli import cluster
from millpond.cli import main as command
from millpond.cli.health import NAMED_MAX, problems_of

WELL = PartitionDescription(partition=0, leader=1, leader_epoch=3, replicas=(1, 2, 3), isr=(1, 2, 3), elr=())


def brokers(*states: str, controller: int | None = 1) -> list[BrokerDescription]:
    return [
        BrokerDescription(
            id=number,
            address=f"b{number}:7070",
            rack="",
            state=state,
            controller=number == controller,
            epoch=1,
            version="1",
        )
        for number, state in enumerate(states, 1)
    ]


def topic(*partitions: PartitionDescription) -> TopicDescription:
    numbered = tuple(replace(each, partition=number) for number, each in enumerate(partitions))
    return TopicDescription(
        name="t", id=uuid.UUID(int=1), replicas=3, min_insync=2, config={}, partitions=numbered
    )


THREE = brokers("running", "running", "running")


def test_a_cluster_that_is_as_it_should_be_has_no_problem() -> None:
    assert problems_of(THREE, [topic(WELL, replace(WELL, replicas=(2, 1, 3), leader=2))]) == []


@pytest.mark.parametrize(
    ("partition", "name"),
    [
        (replace(WELL, isr=(1, 2)), "under_replicated"),
        (replace(WELL, isr=(1,)), "under_min_insync"),
        (replace(WELL, leader=None, isr=()), "without_leader"),
        (replace(WELL, leader=None, isr=(), replicas=(4, 5)), "offline"),
        (replace(WELL, leader=2), "not_preferred"),
    ],
)
def test_what_is_wrong_with_a_partition_is_said_once_by_its_name(
    partition: PartitionDescription, name: str
) -> None:
    (problem,) = problems_of(THREE, [topic(WELL, partition)])
    assert (problem.name, problem.count, problem.first) == (name, 1, ("t/1",))
    assert problem.harmful == (name != "not_preferred")
    assert problem.line.startswith("1 partition ")
    assert problem.do


def test_a_preferred_leader_that_is_not_in_sync_cannot_lead_and_is_no_problem_of_its_own() -> None:
    names = [problem.name for problem in problems_of(THREE, [topic(replace(WELL, leader=2, isr=(2, 3)))])]
    assert names == ["under_replicated"]


def test_brokers_that_do_not_run_and_a_missing_controller_come_first() -> None:
    problems = problems_of(
        brokers("running", "fenced", "stopping", controller=None), [topic(replace(WELL, isr=(1,)))]
    )
    assert [problem.name for problem in problems] == ["without_controller", "not_running", "under_min_insync"]
    assert problems[1].line == (
        "2 brokers not running: broker 2 (fenced, b2:7070), broker 3 (stopping, b3:7070)"
    )


def test_of_many_the_first_few_are_named() -> None:
    (problem,) = problems_of(THREE, [topic(*[replace(WELL, isr=(1, 2))] * 2000)])
    assert problem.line == (
        "2,000 partitions with fewer replicas in sync than they have: t/0, t/1, t/2, t/3, t/4, and 1,995 more"
    )
    assert len(problem.as_dict()["first"]) == NAMED_MAX


def test_the_screen_says_what_is_wrong_and_what_to_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = (brokers("running", "fenced", "running"), [topic(replace(WELL, isr=(1, 3)), WELL)])
    monkeypatch.setattr(cluster, "with_client", lambda *_: found)
    assert command(["cluster", "status"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "healthy:            no"
    assert " 2  b2:7070  fenced   no              0         2" in lines
    at = lines.index("1 broker not running: broker 2 (fenced, b2:7070)")
    assert "millpond broker --config FILE" in lines[at + 1]
    assert "1 partition with fewer replicas in sync than they have: t/0" in lines
