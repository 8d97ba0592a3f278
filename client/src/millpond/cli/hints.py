"""What to do about an error or a problem, in commands that can be typed as they stand.

A command that is named reaches the same cluster as the one that failed: `-b` is repeated where it was given.
In a text `{b}` is where that goes.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import click

from millpond.wire import errors

_KEY: Final = "millpond.given"
"""In the meta of click's contexts, which a command shares with those above it."""


class Given(NamedTuple):
    """What the command line said that a hint repeats."""

    bootstrap: str | None = None
    """What followed `-b`; None: the environment or the default names the cluster, and does so again."""
    is_default: bool = False
    """Nothing named a cluster."""
    topic: str = "NAME"


def remember(bootstrap: str, options: Mapping[str, Any]) -> None:
    """Keep what hints of this command repeat. `options`: its own, by name."""
    context = click.get_current_context()
    source = context.get_parameter_source("bootstrap")
    is_named = source is click.core.ParameterSource.COMMANDLINE
    is_default = source is click.core.ParameterSource.DEFAULT
    topic = options.get("topic") or options.get("name")
    topic = topic if isinstance(topic, str) else Given().topic
    context.meta[_KEY] = Given(bootstrap if is_named else None, is_default, topic)


def _given() -> Given:
    context = click.get_current_context(silent=True)
    found: Given | None = None if context is None else context.meta.get(_KEY)
    return found or Given()


def here(text: str) -> str:
    """A text whose commands reach the cluster that this one did."""
    return text.replace("{b}", _reach(_given()))


def _reach(given: Given) -> str:
    return "" if given.bootstrap is None else f" -b {shlex.quote(given.bootstrap)}"


HINTS: Final[Mapping[type[errors.MillpondError], str]] = {
    errors.UnknownTopic: "create it with: millpond topic create {topic}{b}",
    errors.TopicExists: "describe it with: millpond topic describe {topic}{b}",
    errors.NotEnoughBrokers: "ask for fewer with --replicas",
    errors.OffsetOutOfRange: "see what there is with: millpond topic describe {topic}{b}",
    errors.RecordTooLarge: "raise it with: millpond topic alter {topic} --config record_bytes_max=N{b}",
    errors.OperationTimeout: "try again, or wait longer with --timeout",
    errors.DeliveryTimeout: "see how the cluster is with: millpond cluster status{b}",
    errors.BrokerNotReady: "try again in a moment",
}
"""What a person can do who sees the error at a prompt; where its own message does not say."""


def described(error: errors.MillpondError, command: str | None = None) -> str:
    """The error in one line, with what to do about it, given the command that it ended."""
    if isinstance(error, errors.UnknownTopic) and command == "topic":
        # Who deletes or alters a topic does not want a new one: the name is another.
        return here(f"{error}; see which there are with: millpond topic list{{b}}")
    if isinstance(error, errors.ClusterUnavailable):
        tried = ", ".join(f"{address} ({reason})" for address, reason in error.tried.items())
        if error.leader_of:
            return here(f"{error}; see how the cluster is with: millpond cluster status{{b}}")
        return f"{_unreached(error.tried)}: {tried}; {_to_reach_one(error.tried)}"
    if isinstance(error, errors.DeliveryFailed | errors.PartialDelivery):
        first = error.first if isinstance(error, errors.DeliveryFailed) else next(iter(error.failed.values()))
        return described(first) if isinstance(first, errors.MillpondError) else str(first)
    hint = next((text for kind, text in HINTS.items() if isinstance(error, kind)), None)
    if hint is None:
        return str(error)
    given = _given()
    return f"{error}; {hint.format_map({'topic': given.topic, **error.facts(), 'b': _reach(given)})}"


def _is_there(tried: Mapping[str, str]) -> bool:
    """Whether one of them is a broker that runs."""
    from millpond._core.cluster import NotReady  # noqa: PLC0415 - help needs none of it

    return any(isinstance(reason, NotReady) for reason in tried.values())


def _unreached(tried: Mapping[str, str]) -> str:
    return "no broker is ready" if _is_there(tried) else "no broker could be reached"


def _to_reach_one(tried: Mapping[str, str]) -> str:
    """What to do where nobody could be asked."""
    from millpond._core.cluster import Unreached  # noqa: PLC0415 - help needs none of it

    if _is_there(tried):
        return (
            "try again in some seconds: who starts waits for more than half of the voters, so start those"
            " that are down; the logs say what is waited for"
        )
    rows = {Unreached.PEER_PORT: 1, Unreached.HTTP_PORT: 2}
    for address, reason in tried.items():
        if isinstance(reason, Unreached) and (behind := rows.get(reason)) is not None:
            host, _, port = address.rpartition(":")
            likely = f"{host}:{int(port) - behind}"
            return f"a broker's ports are mostly in a row, the one for clients first: try -b {likely}"
    if _given().is_default:
        return "start a cluster on this machine with: millpond up; or name another with -b HOST:PORT"
    return (
        "start one with: millpond broker --config FILE (several on this machine: millpond up), or name"
        " another with -b HOST:PORT"
    )
