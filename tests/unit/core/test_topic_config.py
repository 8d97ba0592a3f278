"""Topic settings: every key has bounds, and none is accepted and ignored (DESIGN §10)."""

from __future__ import annotations

import dataclasses

import pytest

from millpond.wire.batch import BODY_BYTES_MAX
from millpond.wire.errors import InvalidConfig
from millpond_broker.core.topic_config import TopicConfig

BOUNDS = {
    "flush_interval_ms": (10, 3_600_000),
    "retention_ms": (1, 2**62),
    "retention_bytes": (0, 2**62),
    "segment_bytes": (4096, 1 << 30),
    "segment_ms": (1, 2**62),
    "record_bytes_max": (1, BODY_BYTES_MAX // 2),
}
UNLIMITED = ("retention_ms", "retention_bytes", "segment_ms")


def test_no_settings_are_the_documented_defaults() -> None:
    config = TopicConfig.parse({})
    assert config == TopicConfig()
    assert (config.flush, config.cleanup_policy) == ("commit", "delete")
    assert (config.retention_ms, config.retention_bytes) == (7 * 24 * 3600 * 1000, None)
    assert (config.segment_bytes, config.record_bytes_max) == (64 << 20, 1 << 20)


def test_settings_go_on_top_of_a_base_and_leave_the_rest_of_it() -> None:
    base = TopicConfig.parse({"segment_bytes": 8192, "retention_bytes": 5})
    changed = TopicConfig.parse({"segment_bytes": "16384"}, base)
    assert changed == dataclasses.replace(base, segment_bytes=16384)


@pytest.mark.parametrize("key", BOUNDS)
@pytest.mark.parametrize("end", [0, 1])
def test_both_bounds_are_allowed_as_text_and_as_a_number(key: str, end: int) -> None:
    bound = BOUNDS[key][end]
    for value in (bound, str(bound)):
        assert getattr(TopicConfig.parse({key: value}), key) == bound


@pytest.mark.parametrize("key", BOUNDS)
@pytest.mark.parametrize(("end", "step"), [(0, -1), (1, 1)])
def test_a_value_past_a_bound_is_refused_by_key_and_says_the_bounds(key: str, end: int, step: int) -> None:
    minimum, maximum = BOUNDS[key]
    value = BOUNDS[key][end] + step
    if value == -1 and key in UNLIMITED:
        value = -2
    with pytest.raises(InvalidConfig) as raised:
        TopicConfig.parse({key: value})
    assert raised.value.key == key
    assert f"{value} is not within {minimum} to {maximum}" in raised.value.reason


def test_every_integer_setting_has_its_bounds_tested_here() -> None:
    words = {"flush", "cleanup_policy"}
    assert {field.name for field in dataclasses.fields(TopicConfig)} == BOUNDS.keys() | words


@pytest.mark.parametrize("key", UNLIMITED)
@pytest.mark.parametrize("value", [-1, "-1"])
def test_minus_one_means_no_limit_where_there_may_be_none(key: str, value: str | int) -> None:
    assert getattr(TopicConfig.parse({key: value}), key) is None


@pytest.mark.parametrize("key", sorted(BOUNDS.keys() - set(UNLIMITED)))
def test_minus_one_is_refused_where_a_limit_is_needed(key: str) -> None:
    with pytest.raises(InvalidConfig) as raised:
        TopicConfig.parse({key: -1})
    assert raised.value.key == key
    assert "no limit" not in raised.value.reason


@pytest.mark.parametrize("value", ["", "ten", "1.5", "1e6", "64MiB"])
def test_what_is_no_whole_number_is_refused_by_key(value: str) -> None:
    with pytest.raises(InvalidConfig, match="whole number") as raised:
        TopicConfig.parse({"segment_bytes": value})
    assert raised.value.key == "segment_bytes"


def test_an_unknown_key_is_named_with_the_one_that_was_meant() -> None:
    with pytest.raises(InvalidConfig) as raised:
        TopicConfig.parse({"retension_ms": 5})
    assert raised.value.key == "retension_ms"
    assert "did you mean retention_ms?" in raised.value.reason
    assert "retension_ms" in str(raised.value)


def test_an_unknown_key_that_resembles_none_gets_no_suggestion() -> None:
    with pytest.raises(InvalidConfig) as raised:
        TopicConfig.parse({"xyzzy": 5})
    assert (raised.value.key, raised.value.reason) == ("xyzzy", "unknown setting")


@pytest.mark.parametrize(
    ("key", "feature"),
    [
        ("delete_retention_ms", "log compaction"),
        ("compaction_lag_ms_min", "log compaction"),
        ("compression", "compression by the broker"),
        ("unclean_election", "replication"),
        ("timestamp_type", "log-append time"),
    ],
)
def test_a_key_of_a_feature_to_come_is_refused_with_the_name_of_the_feature(key: str, feature: str) -> None:
    with pytest.raises(InvalidConfig) as raised:
        TopicConfig.parse({key: "1"})
    assert raised.value.key == key
    assert feature in raised.value.reason


def test_compaction_is_refused_until_there_is_a_cleaner() -> None:
    with pytest.raises(InvalidConfig, match="'compact' is not one of delete") as raised:
        TopicConfig.parse({"cleanup_policy": "compact"})
    assert raised.value.key == "cleanup_policy"


def test_flush_is_one_of_two_words() -> None:
    assert TopicConfig.parse({"flush": "interval"}).flush == "interval"
    with pytest.raises(InvalidConfig, match="commit, interval") as raised:
        TopicConfig.parse({"flush": "never"})
    assert raised.value.key == "flush"
