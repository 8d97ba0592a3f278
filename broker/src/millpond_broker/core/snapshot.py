"""The image as plain values and back, and its digest.

Plain values are dicts with text keys, lists, texts, ints and None, which any encoding can carry; bytes are
hex. What can be derived is left out: effective settings, ids by name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from millpond.wire.errors import ErrorCode
from millpond_broker.core.commands import REPLICATION_LEVEL, Voter
from millpond_broker.core.results import Applied, CommandResult, Refused, RefusedItem, Value
from millpond_broker.core.state import (
    BrokerImage,
    BrokerState,
    Cut,
    MetadataImage,
    PartitionImage,
    ProposerImage,
    TopicImage,
    frozen,
)
from millpond_broker.core.topic_config import TopicConfig

FORMAT: Final = 2
"""Of the plain values. A greater one is refused. An image of feature level 1 is written in format 1, as by
the versions that know nothing else, so that its digest is theirs."""
DIGEST_BYTES: Final = 16


def digest(image: MetadataImage) -> bytes:
    """The same for equal images, in every process and version: brokers compare by it."""
    text = json.dumps(to_snapshot(image), sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).digest()


def to_snapshot(image: MetadataImage) -> dict[str, Any]:
    """Everything in the image."""
    return {
        "format": FORMAT if _is_replicated(image) else 1,
        "version": image.version,
        "cluster_id": None if image.cluster_id is None else image.cluster_id.hex(),
        "feature_level": image.feature_level,
        "voters": {str(key): [voter.directory_id, voter.address] for key, voter in image.voters.items()},
        "controller_id": image.controller_id,
        "controller_epoch": image.controller_epoch,
        "brokers": {
            str(key): _broker(broker, _is_replicated(image)) for key, broker in image.brokers.items()
        },
        "topics": {key.hex(): _topic(topic) for key, topic in image.topics.items()},
        "next_producer_id": image.next_producer_id,
        "proposers": {key.hex(): _proposer(proposer) for key, proposer in image.proposers.items()},
    }


def from_snapshot(values: Mapping[str, Any]) -> MetadataImage:
    """The image that `to_snapshot` took. Raises ValueError for a format that this version does not know."""
    if not 1 <= values["format"] <= FORMAT:
        raise ValueError(f"metadata snapshot of format {values['format']}; this version has {FORMAT}")
    topics = {bytes.fromhex(key): _to_topic(key, topic) for key, topic in sorted(values["topics"].items())}
    return MetadataImage(
        version=values["version"],
        cluster_id=None if values["cluster_id"] is None else bytes.fromhex(values["cluster_id"]),
        feature_level=values["feature_level"],
        voters=frozen(
            {key: _to_voter(key, values["voters"][str(key)]) for key in sorted(map(int, values["voters"]))}
        ),
        controller_id=values["controller_id"],
        controller_epoch=values["controller_epoch"],
        brokers=frozen(
            {key: _to_broker(key, values["brokers"][str(key)]) for key in sorted(map(int, values["brokers"]))}
        ),
        topics=frozen(topics),
        topic_ids=frozen({topic.name: key for key, topic in topics.items()}),
        next_producer_id=values["next_producer_id"],
        proposers=frozen(
            {bytes.fromhex(key): _to_proposer(proposer) for key, proposer in values["proposers"].items()}
        ),
    )


def _to_voter(broker_id: int, values: Any) -> Voter:
    # A lone voter's snapshot used to have its directory id and nothing else.
    directory_id, address = (values, "") if isinstance(values, str) else values
    return Voter(broker_id, directory_id, address)


def _is_replicated(image: MetadataImage) -> bool:
    return image.feature_level >= REPLICATION_LEVEL


def _broker(broker: BrokerImage, is_replicated: bool) -> dict[str, Any]:
    later = {"feature_level": broker.feature_level, "since": broker.since} if is_replicated else {}
    return later | {
        "epoch": broker.epoch,
        "incarnation": broker.incarnation.hex(),
        "directory_id": broker.directory_id,
        "address": broker.address,
        "peer_address": broker.peer_address,
        "rack": broker.rack,
        "version": broker.version,
        "state": broker.state.value,
    }


def _to_broker(broker_id: int, values: Mapping[str, Any]) -> BrokerImage:
    rest = {key: value for key, value in values.items() if key not in ("incarnation", "state")}
    return BrokerImage(
        broker_id=broker_id,
        incarnation=bytes.fromhex(values["incarnation"]),
        state=BrokerState(values["state"]),
        **rest,
    )


def _topic(topic: TopicImage) -> dict[str, Any]:
    return {
        "name": topic.name,
        "replicas": topic.replicas,
        "min_insync": topic.min_insync,
        "config": dict(topic.config_set),
        "partitions": [
            [
                *(state.leader, state.leader_epoch, state.partition_epoch),
                *(list(state.replicas), list(state.isr), list(state.elr)),
                *([rare] if (rare := _rare(state)) else []),
            ]
            for state in topic.partitions
        ],
    }


def _rare(state: PartitionImage) -> dict[str, Any]:
    """What most partitions have not, most of the time. Nothing of it is there before level 2."""
    values = {
        "last_leader": state.last_leader,
        "recovering_epoch": state.recovering_epoch,
        "adding": list(state.adding) or None,
        "removing": list(state.removing) or None,
        "cuts": [[cut.broker_id, cut.last_epoch, cut.end] for cut in state.cuts] or None,
        "floors": [list(floor) for floor in state.floors] or None,
        "is_offline": True if state.is_offline else None,
    }
    return {key: value for key, value in values.items() if value is not None}


def _to_topic(topic_id: str, values: Mapping[str, Any]) -> TopicImage:
    return TopicImage(
        topic_id=bytes.fromhex(topic_id),
        name=values["name"],
        replicas=values["replicas"],
        min_insync=values["min_insync"],
        config=TopicConfig.parse(values["config"]),
        config_set=tuple(sorted(values["config"].items())),
        partitions=tuple(_to_partition(partition) for partition in values["partitions"]),
    )


def _to_partition(values: Sequence[Any]) -> PartitionImage:
    leader, leader_epoch, partition_epoch, replicas, isr, elr, *more = values
    rare: dict[str, Any] = more[0] if more else {}
    return PartitionImage(
        leader,
        leader_epoch,
        partition_epoch,
        tuple(replicas),
        tuple(isr),
        tuple(elr),
        last_leader=rare.get("last_leader"),
        recovering_epoch=rare.get("recovering_epoch"),
        adding=tuple(rare.get("adding", ())),
        removing=tuple(rare.get("removing", ())),
        cuts=tuple(Cut(*cut) for cut in rare.get("cuts", ())),
        floors=tuple((member, epoch) for member, epoch in rare.get("floors", ())),
        is_offline=rare.get("is_offline", False),
    )


def _proposer(proposer: ProposerImage) -> dict[str, Any]:
    return {
        "last_index": proposer.last_index,
        "forgotten_below": proposer.forgotten_below,
        "results": [[sequence, _result(result)] for sequence, result in proposer.results],
    }


def _to_proposer(values: Mapping[str, Any]) -> ProposerImage:
    results = tuple((sequence, _to_result(result)) for sequence, result in values["results"])
    return ProposerImage(values["last_index"], values["forgotten_below"], results)


def _result(result: CommandResult) -> dict[str, Any]:
    return {"applied": _value(result.value)} if isinstance(result, Applied) else _refused(result)


def _to_result(values: Mapping[str, Any]) -> CommandResult:
    return Applied(_to_value(values["applied"])) if "applied" in values else _to_refused(values)


def _refused(refused: Refused) -> dict[str, Any]:
    return {"refused": str(refused.code), "facts": [list(fact) for fact in refused.facts]}


def _to_refused(values: Mapping[str, Any]) -> Refused:
    return Refused(ErrorCode(values["refused"]), tuple((name, value) for name, value in values["facts"]))


def _value(value: Value) -> Any:
    match value:
        case bytes():
            return {"bytes": value.hex()}
        case tuple():
            return [[item.position, _refused(item.refused)] for item in value]
        case _:
            return value


def _to_value(value: Any) -> Value:
    match value:
        case {"bytes": text}:
            return bytes.fromhex(text)
        case list():
            return tuple(RefusedItem(position, _to_refused(refused)) for position, refused in value)
        case None | int():
            return value
        case _:
            raise ValueError(f"no result has the value {value!r}")
