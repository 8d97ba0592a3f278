"""Every test here must give back what it took."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest


def _descriptors() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the descriptor of this very listing
            continue
    return found


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """No thread and no descriptor outlives a test."""
    threads, descriptors = set(threading.enumerate()), _descriptors()
    yield
    assert set(threading.enumerate()) <= threads
    left = {number: path for number, path in _descriptors().items() if number not in descriptors}
    assert not left, f"descriptors left open: {left}"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where a test's queue lies; not made yet."""
    return tmp_path / "queue"
