"""Stories of one leader or one follower, told as text: what happens to it, and what it does then.

A line that begins with `>` is an event, those that follow are all that the machine did. `leader_story` and
`follower_story` act the events out and return the text as it should read. Broker epochs are 10 + the id.
"""

from __future__ import annotations

from textwrap import dedent
from typing import Final

from millpond_broker.core.epochs import LeaderEpochs
from millpond_broker.core.follower import Follower, FollowerState, Turn
from millpond_broker.core.in_sync import AlterOutcome, Committed, Member, Standing, WantedIsr
from millpond_broker.core.leader import Acks, Leader, Reign, Step
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

LAG_MS_MAX: Final = 10_000


def ids(text: str) -> frozenset[int]:
    return frozenset(int(part) for part in text.split(",") if part)


def parse_epochs(text: str) -> LeaderEpochs:
    """`0:0,2:10`: epoch 0 from offset 0, epoch 2 from 10."""
    return LeaderEpochs(
        [(int(epoch), int(start)) for epoch, start in (p.split(":") for p in text.split(","))]
    )


def number(text: str) -> int | None:
    return None if text == "-" else int(text)


class _Story:
    """Events by their first word; the others are arguments, `name=value` by name."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def tell(self, text: str) -> str:
        for line in dedent(text).strip().splitlines():
            if not line.startswith(">"):
                continue
            self.said.append(line)
            word, *rest = line[1:].split()
            named = dict(part.split("=") for part in rest if "=" in part)
            getattr(self, f"do_{word}")(*(part for part in rest if "=" not in part), **named)
        return "\n".join(self.said)

    def say(self, line: str) -> None:
        self.said.append(f"    {line}")

    def answer(self, answer: Answer) -> None:
        match answer:
            case Serving():
                self.say(
                    f"serving from {answer.from_offset}, high watermark {answer.high_watermark},"
                    f" log start {answer.log_start}"
                )
            case Diverging():
                self.say(f"diverging: epoch {answer.epoch} ends at {answer.end}")
            case OutOfRange():
                self.say(f"out of range: {answer.log_start} to {answer.log_end}")
            case FencedLeaderEpoch():
                self.say(f"fenced: the epoch is {answer.current_epoch}")
            case UnknownLeaderEpoch():
                self.say(f"unknown: the epoch is {answer.current_epoch}")


class LeaderStory(_Story):
    leader: Leader[str]

    def do_lead(
        self,
        *,
        epoch: str = "1",
        isr: str,
        replicas: str = "1,2,3",
        min_insync: str = "2",
        log: str = "0",
        hw: str = "0",
        flush: str = "commit",
        epochs: str = "0:0",
    ) -> None:
        self.now_ms = 0
        self.log_start, self.log_end, self.durable_end = 0, int(log), int(log)
        self.epochs = parse_epochs(epochs)
        self.min_insync, self.replicas, self.isr, self.partition_epoch = (
            int(min_insync),
            ids(replicas),
            ids(isr),
            0,
        )
        self.brokers = {member: Standing(10 + member, may_join=True) for member in self.replicas}
        self.asked: WantedIsr | None = None
        self.waiting = 0
        self.leader = Leader(
            Reign(
                topic="t",
                partition=0,
                broker_id=1,
                broker_epoch=11,
                leader_epoch=int(epoch),
                waits_for_sync=flush == "commit",
                committed=self._committed(),
                replica_lag_ms_max=LAG_MS_MAX,
            ),
            log_start=0,
            log_end=self.log_end,
            durable_end=self.log_end,
            high_watermark=int(hw),
            now_ms=0,
        )

    def _committed(self) -> Committed:
        return Committed(self.partition_epoch, self.replicas, self.isr, self.min_insync, dict(self.brokers))

    def do_append(self, end: str) -> None:
        """And somebody waits for it with acks=all."""
        self.log_end = int(end)
        self._advance()
        assert not self.leader.wait(self.log_end, Acks.ALL, f"up to {end}")

    def do_sync(self) -> None:
        self.durable_end = self.log_end
        self._advance()

    def do_trim(self, start: str) -> None:
        self.log_start = int(start)
        self._advance()

    def do_await(self, start: str) -> None:
        """Somebody waits for all in sync to begin there."""
        if self.leader.wait_for_log_start(int(start), f"a log start of {start}"):
            self.say("they do")

    def _advance(self) -> None:
        self.step(self.leader.advance(self.log_start, self.log_end, self.durable_end, self.now_ms))

    def do_state(
        self,
        who: str,
        at: str,
        *,
        session: str = "1",
        last: str = "0",
        durable: str | None = None,
        epoch: str = "1",
        start: str | None = None,
    ) -> None:
        statement = Statement(
            follower=int(who),
            broker_epoch=int(start or 10 + int(who)),
            leader_epoch=int(epoch),
            session=int(session),
            fetch_offset=int(at),
            last_epoch=number(last),
            durable_end=int(durable or at),
        )
        answer, step = self.leader.stated(statement, self.epochs, self.now_ms)
        self.answer(answer)
        self.step(step)

    def do_ack(
        self,
        who: str,
        end: str,
        *,
        durable: str | None = None,
        session: str = "1",
        epoch: str = "1",
        start: str | None = None,
        log_start: str = "0",
        leaves: str = "no",
    ) -> None:
        said = Acknowledgement(
            int(epoch), int(session), int(end), int(durable or end), int(log_start), leaves=leaves == "yes"
        )
        sender = Member(int(who), int(start or 10 + int(who)))
        self.step(self.leader.acknowledged(sender, said, self.now_ms))

    def do_lose(self, who: str, *, session: str = "1") -> None:
        self.step(self.leader.lost(Member(int(who), 10 + int(who)), int(session), self.now_ms))

    def do_push(self, who: str) -> None:
        due = self.leader.due(int(who))
        if isinstance(due, Push):
            self.leader.pushed(int(who), due, self.log_end)
            self.say(f"push from {due.from_offset} to {self.log_end}, high watermark {due.high_watermark}")
        elif due is not None:
            self.answer(due)
        else:
            self.say("nothing")

    def do_commit(self, *, isr: str | None = None, min_insync: str | None = None, **states: str) -> None:
        """`b2=fenced`, `b2=13`: another standing of broker 2. A new ISR comes with a new partition epoch."""
        if isr is not None:
            self.isr, self.partition_epoch = ids(isr), self.partition_epoch + 1
        self.min_insync = int(min_insync or self.min_insync)
        for name, state in states.items():
            member = int(name[1:])
            epoch = int(state) if state.isdigit() else self.brokers[member].broker_epoch
            self.brokers[member] = Standing(epoch, may_join=state != "fenced")
        self.step(self.leader.commit(self._committed(), self.now_ms))

    def do_altered(self, outcome: str) -> None:
        assert self.asked is not None, "something was asked for"
        self.step(self.leader.altered(self.asked, AlterOutcome(outcome), self.now_ms))

    def do_tick(self, ms: str) -> None:
        self.now_ms += int(ms)
        self.step(self.leader.tick(self.now_ms))

    def step(self, step: Step[str]) -> None:
        if step.high_watermark_moved:
            self.say(f"high watermark {self.leader.high_watermark}")
        for what in step.committed:
            self.say(f"committed {what}")
        for what in step.too_few:
            self.say(f"too few in sync for {what}")
        if step.wanted is not None:
            self.asked = step.wanted
            isr = ",".join(str(member.broker_id) for member in step.wanted.isr)
            unseated = f", without a seat {step.wanted.unseated}" if step.wanted.unseated else ""
            self.say(f"asks for ISR {isr} on {step.wanted.partition_epoch}{unseated}")
        if push_to := sorted(step.push_to + self.leader.owe(self.leader.high_watermark)):
            self.say(f"something for {','.join(map(str, push_to))}")


class FollowerStory(_Story):
    follower: Follower

    def do_follow(
        self,
        log: str,
        *,
        epoch: str = "2",
        last: str = "0",
        epochs: str = "0:0",
        hw: str = "0",
        start: str = "0",
        durable: str | None = None,
        flush: str = "commit",
        recovering: str = "no",
    ) -> None:
        self.epochs = parse_epochs(epochs)
        self.position = Position(int(start), int(log), int(durable or log), number(last))
        self.follower = Follower(
            Member(2, 12),
            int(epoch),
            self.position,
            int(hw),
            waits_for_sync=flush == "commit",
            may_cut_committed=recovering == "yes",
        )

    def do_begin(self) -> None:
        self.turn(self.follower.begin())

    def do_lose(self) -> None:
        self.turn(self.follower.interrupted())

    def do_withdraw(self) -> None:
        self.turn(self.follower.withdraw())

    def do_serve(
        self, at: str, *, hw: str = "0", start: str = "0", session: str = "1", epoch: str = "2"
    ) -> None:
        self._answered(Serving(int(epoch), int(session), int(at), int(hw), int(start)))

    def do_diverge(self, epoch: str, end: str, *, session: str = "1") -> None:
        self._answered(Diverging(self.follower.leader_epoch, int(session), int(epoch), int(end)))

    def do_range(self, start: str, end: str, *, session: str = "1") -> None:
        self._answered(OutOfRange(self.follower.leader_epoch, int(session), int(start), int(end), int(start)))

    def do_fence(self, current: str, *, session: str = "1") -> None:
        self._answered(FencedLeaderEpoch(self.follower.leader_epoch, int(session), int(current)))

    def do_unknown(self, current: str, *, session: str = "1") -> None:
        self._answered(UnknownLeaderEpoch(self.follower.leader_epoch, int(session), int(current)))

    def _answered(self, answer: Answer) -> None:
        self.turn(self.follower.answered(answer, self.epochs))

    def do_push(
        self,
        at: str,
        end: str,
        *,
        hw: str = "0",
        start: str = "0",
        session: str = "1",
        epoch: str = "2",
        base: str | None = None,
        last: str = "2",
    ) -> None:
        batches = None
        if end != at:
            batches = Batches(int(base or at), int(end), int(last), int(last))
        push = Push(int(epoch), int(session), int(at), int(hw), int(start))
        turn = self.follower.pushed(push, batches)
        self.turn(turn)
        if turn.append and batches is not None:
            self.position = self.position._replace(log_end=batches.next_offset, last_epoch=batches.last_epoch)
            self.turn(self.follower.appended(self.position))

    def do_sync(self) -> None:
        self.position = self.position._replace(durable_end=self.position.log_end)
        self.turn(self.follower.synced(self.position))

    def do_cut(self, end: str, *, last: str = "0", start: str | None = None) -> None:
        log_start = int(start or self.position.log_start)
        durable_end = max(log_start, min(self.position.durable_end, int(end)))
        self.position = Position(log_start, int(end), durable_end, number(last))
        self.turn(self.follower.cut(self.position))

    def do_corrupt(self) -> None:
        self.turn(self.follower.corrupt())

    def do_see(self, partition_epoch: str, floor: str = "0", member: str = "yes") -> None:
        self.turn(self.follower.saw(int(partition_epoch), int(floor), is_member=member == "yes"))

    def turn(self, turn: Turn) -> None:
        if turn.append:
            self.say("appends")
        if turn.cut_to is not None:
            self.say(f"cuts to {turn.cut_to}")
        if turn.empty_at is not None:
            self.say(f"starts over at {turn.empty_at}")
        if turn.trim_to is not None:
            self.say(f"trims to {turn.trim_to}")
            self.position = self.position._replace(log_start=turn.trim_to)
            self.turn(self.follower.trimmed(self.position))
        if (said := turn.state) is not None:
            where = f"at {said.fetch_offset} after epoch {said.last_epoch}, durable {said.durable_end}"
            self.say(f"states {where}, session {said.session}")
        if (ack := turn.acknowledge) is not None:
            more = f", start {ack.log_start}" * (ack.log_start > 0) + ", leaves" * ack.leaves
            self.say(f"acknowledges {ack.log_end}, durable {ack.durable_end}, session {ack.session}{more}")
        if turn.begin_later:
            self.say("begins later")
        if turn.trouble is not None:
            self.say(turn.trouble.value)
        if self.follower.state in (FollowerState.STOPPED, FollowerState.LEAVING):
            self.say(f"is {self.follower.state.value}")

    def do_look(self) -> None:
        self.say(f"high watermark {self.follower.high_watermark}, {self.follower.state.value}")


def leader_story(text: str) -> None:
    """Assert that a leader does what the text says."""
    assert LeaderStory().tell(text) == dedent(text).strip()


def follower_story(text: str) -> None:
    """Assert that a follower does what the text says."""
    assert FollowerStory().tell(text) == dedent(text).strip()
