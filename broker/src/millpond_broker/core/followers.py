"""The followers of one partition, as its leader knows them: their sessions, what they have and were sent.

The half of the leader that deals with followers (rules 2 to 4, 9 and 37). What follows for the ISR and the
high watermark is the leader's to say.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from operator import attrgetter
from typing import Final

from millpond_broker.core.epochs import LeaderEpochs
from millpond_broker.core.in_sync import Member
from millpond_broker.core.replication import (
    Acknowledgement,
    Answer,
    Diverging,
    FencedLeaderEpoch,
    OutOfRange,
    Push,
    Serving,
    Statement,
    UnknownLeaderEpoch,
)

_MARKS_PER_LAG: Final = 16
"""Instants kept of the time that a follower may lag. More: it is removed nearer to its time; each costs an
entry for every partition that is written to all the time."""


@dataclass(slots=True)
class Follower:
    """A replica other than the leader. Without a session it is sent nothing, and counts as it did."""

    broker_id: int
    # The start that it last spoke in; -1 before it has.
    broker_epoch: int = -1
    # The last session that it opened or tried to, in that start; grows (rule 37).
    session: int = -1
    has_session: bool = False
    # What its latest statement was made knowing, as a partition epoch.
    stated_in: int = 0
    # What counts of its log: its durable end with flush=commit, its log end with interval. 0 before it was
    # first served. Grows within a session; a new one may begin further back.
    end: int = 0
    # Where its log begins. 0 before it was first served.
    log_start: int = 0
    # The offset that its next push begins at, and what else it knows of the leader.
    next_offset: int = 0
    told_high_watermark: int = 0
    told_log_start: int = 0
    # The high watermark is to be told, though nothing else may be. By itself it waits for what comes anyway.
    is_owed: bool = False
    # Whoever pushes was told that there is something, and has not seen the end of it.
    is_due: bool = False
    # It has less than it had acknowledged, or than was committed: it has to leave the ISR (rule 37).
    went_back: bool = False
    # Its disk hangs, and it has asked to leave the ISR; until it is served again (rule 40).
    is_leaving: bool = False
    # It may join the ISR, and is waited for until it does (rules 6 and 10).
    is_joining: bool = False

    def close(self) -> None:
        """The session is over: nothing of it is heard any more."""
        self.has_session = False
        self.is_due = False
        self.is_owed = False
        self.is_joining = False


@dataclass(slots=True)
class Ends:
    """The leader's own offsets: first_offset <= log_start <= high_watermark <= own_end <= log_end."""

    # Where the batches begin that are still there.
    first_offset: int
    log_start: int
    log_end: int
    # How far the leader's own copy counts: durable_end with flush=commit, log_end with interval.
    own_end: int
    # Consumers read below it.
    high_watermark: int

    def check(self) -> None:
        """Assert what the class says."""
        assert self.first_offset <= self.log_start, "what can be read is there"
        assert self.log_start <= self.high_watermark, "what is trimmed was committed"
        assert self.high_watermark <= self.own_end, "what is committed is here, as far as it counts"
        assert self.own_end <= self.log_end, "what counts was appended"


