"""How two brokers prove to each other that they hold the cluster's secret, which never travels. Sans-IO.

    opener                                      server
    Hello(version, role, who, wanted, nonce) →
                                              ← Challenge(who, nonce)
    Proof(mac) →
                                              ← Accepted(mac), or Refusal(reason, mac)

Each MAC covers all fields of Hello and Challenge, so that whatever was altered on the way makes it wrong; and
the two have different labels, so that neither end's answer can be sent back to it as one's own. The opener
proves first: whoever only knocks at the port gets nothing that guesses of the secret could be tried against.
Both ends derive the stream's keys in the same way, one for each direction; `peer_frames` uses them.

In the role of a link between voters a broker is named without the incarnation of its start, in all others
with it.
"""

from __future__ import annotations

import enum
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from millpond.v1.internal import peer_pb2 as pb
from millpond_broker.consensus.peers import PeerIdentity

VERSION: Final = 1
NONCE_BYTES: Final = 32
MAC_BYTES: Final = 32
BROKER_ID_MAX: Final = (1 << 31) - 1
DIRECTORY_ID_CHARACTERS_MAX: Final = 512
CLUSTER_ID_BYTES_MAX: Final = 64
INCARNATION_BYTES: Final = 16
_PROTOCOL: Final = b"millpond peer link"


class Reason(enum.StrEnum):
    """Why a link was not made, or ended: a name for logs, each with a bounded number of lines."""

    MALFORMED = "malformed"
    VERSION = "version"
    ROLE = "role"
    WRONG_PEER = "wrong_peer"
    SECRET = "secret"  # noqa: S105 - the name of a reason, and no secret
    NOT_ADMITTED = "not_admitted"
    TOO_SLOW = "too_slow"
    TOO_MANY = "too_many"
    ALTERED = "altered"
    TOO_LARGE = "too_large"
    NO_ROOM = "no_room"
    STALLED = "stalled"
    REPLACED = "replaced"
    UNREACHABLE = "unreachable"
    REFUSED = "refused_by_peer"
    CLOSED = "closed"
    MOVED = "moved"
    FAILED = "failed"


class LinkRefused(Exception):
    """The link is not made, or does not go on."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Proven:
    """Who is at the other end, and the keys that only the two ends of this stream have."""

    peer: PeerIdentity
    key: bytes
    """Of what the opener sends."""
    incarnation: bytes = b""
    answers_key: bytes = b""
    """Of what the server sends."""


class Opener:
    """The end that opens the stream and then sends on it. Its methods are called once each, in this order."""

    def __init__(
        self,
        secret: bytes,
        identity: PeerIdentity,
        *,
        wanted: int,
        role: pb.PeerRole,
        nonce: bytes,
        incarnation: bytes = b"",
    ) -> None:
        assert len(nonce) == NONCE_BYTES
        self._secret = secret
        self._hello = pb.PeerHello(
            version=VERSION,
            role=role,
            opener=_name(identity, role, incarnation),
            wanted_broker_id=wanted,
            nonce=nonce,
        )
        self._challenge: pb.PeerChallenge | None = None

    def hello(self) -> pb.PeerFrame:
        """The first frame of a stream."""
        return pb.PeerFrame(hello=self._hello)

    def prove(self, answer: pb.PeerFrame) -> pb.PeerFrame:
        """The proof that the challenge asks for. Raises LinkRefused."""
        _check_kind(answer, "challenge")
        server = _identity(answer.challenge.server, self._hello.role)
        _check_nonce(answer.challenge.nonce)
        if server.broker_id != self._hello.wanted_broker_id:
            wanted = self._hello.wanted_broker_id
            raise LinkRefused(Reason.WRONG_PEER, f"broker {server.broker_id} answers there, not {wanted}")
        self._challenge = answer.challenge
        return pb.PeerFrame(proof=pb.PeerProof(mac=self._mac(b"opener")))

    def finish(self, answer: pb.PeerFrame) -> Proven:
        """Who it is that has proven itself. Raises LinkRefused; NOT_ADMITTED if it has, and does not let this
        end in.
        """
        assert self._challenge is not None, "prove comes first"
        if answer.WhichOneof("kind") == "refusal":
            reason = answer.refusal.reason
            if not hmac.compare_digest(answer.refusal.mac, self._mac(_refusal_label(reason))):
                raise LinkRefused(Reason.SECRET, "its refusal is nobody's: it has another cluster secret")
            raise LinkRefused(Reason.NOT_ADMITTED, reason)
        _check_kind(answer, "accepted")
        if not hmac.compare_digest(answer.accepted.mac, self._mac(b"server")):
            raise LinkRefused(Reason.SECRET, "its proof is wrong: it has another cluster secret")
        return _proven(self._challenge.server, self._hello.role, self._mac)

    def _mac(self, label: bytes) -> bytes:
        assert self._challenge is not None, "prove comes first"
        return _mac(self._secret, label, self._hello, self._challenge)


class Server:
    """The end that a stream is opened to. Its methods are called once each, in this order."""

    def __init__(
        self,
        secret: bytes,
        identity: PeerIdentity,
        *,
        role: pb.PeerRole,
        nonce: bytes,
        incarnation: bytes = b"",
    ) -> None:
        assert len(nonce) == NONCE_BYTES
        self._secret = secret
        self._role = role
        self._challenge = pb.PeerChallenge(server=_name(identity, role, incarnation), nonce=nonce)
        self._hello: pb.PeerHello | None = None

    def challenge(self, opening: pb.PeerFrame) -> pb.PeerFrame:
        """The answer to the first frame. Raises LinkRefused."""
        _check_kind(opening, "hello")
        hello, own = opening.hello, self._challenge.server.broker_id
        if hello.version != VERSION:
            raise LinkRefused(Reason.VERSION, f"version {hello.version} is not {VERSION}")
        if hello.role != self._role:
            raise LinkRefused(Reason.ROLE, f"role {hello.role} is not {self._role}")
        opener = _identity(hello.opener, self._role)
        _check_nonce(hello.nonce)
        if hello.wanted_broker_id != own:
            raise LinkRefused(Reason.WRONG_PEER, f"this is broker {own}, not {hello.wanted_broker_id}")
        if opener.broker_id == own:
            raise LinkRefused(Reason.WRONG_PEER, f"this is broker {own} too")
        self._hello = hello
        return pb.PeerFrame(challenge=self._challenge)

    def check(self, answer: pb.PeerFrame) -> Proven:
        """Who it is that has proven itself. Raises LinkRefused."""
        _check_kind(answer, "proof")
        assert self._hello is not None, "challenge comes first"
        if not hmac.compare_digest(answer.proof.mac, self._mac(b"opener")):
            raise LinkRefused(Reason.SECRET, "its proof is wrong: it has another cluster secret")
        return _proven(self._hello.opener, self._role, self._mac)

    def accept(self) -> pb.PeerFrame:
        """This end's own proof: only for a peer that has passed `check`."""
        return pb.PeerFrame(accepted=pb.PeerAccepted(mac=self._mac(b"server")))

    def refuse(self, reason: str) -> pb.PeerFrame:
        """That a peer is not let in, told to one that has passed `check`."""
        return pb.PeerFrame(refusal=pb.PeerRefusal(reason=reason, mac=self._mac(_refusal_label(reason))))

    def _mac(self, label: bytes) -> bytes:
        assert self._hello is not None, "challenge comes first"
        return _mac(self._secret, label, self._hello, self._challenge)


