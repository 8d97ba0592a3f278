"""What a broker says of the cluster now, held against what this client was told before.

Whoever asked twice would see a change undone if the second who answers were behind the first. But where all
who answer are behind and stay so, as with no majority nobody's metadata grow, an old word is worth more than
none: `newest` has it then, and says so.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from millpond._core.retry import Deadline
from millpond._transport.connection import DESCRIBE_S, METADATA, Connection
from millpond.v1.metadata_pb2 import ClusterMetadata, DescribeRequest
from millpond.wire.errors import ClusterUnavailable

BEHIND_S: Final = 3.0
"""A broker in touch that is behind is waited for so long: a session. It catches up by then, or has lost
touch, and then there is nothing to wait for.
"""


class Told(NamedTuple):
    """What a broker says. `behind`: this client was told of newer before, by who does not answer now."""

    metadata: ClusterMetadata
    behind: bool


def is_behind(connection: Connection, answer: ClusterMetadata) -> bool:
    """Whether it is older than what this client has."""
    view = connection.view
    return answer.version < view.version and answer.cluster_id == view.cluster_id


async def current(connection: Connection, request: DescribeRequest, deadline: Deadline) -> ClusterMetadata:
    """What a broker says that is not behind. Raises ClusterUnavailable if none does in time."""
    answer: ClusterMetadata = await connection.call_any(
        METADATA,
        "Describe",
        request,
        deadline,
        attempt_s=DESCRIBE_S,
        accept=lambda answer: not is_behind(connection, answer),
    )
    return answer


async def newest(connection: Connection, request: DescribeRequest, deadline: Deadline) -> Told:
    """Likewise; the newest of those that are behind, once all were asked. Raises ClusterUnavailable if nobody
    answers.
    """
    patience = connection.deadline(min(BEHIND_S, connection.left_s(deadline)))
    older: ClusterMetadata | None = None

    def accept(answer: ClusterMetadata) -> bool:
        nonlocal older
        if not is_behind(connection, answer):
            return True
        if older is None or answer.version >= older.version:
            older = answer
        return False

    def enough() -> bool:
        return older is not None and (older.out_of_touch or connection.left_s(patience) <= 0)

    try:
        found = await connection.call_any(
            METADATA, "Describe", request, deadline, attempt_s=DESCRIBE_S, accept=accept, enough=enough
        )
    except ClusterUnavailable:
        if older is None:
            raise
        return Told(older, behind=True)
    return Told(found, behind=False)
