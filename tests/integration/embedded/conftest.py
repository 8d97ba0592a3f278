"""Every test here must give back what it took."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.embedded import leaks


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """No thread, descriptor or process outlives a test."""
    with leaks.nothing_left_behind():
        yield


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where a test's queue lies; not made yet."""
    return tmp_path / "queue"