def _refusal_label(reason: str) -> bytes:
    return b"refusal " + reason.encode()


def _proven(name: pb.PeerName, role: pb.PeerRole, mac: Callable[[bytes], bytes]) -> Proven:
    return Proven(_identity(name, role), mac(b"stream"), name.incarnation, mac(b"answers"))


def _mac(secret: bytes, label: bytes, hello: pb.PeerHello, challenge: pb.PeerChallenge) -> bytes:
    """Each field with its length before it: no two handshakes have the same bytes."""
    fields = (
        _PROTOCOL,
        label,
        str(hello.version).encode(),
        str(hello.role).encode(),
        *_fields(hello.opener, hello.role),
        str(hello.wanted_broker_id).encode(),
        hello.nonce,
        *_fields(challenge.server, hello.role),
        challenge.nonce,
    )
    transcript = b"".join(len(field).to_bytes(8, "big") + field for field in fields)
    return hmac.digest(secret, transcript, "sha256")


def _fields(name: pb.PeerName, role: pb.PeerRole) -> tuple[bytes, ...]:
    fields = str(name.broker_id).encode(), name.directory_id.encode(), name.cluster_id
    return fields if role == pb.PEER_ROLE_METADATA else (*fields, name.incarnation)


def _name(identity: PeerIdentity, role: pb.PeerRole, incarnation: bytes) -> pb.PeerName:
    assert len(incarnation) == _incarnation_bytes(role), "a link's voter has none, a stream's broker has one"
    return pb.PeerName(
        broker_id=identity.broker_id,
        directory_id=identity.directory_id,
        cluster_id=identity.cluster_id,
        incarnation=incarnation,
    )


def _identity(name: pb.PeerName, role: pb.PeerRole) -> PeerIdentity:
    if not 1 <= name.broker_id <= BROKER_ID_MAX:
        raise LinkRefused(Reason.MALFORMED, "a broker id that is none")
    if len(name.directory_id) > DIRECTORY_ID_CHARACTERS_MAX or len(name.cluster_id) > CLUSTER_ID_BYTES_MAX:
        raise LinkRefused(Reason.MALFORMED, "a directory id or a cluster id that is too long")
    if len(name.incarnation) != _incarnation_bytes(role):
        raise LinkRefused(Reason.MALFORMED, f"an incarnation of {len(name.incarnation)} bytes")
    return PeerIdentity(name.broker_id, name.directory_id, name.cluster_id)


def _incarnation_bytes(role: pb.PeerRole) -> int:
    return 0 if role == pb.PEER_ROLE_METADATA else INCARNATION_BYTES


def _check_kind(frame: pb.PeerFrame, wanted: str) -> None:
    if (kind := frame.WhichOneof("kind")) != wanted:
        raise LinkRefused(Reason.MALFORMED, f"{kind or 'nothing known'} where {wanted} was due")


def _check_nonce(nonce: bytes) -> None:
    if len(nonce) != NONCE_BYTES:
        raise LinkRefused(Reason.MALFORMED, f"a nonce of {len(nonce)} bytes")
