"""What brokers ask one another on a control stream: each question has a number, and its answer repeats it.

Questions go both ways and side by side; answers come in any order.
"""

from __future__ import annotations

from dataclasses import dataclass

from millpond_broker.consensus.metadata_log import ProposeOutcome
from millpond_broker.core.commands import Envelope
from millpond_broker.core.sessions import Heard, Heartbeat


@dataclass(frozen=True, slots=True)
class Propose:
    """To the controller: replicate this command, in the name of who proposed it."""

    envelope: Envelope
    timeout_ms: int


@dataclass(frozen=True, slots=True)
class Proposed:
    """What became of it. `leader`: who leads the voters, as far as one that does not lead them knows."""

    outcome: ProposeOutcome
    leader: int | None


@dataclass(frozen=True, slots=True)
class Beat:
    """A heartbeat, to the controller. `digest` is of the image of version `applied_index`."""

    heartbeat: Heartbeat
    digest: bytes


@dataclass(frozen=True, slots=True)
class Beaten:
    """The controller's answer. `heard` None: it is not the controller. `version`: of its image (rule 44)."""

    heard: Heard | None
    controller_epoch: int
    version: int
    leader: int | None
    everywhere: int = 0
    """Metadata up to that version have all others that are alive: who stops waits for it (rule 12)."""
    differs: bool = False
    """The controller has another image of the version that was told: one of the two went wrong."""


@dataclass(frozen=True, slots=True)
class Who:
    """A probe: which start of a broker this is. The handshake says so; this shows that its loop answers."""


@dataclass(frozen=True, slots=True)
class Here:
    """The answer to a probe."""

    incarnation: bytes


@dataclass(frozen=True, slots=True)
class Found:
    """A voter without metadata asks another of those that it is configured with what that one has."""

    voters: tuple[tuple[int, str], ...]
    """(broker id, host:port) of all that this one is configured with, by id."""


@dataclass(frozen=True, slots=True)
class Founded:
    """The answer. `first` is the first command of the cluster, encoded; None from one that has none either.
    `refused`: why nothing can be founded with the one who asked, for its log.
    """

    first: bytes | None
    refused: str | None = None
    without_you: bool = False
    """The cluster has been founded, and the one who asks is none of its voters: it may follow them."""


@dataclass(frozen=True, slots=True)
class ReadyToVote:
    """To a broker that is to be added as a voter: make the log that voters keep, durably."""


@dataclass(frozen=True, slots=True)
class Ready:
    """It can be added. `reached`: the voters that it has reached."""

    directory_id: str
    reached: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class HandOver:
    """To the voter that leads: let another one lead. Answered by `Here`, whatever comes of it."""


@dataclass(frozen=True, slots=True)
class Failed:
    """There is no answer: why, for logs. Ask again later, or somebody else."""

    reason: str


Question = Propose | Beat | Who | Found | ReadyToVote | HandOver
Reply = Proposed | Beaten | Here | Founded | Ready | Failed


@dataclass(frozen=True, slots=True)
class Asked:
    """A question on its way. Numbers count from 1, for each end of a stream by itself."""

    number: int
    question: Question


@dataclass(frozen=True, slots=True)
class Replied:
    """Its answer."""

    number: int
    reply: Reply


Control = Asked | Replied
