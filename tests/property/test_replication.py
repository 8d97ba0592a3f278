"""Replication of one partition under faults: nothing acknowledged is lost, and everybody comes back.

The leader and follower machines in the world of `replicas`, which judges after every step (PROOF, section 3,
rules 1 to 12, 37). A run that fails prints its story and its seed.
"""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.property.replica_models import Plan
from tests.property.replicas import World, run

PLANS = {
    "three": Plan(),
    "three, quiet": Plan(trouble=0.02),
    "three, one is enough": Plan(min_insync=1, trouble=0.1),
    "five": Plan(brokers=5, min_insync=3, trouble=0.04),
    "two": Plan(brokers=2, min_insync=1),
    "flush=interval": Plan(waits_for_sync=False),
    "disordered streams": Plan(is_harsh=True),
    "four, disordered streams": Plan(brokers=4, is_harsh=True),
}


@pytest.mark.parametrize("name", PLANS)
def test_what_is_acknowledged_survives_and_everybody_comes_back(name: str) -> None:
    """Safety after each step, and liveness once faults stop: back in the ISR, everything committed."""
    acknowledged = sum(run(seed, PLANS[name]).acknowledged for seed in range(25))
    assert acknowledged > 25, "or it proves little"


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(st.randoms(use_true_random=False), st.sampled_from(list(PLANS.values())), st.integers(0, 150))
def test_no_order_of_events_breaks_a_promise(random: Random, plan: Plan, steps: int) -> None:
    """The same world, with every choice hypothesis's own, so that what it finds gets short."""
    world = World(random, plan)
    for _ in range(steps):
        world.step()
