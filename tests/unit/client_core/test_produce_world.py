"""A producer's machines in a world of brokers that fail, streams that break and leaders that move."""

from __future__ import annotations

import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millpond._core.sender import Answer
from millpond.wire.errors import NotEnoughReplicas
from tests.unit.client_core.produce_world import World


def run(seed: int, faults: float, steps: int = 400, start_epoch: int = 0) -> World:
    world = World(seed, faults=faults)
    world.start_epoch = start_epoch
    for _ in range(steps):
        world.step()
    world.heal()
    world.check_end()
    return world


@pytest.mark.parametrize("faults", [0.0, 0.1, 0.4])
def test_what_is_acknowledged_is_there_once_in_order(faults: float) -> None:
    """Rules 8 and 16 to 19, whatever happens on the way. These seeds found each fault planted by hand."""
    for seed in range(60):
        run(seed, faults)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32), faults=st.sampled_from([0.0, 0.05, 0.2, 0.6]), steps=st.integers(50, 600))
def test_no_seed_finds_a_record_lost_doubled_or_out_of_place(seed: int, faults: float, steps: int) -> None:
    run(seed, faults, steps)


def test_a_lost_batch_bumps_the_epoch_and_the_last_epoch_asks_for_another_producer_id() -> None:
    """Rule 19; the epoch has 16 bits."""
    bumped = [run(seed, 0.3).sender.identity for seed in range(20)]
    assert any(identity is not None and identity.epoch > 0 for identity in bumped)
    worlds = [World(seed, faults=0.3) for seed in range(20)]
    for world in worlds:
        world.start_epoch = (1 << 15) - 1
        for _ in range(300):
            world.step()
        world.heal()
    assert any(world.producer_ids > 1 for world in worlds)


def test_a_producer_whose_records_were_given_up_wants_no_stream() -> None:
    """Nobody waits for anything: a broker that is gone need not be tried, again and again."""
    world = World(1, faults=0.0, delivery_timeout=20.0)
    world.send(0)
    world.end_tick()
    (number,) = world.wires
    assert world.write(number) == [], "the producer has no id yet"
    (attempt,) = world.write(number)
    world.now += 21.0
    world.look()
    assert attempt.batch.error is not None
    assert not world.wires, "the stream that answered nothing was torn down"
    world.now += 60.0
    world.look()
    assert not world.wires
    assert math.isinf(world.sender.wake_at())
    world.send(0)
    world.end_tick()
    assert world.wires, "it is wanted again"
    world.heal()
    world.check_end()


@pytest.mark.parametrize("began_at", [0.1 + 0.7 * step for step in range(40)])
def test_a_stalled_session_fails_at_the_very_time_that_was_named(began_at: float) -> None:
    """Else its producer spins: told to look around at a time that is there, and finding nothing to do."""
    world = World(1, faults=0.0, delivery_timeout=20.0)
    world.now = began_at
    world.send(0)
    world.end_tick()
    (number,) = world.wires
    assert world.write(number) == [], "the producer has no id yet"
    assert len(world.write(number)) == 1
    session = world.wires[number].session
    sender = world.sender
    assert sender.wake_at() == pytest.approx(began_at + sender.options.stall_s)
    world.now = sender.wake_at()
    sender.tick(world.now)
    assert session.failed is not None
    assert sender.wake_at() > world.now, "nothing more is to be done for it"


def test_what_was_refused_is_sent_again_as_soon_as_the_metadata_have_news_of_its_partition() -> None:
    """Enough are in sync again, or another leads: nobody waits out a back-off for that."""
    world = World(1, faults=0.0, partitions=1)
    world.send(0)
    world.end_tick()
    world.tell()
    (number,) = world.wires
    wire = world.wires[number]
    assert world.write(number) == [], "the producer has no id yet"
    refused = NotEnoughReplicas(topic="t", partition=0, in_sync=1, needed=2)
    for _ in range(12):
        (attempt,) = world.write(number)
        world.sender.answered(wire.session, [Answer(attempt.id, 0, refused)], world.now)
        assert world.write(number) == [], "it waits"
        world.now = wire.session.wake_at
    assert world.write(number)
    (waiting,) = wire.session.outstanding
    world.sender.answered(wire.session, [Answer(waiting, 0, refused)], world.now)
    world.sender.follow(world.view)
    assert world.write(number) == [], "the same metadata are no news"
    assert wire.session.wake_at - world.now > 0.4
    world.tell()
    assert len(world.write(number)) == 1, "at once"
    world.heal()
    world.check_end()


def test_a_world_without_trouble_loses_nothing() -> None:
    world = World(1, faults=0.0, delivery_timeout=1e6)
    for _ in range(2000):
        world.step()
    world.heal()
    world.check_end()
    for log, sent in zip(world.logs, world.sent, strict=True):
        assert [int(value) for value in log.values] == list(range(len(sent)))
        assert all(batch.error is None for batch, _ in sent)
