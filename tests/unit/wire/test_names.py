"""Which names a topic and a group may have, and what is said of those they may not."""

import pytest

from millpond.wire.errors import InvalidGroupName, InvalidTopicName
from millpond.wire.names import NAME_CHARACTERS_MAX, check_group_name, check_topic_name

LEGAL = ["a", "orders", "Orders.v2_eu-west", "0", "_one", "...", "-", "a" * NAME_CHARACTERS_MAX]
ILLEGAL = {
    "": "is empty",
    ".": "is a directory of its own",
    "..": "is a directory of its own",
    "a" * (NAME_CHARACTERS_MAX + 1): "is 250 characters long; 249 are allowed",
    "a b": "has characters",
    "a/b": "has characters",
    "../a": "has characters",
    "a\n": "has characters",
    "\0": "has characters",
    "näme": "has characters",
    "\u0661": "has characters",
}


@pytest.mark.parametrize("name", LEGAL)
def test_a_legal_name_passes(name: str) -> None:
    check_topic_name(name)
    check_group_name(name)


@pytest.mark.parametrize(("name", "reason"), ILLEGAL.items())
def test_an_illegal_name_is_refused_with_its_reason(name: str, reason: str) -> None:
    with pytest.raises(InvalidTopicName) as topic:
        check_topic_name(name)
    assert topic.value.topic == name
    assert topic.value.reason.startswith(reason)
    with pytest.raises(InvalidGroupName) as group:
        check_group_name(name)
    assert group.value.group == name
    assert group.value.reason.startswith(reason)


def test_two_underscores_are_kept_for_internal_topics_and_mean_nothing_in_a_group() -> None:
    with pytest.raises(InvalidTopicName, match="internal"):
        check_topic_name("__offsets")
    check_group_name("__offsets")
