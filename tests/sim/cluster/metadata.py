"""A model of the voters: one log of committed commands, leaders that come and go, and brokers that follow.

It keeps what `MetadataLog` promises and nothing more. There is at most one leader in truth, who reaches a
majority; one that was cut off goes on believing for a while. A proposal of a leader that reaches a majority
is committed, sometimes twice; of another it waits, and is lost or carried over when somebody else leads.
Brokers apply behind, each for itself, the real `core.image.apply` to what the real codec made of the real
commands; two images of one version that differ end the run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, Protocol

from millpond_broker.consensus import codec
from millpond_broker.consensus.metadata_log import CommittedEntry, NotApplied, Ok, ProposeOutcome, Unknown
from millpond_broker.core.commands import REPLICATION_LEVEL, Envelope, InitCluster, Voter
from millpond_broker.core.image import EMPTY, CommandResult, MetadataImage, apply
from tests.sim.cluster.network import Network
from tests.sim.loop import Owner, SimLoop

TICK_SECONDS: Final = 0.05
ELECTION_SECONDS: Final = (0.5, 1.0)
BELIEF_SECONDS: Final = (0.3, 4.0)
"""For which one that was cut off goes on believing that it leads."""
LATE_SECONDS: Final = 0.01
AWAKE_SECONDS: Final = (0.001, 0.3)
"""From the end of a pause until a voter hears of the others."""
COMMIT_SECONDS: Final = (0.001, 0.006)


class ImagesDiffer(AssertionError):
    """Two images that applied the same commands are not the same."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A committed command."""

    index: int
    term: int
    data: bytes


@dataclass(eq=False)
class Pending:
    """A proposal that is not committed. It outlives the process that made it."""

    voter: int
    term: int
    data: bytes
    told: Callable[[ProposeOutcome], None]
    asked: bool = field(default=True)
    """Whether somebody waits for its outcome."""


@dataclass(frozen=True)
class Ambush:
    """Who waits for such a command: `struck` is called as one is about to be committed, or just was."""

    kind: type
    before: bool
    struck: Callable[[], None]


class Follower(Protocol):
    """One broker's log, as the voters know it."""

    owner: Owner

    @property
    def applied(self) -> int: ...

    def catch_up(self) -> None: ...

    def believe(self, term: int, leader: int | None) -> None: ...


