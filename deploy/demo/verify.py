"""The demo's judge: a fresh process that believes nothing but the queue, the journals and the files.

    verify.py QUEUE ACKNOWLEDGED DELIVERED

Reads every record of the queue and holds it against the set of acknowledged (partition, offset, line):
each must be there, at its offset, with the bytes of its file, and the lines of each file in order. Then
whether the group was given every record. Prints one JSON object; exits 1 unless all of it holds.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from corpus import Line, count, lines_of, names
from journal import rows
from millpond import embedded


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


def check_records(queue: embedded.Queue, journal: Path) -> dict[str, int]:
    """Hold the records against the acknowledged set; counts of what was found and what is wrong."""
    expected = acknowledged(journal)
    due = {partition: next(places, None) for partition, places in expected.items()}
    seen_lines: dict[str, int] = {}
    found = defaultdict(int, dict.fromkeys(("acknowledged", "missing", "wrong", "unordered"), 0))
    for record in queue.consume("verify", timeout=0):
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


def check_delivery(queue: embedded.Queue, journal: Path) -> dict[str, int]:
    """Whether the spans that the group handled cover every record, and how many came twice."""
    handled: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for partition, first, end in rows(journal):
        handled[partition].append((first, end))
    undelivered = twice = 0
    for entry in queue.stats().partitions:
        covered = entry.log_start
        for first, end in sorted(handled[entry.partition]):
            undelivered += max(0, first - covered)
            twice += max(0, min(covered, end) - first)
            covered = max(covered, end)
        undelivered += entry.log_end - covered
    return {"undelivered": undelivered, "delivered_twice": twice}


def main(queue_path: Path, acknowledged_path: Path, delivered_path: Path) -> int:
    """0 if everything acknowledged is there, in order, and everything there was delivered."""
    with embedded.open(queue_path) as queue:
        found = check_records(queue, acknowledged_path) | check_delivery(queue, delivered_path)
    print(json.dumps(found))
    wrong = found["missing"] + found["wrong"] + found["unordered"] + found["undelivered"]
    complete = found["acknowledged"] == found["lines"] and found["files_whole"] >= found["files"]
    return 0 if complete and not wrong else 1


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:4])))
