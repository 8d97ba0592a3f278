"""Dashboard and alerts ask for what a running cluster really tells: parsed, and held against a scrape."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from millpond.errors import MillpondError
from millpond.testing import LocalCluster

ROOT = Path(__file__).parents[3]
DASHBOARD = ROOT / "deploy" / "monitoring" / "dashboard.json"
ALERTS = ROOT / "deploy" / "monitoring" / "alerts.yml"
OPERATIONS = ROOT / "docs" / "operations.md"

OF_PROMETHEUS: Final = frozenset({"job", "instance"})
"""Labels that a scrape adds; and `up`, which it makes."""
VARIABLES: Final = {"$job": "millpond", "$__rate_interval": "5m"}
"""As Grafana would fill them in."""
ASKED_ONLY: Final = frozenset({("code", "millpond_refused_total")})
"""Labels of a family that has no line until something happens: the test of a lost broker has it happen."""

NOTICED_SECONDS_MAX: Final = 30.0
"""For a cluster to notice that a broker is gone, on a busy machine."""

Scrape = dict[str, set[str]]
"""Names of samples, with the labels that they have."""


@pytest.fixture(scope="module")
def scraped() -> Iterator[list[str]]:
    """/metrics of three brokers with a topic, as text."""
    with LocalCluster(brokers=3) as cluster:
        with cluster.sync_client() as client:
            client.admin.create_topic("orders", partitions=3)
            with client.producer() as producer:
                for number in range(30):
                    producer.send("orders", b"%d" % number, partition=number % 3)
        yield _scrapes_when(cluster, lambda texts: all(_values(texts, "millpond_high_watermark_offset")))


def _scrape(cluster: LocalCluster, broker: int) -> str:
    with urllib.request.urlopen(f"http://{cluster.http_address(broker)}/metrics", timeout=10) as answer:
        text: str = answer.read().decode()
    return text


@pytest.fixture(scope="module")
def known(scraped: list[str]) -> Scrape:
    """What there is to ask for."""
    found: Scrape = {"up": set()}
    for text in scraped:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found.setdefault(sample.name, set()).update(sample.labels)
            if not family.samples:  # a counter by label that has not counted yet
                found.setdefault(f"{family.name}_total", set())
    return found


def _values(scraped: list[str], name: str) -> list[float]:
    return [
        sample.value
        for text in scraped
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    ]


def _questions() -> list[tuple[str, str]]:
    """(where it stands, PromQL) of everything that is asked."""
    dashboard = json.loads(DASHBOARD.read_text())
    found = [(panel["title"], target["expr"]) for panel in dashboard["panels"] for target in panel["targets"]]
    return found + [(rule["alert"], rule["expr"]) for rule in _alerts()]


def _alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def _parsed(expression: str) -> promql_parser.Expr:
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    return promql_parser.parse(expression)


def _wrong(expression: str, known: Scrape) -> list[str]:
    """Metrics that are not there, and labels that the metrics of the expression do not have."""
    names: list[str] = []
    asked: set[str] = set()

    def look(node: promql_parser.Expr) -> bool:
        if isinstance(node, promql_parser.VectorSelector):
            names.append(node.name or "")
            asked.update(matcher.name for matcher in node.matchers.matchers)
        elif isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            asked.update(node.modifier.labels)
        elif isinstance(node, promql_parser.BinaryExpr):
            matching = None if node.modifier is None else node.modifier.matching
            asked.update(() if matching is None else matching.labels)
        return True

    promql_parser.walk(_parsed(expression), look)
    assert names, "it asks for something"
    wrong = [f"no metric {name}" for name in names if name not in known]
    there = OF_PROMETHEUS.union(*(known.get(name, set()) for name in names))
    return wrong + [
        f"no label {label}"
        for label in sorted(asked - there)
        if not any((label, name) in ASKED_ONLY for name in names)
    ]


@pytest.mark.parametrize(("where", "expression"), _questions())
def test_what_is_asked_for_is_there(where: str, expression: str, known: Scrape) -> None:
    assert _wrong(expression, known) == [], where


@pytest.mark.parametrize(
    ("expression", "wrong"),
    [
        ("rate(millpond_record_in_total[5m])", ["no metric millpond_record_in_total"]),
        ("sum by (broker) (millpond_is_controller)", ["no label broker"]),
        ('millpond_brokers{phase="fenced"}', ["no label phase"]),
        ("millpond_replicas - on (shard) millpond_in_sync_replicas", ["no label shard"]),
    ],
)
def test_what_is_not_there_would_be_found(expression: str, wrong: list[str], known: Scrape) -> None:
    assert _wrong(expression, known) == wrong


def test_what_is_no_promql_would_be_found() -> None:
    with pytest.raises(ValueError, match="unclosed"):
        _parsed("sum by (job (up)")


def test_states_of_brokers_are_those_that_alerts_name(scraped: list[str]) -> None:
    states = set(re.findall(r'millpond_brokers\{state="(\w+)"\}', "".join(scraped)))
    assert states == {"running", "fenced", "stopping", "left"}
    asked = set(re.findall(r'state="(\w+)"', ALERTS.read_text() + DASHBOARD.read_text()))
    assert asked <= states


def test_a_whole_cluster_says_so(scraped: list[str]) -> None:
    assert sum(_values(scraped, "millpond_is_controller")) == 1
    assert sum(_values(scraped, "millpond_partitions_led")) == 3
    for name in ("without_leader", "under_min_insync", "under_replicated"):
        assert _values(scraped, f"millpond_partitions_{name}") == [0, 0, 0], name
    assert _values(scraped, "millpond_replicas") == [3, 3, 3]
    assert _values(scraped, "millpond_in_sync_replicas") == [3, 3, 3]


def test_a_follower_knows_how_far_readers_see(scraped: list[str]) -> None:
    """It is a replica's high watermark, wherever it leads."""
    at = _values(scraped, "millpond_high_watermark_offset")
    assert len(at) == 9
    assert all(0 < offset <= 10 for offset in at)


