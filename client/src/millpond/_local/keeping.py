"""A local cluster that somebody runs: started, kept running, stopped; what happens to it is told as events.

`millpond up` shows them. One task a broker waits for its end and starts it again, as `Restarts` says.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from millpond._local.addressing import check_free, choose
from millpond._local.configuring import Addresses, write_configs
from millpond._local.examining import CONFIG, LOG, examine
from millpond._local.home import in_use, running
from millpond._local.process import BrokerProcess
from millpond._local.record import Record, write_record
from millpond._local.restarts import Restarts
from millpond._local.starting import START_SECONDS_MAX, start_all, start_on_free_ports
from millpond._local.waiting import run_async
from millpond._local.whole import sync_directory
from millpond.wire.errors import DirectoryInUse, InternalError

STOP_TIMEOUT_MS: Final = 5_000
"""limits.stop_timeout_ms of these brokers: who is at a terminal does not wait half a minute."""
STOP_SECONDS_MAX: Final = STOP_TIMEOUT_MS / 1000 + 10.0
"""For all of them to stop, side by side; then they are killed."""
FORMER_SECONDS_MAX: Final = STOP_SECONDS_MAX + 5.0
"""For the brokers of a run that was killed, which stop by themselves."""
FORMER_LOOK_SECONDS: Final = 0.1
"""Between two looks whether they have."""

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


def check(options: KeepOptions) -> None:
    """Raise, before anything is written, what a `Keeper` of these options would say about the directory; and
    about the ports, if the directory is still to be made.

    Raises NotADataDirectory, UnsupportedFormat, InvalidConfig.
    """
    record = examine(options.directory, options.brokers)
    if not options.directory.exists():
        check_free(choose(options.port, record), record)


class Keeper:
    """The brokers of one directory. `run` once; `stop` from the same event loop."""

    def __init__(self, options: KeepOptions, tell: Tell) -> None:
        """Writes nothing. Raises as `check` does of the directory."""
        self._options = options
        self._tell = tell
        # Absolute: a configuration file means the same wherever a broker is started with it.
        self._directory: Final = options.directory.absolute()
        self._record: Record = examine(options.directory, options.brokers)
        homes = {
            number: self._directory / f"broker-{number}" for number in range(1, self._record.brokers + 1)
        }
        self.logs: Final = {home.name: home / LOG for home in homes.values()}
        """By name. They are there once `starting` has been told."""
        self._brokers = [BrokerProcess(number, home / CONFIG, home / LOG) for number, home in homes.items()]
        self._is_started = False
        self._stopping = asyncio.Event()
        self._unclean: list[BrokerProcess] = []

    async def run(self) -> bool:
        """Start them, and return when none runs any more: whether all stopped cleanly because `stop` was
        called. Cancelled, it kills them.

        Raises InvalidConfig for a port that is taken, DirectoryInUse for brokers that somebody else has
        started there, InternalError for a broker that ends as it starts, OperationTimeout; none runs then.
        """
        try:
            if await self._start():
                self._record = self._record._replace(is_founded=True)
                write_record(self._directory, self._record)
                members = [{**self._facts(broker), "pid": broker.pid} for broker in self._brokers]
                self._tell("ready", {"bootstrap": self.bootstrap, "brokers": members})
                async with asyncio.TaskGroup() as tasks:
                    for broker in self._brokers:
                        tasks.create_task(self._keep(broker), name=str(broker))
            else:
                await self._end_what_began()
        finally:
            for broker in self._brokers:
                broker.kill()
        return self._stopping.is_set() and not self._unclean

    @property
    def bootstrap(self) -> str:
        """host:port of every broker that has been ready."""
        return ",".join(str(broker.ready["client"]) for broker in self._brokers if broker.ready)

    def stop(self) -> None:
        """Have them stop, side by side: leaderships need not be handed to those who leave as well. While they
        start, those that have been launched.
        """
        self._stopping.set()
        if self._is_started:
            for broker in self._brokers:
                broker.ask_to_stop()

    # --- starting -------------------------------------------------------------------------------------

    async def _start(self) -> bool:
        """Whether they are all ready: not, if `stop` was called before."""
        await self._wait_for_former()
        if self._stopping.is_set():
            return False
        self._remember(self._choose())  # raises for what is wrong, before anything is written
        for path in self.logs.values():
            path.parent.mkdir(exist_ok=True)
        sync_directory(self._directory)
        self._tell("starting", {"brokers": len(self._brokers), "data_dir": str(self._options.directory)})
        if not self._options.port:
            starts = start_on_free_ports(self._brokers, self._configure, is_stopping=self._stopping.is_set)
        else:
            self._configure()
            starts = start_all(self._brokers, is_stopping=self._stopping.is_set)
        are_ready = await run_async(starts)
        # Asked to stop at the very last, none of them knows of it yet.
        self._is_started = are_ready and not self._stopping.is_set()
        return self._is_started

    async def _wait_for_former(self) -> None:
        """Those of a run that was killed stop by themselves; until then they have their ports and data."""
        until = time.monotonic() + FORMER_SECONDS_MAX
        is_told = False
        while former := running(self._directory):
            if time.monotonic() >= until:
                whose = f"broker {former[0]} of a run before, which does not end"
                raise DirectoryInUse(path=str(self._options.directory), holder=whose)
            if not is_told:
                is_told = True
                self._tell("waiting", {"brokers": former, "seconds_max": FORMER_SECONDS_MAX})
            if await self._stops_within(FORMER_LOOK_SECONDS):
                return
        if (data := in_use(self._directory)) is not None:
            raise DirectoryInUse(path=str(data), holder="a broker that was started by itself")

    def _choose(self) -> list[Addresses]:
        self._record = examine(self._directory, len(self._brokers))  # as it is by now
        addresses = choose(self._options.port, self._record)
        check_free(addresses, self._record)
        return addresses

    def _configure(self) -> None:
        addresses = self._choose()
        self._remember(addresses)
        config = {"limits.stop_timeout_ms": STOP_TIMEOUT_MS}
        write_configs(self._directory, len(addresses), config, addresses=addresses)

    def _remember(self, addresses: Sequence[Addresses]) -> None:
        """First of all: by the time at which one broker may have data it is known how many they are."""
        peers = tuple(own.peer for own in addresses) if len(addresses) > 1 else ()
        self._record = self._record._replace(peers=peers)
        write_record(self._directory, self._record)

    async def _end_what_began(self) -> None:
        """Stop those that were launched, of which some may not be ready."""
        for broker in self._brokers:
            broker.ask_to_stop()
        for broker in self._brokers:
            status = await run_async(broker.ends())
            # Until it handles signals it has opened nothing, and ends by them.
            self._stopped(broker, None if status == -signal.SIGTERM else status)

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
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        # `stop` may have been called in the very turn in which the time was up: nobody asks again.
        return self._stopping.is_set()

    def _stopped(self, broker: BrokerProcess, status: int | None) -> None:
        if status:
            self._unclean.append(broker)
            self._tell("broker_failed_to_stop", {"broker": broker.number, "status": status})

    def _facts(self, broker: BrokerProcess) -> dict[str, Any]:
        return {
            "broker": broker.number,
            **{name: broker.ready.get(name) for name in ("client", "peer", "http")},
        }


def ended(status: int | None) -> str:
    """How a process ended, in words."""
    if status is None:
        return "ended"
    return f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
