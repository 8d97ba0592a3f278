"""The benchmark table: `make bench`, or `python -m tests.bench --json bench.json [SECTION…]`.

Every figure is the median of several rounds in this one process, with minimum and maximum beside it. What
a comparison needs is measured in the same run, in turn: absolute figures differ between machines and
minutes, ratios much less. Temporary files go to a directory made beside the current one (not a memory
file system), which is removed at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from millpond import embedded
from millpond.wire.batch import decode_batch, encode_batch, parse_batch
from millpond.wire.compression import Codec
from millpond.wire.record import TopicPartition
from millpond_broker.storage.files import OsFiles
from millpond_broker.storage.group_commit import GroupCommit
from millpond_broker.storage.log import Log, LogOptions
from tests.bench import metadata, path, replicated, serving

ROUNDS = 7
RECORD_BYTES = 100
FILES = OsFiles()


Row = dict[str, Any]
"""One line of the table: name, unit, median, min, max, and what else it says."""


def measure(name: str, unit: str, amount: float, work: Callable[[], object], rounds: int = ROUNDS) -> Row:
    """`amount` of something per second of `work`, over rounds after one that warms up."""
    work()
    rates = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        rates.append(amount / (time.perf_counter() - started))
    return Row(name=name, unit=unit, median=statistics.median(rates), min=min(rates), max=max(rates))


@contextmanager
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bench-", dir=Path.cwd()) as directory:
        yield Path(directory)


def values(count: int, size: int = RECORD_BYTES) -> list[bytes]:
    """Distinct values that compress about as well as small JSON documents do."""
    return [
        (b'{"id": %d, "state": "open", "amount": %d, "note": "' % (n, n * 7919 % 100_000)).ljust(size, b"x")
        for n in range(count)
    ]


def codec() -> Iterator[Row]:
    """Encoding and decoding of 1,000 records of 100 B a batch."""
    count, repeats = 1000, 50
    column = values(count)
    keys = [b"key-%d" % (n % 50) for n in range(count)]
    stamps = [1_700_000_000_000 + n for n in range(count)]
    shapes: dict[str, dict[str, Any]] = {
        "values": {},
        "values, keys": {"keys": keys},
        "values, keys, lz4": {"keys": keys, "codec": Codec.LZ4},
        "values, keys, zstd": {"keys": keys, "codec": Codec.ZSTD},
        "values, keys, gzip": {"keys": keys, "codec": Codec.GZIP},
    }
    for shape, options in shapes.items():
        times = stamps if "keys" in options else stamps[0]

        def encode(options: dict[str, Any] = options, times: Any = times) -> None:
            for _ in range(repeats):
                encode_batch(column, times, **options)

        batch = encode_batch(column, times, **options)

        def decode(data: Any = batch.data) -> None:
            for _ in range(repeats):
                decode_batch(parse_batch(data)).records("t", 0)

        rate = measure(f"encode {shape}", "records/s", count * repeats, encode)
        yield Row(
            rate, mb_per_s=rate["median"] * RECORD_BYTES / 1e6, us_per_batch=1e6 * count / rate["median"]
        )
        rate = measure(f"decode to records {shape}", "records/s", count * repeats, decode)
        yield Row(
            rate, mb_per_s=rate["median"] * RECORD_BYTES / 1e6, us_per_batch=1e6 * count / rate["median"]
        )


def append() -> Iterator[Row]:
    """Appending batches of 1,000 records, against writing the same bytes to a plain file."""
    count, batches = 1000, 200
    batch = encode_batch(values(count), 1)
    total = count * batches
    with scratch() as place:
        names = iter(range(1000))

        def log_append(each: int) -> None:
            log = Log.open(FILES, place / f"log{next(names)}", TopicPartition("t", 0), LogOptions())
            group = GroupCommit(FILES, place)
            for at in range(0, batches, each):
                log.append([batch] * min(each, batches - at), 0)
                pending = log.begin_sync()
                assert pending is not None
                for result in group.sync([pending]):
                    result.settle()
            group.close()
            log.abandon()

        def raw(each: int) -> None:
            descriptor = os.open(place / f"raw{next(names)}", os.O_WRONLY | os.O_CREAT, 0o644)
            position = 0
            for _ in range(0, batches, each):
                position += os.pwritev(descriptor, [batch.data] * each, position)
                os.fdatasync(descriptor)
            os.close(descriptor)

        for each in (1, 10, 200):
            ours = measure(
                f"append, a sync every {each} batches", "records/s", total, partial(log_append, each)
            )
            plain = measure(
                f"plain file, a sync every {each} writes of the same bytes",
                "records/s",
                total,
                partial(raw, each),
            )
            mb = len(batch.data) / count / 1e6
            yield Row(
                ours,
                mb_per_s=ours["median"] * mb,
                us_per_batch=1e6 * count / ours["median"],
                ratio_to_plain=ours["median"] / plain["median"],
            )
            yield Row(plain, mb_per_s=plain["median"] * mb)


def append_budget() -> Iterator[Row]:
    """Where the time of one batch of 1,000 records goes, without the sync."""
    batch = encode_batch(values(1000), 1)
    with scratch() as place:
        log = Log.open(FILES, place / "log", TopicPartition("t", 0), LogOptions(segment_bytes=1 << 30))
        repeats = 100

        def appends() -> None:
            for _ in range(repeats):
                log.append([batch], 0)

        def parses() -> None:
            for _ in range(repeats):
                parse_batch(batch.data)

        def writes() -> None:
            # At the end of a growing file, as an append is: new pages cost more than old ones.
            for _ in range(repeats):
                os.pwritev(descriptor, (batch.data,), os.fstat(descriptor).st_size)

        descriptor = os.open(place / "raw", os.O_WRONLY | os.O_CREAT, 0o644)
        for name, work in (
            ("check a received batch", parses),
            ("append it, all told", appends),
            ("of which the bare write", writes),
        ):
            rate = measure(name, "batches/s", repeats, work)
            yield Row(rate, us_per_batch=1e6 / rate["median"])
        os.close(descriptor)
        log.abandon()


def read() -> Iterator[Row]:
    """Reading back and looking up, in a log of a million records in several segments."""
    count, batches = 1000, 1000
    batch = encode_batch(values(count), 1)
    with scratch() as place:
        log = Log.open(FILES, place / "log", TopicPartition("t", 0), LogOptions(segment_bytes=16 << 20))
        for _ in range(batches):
            log.append([batch], 0)

        def scan_all() -> None:
            offset = 0
            while stored := log.read(offset, 1 << 20, log.log_end):
                offset = stored[-1].batch.header.next_offset
            assert offset == count * batches

        rate = measure("read every batch, verified", "records/s", count * batches, scan_all, rounds=3)
        yield Row(rate, mb_per_s=rate["median"] * len(batch.data) / count / 1e6)
        spots = [n * 7919 % (count * batches) for n in range(2000)]
        times = []
        for offset in spots:
            started = time.perf_counter()
            log.read(offset, 1, log.log_end)
            times.append((time.perf_counter() - started) * 1e6)
        times.sort()
        yield Row(
            name="look up an offset",
            unit="us",
            median=times[1000],
            min=times[0],
            max=times[-1],
            p99=times[1980],
        )
        log.abandon()
        started = time.perf_counter()
        log = Log.open(FILES, place / "log", TopicPartition("t", 0), LogOptions(segment_bytes=16 << 20))
        took = (time.perf_counter() - started) * 1e3
        verified = log.recovery.verified_bytes / 1e6
        yield Row(
            name="start after a crash", unit="ms", median=took, min=took, max=took, verified_mb=verified
        )
        log.close(0)


def group_commit() -> Iterator[Row]:
    """Making N dirty partitions durable: one by one, with threads, and by one sync of the file system."""
    payload = os.urandom(4096)
    with scratch() as place, ThreadPoolExecutor(8) as pool:
        files = [FILES.open(place / str(n), create=True) for n in range(1000)]
        file_system = FILES.file_system(place)
        ends = [0] * len(files)

        def dirty(count: int) -> None:
            for n in range(count):
                files[n].write_at(ends[n], (payload,))
                ends[n] += len(payload)

        def one_by_one(count: int) -> None:
            for file in files[:count]:
                file.sync()

        def threads(count: int) -> None:
            for _ in pool.map(lambda file: file.sync(), files[:count]):
                pass

        def whole(count: int) -> None:
            if file_system is not None:
                file_system.sync()

        for count in (1, 2, 3, 4, 8, 100, 1000):
            for name, strategy in (
                ("one by one", one_by_one),
                ("eight threads", threads),
                ("file system", whole),
            ):
                times = []
                for _ in range(5 if count == 1000 else 15):
                    dirty(count)
                    started = time.perf_counter()
                    strategy(count)
                    times.append((time.perf_counter() - started) * 1e3)
                yield Row(
                    name=f"{count} dirty, {name}",
                    unit="ms",
                    median=statistics.median(times),
                    min=min(times),
                    max=max(times),
                )
        for file in files:
            file.close()
        if file_system is not None:
            file_system.close()


def submitted(pool: ThreadPoolExecutor, work: Callable[[], object]) -> None:
    """Run `work` in the pool's thread."""
    pool.submit(work).result()


