"""Everything that one client has open: links to brokers, the cluster's view kept fresh, background tasks.

One watch stream keeps the view; it is the view's only writer, so that versions only grow. When it breaks,
the next address is asked, round all that are known, with growing pauses after a whole round without one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, Protocol, TypeVar

import grpc.aio
from google.protobuf.descriptor import ServiceDescriptor

from millpond._core.cluster import ClusterView, NotReady, TopicView, Unreached, addresses_of
from millpond._core.retry import Backoff, Deadline
from millpond._transport.link import Link
from millpond._transport.tasks import Tasks
from millpond._transport.translate import update_of
from millpond.v1 import metadata_pb2
from millpond.wire.errors import (
    BrokerNotReady,
    ClientClosed,
    ClusterUnavailable,
    ForkedClient,
    MillpondError,
    NotController,
    OperationTimeout,
    UnknownTopic,
    UnsupportedFormat,
)

T = TypeVar("T")

METADATA: Final = metadata_pb2.DESCRIPTOR.services_by_name["MetadataService"]

WATCH_FIRST_S: Final = 3.0
"""A broker that takes a watch and sends nothing for so long is passed over for the next address."""
WATCH_SILENCES: Final = 3
"""A broker that says how often it gives a sign of life, and missed so many, is left for the next address."""
WATCH_BEHIND_S: Final = 3.0
"""And one whose metadata was older than what is known here for so long."""
TOO_LATE_S: Final = 0.05
"""With less time left, another attempt only hides why the one before it failed."""
ATTEMPT_S: Final = 10.0
"""A broker that takes longer for a call is passed over for the next, if the call has time left."""
SILENT_S: Final = 2.0
"""A call without an answer for so long: does that broker answer anything at all?"""
SIGN_OF_LIFE_S: Final = 1.5
"""For it to answer a question that takes no work and waits for nobody else. One that does not hangs, and is
left for the next; one that does is slow, and asking others the same would only make it slower."""
DESCRIBE_S: Final = 5.0
"""A broker that takes longer to describe what it knows is passed over likewise."""
RETRY: Final = Backoff(first_s=0.05, factor=2.0, max_s=1.0)
"""Between rounds over all addresses: a broker that restarts is found within a second of being back."""

NOTHING: Final = metadata_pb2.DescribeRequest(topics=["."])
"""Asks for a topic that no cluster has, since none may have that name."""

_log: Final = logging.getLogger("millpond")

_forks = 0
"""How many forks this process is away from the first: a connection belongs to the process that opened it."""


def _count_fork() -> None:
    global _forks  # noqa: PLW0603 - one per process, like the fork itself
    _forks += 1


os.register_at_fork(after_in_child=_count_fork)


class Child(Protocol):
    """What a connection closes before itself: a producer, a consumer."""

    async def close(self, timeout: float | None = None) -> None:
        """Release everything, within `timeout` seconds if given. Closing twice is closing once."""


class Connection:
    """One client's state. Made by `open`; every method but `close` raises ClientClosed after `close`."""

    def __init__(self, addresses: tuple[str, ...], client_id: str, timeout: float) -> None:
        self.client_id = client_id
        self.timeout = timeout
        """Seconds that a call may take whose caller does not say."""
        self.view = ClusterView()
        self._addresses = addresses
        self._links: dict[str, Link] = {}
        self._tasks = Tasks("client")
        self._children: dict[int, Child] = {}
        self._closed = False
        self._closing: asyncio.Event | None = None
        """Set once it is closed; None while nobody closes it."""
        self._fork = _forks
        self._loop = asyncio.get_running_loop()
        self._changed: asyncio.Future[None] = self._loop.create_future()
        """Done at the next change of the view, and on close."""
        self._tried: dict[str, str] = {}
        """What went wrong at each address since the watch last worked."""
        self._watched: str | None = None
        """Whom the watch listens to now."""

    @classmethod
    async def open(cls, bootstrap: str, client_id: str, timeout: float) -> Connection:
        """Connect to whichever of the addresses answers first.

        Raises ClusterUnavailable, which names each address and what went wrong there, when none did
        within `timeout` seconds, or sooner where all are of something else; InvalidConfig for an address that
        is none.
        """
        connection = cls(addresses_of(bootstrap), client_id, timeout)
        try:
            connection.start(connection._keep_watching(), "watch")
            with suppress(OperationTimeout):  # what was tried says more
                await connection.until(
                    lambda view: view.version >= 0 or connection.is_misdirected,
                    connection.deadline(timeout),
                    "waiting for metadata",
                )
            if connection.view.version < 0:
                raise ClusterUnavailable(tried=connection.tried())
        except BaseException:  # cancelled, too: nothing half open is left
            await connection.close()
            raise
        return connection

    # --- the process, the loop, the end --------------------------------------------------------------

    def check(self) -> None:
        """Raise ClientClosed or ForkedClient where this connection may not be used (any more)."""
        if self._fork != _forks:
            raise ForkedClient(what="client")
        if self._closed:
            raise ClientClosed(what="client")

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def start(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Run `work` in the background, until it ends or the connection closes."""
        try:
            self.check()
        except MillpondError:
            work.close()
            raise
        return self._tasks.start(work, name)

    def adopt(self, child: Child) -> None:
        """Close `child` when the connection closes, while everything still works."""
        self.check()
        self._children[id(child)] = child

    def release(self, child: Child) -> None:
        """Forget a child that is closed."""
        self._children.pop(id(child), None)

    async def close(self, timeout: float | None = None) -> None:
        """Close children, newest first, which have `timeout` seconds in all, then tasks and channels. A
        child's error is raised at the end. Whoever closes while another task does waits for that.
        """
        if self._fork != _forks:
            return
        if self._closing is not None:
            await self._closing.wait()
            return
        self._closing = asyncio.Event()
        try:
            await self._close(self.deadline(timeout))
        finally:
            self._closing.set()

    async def _close(self, deadline: Deadline) -> None:
        errors: list[Exception] = []
        try:
            await self._close_children(errors, deadline)
        finally:
            self._closed = True
            self._tell()
            try:
                # Those that are left where this was cancelled: with the client closed, none waits for long.
                await self._close_children(errors, deadline)
                await self._tasks.stop()
            finally:
                links = list(self._links.values())
                self._links.clear()
                await asyncio.gather(*(link.close() for link in links))
        if errors:
            raise errors[0]

    async def _close_children(self, errors: list[Exception], deadline: Deadline) -> None:
        while self._children:
            _, child = self._children.popitem()
            try:
                await child.close(max(0.0, self.left_s(deadline)))
            except Exception as error:  # the others are to be closed too; its error is raised in the end
                errors.append(error)

    # --- time ------------------------------------------------------------------------------------------

    def deadline(self, timeout: float | None) -> Deadline:
        """The deadline of a call that begins now; the client's own timeout where the caller named none."""
        return Deadline.after(self._loop.time(), self.timeout if timeout is None else timeout)

    def left_s(self, deadline: Deadline) -> float:
        """Seconds left of a deadline."""
        return deadline.left_s(self._loop.time())

    @contextmanager
    def _named(self, what: str, deadline: Deadline) -> Iterator[None]:
        try:
            yield
        except TimeoutError as error:
            if isinstance(error, MillpondError):
                raise
            raise OperationTimeout(what=what, timeout=deadline.timeout) from None

    async def pause(self, failures: int, deadline: Deadline, what: str) -> None:
        """Wait before an attempt that follows that many failures. Raises OperationTimeout at the deadline."""
        delay = RETRY.delay_s(failures, random.random())  # noqa: S311 - spreads retries, guards nothing
        if delay >= self.left_s(deadline):
            raise OperationTimeout(what=what, timeout=deadline.timeout)
        await asyncio.sleep(delay)
        self.check()

    # --- the view --------------------------------------------------------------------------------------

    async def until(self, holds: Callable[[ClusterView], bool], deadline: Deadline, what: str) -> ClusterView:
        """The first view of which `holds` is true. Raises OperationTimeout, which names `what`."""
        self.check()
        with self._named(what, deadline):
            async with asyncio.timeout_at(deadline.at):
                while not holds(self.view):
                    await asyncio.shield(self._changed)
                    self.check()
        return self.view

    async def newer_than(self, version: int, deadline: Deadline) -> ClusterView:
        """The view once it is newer than `version`."""
        return await self.until(lambda view: view.version > version, deadline, "waiting for metadata")

    async def changed(self) -> None:
        """Until the view changes the next time, or the connection closes."""
        await asyncio.shield(self._changed)

    async def topic(self, name: str, deadline: Deadline) -> TopicView:
        """The topic of that name. Raises UnknownTopic once the controller, or whoever could be asked, said
        that there is none.
        """
        self.check()
        if (known := self.view.topics.get(name)) is not None:
            return known
        request = metadata_pb2.DescribeRequest(topics=[name])
        answer = await self.call_any(METADATA, "Describe", request, deadline, attempt_s=DESCRIBE_S)
        if not answer.topics and answer.controller_id:
            answer = await self._describe_at(answer.controller_id, request, deadline) or answer
        if not answer.topics:
            raise UnknownTopic(topic=name)
        view = await self.until(
            lambda view: name in view.topics or view.version >= answer.version,
            deadline,
            f"waiting for metadata of topic {name!r}",
        )
        if name not in view.topics:
            raise UnknownTopic(topic=name)
        return view.topics[name]

    async def _describe_at(self, broker: int, request: Any, deadline: Deadline) -> Any:
        """What the controller says: whoever was asked may be behind it by what somebody was told just now.
        None where it does not answer.
        """
        try:
            link = self.link(broker)
            if link.address == self._watched:
                return None
            seconds = min(DESCRIBE_S, self.left_s(deadline))
            return await link.call(METADATA, "Describe", request, seconds)
        except MillpondError:
            self.check()
            return None

    @property
    def is_misdirected(self) -> bool:
        """Whether each address that is known is of something that is no broker's port for clients."""
        reasons = [self._tried.get(address) for address in self._candidates()]
        return self.view.version < 0 and all(
            isinstance(reason, Unreached) and reason.is_misdirected for reason in reasons
        )

    def tried(self) -> dict[str, str]:
        """Each known address and what went wrong there."""
        return {address: self._tried.get(address, "no answer") for address in self._candidates()}

    # --- links and calls -------------------------------------------------------------------------------

    def link(self, broker: int | str) -> Link:
        """The link to a broker, by id or address. Raises ClusterUnavailable for an id that is not known."""
        self.check()
        if isinstance(broker, int):
            if (view := self.view.brokers.get(broker)) is None:
                raise ClusterUnavailable(tried={f"broker {broker}": "not a member of the cluster"})
            broker = view.address
        if (link := self._links.get(broker)) is None:
            link = self._links[broker] = Link(broker, self.client_id, self.check)
        return link

    async def call_any(
        self,
        service: ServiceDescriptor,
        method: str,
        request: Any,
        deadline: Deadline,
        *,
        attempt_s: float = ATTEMPT_S,
        unanswered: list[str] | None = None,
        accept: Callable[[Any], bool] | None = None,
        enough: Callable[[], bool] | None = None,
    ) -> Any:
        """Call whichever broker answers, the watched one first, again and again until the deadline.

        Only for calls that may be repeated: one whose answer was lost is made anew, its address in
        `unanswered`. A broker that does not answer within `attempt_s`, or with what `accept` refuses since
        it is behind, is left for the next. Raises ClusterUnavailable, which names each address, when none
        could be reached in time, or `enough` says after a round over all that it was the last.
        """
        tried: dict[str, str] = {}
        rounds = 0
        while True:
            for address in self._candidates():
                left_s = self.left_s(deadline)
                try:
                    answer = await self._attempt(address, service, method, request, min(left_s, attempt_s))
                except ClusterUnavailable as error:
                    tried |= error.tried
                    if unanswered is not None and error.tried.get(address) is not Unreached.REFUSED:
                        unanswered.append(address)
                except BrokerNotReady as error:
                    tried[address] = NotReady(error)
                except NotController as error:
                    tried[address] = str(error)
                except OperationTimeout as error:
                    if self.left_s(deadline) > TOO_LATE_S:
                        # Hung, or a broker's own word that it does not know what became of it.
                        tried[address] = str(error)
                        if unanswered is not None:
                            unanswered.append(address)
                        continue
                    if tried:
                        raise ClusterUnavailable(tried=tried) from None
                    # The method's name says which call it was; how long its caller gave it, only this.
                    raise OperationTimeout(what=method, timeout=deadline.timeout) from None
                else:
                    if accept is None or accept(answer):
                        return answer
                    tried[address] = "its metadata is behind"
            if enough is not None and enough():
                raise ClusterUnavailable(tried=tried)
            rounds += 1
            try:
                await self.pause(rounds, deadline, method)
            except OperationTimeout:
                raise ClusterUnavailable(tried=tried) from None

    async def _attempt(
        self, address: str, service: ServiceDescriptor, method: str, request: Any, seconds: float
    ) -> Any:
        """One call to one broker, for as long as it gives signs of life. Raises OperationTimeout, and what
        the call does.
        """
        link, patience = self.link(address), asyncio.timeout(None)
        try:
            async with patience:
                looking = self.start(self._look_for_life(link, patience), "signs of life")
                try:
                    return await link.call(service, method, request, seconds)
                finally:
                    looking.cancel()
        except TimeoutError as error:
            if isinstance(error, MillpondError):
                raise
            raise OperationTimeout(what=f"{method} at {address}", timeout=SILENT_S) from None

    async def _look_for_life(self, link: Link, patience: asyncio.Timeout) -> None:
        """End the caller's patience once that broker answers nothing."""
        while True:
            await asyncio.sleep(SILENT_S)
            try:
                await link.call(METADATA, "Describe", NOTHING, SIGN_OF_LIFE_S)
            except (OperationTimeout, ClusterUnavailable):
                patience.reschedule(self._loop.time())
                return
            except MillpondError:
                self.check()  # a refusal is an answer

    def _candidates(self) -> tuple[str, ...]:
        """Every address worth asking, each once: the watched one, the cluster's, those given at first."""
        first = () if self._watched is None else (self._watched,)
        brokers = (broker.address for broker in self.view.brokers.values())
        return tuple(dict.fromkeys((*first, *brokers, *self._addresses)))

    # --- the watch -------------------------------------------------------------------------------------

    async def _keep_watching(self) -> None:
        """Watch somebody, always. Ends by being cancelled."""
        failures = 0
        last: str | None = None
        while True:
            candidates = self._candidates()
            # Round all of them, whoever failed last comes last.
            at = candidates.index(last) + 1 if last in candidates else 0
            last = candidates[at % len(candidates)]
            if await self._watch(last):
                failures = 0
                self._tried.clear()
                candidates = self._candidates()
            failures += 1
            if self.is_misdirected:
                self._tell()
            if failures % len(candidates) == 0:
                jitter = random.random()  # noqa: S311 - spreads retries, guards nothing
                await asyncio.sleep(RETRY.delay_s(failures // len(candidates), jitter))

    async def _watch(self, address: str) -> bool:
        """Watch one broker until the stream ends; whether it sent anything."""
        heard = False
        patience: float | None = WATCH_FIRST_S
        version, current_at = -1, self._loop.time()
        call = self.link(address).watch(METADATA, "Watch", metadata_pb2.WatchRequest())
        try:
            while (update := await _read_within(call, patience)) is not grpc.aio.EOF:
                if not heard:
                    patience = WATCH_SILENCES * update.idle_ms / 1000 or None
                if update.HasField("changed"):
                    self._apply(update, whole=not heard)
                    version = update.changed.version
                heard, self._watched = True, address
                if version >= self.view.version:
                    current_at = self._loop.time()
                elif self._loop.time() - current_at >= WATCH_BEHIND_S:
                    self._tried[address] = "its metadata is behind"
                    break
            else:
                self._tried[address] = "it ended the watch"
        except TimeoutError:
            self._tried[address] = f"connected, but no answer within {patience:g} s"
        except grpc.aio.AioRpcError as error:
            told = self.link(address).error_of(error, "Watch")
            tried = told.tried.get(address) if isinstance(told, ClusterUnavailable) else None
            if isinstance(told, UnsupportedFormat):
                tried = Unreached.PEER_PORT
            elif isinstance(told, BrokerNotReady):
                tried = NotReady(told)
            self._tried[address] = tried or str(told)
        except (ValueError, TypeError) as error:  # what cannot be translated is that broker's fault alone
            self._tried[address] = f"metadata that makes no sense: {error}"
            _log.warning("metadata of %s makes no sense: %s", address, error)
        finally:
            self._watched = None
            call.cancel()
        return heard

    def _apply(self, update: metadata_pb2.MetadataUpdate, *, whole: bool) -> None:
        self.view = self.view.updated(update_of(update, whole=whole))
        self._tell()

    def _tell(self) -> None:
        changed, self._changed = self._changed, self._loop.create_future()
        if not changed.done():
            changed.set_result(None)


async def _read_within(call: Any, seconds: float | None) -> Any:
    """The next message of a stream. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        return await call.read()
