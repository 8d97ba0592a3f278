"""The broker's configuration: a TOML file, then the environment, then flags; checked as a whole.

A setting is a field of one of the frozen dataclasses here; docs/configuration.md is made from them. Whatever
is wrong, unknown or missing raises InvalidConfig with the name of the key, as section.key. Each part of the
broker declares the options that it needs; only app.py sees this.
"""

from __future__ import annotations

import dataclasses
import socket
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from millpond.wire.errors import InvalidConfig

ENVIRONMENT_PREFIX: Final = "MILLPOND_"
FILE_BYTES_MAX: Final = 1 << 20
"""A configuration is a page of text: what is larger was not meant to be one."""
PATH_CHARACTERS_MAX: Final = 4096
HOST_CHARACTERS_MAX: Final = 253  # of a domain name
LABEL_CHARACTERS_MAX: Final = 63  # of a part of it, between dots
RACK_CHARACTERS_MAX: Final = 255
SHOWN_CHARACTERS_MAX: Final = 100  # of a value in a message
VOTERS_MAX: Final = 7
"""More voters make each decision slower and the cluster no safer."""


class Address(NamedTuple):
    """host:port; an IPv6 host stands in brackets in text and without them here."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """Raises ValueError with what is wrong with it."""
        host, colon, port = text.rpartition(":")
        if not colon or not host:
            raise ValueError("is not host:port")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
            if not (host.isprintable() and _is_ipv6(host)):  # a zone may be of any characters
                raise ValueError("has something in brackets that is no IPv6 address")
        elif ":" in host:
            raise ValueError("has an IPv6 address that is not in brackets")
        elif len(host) > HOST_CHARACTERS_MAX or not _is_host(host):
            raise ValueError("has a host that is none")
        # isdecimal alone takes digits of every script, which nobody means in a port.
        if not (port.isascii() and port.isdecimal() and len(port) <= 5 and int(port) <= 65535):
            raise ValueError("has a port that is not a number from 0 to 65535")
        return cls(host, int(port))

    @property
    def everywhere(self) -> bool:
        """Whether this listens on all interfaces, and so names no host that others can reach."""
        try:
            return ip_address(self.host).is_unspecified
        except ValueError:
            return False


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True


def _is_host(text: str) -> bool:
    # A label that is empty or too long makes the resolver fail with another error than OSError.
    labels = text.removesuffix(".").split(".")
    allowed = text.isascii() and all(c.isalnum() or c in "-._" for c in text)
    return allowed and all(0 < len(label) <= LABEL_CHARACTERS_MAX for label in labels)


# --- fields ------------------------------------------------------------------------------------------


class Kind(NamedTuple):
    """How a setting is written: `name` for the reference page, and the bounds of a number, both inclusive."""

    name: str
    minimum: int = 0
    maximum: int = 0


LISTEN: Final = Kind("host:port; port 0 takes a free one")
ADVERTISE: Final = Kind("host:port that others can reach")
FILE_PATH: Final = Kind("a path")
WORD: Final = Kind(f"up to {RACK_CHARACTERS_MAX} printable characters")
VOTERS: Final = Kind('"id@host:port", one a voter')


def _setting(kind: Kind, **default: Any) -> Any:
    return dataclasses.field(metadata={"kind": kind}, **default)


def _integer(minimum: int, maximum: int, **default: Any) -> Any:
    return _setting(Kind("a whole number", minimum, maximum), **default)


@dataclass(frozen=True, kw_only=True)
class BrokerConfig:
    """Who this broker is, where its data are, and where clients reach it."""

    id: int = _integer(1, (1 << 31) - 1)
    """The broker's number in its cluster. It stays with the data directory for good."""
    data_dir: Path = _setting(FILE_PATH)  # noqa: RUF009 - it makes a field, as dataclasses.field does
    """Where everything is kept; made at the first start. A relative one begins where the broker
    is started. One broker each."""
    rack: str = _setting(WORD, default="")
    """What shares a fate (a rack, a zone): shown with the broker, and later used to spread replicas."""
    listen: str = _setting(LISTEN, default="0.0.0.0:7070")
    """Where clients are served."""
    advertise: str | None = _setting(ADVERTISE, default=None)
    """The address that clients are told to come to, if it is not the one listened on: behind a NAT or a
    published port. Without it, the host of `listen` (or this machine's name, if that is all interfaces) and
    the port that is really open."""

    def client_address(self, port: int) -> str:
        """host:port that clients are told, where `port` is the one that the listener got."""
        if self.advertise is not None:
            return self.advertise
        return str(_reachable(Address.parse(self.listen)._replace(port=port)))


