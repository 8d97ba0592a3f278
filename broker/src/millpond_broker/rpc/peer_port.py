"""The broker-to-broker port of one broker: brokers' streams and, once there is a voter, its links."""

from __future__ import annotations

from typing import Final

from millpond_broker.consensus.peers import PeerEvents, PeerLinks
from millpond_broker.rpc.peer_links import GrpcPeerLinks
from millpond_broker.rpc.peer_secret import SECRET_BYTES_MIN
from millpond_broker.rpc.peer_server import PeerPortOptions, PeerServer
from millpond_broker.rpc.peer_streams import GrpcPeerStreams


class PeerPort:
    """`streams.start` listens, `streams.close` ends that, for the links as well."""

    def __init__(self, secret: bytes, options: PeerPortOptions) -> None:
        assert len(secret) >= SECRET_BYTES_MIN, "read_secret refuses it"
        self._secret = secret
        self._options = options
        self._server = PeerServer(options)
        self.streams: Final = GrpcPeerStreams(secret, self._server)

    def links(self, events: PeerEvents) -> PeerLinks:
        """The links of this broker's voter. Before this and after they are closed, those that come are
        refused.
        """
        return GrpcPeerLinks(events, self._secret, self._options, self._server)
