"""Group commit among threads: whoever needs a sync runs one for everybody who waits.

No thread of its own: the first waiter becomes the syncer, later ones wait for it and are either covered
or elect the next. One sync is under way at a time, so a burst of producers costs two syncs, not hundreds.
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Sequence
from copy import copy
from typing import Final

from millpond.embedded.partition import Partition, Ticket
from millpond.wire.errors import DeliveryTimeout, MillpondError, StorageFailed
from millpond_broker.storage.group_commit import GroupCommit

SYNC_SECONDS_MAX: Final = 120.0
"""How long a producer waits for another's sync before it is told that the outcome is unknown. Whoever runs
the sync waits as long as the disk takes: a thread that is in it cannot be called back.
"""


class Commits:
    """Makes appends durable. Thread-safe."""

    def __init__(self, group_commit: GroupCommit) -> None:
        self._group_commit = group_commit
        self._turn = threading.Condition()
        # The thread that runs a sync just now; it may find itself here, if an exception kept it from leaving.
        self._syncer: int | None = None
        # Partitions with appends that somebody waits for: no more than there are.
        self._wanted: dict[Partition, None] = {}

    def wait(self, tickets: Sequence[Ticket]) -> dict[Ticket, MillpondError]:
        """Return once each ticket is durable or cannot be; those that cannot, with their errors.

        The errors' outcome is unknown: StorageFailed after a failed sync, DeliveryTimeout when the disk
        hangs.
        """
        deadline = time.monotonic() + SYNC_SECONDS_MAX
        failed: dict[Ticket, MillpondError] = {}
        waiting = list(tickets)
        with self._turn:
            self._wanted.update(dict.fromkeys(ticket.partition for ticket in tickets))
        while waiting := [ticket for ticket in waiting if not _is_settled(ticket, failed)]:
            try:
                with self._turn:
                    if self._syncer not in (None, threading.get_ident()):
                        if not self._turn.wait(deadline - time.monotonic()):
                            timeout = DeliveryTimeout(timeout=SYNC_SECONDS_MAX)
                            return failed | dict.fromkeys(waiting, timeout)
                        continue
                    # Its own too: a syncer that was interrupted may have taken them and done nothing.
                    self._wanted.update(dict.fromkeys(ticket.partition for ticket in waiting))
                    partitions, self._wanted = list(self._wanted), {}
                    self._syncer = threading.get_ident()
                self._run(partitions)
            finally:
                self._end_turn()
        return failed

    def sync(self, partitions: Sequence[Partition]) -> None:
        """Sync what these have appended so far, after any sync under way; a failure stays with its log.
        Raises DeliveryTimeout.
        """
        try:
            with self._turn:
                if not self._turn.wait_for(
                    lambda: self._syncer in (None, threading.get_ident()), SYNC_SECONDS_MAX
                ):
                    raise DeliveryTimeout(timeout=SYNC_SECONDS_MAX)
                self._syncer = threading.get_ident()
            self._run(partitions)
        finally:
            self._end_turn()

    def _run(self, partitions: Sequence[Partition]) -> None:
        """One sync, by the syncer."""
        try:
            pending = []
            for partition in partitions:
                with partition.lock:
                    if (part := partition.log.begin_sync()) is not None:
                        pending.append((partition, part))
            results = self._group_commit.sync([part for _, part in pending])
            for (partition, _), result in zip(pending, results, strict=True):
                with partition.lock:
                    result.settle()
        except BaseException:  # whatever stopped it, nobody else answers for these syncs; re-raised
            interrupted = OSError(errno.EINTR, "interrupted during a sync")
            for partition in partitions:
                with partition.lock:
                    partition.log.abandon_syncs(interrupted)
            raise

    def _end_turn(self) -> None:
        """Let the next one sync, if this thread was the syncer."""
        if self._syncer == threading.get_ident():
            with self._turn:
                self._syncer = None
                self._turn.notify_all()


def _is_settled(ticket: Ticket, failed: dict[Ticket, MillpondError]) -> bool:
    """Whether the ticket's fate is known; a failure is added to `failed`."""
    log = ticket.partition.log
    with ticket.partition.lock:
        cuts = log.generation - ticket.generation
        kept_end = log.durable_end if not cuts else log.generation_start
        if cuts <= 1 and ticket.next_offset <= kept_end:
            return True
        if cuts:
            failed[ticket] = StorageFailed(path=str(log.directory), reason="cut back after a failed sync")
        elif log.failure is not None:
            failed[ticket] = copy(log.failure)  # many may raise it, and a traceback grows with every raise
    return ticket in failed
