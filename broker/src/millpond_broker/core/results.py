"""What applying a command gave: values, so that they can be kept and told again to a retry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from millpond.wire.errors import ERRORS, ErrorCode, MillpondError, Outcome

Fact = str | int | None

_FACT_CHARACTERS_MAX: Final = 256
"""Results are kept in the replicated state: what a request quoted at length is cut there."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The command changed nothing, and this is why: a row of the error table and its facts."""

    code: ErrorCode
    facts: tuple[tuple[str, Fact], ...]

    @classmethod
    def of(cls, error: MillpondError) -> Refused:
        """What is raised elsewhere, as a value."""
        return cls(error.code, tuple((name, _fact(value)) for name, value in error.facts().items()))

    @property
    def error(self) -> MillpondError:
        """The error to raise, made anew each time: an exception remembers where it was raised."""
        facts = {name: Outcome(str(value)) if name == "outcome" else value for name, value in self.facts}
        return ERRORS[self.code](**facts)


def _fact(value: object) -> Fact:
    if value is None or type(value) is int:
        return value
    return str(value)[:_FACT_CHARACTERS_MAX]


@dataclass(frozen=True, slots=True)
class RefusedItem:
    """One change of a batch that was not made; the others were."""

    position: int
    refused: Refused


Value = int | bytes | None | tuple[RefusedItem, ...]


@dataclass(frozen=True, slots=True)
class Applied:
    """The command was applied.

    `value` by command: InitCluster the cluster id in force, RegisterBroker the broker epoch, ClaimController
    the controller epoch, AllocateProducerIds the first id, ChangePartitions what of it was refused; others
    None.
    """

    value: Value = None


CommandResult = Applied | Refused