@dataclass(frozen=True, kw_only=True)
class Voter:
    """One of those who hold the cluster's metadata, by its id and its broker-to-broker address."""

    id: int
    address: str

    def __str__(self) -> str:
        return f"{self.id}@{self.address}"


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """How brokers reach each other, and who decides. A broker alone needs nothing of this, and listens for no
    other. Several brokers found their cluster at their first start, once all voters are there; others follow.
    """

    peer_listen: str = _setting(LISTEN, default="0.0.0.0:7071")
    """Where other brokers are served, if there is a `secret_file`; clients have no business there."""
    peer_advertise: str | None = _setting(ADVERTISE, default=None)
    """The address that other brokers are told. Without it, this broker's entry in `voters`, else as for
    `broker.advertise`."""
    voters: tuple[Voter, ...] = _setting(VOTERS, default=())
    """Who holds the cluster's metadata: 3 outlive the loss of one, 5 of two. The same for every broker. Those
    named found the cluster at their first start; any other, and one that comes later, finds by it whom to
    follow, and can be made a voter then (`millpond cluster add-voter`). Nothing means this broker alone."""
    secret_file: Path | None = _setting(FILE_PATH, default=None)  # noqa: RUF009 - as above
    """A file that every broker of the cluster has, and nobody else: 16 bytes or more, whatever they are, by
    which brokers know each other. Required where there are others; a broker alone that has one can be joined
    by others."""

    def peer_address(self, broker_id: int) -> str:
        """host:port that other brokers are told of this one."""
        if self.peer_advertise is not None:
            return self.peer_advertise
        for voter in self.voters:
            if voter.id == broker_id:
                return voter.address
        return str(_reachable(Address.parse(self.peer_listen)))


@dataclass(frozen=True, kw_only=True)
class HttpConfig:
    """The port for metrics and health, for machines: unencrypted, and answers anybody."""

    listen: str = _setting(LISTEN, default="127.0.0.1:7072")
    """Where /metrics, /healthz and /readyz are served. This host only, unless said otherwise."""


@dataclass(frozen=True, kw_only=True)
class LimitsConfig:
    """What bounds memory and waiting. Sizes in bytes, times in ms."""

    batch_bytes_max: int = _integer(1 << 10, 16 << 20, default=4 << 20)
    """Largest batch of records taken from a producer. Clients are told, and cut their batches to it."""
    produce_stream_bytes_max: int = _integer(1 << 10, 1 << 30, default=16 << 20)
    """Bytes of one produce stream that may be unanswered before the broker stops reading it: a producer is
    slowed to what the disk takes, and none takes all of `produce_bytes_max`."""
    produce_bytes_max: int = _integer(1 << 10, 1 << 36, default=64 << 20)
    """The same, of all produce streams together: what a stalled disk can pile up in memory."""
    fetch_stream_bytes_max: int = _integer(1 << 10, 1 << 30, default=16 << 20)
    """Credit that is honoured for each fetch stream: what the broker sends ahead of a reader's need."""
    fetch_chunk_bytes: int = _integer(1 << 10, 16 << 20, default=1 << 20)
    """Read and sent of one partition at a turn, a batch at least: small enough that partitions take turns,
    large enough to cost little each."""
    streams_max: int = _integer(1, 1_000_000, default=10_000)
    """Produce and fetch streams open at once: each takes memory and tasks."""
    partitions_max: int = _integer(1, 100_000, default=4096)
    """Partitions of all topics: each takes three open files, memory, and some milliseconds at a start."""
    timestamp_ahead_ms_max: int = _integer(0, 2**62, default=3_600_000)
    """How far ahead of the broker's clock a record's time may be: its segment outlives its retention by as
    much."""
    upkeep_ms: int = _integer(100, 3_600_000, default=10_000)
    """How often retention looks for what to drop, and failed partitions get another chance."""
    stop_timeout_ms: int = _integer(0, 3_600_000, default=30_000)
    """How long a stop waits for what is under way before it ends it."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that can be set for a broker, section by section."""

    broker: BrokerConfig
    cluster: ClusterConfig
    http: HttpConfig
    limits: LimitsConfig


SECTIONS: Final[Mapping[str, type]] = MappingProxyType(
    {"broker": BrokerConfig, "cluster": ClusterConfig, "http": HttpConfig, "limits": LimitsConfig}
)
_FIELDS: Final = MappingProxyType(
    {
        f"{section}.{field.name}": field
        for section, cls in SECTIONS.items()
        for field in dataclasses.fields(cls)
    }
)


# --- loading -----------------------------------------------------------------------------------------


