"""Voters that come and go: a lost disk is replaced by another voter, through the log, one at a time."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from millpond_broker.consensus.metadata_log import Ok, ProposeOutcome
from millpond_broker.core.commands import AddVoter, Command, RemoveVoter
from tests.sim.raft.voters import VoterHost, VoterProcess, record_of
from tests.sim.raft.workload import Workload
from tests.sim.raft.world import Host, World

RETRY_SECONDS = 0.4
REPLACED_MAX = 3
"""Voters replaced in one run."""


class Replacer:
    """Loses no more disks than the group can do without: of the members at any time a majority has its disk,
    and the next is lost only once the last one's successor is a member.
    """

    def __init__(
        self, world: World, workload: Workload, *, seed: int, make_host: Callable[[int], VoterHost]
    ) -> None:
        self.world = world
        self._workload = workload
        self._make_host = make_host
        self._random = Random(f"replacer {seed}")
        self._busy = False
        self._replaced = 0
        self.removed: set[int] = set()

    def may_lose(self, host: Host) -> bool:
        hosts = self.world.hosts.values()
        in_doubt = any(isinstance(other, VoterHost) and other.is_damaged for other in hosts)
        may = not self._busy and not in_doubt and self._replaced < REPLACED_MAX
        return may and host.host_id not in self.removed

    def lose(self, host: Host) -> None:
        self._begin(host)

    def replace(self, host: Host) -> None:
        self._begin(host)

    def noticed(self, host: Host) -> None:
        """A start was refused: the disk counts as lost."""
        host.is_gone = True
        self.world.count("disk lost")
        self._begin(host)

    @property
    def is_busy(self) -> bool:
        """Whether a change is not through yet."""
        return self._busy

    def _begin(self, host: Host) -> None:
        self._busy = True
        self._replaced += 1
        new_id = max(self.world.hosts) + 1
        self.world.add(self._make_host(new_id))
        self.world.start(new_id)
        changes: list[Command] = [RemoveVoter(host.host_id), AddVoter(record_of(new_id))]
        if self._random.random() < 0.3:
            changes.reverse()
        self._next(changes, host)

    def _next(self, changes: list[Command], host: Host) -> None:
        if not changes:
            self._busy = False
            self.world.count("voter replaced")
            return
        if isinstance(changes[0], RemoveVoter):
            self.removed.add(host.host_id)
        key = self._workload.new_key()
        is_done = False

        def told(outcome: ProposeOutcome) -> None:
            nonlocal is_done
            if isinstance(outcome, Ok) and not is_done:
                is_done = True
                if isinstance(changes[0], RemoveVoter):
                    # It is told nothing: after a while somebody switches it off.
                    host.is_gone = True
                    self.world.after(self._random.random() * 5, lambda: self.world.end(host.host_id, "stop"))
                self._next(changes[1:], host)

        def again() -> None:
            if is_done:
                return
            for leader in self.world.running():
                process = leader.process
                assert isinstance(process, VoterProcess), "a voter"
                if process.voter.term == 0:
                    continue
                if leader is host:
                    self.world.call(leader, lambda process: process.voter.transfer_leadership())
                else:
                    self._workload.propose(leader, key, changes[0], told)
            self.world.after(RETRY_SECONDS, again)

        again()
