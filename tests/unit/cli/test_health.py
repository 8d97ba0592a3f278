"""Whether a cluster is healthy, and what is said when it is not."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace

import pytest

from millpond.admin import BrokerDescription, ClusterStatus, PartitionDescription, TopicDescription
from millpond.cli import cluster
from millpond.cli import main as command
from millpond.cli.health import LATER, NAMED_MAX, problems_of

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
            voter=True,
        )
        for number, state in enumerate(states, 1)
    ]


def topic(*partitions: PartitionDescription) -> TopicDescription:
    numbered = tuple(replace(each, partition=number) for number, each in enumerate(partitions))
    return TopicDescription(
        name="t", id=uuid.UUID(int=1), replicas=3, min_insync=2, config={}, partitions=numbered
    )


def told(
    found: list[BrokerDescription],
    *topics: TopicDescription,
    silent: dict[int, str] | None = None,
    not_ready: dict[int, str] | None = None,
    unheard_seconds: float = 0.2,
    behind: bool = False,
) -> ClusterStatus:
    return ClusterStatus(
        brokers=tuple(found),
        topics=topics,
        current=unheard_seconds <= 3.0 and not behind,
        told_by=1,
        unheard_seconds=unheard_seconds,
        silent=silent or {},
        not_ready=not_ready or {},
        behind=behind,
    )


THREE = brokers("running", "running", "running")
REFUSED = "connection refused"


def named(status: ClusterStatus) -> list[str]:
    return [problem.name for problem in problems_of(status)]


def test_a_cluster_that_is_as_it_should_be_has_no_problem() -> None:
    assert problems_of(told(THREE, topic(WELL, replace(WELL, replicas=(2, 1, 3), leader=2)))) == []


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
    (problem,) = problems_of(told(THREE, topic(WELL, partition)))
    assert (problem.name, problem.count, problem.first) == (name, 1, ("t/1",))
    assert problem.harmful == (name != "not_preferred")
    assert problem.line.startswith("1 partition ")
    assert problem.do


def test_a_preferred_leader_that_is_not_in_sync_cannot_lead_and_is_no_problem_of_its_own() -> None:
    assert named(told(THREE, topic(replace(WELL, leader=2, isr=(2, 3))))) == ["under_replicated"]


def test_brokers_that_do_not_run_and_a_missing_controller_come_first() -> None:
    found = brokers("running", "fenced", "stopping", controller=None)
    problems = problems_of(told(found, topic(replace(WELL, isr=(1,))), silent={2: REFUSED, 3: REFUSED}))
    assert [problem.name for problem in problems] == ["without_controller", "not_running", "under_min_insync"]
    assert problems[1].line == (
        "2 brokers not running: broker 2 (fenced, b2:7070: connection refused),"
        " broker 3 (stopping, b3:7070: connection refused)"
    )


def test_a_broker_that_left_for_good_is_told_and_harms_nobody() -> None:
    four = brokers("running", "running", "running", "fenced")
    four[3] = replace(four[3], voter=False)
    status = told(four, topic(WELL), silent={4: REFUSED})
    (problem,) = problems_of(status)
    assert (problem.name, problem.harmful, problem.first) == ("left", False, ("broker 4 (fenced, b4:7070)",))
    holds = told(four, topic(replace(WELL, replicas=(1, 2, 4), isr=(1, 2))), silent={4: REFUSED})
    assert named(holds) == ["not_running", "under_replicated"]
    four[3] = replace(four[3], voter=True)
    assert named(told(four, topic(WELL), silent={4: REFUSED})) == ["not_running"]


def test_a_broker_that_answers_and_is_out_of_the_cluster_is_not_to_be_started() -> None:
    (problem,) = problems_of(told(brokers("running", "running", "fenced")))
    assert (problem.name, problem.first) == ("out_of_cluster", ("broker 3 (fenced, b3:7070)",))
    assert "start" not in problem.do


def test_a_broker_that_does_not_answer_is_a_problem_before_the_cluster_knows_and_its_leaderships_are() -> (
    None
):
    status = told(THREE, topic(WELL, replace(WELL, leader=2, replicas=(2, 1, 3))), silent={2: REFUSED})
    silent, led = problems_of(status)
    assert (silent.name, silent.first) == ("silent", ("broker 2 (running, b2:7070: connection refused)",))
    assert (led.name, led.first) == ("leader_silent", ("t/1",))
    assert "another replica in sync leads" in led.do, "of three voters two are left"


def test_with_too_few_voters_answering_nobody_is_told_to_wait_for_another_leader() -> None:
    status = told(THREE, topic(replace(WELL, leader=2)), silent={2: REFUSED, 3: REFUSED})
    silent, led = problems_of(status)
    assert "while 1 of 3 voters run, nothing can change" in silent.do
    assert led.do == LATER


def test_what_is_told_without_a_majority_is_old_and_held_against_who_answers() -> None:
    unreachable = brokers("running", "unreachable", "unreachable", controller=None)
    silent = {2: REFUSED, 3: "no answer within 2 s"}
    partitions = (
        WELL,
        replace(WELL, leader=2, replicas=(2, 1, 3)),
        replace(WELL, leader=3, replicas=(3, 2), isr=(2, 3)),
        replace(WELL, leader=None, isr=(), elr=(1,)),
    )
    status = told(unreachable, topic(*partitions), silent=silent, unheard_seconds=14.3)
    problems = problems_of(status)
    assert [(problem.name, problem.count) for problem in problems] == [
        ("out_of_touch", 1),
        ("not_running", 2),
        ("offline", 1),
        ("without_leader", 1),
        ("leader_silent", 1),
        ("under_min_insync", 1),
    ]
    assert all(problem.harmful for problem in problems)
    assert "broker 1 has heard of none for 14 s" in problems[0].says
    assert "until 2 of the 3 voters run (1 of them answering here)" in problems[0].do
    assert problems[1].first == (
        "broker 2 (unreachable, b2:7070: connection refused)",
        "broker 3 (unreachable, b3:7070: no answer within 2 s)",
    )
    assert {problem.do for problem in problems[2:]} == {LATER}, "nobody is told to elect an unclean leader"


STARTING = "broker 2 is starting"


@pytest.mark.parametrize("state", ["running", "fenced"])
def test_a_broker_that_is_not_ready_runs_and_is_not_to_be_started(state: str) -> None:
    """Whatever the cluster still takes it for. What it led is led by nobody."""
    status = told(
        brokers("running", state, "running"), topic(replace(WELL, leader=2)), not_ready={2: STARTING}
    )
    not_ready, led = problems_of(status)
    assert not_ready.name == "not_ready"
    assert not_ready.line == (
        f"1 broker answering here, and not ready: broker 2 ({state}, b2:7070: broker 2 is starting)"
    )
    assert not_ready.do.startswith("wait some seconds: they run")
    assert not_ready.harmful
    assert "start them" not in not_ready.do
    assert led.name == "leader_silent"


def test_a_voter_that_is_starting_is_one_of_those_that_are_here() -> None:
    """With it there is a majority: nobody is told to start more, but to wait."""
    found = brokers("running", "not_ready", "unreachable", controller=None)
    status = told(found, topic(WELL), silent={3: REFUSED}, not_ready={2: STARTING}, unheard_seconds=9.0)
    out_of_touch, not_running, not_ready, few = problems_of(status)
    assert out_of_touch.do.startswith(
        "wait some seconds: 1 of them may just be starting; if it stays so: 2 of 3 voters answer here"
    )
    assert (not_running.count, not_running.first) == (
        1,
        ("broker 3 (unreachable, b3:7070: connection refused)",),
    )
    assert (not_ready.name, not_ready.first) == (
        "not_ready",
        ("broker 2 (not_ready, b2:7070: broker 2 is starting)",),
    )
    assert (few.name, few.do) == ("under_min_insync", LATER), "it is in sync with nobody"


def test_of_one_that_knows_less_than_was_told_before_that_is_said() -> None:
    problems = problems_of(told(THREE, topic(WELL), unheard_seconds=0.4, behind=True))
    assert [problem.name for problem in problems] == ["out_of_touch"]
    assert problems[0].says == (
        "broker 1 has heard of no controller for 0 s, and knows less than others told here before:"
        " what happened since is not known here"
    )
    old = replace(told(THREE, topic(WELL), behind=True), told_by=None)
    assert "None" not in problems_of(old)[0].line


def test_voters_that_answer_and_have_no_controller_do_not_reach_each_other() -> None:
    (problem,) = problems_of(told(brokers(*["running"] * 3, controller=None), unheard_seconds=5.0))
    assert "3 of 3 voters answer here: mend the network between them" in problem.do


def test_of_many_the_first_few_are_named() -> None:
    (problem,) = problems_of(told(THREE, topic(*[replace(WELL, isr=(1, 2))] * 2000)))
    assert problem.line == (
        "2,000 partitions with fewer replicas in sync than they have: t/0, t/1, t/2, t/3, t/4, and 1,995 more"
    )
    assert len(problem.as_dict()["first"]) == NAMED_MAX


def test_the_screen_says_what_is_wrong_and_what_to_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = told(
        brokers("running", "fenced", "running"), topic(replace(WELL, isr=(1, 3)), WELL), silent={2: REFUSED}
    )
    monkeypatch.setattr(cluster, "with_client", lambda *_: found)
    assert command(["cluster", "status"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "healthy:            no"
    assert " 2  b2:7070  fenced   no       no              0         2" in lines
    at = lines.index("1 broker not running: broker 2 (fenced, b2:7070: connection refused)")
    assert "millpond broker --config FILE" in lines[at + 1]
    assert "1 partition with fewer replicas in sync than they have: t/0" in lines


def test_the_screen_says_how_old_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = told(
        brokers("running", "unreachable", "unreachable", controller=None),
        topic(WELL),
        silent={2: REFUSED, 3: REFUSED},
        unheard_seconds=14.3,
    )
    monkeypatch.setattr(cluster, "with_client", lambda *_: found)
    assert command(["cluster", "status"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["healthy:            no", "controller:         -"]
    assert "voters running:     1" in lines
    assert (
        "broker 1 has heard of no controller for 14 s: this is how it was then, but for who answers" in lines
    )
    assert " 2  b2:7070  unreachable  no       no              0         1" in lines
    assert command(["cluster", "status", "-o", "json"]) == 0
    told_json = json.loads(capsys.readouterr().out)
    assert (told_json["healthy"], told_json["current"], told_json["controller"]) == (False, False, None)
    assert (told_json["told_by"], told_json["unheard_seconds"]) == (1, 14.3)
    assert command(["cluster", "brokers"]) == 0
    assert "broker 1 has heard of no controller for 14 s" in capsys.readouterr().err


def test_the_screen_tells_who_answers_and_is_not_ready(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = told(brokers("running", "fenced"), silent={}, not_ready={2: STARTING})
    monkeypatch.setattr(cluster, "with_client", lambda *_: found)
    assert command(["cluster", "status"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert " 1  b1:7070  running  yes        yes             0         0" in lines
    assert " 2  b2:7070  fenced   not ready  no              0         0" in lines


def test_a_command_that_is_advised_reaches_the_same_cluster(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = told(THREE, topic(replace(WELL, leader=2)))
    monkeypatch.setattr(cluster, "with_client", lambda *_: found)
    for words, reach in (([], ""), (["-b", "b1:7070"], " -b b1:7070")):
        assert command(["cluster", "status", *words]) == 0
        assert capsys.readouterr().out.endswith(f"or: millpond cluster elect-leaders{reach}\n")
        assert command(["cluster", "status", "-o", "json", *words]) == 0
        (problem,) = json.loads(capsys.readouterr().out)["problems"]
        assert problem["do"].endswith(f"elect-leaders{reach}")
