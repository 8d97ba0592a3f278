from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PeerRole(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PEER_ROLE_UNSPECIFIED: _ClassVar[PeerRole]
    PEER_ROLE_METADATA: _ClassVar[PeerRole]
    PEER_ROLE_CONTROL: _ClassVar[PeerRole]
    PEER_ROLE_REPLICATION: _ClassVar[PeerRole]
    PEER_ROLE_SUBSCRIPTION: _ClassVar[PeerRole]
PEER_ROLE_UNSPECIFIED: PeerRole
PEER_ROLE_METADATA: PeerRole
PEER_ROLE_CONTROL: PeerRole
PEER_ROLE_REPLICATION: PeerRole
PEER_ROLE_SUBSCRIPTION: PeerRole

class PeerFrame(_message.Message):
    __slots__ = ("hello", "challenge", "proof", "accepted", "pieces", "refusal")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    CHALLENGE_FIELD_NUMBER: _ClassVar[int]
    PROOF_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    PIECES_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    hello: PeerHello
    challenge: PeerChallenge
    proof: PeerProof
    accepted: PeerAccepted
    pieces: PeerPieces
    refusal: PeerRefusal
    def __init__(self, hello: _Optional[_Union[PeerHello, _Mapping]] = ..., challenge: _Optional[_Union[PeerChallenge, _Mapping]] = ..., proof: _Optional[_Union[PeerProof, _Mapping]] = ..., accepted: _Optional[_Union[PeerAccepted, _Mapping]] = ..., pieces: _Optional[_Union[PeerPieces, _Mapping]] = ..., refusal: _Optional[_Union[PeerRefusal, _Mapping]] = ...) -> None: ...

class PeerName(_message.Message):
    __slots__ = ("broker_id", "directory_id", "cluster_id", "incarnation")
    BROKER_ID_FIELD_NUMBER: _ClassVar[int]
    DIRECTORY_ID_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    broker_id: int
    directory_id: str
    cluster_id: bytes
    incarnation: bytes
    def __init__(self, broker_id: _Optional[int] = ..., directory_id: _Optional[str] = ..., cluster_id: _Optional[bytes] = ..., incarnation: _Optional[bytes] = ...) -> None: ...

class PeerHello(_message.Message):
    __slots__ = ("version", "role", "opener", "wanted_broker_id", "nonce")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    OPENER_FIELD_NUMBER: _ClassVar[int]
    WANTED_BROKER_ID_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    version: int
    role: PeerRole
    opener: PeerName
    wanted_broker_id: int
    nonce: bytes
    def __init__(self, version: _Optional[int] = ..., role: _Optional[_Union[PeerRole, str]] = ..., opener: _Optional[_Union[PeerName, _Mapping]] = ..., wanted_broker_id: _Optional[int] = ..., nonce: _Optional[bytes] = ...) -> None: ...

class PeerChallenge(_message.Message):
    __slots__ = ("server", "nonce")
    SERVER_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    server: PeerName
    nonce: bytes
    def __init__(self, server: _Optional[_Union[PeerName, _Mapping]] = ..., nonce: _Optional[bytes] = ...) -> None: ...

class PeerProof(_message.Message):
    __slots__ = ("mac",)
    MAC_FIELD_NUMBER: _ClassVar[int]
    mac: bytes
    def __init__(self, mac: _Optional[bytes] = ...) -> None: ...

class PeerAccepted(_message.Message):
    __slots__ = ("mac",)
    MAC_FIELD_NUMBER: _ClassVar[int]
    mac: bytes
    def __init__(self, mac: _Optional[bytes] = ...) -> None: ...

class PeerRefusal(_message.Message):
    __slots__ = ("reason", "mac")
    REASON_FIELD_NUMBER: _ClassVar[int]
    MAC_FIELD_NUMBER: _ClassVar[int]
    reason: str
    mac: bytes
    def __init__(self, reason: _Optional[str] = ..., mac: _Optional[bytes] = ...) -> None: ...

class PeerPieces(_message.Message):
    __slots__ = ("pieces",)
    PIECES_FIELD_NUMBER: _ClassVar[int]
    pieces: _containers.RepeatedCompositeFieldContainer[PeerPiece]
    def __init__(self, pieces: _Optional[_Iterable[_Union[PeerPiece, _Mapping]]] = ...) -> None: ...

class PeerPiece(_message.Message):
    __slots__ = ("sequence", "flags", "payload", "mac")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    MAC_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    flags: int
    payload: bytes
    mac: bytes
    def __init__(self, sequence: _Optional[int] = ..., flags: _Optional[int] = ..., payload: _Optional[bytes] = ..., mac: _Optional[bytes] = ...) -> None: ...
