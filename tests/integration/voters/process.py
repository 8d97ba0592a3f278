"""One voter as a process of its own, driven by lines on standard input: `python -m … CONFIG`.

What a broker will have around its metadata log later, this has as little of as can be: the log, its links,
and a loop that takes {"do": …, "id": …} and answers {"id": …, …}, one JSON object a line.
"""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from pathlib import Path
from typing import Any, Final

from millpond_broker.consensus.group import GroupMetadataLog, GroupOptions
from millpond_broker.consensus.metadata_log import NotApplied, Ok, ProposeOutcome
from millpond_broker.consensus.peers import PeerEvents, PeerLinks
from millpond_broker.consensus.raft.compaction import CompactionOptions
from millpond_broker.consensus.raft.library import Timing
from millpond_broker.consensus.raft.voter import VoterOptions
from millpond_broker.core.commands import (
    AddVoter,
    Barrier,
    ClaimController,
    Command,
    CreateTopic,
    RegisterBroker,
    RemoveVoter,
    Voter,
)
from millpond_broker.core.image import digest
from millpond_broker.observe.logs import configure
from millpond_broker.rpc.peer_links import GrpcPeerLinks
from millpond_broker.rpc.peer_server import PeerPortOptions
from millpond_broker.runtime.ports import DiskThread
from millpond_broker.storage.files import OsFiles


async def main(config: dict[str, Any]) -> None:
    """Run the voter until standard input ends."""
    configure()
    sys.setswitchinterval(0.001)
    disk = DiskThread("disk")

    def make_links(events: PeerEvents) -> PeerLinks:
        options = PeerPortOptions(listen=config["listen"], resolver=config.get("resolver", ""))
        links = GrpcPeerLinks(events, config["secret"].encode(), options)
        links.start()
        return links

    timing = Timing(**config.get("timing", {}))
    log = await GroupMetadataLog.open(
        OsFiles(),
        Path(config["directory"]),
        broker_id=config["broker_id"],
        directory_id=config["directory_id"],
        new_id=lambda: uuid.uuid4().bytes,
        run_blocking=disk.run,
        make_links=make_links,
        configured={int(key): address for key, address in config["peers"].items()},
        options=GroupOptions(
            voter=VoterOptions(timing=timing, compaction=CompactionOptions(**config.get("compaction", {})))
        ),
    )
    failing = asyncio.Task(log.failed())
    serving = asyncio.Task(Driver(log, config["broker_id"]).serve())
    await asyncio.wait([failing, serving], return_when=asyncio.FIRST_COMPLETED)
    if failing.done():
        sys.stdout.write(json.dumps({"failed": str(failing.exception())}) + "\n")
        sys.stdout.flush()
        sys.exit(1)
    failing.cancel()
    await log.close()
    disk.close()


REGISTRATION: Final = RegisterBroker(1, b"broker of tests.", "disk-1", "a:1", "a:2", "", "0")
"""The same at each claim: then it changes nothing."""