class Followers:
    """All of them, by broker id: the replicas but the leader."""

    def __init__(self, leader_epoch: int, *, waits_for_sync: bool, ends: Ends) -> None:
        self._leader_epoch = leader_epoch
        self._waits_for_sync = waits_for_sync
        self._ends = ends
        self._by_id: dict[int, Follower] = {}

    def __iter__(self) -> Iterator[Follower]:
        return iter(self._by_id.values())

    def seat(self, replicas: AbstractSet[int]) -> None:
        """A place for each of these, and for nobody else."""
        for gone in self._by_id.keys() - replicas:
            del self._by_id[gone]
        for new in replicas - self._by_id.keys():
            self._by_id[new] = Follower(new)

    # --- sessions -------------------------------------------------------------------------------------

    def stated(self, statement: Statement, epochs: LeaderEpochs, registered_epoch: int) -> Answer:
        """A follower says where it is. `registered_epoch`: its start, as far as the metadata knows."""
        answer = self._answer(statement, epochs, registered_epoch)
        if not isinstance(answer, FencedLeaderEpoch | UnknownLeaderEpoch):
            follower = self._by_id[statement.follower]
            # One that is not served has left its earlier session, too. What it has counts on as it was, until
            # it is known to agree (rule 3).
            follower.close()
            follower.broker_epoch, follower.session = statement.broker_epoch, statement.session
            follower.stated_in = statement.stated_in
            if isinstance(answer, Serving):
                self._open(follower, statement)
        return answer

    def _answer(self, statement: Statement, epochs: LeaderEpochs, registered_epoch: int) -> Answer:
        """Rules 2, 3, 4 and 37."""
        epoch, session, offset = statement.leader_epoch, statement.session, statement.fetch_offset
        follower = self._by_id.get(statement.follower)
        ends = self._ends
        if epoch < self._leader_epoch:
            return FencedLeaderEpoch(epoch, session, self._leader_epoch)
        if epoch > self._leader_epoch or follower is None:
            return UnknownLeaderEpoch(epoch, session, self._leader_epoch)
        if statement.broker_epoch < max(follower.broker_epoch, registered_epoch):
            return FencedLeaderEpoch(epoch, session, self._leader_epoch)
        if statement.broker_epoch == follower.broker_epoch and session <= follower.session:
            return FencedLeaderEpoch(epoch, session, self._leader_epoch)  # another one overtook it
        is_empty = statement.last_epoch is None
        # Somewhere within a batch an empty log cannot begin.
        if offset not in (ends.first_offset, ends.log_end) if is_empty else offset < ends.log_start:
            return self._out_of_range(epoch, session)
        if statement.last_epoch is not None:
            agreed = epochs.end_offset_for(statement.last_epoch, ends.log_end)
            if agreed is None:  # what it has is older than all that is left here
                agreed = statement.last_epoch, ends.log_end if epochs.start is None else epochs.start
            if agreed[0] < statement.last_epoch or agreed[1] < offset:
                return Diverging(epoch, session, *agreed)
        return Serving(epoch, session, offset, ends.high_watermark, ends.log_start)

    def _out_of_range(self, epoch: int, session: int) -> OutOfRange:
        ends = self._ends
        return OutOfRange(epoch, session, ends.log_start, ends.log_end, ends.first_offset)

    def _open(self, follower: Follower, statement: Statement) -> None:
        ends = self._ends
        end = statement.fetch_offset
        if self._waits_for_sync:
            end = min(end, statement.durable_end)
        follower.went_back |= end < max(follower.end, ends.high_watermark)  # matters in the ISR alone
        follower.has_session = True
        follower.is_leaving = False
        follower.end, follower.log_start = end, statement.log_start
        follower.next_offset = statement.fetch_offset
        follower.told_high_watermark, follower.told_log_start = ends.high_watermark, ends.log_start

    def acknowledged(self, sender: Member, acknowledgement: Acknowledgement) -> None:
        """A follower has more."""
        follower = self._current(sender, acknowledgement.leader_epoch, acknowledgement.session)
        if follower is None:
            return
        if max(acknowledgement.durable_end, acknowledgement.log_end) > follower.next_offset:
            follower.close()  # it says to have what it was not sent: it has to say anew where it is
            return
        end = acknowledgement.durable_end if self._waits_for_sync else acknowledgement.log_end
        follower.end = max(follower.end, end)
        follower.log_start = max(follower.log_start, acknowledgement.log_start)
        if acknowledgement.leaves:
            follower.close()
            follower.is_leaving = True

    def lost(self, sender: Member, session: int) -> None:
        """The stream that the session was on is gone. What the follower has, it has."""
        follower = self._current(sender, self._leader_epoch, session)
        if follower is not None:
            follower.close()

    def _current(self, sender: Member, leader_epoch: int, session: int) -> Follower | None:
        """The follower, if that is its open session: everything else is late (rule 37)."""
        follower = self._by_id.get(sender.broker_id)
        if follower is None or not follower.has_session:
            return None
        if leader_epoch != self._leader_epoch or session != follower.session:
            return None
        return follower if sender.broker_epoch == follower.broker_epoch else None

    # --- pushing --------------------------------------------------------------------------------------

    def newly_due(self) -> list[int]:
        """Who has something to be pushed, and was not named since `due` last had nothing for it. A high
        watermark alone is nothing, before it is owed.
        """
        named = [
            follower
            for follower in self._by_id.values()
            if follower.has_session and not follower.is_due and self._lacks(follower)
        ]
        for follower in named:
            follower.is_due = True
        return [follower.broker_id for follower in named]

    def owe(self, high_watermark: int) -> list[int]:
        """Who was not told that one yet, nor a later one, is owed it; of these who is newly due."""
        for follower in self._by_id.values():
            if follower.has_session and follower.told_high_watermark < high_watermark:
                follower.is_owed = True
        return self.newly_due()

    def due(self, broker_id: int) -> Push | OutOfRange | None:
        """The next push to a follower; None when it knows what it is to know. OutOfRange ends its session:
        the log begins later by now than what it needs.
        """
        follower = self._by_id.get(broker_id)
        if follower is None:
            return None
        if not self._lacks(follower):
            follower.is_due = False
            return None
        ends = self._ends
        if follower.next_offset < ends.first_offset:
            follower.close()
            return self._out_of_range(self._leader_epoch, follower.session)
        return Push(
            self._leader_epoch, follower.session, follower.next_offset, ends.high_watermark, ends.log_start
        )

    def pushed(self, broker_id: int, push: Push, next_offset: int) -> None:
        """That push leaves, with batches up to `next_offset`."""
        follower = self._by_id.get(broker_id)
        if follower is None or not follower.has_session or follower.session != push.session:
            return
        assert follower.next_offset == push.from_offset <= next_offset <= self._ends.log_end, "in order"
        follower.next_offset = next_offset
        follower.told_high_watermark, follower.told_log_start = push.high_watermark, push.log_start
        follower.is_owed = False

    def _lacks(self, follower: Follower) -> bool:
        ends = self._ends
        return follower.has_session and (
            follower.next_offset < ends.log_end
            or follower.told_log_start < ends.log_start
            or (follower.is_owed and follower.told_high_watermark < ends.high_watermark)
        )


