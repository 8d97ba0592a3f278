"""A follower of one partition in one leader epoch: where it stands, what it cuts, what it takes and tells.

A machine without records: its runtime performs what a `Turn` asks for and comes back with the `Position` that
resulted. A new leader epoch is a new machine, with the same log and high watermark.

    IDLE       there is no stream, or the disk is not ready: `begin` when there is
    STATING    the leader was told where we are, and has not answered
    FOLLOWING  a session is open: pushes are appended, what counts is acknowledged
    CUTTING    the log is being cut, or emptied: nothing is said before that is durable (rule 41)
    LEAVING    our bytes are bad, and the metadata still counts on them (rule 15)
    STOPPED    going on would lose what was committed: somebody has to look (rule 5)

Cut is by epochs alone, and never by the high watermark (rules 3 to 5).
"""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

from millpond_broker.core.epochs import LeaderEpochs
from millpond_broker.core.in_sync import Member
from millpond_broker.core.replication import (
    Acknowledgement,
    Answer,
    Batches,
    Diverging,
    FencedLeaderEpoch,
    OutOfRange,
    Position,
    Push,
    Serving,
    Statement,
    UnknownLeaderEpoch,
)


class FollowerState(enum.Enum):
    """See the module."""

    IDLE = "idle"
    STATING = "stating"
    FOLLOWING = "following"
    CUTTING = "cutting"
    LEAVING = "leaving"
    STOPPED = "stopped"


_NEXT: Final[dict[FollowerState, frozenset[FollowerState]]] = {
    FollowerState.IDLE: frozenset({FollowerState.STATING, FollowerState.LEAVING}),
    FollowerState.STATING: frozenset(
        {
            FollowerState.IDLE,
            FollowerState.FOLLOWING,
            FollowerState.CUTTING,
            FollowerState.LEAVING,
            FollowerState.STOPPED,
        }
    ),
    FollowerState.FOLLOWING: frozenset(
        {
            FollowerState.IDLE,
            FollowerState.CUTTING,  # the leader's log begins later by now
            FollowerState.LEAVING,
            FollowerState.STOPPED,
        }
    ),
    FollowerState.CUTTING: frozenset({FollowerState.IDLE, FollowerState.LEAVING}),
    FollowerState.LEAVING: frozenset({FollowerState.CUTTING, FollowerState.LEAVING}),
    FollowerState.STOPPED: frozenset({FollowerState.STOPPED, FollowerState.LEAVING}),
}


class Trouble(enum.Enum):
    """What a follower reports."""

    BAD_BYTES = "bad bytes"
    """Corruption of its own log: the controller is asked to take it out of ISR and ELR (rule 15)."""
    BEGINS_ANEW = "its log has to begin before what is committed"
    """Empty, by a trim that the leader does not know, where the leader's log has no batch begin: likewise."""
    WOULD_LOSE_COMMITTED = "would lose what was committed"
    """The leader asks for a cut below our high watermark (rule 5)."""
    CONTRADICTION = "the leader contradicts itself"
    """What it says fits no log: its answer would lead nowhere, or its batches go back in epochs."""


class Turn(NamedTuple):
    """What to do after an event: at most one thing to the log, and at most one to tell the leader.

    Performed in this order; what the log then is comes back by the event that is named.
    """

    append: bool = False
    """The batches of the push: then `appended`, or `interrupted` and later `begin`."""
    cut_to: int | None = None
    """Truncate, durably: then `cut`."""
    empty_at: int | None = None
    """Drop everything, and start at that offset, durably: then `cut`."""
    trim_to: int | None = None
    """Adopt that log start: then `trimmed`."""
    state: Statement | None = None
    acknowledge: Acknowledgement | None = None
    begin_later: bool = False
    """`begin` after a while: the leader does not know of us yet."""
    trouble: Trouble | None = None


