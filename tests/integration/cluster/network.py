"""A network between the brokers of a local cluster that a test can cut, in each direction by itself.

Each broker has one wire: a listener whose address is the one that the cluster knows the broker by, so that
all that others say to it passes here. Who opened a connection is asked of the system (which process holds its
socket). What is cut is an ordered pair of brokers: bytes from one to the other, on whichever connection of
the two, in whichever direction that was opened. Connections are not refused or broken by a cut: nothing
arrives, neither bytes nor ends, as when cables are pulled.
"""

from __future__ import annotations

import asyncio
import enum
import re
import threading
from collections.abc import Coroutine, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import permutations
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from millpond.testing import LocalCluster

CHUNK_BYTES: Final = 1 << 16
STOP_SECONDS_MAX: Final = 10.0

Pair = tuple[int, int]
"""From one broker to another, by their ids."""


class Bytes(enum.Enum):
    """What becomes of bytes that a cut has kept from arriving."""

    LATE = "late"
    """They arrive once the cut is over: what one side had said for as long is heard by the other then."""
    LOST = "lost"
    """They are gone, and the connection that they were of breaks once the cut is over."""


def between(some: Iterable[int], others: Iterable[int]) -> frozenset[Pair]:
    """All ways from some brokers to others, and back."""
    one_way = list(ways(some, others))
    return frozenset((*one_way, *((there, here) for here, there in one_way)))


def ways(some: Iterable[int], others: Iterable[int]) -> frozenset[Pair]:
    """All ways from some brokers to others."""
    there = list(others)
    return frozenset((one, other) for one in some for other in there)


class Network:
    """See the module. `with`; its wires are carried by a thread of its own, so that a test may block."""

    def __init__(self, brokers: int, who: _Processes) -> None:
        self.addresses: dict[int, str] = {}
        """Of each broker's wire."""
        self.targets: dict[int, str] = {}
        """Where each broker listens. Set before anybody connects."""
        self.carried: dict[Pair, int] = dict.fromkeys(permutations(range(1, brokers + 1), 2), 0)
        """Bytes that arrived."""
        self.kept: dict[Pair, int] = dict.fromkeys(self.carried, 0)
        """Bytes that did not arrive when they should have."""
        self._who = who
        self._brokers = brokers
        self._cut: dict[Pair, Bytes] = {}
        self._changed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._is_up = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="network")

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._is_up.wait(STOP_SECONDS_MAX)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(STOP_SECONDS_MAX)
        assert not self._thread.is_alive()
        if self._failure is not None and error is None:
            raise self._failure

    # --- what a test does -------------------------------------------------------------------------------

    def cut(self, pairs: Iterable[Pair], then: Bytes = Bytes.LATE) -> None:
        """Nothing arrives any more on these ways, until `heal`."""
        self._set(self._cut | dict.fromkeys(pairs, then))

    def heal(self) -> None:
        """Everything arrives again."""
        self._set({})

    @contextmanager
    def without(self, pairs: Iterable[Pair], then: Bytes = Bytes.LATE) -> Iterator[None]:
        """Cut for as long as the block lasts."""
        self.cut(pairs, then)
        try:
            yield
        finally:
            self.heal()

    def _set(self, cut: dict[Pair, Bytes]) -> None:
        async def change() -> None:
            self._cut = cut
            self._changed.set()
            self._changed = asyncio.Event()

        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(change(), self._loop).result(STOP_SECONDS_MAX)

    # --- its thread -------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # of a thread: raised where the network is left
            self._failure = error
            self._is_up.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as tasks:
            servers = []
            for broker in range(1, self._brokers + 1):

                def accept(
                    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, broker: int = broker
                ) -> None:
                    tasks.create_task(self._until_stopped(self._connected(broker, reader, writer)))

                server = await asyncio.start_server(accept, "127.0.0.1", 0, limit=CHUNK_BYTES)
                self.addresses[broker] = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
                servers.append(server)
            self._is_up.set()
            await self._stopping.wait()
            for server in servers:
                server.close()

    async def _until_stopped(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        stopped = asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
        for each in (task, stopped):
            each.cancel()
        for result in await asyncio.gather(task, stopped, return_exceptions=True):
            if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
                raise result

    async def _connected(
        self, broker: int, near: asyncio.StreamReader, to_near: asyncio.StreamWriter
    ) -> None:
        to_far: asyncio.StreamWriter | None = None
        try:
            port = to_near.get_extra_info("peername")[1]
            opener = await asyncio.to_thread(self._who.holds, port)
            if opener is None:
                return  # it has hung up already
            host, _, at = self.targets[broker].rpartition(":")
            far, to_far = await asyncio.open_connection(host, int(at), limit=CHUNK_BYTES)
            there = asyncio.ensure_future(self._carry(near, to_far, (opener, broker)))
            back = asyncio.ensure_future(self._carry(far, to_near, (broker, opener)))
            try:
                await asyncio.wait((there, back), return_when=asyncio.FIRST_COMPLETED)
            finally:
                there.cancel()
                back.cancel()
                await asyncio.gather(there, back, return_exceptions=True)
        except OSError:
            return  # nobody listens there: as refused
        finally:
            for writer in (to_near, to_far):
                if writer is not None:
                    writer.transport.abort()

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, way: Pair) -> None:
        """Until its end has arrived, or the connection is broken."""
        has_lost = False
        while True:
            try:
                data = await source.read(CHUNK_BYTES)
            except OSError:
                data = b""  # broken there: an end like any other
            while (fate := self._cut.get(way)) is not None:
                if fate is Bytes.LOST and data:
                    self.kept[way] += len(data)
                    has_lost = True
                    break
                # An end that is cut off, or bytes that wait: until the cut is over.
                self.kept[way] += len(data)
                await self._changed.wait()
            else:
                if has_lost or not data:
                    return
                self.carried[way] += len(data)
                sink.write(data)
                with suppress(OSError):
                    await sink.drain()


