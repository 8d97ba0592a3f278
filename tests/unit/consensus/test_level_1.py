"""Metadata of a cluster of feature level 1 are read as the version before replication read them.

`level_1.json` was made by that version: a broker's metadata directory after three starts, and the commands of
a cluster of three with the snapshot and the digests that they made there.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any, Final

import pytest

from millpond.wire.errors import ErrorCode
from millpond_broker.consensus.codec import decode, decode_snapshot, encode_snapshot
from millpond_broker.core.commands import (
    AlterPartitions,
    BrokerStart,
    Command,
    ElectLeaders,
    FenceBroker,
    FinishReassignments,
    GiveUpPartitions,
    RaiseFeatureLevel,
    ReassignPartitions,
    RegisterBroker,
    SetTopicConfig,
    StopBroker,
    UnfenceBroker,
)
from millpond_broker.core.image import EMPTY, Applied, MetadataImage, Refused, apply, digest
from tests.unit.consensus.builders import HOME, disk
from tests.unit.consensus.solos import join, opened
from tests.unit.core.clusters import Cluster, cluster, id_of, topic

MADE: Final[dict[str, Any]] = json.loads(Path(__file__).with_name("level_1.json").read_text())


def replayed() -> MetadataImage:
    image = EMPTY
    for index, data in enumerate(MADE["commands"], start=1):
        image, _ = apply(image, index, decode(bytes.fromhex(data)))
    return image


def test_commands_of_level_1_make_the_image_that_they_made() -> None:
    """Voters of both versions are in one group while it is upgraded, and compare digests."""
    image = replayed()
    assert image.feature_level == 1
    assert digest(image).hex() == MADE["commands_digest"]
    assert encode_snapshot(image).decode() == MADE["snapshot"]


def test_a_snapshot_of_level_1_is_read_and_written_as_it_was() -> None:
    image = decode_snapshot(MADE["snapshot"].encode())
    assert image == replayed()
    assert encode_snapshot(image).decode() == MADE["snapshot"]


async def test_a_directory_of_level_1_is_opened_and_goes_on() -> None:
    files = disk()
    files.make_directory(HOME)
    for name, data in MADE["files"].items():
        file = files.open(HOME / name, create=True)
        file.write_at(0, [base64.b64decode(data)])
        file.sync()
        file.close()
    files.sync_directory(HOME)
    files.sync_directory(HOME.parent)
    async with opened(files, seed=9) as log:
        assert digest(log.image).hex() == MADE["digest"]
        image = await join(log, start=4)
        assert all(state.leader == 1 for topic in image.topics.values() for state in topic.partitions)


EARLY: list[Command] = [
    FenceBroker(1, 2),
    UnfenceBroker(1, 2),
    StopBroker(1, 2),
    AlterPartitions(1, 2, ()),
    GiveUpPartitions(1, 2, ()),
    ElectLeaders(()),
    ReassignPartitions(()),
    FinishReassignments(()),
    RegisterBroker(2, id_of("i"), "d", "", "", "", "", feature_level=2),
    SetTopicConfig(id_of("orders"), (), (), 1),
    RaiseFeatureLevel(2, ()),
    RaiseFeatureLevel(3, (BrokerStart(1, 2),)),
]


@pytest.mark.parametrize("command", EARLY, ids=lambda command: type(command).__name__)
def test_a_command_that_comes_before_its_level_leaves_what_unread_bytes_leave(command: Command) -> None:
    """Which is nothing, not even in the memory of its proposer: to other voters it may be such bytes."""
    c = cluster(1)
    c.must(topic("orders", (1,)))
    before = c.image
    refused = c.refused(command)
    assert c.image.proposers == before.proposers
    assert c.image.version == before.version + 1
    if not isinstance(command, RaiseFeatureLevel):
        assert refused.code is ErrorCode.UNSUPPORTED_FORMAT


def test_the_level_is_raised_once_every_broker_and_voter_has_reported_to_know_it() -> None:
    """As it is registered: whoever came back since may be of another version (rule 12)."""
    c = cluster(1, 2)
    epochs = {key: broker.epoch for key, broker in c.image.brokers.items()}
    for known in ({1: epochs[1]}, {1: epochs[1], 2: epochs[2] + 1}, {1: epochs[1], 2: 0}):
        c.refused(RaiseFeatureLevel(2, tuple(BrokerStart(*pair) for pair in known.items())))
    c.must(RaiseFeatureLevel(2, tuple(BrokerStart(*pair) for pair in epochs.items())))
    assert c.image.feature_level == 2
    assert all(broker.feature_level == 2 for broker in c.image.brokers.values())
    assert decode_snapshot(encode_snapshot(c.image)) == c.image
    assert json.loads(encode_snapshot(c.image))["format"] == 2
    assert isinstance(c.do(RaiseFeatureLevel(2, ())), Applied), "it is raised already"
    assert isinstance(c.do(RaiseFeatureLevel(3, ())), Refused), "nobody knows that one"


def test_a_voter_that_never_registered_has_to_know_the_level_too() -> None:
    c = Cluster(replayed())
    c.sequence = 100
    epochs = {key: broker.epoch for key, broker in c.image.brokers.items()}
    assert 3 in c.image.voters
    reported = tuple(BrokerStart(*pair) for pair in epochs.items())
    c.must(RaiseFeatureLevel(2, reported))


def test_a_broker_of_an_older_version_does_not_register_in_a_newer_cluster() -> None:
    c = cluster(1)
    c.must(RaiseFeatureLevel(2, (BrokerStart(1, c.image.brokers[1].epoch),)))
    old = RegisterBroker(2, id_of("i"), "d", "", "", "", "0.1")
    assert c.refused(old).code is ErrorCode.UNSUPPORTED_FORMAT
