"""A local cluster that somebody runs: started, kept running, stopped; what happens to it is told as events.

`millpond up` shows them. One task a broker waits for its end and starts it again, as `Restarts` says.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from millpond._local.configuring import Addresses, check_count, count_before, write_configs
from millpond._local.ports import is_taken
from millpond._local.process import BrokerProcess
from millpond._local.restarts import Restarts
from millpond._local.starting import START_SECONDS_MAX, start_all, start_on_free_ports
from millpond._local.waiting import run_async
from millpond.wire.errors import InternalError, InvalidConfig

BROKERS: Final = 3
"""Without another wish: the fewest that outlive the loss of one."""
PORTS_EACH: Final = 10
"""From one broker's first port to the next one's: clients, then brokers, then HTTP."""
STOP_TIMEOUT_MS: Final = 5_000
"""limits.stop_timeout_ms of these brokers: who is at a terminal does not wait half a minute."""
STOP_SECONDS_MAX: Final = STOP_TIMEOUT_MS / 1000 + 10.0
"""For all of them to stop, side by side; then they are killed."""

Tell = Callable[[str, Mapping[str, Any]], None]
"""Gets the name of an event and its facts."""


@dataclass(frozen=True, kw_only=True)
class KeepOptions:
    """`directory` is the caller's alone; `port` is the first broker's for clients, 0 for free ones; without
    `brokers` as many as have their data there, or three.
    """

    directory: Path
    port: int
    brokers: int | None = None
    restart: bool = True


class Keeper:
    """The brokers of one directory. `run` once; `stop` and `kill` from the same event loop."""

    def __init__(self, options: KeepOptions, tell: Tell) -> None:
        """Raises InvalidConfig for another number of brokers than the directory has."""
        self._options = options
        self._tell = tell
        count = options.brokers or count_before(options.directory) or BROKERS
        check_count(options.directory, count)
        homes = [options.directory / f"broker-{number}" for number in range(1, count + 1)]
        self.logs: Final = {f"broker-{number}": home / "log" for number, home in enumerate(homes, 1)}
        for home in homes:
            home.mkdir(parents=True, exist_ok=True)
        self._brokers = [
            BrokerProcess(number, home / "broker.toml", home / "log") for number, home in enumerate(homes, 1)
        ]
        self._stopping = asyncio.Event()
        self._unclean: list[BrokerProcess] = []

    async def run(self) -> bool:
        """Start them, and return when none runs any more: whether all stopped cleanly because `stop` was
        called. Cancelled, it kills them.

        Raises InvalidConfig for a port that is taken, InternalError for a broker that ends as it starts,
        OperationTimeout; none runs then.
        """
        try:
            await self._start()
            members = [{**self._facts(broker), "pid": broker.pid} for broker in self._brokers]
            self._tell("ready", {"bootstrap": self.bootstrap, "brokers": members})
            async with asyncio.TaskGroup() as tasks:
                for broker in self._brokers:
                    tasks.create_task(self._keep(broker), name=str(broker))
        finally:
            for broker in self._brokers:
                broker.kill()
        return self._stopping.is_set() and not self._unclean

    @property
    def bootstrap(self) -> str:
        """host:port of every broker that has been ready."""
        return ",".join(str(broker.ready["client"]) for broker in self._brokers if broker.ready)

    def stop(self) -> None:
        """Have them stop, side by side: leaderships need not be handed to those who leave as well."""
        self._stopping.set()
        for broker in self._brokers:
            broker.ask_to_stop()

    # --- starting -------------------------------------------------------------------------------------

    async def _start(self) -> None:
        self._tell("starting", {"brokers": len(self._brokers), "data_dir": str(self._options.directory)})
        if not self._options.port:
            await run_async(start_on_free_ports(self._brokers, self._configure))
            return
        for number, addresses in enumerate(self._configure(), 1):
            for purpose, address in addresses._asdict().items():
                _check_free(address, f"broker {number}, {PURPOSES[purpose]}")
        await run_async(start_all(self._brokers))

    def _configure(self) -> list[Addresses]:
        count, first = len(self._brokers), self._options.port
        ports = [first + PORTS_EACH * broker + each for broker in range(count) for each in range(3)]
        config = {"limits.stop_timeout_ms": STOP_TIMEOUT_MS}
        return write_configs(self._options.directory, count, config, ports=ports if first else None)

    # --- keeping --------------------------------------------------------------------------------------

    async def _keep(self, broker: BrokerProcess) -> None:
        """From its being ready to its last end."""
        restarts = Restarts(self._options.restart)
        is_ready = True
        while True:
            since = time.monotonic()
            status = await run_async(broker.ends()) if is_ready else None
            if self._stopping.is_set():
                self._stopped(broker, status)
                return
            wait = restarts.after(time.monotonic() - since if is_ready else 0.0)
            facts = {"broker": broker.number, "status": status, "restart_in_seconds": wait}
            self._tell("broker_ended" if is_ready else "broker_did_not_start", facts)
            if wait is None or await self._stops_within(wait):
                return
            is_ready = await self._comes_back(broker)
            if is_ready:
                self._tell("broker_ready", {**self._facts(broker), "pid": broker.pid})

    async def _comes_back(self, broker: BrokerProcess) -> bool:
        """Start it again; it does not run if it does not become ready."""
        try:
            broker.launch()
            if await run_async(broker.comes_up(time.monotonic() + START_SECONDS_MAX)):
                return True
            broker.gave_up(START_SECONDS_MAX)
        except (InternalError, OSError):  # its log says why; OSError: no process, or no file for its log
            pass
        return False

    async def _stops_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return False
        return True

    def _stopped(self, broker: BrokerProcess, status: int | None) -> None:
        if status:
            self._unclean.append(broker)
            self._tell("broker_failed_to_stop", {"broker": broker.number, "status": status})

    def _facts(self, broker: BrokerProcess) -> dict[str, Any]:
        return {
            "broker": broker.number,
            **{name: broker.ready.get(name) for name in ("client", "peer", "http")},
        }


PURPOSES: Final[Mapping[str, str]] = {
    "client": "for clients",
    "peer": "for the other brokers",
    "http": "for HTTP",
}


def last_port(port: int, brokers: int) -> int:
    """The highest port of so many brokers."""
    return port + PORTS_EACH * (brokers - 1) + 2


def _check_free(address: str, whose: str) -> None:
    try:
        if not is_taken(address):
            return
        why = "is taken"
    except OSError as error:
        why = f"cannot be had, {error.strerror}"
    what_to_do = "end what listens there, or name others with --port, 0 for free ones"
    raise InvalidConfig(key=address, reason=f"{why} ({whose}): {what_to_do}")


def ended(status: int | None) -> str:
    """How a process ended, in words."""
    if status is None:
        return "ended"
    return f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
