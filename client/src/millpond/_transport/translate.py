"""Messages to the types of `_core` and to errors, and back: every field by name, here and nowhere else."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, Final

from google.protobuf.message import DecodeError

from millpond._core.cluster import BrokerView, ClusterUpdate, PartitionView, TopicView
from millpond.v1 import errors_pb2, metadata_pb2
from millpond.wire.errors import ERRORS, InternalError, MillpondError, Outcome

ERROR_METADATA_KEY: Final = "millpond-error-bin"
"""Trailing metadata of a refused call or stream: a serialized ErrorDetail."""
CLIENT_ID_METADATA_KEY: Final = "millpond-client-id"

_CLASSES: Final[Mapping[int, type[MillpondError]]] = types.MappingProxyType(
    {cls.number: cls for cls in ERRORS.values()}
)


def _fields(cls: type[MillpondError]) -> Mapping[str, tuple[Any, bool]]:
    """The facts of a class: their types, and whether each must be given."""
    hints = typing.get_type_hints(cls)
    return {
        field.name: (hints[field.name], field.default is dataclasses.MISSING)
        for field in dataclasses.fields(cls)  # type: ignore[arg-type]  # made a dataclass when it was defined
    }


_FIELDS: Final = types.MappingProxyType({number: _fields(cls) for number, cls in _CLASSES.items()})


def error_of(detail: errors_pb2.ErrorDetail) -> MillpondError:
    """The error that a broker reports. A code that is newer than this client is an InternalError.

    A fact that is missing gets the field's default, or an empty value of its type: an older broker's
    error is worth more than none. Facts that the class does not know are left out.
    """
    cls = _CLASSES.get(detail.code)
    if cls is None:
        return InternalError(reason=f"error {detail.code} which this client does not know: {detail.message}")
    facts = dict(detail.facts)
    return cls(
        **{
            name: _fact(kind, facts.get(name), detail.message)
            for name, (kind, required) in _FIELDS[detail.code].items()
            if required or name in facts
        }
    )


def error_in(metadata: Any) -> MillpondError | None:
    """The error in a call's trailing metadata, if there is one that can be read."""
    for key, value in metadata or ():
        if key == ERROR_METADATA_KEY and isinstance(value, bytes):
            try:
                return error_of(errors_pb2.ErrorDetail.FromString(value))
            except DecodeError:
                return None
    return None


def _fact(kind: Any, text: str | None, message: str) -> Any:
    """`text` as a value of `kind`; an empty value where there is no text, or none that can be read."""
    choices = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if type(None) in choices and text is None:
        return None
    kind = choices[0]
    try:
        if kind is int:
            return int(text) if text is not None else -1
        if kind is float:
            return float(text) if text is not None else -1.0
        if kind is Outcome:
            return Outcome(text) if text is not None else Outcome.UNKNOWN
    except ValueError:
        return {int: -1, float: -1.0, Outcome: Outcome.UNKNOWN}[kind]
    if kind is BaseException:
        return InternalError(reason=text or message)
    if typing.get_origin(kind) is dict:
        return {} if text is None else {"": text}
    return text if text is not None else "?"


_STATES: Final[Mapping[int, str]] = types.MappingProxyType(
    {
        metadata_pb2.BROKER_STATE_RUNNING: "running",
        metadata_pb2.BROKER_STATE_FENCED: "fenced",
        metadata_pb2.BROKER_STATE_STOPPING: "stopping",
    }
)


def broker_of(broker: metadata_pb2.Broker) -> BrokerView:
    """One broker, as it is listed."""
    state = _STATES.get(broker.state, "unknown")
    return BrokerView(
        broker.id, broker.address, broker.rack, state, broker.epoch, broker.version, broker.voter
    )


def topic_of(topic: metadata_pb2.Topic) -> TopicView:
    """One topic, as it is described."""
    partitions = sorted(map(_partition_of, topic.partitions))
    return TopicView(
        topic.name,
        topic.topic_id,
        tuple(partitions),
        topic.replicas,
        topic.min_insync,
        types.MappingProxyType(dict(topic.config)),
    )


def _partition_of(partition: metadata_pb2.Partition) -> PartitionView:
    return PartitionView(
        partition.partition,
        partition.leader or None,
        partition.leader_epoch,
        partition.partition_epoch,
        tuple(partition.replicas),
        tuple(partition.isr),
        tuple(partition.elr),
        tuple(partition.adding),
        tuple(partition.removing),
    )


def update_of(update: metadata_pb2.MetadataUpdate, *, whole: bool) -> ClusterUpdate:
    """One message of a watch; `whole` for the first of a stream."""
    changed = update.changed
    return ClusterUpdate(
        whole,
        changed.cluster_id,
        changed.version,
        changed.controller_id or None,
        tuple(map(broker_of, changed.brokers)),
        tuple(map(topic_of, changed.topics)),
        tuple(update.removed_topic_ids),
        changed.batch_bytes_max,
    )
