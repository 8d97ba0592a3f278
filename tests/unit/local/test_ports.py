"""Free ports, and who looks where."""

from __future__ import annotations

import socket

import pytest

from millpond._local import ports
from millpond._local.ports import LOOPBACK, WORKERS_MAX, free_ports, is_taken
from millpond.wire.errors import ClusterUnavailable


@pytest.fixture(autouse=True)
def a_range(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_ephemeral_lowest", lambda: 30_000)
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)


def as_worker(monkeypatch: pytest.MonkeyPatch, worker: str, count: str) -> range:
    monkeypatch.setenv("PYTEST_XDIST_WORKER", worker)
    monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", count)
    return ports._ports()


def test_each_worker_of_a_test_run_has_a_share_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[range] = []
    for count in (1, 3, WORKERS_MAX):
        shares = [as_worker(monkeypatch, f"gw{number}", str(count)) for number in range(count)]
        assert len({port for share in shares for port in share}) == sum(map(len, shares))
        assert {len(share) for share in shares} == {15_000 // count}
        assert (shares[0].start, shares[-1].stop) == (15_000, 15_000 + 15_000 // count * count)
    assert all(port in shares[-1] for port in free_ports(20))


@pytest.mark.parametrize(
    ("worker", "count"),
    [("master", "3"), ("gw3", "3"), ("gw", "2"), ("gw0", ""), ("gw0", "33"), ("gw²", "3")],
)
def test_who_is_no_such_worker_looks_everywhere(
    monkeypatch: pytest.MonkeyPatch, worker: str, count: str
) -> None:
    assert as_worker(monkeypatch, worker, count) == range(15_000, 30_000)


def test_ports_are_all_different_and_nobody_listens_there() -> None:
    found = free_ports(30)
    assert len(set(found)) == 30
    with socket.create_server((LOOPBACK, found[0])):
        assert is_taken(f"{LOOPBACK}:{found[0]}")
    assert not is_taken(f"{LOOPBACK}:{found[1]}")


def test_where_there_are_too_few_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_ports", lambda: range(15_000, 15_003))
    with pytest.raises(ClusterUnavailable, match="no 4 free ports from 15000 to 15003"):
        free_ports(4)
