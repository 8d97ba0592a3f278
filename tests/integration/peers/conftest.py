"""Voters that are closed after each test, and what must be gone then."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import pytest

from tests.integration.peers.voters import Voter, nothing_left


class MakeVoter(Protocol):
    def __call__(self, broker_id: int, **options: Any) -> Voter:
        """A voter that listens."""


@pytest.fixture
def voter() -> Iterator[MakeVoter]:
    made: list[Voter] = []

    def make(broker_id: int, **options: Any) -> Voter:
        made.append(Voter(broker_id, **options))
        return made[-1]

    with nothing_left():
        yield make
        for one in made:
            one.close()
