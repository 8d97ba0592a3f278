"""Rule 40 on one broker: while its disk hangs it leads nothing that others could, and is in no other's ISR.

A sync that does not come back keeps every acks=all waiting that this broker is to acknowledge. Leaderships
are resigned, and leaders are told that this replica leaves their ISR; it comes back by rule 10.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final

from millpond_broker.observe.logs import event
from millpond_broker.runtime.partition import Partition, State
from millpond_broker.runtime.syncer import Syncer

_log: Final = logging.getLogger(__name__)

FLUSH_STALL_SECONDS: Final = 5.0
"""A disk that takes longer for a sync hangs."""


class Stalls:
    """`tick` a few times a second, and `meet` each replica that begins to follow."""

    def __init__(
        self,
        syncer: Syncer,
        held: Callable[[], Iterable[Partition]],
        resign: Callable[[Partition], None],
    ) -> None:
        self._syncer = syncer
        self._held = held
        self._resign = resign
        self._is_stalled = False

    def tick(self) -> None:
        """See whether it hangs."""
        seconds = self._syncer.pending_seconds
        was_stalled, self._is_stalled = self._is_stalled, seconds > FLUSH_STALL_SECONDS
        if not self._is_stalled and not was_stalled:
            return
        waiting = [partition for partition in self._held() if partition.options.waits_for_sync]
        if self._is_stalled:
            for partition in waiting:
                # Each time: it may have been elected meanwhile. Alone it would be elected again at once.
                if partition.leader is not None and len(partition.leader.in_sync.committed.isr) > 1:
                    self._resign(partition)
        if self._is_stalled == was_stalled:
            return
        level = logging.ERROR if self._is_stalled else logging.WARNING
        leading = sum(partition.state is State.LEADING for partition in waiting)
        name = "disk_hangs" if self._is_stalled else "disk_hangs_no_more"
        event(_log, level, name, seconds=seconds, led=leading, partitions=len(waiting))
        for partition in waiting:
            if partition.following is not None:
                if self._is_stalled:
                    partition.following.withdraw()
                else:
                    partition.following.resume()

    def meet(self, partition: Partition) -> None:
        """It follows a leader from now on."""
        if self._is_stalled and partition.options.waits_for_sync and partition.following is not None:
            partition.following.withdraw()
