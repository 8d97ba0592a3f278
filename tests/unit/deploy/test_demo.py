"""The parts of `make demo`: what is written down, work that is struck, a judge that finds what is wrong."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

import millpond
from millpond.testing import LocalCluster

ROOT = Path(__file__).parents[3]
sys.path.append(str(ROOT / "deploy" / "demo"))  # where its programs find each other, too

import acts  # noqa: E402 - see above
import corpus  # noqa: E402 - see above
import gate  # noqa: E402 - see above
import probe  # noqa: E402 - see above
import produce  # noqa: E402 - see above
import verify  # noqa: E402 - see above
from journal import Journal, Tally, rows  # noqa: E402 - see above

FILES = ("this.py", "antigravity.py", "bisect.py")


# --- what is written down ----------------------------------------------------------------------------------


def test_the_corpus_is_every_line_of_every_file_in_order_and_goes_on_after_any(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert set(FILES) <= set(corpus.names())
    assert not any("site-packages" in name for name in corpus.names())
    monkeypatch.setattr(corpus, "names", lambda: sorted(FILES))
    lines = list(corpus.lines())
    assert len(lines) == corpus.count()
    for name in FILES:
        whole = b"".join(line.text for line in lines if line.name == name)
        assert whole == (corpus.ROOT / name).read_bytes()
    half = len(lines) // 2
    assert list(corpus.lines(after=lines[half][:2])) == lines[half + 1 :]


def test_a_row_that_was_cut_short_is_none_and_each_is_counted_once(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    tally = Tally(path, lambda row: int(row[1]))
    assert (tally.count(), list(rows(path))) == (0, [])
    with Journal(path) as journal:
        journal.write([["a", 2], ["b", 3]])
        assert tally.count() == 5
        journal.write([["c", 5]])
    with path.open("ab") as file:
        file.write(b'["d", 7')
    assert (tally.count(), tally.count()) == (10, 10)
    assert list(rows(path)) == [["a", 2], ["b", 3], ["c", 5]]


def test_runs_are_lines_that_follow_each_other_in_a_file_and_in_a_partition() -> None:
    lines = [corpus.Line(name, number, b"") for name, number in (("a", 0), ("a", 1), ("a", 2), ("b", 0))]
    assert produce.runs(lines, [(1, 7), (1, 8), (1, 11), (1, 12)]) == [
        ["a", 0, 2, 1, 7],
        ["a", 2, 1, 1, 11],
        ["b", 0, 1, 1, 12],
    ]


# --- the work, and what strikes meanwhile ------------------------------------------------------------------

WORKER = """
import asyncio, sys
sys.path.append({demo!r})
from pathlib import Path
from gate import Gate
from journal import Journal
async def main():
    gate = Gate(int(sys.argv[2]))
    with Journal(Path(sys.argv[1])) as journal:
        for done in range(1, 101):
            journal.write([[1]])
            await gate.pass_with(done)
    sys.exit({status})
