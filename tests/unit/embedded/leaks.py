"""What a test could leave behind: threads, descriptors, child processes."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def _descriptors() -> dict[str, str]:
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found[entry.name] = str(entry.readlink())
        except FileNotFoundError:  # the descriptor of this very listing
            continue
    return found


def _children() -> set[str]:
    found: set[str] = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            found |= set((task / "children").read_text().split())
        except FileNotFoundError:  # a thread that has ended meanwhile, of a library that other tests use
            continue
    return found


@contextmanager
def nothing_left_behind() -> Iterator[None]:
    """Fail if the block leaves more of them than it found."""
    threads, descriptors, children = set(threading.enumerate()), _descriptors(), _children()
    yield
    gc.collect()  # a queue that a simulated crash took was never closed: its thread ends when it goes
    for thread in set(threading.enumerate()) - threads:
        thread.join(10 if thread.name == "millpond-calls" else 0)
    assert set(threading.enumerate()) <= threads
    left = {number: path for number, path in _descriptors().items() if number not in descriptors}
    assert not left, f"descriptors left open: {left}"
    assert _children() <= children
