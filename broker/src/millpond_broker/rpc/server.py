"""The gRPC server for clients: which services there are, on which port, with which limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection

from millpond.v1 import admin_pb2, fetch_pb2, metadata_pb2, offsets_pb2, produce_pb2
from millpond.wire.errors import InvalidConfig
from millpond_broker.rpc.admin import AdminService
from millpond_broker.rpc.calls import MESSAGE_BYTES_MAX
from millpond_broker.rpc.fetch import FetchService
from millpond_broker.rpc.metadata import MetadataService
from millpond_broker.rpc.offsets import OffsetService
from millpond_broker.rpc.produce import ProducerService, ProduceService
from millpond_broker.runtime.broker import Broker

WINDOW_BYTES: Final = 1 << 20
"""Of one stream, before its handler reads: enough for the network of a data centre, and bounded."""
PING_INTERVAL_MS_MIN: Final = 5_000
"""Half of what clients keep to, so that a delay on the way does not look like haste."""
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    # Left to itself gRPC grows a stream's receive window with what it measures of the network, and knows no
    # bound: 20 senders had 2.8 GB in the memory of a reader slower than they. A fixed window keeps to itself.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", WINDOW_BYTES),
    # Two brokers on one port by mistake would share its clients without a word.
    ("grpc.so_reuseport", 0),
    # Clients ask every 10 s whether the connection still lives, also without a call under way; who asks more
    # often than this, again and again, is cut off.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", PING_INTERVAL_MS_MIN),
    ("grpc.http2.max_ping_strikes", 5),
)


@dataclass(frozen=True, kw_only=True)
class RpcOptions:
    """Where the server listens."""

    listen: str
    """host:port; port 0 takes a free one."""


def services(broker: Broker) -> dict[str, dict[str, grpc.RpcMethodHandler[Any, Any]]]:
    """Handlers by the full name of their service, and by method."""
    known: Mapping[str, tuple[Any, dict[str, grpc.RpcMethodHandler[Any, Any]]]] = {
        "ProduceService": (produce_pb2, ProduceService(broker).handlers()),
        "ProducerService": (produce_pb2, ProducerService(broker).handlers()),
        "FetchService": (fetch_pb2, FetchService(broker).handlers()),
        "MetadataService": (metadata_pb2, MetadataService(broker).handlers()),
        "OffsetService": (offsets_pb2, OffsetService(broker).handlers()),
        "AdminService": (admin_pb2, AdminService(broker).handlers()),
    }
    found = {}
    for name, (module, handlers) in known.items():
        service = module.DESCRIPTOR.services_by_name[name]
        assert {method.name for method in service.methods} == set(handlers), f"{name} is complete"
        found[service.full_name] = handlers
    return found


class RpcServer:
    """Standard health checking and reflection included."""

    def __init__(self, broker: Broker, options: RpcOptions) -> None:
        self._options = options
        self._server = grpc.aio.server(options=_OPTIONS)
        self._health = health.aio.HealthServicer()
        self._names = []
        for name, handlers in services(broker).items():
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
            self._names.append(name)

    async def start(self) -> int:
        """Listen; the port. Every service says that it does not serve yet. Raises InvalidConfig."""
        add_health(self._health, self._server)
        names = (*self._names, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)
        await self.set_serving(serving=False)
        try:
            port = self._server.add_insecure_port(self._options.listen)
        except RuntimeError as error:
            raise InvalidConfig(key="broker.listen", reason=f"cannot listen there: {error}") from None
        await self._server.start()
        return port

    async def set_serving(self, *, serving: bool) -> None:
        """What health checks are told, for the server and each of its services."""
        status = (
            health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        )
        for name in ("", *self._names):
            await self._health.set(name, status)

    async def stop(self, seconds: float) -> None:
        """Take no new calls, wait so long for those under way, then end them."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(seconds)


def add_health(servicer: health.aio.HealthServicer, server: grpc.aio.Server) -> None:
    """Register the standard service; its generated module has the only function that can."""
    from grpc_health.v1 import health_pb2_grpc  # noqa: PLC0415 - beside its use: it is not ours

    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