class Driver:
    """Does what the lines say, all of them at once."""

    def __init__(self, log: GroupMetadataLog, broker_id: int) -> None:
        self._log = log
        self._broker_id = broker_id

    async def serve(self) -> None:
        """Until the end of standard input."""
        reader = asyncio.StreamReader(limit=1 << 20)
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        self._say({"ready": True})
        async with asyncio.TaskGroup() as tasks:
            while line := await reader.readline():
                request = json.loads(line)
                tasks.create_task(self._answer(request))

    async def _answer(self, request: dict[str, Any]) -> None:
        answer = await getattr(self, "do_" + request["do"])(**request.get("with", {}))
        self._say({"id": request["id"], **answer})

    def _say(self, answer: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()

    async def do_status(self) -> dict[str, Any]:
        """Where it is, and a digest of what it has."""
        image = self._log.image
        return {
            "version": image.version,
            "digest": digest(image).hex(),
            "term": self._log.term,
            "leader": self._log.leader,
            "voters": list(image.voters),
            "topics": len(image.topics),
        }

    async def do_names(self) -> dict[str, Any]:
        """Every topic there is."""
        return {"names": list(self._log.image.topic_ids)}

    async def do_claim(self, timeout: float) -> dict[str, Any]:
        """Take control in the term that it leads in. Broker 1 registers, for topics to have somebody."""
        claimed = await self._log.propose(ClaimController(self._broker_id, self._log.term), timeout)
        if isinstance(claimed, Ok):
            return _told(await self._propose(REGISTRATION, timeout, None))
        return _told(claimed)

    async def do_create(self, name: str, timeout: float, sequence: int | None = None) -> dict[str, Any]:
        """A topic of that name."""
        topic_id = uuid.uuid5(uuid.NAMESPACE_URL, name).bytes
        command = CreateTopic(topic_id, name, 1, 1, (), ((1,),))
        return _told(await self._propose(command, timeout, sequence))

    async def do_barrier(self, timeout: float) -> dict[str, Any]:
        """A command that changes nothing."""
        return _told(await self._propose(Barrier(), timeout, None))

    async def do_add(self, broker_id: int, directory_id: str, address: str) -> dict[str, Any]:
        """One more voter."""
        return _told(await self._propose(AddVoter(Voter(broker_id, directory_id, address)), 10, None))

    async def do_remove(self, broker_id: int) -> dict[str, Any]:
        """One voter less."""
        return _told(await self._propose(RemoveVoter(broker_id), 10, None))

    async def do_measure(self, count: int, in_flight: int) -> dict[str, Any]:
        """Barriers proposed: how long each took, in seconds, and all together."""
        loop = asyncio.get_running_loop()
        took: list[float] = []
        left = iter(range(count))
        errors: list[str] = []

        async def one_after_another() -> None:
            for _ in left:
                began = loop.time()
                outcome = await self._log.propose(Barrier(), 30)
                took.append(loop.time() - began)
                if not isinstance(outcome, Ok):
                    errors.append(str(outcome))
                    return

        began = loop.time()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(in_flight):
                tasks.create_task(one_after_another())
        return {
            "seconds": loop.time() - began,
            "took": sorted(took)[:: max(1, count // 100_000)],
            "errors": errors,
        }

    async def do_wait_to_lead(self) -> dict[str, Any]:
        """Answered once this voter leads."""
        leads = asyncio.Event()
        end = self._log.subscribe(lambda _: leads.set() if self._log.term else None)
        if not self._log.term:
            await leads.wait()
        end()
        return {"term": self._log.term}

    async def do_saturate(self, seconds: float) -> dict[str, Any]:
        """Keep the event loop busy, and hold the interpreter for tens of ms at a time, for so long."""
        loop = asyncio.get_running_loop()
        until, turns = loop.time() + seconds, 0
        numbers = [n * 7919 % 100_003 for n in range(100_000)]
        while loop.time() < until:
            sorted(numbers)  # one call into C: no other thread runs meanwhile
            sum(n * n for n in numbers)
            turns += 1
            await asyncio.sleep(0)
        return {"turns": turns}

    async def do_count_terms(self) -> dict[str, Any]:
        """The greatest term that was claimed."""
        return {"epoch": self._log.image.controller_epoch, "term": self._log.term}

    async def _propose(self, command: Command, timeout: float, sequence: int | None) -> ProposeOutcome:
        return await self._log.propose(command, timeout, sequence=sequence)


def _told(outcome: ProposeOutcome) -> dict[str, Any]:
    match outcome:
        case Ok(index, result):
            return {"outcome": "ok", "index": index, "result": type(result).__name__, "text": str(result)}
        case NotApplied(reason):
            return {"outcome": "not_applied", "reason": reason}
        case _:
            return {"outcome": "unknown", "reason": outcome.reason, "sequence": outcome.sequence}


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
