"""The metadata image in a world of faults: nothing that was acknowledged is lost unless its epoch says so.

And each rule that keeps it so is missed when it is gone: planted bugs, each found from a seed or in a story.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millpond_broker.core import (
    broker_commands,
    controller,
    partition_changes,
    replication_commands,
    topic_commands,
)
from tests.property.metadata_world import Violation, World, run
from tests.unit.core import test_elections, test_in_sync_changes


@settings(max_examples=40)
@given(st.integers(0, 2**32))
def test_no_faults_lose_what_was_acknowledged_or_leave_a_partition_without_a_leader(seed: int) -> None:
    """PROOF §3, as far as it concerns the image; rules 10 to 15."""
    run(seed)


def test_the_world_is_one_in_which_things_happen() -> None:
    """Or it would prove nothing."""
    worlds = [run(seed) for seed in range(20)]
    assert sum(world.commits for world in worlds) > 20
    assert sum(world.state.leader_epoch for world in worlds) > 30
    assert any(world.state.recovering_epoch is not None for world in worlds)


# --- planted bugs ------------------------------------------------------------------------------------------

_ELIGIBLE: Final = partition_changes._eligible
_REGISTERED: Final = partition_changes.registered
_LED_IN_RECOVERY: Final = partition_changes.led_in_recovery
_RECOVERABLE: Final = replication_commands.recoverable
_CHECK_ELIGIBLE: Final = replication_commands._check_eligible
_WITHOUT: Final = partition_changes.without


def _least(topic: Any, old: Any) -> tuple[int, ...]:
    if not (old.cuts and _RECOVERABLE(topic, old)):
        return _RECOVERABLE(topic, old)
    least = min(cut.rank for cut in old.cuts)
    return tuple(cut.broker_id for cut in old.cuts if cut.rank == least)


def _in_any_case(old: Any, _min_insync: int) -> str | None:
    is_under_way = bool(old.adding or old.removing) and any(member in old.isr for member in old.target)
    return None if is_under_way else "nothing is being reassigned"


def _by_seed(seed: int) -> Callable[[], None]:
    def hunt() -> None:
        for at in range(seed, seed + 40):
            run(at)

    return hunt


Patches = Sequence[tuple[Sequence[ModuleType], str, Any]]
MUTANTS: Final[dict[str, tuple[Patches, Callable[[], None]]]] = {
    "who loses its seat stays eligible (rules 13, 15)": (
        [([partition_changes], "_eligible", lambda old, isr, least, unseated=(): _ELIGIBLE(old, isr, least))],
        _by_seed(14),
    ),
    "who left stays eligible though enough are in sync (rule 13)": (
        [(
            [partition_changes],
            "_eligible",
            lambda old, isr, _least, unseated=(): _ELIGIBLE(old, isr, 99, unseated),
        )],
        _by_seed(0),
    ),
    "another minISR keeps the ELR (rule 13)": (
        [([topic_commands], "with_cleared_elr", lambda old: old)],
        _by_seed(70),
    ),
    "who cut bytes is elected (rule 15)": (
        [([partition_changes], "_uncut", lambda old, members: members)],
        _by_seed(0),
    ),
    "whoever is alive is elected (rule 14)": (
        [(
            [partition_changes],
            "_first",
            lambda old, candidates, alive, but=None: next(
                (member for member in old.replicas if member in alive and member != but), None
            ),
        )],
        _by_seed(0),
    ),
    "a late request is applied (rules 11, 12)": (
        [([replication_commands], "_check_seen", lambda old, item: None)],
        _by_seed(0),
    ),
    "an earlier start joins the ISR (rule 11)": (
        [(
            [replication_commands],
            "_check_eligible",
            lambda image, broker_id, epoch: _CHECK_ELIGIBLE(image, broker_id, None),
        )],
        _by_seed(100),
    ),
    "with flush=interval an unclean restart keeps its seat (rule 15)": (
        [(
            [broker_commands],
            "registered",
            lambda *of, lost_seat: _REGISTERED(*of, lost_seat=False),
        )],
        _by_seed(0),
    ),
    "what was cut is not noted (rule 15)": (
        [(
            [broker_commands],
            "registered",
            lambda old, broker_id, report, brokers, *, lost_seat: _REGISTERED(
                old, broker_id, None, brokers, lost_seat=lost_seat
            ),
        )],
        _by_seed(0),
    ),
    "who is down counts as uncut (rule 15)": (
        [(
            [partition_changes],
            "_is_anybody_uncut",
            lambda old, cuts, brokers: len(cuts) < len(old.elr),
        )],
        test_elections.test_a_power_loss_everybody_cut_and_the_one_with_most_leads,
    ),
    "who has least leads in recovery (rule 15)": (
        [([replication_commands, controller], "recoverable", _least)],
        _by_seed(0),
    ),
    "a recovery is not marked (rules 5, 14)": (
        [(
            [replication_commands],
            "led_in_recovery",
            lambda old, leader: replace(_LED_IN_RECOVERY(old, leader), recovering_epoch=None),
        )],
        _by_seed(0),
    ),
    "others stay eligible in a recovery (rule 15)": (
        [(
            [replication_commands],
            "led_in_recovery",
            lambda old, leader: replace(
                _LED_IN_RECOVERY(old, leader), elr=tuple(member for member in old.elr if member != leader)
            ),
        )],
        _by_seed(240),
    ),
    "a fenced broker stays in the ISR (rule 12)": (
        [(
            [broker_commands],
            "without",
            lambda old, broker_id, alive, least: (
                old if old.leader != broker_id else _WITHOUT(old, broker_id, alive, least)
            ),
        )],
        _by_seed(0),
    ),
    "a start takes the place of one that is not fenced (rule 12)": (
        [([broker_commands], "_check_start", lambda *of: None)],
        _by_seed(0),
    ),
    "replicas are dropped before others are in sync": (
        [(
            [replication_commands, controller, partition_changes],
            "why_not_finished",
            _in_any_case,
        )],
        _by_seed(0),
    ),
    "who gave up its bytes joins by what it had (rule 15)": (
        [([replication_commands], "_check_floor", lambda old, member: None)],
        test_in_sync_changes.test_who_gave_up_its_bytes_joins_only_by_what_it_stated_since,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_bug_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    patches, hunt = MUTANTS[name]
    for modules, function, mutant in patches:
        for module in modules:
            monkeypatch.setattr(module, function, mutant)
    with pytest.raises((Violation, AssertionError)):
        hunt()


@pytest.mark.parametrize("seed", [0, 14, 70, 100, 240])
def test_where_bugs_are_found_there_is_nothing_without_them(seed: int) -> None:
    for at in range(seed, seed + 10):
        run(at)


def test_one_seed_is_one_story() -> None:
    assert run(3).story == run(3).story
    assert World(3).story == []
