"""The demo's producer process: every line of the corpus into the queue, file name as key.

    produce.py QUEUE ACKNOWLEDGED

Each acknowledged run of lines becomes a row [name, first line, count, partition, first offset] of the
journal ACKNOWLEDGED, after the queue confirmed it and not before. Started again after a kill, it goes on
behind the last row; what it had written without an acknowledgement is then in the queue twice.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from corpus import Line, lines
from journal import Journal, rows
from millpond import embedded

CHUNK_LINES = 2000
"""Lines a call: one sync for all of them."""


def main(queue_path: Path, journal_path: Path) -> None:
    """Produce what is not acknowledged yet."""
    last = None
    for name, first, count, _, _ in rows(journal_path):
        last = (name, first + count - 1)
    with embedded.open(queue_path) as queue, Journal(journal_path) as journal:
        rest = lines(after=last)
        while chunk := list(islice(rest, CHUNK_LINES)):
            places = queue.produce_many((line.name.encode(), line.text) for line in chunk)
            journal.write(runs(chunk, places))


def runs(chunk: Sequence[Line], places: Sequence[tuple[int, int]]) -> list[list[Any]]:
    """Rows for the journal: consecutive lines of one file at consecutive offsets make one."""
    found: list[list[Any]] = []
    for line, (partition, offset) in zip(chunk, places, strict=True):
        run = found[-1] if found else None
        if run and run[0] == line.name and run[3] == partition and run[4] + run[2] == offset:
            run[2] += 1
        else:
            found.append([line.name, line.number, 1, partition, offset])
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
