"""A producer whose main thread is interrupted again and again, anywhere: `interrupted.py QUEUE INTERRUPTS`.

A timer raises KeyboardInterrupt, as Ctrl-C does, at moments drawn from a fixed seed. Prints `whole` if every
record that was acknowledged is there, live and after a start, and other threads and `close` still work.
"""

from __future__ import annotations

import random
import signal
import sys
import threading
from types import FrameType

from millpond import embedded

SECONDS_MAX = 0.002
"""Longer than a produce takes: interrupts hit every part of it, and of what is between two."""


def interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def missing(queue: embedded.Queue, acknowledged: dict[int, bytes]) -> dict[int, bytes]:
    found = {record.offset: record.value for record in queue.consume("check", timeout=0)}
    assert list(found) == list(range(len(found))), "no offset twice, none left out"
    return {offset: value for offset, value in acknowledged.items() if found.get(offset) != value}


def main(path: str, interrupts: int) -> None:
    rng = random.Random(7)
    acknowledged: dict[int, bytes] = {}
    signal.signal(signal.SIGALRM, interrupt)
    queue = embedded.open(path, partitions=1)
    serial = 0
    for _ in range(interrupts):
        try:
            signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-5, SECONDS_MAX))
            while True:
                serial += 1
                value = b"%d" % serial
                _, offset = queue.produce(b"k", value)
                acknowledged[offset] = value
        except KeyboardInterrupt:
            pass
    other = threading.Thread(target=queue.produce, args=(b"k", b"other"))
    other.start()
    other.join(30)
    assert not other.is_alive(), "another thread still produces"
    assert not missing(queue, acknowledged)
    queue.close()
    with embedded.open(path) as queue:
        assert not missing(queue, acknowledged)
    print("whole")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
