"""What brokers say on streams, as bytes: every message there and back; other bytes end a stream, no more."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millpond.v1.internal import control_pb2, replication_pb2, subscription_pb2
from millpond.wire.errors import ERRORS, ErrorCode, FencedEpoch
from millpond_broker.consensus import codec
from millpond_broker.consensus.metadata_log import NotApplied, Ok, ProposeOutcome, Unknown
from millpond_broker.core import replication as core
from millpond_broker.core.commands import DeleteTopic, Envelope
from millpond_broker.core.results import Applied, Refused, RefusedItem
from millpond_broker.core.sessions import Heard, Heartbeat
from millpond_broker.rpc import control_codec, replication_codec, subscription_codec
from millpond_broker.rpc.peer_handshake import LinkRefused, Reason
from millpond_broker.runtime import control_messages as control
from millpond_broker.runtime import replication_messages as replication
from millpond_broker.runtime import subscription_messages as subscription
from tests.unit.consensus.test_codec import EXAMPLES

u32 = st.integers(0, (1 << 32) - 1)
u64 = st.integers(0, (1 << 64) - 1)
i64 = st.integers(-(1 << 63), (1 << 63) - 1)
ids = st.binary(min_size=16, max_size=16)
texts = st.text(max_size=40)

answers = st.one_of(
    st.builds(core.Serving, u32, u64, u64, u64, u64),
    st.builds(core.Diverging, u32, u64, u32, u64),
    st.builds(core.OutOfRange, u32, u64, u64, u64, u64),
    st.builds(core.FencedLeaderEpoch, u32, u64, u32),
    st.builds(core.UnknownLeaderEpoch, u32, u64, u32),
)
statements = st.builds(core.Statement, u32, u64, u32, u64, u64, st.none() | u32, u64, u32)
replications = st.one_of(
    st.builds(replication.Hello, u32, u64, u64),
    st.builds(replication.Stated, ids, u32, statements),
    st.builds(replication.Acknowledged, ids, u32, st.builds(core.Acknowledgement, u32, u64, u64, u64)),
    st.builds(replication.Taken, ids, u32, u64),
    st.builds(replication.Answered, ids, u32, answers),
    st.builds(
        replication.Pushed, ids, u32, st.builds(core.Push, u32, u64, u64, u64, u64), st.binary(max_size=200)
    ),
)

refusals = st.sampled_from(
    [
        Refused(ErrorCode.UNKNOWN_TOPIC, (("topic", "ä\n"), ("outcome", "unknown"))),
        Refused(ErrorCode.INTERNAL, (("reason", ""),)),
        Refused.of(FencedEpoch(epoch=7, current=8)),
    ]
)
values = st.one_of(
    st.none(),
    i64,
    st.binary(max_size=40),
    st.lists(st.builds(RefusedItem, u32, refusals), max_size=3).map(tuple),
)
outcomes = st.one_of(
    st.builds(Ok, u64, st.builds(Applied, values) | refusals),
    st.builds(NotApplied, texts),
    st.builds(Unknown, texts, u64),
)
voters = st.lists(st.tuples(u32, texts), max_size=5).map(tuple)
envelopes = st.builds(Envelope, ids, u64, u64, st.sampled_from(EXAMPLES))
questions = st.one_of(
    st.builds(control.Propose, envelopes, u32),
    st.builds(control.Beat, st.builds(Heartbeat, u32, u64, u64, u32, u64), st.binary(max_size=40)),
    st.builds(control.Who),
    st.builds(control.Found, voters),
    st.builds(control.ReadyToVote),
    st.builds(control.HandOver),
)
replies = st.one_of(
    st.builds(control.Proposed, outcomes, st.none() | u32),
    st.builds(control.Beaten, st.none() | st.sampled_from(Heard), u64, u64, st.none() | u32),
    st.builds(control.Here, ids),
    st.builds(
        control.Founded, st.none() | st.binary(max_size=40), st.none() | texts, without_you=st.booleans()
    ),
    st.builds(control.Ready, texts, st.lists(u32, max_size=5).map(tuple)),
    st.builds(control.Failed, texts),
)
numbers = st.integers(1, (1 << 64) - 1)
controls = st.builds(control.Asked, numbers, questions) | st.builds(control.Replied, numbers, replies)
subscriptions = st.one_of(
    st.builds(subscription.Subscribe, u64),
    st.builds(subscription.Whole, u64, st.binary(min_size=1, max_size=200)),
    st.builds(
        subscription.Commands, u64, st.lists(st.tuples(u64, st.binary(max_size=40)), max_size=5).map(tuple)
    ),
    st.builds(subscription.At, u64, st.none() | u32),
    st.builds(subscription.NotServed, texts, voters, for_good=st.booleans()),
)


@given(replications)
def test_a_replication_message_comes_back_as_it_went(message: Any) -> None:
    head, body = replication_codec.encode(message)
    assert head, "a body needs a message before it"
    assert replication_codec.decode(head, body) == message


@given(controls)
def test_a_control_message_comes_back_as_it_went(message: Any) -> None:
    assert control_codec.decode(*control_codec.encode(message)) == message


@given(subscriptions)
def test_a_message_of_a_subscription_comes_back_as_it_went(message: Any) -> None:
    head, body = subscription_codec.encode(message)
    assert head, "a body needs a message before it"
    assert subscription_codec.decode(head, body) == message


def test_a_message_of_a_subscription_that_says_nothing_of_use_is_refused() -> None:
    at = subscription_pb2.SubscriptionMessage(at=subscription_pb2.SubscriptionAt(version=1))
    whole = subscription_pb2.SubscriptionMessage(whole=subscription_pb2.SubscriptionWhole(version=1))
    for head, body in (
        (b"", b""),
        (b"", b"a body alone"),
        (at.SerializeToString(), b"a body"),
        (whole.SerializeToString(), b""),
    ):
        with pytest.raises(LinkRefused) as caught:
            subscription_codec.decode(head, body)
        assert caught.value.reason is Reason.MALFORMED


def test_bytes_of_batches_are_not_copied_by_the_codec() -> None:
    data = bytes(1000)
    push = replication.Pushed(bytes(16), 0, core.Push(1, 1, 0, 0, 0), data)
    head, body = replication_codec.encode(push)
    assert body is data
    decoded = replication_codec.decode(head, body)
    assert isinstance(decoded, replication.Pushed)
    assert decoded.data is data


def test_every_kind_of_message_has_a_row_and_every_field_of_the_wire_one_too() -> None:
    said = {*get_args(replication.FromFollower), *get_args(replication.FromLeader), *get_args(core.Answer)}
    assert set(replication_codec.ROWS) == said - {replication.Answered}
    fields = replication_pb2.ReplicationMessage.DESCRIPTOR.oneofs_by_name["kind"].fields
    assert {row.field for row in replication_codec.ROWS.values()} == {field.name for field in fields}

    assert set(control_codec.ROWS) == {*get_args(control.Question), *get_args(control.Reply)}
    fields = control_pb2.ControlMessage.DESCRIPTOR.oneofs_by_name["kind"].fields
    assert {row.field for row in control_codec.ROWS.values()} == {field.name for field in fields}
    assert set(subscription_codec.ROWS) == {*get_args(subscription.FromVoter), subscription.Subscribe}
    fields = subscription_pb2.SubscriptionMessage.DESCRIPTOR.oneofs_by_name["kind"].fields
    assert {row.field for row in subscription_codec.ROWS.values()} == {field.name for field in fields}
    assert set(control_codec.HEARD) == {None, *Heard}
    assert set(control_codec.HEARD.values()) == set(control_pb2.ControlHeard.values())
    assert len(get_args(ProposeOutcome)) == len(
        control_pb2.ControlProposed.DESCRIPTOR.oneofs_by_name["outcome"].fields
    )


def test_every_refusal_of_the_error_table_can_be_told_and_raised_again() -> None:
    for code, error_type in ERRORS.items():
        names = [name for name in dir(error_type) if name in error_type.__dataclass_fields__]  # type: ignore[attr-defined]  # made a dataclass by its root
        facts = tuple((name, "unknown" if name == "outcome" else 5) for name in names)
        reply = control.Replied(1, control.Proposed(Ok(3, Refused(code, facts)), None))
        decoded = control_codec.decode(*control_codec.encode(reply))
        assert isinstance(decoded, control.Replied)


@given(head=st.binary(max_size=300), body=st.binary(max_size=10))
def test_junk_is_refused_or_is_a_message(head: bytes, body: bytes) -> None:
    for decode in (replication_codec.decode, control_codec.decode, subscription_codec.decode):
        with suppress(LinkRefused):
            decode(head, body)


@given(message=replications | controls | subscriptions, data=st.data())
def test_a_message_with_some_bytes_changed_is_refused_or_is_a_message(
    message: Any, data: st.DataObject
) -> None:
    side: Any = replication_codec
    if isinstance(message, control.Asked | control.Replied):
        side = control_codec
    elif type(message) in subscription_codec.ROWS:
        side = subscription_codec
    head, body = side.encode(message)
    changed = bytearray(head)
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    with suppress(LinkRefused):
        side.decode(bytes(changed), body)


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"", b""),
        (b"", b"a body alone"),
        (control_pb2.ControlMessage(number=1).SerializeToString(), b""),
        (control_pb2.ControlMessage(who=control_pb2.ControlWho()).SerializeToString(), b""),
        (control_pb2.ControlMessage(number=1, who=control_pb2.ControlWho()).SerializeToString(), b"body"),
        (
            control_pb2.ControlMessage(
                number=1, propose=control_pb2.ControlPropose(envelope=b"\xff", timeout_ms=5)
            ).SerializeToString(),
            b"",
        ),
        (
            control_pb2.ControlMessage(number=1, proposed=control_pb2.ControlProposed()).SerializeToString(),
            b"",
        ),
        (
            control_pb2.ControlMessage(
                number=1, proposed=control_pb2.ControlProposed(ok=control_pb2.ControlCommitted(index=1))
            ).SerializeToString(),
            b"",
        ),
    ],
)
def test_a_control_message_that_says_nothing_of_use_is_refused(head: bytes, body: bytes) -> None:
    with pytest.raises(LinkRefused) as caught:
        control_codec.decode(head, body)
    assert caught.value.reason is Reason.MALFORMED


def test_a_replication_message_about_no_topic_is_refused() -> None:
    for message in (
        replication_pb2.ReplicationMessage(pushed=replication_pb2.ReplicaPush()),
        replication_pb2.ReplicationMessage(stated=replication_pb2.ReplicaStatement()),
        replication_pb2.ReplicationMessage(taken=replication_pb2.ReplicaTaken(topic_id=b"short")),
        replication_pb2.ReplicationMessage(serving=replication_pb2.ReplicaServing()),
    ):
        with pytest.raises(LinkRefused):
            replication_codec.decode(message.SerializeToString(), b"")


def test_a_refusal_of_a_newer_brokers_table_becomes_one_that_can_be_raised() -> None:
    for refused in (
        control_pb2.ControlRefused(code="OF_LATER"),
        control_pb2.ControlRefused(
            code="UNKNOWN_TOPIC", facts=[control_pb2.ControlFact(name="later", text="x")]
        ),
        control_pb2.ControlRefused(
            code="UNKNOWN_TOPIC",
            facts=[
                control_pb2.ControlFact(name="topic", text="x"),
                control_pb2.ControlFact(name="outcome", text="later"),
            ],
        ),
    ):
        ok = control_pb2.ControlCommitted(index=1, refused=refused)
        whole = control_pb2.ControlMessage(number=1, proposed=control_pb2.ControlProposed(ok=ok))
        decoded: Any = control_codec.decode(whole.SerializeToString(), b"")
        result = decoded.reply.outcome.result
        assert result.code is ErrorCode.INTERNAL
        assert refused.code in str(result.error)


def test_what_no_text_can_say_is_said_in_another_way() -> None:
    message = control.Replied(1, control.Failed("a path \udcff"))
    assert control_codec.decode(*control_codec.encode(message)) == control.Replied(
        1, control.Failed("a path \\udcff")
    )


def test_a_command_that_is_too_large_for_the_log_is_not_sent() -> None:
    envelope = Envelope(bytes(16), 1, 1, DeleteTopic(bytes(codec.COMMAND_BYTES_MAX)))
    with pytest.raises(codec.CommandTooLarge):
        control_codec.encode(control.Asked(1, control.Propose(envelope, 100)))
