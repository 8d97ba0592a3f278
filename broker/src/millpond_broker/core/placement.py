"""Which brokers hold the partitions of a topic.

Leaders go round the brokers; the other replicas of a partition follow its leader at a distance that grows
with every turn, so that the partitions of a lost broker find their new leaders on all the others.
"""

from __future__ import annotations

from collections.abc import Sequence

from millpond_broker.core.commands import Assignment


def assign(
    brokers: Sequence[int], partitions: int, replicas: int, *, first_partition: int = 0, start: int = 0
) -> tuple[Assignment, ...]:
    """Replicas of so many partitions from number `first_partition` on. `start` rotates the whole, so that
    topics of one partition do not all begin at the same broker.
    """
    assert 1 <= replicas <= len(brokers), "checked before placing"
    ring = sorted(brokers)
    return tuple(
        _replicas(ring, replicas, start + number)
        for number in range(first_partition, first_partition + partitions)
    )


def _replicas(ring: Sequence[int], replicas: int, turn: int) -> Assignment:
    laps, leader = divmod(turn, len(ring))
    others = len(ring) - 1
    return (
        ring[leader],
        *(ring[(leader + 1 + (laps + follower) % others) % len(ring)] for follower in range(replicas - 1)),
    )
