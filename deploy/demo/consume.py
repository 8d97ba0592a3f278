"""The demo's consumer process: a group that reads the queue to its end and commits as it goes.

    consume.py QUEUE DELIVERED

What it has handled becomes rows [partition, first offset, next offset] of the journal DELIVERED, just
before it commits them; after a kill it starts again from the last commit.
"""

from __future__ import annotations

import sys
from pathlib import Path

from journal import Journal
from millpond import Record, embedded

GROUP = "demo"
COMMIT_RECORDS = 5000
"""Records between commits: what a kill makes the group see again, at most, in each partition."""


def main(queue_path: Path, journal_path: Path) -> None:
    """Consume from the last commit to the end."""
    with embedded.open(queue_path) as queue, Journal(journal_path) as journal:
        handled: dict[int, list[int]] = {}
        latest: dict[int, Record[bytes | None, bytes | None]] = {}

        def commit() -> None:
            journal.write([[partition, *span] for partition, span in handled.items()])
            for record in latest.values():
                queue.commit(GROUP, record)
            handled.clear()
            latest.clear()

        uncommitted = 0
        for record in queue.consume(GROUP, timeout=0):
            span = handled.setdefault(record.partition, [record.offset, record.offset])
            span[1] = record.offset + 1
            latest[record.partition] = record
            uncommitted += 1
            if uncommitted == COMMIT_RECORDS:
                commit()
                uncommitted = 0
        commit()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
