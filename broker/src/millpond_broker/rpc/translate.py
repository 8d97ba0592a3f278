"""Errors and metadata as messages."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Final

from millpond.v1 import errors_pb2, metadata_pb2
from millpond.wire.errors import MillpondError
from millpond_broker.core.image import BrokerImage, BrokerState, MetadataImage, PartitionImage, TopicImage
from millpond_broker.core.topic_config import TopicConfig

TEXT_BYTES_MAX: Final = 512
"""Of an error's message and of each of its facts. Together, three times over (as the status, in the detail,
in base64), they stay below the 8 KiB of metadata beyond which gRPC drops a refusal's name."""
_CUT: Final = "…".encode()

_STATES: Final = {
    BrokerState.RUNNING: metadata_pb2.BROKER_STATE_RUNNING,
    BrokerState.FENCED: metadata_pb2.BROKER_STATE_FENCED,
    BrokerState.STOPPING: metadata_pb2.BROKER_STATE_STOPPING,
}


def error_detail(error: MillpondError) -> errors_pb2.ErrorDetail:
    """The error as it travels: facts as text within TEXT_BYTES_MAX, those that are None left out."""
    facts = {
        name: bounded(str(value.value) if isinstance(value, enum.Enum) else str(value))
        for name, value in error.facts().items()
        if value is not None
    }
    code = errors_pb2.ErrorCode.Name(error.number) and error.number
    return errors_pb2.ErrorDetail(code=code, message=bounded(str(error)), facts=facts)  # type: ignore[arg-type]  # a number of the enum


def bounded(text: str) -> str:
    """The beginning of a text that fits, as text that can be sent: a path may hold what is no Unicode."""
    data = text.encode(errors="backslashreplace")
    if len(data) <= TEXT_BYTES_MAX:
        return data.decode()
    return data[: TEXT_BYTES_MAX - len(_CUT)].decode(errors="ignore") + _CUT.decode()


def cluster_metadata(
    image: MetadataImage, topics: Iterable[TopicImage], batch_bytes_max: int, told_by: int
) -> metadata_pb2.ClusterMetadata:
    """The cluster, with those topics, as that broker knows it."""
    return metadata_pb2.ClusterMetadata(
        cluster_id=image.cluster_id or b"",
        version=image.version,
        controller_id=image.controller_id or 0,
        brokers=[_broker(broker, is_voter=key in image.voters) for key, broker in image.brokers.items()],
        topics=[topic_message(topic) for topic in topics],
        batch_bytes_max=batch_bytes_max,
        told_by=told_by,
    )


def _broker(broker: BrokerImage, *, is_voter: bool) -> metadata_pb2.Broker:
    return metadata_pb2.Broker(
        id=broker.broker_id,
        address=broker.address,
        rack=broker.rack,
        state=_STATES[broker.state],
        epoch=broker.epoch,
        version=broker.version,
        voter=is_voter,
    )


def topic_message(topic: TopicImage) -> metadata_pb2.Topic:
    """One topic with its partitions and every setting in effect."""
    return metadata_pb2.Topic(
        name=topic.name,
        topic_id=topic.topic_id,
        partitions=[_partition(number, state) for number, state in enumerate(topic.partitions)],
        replicas=topic.replicas,
        min_insync=topic.min_insync,
        config=config_texts(topic.config),
    )


def _partition(number: int, state: PartitionImage) -> metadata_pb2.Partition:
    return metadata_pb2.Partition(
        partition=number,
        leader=state.leader or 0,
        leader_epoch=state.leader_epoch,
        partition_epoch=state.partition_epoch,
        replicas=state.replicas,
        isr=state.isr,
        elr=state.elr,
        adding=state.adding,
        removing=state.removing,
    )


def config_texts(config: TopicConfig) -> dict[str, str]:
    """Settings as they would be given: no limit is -1."""
    return {key: "-1" if value is None else str(value) for key, value in vars(config).items()}
