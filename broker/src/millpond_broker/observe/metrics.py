"""What a broker counts: plain numbers where it works, made into Prometheus's text only when it is asked.

A counter here is an int attribute (0.1 µs to count up, against 1.5 µs for a Prometheus object), changed on
the event loop's thread only. What can be looked up instead of counted, the runtime gives as `gauges`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

PREFIX: Final = "millpond_"

SECONDS: Final = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025),
    *(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
"""Upper ends of the buckets: from a page cache's write to a disk that hangs, a factor of about two each."""

Gauge = tuple[str, Mapping[str, str], float]
"""Name (without the prefix), labels, value. Labels are not changed once they were given."""


class Histogram:
    """How often a time fell between which bounds. Only counts are kept."""

    __slots__ = ("_bounds", "_counts", "sum_seconds")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        assert list(bounds) == sorted(set(bounds)), "bounds ascend"
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self.sum_seconds = 0.0

    def observe(self, seconds: float) -> None:
        """Count one."""
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self.sum_seconds += seconds

    @property
    def count(self) -> int:
        """How many were observed."""
        return sum(self._counts)

    def buckets(self) -> list[tuple[str, float]]:
        """As Prometheus has them: (upper end, how many were at most that), the last one "+Inf"."""
        ends = [*map(repr, self._bounds), "+Inf"]
        return list(zip(ends, map(float, accumulate(self._counts)), strict=True))


def _no_gauges() -> Iterable[Gauge]:
    return ()


class BrokerMetrics:
    """The numbers of one broker, since its process started."""

    __slots__ = (
        "append_seconds",
        "batches_in",
        "batches_out",
        "bytes_in",
        "bytes_out",
        "duplicates",
        "fetch_read_seconds",
        "fetch_streams",
        "gauges",
        "loop_lag_last_seconds",
        "loop_lag_seconds",
        "produce_seconds",
        "produce_streams",
        "records_in",
        "refused",
        "sync_failures",
        "sync_seconds",
        "syncs",
    )

    def __init__(self) -> None:
        self.batches_in = 0
        self.records_in = 0
        self.bytes_in = 0
        self.batches_out = 0
        self.bytes_out = 0
        self.duplicates = 0
        self.refused: dict[str, int] = {}
        self.produce_streams = 0
        self.fetch_streams = 0
        self.syncs = 0
        self.sync_failures = 0
        self.produce_seconds = Histogram()
        self.append_seconds = Histogram()
        self.sync_seconds = Histogram()
        self.fetch_read_seconds = Histogram()
        self.loop_lag_seconds = Histogram()
        self.loop_lag_last_seconds = 0.0
        self.gauges: Callable[[], Iterable[Gauge]] = _no_gauges


_COUNTERS: Final = {
    "batches_in": "Batches appended for producers",
    "records_in": "Records in those batches",
    "bytes_in": "Bytes of those batches, as they travel",
    "batches_out": "Batches sent to readers",
    "bytes_out": "Bytes of those batches",
    "duplicates": "Batches recognised as sent again, and not appended again",
    "syncs": "Syncs of everything dirty to disk",
    "sync_failures": "Syncs that failed",
}
_GAUGES: Final = {
    "produce_streams": "Produce streams that are open",
    "fetch_streams": "Fetch streams that are open",
    "loop_lag_last_seconds": "How late the event loop was when it was last measured",
}
_HISTOGRAMS: Final = {
    "produce_seconds": "From a batch's receipt to its answer",
    "append_seconds": "Writing a batch at the end of its log",
    "sync_seconds": "One sync of everything dirty",
    "fetch_read_seconds": "Reading one chunk for a reader",
    "loop_lag_seconds": "How late the event loop was, measured once a second",
}
_LOOKED_UP: Final = {
    "unanswered_bytes": "Bytes of batches that were received and are not answered yet",
    "unanswered_bytes_max": "What they may be at most: limits.produce_bytes_max",
    "metadata_version": "Commands of the metadata log that were applied",
    "is_controller": "1 where this broker is the cluster's controller",
    "controller_unheard_seconds": "Since this broker heard of the controller: what it knows may be so old",
    "brokers": "Brokers of the cluster, by state, as this broker knows",
    "partitions_led": "Partitions that this broker leads",
    "partitions_under_replicated": "Of those, how many have replicas that are not in sync",
    "partitions_under_min_insync": "Of those, how many have too few in sync to take records",
    "partitions_without_leader": "Partitions of the cluster that nobody leads, as this broker knows",
    "log_start_offset": "The oldest offset of a partition",
    "log_end_offset": "One past a partition's newest offset",
    "high_watermark_offset": "One past the newest offset that readers see",
    "log_bytes": "Bytes of a partition's segments",
    "log_segments": "Segments of a partition",
    "is_leader": "1 where this broker leads the partition",
    "replicas": "Replicas of a partition that this broker leads",
    "in_sync_replicas": "Those of them that are in sync",
}


class BrokerCollector(Collector):
    """What is counted, as Prometheus's families, made when they are collected."""

    def __init__(self, metrics: BrokerMetrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        metrics = self._metrics
        for name, text in _COUNTERS.items():
            yield CounterMetricFamily(PREFIX + name, text, value=getattr(metrics, name))
        refused = CounterMetricFamily(PREFIX + "refused", "Batches refused, by error", labels=["code"])
        for code, count in sorted(metrics.refused.items()):
            refused.add_metric([code], count)
        yield refused
        for name, text in _GAUGES.items():
            yield GaugeMetricFamily(PREFIX + name, text, value=getattr(metrics, name))
        for name, text in _HISTOGRAMS.items():
            histogram: Histogram = getattr(metrics, name)
            family = HistogramMetricFamily(PREFIX + name, text)
            family.add_metric([], histogram.buckets(), histogram.sum_seconds)
            yield family


def _looked_up(gauges: Iterable[Gauge]) -> str:
    """The exposition of what is looked up, one family a name however the gauges are ordered.

    There are several for each partition, by far the most of all lines, and the loop stands still meanwhile:
    written by hand it takes a ninth of the time (4,096 partitions: 13 ms against 119).
    """
    families: dict[str, list[str]] = {}
    labels: Mapping[str, str] | None = None
    text = ""
    for name, its_labels, value in gauges:
        if its_labels is not labels:  # the gauges of one partition mostly share them
            labels, text = its_labels, _labels(its_labels)
        if (lines := families.get(name)) is None:
            title = _LOOKED_UP.get(name, name)
            lines = [f"# HELP {PREFIX}{name} {title}\n# TYPE {PREFIX}{name} gauge"]
            families[name] = lines
        lines.append(f"{PREFIX}{name}{text} {value}")
    return "".join("\n".join(lines) + "\n" for lines in families.values())


_ESCAPES: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def _labels(labels: Mapping[str, str]) -> str:
    pairs = ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in labels.items())
    return f"{{{pairs}}}" if pairs else ""


def render(metrics: BrokerMetrics) -> tuple[int, str, bytes]:
    """What a scrape is answered: status, content type, body. With what the system says of the process."""
    registry = CollectorRegistry()
    registry.register(BrokerCollector(metrics))
    ProcessCollector(registry=registry)
    return 200, CONTENT_TYPE_LATEST, generate_latest(registry) + _looked_up(metrics.gauges()).encode()
