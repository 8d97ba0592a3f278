"""One flipped bit, anywhere: a log reads as it was or says CorruptBatch, and never anything else.

Exhaustive over a log that is small enough for it: every bit of every segment and index. Of documents one
bit of every byte, because test_document reads them with every bit flipped. After an unclean stop one
flip can look like an unfinished write: in what no checkpoint and no later frame saw durable. There, and
nowhere else, recovery may cut.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from millpond.wire.batch import Producer, decode_batch
from millpond.wire.errors import CorruptBatch, NotADataDirectory
from millpond_broker.storage.directory import DataDirectory
from millpond_broker.storage.log import Log
from tests.sim.disk import SimFiles
from tests.unit.storage.builders import (
    DIRECTORY,
    EPOCH,
    EVERYTHING,
    Seen,
    batch,
    disk,
    open_log,
    sound_contents,
    sync,
    tiny,
)

OPTIONS = tiny(segment_bytes=200)
TIMES = (5, 9, 7, 9, 12)
DURABLE = len(TIMES)
"""Confirmed by syncs, and seen by the frame of the one record more that the unclean log holds."""
SNAPSHOT = [[7, 0, [[at, at, at, max(TIMES[: at + 1])] for at in range(DURABLE)]]]


def built(*, clean: bool) -> tuple[SimFiles, list[Seen]]:
    """Five small batches in three segments; unclean: and a sixth that no sync confirmed."""
    files = disk()
    log = open_log(files, OPTIONS)
    for at, timestamp in enumerate(TIMES):
        one = batch(b"%d" % at, timestamp=timestamp, producer=Producer(7, 0, at))
        log.append([one], EPOCH + (at > 2))
        sync(log)
    assert len(log.segments()) == 3
    if clean:
        log.close(1)
    else:
        log.append([batch(b"5", timestamp=3)], EPOCH + 1)
    files.kill()
    records = [Seen(at, timestamp, b"%d" % at) for at, timestamp in enumerate(TIMES)]
    return files, records if clean else [*records, Seen(5, 3, b"5")]


def outcome(files: SimFiles, records: list[Seen], cut_from: int) -> str:
    """Open and read everything; "whole", "corrupt" or "cut". Anything but a sound prefix fails."""
    log = open_log(files, OPTIONS)
    try:
        seen, error = sound_contents(log)
        assert seen == records[: len(seen)], "a wrong record"
        if error is not None:
            assert error.offset is not None
            assert len(seen) <= error.offset <= len(records)
            with pytest.raises(CorruptBatch):
                log.append([batch(b"x")], EPOCH + 2)
            return "corrupt"
        assert len(seen) >= cut_from, f"only {len(seen)} records, and no word of it"
        looked_up(log, seen)
        if len(seen) == len(records):
            assert log.epochs.entries() == [(EPOCH, 0), (EPOCH + 1, 3)]
            assert log.producers.snapshot() == SNAPSHOT
            return "whole"
        return "cut"
    finally:
        log.abandon()


def looked_up(log: Log, seen: list[Seen]) -> None:
    """Look-ups of each record's time and each offset agree with what was read."""
    for record in seen:
        first = next((one.offset, one.timestamp) for one in seen if one.timestamp >= record.timestamp)
        assert log.find_time(record.timestamp) == first
        (stored, *_) = log.read(record.offset, 1, EVERYTHING)
        assert list(decode_batch(stored.batch).offsets) == [record.offset]


def bits(name: str, size: int) -> list[int]:
    """The bits to flip, one at a time."""
    if name.endswith((".log", "index")):
        return list(range(8 * size))
    return [8 * byte + byte % 8 for byte in range(size)]


def names(clean: bool) -> list[str]:
    return sorted(built(clean=clean)[0].list(DIRECTORY))


def test_the_log_under_test_has_a_file_of_every_kind() -> None:
    kinds = {Path(name).suffix or name for name in names(clean=True)}
    assert kinds == {".log", ".index", ".timeindex", ".producers", "checkpoint", "leader-epochs"}


