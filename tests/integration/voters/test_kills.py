"""Three voters in processes of their own, and what happens to processes: nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.voters.voters import Load, Voters


@pytest.fixture
async def voters(tmp_path: Path) -> AsyncIterator[Voters]:
    """Three that run, small snapshots included."""
    group = Voters(tmp_path, 3, compaction={"entries": 200})
    await group.start()
    yield group
    await group.stop()


async def check(voters: Voters, load: Load) -> None:
    """Everything acknowledged is there, in all of them."""
    await load.stop()
    await voters.same()
    assert load.acknowledged
    for process in voters.processes.values():
        if process.runs:
            names = set((await process.ask("names"))["names"])
            assert load.acknowledged <= names, sorted(load.acknowledged - names)[:10]


async def test_a_leader_is_killed(voters: Voters) -> None:
    leader = await voters.controller()
    load = Load(voters)
    await load.more(100)
    await leader.kill()
    await voters.controller()
    await load.more(100)
    await leader.start()
    await load.more(100)
    await check(voters, load)


async def test_a_follower_is_killed(voters: Voters) -> None:
    leader = await voters.controller()
    follower = next(process for process in voters.processes.values() if process is not leader)
    load = Load(voters)
    await load.more(100)
    await follower.kill()
    await load.more(300)
    await follower.start()
    await load.more(100)
    await check(voters, load)


async def test_all_are_killed_at_once(voters: Voters) -> None:
    await voters.controller()
    load = Load(voters)
    await load.more(300)
    for process in voters.processes.values():
        process.signal(signal.SIGKILL)
    await asyncio.gather(*(process.stop() for process in voters.processes.values()))
    await voters.start()
    await voters.controller()
    await load.more(100)
    await check(voters, load)


async def test_a_leader_is_stopped_and_goes_on_later(voters: Voters) -> None:
    """It comes back to a term that is over, and neither leads nor acknowledges anything."""
    leader = await voters.controller()
    before = (await leader.ask("status"))["term"]
    load = Load(voters)
    await load.more(100)
    leader.signal(signal.SIGSTOP)
    successor = await voters.controller(besides=leader.broker_id)
    await load.more(100)
    leader.signal(signal.SIGCONT)
    await voters.until(lambda found: found[leader.broker_id]["leader"] == successor.broker_id)
    after = (await successor.ask("status"))["term"]
    assert after > before
    await load.more(100)
    await check(voters, load)


async def test_a_follower_is_stopped_and_catches_up(voters: Voters) -> None:
    leader = await voters.controller()
    term = (await leader.ask("status"))["term"]
    follower = next(process for process in voters.processes.values() if process is not leader)
    load = Load(voters)
    follower.signal(signal.SIGSTOP)
    await load.more(500)
    follower.signal(signal.SIGCONT)
    await load.more(100)
    await check(voters, load)
    assert (await leader.ask("status"))["term"] == term, "it deposed nobody"


async def test_a_dead_voter_is_replaced_under_load(voters: Voters) -> None:
    leader = await voters.controller()
    dead = next(process for process in voters.processes.values() if process is not leader)
    load = Load(voters)
    await load.more(50)
    await dead.kill()
    removed = await leader.ask("remove", broker_id=dead.broker_id)
    assert removed["outcome"] == "ok", removed
    joiner = voters.joiner(4)
    await joiner.start()
    record = voters.record(4)
    added = await leader.ask("add", broker_id=4, directory_id=record.directory_id, address=record.address)
    assert added["outcome"] == "ok", added
    await load.more(50)
    # With the old leader gone, the new voter is one of the two that are needed.
    await leader.kill()
    successor = await voters.controller()
    await load.more(50)
    await check(voters, load)
    assert (await successor.ask("status"))["voters"] == sorted({1, 2, 3, 4} - {dead.broker_id})


async def test_a_voter_with_another_secret_is_not_heard(voters: Voters) -> None:
    leader = await voters.controller()
    follower = next(process for process in voters.processes.values() if process is not leader)
    await follower.stop()
    follower.config["secret"] = "another secret, as long as the first"
    await follower.start()
    load = Load(voters)
    await load.more(200)
    status = await follower.ask("status")
    assert status["leader"] is None
    assert (await leader.ask("status"))["version"] > status["version"] + 150
    assert "peer_refused" in follower.log.read_text() or "peer_not_reached" in follower.log.read_text()
    await follower.stop()
    await check(voters, load)


async def test_strangers_on_the_ports_disturb_nobody(voters: Voters) -> None:
    """A scan, garbage, half-open connections and other protocols, on every voter's port, under load."""
    leader = await voters.controller()
    term = (await leader.ask("status"))["term"]
    load = Load(voters)
    greetings = (
        b"",
        b"\x00" * 4096,
        b"\xff" * 65_536,
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x42" * 500,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\xff\x09\xff" * 100,
    )
    opened: list[asyncio.StreamWriter] = []
    try:
        for turn in range(20):
            for address in voters.addresses.values():
                host, _, port = address.rpartition(":")
                for greeting in greetings:
                    _, writer = await asyncio.open_connection(host, int(port))
                    writer.write(greeting)
                    if turn % 2:
                        writer.close()
                    else:
                        opened.append(writer)  # and says nothing more
        await load.more(200)
    finally:
        for writer in opened:
            writer.close()
    assert (await leader.ask("status"))["term"] == term
    await check(voters, load)