def embedded_queue() -> Iterator[Row]:
    """The embedded queue: one record a call, many threads, many records a call, and reading."""
    value = values(1)[0]
    with scratch() as place:
        with embedded.open(place / "commit") as queue:
            calls = 500

            def one_thread(queue: embedded.Queue = queue, calls: int = calls) -> None:
                for n in range(calls):
                    queue.produce(b"%d" % n, value)

            yield measure("produce, main thread, flush=commit", "records/s", calls, one_thread)
            with ThreadPoolExecutor(1) as pool:
                work = partial(submitted, pool, one_thread)
                yield measure("produce, one other thread, flush=commit", "records/s", calls, work)
            with ThreadPoolExecutor(16) as pool:

                def many_threads() -> None:
                    list(pool.map(lambda n: queue.produce(b"%d" % n, value), range(4 * calls)))

                yield measure("produce, 16 threads, flush=commit", "records/s", 4 * calls, many_threads)
            pairs = [(b"%d" % n, value) for n in range(50_000)]
            yield measure(
                "produce_many of 50,000, flush=commit",
                "records/s",
                len(pairs),
                lambda: queue.produce_many(pairs),
                3,
            )
            group = iter(range(100))
            total = queue.stats().records

            def consume() -> None:
                name = f"g{next(group)}"
                assert sum(1 for _ in queue.consume(name, timeout=0)) == total

            yield measure("consume", "records/s", total, consume, 3)
        with embedded.open(place / "interval", flush="interval") as queue:
            many = partial(one_thread, queue, 5000)
            yield measure("produce, main thread, flush=interval", "records/s", 5000, many)
            with ThreadPoolExecutor(1) as pool:
                work = partial(submitted, pool, many)
                yield measure("produce, one other thread, flush=interval", "records/s", 5000, work)


