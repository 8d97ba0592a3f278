"""PySyncObj, and what of it is replaced. The only module that imports it.

The library decides on terms, votes, commits and what to send to whom, unmodified. Replaced are, by name, the
parts that it gets wrong or that would leave the process: its journal, its serializer, its transport, how a
command is taken in and carried out. Nothing here unpickles: commands are bytes of ours, and what the library
would pickle does not exist (its forwarded commands, its transmissions, its own changes of members).

Names that begin with `_SyncObj__` are the library's private ones. That is why the version is asserted: the
fuzz (`tests/sim/raft`) has to be run again for another.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final, Protocol

import pysyncobj.syncobj
from pysyncobj import SyncObj, SyncObjConf
from pysyncobj.node import Node
from pysyncobj.transport import Transport
from pysyncobj.version import VERSION

from millpond_broker.consensus.codec import COMMAND_BYTES_MAX
from millpond_broker.consensus.journal import EntryKind
from millpond_broker.consensus.raft.log_view import LogView, Row, command_of, entry_of, kind_of
from millpond_broker.consensus.raft.messages import (
    Appended,
    AppendEntries,
    Message,
    RequestVote,
    TimeoutNow,
    Vote,
)

assert VERSION == "0.3.17", f"hardened for pysyncobj 0.3.17, not {VERSION}"

# Its pipe wakes a thread that waits in its poller. Nobody does; each would cost two descriptors for good.
pysyncobj.syncobj.PIPE_NOTIFIER_ENABLED = False

BATCH_BYTES: Final = 4 * COMMAND_BYTES_MAX
"""Of entries in one message. An entry that fills a batch alone would be cut in pieces and pickled."""
AT_ONCE: Final = 0.0
NEVER: Final = float("inf")
"""Values of `Library.election_at`."""
_FOLLOWER, _LEADER = 0, 2
_SUCCESS: Final = 0

Settle = Callable[[bool], None]
"""What became of a command: True once it was applied, False if another entry has its place for good."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Of elections, in seconds. See ARCHITECTURE.md for what was measured."""

    election_min: float = 0.5
    """A follower that hears no leader for so long (up to `election_max`) asks whether it should stand."""
    election_max: float = 1.0
    heartbeat: float = 0.1
    leader_fallback: float = 1.0
    """A leader that has no majority of answers for so long leads no more."""


def clock() -> float:
    """Seconds, as the library counts them."""
    return float(pysyncobj.syncobj.monotonicTime())


class Outer(Protocol):
    """What the library calls of the voter around it."""

    def send(self, peer: int, message: Message) -> None:
        """A message to go out, once all that it relies on is durable."""

    def send_snapshot(self, peer: int) -> None:
        """That peer needs the snapshot."""

    def execute(self, index: int, kind: EntryKind, data: bytes) -> None:
        """Entry `index` is committed, and all before it were executed."""

    def submit(self) -> None:
        """Now commands can be appended, or refused."""

    def state_changed(self) -> None:
        """It leads, or leads no more."""


