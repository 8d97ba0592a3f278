"""The leader of one partition in one epoch: where the high watermark moves, and who may be answered then.

A machine of offsets: it is told how far its own log reaches and what of it is durable, what its followers
state and acknowledge, and what the metadata says; each event returns one `Step` with what is due. It never
sees a record. End offsets are exclusive.

    log_start <= high_watermark <= durable_end with flush=commit, <= log_end with flush=interval
    the high watermark never moves back within an epoch (rule 6)
    whoever may be in the controller's ISR has what lies below it, but for who went back and is to leave
    a waiter is settled once: by reaching its end, by too small an ISR, or by the end of the epoch (rule 8)

`in_sync` has the ISR, `followers` the sessions, `replication` what is said in them.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final, Generic, NamedTuple, TypeVar

from millpond.wire.errors import NotEnoughReplicas, NotEnoughReplicasAfterAppend
from millpond_broker.core.commands import InSyncMember
from millpond_broker.core.epochs import LeaderEpochs
from millpond_broker.core.followers import AppendTimes, Ends, Follower, Followers
from millpond_broker.core.in_sync import AlterOutcome, Committed, InSync, Member, WantedIsr
from millpond_broker.core.replication import Acknowledgement, Answer, OutOfRange, Push, Statement
from millpond_broker.core.waiters import Waiters

W = TypeVar("W")

REPLICA_LAG_MS_MAX: Final = 10_000
"""A member of the ISR that lacks a record for longer is out of sync (rule 9): long enough for a disk that
stalls, and less than half of a producer's delivery deadline."""


class Acks(enum.Enum):
    """What a producer waits for (rule 8)."""

    NONE = "none"
    LEADER = "leader"
    """Written by the leader: synced there with flush=commit."""
    ALL = "all"
    """Below the high watermark."""


@dataclass(frozen=True, kw_only=True)
class Reign:
    """What one leadership is bound to (rule 12)."""

    topic: str
    partition: int
    broker_id: int
    broker_epoch: int
    leader_epoch: int
    waits_for_sync: bool
    """flush=commit: what a replica counts as its own is what was synced."""
    committed: Committed
    """The metadata that it began with."""
    replica_lag_ms_max: int = REPLICA_LAG_MS_MAX


class Step(NamedTuple, Generic[W]):
    """What is due after an event. Waiters in offset order."""

    high_watermark_moved: bool
    written: list[W]
    """Of acks=leader. Rule 39 asks for the lease as they are answered."""
    committed: list[W]
    """Of acks=all; and who waited for a log start."""
    too_few: list[W]
    """Of acks=all, and the ISR is too small now: `Leader.too_few` is what to tell them (rule 8)."""
    wanted: WantedIsr | None
    """To ask the controller for; `Leader.altered` hears what it said."""
    push_to: list[int]
    """Followers that `Leader.due` has something for, and had nothing when it was last asked."""