asyncio.run(main())
"""


def _worker(where: Path, status: int = 0) -> tuple[list[str], Tally]:
    """A process that does a hundred things at once, and what it has done."""
    done = where / "done"
    script = WORKER.format(demo=str(ROOT / "deploy" / "demo"), status=status)
    return ["-c", script, str(done)], Tally(done, lambda row: int(row[0]))


async def test_work_waits_for_a_broker_that_takes_its_time_and_goes_on_after_the_last_kill(
    tmp_path: Path,
) -> None:
    """However long a broker is away, the next kill finds the work unfinished."""
    command, tally = _worker(tmp_path)
    seen: list[int] = []

    async def strike(_done: int) -> None:
        async with asyncio.timeout(60):
            while tally.count() < gate.SHARE * 100:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)  # time to go past the gate, for one that does not hold
        seen.append(tally.count())

    async def last(_done: int) -> None:
        async with asyncio.timeout(60):
            while tally.count() < 100:
                await asyncio.sleep(0.01)

    await acts.work("work", command, tally, 100, [(0.2, strike), (0.6, strike), (0.7, last)])
    assert seen == [90, 90]
    assert tally.count() == 100


async def test_work_that_fails_or_ends_before_a_kill_is_an_error(tmp_path: Path) -> None:
    async def strike(_done: int) -> None:
        pass

    command, tally = _worker(tmp_path, status=3)
    with pytest.raises(RuntimeError, match=r"work ended with 3$"):
        await acts.work("work", command, tally, 100, [(0.2, strike)])
    with pytest.raises(RuntimeError, match="work ended with 0 before the next kill"):
        await acts.work("work", ["-c", ""], Tally(tmp_path / "none", len), 100, [(0.2, strike)])


async def test_work_ends_with_what_struck_it(tmp_path: Path) -> None:
    async def strike(_done: int) -> None:
        raise RuntimeError("a broker is not back")

    command, tally = _worker(tmp_path)
    with pytest.raises(RuntimeError, match="not back"):
        await acts.work("work", command, tally, 100, [(0.2, strike), (0.3, strike)])
    assert tally.count() <= 90


# --- the judge ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster() as running:
        yield running


class Proof:
    """The corpus in a topic, and journals that are right until a test changes them."""

    def __init__(self, cluster: LocalCluster, client: millpond.Client, where: Path) -> None:
        self.cluster = cluster
        self.client = client
        self.acknowledged, self.delivered, self.beats = (where / name for name in ("a", "d", "b"))

    async def fill(self, texts: dict[int, bytes] | None = None) -> None:
        """Send every line, some by number with another text."""
        lines = list(corpus.lines())
        sent = [(texts or {}).get(number, line.text) for number, line in enumerate(lines)]
        async with self.client.producer() as producer:
            keys = [line.name.encode() for line in lines]
            result = await producer.send_many(corpus.TOPIC, sent, keys=keys)
            places = list(zip(result.partitions, result.offsets, strict=True))
            beat = await producer.send(probe.TOPIC, b"0/0", partition=0)
        self.write(self.acknowledged, produce.runs(lines, places))
        ends = {at: 1 + max(offset for each, offset in places if each == at) for at in set(result.partitions)}
        self.write(self.delivered, [[at, 0, end] for at, end in ends.items()])
        self.write(self.beats, [[0, beat.offset, "0/0"]])

    @staticmethod
    def write(path: Path, found: list[list[Any]]) -> None:
        path.unlink(missing_ok=True)
        with Journal(path) as journal:
            journal.write(found)

    async def verdict(self, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, int]]:
        """Exit status, and what is not as it should be."""
        bootstrap = self.cluster.bootstrap
        status = await verify.main(bootstrap, self.acknowledged, self.delivered, self.beats)
        found = json.loads(capsys.readouterr().out)
        kinds = ("missing", "wrong", "unordered", "undelivered", "delivered_twice", "heartbeats_missing")
        wrong = {kind: found[kind] for kind in kinds if found[kind]}
        if found["records"] != found["acknowledged"]:
            wrong["unacknowledged"] = found["records"] - found["acknowledged"]
        return status, wrong


@pytest_asyncio.fixture
async def proof(
    cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Proof]:
    for module in (corpus, verify):
        monkeypatch.setattr(module, "names", lambda: sorted(FILES))
    async with cluster.client() as client:
        for topic, partitions in ((corpus.TOPIC, 2), (probe.TOPIC, 1)):
            await client.admin.create_topic(topic, partitions=partitions)
        yield Proof(cluster, client, tmp_path)
        for topic in (corpus.TOPIC, probe.TOPIC):
            await client.admin.delete_topic(topic)


async def test_what_is_whole_is_proven(proof: Proof, capsys: pytest.CaptureFixture[str]) -> None:
    await proof.fill()
    assert await proof.verdict(capsys) == (0, {})


async def test_an_acknowledged_line_that_is_not_there_is_missing(
    proof: Proof, capsys: pytest.CaptureFixture[str]
) -> None:
    await proof.fill()
    found = list(rows(proof.acknowledged))
    last = max(found, key=lambda row: (row[3], row[4]))
    proof.write(proof.acknowledged, [*found, ["this.py", 0, 2, last[3], last[4] + last[2]]])
    assert await proof.verdict(capsys) == (1, {"missing": 2})


async def test_a_line_with_other_bytes_is_wrong(proof: Proof, capsys: pytest.CaptureFixture[str]) -> None:
    await proof.fill({3: b"something else\n"})
    assert await proof.verdict(capsys) == (1, {"wrong": 1})


async def test_a_record_that_nobody_was_told_of_is_told(
    proof: Proof, capsys: pytest.CaptureFixture[str]
) -> None:
    await proof.fill()
    async with proof.client.producer() as producer:
        ack = await producer.send(corpus.TOPIC, b"once more\n", key=b"this.py")
    found = [*rows(proof.delivered)]
    proof.write(
        proof.delivered,
        [[at, first, end + (at == ack.partition)] for at, first, end in found],
    )
    assert await proof.verdict(capsys) == (1, {"unacknowledged": 1})


async def test_what_the_consumer_did_not_get_or_got_twice_is_counted(
    proof: Proof, capsys: pytest.CaptureFixture[str]
) -> None:
    await proof.fill()
    (partition, _, end), *others = rows(proof.delivered)
    proof.write(proof.delivered, [[partition, 2, end], [partition, end - 3, end], *others])
    assert await proof.verdict(capsys) == (1, {"undelivered": 2, "delivered_twice": 3})


async def test_a_heartbeat_that_is_lost_is_missed(proof: Proof, capsys: pytest.CaptureFixture[str]) -> None:
    await proof.fill()
    proof.write(proof.beats, [*rows(proof.beats), [0, 1, "0/1"]])
    assert await proof.verdict(capsys) == (1, {"heartbeats_missing": 1})
