"""Which brokers hold the partitions of a topic.

In this order: replicas of a partition are on as many racks as they can be; brokers hold as many replicas as
one another; they lead as many partitions; the partitions of a lost broker find their new leaders on all the
others. Within one topic, what brokers hold and lead differs by one at most wherever racks are of one size;
what else the cluster holds breaks ties.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Final

from millpond_broker.core.commands import Assignment

COMPARED_MAX: Final = 8
"""Brokers that are compared for a place, of those that hold least: in a large cluster any of them will do."""

MOVES_MAX: Final = 1000
"""Leaderships that are moved to be even at last; each looks at every partition."""


def assign(
    racks: Mapping[int, str],
    partitions: int,
    replicas: int,
    *,
    there: Sequence[Assignment] = (),
    load: Mapping[int, int] | None = None,
) -> tuple[Assignment, ...]:
    """Replicas of so many more partitions, the preferred leader first.

    `racks`: every broker that may hold some, with its rack ("" is one like others); `there`: what the topic
    has already; `load`: partitions that each broker leads in other topics.
    """
    assert 1 <= replicas <= len(racks), "checked before placing"
    placement = _Placement(racks, there, load or {})
    members = [placement.place(replicas) for _ in range(partitions)]
    placement.even_out(members)
    return tuple(map(tuple, members))


def _pair(one: int, other: int) -> tuple[int, int]:
    return (one, other) if one < other else (other, one)


class _Placement:
    """What each broker of one topic has so far."""

    def __init__(
        self, racks: Mapping[int, str], there: Iterable[Assignment], load: Mapping[int, int]
    ) -> None:
        ring = sorted(racks)
        self._load = load
        self._held = dict.fromkeys(ring, 0)
        self._led = dict.fromkeys(ring, 0)
        # How often two brokers hold a partition together, the lower id first; and how often the second is the
        # first follower of the first. Neither should always be the same.
        self._pairs: Counter[tuple[int, int]] = Counter()
        self._heirs: Counter[tuple[int, int]] = Counter()
        self._brokers: dict[str, list[int]] = {}
        for broker in ring:
            self._brokers.setdefault(racks[broker], []).append(broker)
        self._rack_held = dict.fromkeys(self._brokers, 0)
        for members in there:
            known = [member for member in members if member in self._held]
            for member in known:
                self._held[member] += 1
                self._rack_held[racks[member]] += 1
            self._note_leader(known)

    def place(self, replicas: int) -> list[int]:
        """One more partition."""
        members: list[int] = []
        free = {rack: list(brokers) for rack, brokers in self._brokers.items()}
        used = dict.fromkeys(free, 0)
        while len(members) < replicas:
            rack = min(
                (rack for rack, brokers in free.items() if brokers),
                key=lambda rack: (used[rack], self._rack_held[rack] / len(self._brokers[rack]), rack),
            )
            broker = self._next(free[rack], members)
            free[rack].remove(broker)
            used[rack] += 1
            self._rack_held[rack] += 1
            self._held[broker] += 1
            members.append(broker)
        leader = min(members, key=lambda broker: self._leader_cost(broker, members))
        members.remove(leader)
        members.sort(key=lambda broker: (self._heirs[leader, broker], broker))
        members.insert(0, leader)
        self._note_leader(members)
        return members

    def _next(self, free: Sequence[int], members: Sequence[int]) -> int:
        """Of those that hold least, who is together with these least often."""
        least = min(map(self._held.__getitem__, free))
        candidates = [broker for broker in free if self._held[broker] == least]
        if len(candidates) > COMPARED_MAX:
            at = sum(members) % len(candidates)
            candidates = (candidates[at:] + candidates[:at])[:COMPARED_MAX]
        return min(candidates, key=lambda broker: self._cost(broker, members))

    def _cost(self, broker: int, members: Sequence[int]) -> tuple[int, int, int, int]:
        together = sum(self._pairs[_pair(one, broker)] for one in members)
        return together, self._led[broker], self._load.get(broker, 0), broker

    def _leader_cost(self, broker: int, members: Sequence[int]) -> tuple[int, int, int, int]:
        heirs = min((self._heirs[broker, other] for other in members if other != broker), default=0)
        return self._led[broker], self._load.get(broker, 0), heirs, broker

    def _note_leader(self, members: Sequence[int]) -> None:
        if members:
            self._led[members[0]] += 1
        if len(members) > 1:
            self._heirs[members[0], members[1]] += 1
            self._pairs.update(_pair(*two) for two in combinations(members, 2))

    def even_out(self, partitions: Sequence[list[int]]) -> None:
        """Leaderships wander along partitions that brokers share, until nobody leads two more than another
        that they could wander to. Placing leaves little to do, unless there was much to make up for.
        """
        for _ in range(min(len(partitions), MOVES_MAX)):
            if max(self._led.values()) - min(self._led.values()) <= 1 or not self._move_one(partitions):
                return

    def _move_one(self, partitions: Sequence[list[int]]) -> bool:
        led: dict[int, list[int]] = {}
        for number, members in enumerate(partitions):
            led.setdefault(members[0], []).append(number)
        for start in sorted(led, key=lambda broker: -self._led[broker]):
            came: dict[int, tuple[int, int]] = {}
            queue = deque([start])
            while queue:
                broker = queue.popleft()
                if self._led[broker] <= self._led[start] - 2:
                    self._hand_over(partitions, start, broker, came)
                    return True
                for number in led.get(broker, ()):
                    for follower in partitions[number][1:]:
                        if follower != start and follower not in came:
                            came[follower] = broker, number
                            queue.append(follower)
        return False

    def _hand_over(
        self,
        partitions: Sequence[list[int]],
        start: int,
        end: int,
        came: Mapping[int, tuple[int, int]],
    ) -> None:
        broker = end
        while broker != start:
            before, number = came[broker]
            members = partitions[number]
            at = members.index(broker)
            members[0], members[at] = members[at], members[0]
            broker = before
        self._led[start] -= 1
        self._led[end] += 1
