"""A process that does one thing with a queue and reports: `python -m … ROLE DIRECTORY [ARGUMENT…]`.

A line is written once what it says is so: a record is acknowledged, a commit has returned.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Final

from millpond import embedded
from millpond.embedded.partition import RawRecord
from millpond.errors import DirectoryInUse, ForkedClient, MillpondError

KEYS: Final = 7
VALUE_BYTES: Final = 400


def say(*words: object) -> None:
    """One line, whole or not at all: it is smaller than PIPE_BUF."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def pairs(start: int) -> Iterator[tuple[bytes, bytes]]:
    """Records without end: few keys, each value its own."""
    for n in count(start):
        yield b"key-%d" % (n % KEYS), (b"%010d" % n).ljust(VALUE_BYTES, b".")


def number(value: bytes | None) -> int:
    """Which of the pairs it was; -1 if it is not what was written."""
    if value is None or len(value) != VALUE_BYTES or value[10:].strip(b"."):
        return -1
    return int(value[:10])


def produce(directory: Path, start: str) -> None:
    """Produce until killed; `partition offset number` for each acknowledged record."""
    with embedded.open(directory, config={"segment_bytes": 1 << 16}) as queue:
        for key, value in pairs(int(start)):
            say(*queue.produce(key, value), number(value))


def produce_many(directory: Path, start: str) -> None:
    """Produce a thousand at a time until killed; a line for each record once the call returned."""
    with embedded.open(directory, config={"segment_bytes": 1 << 16}) as queue:
        source = pairs(int(start))
        while chunk := list(islice(source, 1000)):
            places = queue.produce_many(chunk)
            lines = [f"{p} {o} {number(value)}\n" for (p, o), (_, value) in zip(places, chunk, strict=True)]
            sys.stdout.write("".join(lines))
            sys.stdout.flush()


def consume(directory: Path, group: str, commit_every: str, hang_after: str) -> None:
    """`got partition offset number` for each record, `committed partition offset` for each commit.

    After `hang_after` records `hanging`, and nothing more until the input ends.
    """
    with embedded.open(directory) as queue:
        for handled, record in enumerate(queue.consume(group, timeout=0), start=1):
            say("got", record.partition, record.offset, number(record.value))
            if handled % int(commit_every) == 0:
                queue.commit(group, record)
                say("committed", record.partition, record.offset)
            if handled == int(hang_after):
                say("hanging")
                sys.stdin.read()


def dump(directory: Path) -> None:
    """`partition offset key number` for everything, read by a process that knows nothing."""
    with embedded.open(directory) as queue:
        for record in queue.consume("dump", timeout=0):
            key = (record.key or b"").decode()
            sys.stdout.write(f"{record.partition} {record.offset} {key} {number(record.value)}\n")


def hold(directory: Path) -> None:
    """Keep the directory open until the input ends."""
    with embedded.open(directory):
        say("open")
        sys.stdin.read()


def fork(directory: Path) -> None:
    """Use a queue in a forked child; what is wrong with that, one line each, or `ok`."""
    queue = embedded.open(directory)
    queue.produce_many([(b"k", b"%d" % n) for n in range(10)])
    iterator = queue.consume("group")
    record = next(iterator)
    child_may_end, child_waits = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(child_waits)
        status = in_child(directory, queue, iterator, record)
        os.read(child_may_end, 1)  # until the parent is done with reopening
        os._exit(status)
    queue.produce(b"k", b"the parent goes on")
    queue.commit("group", next(iterator))
    queue.close()
    with embedded.open(directory) as queue:  # though the child lives
        values = [found.value for found in queue.consume("group", timeout=0)]
    os.close(child_waits)
    _, status = os.waitpid(child, 0)
    expected = [b"%d" % n for n in range(2, 10)] + [b"the parent goes on"]
    say("ok" if status == 0 and values == expected else f"status {status}, values {values}")


def in_child(
    directory: Path,
    queue: embedded.Queue,
    iterator: Iterator[object],
    record: RawRecord,
) -> int:
    calls: dict[str, Callable[[], object]] = {
        "produce": lambda: queue.produce(b"k", b"v"),
        "produce_many": lambda: queue.produce_many([(b"k", b"v")]),
        "consume": lambda: queue.consume("group"),
        "next": lambda: next(iterator),
        "commit": lambda: queue.commit("group", record),
        "stats": queue.stats,
        "close": queue.close,
    }
    wrong = 0
    for name, call in calls.items():
        try:
            call()
        except ForkedClient:
            continue
        except Exception as error:  # whatever it was, the parent is told
            say(name, "raised", repr(error))
        wrong += 1
    try:
        embedded.open(directory)
        wrong += 1
    except DirectoryInUse:
        pass
    return wrong


def try_open(directory: Path) -> None:
    """Open and say what came of it."""
    try:
        with embedded.open(directory):
            say("open")
    except MillpondError as error:
        say(type(error).__name__)


ROLES: Final = {role.__name__: role for role in (produce, produce_many, consume, dump, hold, fork, try_open)}

if __name__ == "__main__":
    ROLES[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])