SECTIONS: dict[str, Callable[[], Iterator[Row]]] = {
    "codec": codec,
    "append": append,
    "append-budget": append_budget,
    "path": path.path,
    "read": read,
    "group-commit": group_commit,
    "embedded": embedded_queue,
    **serving.SECTIONS,
    **metadata.SECTIONS,
}
LONG_SECTIONS = {**metadata.LONG_SECTIONS, **replicated.LONG_SECTIONS}
"""Minutes each: only those that are named are run."""


def show(row: Row) -> str:
    """The row on a line: name, median, unit, range, and what it derives."""
    shown = ("median", "min", "max")
    extra = [
        f"{key} {value:,.2f}" for key, value in row.items() if isinstance(value, float) and key not in shown
    ]
    median, low, high = (f"{row[key]:,.{0 if row['median'] >= 100 else 2}f}" for key in shown)
    return f"  {row['name']:<52} {median:>14} {row['unit']:<10} [{low} … {high}]  {'  '.join(extra)}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the table here too")
    parser.add_argument("section", nargs="*", help="which sections (default: all that are short)")
    options = parser.parse_args()
    sections = {**SECTIONS, **LONG_SECTIONS}
    if unknown := set(options.section) - set(sections):
        parser.error(f"no section {min(unknown)!r}; there are {', '.join(sections)}")
    machine = f"Python {platform.python_version()}, {os.cpu_count()} cores, Linux {platform.release()}"
    print(f"{machine}: median [min … max]")
    table: dict[str, list[Row]] = {}
    for name in options.section or SECTIONS:
        print(f"{name}: {sections[name].__doc__}")
        table[name] = []
        for row in sections[name]():
            table[name].append(row)
            print(show(row), flush=True)
    if options.json:
        options.json.write_text(json.dumps(table, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