class Library(SyncObj):  # type: ignore[misc]  # pysyncobj has no types
    """One voter of the library's. For one thread; `tick` drives it."""

    def __init__(
        self, broker_id: int, log: LogView, applied_index: int, *, timing: Timing, outer: Outer
    ) -> None:
        self._outer = outer
        self._log = log
        settings = SyncObjConf(
            autoTick=False,
            appendEntriesUseBatch=False,  # with it, a command waits for the next heartbeat
            appendEntriesPeriod=timing.heartbeat,
            raftMinTimeout=timing.election_min,
            raftMaxTimeout=timing.election_max,
            connectionTimeout=timing.election_max,  # of its own transport, which is not used
            leaderFallbackTimeout=timing.leader_fallback,
            appendEntriesBatchSizeBytes=BATCH_BYTES,
            logCompactionMinEntries=10**9,  # `Voter` compacts
            logCompactionMinTime=10**9,
            useFork=False,
            commandsWaitLeader=False,
            dynamicMembershipChange=False,  # `Voter` says who votes, by the log and the image
            onStateChanged=lambda _old, _new: outer.state_changed(),
        )
        super().__init__(Node(broker_id), [], settings, transport=_Seam(outer))
        journal = log.journal
        self._SyncObj__raftLog = log
        self._SyncObj__serializer = _NoSerializer(outer)
        self._SyncObj__raftCurrentTerm = max(journal.term, journal.last_term)
        voted = journal.vote if journal.term >= journal.last_term else None
        self._SyncObj__votedForNodeId = None if voted is None else int(voted)
        self._SyncObj__raftCommitIndex = max(journal.commit_index, applied_index)
        self._SyncObj__raftLastApplied = applied_index
        self._SyncObj__leaderCommitIndex = None

    # --- what it knows ----------------------------------------------------------------------------------

    @property
    def term(self) -> int:
        """The current term."""
        return int(self._SyncObj__raftCurrentTerm)

    @property
    def is_leader(self) -> bool:
        """Whether it believes to lead in `term`."""
        return bool(self._SyncObj__raftState == _LEADER)

    @property
    def leader(self) -> int | None:
        """Whom it takes for the leader of `term`."""
        node = self._SyncObj__raftLeader
        return None if node is None else node.id

    @property
    def commit_index(self) -> int:
        """Entries through it are known to be committed."""
        return int(self._SyncObj__raftCommitIndex)

    @property
    def applied_index(self) -> int:
        """Entries through it were executed."""
        return int(self._SyncObj__raftLastApplied)

    @property
    def leads_since_index(self) -> int | None:
        """Of the entry that began its latest leadership."""
        index = self._SyncObj__noopIDx
        return None if index is None else int(index)

    @property
    def election_at(self) -> float:
        """When it will stand, by its clock, unless it hears of a leader."""
        return float(self._SyncObj__raftElectionDeadline)

    @election_at.setter
    def election_at(self, at: float) -> None:
        self._SyncObj__raftElectionDeadline = at

    def heartbeat_at(self) -> float:
        """When a leader sends the next one."""
        return float(self._SyncObj__newAppendEntriesTime)

    @property
    def is_asked_to_stand(self) -> bool:
        """Its leader gives its place to it."""
        return bool(self._SyncObj__transferInProgress)

    def match_index(self, peer: int) -> int:
        """How far a leader knows that the peer's log is its own."""
        return int(self._SyncObj__raftMatchIndex.get(Node(peer), 0))

    def log_end(self) -> RequestVote:
        """Term, and where the log ends."""
        _, index, term = self._log[-1]
        return RequestVote(self.term, index, term)

    # --- what is done with it ---------------------------------------------------------------------------

    def tick(self) -> None:
        """Everything that is due by its clock."""
        self.doTick(0.0)

    def deliver(self, peer: int, message: Message) -> None:
        """A message has come, with all guards passed."""
        self._SyncObj__onMessageReceived(Node(peer), _to_library(message))

    def heartbeat_only(self, peer: int, term: int, commit_index: int) -> None:
        """There is a leader, and so much is committed; nothing is to be appended."""
        placeholder = {"type": "append_entries", "term": term, "commit_index": commit_index}
        self._SyncObj__onMessageReceived(Node(peer), placeholder)

    def adopt_term(self, term: int) -> None:
        """Be a follower in a term that others are in: one hears of it by a request that no log can grant."""
        request = {"type": "request_vote", "term": term, "last_log_index": 0, "last_log_term": -1}
        self._SyncObj__onMessageReceived(Node(0), request)

    def step_down(self) -> None:
        """Lead no more, in this term."""
        self._SyncObj__raftLeader = None
        self._SyncObj__setState(_FOLLOWER)

    def set_connected(self, peer: int, *, connected: bool) -> None:
        """Whether messages to that peer can go out."""
        if connected:
            self._SyncObj__onNodeConnected(Node(peer))
        else:
            self._SyncObj__onNodeDisconnected(Node(peer))

    def set_others(self, others: Collection[int], now: float) -> None:
        """Who votes besides this one, from now on."""
        before = {node.id for node in self._SyncObj__otherNodes}
        self._SyncObj__updateClusterConfiguration([Node(other) for other in sorted(others)])
        for other in sorted(set(others) - before):
            self._SyncObj__lastResponseTime[Node(other)] = now  # or the leader would fail to look it up

    def append(self, kind: EntryKind, data: bytes, settle: Settle) -> int:
        """Append a command, as the leader; its index. Raises StorageFull: it is not there."""
        assert self.is_leader, "only a leader appends"
        _, last_index, _ = self._log[-1]
        index = last_index + 1
        self._log.add(command_of(kind, data), index, self.term)
        self._SyncObj__commandsWaitingCommit[index].append(
            (self.term, lambda _result, reason: settle(reason == _SUCCESS))
        )
        return index

    def send_entries(self) -> None:
        """Send what was appended, without waiting for the next heartbeat."""
        self._SyncObj__sendAppendEntries()

    def send_again_from(self, peer: int, index: int) -> None:
        """What was sent to that peer from this index on was not sent after all."""
        if Node(peer) in self._SyncObj__raftNextIndex:
            self._SyncObj__raftNextIndex[Node(peer)] = index

    def installed(self, index: int) -> None:
        """A snapshot has taken the place of log and state up to `index`."""
        self._SyncObj__raftLastApplied = index
        self._SyncObj__raftCommitIndex = index
        waiting = self._SyncObj__commandsWaitingCommit  # of commands that it will never apply one by one
        for covered in [at for at in waiting if at <= index]:
            del waiting[covered]

    def give_up_leadership(self) -> bool:
        """Ask the most advanced other voter to stand. False: it is not as far as this one."""
        refused = []
        self.transferLeadership(callback=lambda _result, reason: refused.append(reason != _SUCCESS))
        return refused == [False]

    # --- parts of the library that are replaced, by the names that it calls them by -----------------------

    def _checkCommandsToApply(self) -> None:  # noqa: N802 - the library's name
        """Instead of its queue, which forwards a late leader's commands to the next, and syncs for each."""
        self._outer.submit()

    def _SyncObj__getEntries(  # noqa: N802 - the library's name
        self,
        fromIDx: int | None,  # noqa: N803 - the library's name
        count: int | None = None,
        maxSizeBytes: int | None = None,  # noqa: N803 - the library's name
    ) -> list[Row]:
        return self._log.rows(fromIDx, count, maxSizeBytes)

    def _SyncObj__doApplyCommand(self, command: bytes) -> None:  # noqa: N802 - the library's name
        self._outer.execute(self.applied_index + 1, kind_of(command), command[1:])


