"""The broker process: configuration in, everything wired, signals out.

The only module that sees the whole configuration; each part gets the options that it declares.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import resource
import signal
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final

from millpond.wire.errors import InvalidConfig, MillpondError
from millpond_broker.config import Config, load
from millpond_broker.consensus.metadata_log import MetadataLogFailed
from millpond_broker.core.admission import AdmissionLimits
from millpond_broker.observe.http import HttpServer, Routes
from millpond_broker.observe.logs import configure, event
from millpond_broker.observe.loop_lag import measure_loop_lag
from millpond_broker.observe.metrics import BrokerMetrics, render
from millpond_broker.rpc.server import RpcOptions, RpcServer
from millpond_broker.runtime.broker import LOGS_AT_ONCE, Broker, BrokerOptions, Phase
from millpond_broker.runtime.fetch import FetchLimits
from millpond_broker.runtime.ports import DiskThread, SystemClock
from millpond_broker.runtime.produce import ProduceLimits
from millpond_broker.storage.files import OsFiles

if TYPE_CHECKING:
    from millpond_broker.others import Others

_log: Final = logging.getLogger(__name__)

FAILED: Final = 1
USAGE_ERROR: Final = 2
HTTP_STOP_SECONDS: Final = 1.0
READINESS_SECONDS: Final = 0.5
"""Between two looks at whether this broker is ready, for those who are told rather than ask."""
SWITCH_SECONDS: Final = 0.001
"""After which a busy thread lets the voter's run, which has heartbeats to send: Python's 5 ms add up."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one broker in the foreground until SIGTERM or SIGINT; the exit status.

    0 after a clean stop, 1 when it cannot start or fails, 2 for a configuration that means nothing; one line
    on stderr says why.
    """
    parser = argparse.ArgumentParser(prog="millpond broker", description="Run one broker in the foreground.")
    parser.add_argument("--config", type=Path, metavar="FILE", help="configuration, TOML")
    parser.add_argument(
        "--exit-with-parent",
        action="store_true",
        help="stop when standard input ends, as it does with its writer",
    )
    arguments = parser.parse_args(argv)
    _raise_descriptor_limit()
    try:
        config = load(arguments.config, os.environ, {})
        configure()
        asyncio.run(serve(config, exit_with_parent=arguments.exit_with_parent))
    except Exception as error:  # the root of the process: said in one line, with the trace in the log
        return _failed(error)
    return 0


def _failed(error: Exception) -> int:
    """Say why the process ends, and with which status. What has no name of ours is logged with its trace."""
    causes = list(_leaves(error))
    if not all(isinstance(cause, MillpondError | MetadataLogFailed) for cause in causes):
        event(_log, logging.CRITICAL, "failed", error=error)
    sys.stderr.write(f"millpond broker: {causes[0]}\n")
    return USAGE_ERROR if isinstance(causes[0], InvalidConfig) else FAILED


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """What task groups have wrapped, some of it more than once."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _raise_descriptor_limit() -> None:
    """As many open files as this process may have: partitions and clients take some each."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def serve(config: Config, *, exit_with_parent: bool = False) -> None:
    """One broker, from its ports to its end. Raises InvalidConfig for a port that is taken, and what keeps a
    broker from starting (`Broker.run`).
    """
    metrics = BrokerMetrics()
    syncs, disk, logs = DiskThread("syncs"), DiskThread("disk"), DiskThread("logs", LOGS_AT_ONCE)
    others = _others(config, disk)
    broker = Broker(
        _broker_options(config),
        OsFiles(),
        syncs=syncs,
        disk=disk,
        logs=logs,
        clock=SystemClock(),
        metrics=metrics,
        new_id=_new_id,
        streams=None if others is None else others.streams,
        open_metadata=None if others is None else others.open_metadata,
        answer_found=None if others is None else others.answer_found,
        voter_seat=others,
    )
    metrics.gauges = broker.gauges
    server = RpcServer(broker, RpcOptions(listen=config.broker.listen))
    async with AsyncExitStack() as cleanup:
        cleanup.callback(syncs.close)
        cleanup.callback(disk.close)
        cleanup.callback(logs.close)
        port = await server.start()
        cleanup.push_async_callback(server.stop, 0)
        http = HttpServer(_routes(broker, metrics), config.http.listen)
        http_address = await http.start()
        cleanup.push_async_callback(http.stop)
        stopping = _stop_on_signals(exit_with_parent=exit_with_parent)
        address = config.broker.client_address(port)
        serving: list[asyncio.Task[None]] = []
        async with asyncio.TaskGroup() as tasks:
            lag = tasks.create_task(measure_loop_lag(metrics), name="loop lag")

            def ready() -> None:
                serving.append(tasks.create_task(_tell_readiness(broker, server), name="readiness"))
                _announce(config.broker.id, address, broker.peer_address, http_address)

            await broker.run(address, ready, stopping)
            for task in (lag, *serving):
                task.cancel()
        event(_log, logging.INFO, "stopped", broker=config.broker.id)


def _others(config: Config, disk: DiskThread) -> Others | None:
    """What it takes to be one of several; a broker without a secret is alone. Raises InvalidConfig."""
    if config.cluster.secret_file is None:
        return None
    # A third of a start's time, of which a broker alone needs nothing.
    from millpond_broker.others import Others  # noqa: PLC0415 - see above

    return Others(config, config.cluster.secret_file, disk, _new_id)


def _new_id() -> bytes:
    return uuid.uuid4().bytes


def _broker_options(config: Config) -> BrokerOptions:
    limits = config.limits
    return BrokerOptions(
        broker_id=config.broker.id,
        data_dir=config.broker.data_dir,
        rack=config.broker.rack,
        peer_address=config.cluster.peer_address(config.broker.id),
        version=version("millpond"),
        limits=AdmissionLimits(
            batch_bytes_max=limits.batch_bytes_max, timestamp_ahead_ms_max=limits.timestamp_ahead_ms_max
        ),
        produce=ProduceLimits(
            stream_bytes_max=limits.produce_stream_bytes_max, total_bytes_max=limits.produce_bytes_max
        ),
        fetch=FetchLimits(
            credit_bytes_max=limits.fetch_stream_bytes_max, chunk_bytes=limits.fetch_chunk_bytes
        ),
        streams_max=limits.streams_max,
        partitions_max=limits.partitions_max,
        upkeep_seconds=limits.upkeep_ms / 1000,
        stop_seconds_max=limits.stop_timeout_ms / 1000,
    )


def _routes(broker: Broker, metrics: BrokerMetrics) -> Routes:
    def healthz() -> tuple[int, str, bytes]:
        return 200, "text/plain", b"alive\n"

    def readyz() -> tuple[int, str, bytes]:
        is_ready, how = broker.readiness()
        return 200 if is_ready else 503, "text/plain", f"{how}\n".encode()

    return {"/metrics": lambda: render(metrics), "/healthz": healthz, "/readyz": readyz}


async def _tell_readiness(broker: Broker, server: RpcServer) -> None:
    """Have health checks over gRPC say what /readyz does, and the log say when that changes."""
    was_ready = None
    while True:
        is_ready, how = broker.readiness()
        if is_ready != was_ready:
            if was_ready is not None and broker.phase is Phase.RUNNING:
                level = logging.INFO if is_ready else logging.WARNING
                event(_log, level, "ready_again" if is_ready else "not_ready", reason=how)
            was_ready = is_ready
            await server.set_serving(serving=is_ready)
        await asyncio.sleep(READINESS_SECONDS)


def _stop_on_signals(*, exit_with_parent: bool) -> asyncio.Event:
    """Set by the first SIGTERM or SIGINT; a second one ends the process as it would any other."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    if exit_with_parent:

        def parent_is_gone() -> None:
            if not os.read(sys.stdin.fileno(), 4096):
                loop.remove_reader(sys.stdin.fileno())
                stopping.set()

        loop.add_reader(sys.stdin.fileno(), parent_is_gone)
    return stopping


def _announce(broker_id: int, client: str, peer: str, http: str) -> None:
    """The one line on stdout, for whoever started this process."""
    line = {"event": "ready", "broker": broker_id, "client": client, "peer": peer, "http": http}
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()
    event(_log, logging.INFO, "ready", broker=broker_id, client=client, peer=peer, http=http)