class Leader(Generic[W]):
    """The leader of a partition. `now_ms` is everywhere a clock that only goes forward."""

    def __init__(
        self,
        reign: Reign,
        *,
        log_start: int,
        log_end: int,
        durable_end: int,
        high_watermark: int,
        now_ms: int,
        first_offset: int | None = None,
    ) -> None:
        """`high_watermark`: what this replica knew of it as a follower, or from its checkpoint.
        `first_offset`: where the batches begin that are there; None: at the log start.
        """
        self.reign = reign
        me = Member(reign.broker_id, reign.broker_epoch)
        self.in_sync = InSync(me, reign.leader_epoch, reign.committed)
        # The log end when this epoch began: the high watermark says nothing before it is there (rule 1).
        self.epoch_start: Final = log_end
        first_offset = log_start if first_offset is None else first_offset
        own_end = self._own_end(log_end, durable_end)
        self._ends = Ends(first_offset, log_start, log_end, own_end, high_watermark)
        self._followers = Followers(reign.leader_epoch, waits_for_sync=reign.waits_for_sync, ends=self._ends)
        self._append_times = AppendTimes(reign.replica_lag_ms_max, now_ms)
        self._for_own_end: Waiters[W] = Waiters()
        self._for_high_watermark: Waiters[W] = Waiters()
        # Log starts that all in sync are to have, by who waits for that: as many as trim it at once.
        self._for_log_start: dict[W, int] = {}
        self._ends.check()
        self._seat()
        self._step(now_ms)

    @property
    def high_watermark(self) -> int:
        """Consumers read below it. Moved by `_step` alone; never back within the epoch."""
        return self._ends.high_watermark

    @property
    def answers_offsets(self) -> bool:
        """Whether the high watermark has reached this epoch's start, so that it can be told (rule 7)."""
        return self.high_watermark >= self.epoch_start

    @property
    def is_quiet(self) -> bool:
        """Whether time would change nothing: nobody in sync lags, nobody is to join, nothing is asked for."""
        if self.in_sync.is_asking:
            return False
        isr, log_end = self.in_sync.committed.isr, self._ends.log_end
        return not any(
            follower.is_joining or (follower.broker_id in isr and follower.end < log_end)
            for follower in self._followers
        )

    # --- producers ------------------------------------------------------------------------------------

    def check_in_sync(self, *, has_lease: bool = True) -> None:
        """Before an append that is to be acknowledged by all (rule 8). Without the lease only those count
        that are known to be there (rule 39). Raises NotEnoughReplicas.
        """
        committed = self.in_sync.committed
        in_sync = len(committed.isr)
        if not has_lease:
            in_sync = 1 + sum(
                follower.has_session and follower.broker_id in committed.isr for follower in self._followers
            )
        if in_sync < committed.min_insync:
            raise NotEnoughReplicas(
                topic=self.reign.topic,
                partition=self.reign.partition,
                in_sync=in_sync,
                needed=committed.min_insync,
            )

    def wait(self, next_offset: int, acks: Acks, token: W) -> bool:
        """Whether the answer may go out now; if not, a later step or `retire` returns the token."""
        assert acks is not Acks.NONE, "nobody waits for nothing"
        reached, waiters = (
            (self.high_watermark, self._for_high_watermark)
            if acks is Acks.ALL
            else (self._ends.own_end, self._for_own_end)
        )
        if next_offset <= reached:
            return True
        waiters.add(next_offset, token)
        return False

    def wait_for_log_start(self, log_start: int, token: W) -> bool:
        """Whether all in sync begin there, or later: whoever leads next does not bring back what was deleted
        (rule 7). If not, a later step's `committed` or `retire` returns the token, unless it is forgotten.
        """
        if self._least_log_start() >= log_start:
            return True
        self._for_log_start[token] = log_start
        return False

    def forget(self, token: W) -> None:
        """It does not wait for a log start any more."""
        self._for_log_start.pop(token, None)

    def _least_log_start(self) -> int:
        maximal, start = self.in_sync.maximal, self._ends.log_start
        # Who is about to join counts as it does for the high watermark (rule 6).
        counting = [f.log_start for f in self._followers if f.is_joining or f.broker_id in maximal]
        return min([start, *counting])

    def _at_log_start(self) -> list[W]:
        least = self._least_log_start()
        reached = [token for token, log_start in self._for_log_start.items() if log_start <= least]
        for token in reached:
            del self._for_log_start[token]
        return reached

    @property
    def too_few(self) -> NotEnoughReplicasAfterAppend:
        """What those are told whose batch is in the log while the ISR became too small (rule 8)."""
        return NotEnoughReplicasAfterAppend(
            topic=self.reign.topic,
            partition=self.reign.partition,
            in_sync=len(self.in_sync.maximal),
            needed=self.in_sync.committed.min_insync,
        )

    def retire(self) -> list[W]:
        """The epoch is over for this replica: whoever still waits will never know from here (rule 8)."""
        trimming, self._for_log_start = list(self._for_log_start), {}
        return self._for_own_end.clear() + self._for_high_watermark.clear() + trimming

    # --- the log, the metadata, time ------------------------------------------------------------------

    def advance(
        self,
        log_start: int,
        log_end: int,
        durable_end: int,
        now_ms: int,
        *,
        first_offset: int | None = None,
    ) -> Step[W]:
        """The log was appended to, synced or trimmed. `first_offset` as at the start."""
        ends, own_end = self._ends, self._own_end(log_end, durable_end)
        assert log_start >= ends.log_start, "a log start does not go back"
        assert log_end >= ends.log_end, "a leader loses no bytes within its epoch (rule 12)"
        assert own_end >= ends.own_end, "nor what it counted"
        if log_end > ends.log_end:
            self._append_times.appended(ends.log_end, now_ms)
        ends.first_offset = log_start if first_offset is None else first_offset
        ends.log_start, ends.log_end, ends.own_end = log_start, log_end, own_end
        return self._step(now_ms)

    def commit(self, committed: Committed, now_ms: int) -> Step[W]:
        """The metadata shows this now, and still this leadership."""
        self.in_sync.commit(committed)
        self._seat()
        return self._step(now_ms)

    def altered(self, wanted: WantedIsr, outcome: AlterOutcome, now_ms: int) -> Step[W]:
        """What became of a change of the ISR that a step had wanted (rule 11)."""
        return self._step(now_ms, self.in_sync.answered(wanted, outcome, now_ms))

    def tick(self, now_ms: int) -> Step[W]:
        """Time went on: who lags is out of sync, what has no answer is asked again. A few times a second."""
        return self._step(now_ms, self.in_sync.tick(now_ms), is_tick=True)

    def _lags(self, follower: Follower, now_ms: int) -> bool:
        """Rule 9."""
        if follower.end >= self._ends.log_end:
            return False  # an idle partition asks nothing of anybody
        return now_ms - self._append_times.at_ms(follower.end) > self.reign.replica_lag_ms_max

    def _own_end(self, log_end: int, durable_end: int) -> int:
        return durable_end if self.reign.waits_for_sync else log_end

    def _seat(self) -> None:
        self._followers.seat(self.in_sync.committed.replicas - {self.reign.broker_id})

    # --- followers ------------------------------------------------------------------------------------

    def stated(self, statement: Statement, epochs: LeaderEpochs, now_ms: int) -> tuple[Answer, Step[W]]:
        """A follower says where it is; the answer goes out before any push. `epochs`: of the leader's log."""
        standing = self.in_sync.committed.brokers.get(statement.follower)
        registered_epoch = -1 if standing is None else standing.broker_epoch
        answer = self._followers.stated(statement, epochs, registered_epoch)
        return answer, self._step(now_ms)

    def acknowledged(self, sender: Member, acknowledgement: Acknowledgement, now_ms: int) -> Step[W]:
        """A follower has more. Not of its current session in this epoch: nothing (rule 37)."""
        self._followers.acknowledged(sender, acknowledgement)
        return self._step(now_ms)

    def lost(self, sender: Member, session: int, now_ms: int) -> Step[W]:
        """The stream that the session was on is gone."""
        self._followers.lost(sender, session)
        return self._step(now_ms)

    def due(self, broker_id: int) -> Push | OutOfRange | None:
        """What to push to a follower next, with batches of the log from `from_offset` on, if anything.

        OutOfRange is to be told as an answer: the log begins later by now, and the session is over.
        """
        return self._followers.due(broker_id)

    def owe(self, high_watermark: int) -> list[int]:
        """It has been the high watermark for a while: followers that no push has told it yet are to be told
        (rule 7: theirs only lags). They, as `Step.push_to`.
        """
        return self._followers.owe(high_watermark)

    def pushed(self, broker_id: int, push: Push, next_offset: int) -> None:
        """The push is on its way, with batches up to `next_offset`. Ask `due` whether there is more."""
        self._followers.pushed(broker_id, push, next_offset)

    # --- what follows ---------------------------------------------------------------------------------

    def _step(self, now_ms: int, asked: WantedIsr | None = None, *, is_tick: bool = False) -> Step[W]:
        """What follows from an event. `asked`: what the controller is asked in any case."""
        ends, before = self._ends, self._ends.high_watermark
        isr, wanted = self.in_sync.committed.isr, asked
        moving = [
            follower
            for follower in self._followers
            if follower.is_joining
            or follower.went_back
            or follower.is_leaving
            or follower.broker_id not in isr
        ]
        for follower in moving:
            self._review(follower, now_ms)
        # Who joins counts at once (rule 10), so the ISR comes before the high watermark. In most steps nobody
        # is to join or to leave; who lags is looked for in a tick.
        if wanted is None and (moving or is_tick):
            wanted = self._wanted(now_ms, is_tick=is_tick)
        if self.in_sync.has_enough:
            ends.high_watermark = max(before, self._committed_end())
        ends.check()
        committed = self._for_high_watermark.reached(ends.high_watermark)
        if self._for_log_start:
            committed += self._at_log_start()
        return Step(
            ends.high_watermark > before,
            self._for_own_end.reached(ends.own_end),
            committed,
            self._given_up(),
            wanted,
            self._followers.newly_due(),
        )

    def _review(self, follower: Follower, now_ms: int) -> None:
        """Whether it may join the ISR (rule 10). Who may is waited for, so that it does not fall behind while
        another change is under way; but not for longer than a member, or one that was removed because it
        lags would be back at once, holding the high watermark where itself had held it.
        """
        broker_id = follower.broker_id
        follower.went_back &= broker_id in self.in_sync.maximal
        follower.is_joining = (
            follower.has_session
            and broker_id not in self.in_sync.committed.isr
            and self.in_sync.is_eligible(broker_id, follower.broker_epoch)
            and (follower.is_joining or self._has_caught_up(follower))
            and not self._lags(follower, now_ms)
        )

    def _has_caught_up(self, follower: Follower) -> bool:
        """Also with what was deleted (rule 7): elected, it would bring that back."""
        return (
            follower.end >= max(self.high_watermark, self.epoch_start)
            and follower.log_start >= self._ends.log_start
        )

    def _wanted(self, now_ms: int, *, is_tick: bool) -> WantedIsr | None:
        if self.in_sync.is_asking:
            return None
        joining, leaving, unseated = [], set(), set()
        for follower in self._followers:
            broker_id = follower.broker_id
            if follower.is_joining:
                joining.append(InSyncMember(broker_id, follower.broker_epoch, follower.stated_in))
            elif broker_id in self.in_sync.committed.isr:
                if follower.went_back:
                    unseated.add(broker_id)
                if follower.went_back or follower.is_leaving or (is_tick and self._lags(follower, now_ms)):
                    leaving.add(broker_id)
        return self.in_sync.want(joining, leaving, unseated, now_ms)

    def _committed_end(self) -> int:
        """Rule 6: the least end of whoever is in the ISR, may be by now, or is about to be."""
        end, maximal = self._ends.own_end, self.in_sync.maximal
        for follower in self._followers:
            if follower.end < end and (follower.is_joining or follower.broker_id in maximal):
                end = follower.end
        return end

    def _given_up(self) -> list[W]:
        if len(self.in_sync.maximal) >= self.in_sync.committed.min_insync:
            return []
        return self._for_high_watermark.clear()
