"""Where the brokers of `millpond up` listen: ports it is told, or free ones, and whether they are taken."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from millpond._local.configuring import Addresses, free
from millpond._local.ports import LOOPBACK, is_taken
from millpond._local.record import Record
from millpond.wire.errors import InvalidConfig

PORTS_EACH: Final = 10
"""From one broker's first port to the next one's: clients, then brokers, then HTTP."""
TRIES_MAX: Final = 5
"""Of free ports, one of which may be a voter's that does not run yet."""

PURPOSES: Final[Mapping[str, str]] = {
    "client": "for clients",
    "peer": "for the other brokers",
    "http": "for HTTP",
}


def last_port(port: int, brokers: int) -> int:
    """The highest port of so many brokers."""
    return port + PORTS_EACH * (brokers - 1) + 2


def choose(port: int, record: Record) -> list[Addresses]:
    """For each broker: from `port` on, or free ones if that is 0. Voters keep the address by which the others
    know them. Raises InvalidConfig for one that would be had twice.
    """
    twice: str | None = None
    for _ in range(TRIES_MAX):
        chosen = _from(port, record.brokers) if port else free(record.brokers)
        if record.peers:
            pairs = zip(chosen, record.peers, strict=True)
            chosen = [own._replace(peer=peer) for own, peer in pairs]
        twice = _had_twice(chosen)
        if twice is None:
            return chosen
    assert twice is not None, "every try found one"
    raise InvalidConfig(
        key=twice, reason="is a voter's address for good: name other ports with --port, 0 for free ones"
    )


def check_free(addresses: Sequence[Addresses], record: Record) -> None:
    """Raises InvalidConfig for one that somebody listens on, or that nobody may have."""
    for address, whose, is_kept in _all(addresses, record):
        try:
            if not is_taken(address):
                continue
            why = "is taken"
        except OSError as error:
            why = f"cannot be had, {error.strerror}"
        what_to_do = (
            "end what listens there: the others know this broker by that address for good"
            if is_kept
            else "end what listens there, or name others with --port, 0 for free ones"
        )
        raise InvalidConfig(key=address, reason=f"{why} ({whose}): {what_to_do}")


def _from(port: int, brokers: int) -> list[Addresses]:
    firsts = (port + PORTS_EACH * broker for broker in range(brokers))
    return [Addresses(*(f"{LOOPBACK}:{first + each}" for each in range(3))) for first in firsts]


def _had_twice(chosen: Sequence[Addresses]) -> str | None:
    seen: set[str] = set()
    for address in (address for own in chosen for address in own):
        if address in seen:
            return address
        seen.add(address)
    return None


def _all(addresses: Sequence[Addresses], record: Record) -> Iterator[tuple[str, str, bool]]:
    """Each address, whose it would be, and whether that is so for good."""
    for number, own in enumerate(addresses, 1):
        for purpose, address in own._asdict().items():
            if purpose == "peer" and record.brokers == 1:
                continue  # it does not listen there
            kept = purpose == "peer" and bool(record.peers)
            yield address, f"broker {number}, {PURPOSES[purpose]}", kept
