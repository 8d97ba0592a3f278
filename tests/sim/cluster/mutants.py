"""Planted bugs: production code with one thing wrong, which a run has to notice, by the name of what broke.

A row of `MUTANTS` says what is replaced by what, with which faults it is looked for, and the seed that found
it; the same seed is clean without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

from millpond._core import fetcher, lane, pending_batch
from millpond_broker.core import (
    follower,
    followers,
    in_sync,
    leader,
    partition_changes,
    producers,
)
from millpond_broker.core.replication import Acknowledgement, Serving
from millpond_broker.runtime import heartbeats, partition, partitions
from millpond_broker.storage import group_commit
from tests.sim.cluster.nemesis import Mix
from tests.sim.cluster.run import Plan, Report, run

FAULTS: Final = ("kill", "power", "isolate leader", "pause", "break", "power all")


@dataclass(frozen=True)
class Mutant:
    """See the module. `anomalies`: by which of them it may be noticed."""

    name: str
    owner: Any
    attribute: str
    replacement: Any
    anomalies: tuple[str, ...]
    found_by: int
    kinds: tuple[str, ...] = FAULTS
    every_seconds: float = 0.7
    seconds: float = 12.0
    clients: str = "models"
    """Or "sdk", where it is the SDK that something is wrong with, or that finds it."""

    def run(self, seed: int, *, sound: bool = False) -> Report:
        """One seed of it; `sound`: of the code as it is."""
        mix = Mix(self.kinds, self.every_seconds)
        plan = Plan(seed, seconds=self.seconds, mix=mix, clients=self.clients)
        if sound:
            return run(plan)
        with self._planted():
            return run(plan)

    @contextmanager
    def _planted(self) -> Iterator[None]:
        sound = self.owner.__dict__[self.attribute]
        setattr(self.owner, self.attribute, self.replacement)
        try:
            yield
        finally:
            setattr(self.owner, self.attribute, sound)


def _own_end(self: Any) -> int:
    return int(self._ends.own_end)


def _acknowledges_unsynced(self: Any) -> Acknowledgement | None:
    if self.position.log_end <= self._acknowledged:
        return None
    self._acknowledged = self.position.log_end
    return Acknowledgement(self.leader_epoch, self.session, self.position.log_end, self.position.log_end)


def _serves_whatever(self: Any, statement: Any, epochs: Any, registered_epoch: int) -> Any:
    answer = _answer(self, statement, epochs, registered_epoch)
    if type(answer).__name__ != "Diverging" or statement.fetch_offset > self._ends.log_end:
        return answer
    ends = self._ends
    return Serving(
        statement.leader_epoch,
        statement.session,
        statement.fetch_offset,
        ends.high_watermark,
        ends.log_start,
    )


_answer: Final[Callable[..., Any]] = followers.Followers._answer


def _shrinks_at_once(self: Any, joining: Any, leaving: Any, unseated: Any, now_ms: int) -> Any:
    wanted = _want(self, joining, leaving, unseated, now_ms)
    if wanted is not None:
        self.maximal -= set(leaving)
    return wanted


_want: Final[Callable[..., Any]] = in_sync.InSync.want


def _steps_down_with_thanks(self: Any, error: Any) -> None:
    if self.leader is not None:
        for answer in self.leader.retire():
            answer.settle(None)
    _step_down(self, error)


_step_down: Final[Callable[..., None]] = partition.Partition._step_down


def _reads_everything(self: Any, offset: int, bytes_max: int) -> Any:
    log, _ = self.leading()
    return log.read(offset, bytes_max, log.log_end)


def _joins_whatever_it_has(self: Any, follower: Any, now_ms: int) -> None:
    _review(self, follower, now_ms)
    in_isr = follower.broker_id in self.in_sync.committed.isr
    is_eligible = self.in_sync.is_eligible(follower.broker_id, follower.broker_epoch)
    follower.is_joining = follower.has_session and not in_isr and is_eligible


_review: Final[Callable[..., None]] = leader.Leader._review


def _eligible_for_ever(old: Any, isr: Any, _min_insync: int, unseated: Any = ()) -> Any:
    left = (member for member in old.replicas if member not in isr and member not in unseated)
    return tuple(member for member in left if member in old.isr or member in old.elr)


def _empties_at_once(self: Any) -> Any:
    self.state = follower.FollowerState.CUTTING
    return follower.Turn(empty_at=self.position.log_start)


async def _recovers_in_silence(self: Any) -> Any:
    return replace(await _recover(self), cuts=())


_recover: Final[Callable[..., Any]] = partitions.Partitions.recover


def _cuts_to_its_high_watermark(self: Any) -> Any:
    if self.session == 0 and self.state is follower.FollowerState.IDLE:
        self.session = 1
        if self.position.log_end > self.high_watermark:
            self.state = follower.FollowerState.CUTTING
            return follower.Turn(cut_to=self.high_watermark)
    return _begin(self)


_begin: Final[Callable[..., Any]] = follower.Follower.begin


def _begins_earlier_at_once(self: Any, answer: Any) -> Any:
    if self.position.last_epoch is None and answer.starts_at != self.position.log_end:
        return self._empty(answer.starts_at)
    return _out_of_range(self, answer)


_out_of_range: Final[Callable[..., Any]] = follower.Follower._out_of_range


def _sends_under_another_sequence(self: Any, batch: Any) -> None:
    batch.state = pending_batch.BatchState.AGAIN
    self._advance()


def _seeks_over_what_is_read_ahead(self: Any, key: Any, offset: int, *, floating: bool) -> None:
    generation = self.cursors[key].generation
    _seek(self, key, offset, floating=floating)
    self.cursors[key].generation = generation


_seek: Final[Callable[..., None]] = fetcher.Fetcher.seek


MUTANTS: Final = (
    Mutant(
        "the leader alone moves the high watermark",
        leader.Leader,
        "_committed_end",
        _own_end,
        ("isr-reaches-hw", "leader-completeness"),
        found_by=0,
    ),
    Mutant(
        "a follower acknowledges what it has not synced",
        follower.Follower,
        "_acknowledgement",
        _acknowledges_unsynced,
        ("isr-reaches-hw", "leader-completeness"),
        found_by=0,
    ),
    Mutant(
        "a leader serves followers whose logs diverge",
        followers.Followers,
        "_answer",
        _serves_whatever,
        ("log-matching", "leader-completeness", "exception"),
        found_by=8,
    ),
    Mutant(
        "the high watermark moves below the minimum ISR",
        in_sync.InSync,
        "has_enough",
        property(lambda _self: True),
        ("isr-reaches-hw", "leader-completeness", "maximal-isr"),
        found_by=2,
    ),
    Mutant(
        "who leaves the ISR counts no more before the controller said so",
        in_sync.InSync,
        "want",
        _shrinks_at_once,
        ("maximal-isr", "isr-reaches-hw"),
        found_by=0,
        kinds=("stall", "controller change"),
        every_seconds=3.0,
        seconds=25.0,
    ),
    Mutant(
        "whoever waits is acknowledged as a leadership ends",
        partition.Partition,
        "_step_down",
        _steps_down_with_thanks,
        ("acknowledged",),
        found_by=7,
    ),
    Mutant(
        "retries are not recognised",
        producers.Producers,
        "check",
        lambda _self, _header: None,
        ("duplicate",),
        found_by=2,
    ),
    Mutant(
        "readers see beyond the high watermark",
        partition.Partition,
        "read",
        _reads_everything,
        ("nonmonotonic-hw",),
        found_by=0,
    ),
    Mutant(
        "a lease never ends",
        heartbeats.Lease,
        "holds",
        lambda _self: True,
        ("stale-leader",),
        found_by=5,
        kinds=("pause",),
    ),
    Mutant(
        "a sync is said to be done that was not",
        group_commit,
        "_sync_one",
        lambda _part: None,
        ("isr-reaches-hw", "leader-completeness", "lost-write", "unseen"),
        found_by=10,
    ),
    Mutant(
        "who has not caught up joins the ISR (rule 10)",
        leader.Leader,
        "_review",
        _joins_whatever_it_has,
        ("isr-reaches-hw", "leader-completeness"),
        found_by=4,
    ),
    Mutant(
        "who left the ISR stays eligible for ever (rule 13)",
        partition_changes,
        "_eligible",
        _eligible_for_ever,
        ("isr-reaches-hw", "leader-completeness", "maximal-isr"),
        found_by=3,
    ),
    Mutant(
        "a damaged replica gives up its bytes before its seat (rule 15)",
        follower.Follower,
        "corrupt",
        _empties_at_once,
        ("isr-reaches-hw", "leader-completeness"),
        found_by=0,
        kinds=("flip", "kill", "stop"),
        every_seconds=0.4,
    ),
    Mutant(
        "nobody is told what a start had to cut (rule 15)",
        partitions.Partitions,
        "recover",
        _recovers_in_silence,
        ("isr-reaches-hw", "leader-completeness"),
        found_by=0,
        kinds=("truncate", "power"),
        every_seconds=0.4,
    ),
    Mutant(
        "a follower cuts to its high watermark (rule 5)",
        follower.Follower,
        "begin",
        _cuts_to_its_high_watermark,
        ("isr-reaches-hw", "leader-completeness"),
        found_by=0,
    ),
    Mutant(
        "a log that was trimmed to its end begins earlier at once (rules 4 and 15)",
        follower.Follower,
        "_out_of_range",
        _begins_earlier_at_once,
        ("isr-reaches-hw", "leader-completeness"),
        found_by=15,
        kinds=("stall", "trim", "elect", "reassign", "delay"),
        every_seconds=0.3,
        clients="sdk",
    ),
    Mutant(
        "what may have been written is sent under another sequence (rule 19)",
        lane.Lane,
        "unanswered",
        _sends_under_another_sequence,
        ("duplicate",),
        found_by=4,
        clients="sdk",
    ),
    Mutant(
        "what was read ahead before a seek is handed out after it",
        fetcher.Fetcher,
        "seek",
        _seeks_over_what_is_read_ahead,
        ("poll-skip", "nonmonotonic-poll"),
        found_by=3,
        clients="sdk",
    ),
)
