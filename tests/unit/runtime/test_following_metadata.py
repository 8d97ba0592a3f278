"""Metadata of brokers that do not vote: rule 44, and what their disks remember."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from random import Random

import pytest

from millpond.wire.errors import NotADataDirectory
from millpond_broker.consensus.codec import encode_snapshot
from millpond_broker.consensus.metadata_log import MetadataLogFailed
from millpond_broker.consensus.store import format_joiner, is_formatted
from millpond_broker.core.commands import AddVoter, Command, CreateTopic, Envelope, RemoveVoter, Voter
from millpond_broker.core.image import BrokerState, digest
from millpond_broker.runtime.control_messages import Failed, Ready
from millpond_broker.runtime.peers import Peer
from millpond_broker.runtime.subscriber import LEADERLESS_SECONDS_MAX, SILENCE_SECONDS_MAX, Subscriber
from millpond_broker.runtime.subscription_messages import Commands, Whole
from millpond_broker.runtime.subscriptions import Subscriptions
from millpond_broker.storage.belonging import Belonging, Part, read_belonging, write_belonging
from millpond_broker.storage.directory import DataDirectory
from tests.sim.disk import SimFiles
from tests.unit.runtime.followers import DATA, Following, play
from tests.unit.runtime.members import until
from tests.unit.runtime.streams import MemoryStream
from tests.unit.runtime.voters import CLUSTER_ID, MemoryLog, address_of, directory_of, incarnation_of


def topic(number: int) -> CreateTopic:
    return CreateTopic(b"%016d" % number, f"t-{number}", 3, 2, (), ((2, 1, 3),))


def decide(cluster: Following, command: Command) -> int:
    """It is committed; at which index."""
    voters = cluster.voters
    epoch = voters.logs[1].image.controller_epoch
    return voters.commit(Envelope(b"p" * 16, len(voters.envelopes), epoch, command)).index


def test_a_broker_that_does_not_vote_has_what_is_committed_as_it_comes() -> None:
    """Rule 44: the same image, by its digest, and who leads."""

    async def story(cluster: Following) -> None:
        log = await cluster.open(4)
        assert digest(log.image) == digest(cluster.voters.logs[1].image)
        seen: list[int] = []
        log.subscribe(lambda image: seen.append(image.version))
        for number in range(5):
            index = decide(cluster, topic(number))
            await until(lambda index=index: log.image.version == index, 0.1)  # type: ignore[misc]  # bound now
        assert seen == sorted(seen)
        assert digest(log.image) == digest(cluster.voters.logs[1].image)
        assert (log.leader, log.term) == (1, 0)
        cluster.voters.elect(2)
        await until(lambda: log.leader == 2, 0.1)

    play(story)


def test_commands_are_sent_while_they_are_kept_and_the_image_whole_where_they_are_not() -> None:
    async def story(cluster: Following) -> None:
        log = await cluster.open(4)
        for voter in (1, 2, 3):
            cluster.voters.logs[voter].kept_from = log.image.version + 1
        cluster.network.listens = True
        last = [decide(cluster, topic(number)) for number in range(3)][-1]
        await until(lambda: log.image.version == last, 0.1)
        news = [message for _, message in cluster.network.said if isinstance(message, Whole | Commands)]
        assert news
        assert all(isinstance(message, Commands) for message in news)
        followed = cluster.followed(4)
        assert followed is not None
        cluster.network.cut = {4}
        cluster.opened[4].look_elsewhere()
        last = decide(cluster, topic(9))
        for voter in (1, 2, 3):
            cluster.voters.logs[voter].kept_from = last + 1
        cluster.network.said.clear()
        cluster.network.cut = set()
        await until(lambda: log.image.version == last, 2.0)
        assert any(isinstance(message, Whole) for _, message in cluster.network.said)
        assert digest(log.image) == digest(cluster.voters.logs[1].image)

    play(story)


@pytest.mark.parametrize("how", ["killed", "silent"])
def test_a_voter_that_is_of_no_use_is_left_for_another_within_half_a_session(how: str) -> None:
    async def story(cluster: Following) -> None:
        node = await cluster.follow(4)
        await cluster.running()
        await until(node.lease.holds, 1.0)
        followed = await cluster.follows_no_leader(4)
        if how == "killed":
            await cluster.kill(followed)
        else:
            cluster.network.silent = {followed}
        began = asyncio.get_running_loop().time()
        await until(lambda: cluster.followed(4) not in (None, followed), 3.0)
        assert asyncio.get_running_loop().time() - began <= SILENCE_SECONDS_MAX + 0.6
        index = decide(cluster, topic(7))
        await until(lambda: node.metadata.image.version >= index, 0.1)
        assert node.lease.holds()
        assert node.state is BrokerState.RUNNING

    play(story)


def test_a_voter_that_knows_of_no_leader_is_left_for_another() -> None:
    """It is cut off, and goes on saying where it is. A broker that starts has no heartbeats yet to tell."""

    async def story(cluster: Following) -> None:
        log = await cluster.open(4)
        followed = await cluster.follows_no_leader(4)
        cluster.voters.logs[followed].__class__ = Leaderless
        cluster.voters.logs[followed].tell()
        await until(lambda: log.leader is None, 0.1)
        await until(lambda: cluster.followed(4) not in (None, followed), LEADERLESS_SECONDS_MAX + 1.0)
        await until(lambda: log.leader == 1, 0.1)

    play(story)


class Leaderless(MemoryLog):
    """Of a voter that is cut off from the others."""

    @property
    def leader(self) -> int | None:
        return None


def test_who_follows_a_voter_that_is_behind_follows_another_within_a_session() -> None:
    """Rule 44: by the version that heartbeats are answered with. It keeps its lease."""

    async def story(cluster: Following) -> None:
        node = await cluster.follow(4)
        await cluster.running()
        await until(node.lease.holds, 1.0)
        late = await cluster.follows_no_leader(4)
        cluster.voters.behind = {late}
        index = decide(cluster, topic(1))
        await until(lambda: node.metadata.image.version >= index, 3.0)
        assert cluster.followed(4) != late
        assert node.lease.holds()
        assert node.state is BrokerState.RUNNING

    play(story)


def test_who_cannot_catch_up_leads_nothing_after_a_session_and_is_back_when_it_has() -> None:
    """Rule 44: no lease, and fenced, so that others lead."""

    async def story(cluster: Following) -> None:
        node = await cluster.follow(4)
        await cluster.running()
        await until(node.lease.holds, 1.0)
        cluster.voters.behind = {2, 3}
        del cluster.network.listening[address_of(1)]  # of new streams
        await cluster.follows_no_leader(4)
        controller = cluster.nodes[1].metadata
        index = decide(cluster, topic(1))
        await until(lambda: not node.lease.holds(), 4.5)
        await until(lambda: controller.image.brokers[4].state is BrokerState.FENCED, 3.5)
        assert node.metadata.image.version < index
        cluster.voters.behind = set()
        cluster.voters.spread()
        cluster.network.listening[address_of(1)] = cluster.nodes[1].streams
        await until(lambda: node.state is BrokerState.RUNNING and node.lease.holds(), 4.0)
        assert node.failure is None

    play(story)


def test_a_broker_with_another_image_than_the_controllers_must_not_go_on() -> None:
    """DESIGN §7, for those that do not vote as well."""

    async def story(cluster: Following) -> None:
        node = await cluster.follow(4)
        await cluster.running()
        subscriber = cluster.opened[4]._subscriber
        subscriber.image = replace(subscriber.image, next_producer_id=77)
        subscriber._on_news()
        await until(lambda: node.failure is not None, 2.0)
        assert isinstance(node.failure, MetadataLogFailed)

    play(story)


def test_it_remembers_its_cluster_and_takes_no_other() -> None:
    """Another cluster's metadata would have all its partitions deleted."""

    async def story(cluster: Following) -> None:
        await cluster.open(4)
        assert read_belonging(cluster.files[4], DATA) == Belonging(CLUSTER_ID, Part.FOLLOWER)
        await cluster.end(4)
        write_belonging(cluster.files[4], DATA, Belonging(b"x" * 16, Part.FOLLOWER))
        with pytest.raises(NotADataDirectory, match="the voters are of cluster"):
            await cluster.open(4)

    play(story)


