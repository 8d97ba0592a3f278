"""What the voters of a world did, held against every promise at once (`checker`).

It keeps a model of the metadata, which applies what the first voter to apply an index applied there.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from millpond_broker.consensus.metadata_log import CommittedEntry, NotApplied, Ok, ProposeOutcome
from millpond_broker.consensus.raft import codec
from millpond_broker.consensus.raft.messages import RequestVote, Vote
from millpond_broker.core.commands import AllocateProducerIds, Envelope
from millpond_broker.core.image import (
    EMPTY,
    Applied,
    CommandResult,
    MetadataImage,
    apply,
    digest,
    earlier_result,
)
from tests.sim.raft.checker import Acknowledged, Anomaly, CommittedHistory, Elected, Executed, Votes
from tests.sim.raft.checker import NotApplied as NotAppliedCheck

SMALL_BYTES: int = 64
"""Votes and requests for them are smaller."""

Key = tuple[bytes, int]
"""(proposer, sequence)."""


def key_of(envelope: Envelope) -> Key:
    """What names the proposal."""
    return envelope.proposer, envelope.sequence


NOBODY: Final = 0
"""No voter has that id."""


@dataclass
class Judge:
    """Told of everything. Raises Anomaly."""

    acknowledged: Acknowledged = field(default_factory=Acknowledged)
    executed: Executed = field(default_factory=Executed)
    not_applied: NotAppliedCheck = field(default_factory=NotAppliedCheck)
    elected: Elected = field(default_factory=Elected)
    votes: Votes = field(default_factory=Votes)
    model: MetadataImage = EMPTY

    def __post_init__(self) -> None:
        self.history = CommittedHistory(self.acknowledged)
        self._results: dict[int, CommandResult] = {}
        self._images: dict[int, MetadataImage] = {0: EMPTY}
        self._keys: dict[int, Key] = {}

    # --- what voters do ---------------------------------------------------------------------------------

    def begins(self, voter: int, image: MetadataImage, *, is_start: bool) -> None:
        """Its image is that of a snapshot: at a start, or another's, which must not be older."""
        position = self.history.positions.get(voter, 0)
        if not is_start and image.version < position:
            raise Anomaly("image-went-back", f"voter {voter} was at {position}, and is at {image.version}")
        self.history.begins(voter, image.version)
        self.same_image(voter, image)

    def formatted(self, first: CommittedEntry) -> None:
        """A log begins with this command, which is committed by construction and not told again."""
        if first.index not in self._images:
            _, result = apply(EMPTY, first.index, first.envelope)
            self.applied(NOBODY, first, result)

    def applied(self, voter: int, entry: CommittedEntry, result: CommandResult) -> None:
        """It applied that."""
        index, envelope = entry.index, entry.envelope
        if self.history.applied(voter, index, (entry.term, envelope)):
            key = key_of(envelope)
            is_new = earlier_result(self.model, envelope) is None
            self.model, expected = apply(self.model, index, envelope)
            self._results[index], self._images[index], self._keys[index] = expected, self.model, key
            if is_new:
                self.executed.executed(key, index)
                if isinstance(envelope.command, AllocateProducerIds) and isinstance(expected, Applied):
                    assert isinstance(expected.value, int), "the first id"
                    self.executed.gave(expected.value, index)
        if self._results[index] != result:
            raise Anomaly("digest", f"entry {index} gave voter {voter} {result}, not {self._results[index]}")

    def same_image(self, voter: int, image: MetadataImage) -> None:
        """Images of one version are equal."""
        expected = self._images.get(image.version)
        if expected is None:
            raise Anomaly("applied-prefix", f"voter {voter} has image {image.version}, which nobody had")
        if digest(image) != digest(expected):
            raise Anomaly("digest", f"voter {voter} has another image of version {image.version}")

    def leads(self, voter: int, term: int, voters: Collection[int]) -> None:
        """It believes to lead those voters."""
        if self.elected.leads(voter, term):
            self.votes.elected(voter, term, voters)

    def sent(self, source: int, target: int, message: bytes) -> None:
        """A message went out."""
        if len(message) < SMALL_BYTES:
            match codec.decode(message):
                case Vote(term):
                    self.votes.voted(source, term, target)
                case RequestVote(term):
                    self.votes.voted(source, term, source)

    # --- what callers are told --------------------------------------------------------------------------

    def attempted(self, key: Key) -> None:
        """A proposal was handed in."""
        self.not_applied.attempted(key)

    def told(self, key: Key, outcome: ProposeOutcome) -> None:
        """What became of one attempt."""
        if isinstance(outcome, Ok):
            self.acknowledged.acknowledged(key, outcome.index, outcome.result)
            if self._keys.get(outcome.index) != key:
                raise Anomaly("lost-acknowledged", f"{key} is not at {outcome.index}, as its caller was told")
        elif isinstance(outcome, NotApplied):
            self.not_applied.not_applied(key)

    # --- at the end -------------------------------------------------------------------------------------

    def final(self, images: dict[int, MetadataImage]) -> None:
        """All is healed: every voter has everything, and nothing else."""
        for voter, image in images.items():
            if image.version < self.acknowledged.last_index:
                detail = f"voter {voter} is at {image.version} of {self.acknowledged.last_index}"
                raise Anomaly("lost-acknowledged", detail)
            self.same_image(voter, image)
        for key in self._keys.values():
            self.not_applied.check(key)
