"""The HTTP server: what it answers, what it refuses, and that no client costs it more than its share."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import struct
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import NamedTuple

import pytest

from millpond.wire.errors import InvalidConfig
from millpond_broker.observe.http import HttpLimits, HttpServer
from millpond_broker.observe.metrics import BrokerMetrics, render
from tests.unit.embedded.leaks import nothing_left_behind

SECONDS_MAX = 10
"""For any one exchange here: a server that hangs fails the test instead."""

LARGE = b"x" * (8 << 20)
"""More than a socket takes by itself."""

QUICK = HttpLimits(idle_seconds_max=0.2, head_seconds_max=0.2, answer_seconds_max=0.3, linger_seconds_max=0.2)


def broken() -> tuple[int, str, bytes]:
    raise RuntimeError("no answer")


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class Served:
    """A running server, and its clients."""

    def __init__(self, address: str, server: HttpServer) -> None:
        self.address = address
        self.server = server

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        host, _, port = self.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    async def ask(self, raw: bytes) -> list[Reply]:
        """Send bytes and half-close; every answer until the server closes."""
        async with asyncio.timeout(SECONDS_MAX), self.connected() as (reader, writer):
            writer.write(raw)
            writer.write_eof()
            replies = []
            while (reply := await read_reply(reader, head_only=raw.startswith(b"HEAD"))) is not None:
                replies.append(reply)
            return replies

    async def statuses(self, raw: bytes) -> list[int]:
        return [reply.status for reply in await self.ask(raw)]


async def read_reply(reader: asyncio.StreamReader, *, head_only: bool = False) -> Reply | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        head = error.partial
    if not head:
        return None
    assert head.endswith(b"\r\n\r\n"), "half an answer"
    status, *lines = head.decode("latin-1")[:-4].split("\r\n")
    version, code, _ = status.split(" ", 2)
    assert version == "HTTP/1.1"
    headers = dict(line.lower().split(": ", 1) for line in lines)
    body = b"" if head_only else await reader.readexactly(int(headers["content-length"]))
    return Reply(int(code), headers, body)


@asynccontextmanager
async def serving(limits: HttpLimits | None = None) -> AsyncIterator[Served]:
    """A server with nothing of it left at the end: no task, no descriptor."""
    metrics = BrokerMetrics()
    routes = {
        "/metrics": lambda: render(metrics),
        "/healthz": lambda: (200, "text/plain", b"alive\n"),
        "/readyz": lambda: (503, "text/plain", b"starting\n"),
        "/large": lambda: (200, "application/octet-stream", LARGE),
        "/broken": broken,
    }
    with nothing_left_behind():
        tasks = asyncio.all_tasks()
        server = HttpServer(routes, "127.0.0.1:0", limits)
        try:
            yield Served(await server.start(), server)
        finally:
            async with asyncio.timeout(SECONDS_MAX):
                await server.stop()
                await asyncio.sleep(0)  # transports close their sockets in the turn after
        assert asyncio.all_tasks() <= tasks


def get(path: str, *headers: str, method: str = "GET", version: str = "1.1") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/{version}", "Host: x", *headers, "", ""]).encode("latin-1")


# --- answers -----------------------------------------------------------------------------------------


async def test_a_scrape_gets_prometheus_text() -> None:
    async with serving() as served:
        (reply,) = await served.ask(get("/metrics?x=y"))
    assert (reply.status, reply.headers["connection"]) == (200, "keep-alive")
    assert reply.headers["content-type"].startswith("text/plain; version=")
    assert b"millpond_records_in_total 0.0" in reply.body


async def test_health_answers_with_the_status_its_route_says() -> None:
    async with serving() as served:
        (alive,) = await served.ask(get("/healthz"))
        (ready,) = await served.ask(get("/readyz"))
    assert (alive.status, alive.body, ready.status, ready.body) == (200, b"alive\n", 503, b"starting\n")


async def test_head_is_get_without_the_body() -> None:
    async with serving() as served:
        (reply,) = await served.ask(get("/healthz", method="HEAD"))
    assert (reply.status, reply.headers["content-length"], reply.body) == (200, "6", b"")


async def test_a_connection_serves_one_request_after_another_also_sent_ahead() -> None:
    async with serving() as served:
        ahead = get("/healthz") * 2 + get("/nothing") + get("/healthz")
        assert await served.statuses(ahead) == [200, 200, 404, 200]
        assert await served.statuses(get("/healthz", "Connection: close") * 2) == [200]
        assert await served.statuses(get("/healthz", version="1.0") * 2) == [200]
        kept = get("/healthz", "Connection: Keep-Alive", version="1.0")
        assert await served.statuses(kept * 2) == [200, 200]


async def test_one_connection_does_not_serve_for_ever() -> None:
    async with serving(HttpLimits(requests_max=3)) as served:
        replies = await served.ask(get("/healthz") * 5)
    assert [reply.headers["connection"] for reply in replies] == ["keep-alive", "keep-alive", "close"]


async def test_a_large_answer_arrives_whole() -> None:
    async with serving() as served:
        (reply,) = await served.ask(get("/large"))
    assert reply.body == LARGE


# --- refusals ----------------------------------------------------------------------------------------


async def test_what_is_not_there_is_404_and_what_is_not_asked_for_by_get_405() -> None:
    async with serving() as served:
        assert await served.statuses(get("/nothing")) == [404]
        (reply,) = await served.ask(get("/healthz", "Content-Length: 3", method="POST") + b"abc")
    assert (reply.status, reply.headers["allow"]) == (405, "get, head")


BAD = (
    b"\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET /healthz\r\n\r\n",
    b"GET /healthz HTTP/2.0\r\n\r\n",
    b"GET  /healthz HTTP/1.1\r\n\r\n",
    b"GET healthz HTTP/1.1\r\n\r\n",
    b"GET /h\xff HTTP/1.1\r\n\r\n",
    b"G\x00T / HTTP/1.1\r\n\r\n",
    get("/healthz", "no colon"),
    get("/healthz", " folded: x"),
    get("/healthz", "name : x"),
    get("/healthz", "a: \x00"),
    get("/healthz", "Content-Length: 5"),
    get("/healthz", "Content-Length: 0", "Content-Length: 5"),
    get("/healthz", "Transfer-Encoding: chunked"),
)


@pytest.mark.parametrize("raw", BAD)
async def test_what_is_no_plain_request_is_400_and_ends_the_connection(raw: bytes) -> None:
    async with serving() as served:
        assert await served.statuses(raw + get("/healthz")) == [400]


async def test_a_head_too_long_or_of_too_many_headers_is_431() -> None:
    async with serving() as served:
        assert await served.statuses(get("/" + "a" * 9_000)) == [431]
        assert await served.statuses(b"x" * 1_000_000) == [431]
        assert await served.statuses(get("/healthz", *["a: b"] * 100)) == [431]


async def test_a_route_that_fails_is_500_and_logged_and_the_next_request_is_served(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving() as served:
        with caplog.at_level(logging.ERROR):
            assert await served.statuses(get("/broken")) == [500]
        assert "http_route_failed" in caplog.text
        assert await served.statuses(get("/healthz")) == [200]


async def test_a_port_that_is_taken_is_named() -> None:
    async with serving() as served:
        second = HttpServer({}, served.address)
        with pytest.raises(InvalidConfig, match=served.address) as raised:
            await second.start()
        assert raised.value.key == "http.listen"
        await second.stop()


# --- slow, silent and many ---------------------------------------------------------------------------


async def test_a_request_that_does_not_end_is_408_and_silence_just_ends() -> None:
    async with serving(QUICK) as served:
        async with asyncio.timeout(SECONDS_MAX), served.connected() as (reader, writer):
            writer.write(b"GET /healthz HTTP/1.1\r\nHo")
            reply = await read_reply(reader)
            assert reply is not None
            assert reply.status == 408
            assert await reader.read() == b""
        async with asyncio.timeout(SECONDS_MAX), served.connected() as (reader, _):
            assert await reader.read() == b""


async def test_a_client_that_does_not_take_its_answer_is_cut_off() -> None:
    async with serving(QUICK) as served, asyncio.timeout(SECONDS_MAX), served.connected() as (reader, writer):
        writer.write(get("/large") * 10)
        await reader.readexactly(1)  # and no more than the stream buffers
        while served.server._connections:
            await asyncio.wait(set(served.server._connections))


async def test_one_too_many_takes_the_place_of_the_longest_idle_or_is_told_that_all_are_busy() -> None:
    async with (
        serving(HttpLimits(connections_max=2)) as served,
        asyncio.timeout(SECONDS_MAX),
        served.connected() as first,
        served.connected() as second,
    ):
        for reader, writer in (first, second):
            writer.write(get("/healthz"))
            assert await read_reply(reader) is not None
        async with served.connected() as (reader, writer):
            writer.write(get("/healthz"))
            assert (await read_reply(reader) or (0,))[0] == 200
            assert await first[0].read() == b""
            for _, busy in ((reader, writer), second):
                busy.write(b"GET /")
            while served.server._idle:
                await asyncio.sleep(0)  # until both have begun
            assert await served.statuses(b"") == [503]
            second[1].write(b"healthz HTTP/1.1\r\n\r\n")
            assert (await read_reply(second[0]) or (0,))[0] == 200


async def test_clients_by_the_hundred_that_say_nothing_half_close_or_reset_cost_nothing_that_stays() -> None:
    """Each a socket of its own, all at once; between them, and after, others are served or told to wait."""
    async with serving(QUICK) as served, asyncio.timeout(SECONDS_MAX * 3):
        host, _, port = served.address.rpartition(":")
        clients = []
        for number in range(300):
            client = socket.create_connection((host, int(port)), timeout=5)
            clients.append(client)
            match number % 4:
                case 0:
                    client.sendall(b"GET /he")
                case 1:
                    client.shutdown(socket.SHUT_WR)
                case 2:
                    client.sendall(get("/healthz"))
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    client.close()  # with a reset
            if number % 50 == 0:
                await asyncio.sleep(0)
        while served.server._connections:
            await asyncio.wait(set(served.server._connections))
        assert await served.statuses(get("/healthz")) == [200]
        for client in clients:
            client.close()


async def test_stopping_ends_what_is_under_way_and_what_was_just_accepted() -> None:
    with nothing_left_behind():
        tasks = asyncio.all_tasks()
        server = HttpServer({"/": lambda: (200, "text/plain", LARGE)}, "127.0.0.1:0")
        host, _, port = (await server.start()).rpartition(":")
        clients = [socket.create_connection((host, int(port)), timeout=5) for _ in range(20)]
        clients[0].sendall(get("/"))
        await asyncio.sleep(0)
        clients += [socket.create_connection((host, int(port)), timeout=5) for _ in range(20)]
        async with asyncio.timeout(SECONDS_MAX):
            await server.stop()
            await asyncio.sleep(0)
        assert asyncio.all_tasks() <= tasks
        for client in clients:
            client.close()


def test_a_server_that_never_started_stops() -> None:
    asyncio.run(HttpServer({}, "127.0.0.1:0").stop())


# --- junk --------------------------------------------------------------------------------------------


def junk(seed: int) -> Iterable[bytes]:
    """Requests with bytes changed, cut, doubled and swapped, and bytes that never were one."""
    chance = random.Random(seed)
    seeds = [get("/healthz"), get("/metrics", "a: b", "Connection: close"), *BAD]
    for _ in range(150):
        data = bytearray(chance.choice(seeds))
        for _ in range(chance.randrange(6)):
            at = chance.randrange(len(data) + 1)
            match chance.randrange(4):
                case 0:
                    data[at : at + 1] = chance.randbytes(1)
                case 1:
                    del data[at : at + chance.randrange(20)]
                case 2:
                    data[at:at] = data[: chance.randrange(len(data) + 1)]
                case 3:
                    data[at:at] = chance.randbytes(chance.randrange(50))
        yield bytes(data)
    yield from (chance.randbytes(chance.randrange(20_000)) for _ in range(20))


@pytest.mark.parametrize("seed", range(3))
async def test_junk_is_answered_in_full_or_not_at_all_and_harms_nobody(
    seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    known = {200, 400, 404, 405, 431, 503}
    async with serving(QUICK) as served:
        for raw in junk(seed):
            async with asyncio.timeout(SECONDS_MAX), served.connected() as (reader, writer):
                writer.write(raw)
                writer.write_eof()
                data = await reader.read()
            statuses = {int(part[:3]) for part in data.split(b"HTTP/1.1 ")[1:]}
            assert statuses <= known
        assert await served.statuses(get("/healthz")) == [200]
    assert not caplog.records, "junk is no event"
