"""The demo's judge: a fresh process that believes nothing but the cluster, the journals and the files.

    verify.py BOOTSTRAP ACKNOWLEDGED DELIVERED HEARTBEATS

Reads every record of the topic and holds it against the set of acknowledged (partition, offset, line): each
must be there, at its offset, with the bytes of its file, and the lines of each file in order and once. Then
whether the consumer was given every record once, and whether every acknowledged (partition, offset, value) of
the heartbeats is there. Prints one JSON object; exits 1 unless all of it holds.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import millpond
import probe
from corpus import TOPIC, Line, count, lines_of, names
from journal import rows


def acknowledged(path: Path) -> dict[int, Iterator[tuple[int, Line]]]:
    """By partition, the acknowledged (offset, line) in the order of offsets."""
    runs: dict[int, list[list[Any]]] = defaultdict(list)
    for run in rows(path):
        runs[run[3]].append(run)

    def expand(partition: int) -> Iterator[tuple[int, Line]]:
        for name, first, length, _, offset in sorted(runs[partition], key=lambda run: int(run[4])):
            for step in range(length):
                yield offset + step, Line(name, first + step, lines_of(name)[first + step])

    return {partition: expand(partition) for partition in runs}


async def check_records(client: millpond.Client, journal: Path) -> dict[str, int]:
    """Hold the records against the acknowledged set; counts of what was found and what is wrong."""
    expected = acknowledged(journal)
    due = {partition: next(places, None) for partition, places in expected.items()}
    seen_lines: dict[str, int] = {}
    found = defaultdict(int, dict.fromkeys(("records", "acknowledged", "missing", "wrong", "unordered"), 0))
    async with client.consumer(TOPIC, stop="end") as consumer:
        async for record in consumer:
            found["records"] += 1
            place = due.get(record.partition)
            while place is not None and place[0] < record.offset:
                found["missing"] += 1
                place = next(expected[record.partition], None)
            if place is not None and place[0] == record.offset:
                line = place[1]
                found["acknowledged"] += 1
                found["wrong"] += (record.key, record.value) != (line.name.encode(), line.text)
                found["unordered"] += line.number != seen_lines.get(line.name, -1) + 1
                seen_lines[line.name] = line.number
                place = next(expected[record.partition], None)
            due[record.partition] = place
    for partition, place in due.items():
        found["missing"] += (place is not None) + sum(1 for _ in expected[partition])
    whole = sum(seen_lines.get(name, -1) + 1 == len(lines_of(name)) for name in names())
    return {**found, "files": len(names()), "files_whole": whole, "lines": count()}


async def check_delivery(client: millpond.Client, journal: Path) -> dict[str, int]:
    """Whether the spans that the consumer was given cover every record, and how many came twice."""
    spans: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for partition, first, end in rows(journal):
        spans[partition].append((first, end))
    undelivered = twice = 0
    for (_, partition), log_end in (await client.admin.list_offsets(TOPIC, at="end")).items():
        covered = 0
        for first, end in sorted(spans[partition]):
            undelivered += max(0, first - covered)
            twice += max(0, min(covered, end) - first)
            covered = max(covered, end)
        undelivered += log_end - covered
    return {"undelivered": undelivered, "delivered_twice": twice}


async def check_heartbeats(client: millpond.Client, journal: Path) -> dict[str, int]:
    """How many were acknowledged, and how many of those are not where they were said to be."""
    wanted = {(partition, offset): value for partition, offset, value in rows(journal)}
    found = {"heartbeats": len(wanted)}
    async with client.consumer(probe.TOPIC, stop="end") as consumer:
        async for record in consumer:
            if wanted.get((record.partition, record.offset)) == (record.value or b"").decode():
                del wanted[record.partition, record.offset]
    return {**found, "heartbeats_missing": len(wanted)}


async def main(bootstrap: str, acknowledged_path: Path, delivered_path: Path, heartbeats: Path) -> int:
    """0 if everything acknowledged is there, once and in order, and was delivered once."""
    async with millpond.connect(bootstrap) as client:
        found = await check_records(client, acknowledged_path)
        found |= await check_delivery(client, delivered_path)
        found |= await check_heartbeats(client, heartbeats)
    print(json.dumps(found))
    wrong = ("missing", "wrong", "unordered", "undelivered", "delivered_twice", "heartbeats_missing")
    complete = found["records"] == found["acknowledged"] == found["lines"]
    return 0 if complete and found["files_whole"] == found["files"] and not any(map(found.get, wrong)) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1], *map(Path, sys.argv[2:5]))))