def test_a_voter_takes_no_other_clusters_metadata_either() -> None:
    """Its own log says whose it is; an address of another cluster in its configuration must not count."""

    async def story(cluster: Following) -> None:
        await cluster.open(4)
        image, directory = cluster.voters.logs[1].image, cluster.directories[4]
        streams = cluster.opened[4]._streams
        subscriber = Subscriber(streams, directory, 4, {}, cluster_id=None, on_news=lambda: None)
        subscriber.know(image)
        other = replace(image, cluster_id=b"x" * 16, version=image.version + 9)
        with pytest.raises(NotADataDirectory, match="the voters are of cluster"):
            subscriber._take(Whole(other.version, encode_snapshot(other)))
        assert subscriber.image is image

    play(story)


def test_a_wiped_disk_under_an_old_id_is_refused() -> None:
    """Rule 12: under one broker id, no other disk will do."""

    async def story(cluster: Following) -> None:
        await cluster.follow(4)
        await cluster.running()
        await cluster.end(4)
        del cluster.files[4]
        cluster.voters.spread()

        with pytest.raises(NotADataDirectory, match="needs a new id"):
            await cluster.open(4, disk="disk-4-new")

    play(story)


def test_partitions_without_a_cluster_are_no_new_broker() -> None:
    async def story(cluster: Following) -> None:
        await cluster.open(4)
        await cluster.end(4)
        files = cluster.files[4]
        files.unlink(DATA / "cluster")
        files.make_directory(DATA / "partitions" / f"t-0-{'0' * 32}")
        with pytest.raises(NotADataDirectory, match="its metadata are gone"):
            await cluster.open(4)

    play(story)