class Voters:
    """See the module. `doubled`: how often a command is committed twice; `lag_seconds`: how far a broker may
    be behind, in some of its turns.
    """

    def __init__(
        self,
        loop: SimLoop,
        random: Random,
        network: Network,
        founders: tuple[Voter, ...],
        note: Callable[[str, Any], None],
        *,
        feature_level: int = REPLICATION_LEVEL,
        doubled: float = 0.01,
        lag_seconds: float = 0.01,
    ) -> None:
        self.loop = loop
        self.random = random
        self.term = 1
        self.leader: int | None = None
        self.log: list[Entry] = []
        self.followers: dict[int, Follower] = {}
        self.changes = 0
        """Of leader."""
        self.lag_seconds = lag_seconds
        self.ambush: Ambush | None = None
        self.snapshots: dict[int, MetadataImage] = {0: EMPTY}
        """The image of each version, as whoever came first made it."""
        self._network = network
        self.ids = [voter.broker_id for voter in founders]
        self._note = note
        self._doubled = doubled
        self._pending: list[Pending] = []
        self._elects_at: float | None = None
        self._disbelieves_at: dict[int, float] = {}
        # The version that a broker's next process begins with.
        self._kept: dict[int, int] = {}
        self._results: dict[int, CommandResult] = {}
        first = Envelope(
            random.randbytes(16), 1, 0, InitCluster(random.randbytes(16), founders, feature_level)
        )
        self._append(codec.encode(first))
        loop.call_later(TICK_SECONDS, self._tick)

    # --- the log ----------------------------------------------------------------------------------------

    @property
    def last_index(self) -> int:
        """Of what is committed."""
        return self.log[-1].index if self.log else 0

    def entries_after(self, index: int) -> list[Entry]:
        """Committed ones."""
        found = []
        for entry in reversed(self.log):
            if entry.index <= index:
                break
            found.append(entry)
        return found[::-1]

    def kept_by(self, broker_id: int) -> MetadataImage:
        """What a broker that starts has on its disk, through its snapshot's bytes."""
        image = self.snapshots[self._kept.get(broker_id, self.log[0].index)]
        return codec.decode_snapshot(codec.encode_snapshot(image))

    def compare(self, image: MetadataImage) -> None:
        """Every broker that applied so much has this. Raises ImagesDiffer."""
        known = self.snapshots.setdefault(image.version, image)
        if known is not image and known != image:
            raise ImagesDiffer(f"at version {image.version}: {known} and {image}")

    def _append(self, data: bytes) -> Entry:
        # Entries that are no commands have indexes, too.
        index = self.last_index + (1 if self.random.random() < 0.9 else 2)
        entry = Entry(index, self.term, data)
        before = self.snapshots[self.last_index]
        self.snapshots[index], self._results[index] = apply(before, index, codec.decode(data))
        self.log.append(entry)
        return entry

    # --- who leads --------------------------------------------------------------------------------------

    def joined(self, broker_id: int, follower: Follower) -> None:
        """A broker's process is there."""
        self.followers[broker_id] = follower
        self._wake(broker_id)

    def left(self, broker_id: int) -> None:
        """It is gone; what it had applied it may have to apply again."""
        follower = self.followers.pop(broker_id, None)
        if follower is None:
            return
        known = [entry.index for entry in self.log if entry.index <= follower.applied]
        back = self.random.choice((0, 0, 1, 3))
        if broker_id == self.leader:
            self.depose()
        self._kept[broker_id] = known[max(0, len(known) - 1 - back)]
        for pending in self._pending:
            if pending.voter == broker_id:
                pending.asked = False

    def depose(self) -> None:
        """Another leads soon, for no reason."""
        self.leader = None
        self._elects_at = self.loop.time() + self.random.uniform(*ELECTION_SECONDS)

    def _reached_from(self, broker_id: int) -> list[int]:
        return [
            other
            for other in self.ids
            if other in self.followers
            and not self.followers[other].owner.is_paused
            and (other == broker_id or self._network.reaches(broker_id, other))
        ]

    def _can_lead(self, broker_id: int) -> bool:
        reached = self._reached_from(broker_id)
        return broker_id in reached and 2 * len(reached) > len(self.ids)

    def _tick(self) -> None:
        now = self.loop.time()
        if self.leader is not None and self._can_lead(self.leader):
            self._elects_at = None
        elif self._elects_at is None:
            self._elects_at = now + self.random.uniform(*ELECTION_SECONDS)
        elif now >= self._elects_at:
            able = [broker_id for broker_id in self.ids if self._can_lead(broker_id)]
            if able:
                self._elect(self.random.choice(able))
        for broker_id, follower in list(self.followers.items()):
            self._look_after(broker_id, follower, now)
        self.loop.call_later(TICK_SECONDS, self._tick)

    def _look_after(self, broker_id: int, follower: Follower, now: float) -> None:
        if self.leader is not None and broker_id in self._reached_from(self.leader):
            self._disbelieves_at.pop(broker_id, None)
            if follower.applied < self.last_index:
                self._wake(broker_id)
            if broker_id != self.leader:
                self._soon(broker_id, lambda: follower.believe(0, self.leader))
        else:
            until = self._disbelieves_at.setdefault(broker_id, now + self.random.uniform(*BELIEF_SECONDS))
            if now >= until:
                self._soon(broker_id, lambda: follower.believe(0, None))

    def _elect(self, broker_id: int) -> None:
        old, self.leader, self._elects_at = self.leader, broker_id, None
        self.term += self.random.choice((1, 1, 2))
        self.changes += 1
        self._note(f"leader {broker_id} of term {self.term}", None)
        pending, self._pending = self._pending, []
        for one in pending:
            if self.random.random() < 0.5:
                self._note("carried over", one.data)
                self._append(one.data)
            if one.asked:
                told = "somebody else leads" if one.voter != broker_id else "it led in another term"
                one.told(Unknown(told))
        follower, term = self.followers[broker_id], self.term
        self._disbelieves_at.pop(broker_id, None)
        self._soon(broker_id, lambda: follower.believe(term, broker_id))
        self._wake(broker_id)
        if old is not None and old != broker_id and old in self.followers:
            self._disbelieves_at.setdefault(old, self.loop.time() + self.random.uniform(*BELIEF_SECONDS))

    # --- proposals --------------------------------------------------------------------------------------

    def propose(self, pending: Pending) -> None:
        """Of one that believes that it leads in that term."""
        self._pending.append(pending)
        owner = self.followers[pending.voter].owner
        delay = self.random.uniform(*COMMIT_SECONDS)
        self.loop.call_later(delay, self._try, pending, context=owner.context)

    def _try(self, pending: Pending) -> None:
        if pending not in self._pending:
            return
        if pending.voter != self.leader or pending.term != self.term:
            # An old leader's: it is in its own log only, and will be overwritten.
            self._pending.remove(pending)
            outcome = self.random.choice((NotApplied("overwritten"), Unknown("overwritten")))
            self.loop.call_later(self.random.uniform(0.1, 1.0), self._tell, pending, outcome)
        elif self._can_lead(pending.voter):
            if self._is_ambushed(pending, before=True):
                return  # it is lost, or carried over by who leads next
            self._pending.remove(pending)
            self._commit(pending)
            self._is_ambushed(pending, before=False)
        else:
            follower = self.followers.get(pending.voter)
            context = None if follower is None else follower.owner.context
            self.loop.call_later(TICK_SECONDS, self._try, pending, context=context)

    def _is_ambushed(self, pending: Pending, *, before: bool) -> bool:
        ambush = self.ambush
        if ambush is None or ambush.before is not before:
            return False
        if not isinstance(codec.decode(pending.data).command, ambush.kind):
            return False
        self.ambush = None
        ambush.struck()
        return True

    def _tell(self, pending: Pending, outcome: ProposeOutcome) -> None:
        if pending.asked:
            pending.told(outcome)

    def _commit(self, pending: Pending) -> None:
        entry = self._append(pending.data)
        self._note(f"committed {entry.index}", pending.data)
        if self.random.random() < self._doubled:
            self._append(pending.data)
        follower = self.followers.get(pending.voter)
        if follower is not None:
            follower.catch_up()
            if pending.asked:
                pending.told(Ok(entry.index, self._results[entry.index]))
        for broker_id in self.followers:
            if broker_id != pending.voter:
                self._wake(broker_id)

    # --- following --------------------------------------------------------------------------------------

    def _wake(self, broker_id: int) -> None:
        """Let it apply what is committed, in a moment, if it can hear of it."""
        lag = self.lag_seconds if self.random.random() < 0.1 else 0.001
        self._soon(broker_id, lambda: self._follow(broker_id), lag)

    def _follow(self, broker_id: int) -> None:
        follower = self.followers.get(broker_id)
        if follower is not None and self.leader is not None and broker_id in self._reached_from(self.leader):
            follower.catch_up()

    def _soon(self, broker_id: int, action: Callable[[], None], lag: float = 0.001) -> None:
        follower = self.followers.get(broker_id)
        if follower is not None:
            due = self.loop.time() + self.random.uniform(0.0002, lag)
            self.loop.call_at(due, self._if_there, follower, action, due, context=follower.owner.context)

    def _if_there(self, follower: Follower, action: Callable[[], None], due: float) -> None:
        if follower.owner.is_dead:
            return
        if self.loop.time() > due + LATE_SECONDS:
            # It was paused. What it hears of first when it goes on is anybody's guess: of this late.
            again = self.loop.time() + self.random.uniform(*AWAKE_SECONDS)
            self.loop.call_at(again, self._if_there, follower, action, again, context=follower.owner.context)
        else:
            action()


def committed_entry(entry: Entry) -> CommittedEntry:
    """As the port has it."""
    return CommittedEntry(entry.index, entry.term, codec.decode(entry.data))
