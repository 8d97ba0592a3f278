"""A disk that is really full: a small tmpfs of its own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from millpond import embedded
from millpond.errors import MillpondError, PartialDelivery, StorageFull
from tests.integration.embedded.processes import report
from tests.integration.embedded.worker import number, pairs

DISK_BYTES = 2 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A mounted file system of two mebibytes."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs takes root")
    path = tmp_path / "disk"
    path.mkdir()
    options = f"size={DISK_BYTES}"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


@pytest.mark.parametrize("many", [False, True])
def test_a_full_disk_refuses_records_serves_readers_and_goes_on_when_room_returns(
    small_disk: Path, many: bool
) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(DISK_BYTES // 2))
    directory = small_disk / "queue"
    acknowledged: dict[tuple[int, int], int] = {}
    reasons: set[type[MillpondError]] = set()
    source = pairs(0)
    with embedded.open(directory, config={"segment_bytes": 1 << 16}) as queue:

        def produce() -> None:
            """Raises StorageFull when nothing of it was written."""
            chunk = [next(source) for _ in range(20 if many else 1)]
            placed: list[tuple[int, int] | None]
            try:
                placed = [*queue.produce_many(chunk)] if many else [queue.produce(*chunk[0])]
            except PartialDelivery as partial:
                placed = partial.result
                reasons.update(map(type, partial.failed.values()))
            for place, (_, value) in zip(placed, chunk, strict=True):
                if place is not None:
                    acknowledged[place] = number(value)

        def fill() -> None:
            while True:
                produce()

        for has_ballast in (True, False):
            with pytest.raises(StorageFull) as caught:
                fill()
            assert caught.value.outcome == "not_written"
            assert len(list(queue.consume("group", timeout=0))) == len(acknowledged)
            if has_ballast:
                ballast.unlink()
                produce()
    assert reasons <= {StorageFull}
    with embedded.open(directory) as queue:
        assert len(list(queue.consume("group", timeout=0))) == len(acknowledged)
    found = {(int(p), int(o)): int(n) for p, o, _, n in map(str.split, report("dump", directory))}
    assert found == acknowledged
    assert len(found) > 1000