def test_one_that_votes_no_more_serves_nobody_and_names_those_that_do() -> None:
    """However old a broker's configuration is: one of those that it names is enough."""

    async def story(cluster: Following) -> None:
        log = await cluster.open(4, configured=(3,))
        while cluster.followed(4) != 3:
            log.look_elsewhere()
            await asyncio.sleep(0.3)
        decide(cluster, RemoveVoter(3))
        await until(lambda: cluster.followed(4) in (1, 2), 1.0)
        await cluster.end(4)
        log = await cluster.open(4, configured=(3,))
        assert cluster.followed(4) in (1, 2)
        index = decide(cluster, topic(1))
        await until(lambda: log.image.version == index, 0.1)

    play(story)


def test_a_crash_between_a_new_voters_log_and_the_word_of_it_is_as_if_nobody_had_asked() -> None:
    async def story(cluster: Following) -> None:
        log = await cluster.open(4)
        as_voter(cluster, 4)
        await log.make_ready()
        await cluster.end(4)
        write_belonging(cluster.files[4], DATA, Belonging(CLUSTER_ID, Part.FOLLOWER))
        log = await cluster.open(4)
        assert log.image.version == cluster.voters.logs[1].image.version
        assert isinstance(await log.make_ready(), Ready)
        assert read_belonging(cluster.files[4], DATA) == Belonging(CLUSTER_ID, Part.VOTER)

    play(story)


# --- voters that come and go ------------------------------------------------------------------------------


def as_voter(cluster: Following, broker_id: int) -> MemoryLog:
    """What it would open as a voter: empty, until it is added and hears of it."""
    log = MemoryLog(cluster.voters, broker_id)
    cluster.voters.logs[broker_id] = log
    cluster.voters.behind.add(broker_id)
    return log


