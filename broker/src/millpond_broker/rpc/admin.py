"""AdminService."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import grpc

from millpond.v1 import admin_pb2
from millpond.wire.errors import InvalidRequest
from millpond_broker.core.image import MetadataImage, TopicImage
from millpond_broker.rpc.calls import unary
from millpond_broker.rpc.translate import topic_message
from millpond_broker.runtime.broker import Broker
from millpond_broker.runtime.replicas import LedPartition

CHANGE_BYTES_MAX: Final = 512 << 10
"""What is asked for becomes one entry of the metadata log, which holds twice that."""


class AdminService:
    """Changing topics."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def handlers(self) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        """Its methods by name."""
        return {
            "CreateTopic": unary(admin_pb2.CreateTopicRequest, self._create, CHANGE_BYTES_MAX),
            "DeleteTopic": unary(admin_pb2.DeleteTopicRequest, self._delete, CHANGE_BYTES_MAX),
            "AlterTopic": unary(admin_pb2.AlterTopicRequest, self._alter, CHANGE_BYTES_MAX),
            "TrimTopic": unary(admin_pb2.TrimTopicRequest, self._trim, CHANGE_BYTES_MAX),
            "ReassignPartitions": unary(
                admin_pb2.ReassignPartitionsRequest, self._reassign, CHANGE_BYTES_MAX
            ),
            "ElectLeaders": unary(admin_pb2.ElectLeadersRequest, self._elect, CHANGE_BYTES_MAX),
            "DrainBroker": unary(admin_pb2.DrainBrokerRequest, self._drain, CHANGE_BYTES_MAX),
            "AddVoter": unary(admin_pb2.AddVoterRequest, self._add_voter, CHANGE_BYTES_MAX),
            "RemoveVoter": unary(admin_pb2.RemoveVoterRequest, self._remove_voter, CHANGE_BYTES_MAX),
        }

    async def _create(self, request: admin_pb2.CreateTopicRequest) -> admin_pb2.TopicResponse:
        topic, version = await self._broker.topics().create(
            request.name,
            partitions=request.partitions,
            replicas=request.replicas if request.HasField("replicas") else None,
            min_insync=request.min_insync if request.HasField("min_insync") else None,
            config=dict(request.config),
        )
        return _topic_response(topic, version)

    async def _delete(self, request: admin_pb2.DeleteTopicRequest) -> admin_pb2.DeleteTopicResponse:
        return admin_pb2.DeleteTopicResponse(version=await self._broker.topics().delete(request.name))

    async def _alter(self, request: admin_pb2.AlterTopicRequest) -> admin_pb2.TopicResponse:
        topic, version = await self._broker.topics().alter(
            request.name,
            partitions=request.partitions if request.HasField("partitions") else None,
            set_config=dict(request.set),
            unset=tuple(request.unset),
        )
        return _topic_response(topic, version)

    async def _trim(self, request: admin_pb2.TrimTopicRequest) -> admin_pb2.TrimTopicResponse:
        before = {item.partition: item.before_offset for item in request.partitions}
        log_starts = await self._broker.topics().trim(request.topic_id, before)
        return admin_pb2.TrimTopicResponse(log_starts=log_starts)

    async def _reassign(self, request: admin_pb2.ReassignPartitionsRequest) -> admin_pb2.TopicResponse:
        replicas = {item.partition: tuple(item.replicas) for item in request.partitions}
        if len(replicas) != len(request.partitions):
            raise InvalidRequest(reason="a partition is named twice")
        topic, version = await self._broker.topics().replicas.reassign(request.name, replicas)
        return _topic_response(topic, version)

    async def _elect(self, request: admin_pb2.ElectLeadersRequest) -> admin_pb2.ElectLeadersResponse:
        elected, version = await self._broker.topics().replicas.elect(
            request.name, tuple(request.partitions), unclean=request.unclean
        )
        return admin_pb2.ElectLeadersResponse(elected=_led(elected), version=version)

    async def _drain(self, request: admin_pb2.DrainBrokerRequest) -> admin_pb2.DrainBrokerResponse:
        moved, remaining, version = await self._broker.topics().replicas.drain(request.broker_id)
        return admin_pb2.DrainBrokerResponse(moved=_led(moved), remaining=_led(remaining), version=version)

    async def _add_voter(self, request: admin_pb2.AddVoterRequest) -> admin_pb2.VotersResponse:
        return _voters_response(await self._broker.voting().add(request.broker_id))

    async def _remove_voter(self, request: admin_pb2.RemoveVoterRequest) -> admin_pb2.VotersResponse:
        return _voters_response(await self._broker.voting().remove(request.broker_id))


def _voters_response(image: MetadataImage) -> admin_pb2.VotersResponse:
    return admin_pb2.VotersResponse(voters=image.voters, version=image.version)


def _led(partitions: Sequence[LedPartition]) -> list[admin_pb2.LedPartition]:
    return [
        admin_pb2.LedPartition(topic=item.topic, partition=item.partition, leader=item.leader or 0)
        for item in partitions
    ]


def _topic_response(topic: TopicImage, version: int) -> admin_pb2.TopicResponse:
    return admin_pb2.TopicResponse(topic=topic_message(topic), version=version)
