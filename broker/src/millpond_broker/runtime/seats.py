"""Rule 15 and rule 40 on one broker: what becomes of a replica's seat when its log is damaged, or failed.

A replica with damage gives up its seat in ISR and ELR, and only then its bytes; the only one keeps both. What
is asked here of the controller is asked until the metadata shows it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from millpond_broker.core.image import PartitionImage, TopicImage
from millpond_broker.core.in_sync import Member
from millpond_broker.observe.logs import event
from millpond_broker.runtime.log_work import Empty, LogWork, Reopen
from millpond_broker.runtime.partition import Key, Partition
from millpond_broker.runtime.ports import Clock
from millpond_broker.runtime.requests import Requests
from millpond_broker.storage.log import Log

_log: Final = logging.getLogger(__name__)

MEND_SECONDS: Final = 1.0
"""Between two attempts at a log that failed, beside those of the upkeep: a disk that fails each sync must not
have its partitions led here and elsewhere in turns, many times a second."""


class Seats:
    """See the module."""

    def __init__(
        self,
        broker_id: int,
        clock: Clock,
        *,
        work: LogWork,
        requests: Requests,
        me: Callable[[], Member | None],
        state_of: Callable[[Key], tuple[TopicImage, PartitionImage] | None],
    ) -> None:
        """`me`: this start, once it is registered. `state_of`: a partition in the latest image."""
        self._broker_id = broker_id
        self._clock = clock
        self._work = work
        self._requests = requests
        self._me = me
        self._state_of = state_of

    def gives_up_as_corrupt(self, partition: Partition, state: PartitionImage) -> bool:
        """Whether its log is damaged: it gives up its seat (rule 15), or takes the partition offline with it
        if that is the only one. To be led on would have its other replicas cut what they still have. Without
        others at all it keeps the partition: what is sound is served, and nothing is appended.
        """
        log, me = partition.log, self._broker_id
        if log is None or log.corruption is None or set(state.replicas) == {me}:
            return False
        has_seat = me in state.isr or me in state.elr
        if has_seat and not state.is_offline and self._me() is not None:
            self._requests.give_up(partition, leaves=True)
        return True

    def gives_up(self, partition: Partition, state: PartitionImage) -> bool:
        """Whether others have what was acknowledged; then its own seat, if it has one, is given up."""
        me = self._broker_id
        seats = {*state.isr, *state.elr}
        if not seats - {me}:
            return False
        if me in seats and self._me() is not None:
            self._requests.give_up(partition, leaves=True)
        return True

    def lacks_what_it_had(self, partition: Partition, state: PartitionImage) -> bool:
        """Whether it lost bytes after it had said what it has (rule 15), and has a seat by them: it plays no
        part before that is given up; the only one waits for a start that reports it.
        """
        me = self._broker_id
        partition.has_lost &= me in state.isr or me in state.elr
        if not partition.has_lost:
            return False
        if not self.gives_up(partition, state):
            event(_log, logging.ERROR, "lost_bytes_unreported", log=str(partition.name))
        return True

    def start_over(self, partition: Partition, log: Log, state: PartitionImage) -> None:
        """Empty a log that cannot be mended, once nobody counts on it, nor on what was said of it (rule 15).
        The only one keeps what it has.
        """
        me = self._broker_id
        assert partition.spoilt_in is not None, "it is spoilt"
        if me not in (*state.isr, *state.elr) and dict(state.floors).get(me, 0) > partition.spoilt_in:
            self._work.ask(partition, Empty(log.log_start))
        elif {*state.isr, *state.elr} - {me}:
            self._requests.give_up(partition, leaves=True)

    def mend(self, partition: Partition) -> None:
        """Another chance for a log that failed (rule 40). With flush=interval what was acknowledged may lie
        past the durable end: the seat goes first, and who is the last keeps it, and stays offline.
        """
        found = self._state_of(partition.key)
        seats = () if found is None else (*found[1].isr, *found[1].elr)
        if partition.options.waits_for_sync or self._broker_id not in seats:
            now = self._clock.monotonic()
            if now - partition.mended_at > MEND_SECONDS:  # else the upkeep comes back to it
                partition.mended_at = now
                self._work.ask(partition, Reopen())
        else:
            self._requests.give_up(partition, leaves=True)

    def has_led_in_this_epoch(self, partition: Partition) -> bool:
        """Whether it may not be cut before another one has begun (rule 12)."""
        found = self._state_of(partition.key)
        if found is None or found[1].leader != self._broker_id:
            return False
        return partition.last_epoch == found[1].leader_epoch