def test_who_is_to_be_added_has_its_log_before_and_subscribes_until_that_has_caught_up() -> None:
    async def story(cluster: Following) -> None:
        log = await cluster.open(4)
        as_voter(cluster, 4)
        answer = await log.make_ready()
        assert answer == Ready(directory_of(4), (1, 2, 3))
        assert is_formatted(cluster.files[4], DATA)
        assert read_belonging(cluster.files[4], DATA) == Belonging(CLUSTER_ID, Part.VOTER)
        assert await log.make_ready() == answer, "asking twice is asking once"
        added = decide(cluster, AddVoter(Voter(4, directory_of(4), address_of(4))))
        await until(lambda: log.image.version == added, 0.1)
        await asyncio.sleep(2.0)
        assert cluster.followed(4) is not None, "its own log has nothing yet"
        cluster.voters.behind.clear()
        cluster.voters.spread()
        await until(lambda: cluster.followed(4) is None, 1.0)
        last = decide(cluster, topic(1))
        assert log.image.version == last

    play(story)


def test_a_founders_disk_is_known_to_vote_from_its_first_start() -> None:
    """Without its metadata it is refused then: empty, it would vote again where it has voted."""

    async def story(cluster: Following) -> None:
        files = cluster.files[4] = SimFiles(Random(4))
        DataDirectory.open(files, DATA, role="broker", new_id=directory_of(4)).close()
        format_joiner(files, DATA)
        as_voter(cluster, 4)
        await cluster.open(4)
        assert read_belonging(files, DATA) == Belonging(CLUSTER_ID, Part.VOTER)

    play(story)


def test_who_could_not_be_made_ready_to_vote_can_be_asked_again() -> None:
    async def story(cluster: Following) -> None:
        log = await cluster.open(4)
        with pytest.raises(KeyError):  # its log cannot be opened, which the disk is formatted for by then
            await log.make_ready()
        as_voter(cluster, 4)
        assert await log.make_ready() == Ready(directory_of(4), (1, 2, 3))

    play(story)


def test_who_was_removed_learns_it_from_a_voter_and_never_votes_again() -> None:
    async def story(cluster: Following) -> None:
        log = await cluster.open(4)
        own = as_voter(cluster, 4)
        await log.make_ready()
        decide(cluster, AddVoter(Voter(4, directory_of(4), address_of(4))))
        cluster.voters.behind.clear()
        cluster.voters.spread()
        await until(lambda: cluster.followed(4) is None, 1.0)
        cluster.voters.behind.add(4)  # nobody sends to who is removed
        own.__class__ = Leaderless
        removed = decide(cluster, RemoveVoter(4))
        await until(lambda: log.image.version == removed, 3.0)
        await until(lambda: log._voter is None, 0.5)
        assert read_belonging(cluster.files[4], DATA) == Belonging(CLUSTER_ID, Part.REMOVED)
        assert isinstance(await log.make_ready(), Failed)
        await cluster.end(4)
        log = await cluster.open(4)
        assert log._voter is None, "at later starts, too"
        assert log.image.version == removed

    play(story)


def test_a_disk_that_voted_and_lost_how_is_refused() -> None:
    async def story(cluster: Following) -> None:
        log = await cluster.open(4)
        as_voter(cluster, 4)
        await log.make_ready()
        await cluster.end(4)
        files = cluster.files[4]
        for name in list(files.list(DATA / "metadata")):
            files.unlink(DATA / "metadata" / name)
        files.remove_directory(DATA / "metadata")
        with pytest.raises(NotADataDirectory, match="it voted, and its metadata are gone"):
            await cluster.open(4)

    play(story)


def test_a_subscription_that_says_nothing_ends_without_a_fault() -> None:
    """Cut off before its first word, it comes again; nobody is to look for a mistake in that."""

    async def story(cluster: Following) -> None:
        peer = Peer(4, directory_of(4), incarnation_of(4, 0), b"")
        silent, served = MemoryStream(cluster.network, peer), MemoryStream(cluster.network, peer)
        silent.other, served.other = served, silent
        await Subscriptions(cluster.nodes[1].metadata, 1, directory_of(1)).serve(served)

    play(story)
