"""What travels on a subscription: the metadata log's committed commands, to a broker that does not vote.

Whoever opens the stream says once where it goes on; everything else comes from the voter.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Subscribe:
    """To a voter: what comes after that version of the image; 0: there is none yet."""

    after: int


@dataclass(frozen=True, slots=True)
class Whole:
    """The image of that version, as `codec.encode_snapshot` writes it, in place of the commands before."""

    version: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Commands:
    """Every command after version `after`, up to the last of these: (index, encoded envelope), in order."""

    after: int
    entries: tuple[tuple[int, bytes], ...]


@dataclass(frozen=True, slots=True)
class At:
    """Where the voter is: all up to that version has been sent. Also said when nothing is new."""

    version: int
    leader: int | None
    """Who leads the voters, as far as it knows."""


@dataclass(frozen=True, slots=True)
class NotServed:
    """Nothing comes from here: why, and who votes. `for_good`: whoever is asked will say so."""

    reason: str
    voters: tuple[tuple[int, str], ...] = ()
    """(broker id, host:port)."""
    for_good: bool = False


FromVoter = Whole | Commands | At | NotServed
Subscription = Subscribe | FromVoter
