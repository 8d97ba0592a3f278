"""MetadataService."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final

import grpc

from millpond.v1 import metadata_pb2
from millpond.wire.errors import BrokerNotReady, MillpondError
from millpond_broker.core.image import MetadataImage, TopicImage
from millpond_broker.rpc.calls import Context, parse, refuse, unary
from millpond_broker.rpc.translate import cluster_metadata
from millpond_broker.runtime.broker import Broker
from millpond_broker.runtime.touch import CURRENT_SECONDS_MAX

IDLE_SECONDS: Final = 1.0
"""A watch on which nothing changes gets a sign of life so often: what hangs is found out by its silence, well
before the connection is."""

LOOK_SECONDS: Final = 0.5
"""How often a watch on which nothing changes asks whether this broker is still in touch."""

LOST_SECONDS: Final = 0.5
"""Without a lease, after there was one: this broker may be cut off from the others, and whoever watches it
and goes on sending to it does not hear who leads by now. Another broker may know more."""

NEVER_SECONDS: Final = 3.0
"""Likewise, where there was none to begin with: maybe nobody has one, and each new watch costs an image."""


class LostTouch:
    """Whether a watch is of use: its broker hears of the controller."""

    def __init__(self) -> None:
        self._was_there = False
        self._lost_at: float | None = None

    def is_lost(self, now: float, *, is_in_touch: bool) -> bool:
        """Whether the watch is to end, at that time of a clock that only goes forward."""
        if is_in_touch:
            self._was_there, self._lost_at = True, None
            return False
        if self._lost_at is None:
            self._lost_at = now
        return now - self._lost_at >= (LOST_SECONDS if self._was_there else NEVER_SECONDS)


class MetadataService:
    """The cluster as this broker knows it."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def handlers(self) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        """Its methods by name."""
        return {
            "Describe": unary(metadata_pb2.DescribeRequest, self._describe),
            "Watch": grpc.unary_stream_rpc_method_handler(self._watch),
        }

    async def _describe(self, request: metadata_pb2.DescribeRequest) -> metadata_pb2.ClusterMetadata:
        image = self._broker.metadata()
        return self._cluster(image, _topics(image, request.topics))

    def _cluster(self, image: MetadataImage, topics: list[TopicImage]) -> metadata_pb2.ClusterMetadata:
        options = self._broker.options
        cluster = cluster_metadata(image, topics, options.limits.batch_bytes_max, options.broker_id)
        unheard_seconds = self._broker.unheard_seconds()
        cluster.unheard_ms = int(unheard_seconds * 1000)
        cluster.out_of_touch = unheard_seconds > CURRENT_SECONDS_MAX
        return cluster

    async def _watch(self, data: bytes, context: Context) -> None:
        try:
            parse(metadata_pb2.WatchRequest, data)
            async with self._broker.watch_stream() as feed:
                known: MetadataImage | None = None
                touch, clock = LostTouch(), asyncio.get_running_loop().time
                told_at = clock()
                # Or until the client leaves, or the feed ends.
                while not touch.is_lost(clock(), is_in_touch=self._broker.is_in_touch()):
                    try:
                        async with asyncio.timeout(LOOK_SECONDS):
                            image = await feed.newer_than(known)
                    except TimeoutError:
                        if clock() - told_at < IDLE_SECONDS:
                            continue
                        update = b""
                    else:
                        update, known = self._update(known, image).SerializeToString(), image
                    await context.write(update)
                    told_at = clock()
                raise BrokerNotReady(reason="it has not heard of the controller for a while")
        except MillpondError as error:
            await refuse(context, error)

    def _update(self, known: MetadataImage | None, image: MetadataImage) -> metadata_pb2.MetadataUpdate:
        if known is None:
            changed = self._cluster(image, list(image.topics.values()))
            return metadata_pb2.MetadataUpdate(changed=changed, idle_ms=int(IDLE_SECONDS * 1000))
        # An image shares with the one before it what did not change.
        topics = [topic for key, topic in image.topics.items() if known.topics.get(key) is not topic]
        removed = [key for key in known.topics if key not in image.topics]
        return metadata_pb2.MetadataUpdate(changed=self._cluster(image, topics), removed_topic_ids=removed)


def _topics(image: MetadataImage, names: Iterable[str]) -> list[TopicImage]:
    wanted = list(dict.fromkeys(names))
    if not wanted:
        return list(image.topics.values())
    ids = [image.topic_ids[name] for name in wanted if name in image.topic_ids]
    return [image.topics[topic_id] for topic_id in ids]