@pytest.mark.parametrize("name", names(clean=True))
def test_after_a_clean_close_every_flipped_bit_is_harmless_or_reported(name: str) -> None:
    """Rule 15: nothing is ever cut; and only a flip in a batch is worth reporting."""
    files, records = built(clean=True)
    path = DIRECTORY / name
    outcomes = set()
    for bit in bits(name, files.list(DIRECTORY)[name]):
        machine = files.clone(Random(0))
        machine.flip_bit(path, bit)
        result = outcome(machine, records, cut_from=len(records))
        if result == "corrupt":
            assert outcome(machine, records, cut_from=len(records)) == result, "and it is remembered"
        outcomes.add(result)
    assert outcomes == {"corrupt" if name.endswith(".log") else "whole"}


@pytest.mark.parametrize("name", names(clean=False))
def test_after_an_unclean_stop_a_flipped_bit_costs_at_most_what_was_never_confirmed(name: str) -> None:
    """Rules 15 and 40: what a later frame saw durable is never taken for torn."""
    files, records = built(clean=False)
    path = DIRECTORY / name
    outcomes = set()
    for bit in bits(name, files.list(DIRECTORY)[name]):
        machine = files.clone(Random(0))
        machine.flip_bit(path, bit)
        result = outcome(machine, records, cut_from=DURABLE)
        assert result == "whole" or name.endswith(".log"), f"bit {bit}"
        outcomes.add(result)
    last = max(one for one in names(clean=False) if one.endswith(".log"))
    if name == last:
        assert outcomes == {"corrupt", "cut"}
    else:
        assert outcomes == {"corrupt" if name.endswith(".log") else "whole"}


def test_a_flip_while_the_log_is_open_is_found_by_the_read() -> None:
    """DESIGN §5: every batch that is read is verified."""
    files, records = built(clean=True)
    segments = [name for name in names(clean=True) if name.endswith(".log")]
    random = Random(0)
    for name in segments:
        for _ in range(100):
            machine = files.clone(random)
            log = open_log(machine, OPTIONS)
            machine.flip_bit(DIRECTORY / name, random.randrange(8 * machine.list(DIRECTORY)[name]))
            seen, error = sound_contents(log)
            assert seen == records[: len(seen)]
            assert error is not None
            log.abandon()


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("clean", [True, False])
def test_many_flips_and_lost_files_never_show_a_wrong_record_or_an_untyped_error(
    seed: int, clean: bool
) -> None:
    """Rule 15: beyond one fault records may be missing, never wrong; whatever is said is said in one way."""
    random = Random(seed)
    files, records = built(clean=clean)
    for _ in range(random.randint(2, 6)):
        name = random.choice(sorted(files.list(DIRECTORY)))
        size = files.list(DIRECTORY)[name]
        if random.random() < 0.25:
            files.unlink(DIRECTORY / name)
        elif size and random.random() < 0.2:
            files.cut(DIRECTORY / name, random.randrange(size))
        elif size:
            files.flip_bit(DIRECTORY / name, random.randrange(8 * size))
    for _ in range(2):
        log = open_log(files, OPTIONS)
        seen, _ = sound_contents(log)
        assert set(seen) <= set(records)
        for timestamp in range(14):
            try:
                found = log.find_time(timestamp)
            except CorruptBatch:
                continue
            assert found is None or found in {(record.offset, record.timestamp) for record in records}
        log.abandon()


def test_every_flipped_bit_of_an_identity_leaves_the_directory_ours() -> None:
    """One copy of two is sound: the same directory id, or nothing."""
    files = disk()
    home = Path("/home")
    DataDirectory.open(files, home, role="embedded", new_id="the-id").close()
    for bit in range(8 * files.list(home)["identity"]):
        files.flip_bit(home / "identity", bit)
        opened = DataDirectory.open(files, home, role="embedded", new_id="another")
        assert opened.directory_id == "the-id"
        opened.close()
        files.flip_bit(home / "identity", bit)
    for byte in (0, 512):
        files.flip_bit(home / "identity", 8 * byte)
    with pytest.raises(NotADataDirectory):
        DataDirectory.open(files, home, role="embedded", new_id="another")