def test_a_broker_that_is_lost_and_what_is_refused_then_are_seen() -> None:
    with LocalCluster(brokers=3) as cluster, cluster.sync_client() as client:
        client.admin.create_topic("orders", partitions=3, min_insync=3)
        cluster.kill(2)
        names = [f"millpond_partitions_{name}" for name in ("led", "under_replicated", "under_min_insync")]
        texts = _scrapes_when(
            cluster, lambda texts: all(sum(_values(texts, name)) == 3 for name in names), brokers=2
        )
        assert all('millpond_brokers{state="fenced"} 1' in text for text in texts)
        with client.producer(delivery_timeout=1.0) as producer, pytest.raises(MillpondError):
            producer.send("orders", b"not now", partition=0)
        refused = _scrape(cluster, 0) + _scrape(cluster, 1)
        assert 'millpond_refused_total{code="NOT_ENOUGH_REPLICAS"}' in refused


def _scrapes_when(cluster: LocalCluster, holds: Callable[[list[str]], bool], brokers: int = 3) -> list[str]:
    """/metrics of the first so many, once that holds of them."""
    deadline = time.monotonic() + NOTICED_SECONDS_MAX
    while True:
        texts = [_scrape(cluster, broker) for broker in range(brokers)]
        if holds(texts):
            return texts
        assert time.monotonic() < deadline, texts[0]
        time.sleep(0.1)


def test_every_alert_says_what_to_do_and_is_in_the_runbook() -> None:
    runbook = OPERATIONS.read_text()
    for rule in _alerts():
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert {"summary", "description"} == rule["annotations"].keys()
        assert f"`{rule['alert']}`" in runbook, rule["alert"]


def test_the_dashboard_has_what_grafana_needs_of_one() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    assert {"uid", "title", "schemaVersion", "panels", "templating", "time"} <= dashboard.keys()
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, f"{panel['title']} lies over another"
        taken |= cells
        assert panel["description"].endswith("."), "a panel says what it means"
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])
