"""What has to hold in the world of `replicas` after every step (PROOF, section 3)."""

from __future__ import annotations

from collections.abc import Collection
from itertools import combinations

from tests.property.replica_models import Batch, Broker, Disk, Image


class Violation(Exception):
    """A promise was broken."""


class Judge:
    """Remembers what was ever committed. What a machine can know by itself, it asserts."""

    def __init__(self, *, waits_for_sync: bool) -> None:
        self.committed: dict[int, Batch] = {}
        self.committed_end = 0
        self._waits_for_sync = waits_for_sync

    def note_high_watermark(self, broker: Broker) -> None:
        """What a leader calls committed stays so, whoever calls it (rule 39)."""
        assert broker.leader is not None, "it leads"
        for batch in broker.disk.readable:
            if batch.next_offset > broker.leader.high_watermark:
                break
            if self.committed.setdefault(batch.base_offset, batch) != batch:
                raise Violation(f"{batch} and {self.committed[batch.base_offset]} are both committed")
        self.committed_end = max(self.committed_end, broker.leader.high_watermark)

    def judge(self, image: Image, brokers: Collection[Broker]) -> None:
        """Everything, as it is now."""
        for broker in brokers:
            if broker.broker_id in image.isr | image.elr:
                self._judge_member(broker)
        for one, other in combinations(brokers, 2):
            _judge_pair(one.disk, other.disk)
        for broker in brokers:
            self._judge_machine(image, broker)

    def _judge_member(self, broker: Broker) -> None:
        disk = broker.disk
        end = disk.durable_end if self._waits_for_sync else disk.log_end
        if end < self.committed_end:
            raise Violation(f"{broker.broker_id} is eligible and lacks committed records")
        held = {batch.base_offset: batch for batch in disk.readable}
        for offset, batch in self.committed.items():
            if offset >= disk.log_start and held.get(offset) != batch:
                raise Violation(f"{broker.broker_id} has {held.get(offset)} for the committed {batch}")

    def _judge_machine(self, image: Image, broker: Broker) -> None:
        machine = broker.leader or broker.follower
        if machine is None:
            return
        if machine.high_watermark > self.committed_end:
            raise Violation(f"{broker.broker_id} has a high watermark past what is committed")
        if broker.leader is None or broker.leader.reign.leader_epoch != image.leader_epoch:
            return
        if image.leader == broker.broker_id and not image.isr <= broker.leader.in_sync.maximal:
            raise Violation(f"the ISR {set(image.isr)} is not in {set(broker.leader.in_sync.maximal)}")


def _judge_pair(one: Disk, other: Disk) -> None:
    """Logs that agree on (offset, epoch) agree before, where both have it."""
    theirs = {batch.base_offset: batch for batch in other.readable}
    agree = False
    for batch in reversed(one.readable):
        their = theirs.get(batch.base_offset)
        if their is None:
            if agree and batch.base_offset >= other.log_start:
                raise Violation(f"{batch} is missing below where two logs agree")
            continue
        agree |= their.epoch == batch.epoch
        if agree and their != batch:
            raise Violation(f"{batch} and {their} lie below where two logs agree")