class _Processes:
    """Which of a cluster's processes holds a socket."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def holds(self, port: int) -> int | None:
        """The broker whose outgoing connection comes from that port; None if none does (any more)."""
        inode = _inode_of(port)
        if inode is None:
            return None
        for process in Path("/proc").iterdir():
            if not process.name.isdecimal():
                continue
            try:
                found = re.search(
                    rf"{re.escape(str(self._directory))}/broker-(\d+)/", (process / "cmdline").read_text()
                )
                if found is not None and any(
                    str(descriptor.readlink()) == f"socket:[{inode}]"
                    for descriptor in (process / "fd").iterdir()
                ):
                    return int(found[1])
            except OSError:
                continue  # a process or a descriptor that has gone meanwhile
        return None


def _inode_of(port: int) -> str | None:
    """Of the socket that is connected from this port of the loopback."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if int(fields[1].rpartition(":")[2], 16) == port and fields[9] != "0":
                return fields[9]
    return None


class NetworkedCluster(LocalCluster):
    """Brokers that reach each other through a network of ours; clients reach them as they are."""

    def __init__(self, brokers: int, directory: Path, **options: Any) -> None:
        super().__init__(brokers, data_dir=directory, **options)
        self.network = Network(brokers, _Processes(directory))

    def _configure(self, directory: Path) -> None:
        """The cluster knows each broker by the address of its wire."""
        super()._configure(directory)
        for number, address in self.network.addresses.items():
            path = directory / f"broker-{number}" / "broker.toml"
            text = path.read_text(encoding="utf-8")
            found = re.search(r'^"peer_listen" = "(.*)"$', text, re.MULTILINE)
            assert found is not None
            self.network.targets[number] = found[1]
            for other in self.network.addresses:
                home = directory / f"broker-{other}" / "broker.toml"
                changed = home.read_text(encoding="utf-8")
                home.write_text(changed.replace(f'"{number}@{found[1]}"', f'"{number}@{address}"'))