class _NoSerializer:
    """What the library takes for its snapshots: it never makes or loads one, and is told where to begin."""

    def __init__(self, outer: Outer) -> None:
        self._outer = outer

    def checkSerializing(self) -> tuple[int, None]:  # noqa: N802 - the library's name
        return 0, None  # not serializing

    def getTransmissionData(self, node: Node) -> tuple[bytes, bool, bool]:  # noqa: N802 - the library's name
        """One message is the whole snapshot: no hole is left by a link that breaks in between."""
        self._outer.send_snapshot(node.id)
        return b"", True, True

    def cancelTransmisstion(self, _node: Node) -> None:  # noqa: N802 - the library's name
        """There is none that goes on over several messages."""


class _Seam(Transport):  # type: ignore[misc]  # pysyncobj has no types
    """What the library takes for its network. It calls back from `Library` only."""

    def __init__(self, outer: Outer) -> None:
        super().__init__(None, None, [])
        self._outer = outer

    ready = True

    def send(self, node: Node, message: dict[str, Any]) -> None:
        if "serialized" not in message:  # which `send_snapshot` has sent
            self._outer.send(node.id, _from_library(message))

    def addNode(self, _node: Node) -> None:  # noqa: N802 - the library's name
        """Whom to connect to, the voter says."""

    def dropNode(self, _node: Node) -> None:  # noqa: N802 - the library's name
        """Likewise."""

    def destroy(self) -> None:
        """There is nothing to give back."""


def _from_library(message: dict[str, Any]) -> Message:
    """What the library sends. An acknowledgement has no term there: the voter adds it."""
    match message["type"]:
        case "append_entries":
            assert "transmission" not in message, "no entry is as large as a batch"
            assert message["prevLogIdx"] is not None, "what is sent follows on the log"
            return AppendEntries(
                message["term"],
                message["commit_index"],
                message["prevLogIdx"],
                message["prevLogTerm"],
                tuple(map(entry_of, message["entries"])),
            )
        case "next_node_idx":
            return Appended(0, message["next_node_idx"], message["success"])
        case "request_vote":
            return RequestVote(message["term"], message["last_log_index"], message["last_log_term"])
        case "response_vote":
            return Vote(message["term"])
        case "timeout_now":
            return TimeoutNow(message["term"])
        case other:
            raise AssertionError(f"the library has nothing to say of {other}")


def _to_library(message: Message) -> dict[str, Any]:
    match message:
        case AppendEntries():
            return {
                "type": "append_entries",
                "term": message.term,
                "commit_index": message.commit_index,
                "prevLogIdx": message.previous_index,
                "prevLogTerm": message.previous_term,
                "entries": [
                    (command_of(entry.kind, entry.data), entry.index, entry.term) for entry in message.entries
                ],
            }
        case Appended():
            # An answer that refuses always says where to go on from.
            return {
                "type": "next_node_idx",
                "next_node_idx": message.next_index,
                "reset": not message.success,
                "success": message.success,
            }
        case RequestVote():
            return {
                "type": "request_vote",
                "term": message.term,
                "last_log_index": message.last_index,
                "last_log_term": message.last_term,
            }
        case Vote():
            return {"type": "response_vote", "term": message.term}
        case TimeoutNow():
            return {"type": "timeout_now", "term": message.term}
        case other:
            raise AssertionError(f"the library does not know {type(other).__name__}")
