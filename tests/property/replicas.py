"""One partition's replicas in a small world: real machines, and plain models of everything else.

Disks lose what was not synced; streams break with an unknown prefix delivered, and old ones still deliver;
the controller compares partition epochs, and its answers get lost; brokers crash, start, hang behind with
the metadata, are fenced without reason. `World.step` does one thing by chance, and judges (PROOF, section 3).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from random import Random
from typing import Final

from millpond.wire.errors import NotEnoughReplicas
from millpond_broker.core.follower import Follower, FollowerState, Trouble, Turn
from millpond_broker.core.in_sync import AlterOutcome, Committed
from millpond_broker.core.leader import Acks, Leader, Reign, Step
from millpond_broker.core.replication import (
    Acknowledgement,
    Batches,
    Push,
    Statement,
)
from tests.property.replica_judge import Judge, Violation
from tests.property.replica_models import (
    TROUBLE,
    WORK,
    Batch,
    Broker,
    Call,
    Controller,
    Disk,
    Image,
    Plan,
    Stream,
    disturb,
)

LAG_MS_MAX: Final = 1000
_STEPS_PER_BROKER: Final = 200


class World:
    """See the module."""

    def __init__(self, random: Random, plan: Plan) -> None:
        self.random = random
        self.plan = plan
        self.now_ms = 0
        self.story: list[str] = []
        ids = range(1, plan.brokers + 1)
        self.brokers = {broker_id: Broker(broker_id, Disk(), epoch=broker_id) for broker_id in ids}
        self.controller = Controller(random, plan.brokers, plan.min_insync, self.tell)
        self.streams: list[Stream] = []
        self.calls: list[Call] = []
        self.values = 0
        self.judge = Judge(waits_for_sync=plan.waits_for_sync)
        self.waiting: set[Batch] = set()
        self.acknowledged = 0
        for broker in self.brokers.values():
            self._follow(broker, self.image)

    @property
    def image(self) -> Image:
        return self.controller.image

    def _judge(self) -> None:
        self.judge.judge(self.image, self.brokers.values())

    def tell(self, line: str) -> None:
        self.story.append(line)

    # --- by chance ------------------------------------------------------------------------------------

    def step(self) -> None:
        """One thing that may happen."""
        kinds = TROUBLE if self.random.random() < self.plan.trouble else WORK
        getattr(self, self.random.choice(kinds))()
        self._judge()

    def _some(self, of: Callable[[Broker], bool]) -> Broker | None:
        found = [broker for broker in self.brokers.values() if of(broker)]
        return self.random.choice(found) if found else None

    def produce(self) -> None:
        broker = self._some(lambda broker: broker.leader is not None)
        if broker is None or broker.leader is None:
            return
        with suppress(NotEnoughReplicas):
            broker.leader.check_in_sync()
            self.values += 1
            base, disk = broker.disk.log_end, broker.disk
            batch = Batch(
                base, base + self.random.randint(1, 3), broker.leader.reign.leader_epoch, self.values
            )
            disk.append(batch)
            self.tell(f"{broker.broker_id} appends {batch}")
            if broker.leader.wait(batch.next_offset, Acks.ALL, batch):
                raise Violation("answered before anything was synced")
            self.waiting.add(batch)
            self._advance(broker)

    def sync(self) -> None:
        broker = self._some(lambda broker: broker.is_up and broker.disk.durable_end < broker.disk.log_end)
        if broker is None or broker.cut is not None:
            return
        disk = broker.disk
        ends = [batch.next_offset for batch in disk.batches if batch.next_offset > disk.durable_end]
        disk.durable_end = self.random.choice([*ends, disk.log_end])
        self.tell(f"{broker.broker_id} synced up to {disk.durable_end}")
        self._advance(broker)

    def fail_sync(self) -> None:
        """Rule 40: cut to what was confirmed, in process."""
        broker = self._some(lambda broker: broker.follower is not None and broker.cut is None)
        if broker is None or broker.follower is None or not self.plan.waits_for_sync:
            return
        if broker.follower.state in (FollowerState.LEAVING, FollowerState.STOPPED):
            return
        self.tell(f"{broker.broker_id} cuts what was not synced")
        broker.follower.interrupted()
        broker.disk.cut(broker.disk.durable_end)
        broker.follower.cut(broker.disk.position)

    def trim(self) -> None:
        broker = self._some(lambda broker: broker.leader is not None)
        if broker is None or broker.leader is None:
            return
        disk = broker.disk
        below = min(broker.leader.high_watermark, disk.durable_end)
        starts = [batch.next_offset for batch in disk.batches if batch.next_offset <= below]
        if starts:
            disk.trim(self.random.choice(starts), drops_all=self.random.random() < 0.3)
            self.tell(f"{broker.broker_id} trims to {disk.log_start}")
            self._advance(broker)

    def pass_time(self) -> None:
        self.now_ms += self.random.choice([1, 10, 100, 100, 600, 1500])
        for broker in self.brokers.values():
            if broker.leader is not None:
                self._step(broker, broker.leader.tick(self.now_ms))

    # --- metadata -------------------------------------------------------------------------------------

    def see(self) -> None:
        broker = self._some(lambda broker: broker.is_up and broker.seen < len(self.controller.images) - 1)
        if broker is not None:
            self._see(broker, self.random.choice([broker.seen + 1, len(self.controller.images) - 1]))

    def _see(self, broker: Broker, number: int) -> None:
        broker.seen = number
        image = self.controller.images[number]
        if image.brokers[broker.broker_id].broker_epoch != broker.epoch:
            return  # rule 12
        if broker.leader is not None:
            same = broker.leader.reign.leader_epoch == image.leader_epoch
            if same and image.leader == broker.broker_id:
                self._step(broker, broker.leader.commit(self._committed(image), self.now_ms))
                return
            self._resign(broker)
        if broker.follower is not None and image.leader_epoch == broker.last_epoch:
            floor = image.floors.get(broker.broker_id, 0)
            is_member = broker.broker_id in image.isr | image.elr
            self._do(broker, broker.follower.saw(image.partition_epoch, floor, is_member=is_member))
        if image.leader is None or image.leader_epoch <= broker.last_epoch:
            return
        if broker.cut is not None:
            self._finish(broker)
        if image.leader == broker.broker_id:
            self._lead(broker, image)
        else:
            self._follow(broker, image)

    def _resign(self, broker: Broker) -> None:
        leader = broker.leader
        assert leader is not None, "it leads"
        broker.disk.saved_high_watermark = leader.high_watermark
        for batch in leader.retire():
            self._settled(batch)
        broker.leader = None

    def _lead(self, broker: Broker, image: Image) -> None:
        high_watermark = broker.disk.saved_high_watermark
        if broker.follower is not None:
            high_watermark = broker.follower.high_watermark
        broker.follower = broker.stream = None
        reign = Reign(
            topic="t",
            partition=0,
            broker_id=broker.broker_id,
            broker_epoch=broker.epoch,
            leader_epoch=image.leader_epoch,
            waits_for_sync=self.plan.waits_for_sync,
            committed=self._committed(image),
            replica_lag_ms_max=LAG_MS_MAX,
        )
        disk = broker.disk
        broker.last_epoch = image.leader_epoch
        self.tell(f"{broker.broker_id} leads in {image.leader_epoch} with {disk.position}")
        broker.leader = Leader(
            reign,
            log_start=disk.log_start,
            log_end=disk.log_end,
            durable_end=disk.durable_end,
            high_watermark=max(disk.log_start, high_watermark),
            now_ms=self.now_ms,
        )
        self.judge.note_high_watermark(broker)

    def _follow(self, broker: Broker, image: Image) -> None:
        assert image.leader is not None, "there is somebody to follow"
        if image.leader == broker.broker_id:
            self._lead(broker, image)
            return
        high_watermark = broker.disk.saved_high_watermark
        if broker.follower is not None:
            high_watermark = broker.follower.high_watermark
        broker.last_epoch, broker.followed = image.leader_epoch, image.leader
        broker.stream = None
        broker.follower = Follower(
            broker.member,
            image.leader_epoch,
            broker.disk.position,
            max(broker.disk.log_start, high_watermark),
            waits_for_sync=self.plan.waits_for_sync,
            partition_epoch=image.partition_epoch,
        )
        if broker.reports:
            broker.follower.corrupt()
        self.tell(f"{broker.broker_id} follows {image.leader} in {image.leader_epoch}")

    def _committed(self, image: Image) -> Committed:
        return Committed(
            partition_epoch=image.partition_epoch,
            replicas=frozenset(self.brokers),
            isr=image.isr,
            min_insync=self.plan.min_insync,
            brokers=image.brokers,
        )

    # --- the controller -------------------------------------------------------------------------------

    def fence(self) -> None:
        self.controller.fence(self.random.choice(sorted(self.brokers)))

    def unfence(self) -> None:
        broker = self._some(lambda broker: broker.is_up)
        if broker is not None:
            seen = self.controller.images[broker.seen].brokers[broker.broker_id]
            if seen.broker_epoch == broker.epoch:  # it has caught up with its own registration
                self.controller.unfence(broker.member)

    def elect(self) -> None:
        self.controller.elect()

    def leave(self) -> None:
        """A report of bad bytes arrives."""
        broker = self._some(lambda broker: broker.reports)
        if broker is not None:
            self.controller.give_up(broker.broker_id)

    def call(self) -> None:
        """A request arrives, or an answer, or either is given up."""
        if not self.calls:
            return
        call = self.random.choice(self.calls)
        if call.outcome is not None:
            self.calls.remove(call)
            self._altered(call, call.outcome)
        elif self.random.random() < 0.7:
            call.outcome = self.controller.alter(call.sender, call.wanted)
            self.tell(f"{call.sender.broker_id} asked for {call.wanted}: {call.outcome.value}")
            if self.random.random() < 0.2:
                self.calls.remove(call)  # nobody hears the answer
                self._altered(call, AlterOutcome.UNKNOWN)
        elif self.random.random() < 0.3:
            self._altered(call, AlterOutcome.UNKNOWN)  # and it may still arrive

    def _altered(self, call: Call, outcome: AlterOutcome) -> None:
        broker = self.brokers[call.sender.broker_id]
        leader = broker.leader
        if leader is None or broker.epoch != call.sender.broker_epoch:
            return
        if leader.reign.leader_epoch == call.wanted.leader_epoch:
            self._step(broker, leader.altered(call.wanted, outcome, self.now_ms))

    # --- processes ------------------------------------------------------------------------------------

    def crash(self) -> None:
        broker = self._some(lambda broker: broker.is_up)
        if broker is None or sum(other.is_up for other in self.brokers.values()) == 1:
            return
        disk = broker.disk
        known = disk.saved_high_watermark
        if broker.leader is not None:
            known = broker.leader.high_watermark
        elif broker.follower is not None:
            known = broker.follower.high_watermark
        if self.random.random() < 0.5:
            disk.saved_high_watermark = min(known, disk.durable_end)  # a checkpoint, now or long ago
        if self.plan.waits_for_sync and self.random.random() < 0.7:
            disk.cut(self.random.randint(disk.durable_end, disk.log_end))
        if broker.cut is not None:
            self._perform_cut(broker)  # done or not, a start does not tell
        disk.saved_high_watermark = min(disk.saved_high_watermark, disk.log_end)
        for batch in broker.leader.retire() if broker.leader is not None else ():
            self.waiting.discard(batch)
        broker.leader = broker.follower = broker.stream = None
        broker.is_up = False
        self.tell(f"{broker.broker_id} crashes, {disk.position} is left")

    def start(self) -> None:
        broker = self._some(lambda broker: not broker.is_up)
        if broker is None:
            return
        disk, has_lost = broker.disk, False
        if not self.plan.waits_for_sync and self.controller.may_leave(broker.broker_id):
            has_lost = self.random.random() < 0.5
        if has_lost:
            disk.cut(self.random.randint(disk.durable_end, disk.log_end))
            disk.saved_high_watermark = min(disk.saved_high_watermark, disk.log_end)
        broker.is_up = True
        disk.durable_end = disk.log_end
        broker.epoch = 100 + len(self.controller.images)
        broker.last_epoch = -1
        broker.seen = max(0, len(self.controller.images) - 1 - self.random.randint(0, 3))
        self.controller.register(broker.member, has_lost=has_lost)
        self.tell(f"{broker.broker_id} starts as {broker.epoch}")

    def corrupt(self) -> None:
        """A follower finds its log damaged (rule 15)."""
        broker = self._some(lambda broker: broker.follower is not None and not broker.reports)
        if broker is None or broker.follower is None or broker.cut is not None:
            return
        self.tell(f"{broker.broker_id} finds bad bytes")
        broker.reports = True
        broker.stream = None
        self._do(broker, broker.follower.corrupt())

    def hang(self) -> None:
        """A follower's disk does, for as long as `connect` leaves it (rule 40)."""
        broker = self._some(lambda broker: broker.follower is not None and broker.stream is not None)
        if broker is not None and broker.follower is not None:
            self.tell(f"{broker.broker_id} hangs")
            self._do(broker, broker.follower.withdraw())

    # --- streams --------------------------------------------------------------------------------------

    def connect(self) -> None:
        broker = self._some(_may_begin)
        if broker is None or broker.follower is None:
            return
        leader = self.brokers[broker.followed]
        if broker.stream is None and leader.is_up:
            broker.stream = Stream(broker.member, leader.member)
            self.streams.append(broker.stream)
        if broker.stream is not None:
            self._do(broker, broker.follower.begin())

    def disconnect(self) -> None:
        broker = self._some(lambda broker: broker.stream is not None)
        if broker is None or broker.stream is None:
            return
        for queue in (broker.stream.up, broker.stream.down):
            for _ in range(self.random.randint(0, len(queue))):
                queue.pop()
        broker.stream.up.append(None)
        broker.stream = None
        assert broker.follower is not None, "only a follower has one"
        self._do(broker, broker.follower.interrupted())

    def push(self) -> None:
        broker = self._some(lambda broker: broker.leader is not None)
        if broker is not None and broker.leader is not None:
            if self.random.random() < 0.5:
                broker.leader.owe(broker.leader.high_watermark)
            for follower_id in self.brokers:
                if self.random.random() < 0.5 and (stream := self._stream(broker, follower_id)):
                    self._push(broker, follower_id, stream)

    def _push(self, broker: Broker, follower_id: int, stream: Stream) -> None:
        assert broker.leader is not None, "only a leader pushes"
        due = broker.leader.due(follower_id)
        if isinstance(due, Push):
            batches = broker.disk.read(due.from_offset, self.random.randint(1, 3))
            next_offset = batches[-1].next_offset if batches else due.from_offset
            broker.leader.pushed(follower_id, due, next_offset)
            stream.down.append((due, batches))
        elif due is not None:
            stream.down.append(due)

    def _stream(self, broker: Broker, follower_id: int) -> Stream | None:
        """The one that its follower holds, as the leader's runtime knows it: the latest."""
        streams = [
            stream
            for stream in self.streams
            if stream.leader == broker.member and stream.follower.broker_id == follower_id
        ]
        return streams[-1] if streams else None

    def deliver(self) -> None:
        self.streams = [stream for stream in self.streams if self._is_heard(stream)]
        stream = self._some_stream()
        if stream is None:
            return
        if self.plan.is_harsh:
            disturb(self.random, stream.up)
            disturb(self.random, stream.down)
        for _ in range(self.random.randint(1, 3)):
            self._deliver_up(stream)
            if self.random.random() < 0.7:
                self._deliver_down(stream)

    def _is_heard(self, stream: Stream) -> bool:
        """Whether it may deliver anything yet; one that was replaced may (rule 37)."""
        leader, follower = self.brokers[stream.leader.broker_id], self.brokers[stream.follower.broker_id]
        return leader.member == stream.leader and (bool(stream.up) or follower.member == stream.follower)

    def _some_stream(self) -> Stream | None:
        filled = [stream for stream in self.streams if stream.up or stream.down]
        if self.random.random() < 0.98:  # what was replaced delivers late
            held = {broker.stream for broker in self.brokers.values()}
            filled = [stream for stream in filled if stream in held]
        return self.random.choice(filled) if filled else None

    def _deliver_up(self, stream: Stream) -> None:
        if not stream.up:
            return
        message = stream.up.popleft()
        broker = self.brokers[stream.leader.broker_id]
        if broker.epoch != stream.leader.broker_epoch or broker.leader is None:
            return
        match message:
            case Statement():
                stream.session = message.session
                answer, step = broker.leader.stated(message, broker.disk.epochs, self.now_ms)
                stream.down.append(answer)
            case Acknowledgement():
                step = broker.leader.acknowledged(stream.follower, message, self.now_ms)
            case _:
                step = broker.leader.lost(stream.follower, stream.session, self.now_ms)
        self._step(broker, step)

    def _deliver_down(self, stream: Stream) -> None:
        if not stream.down:
            return
        message = stream.down.popleft()
        broker = self.brokers[stream.follower.broker_id]
        follower = broker.follower
        if follower is None or broker.epoch != stream.follower.broker_epoch or broker.cut is not None:
            return
        if not isinstance(message, tuple):
            self._do(broker, follower.answered(message, broker.disk.epochs))
            return
        push, batches = message
        bounds = None
        if batches:
            epochs = batches[0].epoch, batches[-1].epoch
            bounds = Batches(batches[0].base_offset, batches[-1].next_offset, *epochs)
        turn = follower.pushed(push, bounds)
        self._do(broker, turn)
        if turn.append:
            for batch in batches:
                broker.disk.append(batch)
            self._do(broker, follower.appended(broker.disk.position))

    def cut(self) -> None:
        broker = self._some(lambda broker: broker.cut is not None)
        if broker is not None:
            self._finish(broker)

    def _finish(self, broker: Broker) -> None:
        self._perform_cut(broker)
        if broker.follower is not None:
            self._do(broker, broker.follower.cut(broker.disk.position))

    def _perform_cut(self, broker: Broker) -> None:
        turn, broker.cut = broker.cut, None
        assert turn is not None, "there is something to cut"
        if turn.cut_to is not None:
            broker.disk.cut(turn.cut_to)
            self.tell(f"{broker.broker_id} cuts to {broker.disk.log_end}")
        elif turn.empty_at is not None:
            broker.disk.empty(turn.empty_at)
            broker.reports = False
            self.tell(f"{broker.broker_id} starts over at {turn.empty_at}")

    # --- what machines ask for ------------------------------------------------------------------------

    def _advance(self, broker: Broker) -> None:
        disk = broker.disk
        if broker.leader is not None:
            step = broker.leader.advance(disk.log_start, disk.log_end, disk.durable_end, self.now_ms)
            self._step(broker, step)
        elif broker.follower is not None:
            self._do(broker, broker.follower.synced(disk.position))

    def _step(self, broker: Broker, step: Step[Batch]) -> None:
        self.judge.note_high_watermark(broker)
        for batch in step.committed:
            self._settled(batch)
            self.acknowledged += 1
            if self.judge.committed.get(batch.base_offset) != batch:
                raise Violation(f"{batch} was acknowledged and is not committed")
        for batch in step.too_few:
            self._settled(batch)
        if step.wanted is not None:
            self.calls.append(Call(broker.member, step.wanted))

    def _settled(self, batch: Batch) -> None:
        if batch not in self.waiting:
            raise Violation(f"{batch} is settled twice")
        self.waiting.discard(batch)

    def _do(self, broker: Broker, turn: Turn) -> None:
        if turn.trouble in (Trouble.WOULD_LOSE_COMMITTED, Trouble.CONTRADICTION):
            raise Violation(f"{broker.broker_id} stops: {turn.trouble.value}")
        if turn.trouble is Trouble.BEGINS_ANEW:
            broker.reports = True
        if turn.cut_to is not None or turn.empty_at is not None:
            broker.cut = turn
        if turn.trim_to is not None:
            assert broker.follower is not None, "only a follower adopts a log start"
            broker.disk.trim(turn.trim_to, drops_all=self.random.random() < 0.3)
            self._do(broker, broker.follower.trimmed(broker.disk.position))
        if broker.stream is not None:
            broker.stream.up.extend(
                message for message in (turn.state, turn.acknowledge) if message is not None
            )

    # --- the end --------------------------------------------------------------------------------------

    def heal(self, rounds_max: int = 60) -> None:
        """Faults stop: everybody is in sync again, everything appended is committed (liveness)."""
        self.plan = replace(self.plan, is_harsh=False)
        for _ in self.brokers:
            self.start()
            self.disconnect()
        for _ in range(rounds_max):
            self._calm_round()
            if self._is_healed():
                return
        raise Violation(f"not healed: {self.image}, waiting {self.waiting}")

    def _calm_round(self) -> None:
        self.now_ms += 300
        for broker in self.brokers.values():
            if broker.seen < len(self.controller.images) - 1:
                self._see(broker, len(self.controller.images) - 1)
        for _ in range(20):
            self.unfence()
            self.leave()
            self.cut()
            self.connect()
            self.sync()
            self.call()
            for _ in range(5):
                self.push()
            for stream in self.streams:
                while stream.up or stream.down:
                    self._deliver_up(stream)
                    self._deliver_down(stream)
        for broker in self.brokers.values():
            if broker.leader is not None:
                self._step(broker, broker.leader.tick(self.now_ms))
        self._judge()

    def _is_healed(self) -> bool:
        end = max(broker.disk.log_end for broker in self.brokers.values())
        return (
            self.image.isr == frozenset(self.brokers)
            and not self.waiting
            and all(broker.seen == len(self.controller.images) - 1 for broker in self.brokers.values())
            and all(
                machine is not None and machine.high_watermark == end
                for broker in self.brokers.values()
                for machine in [broker.leader or broker.follower]
            )
        )


def _may_begin(broker: Broker) -> bool:
    follower = broker.follower
    return follower is not None and broker.cut is None and follower.state is FollowerState.IDLE


def run(seed: int, plan: Plan) -> World:
    """A whole run. Raises Violation, or what a machine asserts, with the story of it."""
    world = World(Random(seed), plan)
    try:
        for _ in range(_STEPS_PER_BROKER * plan.brokers):
            world.step()
        world.heal()
    except (Violation, AssertionError) as error:
        error.add_note(f"seed {seed}, {plan}\n" + "\n".join(world.story))
        raise
    return world