def load(path: Path | None, environ: Mapping[str, str], overrides: Mapping[str, str]) -> Config:
    """The configuration: the file's values, over them the environment's, over them `overrides`.

    A variable is MILLPOND_SECTION__KEY, an override section.key; both hold text, and several voters stand
    with commas between. Raises InvalidConfig.
    """
    values: dict[str, Any] = {}
    for key, value in _from_file(path).items():
        values[key] = _parse(key, value)
    for name, text in sorted(environ.items()):
        # MILLPOND_BOOTSTRAP and the like, without the two underscores, are the client's.
        if name.startswith(ENVIRONMENT_PREFIX) and "__" in (rest := name[len(ENVIRONMENT_PREFIX) :]):
            section, _, key = rest.lower().partition("__")
            values[f"{section}.{key}"] = _parse_text(f"{section}.{key}", text, f" (in {_on_one_line(name)})")
    for key, text in overrides.items():
        values[key] = _parse_text(key, text, "")
    return _build(values)


def _build(values: Mapping[str, Any]) -> Config:
    sections: dict[str, Any] = {}
    for section, cls in SECTIONS.items():
        given: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            key = f"{section}.{field.name}"
            if key in values:
                given[field.name] = values[key]
            elif field.default is dataclasses.MISSING:
                raise InvalidConfig(key=key, reason="is required")
        sections[section] = cls(**given)
    config = Config(**sections)
    _check_voters(config)
    _check_limits(config.limits)
    _check_ports(config)
    return config


def _from_file(path: Path | None) -> dict[str, object]:
    if path is None:
        return {}
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidConfig(key=str(path), reason=f"cannot be read: {reason}") from None
    if len(data) > FILE_BYTES_MAX:
        raise InvalidConfig(key=str(path), reason=f"has more than {FILE_BYTES_MAX} bytes")
    try:
        # A byte order mark is what some editors put in front, and tomllib refuses.
        document = tomllib.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:  # RecursionError: arrays nested a thousand deep
        reason = "is nested too deep" if isinstance(error, RecursionError) else f"is not TOML: {error}"
        raise InvalidConfig(key=str(path), reason=reason) from None
    values: dict[str, object] = {}
    for section, table in document.items():
        _check_section(section, section, "")
        if not isinstance(table, dict):
            raise InvalidConfig(key=section, reason=f"is a section: write [{section}], and its keys below it")
        for key, value in table.items():
            values[f"{section}.{key}"] = value
    return values


def _check_section(section: str, key: str, where: str) -> None:
    if section not in SECTIONS:
        reason = f"unknown section{_did_you_mean(section, SECTIONS)}{where}"
        raise InvalidConfig(key=_on_one_line(key), reason=reason)


def _did_you_mean(word: str, known: Mapping[str, Any]) -> str:
    close = get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _kind(key: str, where: str) -> Kind:
    """What the key holds. Raises InvalidConfig for one that there is not."""
    section, _, _ = key.partition(".")
    _check_section(section, key, where)
    if key not in _FIELDS:
        reason = f"unknown setting{_did_you_mean(key, _FIELDS)}{where}"
        raise InvalidConfig(key=_on_one_line(key), reason=reason)
    kind: Kind = _FIELDS[key].metadata["kind"]
    return kind


def _parse_text(key: str, text: str, where: str) -> object:
    """A value as the environment and flags hold it: text, whatever it stands for."""
    kind = _kind(key, where)
    value: object = text
    if kind is VOTERS:
        value = [part.strip() for part in text.split(",")] if text.strip() else []
    elif kind.maximum:
        number = text.strip()  # int() strips too, but fewer characters
        digits = number.removeprefix("-")
        if not (digits.isascii() and digits.isdecimal() and len(digits) <= 20):
            raise InvalidConfig(key=key, reason=f"{_shown(text)} is not a whole number{where}")
        value = int(number)
    return _parse(key, value, where)


def _parse(key: str, value: object, where: str = "") -> object:
    """A value of the right type for the key, in its bounds."""
    kind = _kind(key, where)
    try:
        if kind.maximum:
            return _parse_integer(kind, value)
        if kind is VOTERS:
            return _parse_voters(value)
        return _parse_string(kind, value)
    except ValueError as error:
        raise InvalidConfig(key=key, reason=f"{error}{where}") from None


def _parse_integer(kind: Kind, value: object) -> int:
    if type(value) is not int:  # a float would be cut, a bool read as 0 or 1
        raise ValueError(f"{_shown(value)} is not a whole number")
    if not kind.minimum <= value <= kind.maximum:
        raise ValueError(f"{_shown(value)} is not within {kind.minimum} to {kind.maximum}")
    return value


def _parse_string(kind: Kind, value: object) -> str | Path:
    if not isinstance(value, str):
        raise ValueError(f"{_shown(value)} is not text")  # noqa: TRY004 - _parse gives it its key
    if kind is WORD:
        if len(value) > RACK_CHARACTERS_MAX or not value.isprintable():
            raise ValueError(f"{_shown(value)} is not {kind.name}")
        return value
    if kind is FILE_PATH:
        if not value or len(value) > PATH_CHARACTERS_MAX or "\0" in value:
            raise ValueError(f"{_shown(value)} is not a path")
        return Path(value)
    try:
        address = Address.parse(value)
    except ValueError as error:
        raise ValueError(f"{_shown(value)} {error}") from None
    if kind is ADVERTISE:
        _check_reachable(address)
    return str(address)


