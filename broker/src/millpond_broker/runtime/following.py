"""One partition's follower at work: what the machine decides is done to the log, and told to the leader.

Made for one leader epoch. What blocks (cutting, emptying) is done off the loop by `LogWork`, which says when
it has been; appends and trims are done here. Rule 15: each batch is verified before it is appended.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

from millpond.wire.errors import CorruptBatch, MillpondError, StorageFailed, StorageFull, UnsupportedFormat
from millpond_broker.core.follower import Follower, FollowerState, Trouble, Turn
from millpond_broker.core.replication import Answer, Push
from millpond_broker.observe.logs import event
from millpond_broker.runtime.replication_messages import Acknowledged, Stated
from millpond_broker.storage.log import Log
from millpond_broker.storage.replica import parse_push

if TYPE_CHECKING:
    from millpond_broker.runtime.partition import Partition

_log: Final = logging.getLogger(__name__)

AGAIN_SECONDS_MIN: Final = 0.02
AGAIN_SECONDS_MAX: Final = 0.5
"""Before a position is stated again that the leader had no use for: most often it is about to learn of this
epoch. Doubled each time; so long as well before a full disk is tried again."""


class Surroundings(Protocol):
    """What a follower needs of the broker around it. Nothing of it waits."""

    def request_sync(self, partition: Partition) -> None:
        """It has something to sync, or its log has failed."""

    def cut(self, partition: Partition, offset: int) -> None:
        """Truncate its log off the loop; then `log_ready`."""

    def empty(self, partition: Partition, offset: int) -> None:
        """Drop its log off the loop, to begin at that offset; then `log_ready`."""

    def give_up(self, partition: Partition, *, leaves: bool) -> None:
        """Ask the controller to take this replica out of ISR and ELR."""


class Following:
    """See the module. `machine` is of the log as it is now."""

    def __init__(
        self,
        partition: Partition,
        machine: Follower,
        around: Surroundings,
        *,
        known_in: int,
        on_end: Callable[[], None],
    ) -> None:
        """`known_in`: the leader epoch in which the machine's high watermark was told. `on_end`: called once
        it follows no more.
        """
        self._partition = partition
        self._machine = machine
        self._around = around
        self.known_in_epoch = known_in
        self._on_end = on_end
        # Puts a message on the stream to the leader; None while there is none.
        self._send: Callable[[Any], None] | None = None
        self._again: asyncio.TimerHandle | None = None
        self._again_seconds = AGAIN_SECONDS_MIN
        self._is_withdrawn = False

    @property
    def leader_epoch(self) -> int:
        """Of the leader that is followed."""
        return self._machine.leader_epoch

    @property
    def session(self) -> int:
        """Of the latest statement."""
        return self._machine.session

    @property
    def state(self) -> FollowerState:
        """What the machine does."""
        return self._machine.state

    @property
    def high_watermark(self) -> int:
        """As the leader told it, as far as this log reaches (rule 7)."""
        return self._machine.high_watermark

    def end(self) -> None:
        """It follows no more: nothing of it happens later."""
        self._cancel_again()
        self._send = None
        self._on_end()

    # --- the stream -----------------------------------------------------------------------------------

    def connected(self, send: Callable[[Any], None]) -> None:
        """There is a stream to the leader."""
        self._send = send
        self._begin()

    def disconnected(self) -> None:
        """It is gone."""
        self._send = None
        self._do(self._machine.interrupted())

    def answered(self, answer: Answer) -> None:
        """The leader answered a statement, or ended a session."""
        if (log := self._partition.log) is not None:
            turn = self._machine.answered(answer, log.epochs)
            if self.state is FollowerState.FOLLOWING:
                self.known_in_epoch = self.leader_epoch
            self._do(turn)

    def pushed(self, push: Push, data: bytes) -> None:
        """The leader's log goes on."""
        log = self._partition.log
        if log is None:
            return  # it is being cut: the session is over
        if not data:
            self._again_seconds = AGAIN_SECONDS_MIN
            self._do(self._machine.pushed(push, None))
            return
        if (push.leader_epoch, push.session) != (self.leader_epoch, self.session):
            return  # late: not worth a look (rule 37)
        try:
            parsed = parse_push(data)
        except (CorruptBatch, UnsupportedFormat) as error:
            # The leader's disk or the way: it looks at what it sends, and we ask anew. Or it is a newer one.
            self._log_trouble("push_refused", error)
            self._interrupt()
            return
        turn = self._machine.pushed(push, parsed.bounds)
        if not turn.append:
            self._do(turn)
            return
        try:
            log.append_replica(parsed)
        except (StorageFull, StorageFailed, CorruptBatch, UnsupportedFormat) as error:
            self._failed(log, error)
            return
        self._again_seconds = AGAIN_SECONDS_MIN
        self._around.request_sync(self._partition)
        self._do(self._machine.appended(log.position()))

    # --- the log and the metadata ---------------------------------------------------------------------

    def advance(self) -> None:
        """More of the log is durable."""
        log = self._partition.log
        if log is not None and self._machine.position != (position := log.position()):
            self._do(self._machine.synced(position))

    def log_ready(self) -> None:
        """The log was cut or emptied, durably, or opened again after it had failed."""
        log = self._partition.log
        assert log is not None, "it is given back"
        if self.state in (FollowerState.CUTTING, FollowerState.IDLE):
            self._do(self._machine.cut(log.position()))
            self._begin()

    def log_failed(self) -> None:
        """It takes nothing until it was opened again."""
        self._cancel_again()
        self._do(self._machine.interrupted())

    def log_corrupt(self) -> None:
        """It is damaged (rule 15)."""
        if self.state is not FollowerState.LEAVING:
            self._do(self._machine.corrupt())

    def withdraw(self) -> None:
        """The disk hangs: leave the ISR of this leader, and stay out of it (rule 40)."""
        self._is_withdrawn = True
        self._cancel_again()
        self._do(self._machine.withdraw())

    def resume(self) -> None:
        """It does not hang any more: come back as any other replica does (rule 10)."""
        self._is_withdrawn = False
        self._begin()

    def saw(self, partition_epoch: int, floor: int, *, is_member: bool) -> None:
        """Newer metadata of this leader epoch: as `Follower.saw`."""
        turn = self._machine.saw(partition_epoch, floor, is_member=is_member)
        if turn.state is not None and self._send is None:
            self._machine.interrupted()  # said when there is a stream
        else:
            self._do(turn)

    # --- what follows ---------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._cancel_again()
        log = self._partition.log
        if self._send is not None and log is not None and log.failure is None:
            self._do(self._machine.begin())
            if self._is_withdrawn:  # a leader that did not know is told: it would wait for who is in its ISR
                self._do(self._machine.withdraw())

    def _begin_later(self) -> None:
        if self._again is None and not self._is_withdrawn:
            self._again = asyncio.get_running_loop().call_later(self._again_seconds, self._begin)
            self._again_seconds = min(2 * self._again_seconds, AGAIN_SECONDS_MAX)

    def _cancel_again(self) -> None:
        if self._again is not None:
            self._again.cancel()
            self._again = None

    def _interrupt(self) -> None:
        self._do(self._machine.interrupted())
        self._begin_later()

    def _do(self, turn: Turn) -> None:
        """What the machine asks for, in its order."""
        partition = self._partition
        while turn.trim_to is not None:
            log = partition.log
            assert log is not None, "it is not being cut"
            self._tell(turn)
            try:
                log.trim(turn.trim_to)
            except MillpondError as error:
                self._failed(log, error)
                return
            turn = self._machine.trimmed(log.position())
        self._tell(turn)
        if turn.cut_to is not None:
            event(_log, logging.INFO, "log_cut", log=str(partition.name), offset=turn.cut_to)
            self._around.cut(partition, turn.cut_to)
        if turn.empty_at is not None:
            event(_log, logging.WARNING, "log_emptied", log=str(partition.name), offset=turn.empty_at)
            self._around.empty(partition, turn.empty_at)
        if turn.begin_later:
            self._begin_later()
        if turn.trouble is not None:
            self._trouble(turn.trouble)

    def _tell(self, turn: Turn) -> None:
        send, (topic_id, number) = self._send, self._partition.key
        if send is None:
            return
        if turn.state is not None:
            send(Stated(topic_id, number, turn.state))
        if turn.acknowledge is not None:
            send(Acknowledged(topic_id, number, turn.acknowledge))

    def _trouble(self, trouble: Trouble) -> None:
        self._log_trouble("follower_stopped", trouble.value)
        if trouble in (Trouble.BAD_BYTES, Trouble.BEGINS_ANEW):
            self._around.give_up(self._partition, leaves=True)

    def _failed(self, log: Log, error: MillpondError) -> None:
        """Nothing, or not all, of what was to be done to the log is done."""
        self._log_trouble("replica_not_written", error)
        if log.corruption is not None:
            self.log_corrupt()
        elif log.failure is not None:
            self.log_failed()
            self._around.request_sync(self._partition)  # the one that looks after failed logs
        else:
            self._interrupt()

    def _log_trouble(self, name: str, error: object) -> None:
        event(
            _log,
            logging.WARNING,
            name,
            log=str(self._partition.name),
            leader_epoch=self.leader_epoch,
            position=str(self._machine.position),
            error=str(error),
        )
