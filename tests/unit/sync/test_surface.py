"""The synchronous client has the surface of the asyncio one: the same names, arguments and defaults."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

import millpond
from millpond import admin, client, consumer, producer, sync

PAIRS: list[tuple[type[Any], type[Any], set[str]]] = [
    (client.Client, sync.Client, {"connection"}),  # what is open beneath is not for users
    (producer.Producer, sync.Producer, set()),
    (consumer.Consumer, sync.Consumer, set()),
    (admin.Admin, sync.Admin, set()),
]

SENDING = {"name", "send", "send_many", "send_nowait", "enqueue"}
"""What a bound topic is for. The asyncio one is also part of the machinery below it."""


def public(cls: type[Any]) -> set[str]:
    return {name for name in dir(cls) if not name.startswith("_")}


def parameters(function: Any) -> list[tuple[str, Any, Any]]:
    found = inspect.signature(function).parameters.values()
    return [(each.name.lstrip("_"), each.kind, each.default) for each in found]


@pytest.mark.parametrize(("asyncio_class", "sync_class", "not_there"), PAIRS)
def test_the_names_are_the_same(asyncio_class: type[Any], sync_class: type[Any], not_there: set[str]) -> None:
    theirs = public(asyncio_class) - not_there
    ours = public(sync_class)
    instance = {"records_skipped"} & ours  # an attribute of the other's instances
    assert ours - instance == theirs


@pytest.mark.parametrize(("asyncio_class", "sync_class", "not_there"), PAIRS)
def test_the_arguments_are_the_same_and_nothing_is_to_be_awaited(
    asyncio_class: type[Any], sync_class: type[Any], not_there: set[str]
) -> None:
    for name in public(asyncio_class) - not_there:
        theirs, ours = getattr(asyncio_class, name), inspect.getattr_static(sync_class, name)
        if isinstance(ours, property):
            assert isinstance(theirs, property)
            continue
        assert not inspect.iscoroutinefunction(ours)
        if name != "commit":  # without groups it takes anything, and refuses it
            assert parameters(ours) == parameters(theirs), name


def test_a_bound_topic_sends_in_the_same_ways() -> None:
    assert {name for name in public(sync.BoundTopic) if name != "name"} == SENDING - {"name"}
    for name in SENDING - {"name"}:
        assert parameters(getattr(sync.BoundTopic, name)) == parameters(getattr(producer.BoundTopic, name))


def test_connecting_takes_the_same_arguments() -> None:
    assert parameters(sync.connect) == parameters(client.connect)
    assert millpond.sync is sync


def test_a_delivery_has_a_result_where_the_other_is_awaited() -> None:
    assert public(sync.Delivery) == public(producer.Delivery) | {"result"}
    assert hasattr(producer.Delivery, "__await__")
    assert not hasattr(sync.Delivery, "__await__")
