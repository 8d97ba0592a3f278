"""The image as plain values: nothing gets lost, and equal images have equal digests everywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from millpond_broker.consensus.codec import decode_snapshot
from millpond_broker.core.commands import (
    AllocateProducerIds,
    Barrier,
    ChangePartitions,
    ClaimController,
    Command,
    DeleteTopic,
    InitCluster,
    SetTopicConfig,
    Voter,
)
from millpond_broker.core.image import (
    EMPTY,
    RESULTS_REMEMBERED,
    MetadataImage,
    digest,
    from_snapshot,
    to_snapshot,
)
from tests.unit.core.clusters import CLUSTER, PROPOSER, Cluster, change, disk_of, id_of, registration, topic

ROOT = Path(__file__).parents[3]


def lived() -> MetadataImage:
    """An image in which every field has something."""
    c = Cluster()
    commands: list[Command] = [
        InitCluster(CLUSTER, (Voter(2, disk_of(2)), Voter(1, disk_of(1)))),
        registration(2),
        registration(1),
        registration(3),
        ClaimController(1, 3),
        topic("orders", (1, 2, 3), (2, 3, 1), min_insync=3, config={"segment_ms": "7", "flush": "interval"}),
        topic("billing", (1,), config={"retention_ms": "-1"}),
        topic("billing", (1,)),
        SetTopicConfig(id_of("orders"), (("retention_bytes", "9"),), ()),
        AllocateProducerIds(1, 3, 1000),
        DeleteTopic(id_of("gone")),
        registration(2, start=2),
    ]
    for command in commands:
        c.do(command)
    old = c.partition("orders")
    c.do(ChangePartitions((change("orders", old, leader=None), change("gone", old))))
    return c.image


@pytest.mark.parametrize("image", [EMPTY, lived()], ids=["empty", "lived"])
def test_a_snapshot_brings_everything_back(image: MetadataImage) -> None:
    again = from_snapshot(json.loads(json.dumps(to_snapshot(image))))
    assert again == image
    assert digest(again) == digest(image)


def test_an_image_from_a_snapshot_goes_on_as_the_one_it_was_taken_of() -> None:
    """A voter that starts from a snapshot and one that never stopped do not part ways."""
    one, other = Cluster(lived()), Cluster(from_snapshot(to_snapshot(lived())))
    for c in (one, other):
        c.sequence = 40
        c.do(registration(1, start=5))
        c.do(AllocateProducerIds(1, c.index, 5))
        c.do(topic("new", (3,)))
    assert one.image == other.image
    assert digest(one.image) == digest(other.image)


def test_what_was_forgotten_of_a_proposer_stays_forgotten() -> None:
    """Or a retry that one voter refuses as too old would be new to another."""
    c = Cluster(lived())
    c.sequence = 40
    for _ in range(RESULTS_REMEMBERED + 1):
        c.do(Barrier())
    assert c.image.proposers[PROPOSER].forgotten_below > 0
    assert from_snapshot(to_snapshot(c.image)) == c.image


def test_images_that_differ_have_other_digests() -> None:
    c = Cluster(lived())
    seen = {digest(c.image)}
    c.sequence = 40
    for command in (AllocateProducerIds(1, 0, 1), registration(1, start=6), DeleteTopic(id_of("orders"))):
        c.do(command)
        seen.add(digest(c.image))
    assert len(seen) == 4


def test_a_setting_of_a_later_version_in_a_snapshot_is_refused() -> None:
    values = to_snapshot(lived())
    values["topics"][id_of("orders").hex()]["config"]["compaction"] = "deep"
    with pytest.raises(ValueError, match="compaction"):
        decode_snapshot(json.dumps(values).encode())


def test_a_snapshot_of_a_later_format_is_refused() -> None:
    with pytest.raises(ValueError, match="format 3"):
        from_snapshot({**to_snapshot(EMPTY), "format": 3})


def test_the_digest_does_not_depend_on_the_process() -> None:
    """Hashes of text differ between processes; the order of nothing may follow them."""
    program = "from tests.unit.core.test_snapshot import *; print(digest(lived()).hex())"
    said = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        ).stdout.strip()
        for seed in ("1", "2", "3")
    }
    assert said == {digest(lived()).hex()}


def test_the_digest_is_what_it_was() -> None:
    """A change of it is a change of format: brokers of two versions in one cluster compare digests."""
    assert digest(EMPTY).hex() == "42250c2c84dcd80a5a458e3900074c58"
