"""The journal on a disk that keeps only what was synced, held against a list: what was confirmed stays.

Appends, truncations, votes, compactions and syncs in any order, while the power fails between and *inside*
operations, the process is killed, syncs fail and the disk fills up. After every start the journal must hold
what was confirmed, and of what was not, nothing out of order (rules 40 and 41; Raft §5.2 for the vote).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
)

from millpond.wire.errors import StorageFull
from millpond_broker.consensus.journal import Entry, EntryKind, Journal, JournalFailed
from tests.sim.disk import SimulatedCrash
from tests.unit.consensus.builders import FILE, HOME, disk, made

State = tuple[tuple[Entry, ...], int, str | None]
"""Entries with what was forgotten at the front left in, term, vote."""


class JournalMachine(RuleBasedStateMachine):
    """`possible` are the states that a start may find: the confirmed one first, then one for each change."""

    @initialize(seed=st.integers(0, 2**32))
    def start(self, seed: int) -> None:
        self.disk = disk(seed)
        self.journal = made(self.disk)
        self.possible: list[State] = [((), 0, None)]
        self.committed = 0
        self.made = self.stops = 0

    @property
    def state(self) -> State:
        return self.possible[-1]

    def change(
        self, state: State, work: Callable[[], Any], *, durable: bool = False, halfway: Sequence[State] = ()
    ) -> None:
        """Do something that leads to `state`, through `halfway`, if nothing stops it."""
        before = self.possible
        self.possible = [*before, *halfway, state]
        try:
            work()
        except SimulatedCrash:
            self.stop()
            self.restart()
        except JournalFailed:
            self.disk.kill()
            self.restart()
        except StorageFull:
            # Refused whole, and gone for good: the cut was synced, and with it all that came before.
            assert not self.journal.dirty
            self.possible = [before[-1]]
        else:
            if durable:
                self.possible = [state]

    def stop(self) -> None:
        """Of the machine, or of the process only: then what is not durable yet is there, for now."""
        self.stops += 1
        if self.stops % 2:
            self.disk.crash()
        else:
            self.disk.kill()

    def restart(self) -> None:
        self.disk.capacity_bytes = None
        self.disk.heal()
        self.journal.abandon()
        while True:
            try:
                self.journal = Journal.open(self.disk, HOME)
            except SimulatedCrash:
                self.stop()
                continue
            break
        found = self.found()
        assert found in [self.seen(state) for state in self.possible]
        self.possible = [state for state in self.possible if self.seen(state) == found][:1]
        assert self.journal.commit_index <= self.committed <= self.journal.last_index

    def found(self) -> tuple[Any, ...]:
        return (tuple(self.journal.entries(0)), self.journal.term, self.journal.vote)

    def seen(self, state: State) -> tuple[Any, ...]:
        """The state as the journal shows it, from where it begins now."""
        entries, term, vote = state
        return (entries[self.journal.first_index - 1 :], term, vote)

    @rule(count=st.integers(1, 5), size=st.integers(0, 1500), newer=st.booleans())
    def append(self, count: int, size: int, newer: bool) -> None:
        entries, term, vote = self.state
        own = max(entries[-1].term if entries else 0, term if newer else 0)
        self.made += 1
        added = [
            Entry(index, own, EntryKind.COMMAND, b"%d" % self.made + bytes(size))
            for index in range(len(entries) + 1, len(entries) + 1 + count)
        ]
        # One write: any number of its entries may be found.
        halfway: list[State] = [((*entries, *added[:upto]), term, vote) for upto in range(1, count)]
        self.change(((*entries, *added), term, vote), lambda: self.journal.append(added), halfway=halfway)

    @precondition(lambda self: len(self.state[0]) > max(self.committed, self.journal.first_index))
    @rule(data=st.data())
    def delete_from(self, data: st.DataObject) -> None:
        entries, term, vote = self.state
        lowest = max(self.committed + 1, self.journal.first_index)
        index = data.draw(st.integers(lowest, len(entries)))
        self.change((entries[: index - 1], term, vote), lambda: self.journal.delete_from(index))

    @rule(step=st.integers(1, 3), vote=st.sampled_from([None, "1", "2"]))
    def set_term(self, step: int, vote: str | None) -> None:
        entries, term, _ = self.state
        self.change(
            (entries, term + step, vote), lambda: self.journal.set_term(term + step, vote), durable=True
        )

    @rule()
    def sync(self) -> None:
        self.change(self.state, self.journal.sync, durable=True)

    @precondition(lambda self: not self.journal.dirty and self.journal.last_index >= self.journal.first_index)
    @rule(data=st.data())
    def commit_and_compact(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(self.journal.first_index, self.journal.last_index))
        self.journal.note_commit(index)
        self.committed = max(self.committed, index)
        self.change(self.state, lambda: self.journal.delete_to(index), durable=True)

    @rule(operations=st.integers(0, 6))
    def crash_soon(self, operations: int) -> None:
        self.disk.crash_after(operations)

    @rule()
    def power_loss(self) -> None:
        self.disk.crash()
        self.restart()

    @rule()
    def kill(self) -> None:
        self.disk.kill()
        self.restart()

    @rule(written=st.sampled_from([0.0, 0.5, 1.0]), path=st.sampled_from([FILE, HOME]))
    def fail_next_sync(self, written: float, path: Path) -> None:
        self.disk.fail_next_sync(path, written=written)

    @rule(room=st.integers(0, 2000))
    def fill_up(self, room: int) -> None:
        with suppress(SimulatedCrash):
            self.disk.capacity_bytes = sum(self.disk.list(HOME).values()) + room

    @rule()
    def make_room(self) -> None:
        self.disk.capacity_bytes = None

    @rule()
    def close(self) -> None:
        """A clean stop, which a disk in trouble makes a plain one."""
        with suppress(SimulatedCrash):
            self.journal.close()
        self.disk.kill()
        self.restart()

    def teardown(self) -> None:
        if hasattr(self, "disk"):
            with suppress(SimulatedCrash):
                assert self.found() in [self.seen(state) for state in self.possible]
            self.disk.crash()
            self.restart()


JournalMachine.TestCase.settings = settings(
    max_examples=int(os.environ.get("EXAMPLES", "200")),
    stateful_step_count=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestJournal = JournalMachine.TestCase