@dataclass(slots=True)
class _Mark:
    """The records from `offset` on, up to the next mark's, were appended between the two instants."""

    offset: int
    first_ms: int
    last_ms: int


class AppendTimes:
    """When each record was appended, to a fraction of the lag allowed, and never too early (rule 9)."""

    def __init__(self, lag_ms_max: int, now_ms: int) -> None:
        self._lag_ms_max = lag_ms_max
        self._resolution_ms = max(1, lag_ms_max // _MARKS_PER_LAG)
        # By offset. Those by which anybody who lacks them is out of sync are kept as one, so that there are
        # _MARKS_PER_LAG and a few. A new leader starts all clocks at once.
        self._marks = [_Mark(0, now_ms, now_ms)]

    def __len__(self) -> int:
        return len(self._marks)

    def appended(self, offset: int, now_ms: int) -> None:
        """Records from `offset` on were appended now."""
        marks = self._marks
        if now_ms - marks[-1].first_ms < self._resolution_ms:
            marks[-1].last_ms = now_ms
            return
        marks.append(_Mark(offset, now_ms, now_ms))
        while now_ms - marks[1].last_ms > self._lag_ms_max:
            del marks[0]

    def at_ms(self, offset: int) -> int:
        """When the record at `offset`, which is below the log end, was appended at the latest."""
        mark = self._marks[max(0, bisect_right(self._marks, offset, key=attrgetter("offset")) - 1)]
        return mark.first_ms if mark.offset == offset else mark.last_ms
