"""A local cluster: real broker processes on loopback, for the length of a `with` block."""

from __future__ import annotations

import http.client
import shutil
import signal
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from millpond._local.configuring import check_count, write_configs
from millpond._local.process import BrokerProcess
from millpond._local.record import BROKERS_MAX
from millpond._local.starting import START_SECONDS_MAX, start_all, start_on_free_ports
from millpond._local.waiting import Steps, Wait, run_async, run_blocking
from millpond.wire.errors import (
    BrokerNotReady,
    ClusterUnavailable,
    InternalError,
    InvalidConfig,
    InvalidRequest,
    OperationTimeout,
)

if TYPE_CHECKING:
    from millpond.client import Client

STOP_SECONDS_MAX: Final = 30.0
"""For a broker to stop, beyond its own limits.stop_timeout_ms."""
STOP_TIMEOUT_MS: Final = 5_000
"""limits.stop_timeout_ms of these brokers: for a stream left open no test waits half a minute."""
PROBE_SECONDS: Final = 0.02
"""Between two looks at a broker that answers, but is not ready."""


class LocalCluster:
    """Real broker processes on this machine, `with` or `async with`; brokers are counted from 0.

    Several `brokers` are one cluster; the first `voters` of them vote on its metadata (all, unless said): it
    works while more than half of those run. Data lie in `data_dir`, made if need be and kept, or in a
    temporary directory that goes with the cluster. `config` sets keys of the brokers' configuration, as
    `{"limits.batch_bytes_max": 1_000_000}`; who and where a broker is, the cluster decides.

    The methods block, for a second or two where a broker starts or stops; in a coroutine, those of
    `aio` do not stop the event loop meanwhile. A cluster belongs to one thread. Its brokers never outlive
    this process, even if it is killed.
    """

    def __init__(
        self,
        brokers: int = 1,
        *,
        voters: int | None = None,
        data_dir: str | Path | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        if brokers < 1:
            raise InvalidConfig(key="brokers", reason=f"{brokers} brokers are no cluster")
        if brokers > BROKERS_MAX:
            reason = f"{brokers} brokers are more than the {BROKERS_MAX} that can vote"
            raise InvalidConfig(key="brokers", reason=reason)
        if voters is not None and not 1 <= voters <= brokers:
            raise InvalidConfig(key="voters", reason=f"{voters} of {brokers} brokers cannot vote")
        self._count = brokers
        self._voters = voters
        self._given_dir = None if data_dir is None else Path(data_dir)
        self._config = {"limits.stop_timeout_ms": STOP_TIMEOUT_MS, **(config or {})}
        self._directory: Path | None = None
        self._brokers: list[BrokerProcess] = []

    # --- the block ------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        run_blocking(self._open())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        run_blocking(self._close(failing=error is not None))

    async def __aenter__(self) -> Self:
        await run_async(self._open())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await run_async(self._close(failing=error is not None))

    # --- reaching it ----------------------------------------------------------------------------------

    @property
    def bootstrap(self) -> str:
        """host:port of every broker, for `millpond.connect`. The same for the life of the cluster."""
        return ",".join(str(broker.ready["client"]) for broker in self._open_brokers())

    def http_address(self, i: int = 0) -> str:
        """host:port of broker `i` for /metrics, /healthz and /readyz."""
        return str(self._broker(i).ready["http"])

    @property
    def data_dir(self) -> Path:
        """Where brokers keep their files: broker-1/data, broker-1/log, … by broker id, which is i + 1."""
        self._open_brokers()
        assert self._directory is not None, "an open cluster has one"
        return self._directory

    def client(self, **options: Any) -> Client:
        """What `millpond.connect(cluster.bootstrap, **options)` gives: await it, or enter it."""
        made: Client = import_module("millpond.client").connect(self.bootstrap, **options)
        return made

    def sync_client(self, **options: Any) -> Any:
        """The same of `millpond.sync.connect`, for tests without an event loop."""
        return import_module("millpond.sync").connect(self.bootstrap, **options)

    # --- doing things to it ---------------------------------------------------------------------------

    @property
    def aio(self) -> AsyncOperations:
        """The methods that take their time, to be awaited."""
        return AsyncOperations(self)

    def kill(self, i: int) -> None:
        """SIGKILL to broker `i`, which is gone when this returns; nothing if it did not run."""
        self._broker(i).kill()

    def pause(self, i: int) -> None:
        """SIGSTOP: broker `i` does nothing any more, its connections stay. Raises InvalidRequest if it does
        not run.
        """
        self._broker(i).pause()

    def resume(self, i: int) -> None:
        """SIGCONT: broker `i` goes on. Raises InvalidRequest if it does not run."""
        self._broker(i).resume()

    def stop(self, i: int) -> None:
        """SIGTERM to broker `i`, and wait for its end. Nothing if it did not run.

        Raises InternalError if it did not end with status 0; OperationTimeout, and it is killed, if it did
        not end.
        """
        run_blocking(self._stop(self._broker(i)))

    def restart(self, i: int, *others: int) -> None:
        """Start broker `i` on its files and ports, after a clean stop if it runs; it is ready on return.

        With `others` all of them side by side: where half of a cluster or more does not run, none is ready
        before enough are.
        """
        run_blocking(self._restart([self._broker(each) for each in (i, *others)]))

    def wait_ready(self, timeout: float = START_SECONDS_MAX) -> None:
        """Return when every broker answers that it is ready; starting and restarting wait for that anyway.

        Raises OperationTimeout if one does not within `timeout` seconds (it may be paused), BrokerNotReady if
        one does not run.
        """
        run_blocking(self._wait_ready(timeout))

    def leader(self, topic: str, partition: int = 0, *, timeout: float = 10.0) -> int | None:
        """Which broker leads a partition, counted from 0; None while none does.

        Raises UnknownTopic, UnknownPartition, and ClusterUnavailable if no broker answers.
        """
        ask_leader = import_module("millpond._transport.asking").ask_leader
        running = [broker for broker in self._open_brokers() if broker.pid is not None]
        if not running:
            raise BrokerNotReady(reason="none of the brokers runs")
        tried: dict[str, str] = {}
        for broker in sorted(running, key=lambda broker: broker.is_paused):  # those answer nothing
            try:
                found: int | None = ask_leader(
                    broker.ready["client"], topic, partition, timeout / len(running)
                )
            except ClusterUnavailable as error:
                tried |= error.tried
            else:
                return None if found is None else found - 1
        raise ClusterUnavailable(tried=tried)

    def logs(self, i: int) -> str:
        """What broker `i` logged, over all its starts: the last MiB of it. One JSON object a line."""
        return self._broker(i).log()

    # --- the work itself ------------------------------------------------------------------------------

    def _open_brokers(self) -> Sequence[BrokerProcess]:
        if not self._brokers:
            raise InvalidRequest(reason="this cluster is not open: enter it with `with` or `async with`")
        return self._brokers

    def _broker(self, i: int) -> BrokerProcess:
        brokers = self._open_brokers()
        if not 0 <= i < len(brokers):
            raise InvalidRequest(
                reason=f"there is no broker {i}: they are counted from 0 to {len(brokers) - 1}"
            )
        return brokers[i]

    def _open(self) -> Steps[None]:
        if self._brokers:
            raise InvalidRequest(reason="this cluster is open already")
        if find_spec("pysyncobj") is None:
            raise ModuleNotFoundError(
                "a local cluster needs the broker extra: pip install 'millpond[broker]'"
            )
        if self._given_dir is None:
            self._directory = Path(tempfile.mkdtemp(prefix="millpond-"))
        else:
            self._directory = self._given_dir.absolute()
        check_count(self._directory, self._count, self._voters)
        brokers = [self._process(number) for number in range(self._count)]
        try:
            yield from self._first_start(brokers)
        except BaseException:  # whatever stopped it, nothing of it stays
            for broker in brokers:
                broker.kill()
            self._remove_directory()
            raise
        self._brokers = brokers

    def _process(self, number: int) -> BrokerProcess:
        assert self._directory is not None, "it has been chosen"
        home = self._directory / f"broker-{number + 1}"
        return BrokerProcess(number, home / "broker.toml", home / "log")

    def _configure(self, directory: Path) -> None:
        """Write what the brokers of a first start read: ports that were free just now."""
        write_configs(directory, self._count, self._config, self._voters)

    def _first_start(self, brokers: Sequence[BrokerProcess]) -> Steps[None]:
        """All of them side by side: each waits for the others."""
        assert self._directory is not None, "it has been chosen"
        directory = self._directory
        yield from start_on_free_ports(brokers, lambda: self._configure(directory), START_SECONDS_MAX)

    def _stop(self, broker: BrokerProcess) -> Steps[None]:
        own_seconds = int(self._config["limits.stop_timeout_ms"]) / 1000
        status = yield from broker.stop(STOP_SECONDS_MAX + own_seconds)
        # SIGKILL is no failure of the broker: somebody asked for it, if not through this object.
        if status and status != -signal.SIGKILL:
            tail = broker.log()[-2_000:]
            raise InternalError(reason=f"{broker} ended with status {status}; its log ends:\n{tail}")

    def _restart(self, brokers: Sequence[BrokerProcess]) -> Steps[None]:
        yield from self._stop_all([broker for broker in brokers if broker.pid is not None])
        yield from start_all(brokers, START_SECONDS_MAX)

    def _stop_all(self, brokers: Sequence[BrokerProcess]) -> Steps[None]:
        """Side by side. Of several failures, the first is raised."""
        for broker in brokers:
            broker.ask_to_stop()
        failure: Exception | None = None
        for broker in brokers:
            try:
                yield from self._stop(broker)
            except (InternalError, OperationTimeout) as error:
                failure = failure or error
        if failure is not None:
            raise failure

    def _wait_ready(self, timeout: float) -> Steps[None]:
        until = time.monotonic() + timeout
        for broker in self._open_brokers():
            while not (yield from _answers_ready(broker, until)):
                if time.monotonic() >= until:
                    raise OperationTimeout(what=f"waiting until {broker} is ready", timeout=timeout)
                yield Wait(None, min(until, time.monotonic() + PROBE_SECONDS))

    def _close(self, *, failing: bool) -> Steps[None]:
        """End every broker. One that failed, then or before, is told of, unless something else already is."""
        brokers, self._brokers = self._brokers, []
        try:
            yield from self._stop_all(brokers)
        except (InternalError, OperationTimeout):
            if not failing:
                raise
        finally:
            for broker in brokers:
                broker.kill()
            self._remove_directory()

    def _remove_directory(self) -> None:
        if self._given_dir is None and self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
        self._directory = None


class AsyncOperations:
    """What a cluster's blocking methods do, while the event loop goes on."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._cluster = cluster

    async def stop(self, i: int) -> None:
        """As LocalCluster.stop."""
        await run_async(self._cluster._stop(self._cluster._broker(i)))  # noqa: SLF001 - one thing in two classes

    async def restart(self, i: int, *others: int) -> None:
        """As LocalCluster.restart."""
        brokers = [self._cluster._broker(each) for each in (i, *others)]  # noqa: SLF001 - as above
        await run_async(self._cluster._restart(brokers))  # noqa: SLF001 - as above

    async def wait_ready(self, timeout: float = START_SECONDS_MAX) -> None:
        """As LocalCluster.wait_ready."""
        await run_async(self._cluster._wait_ready(timeout))  # noqa: SLF001 - as above


def _answers_ready(broker: BrokerProcess, until: float) -> Steps[bool]:
    """Whether the broker says, on its HTTP port, that it is ready; False also if it says nothing in time."""
    if broker.pid is None:
        raise BrokerNotReady(reason=f"{broker} does not run")
    host, _, port = broker.ready["http"].rpartition(":")
    # The system connects by itself, also to a process that is paused: neither of these waits for the broker.
    connection = http.client.HTTPConnection(host, int(port), timeout=5)
    try:
        connection.request("GET", "/readyz", headers={"Connection": "close"})
        if not (yield Wait(connection.sock.fileno(), until)):
            return False
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False  # it is on its way down, or was killed just now: the next look will say
    finally:
        connection.close()
