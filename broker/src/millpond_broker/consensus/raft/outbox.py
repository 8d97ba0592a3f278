"""What a voter has to say, until it may: messages in order by peer, and how much of it nobody has answered.

The library sends a follower everything that it lacks at once. More than a link may hold breaks the link, for
ever again; so what a peer has not answered is bounded, and the library is told to go on from there later.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Final

from millpond_broker.consensus.raft.library import BATCH_BYTES
from millpond_broker.consensus.raft.messages import AppendEntries, Message

UNANSWERED_BYTES_MAX: Final = 4 * BATCH_BYTES
"""Of entries on the way to one peer: half of what a link holds, and enough for it never to idle."""


class Outbox:
    """For one thread."""

    def __init__(self) -> None:
        self._messages: list[tuple[int, Message]] = []
        self._last_append: dict[int, int] = {}  # by peer, where in `_messages`: entries that follow join it
        self._on_the_way: dict[int, deque[tuple[int, int]]] = {}  # by peer: (last index, bytes) in order
        self._held_back: dict[int, int] = {}

    def __bool__(self) -> bool:
        return bool(self._messages)

    def add(self, peer: int, message: Message) -> bool:
        """Say this, after what was said to that peer before. False: its entries are held back."""
        if not isinstance(message, AppendEntries):
            self._last_append.pop(peer, None)
            self._messages.append((peer, message))
            return True
        if message.entries:
            message = self._bounded(peer, message)
        if not self._join(peer, message):
            self._last_append[peer] = len(self._messages)
            self._messages.append((peer, message))
        return peer not in self._held_back

    def take(self) -> list[tuple[int, Message]]:
        """Everything, in order; it is gone from here."""
        taken, self._messages = self._messages, []
        self._last_append.clear()
        return taken

    def take_held_back(self) -> dict[int, int]:
        """By peer, the index from which on entries were not said after all."""
        taken, self._held_back = self._held_back, {}
        return taken

    def answered(self, peer: int, next_index: int) -> None:
        """It has everything up to there, exclusive."""
        on_the_way = self._on_the_way.get(peer)
        while on_the_way and on_the_way[0][0] < next_index:
            on_the_way.popleft()

    def forget(self, peer: int) -> None:
        """What was on the way to it is lost, or has to be said again."""
        self._on_the_way.pop(peer, None)

    def _bounded(self, peer: int, message: AppendEntries) -> AppendEntries:
        on_the_way = self._on_the_way.setdefault(peer, deque())
        if peer in self._held_back or sum(size for _, size in on_the_way) > UNANSWERED_BYTES_MAX:
            self._held_back.setdefault(peer, message.entries[0].index)
            return replace(message, entries=())  # it is still a heartbeat
        on_the_way.append((message.entries[-1].index, sum(len(entry.data) + 16 for entry in message.entries)))
        return message

    def _join(self, peer: int, message: AppendEntries) -> bool:
        """Make one message of two: a burst of commands is then appended, and answered, at once."""
        position = self._last_append.get(peer)
        if position is None:
            return False
        _, earlier = self._messages[position]
        assert isinstance(earlier, AppendEntries), "noted as one"
        size = sum(len(entry.data) for entry in (*earlier.entries, *message.entries))
        if (
            earlier.term != message.term
            or earlier.previous_index + len(earlier.entries) != message.previous_index
            or size > BATCH_BYTES
        ):
            return False
        joined = replace(
            earlier, commit_index=message.commit_index, entries=earlier.entries + message.entries
        )
        self._messages[position] = (peer, joined)
        return True
