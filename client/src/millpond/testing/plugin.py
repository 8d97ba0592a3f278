"""The pytest plugin: a broker for a test session, and fresh topic names.

Installed with the package (entry point `pytest11`), so pytest imports this module in every project of the
environment: it imports nothing of ours, and nothing but pytest, until a test asks for a fixture.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from millpond.testing.cluster import LocalCluster

_NAME_CHARACTERS_MAX = 100
"""Of a test's name in a topic's: a topic's may have 249, and both are to be read by people."""


@pytest.fixture(scope="session")
def millpond_cluster() -> Iterator[LocalCluster]:
    """A millpond.testing.LocalCluster of one broker, for the whole session; its data go with it.

    Tests share it: use `millpond_topic` for names, and a cluster of your own to kill or restart brokers. To
    configure it, define a fixture of this name in your conftest.py.
    """
    from millpond.testing.cluster import LocalCluster  # noqa: PLC0415 - see above

    with LocalCluster() as cluster:
        yield cluster


@pytest.fixture
def millpond_topic(request: pytest.FixtureRequest) -> str:
    """A name that no topic has yet, with the test's own in it. The topic is for the test to create, with the
    partitions and settings it wants.
    """
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", request.node.name).strip("-_")[:_NAME_CHARACTERS_MAX]
    return f"{readable or 'topic'}-{uuid.uuid4().hex[:12]}"
