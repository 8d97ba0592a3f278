"""One question to one broker without an event loop, for test support: a client's is its user's to run."""

from __future__ import annotations

from typing import Final

import grpc

from millpond._transport.translate import CLIENT_ID_METADATA_KEY, error_in, topic_of
from millpond.v1 import metadata_pb2
from millpond.wire.errors import ClusterUnavailable, UnknownPartition, UnknownTopic

_METHOD: Final = "/millpond.v1.MetadataService/Describe"
_CLIENT_ID: Final = "millpond-testing"


def ask_leader(address: str, topic: str, partition: int, timeout: float) -> int | None:
    """The id of the broker that leads a partition, as the broker at `address` knows it; None: nobody does.

    Raises UnknownTopic, UnknownPartition, what the broker refuses with, and ClusterUnavailable for everything
    else that keeps it from answering within `timeout` seconds.
    """
    with grpc.insecure_channel(address, options=(("grpc.enable_http_proxy", 0),)) as channel:
        describe = channel.unary_unary(
            _METHOD,
            request_serializer=metadata_pb2.DescribeRequest.SerializeToString,
            response_deserializer=metadata_pb2.ClusterMetadata.FromString,
        )
        metadata = ((CLIENT_ID_METADATA_KEY, _CLIENT_ID),)
        try:
            answer = describe(
                metadata_pb2.DescribeRequest(topics=[topic]), timeout=timeout, metadata=metadata
            )
        except grpc.RpcError as failed:
            call: grpc.Call = failed  # type: ignore[assignment] # what a call raises is that call
            told = error_in(call.trailing_metadata())
            raise told or ClusterUnavailable(tried={address: call.details() or call.code().name}) from None
    for found in map(topic_of, answer.topics):
        if found.name == topic:
            if not 0 <= partition < len(found.partitions):
                raise UnknownPartition(topic=topic, partition=partition, partitions=len(found.partitions))
            return found.partitions[partition].leader
    raise UnknownTopic(topic=topic)
