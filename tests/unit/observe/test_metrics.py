"""Metrics: plain numbers where they are counted, Prometheus's text where they are asked for."""

from __future__ import annotations

import asyncio
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from millpond_broker.observe.loop_lag import measure_loop_lag
from millpond_broker.observe.metrics import SECONDS, BrokerMetrics, Histogram, render

COUNTERS = "batches_in records_in bytes_in batches_out bytes_out duplicates syncs sync_failures".split()
HISTOGRAMS = "produce_seconds append_seconds sync_seconds fetch_read_seconds loop_lag_seconds".split()


def scraped(metrics: BrokerMetrics) -> dict[str, Metric]:
    status, content_type, body = render(metrics)
    assert status == 200
    assert content_type.startswith("text/plain")
    families = list(text_string_to_metric_families(body.decode()))
    names = [family.name for family in families]
    assert len(set(names)) == len(names), "a family twice is no valid exposition"
    return {family.name: family for family in families}


def test_every_number_appears_under_its_name() -> None:
    metrics = BrokerMetrics()
    for number, name in enumerate(COUNTERS, start=1):
        setattr(metrics, name, number)
    metrics.produce_streams, metrics.fetch_streams = 20, 21
    metrics.loop_lag_last_seconds = 0.5
    metrics.refused["NOT_LEADER"] = 3
    families = scraped(metrics)
    for number, name in enumerate(COUNTERS, start=1):
        family = families[f"millpond_{name}"]
        (sample,) = family.samples
        assert (family.type, sample.name, sample.value) == ("counter", f"millpond_{name}_total", number)
    assert families["millpond_produce_streams"].samples[0].value == 20
    assert families["millpond_fetch_streams"].samples[0].value == 21
    assert families["millpond_loop_lag_last_seconds"].samples[0].value == 0.5
    (refused,) = families["millpond_refused"].samples
    assert (refused.labels, refused.value) == ({"code": "NOT_LEADER"}, 3)
    assert {f"millpond_{name}" for name in HISTOGRAMS} <= set(families)


def test_no_number_is_forgotten_and_every_one_is_explained() -> None:
    shown = {name for name in scraped(BrokerMetrics()) if name.startswith("millpond_")}
    kept = {f"millpond_{name}" for name in BrokerMetrics.__slots__ if name != "gauges"}
    assert shown == kept
    assert all(family.documentation for family in scraped(BrokerMetrics()).values())


def test_the_process_itself_is_described_too() -> None:
    families = scraped(BrokerMetrics())
    assert families["process_resident_memory_bytes"].samples[0].value > 1_000_000
    assert families["process_open_fds"].samples[0].value > 0


def test_what_the_runtime_looks_up_is_asked_at_each_scrape_and_grouped_by_name() -> None:
    metrics = BrokerMetrics()
    ends = {"0": 5.0, "1": 7.0}
    metrics.gauges = lambda: [
        gauge
        for number, end in ends.items()
        for gauge in (
            ("log_end_offset", {"topic": 'a"\n', "partition": number}, end),
            ("log_bytes", {"topic": 'a"\n', "partition": number}, end * 10),
        )
    ]
    (first, second) = scraped(metrics)["millpond_log_end_offset"].samples
    assert (first.labels, first.value) == ({"topic": 'a"\n', "partition": "0"}, 5)
    assert (second.labels["partition"], second.value) == ("1", 7)
    ends["1"] = 8.0
    assert scraped(metrics)["millpond_log_bytes"].samples[1].value == 80


@given(
    st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from('\\"\n{},= '), max_size=20),
    st.integers(0, 2**63) | st.floats(allow_nan=False),
)
def test_any_label_and_value_come_back_from_the_text_as_they_were(label: str, value: float) -> None:
    metrics = BrokerMetrics()
    metrics.gauges = lambda: [("odd", {"topic": label, "partition": "0"}, value), ("bare", {}, 1)]
    families = scraped(metrics)
    (sample,) = families["millpond_odd"].samples
    assert (sample.labels, sample.value) == ({"topic": label, "partition": "0"}, value)
    assert families["millpond_bare"].samples[0].value == 1


@given(st.lists(st.floats(0, 100)))
def test_a_histogram_counts_each_value_in_the_first_bucket_that_reaches_it(values: list[float]) -> None:
    histogram = Histogram()
    for value in values:
        histogram.observe(value)
    for end, count in histogram.buckets():
        assert count == sum(value <= float(end) for value in values), end
    assert histogram.count == len(values)
    assert math.isclose(histogram.sum_seconds, math.fsum(values), abs_tol=1e-9)


def test_a_histograms_last_bucket_takes_everything() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (1.0, 1.5, 3.0):
        histogram.observe(value)
    assert histogram.buckets() == [("1.0", 1), ("2.0", 2), ("+Inf", 3)]
    with pytest.raises(AssertionError, match="ascend"):
        Histogram((2.0, 1.0))
    assert [float(end) for end, _ in Histogram().buckets()] == [*SECONDS, math.inf]


class Announced(Histogram):
    """Says when it has counted one."""

    def __init__(self) -> None:
        super().__init__()
        self.counted = asyncio.Event()

    def observe(self, seconds: float) -> None:
        super().observe(seconds)
        self.counted.set()


async def test_a_loop_that_was_blocked_is_seen_to_be_late() -> None:
    metrics = BrokerMetrics()
    metrics.loop_lag_seconds = lags = Announced()
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        measuring = tasks.create_task(measure_loop_lag(metrics, interval_seconds=0.01))
        await asyncio.sleep(0)
        until = loop.time() + 0.1
        while loop.time() < until:
            pass  # blocks the loop: what is measured
        await lags.counted.wait()
        measuring.cancel()
    assert metrics.loop_lag_last_seconds > 0.05