class Follower:
    """See the module. `position` is of the log as it is; `high_watermark` as it was last known here."""

    def __init__(
        self,
        me: Member,
        leader_epoch: int,
        position: Position,
        high_watermark: int,
        *,
        waits_for_sync: bool,
        partition_epoch: int = 0,
        may_cut_committed: bool = False,
        last_session: int = 0,
    ) -> None:
        """`may_cut_committed`: our high watermark is from before an election that may have lost something, so
        that rule 5 does not hold for it. `last_session`: of an earlier machine of this leader epoch.
        """
        self.state = FollowerState.IDLE
        # Of the metadata that this broker has, and had when it last stated where it is.
        self._partition_epoch = partition_epoch
        self._stated_in = partition_epoch
        self.leader_epoch: Final = leader_epoch
        self.position = position
        # log_start <= high_watermark <= what counts of the log. May go back when a leader is new (rule 7).
        self.high_watermark = high_watermark
        # Of the latest statement; grows. What is not of it is late (rule 37).
        self.session = last_session
        self._me: Final = me
        self._waits_for_sync: Final = waits_for_sync
        self._may_cut_committed = may_cut_committed
        # What the leader told last in this epoch; None before it has.
        self._leaders_high_watermark: int | None = None
        self._leaders_log_start = 0
        # What the leader was told to count, by the latest statement or since; and where the log begins.
        self._acknowledged = 0
        self._acknowledged_start = 0
        # Where the log is to begin once this replica has left; None: where it does now.
        self._empties_at: int | None = None
        self._check()

    # --- the stream -----------------------------------------------------------------------------------

    def begin(self) -> Turn:
        """There is a stream to the leader, and the log is ready: say where we are. Not if something else is
        under way, or is to be waited for.
        """
        if self.state is not FollowerState.IDLE:
            return Turn()
        return self._state()

    def interrupted(self) -> Turn:
        """The stream is gone, or the log takes nothing for now. `begin` goes on."""
        if self.state in (FollowerState.STATING, FollowerState.FOLLOWING):
            self._enter(FollowerState.IDLE)
        return Turn()

    def withdraw(self) -> Turn:
        """The disk hangs: nobody is to wait for this replica any more (rule 40). `begin` goes on, and by rule
        10 it joins again.
        """
        if self.state not in (FollowerState.STATING, FollowerState.FOLLOWING):
            return Turn()
        self._enter(FollowerState.IDLE)
        log_start, log_end, durable_end, _ = self.position
        return Turn(
            acknowledge=Acknowledgement(
                self.leader_epoch, self.session, log_end, durable_end, log_start, leaves=True
            )
        )

    def saw(self, partition_epoch: int, floor: int, *, is_member: bool) -> Turn:
        """There is newer metadata of this leader epoch. `floor`: a position that was stated in an earlier
        partition epoch lets this replica join the ISR no more; 0: none. `is_member`: of ISR or ELR.
        """
        self._partition_epoch = partition_epoch
        if floor <= self._stated_in:
            return Turn()
        match self.state:
            case FollowerState.LEAVING if not is_member:
                # Nobody counts on the damaged log, nor on anything that was said of it (rule 15).
                offset = self._empties_at
                return self._empty(self.position.log_start if offset is None else offset)
            case FollowerState.STATING | FollowerState.FOLLOWING:
                self._enter(FollowerState.IDLE)
                return self._state()
        return Turn()

    def _state(self) -> Turn:
        self._enter(FollowerState.STATING)
        self.session += 1
        self._acknowledged = self._counted_end
        self._acknowledged_start = self.position.log_start
        self._stated_in = self._partition_epoch
        position = self.position
        return Turn(
            state=Statement(
                follower=self._me.broker_id,
                broker_epoch=self._me.broker_epoch,
                leader_epoch=self.leader_epoch,
                session=self.session,
                fetch_offset=position.log_end,
                last_epoch=position.last_epoch,
                durable_end=position.durable_end,
                stated_in=self._stated_in,
                log_start=position.log_start,
            )
        )

    # --- the leader -----------------------------------------------------------------------------------

    def answered(self, answer: Answer, epochs: LeaderEpochs) -> Turn:
        """The leader answered a statement, or ended a session. `epochs` of our own log."""
        if not self._is_current(answer):
            return Turn()
        match answer:
            case OutOfRange() if self.state in (FollowerState.STATING, FollowerState.FOLLOWING):
                return self._out_of_range(answer)
            case _ if self.state is not FollowerState.STATING:
                return Turn()
            case FencedLeaderEpoch():
                self._enter(FollowerState.IDLE)
                # Of another leader epoch: the metadata will tell. Of ours: a statement was overtaken.
                return Turn(begin_later=answer.current_epoch <= self.leader_epoch)
            case UnknownLeaderEpoch():
                self._enter(FollowerState.IDLE)
                return Turn(begin_later=True)
            case Diverging():
                return self._diverging(answer, epochs)
            case Serving():
                return self._serving(answer)
        raise AssertionError(f"{answer} is no answer")

    def _serving(self, answer: Serving) -> Turn:
        if answer.from_offset != self.position.log_end:
            return self._stop(Trouble.CONTRADICTION)
        self._enter(FollowerState.FOLLOWING)
        self._may_cut_committed = False  # from here on our high watermark is of this leader's history
        return self._told(answer.high_watermark, answer.log_start)

    def _diverging(self, answer: Diverging, epochs: LeaderEpochs) -> Turn:
        """Rule 4: to where both had the greatest epoch that both know; then it is asked again."""
        position = self.position
        own = epochs.end_offset_for(answer.epoch, position.log_end)
        own_end = position.log_start if own is None else own[1]
        return self._cut(max(min(answer.end, own_end), position.log_start))

    def _out_of_range(self, answer: OutOfRange) -> Turn:
        """Rule 4: there was nothing to compare."""
        position = self.position
        if position.last_epoch is None and answer.starts_at != position.log_end:
            if self._loses_committed(answer.starts_at):
                # Others count on what this log says to have, which it will have again later: to be elected
                # meanwhile would give offsets out twice. So by rule 15's order.
                self._enter(FollowerState.LEAVING)
                self._empties_at = answer.starts_at
                return Turn(trouble=Trouble.BEGINS_ANEW)
            return self._empty(answer.starts_at)
        if answer.log_start > position.log_end:
            return self._empty(answer.starts_at)
        if answer.log_end >= position.log_end:
            self._enter(FollowerState.IDLE)
            return self._state()  # one of us has moved meanwhile
        if answer.log_end < position.log_start:
            if self._loses_committed(answer.log_end):
                return self._stop(Trouble.WOULD_LOSE_COMMITTED)
            return self._empty(answer.starts_at)
        return self._cut(answer.log_end)

    def pushed(self, push: Push, batches: Batches | None) -> Turn:
        """The leader's log goes on. The runtime has checked each batch; credit comes back for each push."""
        if self.state is not FollowerState.FOLLOWING or not self._is_current(push):
            return Turn()
        if batches is None:
            return self._told(push.high_watermark, push.log_start)
        position = self.position
        if push.from_offset != position.log_end or batches.base_offset < push.from_offset:
            self._enter(FollowerState.IDLE)
            return self._state()  # something in between is missing: it is pushed again in a new session
        if not (position.last_epoch or 0) <= batches.first_epoch <= batches.last_epoch <= self.leader_epoch:
            return self._stop(Trouble.CONTRADICTION)
        self._note(push.high_watermark, push.log_start)
        return Turn(append=True)

    def _is_current(self, said: Answer | Push) -> bool:
        return (said.leader_epoch, said.session) == (self.leader_epoch, self.session)

    # --- the log --------------------------------------------------------------------------------------

    def appended(self, position: Position) -> Turn:
        """What `append` asked for is in the log."""
        assert self.state is FollowerState.FOLLOWING, "only a session's batches are appended"
        assert position.log_end > self.position.log_end, "it grew"
        return self._moved(position)

    def synced(self, position: Position) -> Turn:
        """More of the log is durable. A sync that was begun before a cut says nothing (rule 41)."""
        if self.state is FollowerState.CUTTING:
            return Turn()
        assert position.durable_end >= self.position.durable_end, "what is durable stays so"
        return self._moved(position)

    def trimmed(self, position: Position) -> Turn:
        """The log start is adopted."""
        return self._moved(position)

    def cut(self, position: Position) -> Turn:
        """The log is shorter, or emptied, and that is durable. Followed by `begin` if there is a stream.

        Also when the log was cut without our asking, after a failed sync: `interrupted` came before.
        """
        assert self.state in (FollowerState.CUTTING, FollowerState.IDLE), "nothing else goes on meanwhile"
        self.position = position
        self.high_watermark = max(position.log_start, min(self.high_watermark, self._counted_end))
        if self.state is FollowerState.CUTTING:
            self._enter(FollowerState.IDLE)
        self._check()
        return Turn()

    def corrupt(self) -> Turn:
        """Our own log is damaged: nothing more is read from it or said of it (rule 15). It is emptied once
        the metadata says that the report was heard (`saw`).
        """
        self._enter(FollowerState.LEAVING)
        self._empties_at = None
        return Turn(trouble=Trouble.BAD_BYTES)

    # --- what follows ---------------------------------------------------------------------------------

    @property
    def _counted_end(self) -> int:
        return self.position.durable_end if self._waits_for_sync else self.position.log_end

    def _note(self, high_watermark: int, log_start: int) -> None:
        self._leaders_high_watermark = high_watermark
        self._leaders_log_start = max(self._leaders_log_start, log_start)

    def _told(self, high_watermark: int, log_start: int) -> Turn:
        self._note(high_watermark, log_start)
        return self._moved(self.position)

    def _moved(self, position: Position) -> Turn:
        """Rule 7; and the leader hears of what counts by now."""
        self.position = position
        if self._leaders_high_watermark is not None:
            known = min(self._leaders_high_watermark, self._counted_end)
            self.high_watermark = max(position.log_start, known)
        self._check()
        if self.state is not FollowerState.FOLLOWING:
            return Turn()
        # What is not durable cannot be trimmed: that waits for the sync.
        log_start = min(self._leaders_log_start, position.durable_end)
        return Turn(
            trim_to=log_start if log_start > position.log_start else None,
            acknowledge=self._acknowledgement(),
        )

    def _acknowledgement(self) -> Acknowledgement | None:
        log_start, log_end, durable_end, _ = self.position
        if self._counted_end <= self._acknowledged and log_start <= self._acknowledged_start:
            return None
        self._acknowledged, self._acknowledged_start = self._counted_end, log_start
        return Acknowledgement(self.leader_epoch, self.session, log_end, durable_end, log_start)

    def _cut(self, offset: int) -> Turn:
        if self._loses_committed(offset):
            return self._stop(Trouble.WOULD_LOSE_COMMITTED)
        if offset >= self.position.log_end:
            return self._stop(Trouble.CONTRADICTION)  # or we would ask the same again, for ever
        self._enter(FollowerState.CUTTING)
        return Turn(cut_to=offset)

    def _loses_committed(self, offset: int) -> bool:
        """Rule 5."""
        return offset < self.high_watermark and not self._may_cut_committed

    def _empty(self, offset: int) -> Turn:
        self._enter(FollowerState.CUTTING)
        return Turn(empty_at=offset)

    def _stop(self, trouble: Trouble) -> Turn:
        self._enter(FollowerState.STOPPED)
        return Turn(trouble=trouble)

    def _enter(self, state: FollowerState) -> None:
        assert state in _NEXT[self.state], f"a follower went from {self.state} to {state}: {self.position}"
        self.state = state

    def _check(self) -> None:
        start, end, durable, _ = self.position
        assert start <= durable <= end, "what is durable was appended, and not trimmed"
        assert start <= self.high_watermark <= self._counted_end, "the high watermark is of what counts"
