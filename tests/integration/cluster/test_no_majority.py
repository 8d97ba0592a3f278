"""Two of three real brokers are dead: the one that is left says so, to people, probes and metrics."""

from __future__ import annotations

import asyncio
import http.client
import re
from collections.abc import Awaitable, Callable

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2

import millpond
from millpond.admin import ClusterStatus
from millpond.cli.health import problems_of
from millpond.client import Client
from millpond.errors import BrokerNotReady, MillpondError
from millpond.testing import LocalCluster
from millpond_broker.runtime.touch import UNREADY_SECONDS
from tests.integration.cluster.conftest import HEALED_S, controller_of, healed, led_by

SEEN_S = 15.0
"""For a session to end and be missed, on a busy machine."""


def get(three: LocalCluster, broker: int, path: str) -> tuple[int, str]:
    host, _, port = three.http_address(broker).rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


async def serving(address: str) -> bool:
    """What gRPC's standard health check is told."""
    async with grpc.aio.insecure_channel(address) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        answer: health_pb2.HealthCheckResponse = await check(health_pb2.HealthCheckRequest(), timeout=10)
    return answer.status == health_pb2.HealthCheckResponse.SERVING


async def when(
    ask: Callable[[], Awaitable[ClusterStatus]], holds: Callable[[ClusterStatus], bool], seconds: float
) -> ClusterStatus:
    """The first status of which that holds."""
    async with asyncio.timeout(seconds):
        while True:
            try:
                found = await ask()
            except MillpondError:
                found = None
            if found is not None and holds(found):
                return found
            await asyncio.sleep(0.1)


def harmful(status: ClusterStatus) -> list[str]:
    return [problem.name for problem in problems_of(status) if problem.harmful]


@pytest.mark.parametrize("is_controller", [True, False])
async def test_who_is_left_of_three_knows_how_old_its_knowledge_is_and_is_not_ready(
    three: LocalCluster, client: Client, topic: str, is_controller: bool
) -> None:
    await healed(client)
    controller = await controller_of(client) - 1
    left = controller if is_controller else (controller + 1) % 3
    others = [broker for broker in range(3) if broker != left]
    address = three.bootstrap.split(",")[left]
    async with millpond.connect(address, timeout=10.0) as by_the_one:
        await when(
            by_the_one.admin.status,
            lambda status: status.current and not harmful(status) and not status.silent,
            HEALED_S,
        )
        assert await serving(address)
        for broker in others:
            three.kill(broker)
        at_once = await by_the_one.admin.status()
        assert harmful(at_once), "before anybody's session is over"
        dead = {broker + 1 for broker in others}
        assert at_once.silent.keys() == dead
        found = await when(by_the_one.admin.status, lambda status: not status.current, SEEN_S)
        assert found.told_by == left + 1
        assert found.silent == dict.fromkeys(sorted(dead), "connection refused")
        assert not any(broker.controller for broker in found.brokers)
        assert {broker.id for broker in found.brokers if broker.state == "unreachable"} == dead
        assert harmful(found)[:2] == ["out_of_touch", "not_running"]
        async with asyncio.timeout(SEEN_S):
            while (ready := await asyncio.to_thread(get, three, left, "/readyz"))[0] != 503:
                await asyncio.sleep(0.1)
        async with asyncio.timeout(SEEN_S):
            while await serving(address):
                await asyncio.sleep(0.1)
        with pytest.raises(MillpondError):  # also where there would be nothing to do: who knows, without one?
            await by_the_one.admin.elect_leaders(timeout=2.0)
        with pytest.raises(MillpondError):
            await by_the_one.admin.elect_leaders(topic, unclean=True, timeout=2.0)
        led = await led_by(by_the_one, topic, left + 1)
        with pytest.raises(BrokerNotReady, match="no controller answers"):
            await by_the_one.admin.list_offsets(topic, partitions=[led], timeout=2.0)
        assert ready[1].startswith("out of touch: no controller has answered for ")
        assert (await asyncio.to_thread(get, three, left, "/healthz"))[0] == 200
        metrics = (await asyncio.to_thread(get, three, left, "/metrics"))[1]
        (seconds,) = re.findall(r"^millpond_controller_unheard_seconds (\S+)$", metrics, re.MULTILINE)
        assert float(seconds) > 3.0
        await three.aio.restart(*others)
        await three.aio.wait_ready()
        await when(by_the_one.admin.status, lambda status: not harmful(status), HEALED_S)
        assert '"event": "not_ready"' in three.logs(left)
        async with asyncio.timeout(SEEN_S):
            while three.logs(left).count('"event": "ready_again"') != three.logs(left).count(
                '"event": "not_ready"'
            ):
                await asyncio.sleep(0.1)


async def test_one_that_is_down_or_hangs_makes_nobody_else_unready(
    three: LocalCluster, client: Client
) -> None:
    """Until the others have a controller again, and after; but for a machine so busy that this takes longer
    than what is called unready, which is what they say then.
    """
    await healed(client)
    controller = await controller_of(client) - 1
    others = [broker for broker in range(3) if broker != controller]
    three.pause(controller)

    async def look() -> list[int]:
        answers = [await asyncio.to_thread(get, three, broker, "/readyz") for broker in others]
        for status, text in answers:
            unheard = re.search(r"(\d+) s$", text.strip())
            assert status == 200 or (unheard and int(unheard[1]) >= UNREADY_SECONDS), text
        return [status for status, _ in answers]

    async with asyncio.timeout(HEALED_S):
        while True:
            await look()
            found = await client.admin.status()
            is_replaced = any(broker.controller and broker.id != controller + 1 for broker in found.brokers)
            if found.current and found.silent.keys() == {controller + 1} and is_replaced:
                break
            await asyncio.sleep(0.1)
        while await look() != [200, 200]:
            await asyncio.sleep(0.1)
    three.resume(controller)
    await three.aio.wait_ready()
    await when(client.admin.status, lambda status: not harmful(status), HEALED_S)
