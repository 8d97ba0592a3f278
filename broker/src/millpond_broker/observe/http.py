"""A small HTTP/1.1 server for machines that ask after a broker: metrics and health, GET and HEAD.

It shares its loop with the broker's work and its port with anybody, so everything it does for a client is
bounded: connections, bytes and headers of a request, requests of a connection, and the time for each step.
What a request may ask is a table of functions that answer at once.

    accept → wait for a request (quietly closed when none comes) → read its head (408 when it is slow)
           → answer → keep-alive: again · otherwise: half-close, take what is still coming, close
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import Final, NamedTuple

from millpond.wire.errors import InvalidConfig
from millpond_broker.observe.logs import event

Routes = Mapping[str, Callable[[], tuple[int, str, bytes]]]
"""Path to what makes the answer: status, content type, body. It may not block: it runs on the loop."""

_log: Final = logging.getLogger(__name__)

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_REQUEST_LINE: Final = re.compile(rb"(%s) ([!-~]+) HTTP/1\.([01])" % _TOKEN)
_HEADER: Final = re.compile(rb"(%s):[ \t]*([^\x00\r\n]*)" % _TOKEN)
_END_OF_HEAD: Final = b"\r\n\r\n"
_PLAIN: Final = "text/plain; charset=utf-8"


@dataclass(frozen=True, kw_only=True)
class HttpLimits:
    """What one client, and all of them, may take. Constants in practice; tests make them small."""

    connections_max: int = 64
    """At once. A scraper and a few probes need a handful; each costs a descriptor that clients of the
    broker may want. One more takes the place of the one that has been idle for longest: a client that only
    holds connections must not make a healthy broker look ill."""
    head_bytes_max: int = 8 << 10
    """Request line and headers: browsers and proxies send about a tenth of it."""
    headers_max: int = 64
    """In one request."""
    requests_max: int = 1_000
    """On one connection; then the client opens another. It bounds what one client keeps for itself."""
    idle_seconds_max: float = 75.0
    """From accepting a connection, or answering on it, to the first byte of a request: more than the usual
    time between two scrapes, so that they share a connection."""
    head_seconds_max: float = 5.0
    """From the first byte of a request to the end of its head."""
    answer_seconds_max: float = 10.0
    """For a client to take an answer; one that does not is cut off."""
    linger_seconds_max: float = 1.0
    """For a client to close after an answer that ends the connection: closing while it still sends would
    take the answer away from it."""


class _Answer(NamedTuple):
    status: int
    content_type: str
    body: bytes
    keep_alive: bool = False
    with_body: bool = True
    allow: bool = False

    def encode(self) -> bytes:
        try:
            phrase = HTTPStatus(self.status).phrase
        except ValueError:
            phrase = ""
        lines = [
            f"HTTP/1.1 {self.status} {phrase}",
            f"Date: {formatdate(usegmt=True)}",
            f"Content-Type: {self.content_type}",
            f"Content-Length: {len(self.body)}",
            "Cache-Control: no-store",
            f"Connection: {'keep-alive' if self.keep_alive else 'close'}",
        ]
        if self.allow:
            lines.append("Allow: GET, HEAD")
        head = "\r\n".join(lines).encode("latin-1") + _END_OF_HEAD
        return head + self.body if self.with_body else head


def _plain(status: HTTPStatus, *, allow: bool = False) -> _Answer:
    """An answer that ends the connection and says no more than its status."""
    return _Answer(status, _PLAIN, f"{status.phrase}\n".encode(), allow=allow)


class HttpServer:
    """Serves a table of routes. `start` and `stop` once each; stopped, it has left nothing behind."""

    def __init__(self, routes: Routes, listen: str, limits: HttpLimits | None = None) -> None:
        self._routes = routes
        self._listen = listen
        self._limits = limits or HttpLimits()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._idle: dict[asyncio.Task[None], None] = {}
        """Those that wait for a request, the longest first."""
        self._stopping = False

    async def start(self) -> str:
        """Listen; host:port, with the port that is really open. Raises InvalidConfig if it cannot."""
        assert self._server is None, "started once"
        host, _, port = self._listen.rpartition(":")
        try:
            self._server = await asyncio.start_server(
                self._serve, host.strip("[]"), int(port), limit=self._limits.head_bytes_max
            )
        except OSError as error:
            reason = f"cannot listen on {self._listen}: {error.strerror or error}"
            raise InvalidConfig(key="http.listen", reason=reason) from None
        return f"{host}:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        """Close the port and every connection, and wait until the last has ended."""
        self._stopping = True
        if self._server is None:
            return
        self._server.close()
        # One that was accepted just now has its task in the next turn of the loop, and ends by itself.
        await asyncio.sleep(0)
        while self._connections:
            for task in self._connections:
                task.cancel()
            await asyncio.wait(self._connections)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, from its acceptance to its end. The task is asyncio's, and ours to end."""
        task = asyncio.current_task()
        assert task is not None, "asyncio.start_server runs this in a task"
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        # Whoever waits for a drain then waits for the last byte, so that each answer is timed by itself.
        writer.transport.set_write_buffer_limits(0)
        try:
            await self._talk(task, reader, writer)
        except (OSError, TimeoutError):
            pass  # the client is gone, or too slow for an answer: nobody is there to be told
        except Exception as error:  # the root of a task: one client's trouble is not the broker's
            event(_log, logging.ERROR, "http_failed", error=repr(error), trace=error)
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _talk(
        self, task: asyncio.Task[None], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if self._stopping:
            return
        if len(self._connections) > self._limits.connections_max and not self._end_an_idle_one():
            await self._send(writer, _plain(HTTPStatus.SERVICE_UNAVAILABLE))
            return  # without lingering: there is no room to
        for left in reversed(range(self._limits.requests_max)):
            answer = await self._next_answer(task, reader)
            if answer is None:
                return
            if not left:
                answer = answer._replace(keep_alive=False)
            await self._send(writer, answer)
            if not answer.keep_alive:
                await self._linger(reader, writer)
                return

    def _end_an_idle_one(self) -> bool:
        """Make room. False if every connection is busy."""
        for longest in self._idle:
            del self._idle[longest]
            longest.cancel()
            return True
        return False

    async def _next_answer(self, task: asyncio.Task[None], reader: asyncio.StreamReader) -> _Answer | None:
        """What the next request is to be answered; None when no other comes."""
        self._idle[task] = None
        try:
            async with asyncio.timeout(self._limits.idle_seconds_max):
                first = await reader.read(1)
        except TimeoutError:
            return None
        finally:
            self._idle.pop(task, None)
        try:
            async with asyncio.timeout(self._limits.head_seconds_max):
                head = first + await reader.readuntil(_END_OF_HEAD)
        except asyncio.IncompleteReadError:
            return None
        except TimeoutError:
            return _plain(HTTPStatus.REQUEST_TIMEOUT)
        except asyncio.LimitOverrunError:
            return _plain(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        return self._answer(head[: -len(_END_OF_HEAD)])

    def _answer(self, head: bytes) -> _Answer:
        request_line, *lines = head.split(b"\r\n")
        if len(lines) > self._limits.headers_max:
            return _plain(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        request = _REQUEST_LINE.fullmatch(request_line)
        headers = _headers(lines)
        if request is None or headers is None:
            return _plain(HTTPStatus.BAD_REQUEST)
        method, target, minor = request.groups()
        if method not in (b"GET", b"HEAD"):
            return _plain(HTTPStatus.METHOD_NOT_ALLOWED, allow=True)
        if not target.startswith(b"/") or headers.get(b"content-length", b"0") != b"0":
            return _plain(HTTPStatus.BAD_REQUEST)
        if b"transfer-encoding" in headers:  # nobody sends a body with GET but to smuggle a request in it
            return _plain(HTTPStatus.BAD_REQUEST)
        wishes = {word.strip() for word in headers.get(b"connection", b"").lower().split(b",")}
        keep_alive = b"close" not in wishes and (minor == b"1" or b"keep-alive" in wishes)
        answer = self._routed(target.partition(b"?")[0].decode("ascii"))
        return answer._replace(keep_alive=keep_alive, with_body=method == b"GET")

    def _routed(self, path: str) -> _Answer:
        route = self._routes.get(path)
        if route is None:
            return _plain(HTTPStatus.NOT_FOUND)
        try:
            return _Answer(*route())
        except Exception as error:  # whatever a route raises is told and logged; the next may succeed
            event(_log, logging.ERROR, "http_route_failed", path=path, trace=error)
            return _plain(HTTPStatus.INTERNAL_SERVER_ERROR)

    async def _send(self, writer: asyncio.StreamWriter, answer: _Answer) -> None:
        """Until the client's side of the system has it all. Raises TimeoutError, OSError."""
        async with asyncio.timeout(self._limits.answer_seconds_max):
            writer.write(answer.encode())
            await writer.drain()

    async def _linger(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write_eof()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.linger_seconds_max):
                while await reader.read(self._limits.head_bytes_max):
                    pass


def _headers(lines: list[bytes]) -> dict[bytes, bytes] | None:
    """Lower-case name to value; None if one is malformed. Of a name given twice, all values with commas."""
    headers: dict[bytes, bytes] = {}
    for line in lines:
        match = _HEADER.fullmatch(line)
        if match is None:
            return None
        name, value = match[1].lower(), match[2].strip()
        headers[name] = headers[name] + b"," + value if name in headers else value
    return headers
