"""Where the brokers of `millpond up` listen: no address twice, none that is taken, voters where they were."""

from __future__ import annotations

import socket

import pytest

from millpond._local.addressing import check_free, choose, last_port
from millpond._local.configuring import Addresses
from millpond._local.ports import free_ports
from millpond._local.record import Record
from millpond.wire.errors import InvalidConfig

NOBODY = Record(3, (), is_founded=False)
FOUNDED = Record(3, ("127.0.0.1:7071", "127.0.0.1:7081", "127.0.0.1:7091"), is_founded=True)


def test_ports_are_ten_apart_or_free_ones() -> None:
    assert choose(8000, NOBODY)[1] == Addresses("127.0.0.1:8010", "127.0.0.1:8011", "127.0.0.1:8012")
    assert last_port(8000, 3) == 8022
    free = [address for own in choose(0, NOBODY) for address in own]
    assert len(set(free)) == 9


@pytest.mark.parametrize("port", [0, 8000])
def test_voters_stay_where_the_others_know_them(port: int) -> None:
    chosen = choose(port, FOUNDED)
    assert tuple(own.peer for own in chosen) == FOUNDED.peers
    assert len({address for own in chosen for address in own}) == 9


@pytest.mark.parametrize("port", [7071, 7069, 7061])
def test_no_address_is_had_twice(port: int) -> None:
    with pytest.raises(InvalidConfig, match="is a voter's address for good: name other ports with --port"):
        choose(port, FOUNDED)


def test_what_is_taken_is_told_with_whose_it_is_and_what_can_be_done() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        others = [f"127.0.0.1:{port}" for port in free_ports(4)]
        mine, kept = Addresses(*others[:3]), Addresses(others[3], address, others[3])
        record = Record(2, (others[1], address), is_founded=True)
        with pytest.raises(InvalidConfig, match=r"\(broker 2, for the other brokers\).*for good"):
            check_free([mine, kept], record)
        with pytest.raises(InvalidConfig, match="or name others with --port"):
            check_free([mine, kept], record._replace(peers=()))
        # A broker that is alone does not listen for others.
        check_free([kept], Record(1, (), is_founded=False))
    check_free([mine, kept], record)


def test_a_port_that_nobody_may_have_is_told_as_such() -> None:
    elsewhere = Addresses("192.0.2.1:7070", "192.0.2.1:7071", "192.0.2.1:7072")
    with pytest.raises(InvalidConfig, match="cannot be had, Cannot assign requested address"):
        check_free([elsewhere], Record(1, (), is_founded=False))
