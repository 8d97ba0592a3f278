"""What makes a broker one of several: the port to the others, and metadata that voters agree on.

Beside `app`, which imports it only where there are others.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from millpond_broker.config import Address, Config
from millpond_broker.consensus.group import GroupMetadataLog
from millpond_broker.consensus.metadata_log import MetadataLog
from millpond_broker.rpc.peer_port import PeerPort
from millpond_broker.rpc.peer_secret import read_secret
from millpond_broker.rpc.peer_server import PeerPortOptions
from millpond_broker.runtime.broker import OpenMetadata
from millpond_broker.runtime.founding import Founding, FoundingOptions
from millpond_broker.runtime.peering import AnswerFound
from millpond_broker.runtime.peers import PeerStreams
from millpond_broker.runtime.ports import DiskThread
from millpond_broker.storage.directory import DataDirectory
from millpond_broker.storage.files import OsFiles


class Others:
    """The port; and, where there are several voters, their metadata."""

    def __init__(
        self, config: Config, secret_file: Path, disk: DiskThread, new_id: Callable[[], bytes]
    ) -> None:
        """Raises InvalidConfig for a secret that cannot be had."""
        cluster, broker_id = config.cluster, config.broker.id
        address = cluster.peer_address(broker_id)
        # Without a port it is not known yet: the one that is really open is told.
        advertise = address if Address.parse(address).port else ""
        options = PeerPortOptions(listen=cluster.peer_listen, advertise=advertise)
        port = PeerPort(read_secret(secret_file), options)
        self.streams: Final[PeerStreams] = port.streams
        self.open_metadata: OpenMetadata | None = None
        self.answer_found: AnswerFound | None = None
        if len(cluster.voters) > 1:
            voters = _Voters(config, port, disk, new_id)
            self.open_metadata, self.answer_found = voters.open, voters.founding.founded


class _Voters:
    """The metadata of one voter of several: founded at the first start, and followed from then on."""

    def __init__(self, config: Config, port: PeerPort, disk: DiskThread, new_id: Callable[[], bytes]) -> None:
        self._port = port
        self._disk = disk
        self._broker_id = config.broker.id
        self._voters = {voter.id: voter.address for voter in config.cluster.voters}
        self.founding: Final = Founding(
            FoundingOptions(broker_id=config.broker.id, voters=tuple(sorted(self._voters.items()))),
            OsFiles(),
            port.streams,
            disk=disk,
            new_id=new_id,
        )

    async def open(self, directory: DataDirectory, incarnation: bytes) -> MetadataLog:
        """As `OpenMetadata` says. Waits until there is a cluster, however long others take to come."""
        await self.founding.make_formatted(directory)
        log = await GroupMetadataLog.open(
            OsFiles(),
            directory.path,
            broker_id=self._broker_id,
            directory_id=directory.directory_id,
            new_id=lambda: incarnation,
            run_blocking=self._disk.run,
            make_links=self._port.links,
            configured=self._voters,
        )
        self.founding.follow(lambda: log.image)
        return log
