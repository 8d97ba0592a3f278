"""What makes a broker one of several: the port to the others, and metadata that voters agree on.

Beside `app`, which imports it only where there are others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from millpond_broker.config import Address, Config
from millpond_broker.consensus.group import GroupMetadataLog
from millpond_broker.consensus.metadata_log import MetadataLog
from millpond_broker.rpc.peer_port import PeerPort
from millpond_broker.rpc.peer_secret import read_secret
from millpond_broker.rpc.peer_server import PeerPortOptions
from millpond_broker.runtime.control_messages import Failed, Found, Reply
from millpond_broker.runtime.founding import Founding, FoundingOptions, answer_found
from millpond_broker.runtime.member_log import MemberLog, MemberOptions
from millpond_broker.runtime.peers import Peer, PeerStreams
from millpond_broker.runtime.ports import DiskThread
from millpond_broker.storage.directory import DataDirectory
from millpond_broker.storage.files import OsFiles


class Others:
    """The port, and the metadata of one broker of several. Its place among the voters (`VoterSeat`)."""

    def __init__(
        self, config: Config, secret_file: Path, disk: DiskThread, new_id: Callable[[], bytes]
    ) -> None:
        """Raises InvalidConfig for a secret that cannot be had."""
        cluster, broker_id = config.cluster, config.broker.id
        address = cluster.peer_address(broker_id)
        # Without a port it is not known yet: the one that is really open is told.
        self._advertise = address if Address.parse(address).port else ""
        options = PeerPortOptions(listen=cluster.peer_listen, advertise=self._advertise)
        self._port = PeerPort(read_secret(secret_file), options)
        self.streams: Final[PeerStreams] = self._port.streams
        self._broker_id = broker_id
        self._disk = disk
        self._new_id = new_id
        self._configured = {voter.id: voter.address for voter in cluster.voters}
        # Nobody else is named: it founds a cluster of its own, to which others may come.
        founders = self._configured or {broker_id: self._advertise}
        self._founding: Founding | None = None
        if broker_id in founders:
            self._founding = Founding(
                FoundingOptions(broker_id=broker_id, voters=tuple(sorted(founders.items()))),
                OsFiles(),
                self.streams,
                disk=disk,
                new_id=new_id,
            )
        self._log: MemberLog | None = None

    async def open_metadata(self, directory: DataDirectory) -> MetadataLog:
        """As `OpenMetadata` says. Waits until there is a cluster, however long others take to come."""
        if self._founding is not None:
            await self._founding.make_formatted(directory)

        async def open_voter(addresses: Mapping[int, str]) -> GroupMetadataLog:
            return await GroupMetadataLog.open(
                OsFiles(),
                directory.path,
                broker_id=self._broker_id,
                directory_id=directory.directory_id,
                new_id=self._new_id,
                run_blocking=self._disk.run,
                make_links=self._port.links,
                configured=addresses,
                address=self._advertise,
            )

        log = await MemberLog.open(
            MemberOptions(broker_id=self._broker_id, configured=self._configured),
            OsFiles(),
            directory,
            self.streams,
            disk=self._disk,
            open_voter=open_voter,
        )
        self._log = log
        if self._founding is not None:
            self._founding.follow(lambda: log.image)
        return log

    def answer_found(self, peer: Peer, question: Found) -> Reply:
        """As `AnswerFound` says."""
        if self._founding is not None:
            return self._founding.founded(peer, question)
        return Failed("it is starting") if self._log is None else answer_found(self._log.image, peer)

    async def make_ready(self) -> Reply:
        """As `VoterSeat` says."""
        return Failed("it is starting") if self._log is None else await self._log.make_ready()

    def hand_over(self) -> None:
        """As `VoterSeat` says."""
        if self._log is not None:
            self._log.hand_over()