def _check_reachable(address: Address) -> None:
    if address.everywhere or not address.port:
        raise ValueError(f"'{address}' is not an address that others can come to: name a host and a port")


def _parse_voters(value: object) -> tuple[Voter, ...]:
    if not isinstance(value, list) or len(value) > VOTERS_MAX:
        raise ValueError(f'{_shown(value)} is not a list of up to {VOTERS_MAX} voters, each "id@host:port"')
    voters = tuple(map(_parse_voter, value))
    for what, seen in (("id", [v.id for v in voters]), ("address", [v.address for v in voters])):
        if len(set(seen)) < len(seen):
            raise ValueError(f"two voters have the same {what}")
    return voters


def _parse_voter(value: object) -> Voter:
    number, at, address = value.partition("@") if isinstance(value, str) else ("", "", "")
    if not (at and number.isascii() and number.isdecimal() and 0 < len(number) <= 10):
        raise ValueError(f"{_shown(value)} is not a voter: write id@host:port")
    bounds: Kind = _FIELDS["broker.id"].metadata["kind"]
    if not bounds.minimum <= int(number) <= bounds.maximum:
        raise ValueError(f"{_shown(value)} has an id that is not within {bounds.minimum} to {bounds.maximum}")
    try:
        parsed = Address.parse(address)
    except ValueError as error:
        raise ValueError(f"{_shown(value)} {error}") from None
    _check_reachable(parsed)
    return Voter(id=int(number), address=str(parsed))


def _on_one_line(key: str) -> str:
    """A key as it was given, unless that would make the message more than a line."""
    return key if key.isprintable() and len(key) <= SHOWN_CHARACTERS_MAX else _shown(key)


def _shown(value: object) -> str:
    """A value as a message quotes it: one short line, whatever it is."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, nesting without end
        return "this value"
    return text if len(text) <= SHOWN_CHARACTERS_MAX else f"{text[:SHOWN_CHARACTERS_MAX]}…"


# --- what must hold between settings -----------------------------------------------------------------


def _check_voters(config: Config) -> None:
    voters = config.cluster.voters
    if not voters:
        return
    own = next((voter for voter in voters if voter.id == config.broker.id), None)
    if own is None:
        if config.cluster.secret_file is None:
            reason = f"is required: broker {config.broker.id} is none of the voters, and has to follow them"
            raise InvalidConfig(key="cluster.secret_file", reason=reason)
        return
    if own.address != config.cluster.peer_address(config.broker.id):
        advertised = config.cluster.peer_advertise
        reason = f"{own} is this broker, and cluster.peer_advertise says {advertised}"
        raise InvalidConfig(key="cluster.voters", reason=reason)
    if len(voters) > 1 and config.cluster.secret_file is None:
        reason = f"is required with {len(voters)} voters: by it they know each other"
        raise InvalidConfig(key="cluster.secret_file", reason=reason)


_AT_LEAST: Final = (
    # the larger, the smaller, and what would never move otherwise
    ("produce_stream_bytes_max", "batch_bytes_max", "a stream would never take the largest batch"),
    ("produce_bytes_max", "produce_stream_bytes_max", "one stream would never get what it may have"),
    ("fetch_stream_bytes_max", "batch_bytes_max", "a reader could not be sent the largest batch"),
    ("fetch_stream_bytes_max", "fetch_chunk_bytes", "no chunk would ever be full"),
)


def _check_limits(limits: LimitsConfig) -> None:
    for larger, smaller, otherwise in _AT_LEAST:
        least, value = getattr(limits, smaller), getattr(limits, larger)
        if value < least:
            reason = f"{value} is less than limits.{smaller}, {least}: {otherwise}"
            raise InvalidConfig(key=f"limits.{larger}", reason=reason)


def _check_ports(config: Config) -> None:
    """Two listeners on one address: the second could not start, and might steal from the first."""
    taken: dict[str, Address] = {}
    for key, text in (
        ("broker.listen", config.broker.listen),
        ("cluster.peer_listen", config.cluster.peer_listen),
        ("http.listen", config.http.listen),
    ):
        address = Address.parse(text)
        for other, theirs in taken.items():
            same_host = address.host == theirs.host or address.everywhere or theirs.everywhere
            if address.port and address.port == theirs.port and same_host:
                raise InvalidConfig(key=key, reason=f"{address} is also where {other} listens")
        taken[key] = address


def _reachable(address: Address) -> Address:
    """The address by which another machine may reach a listener there: its own name for all interfaces."""
    return address._replace(host=socket.gethostname() or "localhost") if address.everywhere else address
