"""The configuration files of a local cluster's brokers, and the secret that they share."""

from __future__ import annotations

import json
import secrets
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from millpond._local.examining import CONFIG, SECRET
from millpond._local.ports import LOOPBACK, free_ports
from millpond._local.whole import write_whole
from millpond.wire.errors import InvalidConfig

_OWN_KEYS: Final = (
    "broker.id",
    "broker.data_dir",
    "broker.listen",
    "cluster.peer_listen",
    "cluster.peer_advertise",
    "cluster.voters",
    "cluster.secret_file",
    "http.listen",
)


class Addresses(NamedTuple):
    """Where one broker listens, each as host:port."""

    client: str
    peer: str
    http: str


def count_before(directory: Path) -> int:
    """How many brokers have their data there, or had: those that are left know who votes."""
    there = [path.parents[1] for path in directory.glob("broker-*/data/metadata")]
    return max([len(there), *(len(_cluster_of(home).get("voters", ())) for home in there)])


def check_count(directory: Path, count: int, voters: int | None = None) -> None:
    """A directory that is found again has as many brokers as before: they are who votes. With `voters` named
    others may have joined them.
    """
    before = count_before(directory)
    if before not in (0, count) and (voters is None or before > count):
        raise InvalidConfig(key="brokers", reason=f"{directory} has a cluster of {before}, not {count}")


def write_configs(
    directory: Path,
    count: int,
    config: Mapping[str, Any],
    voters: int | None = None,
    *,
    addresses: Sequence[Addresses] | None = None,
) -> None:
    """Every broker's file, with these addresses or free ones, and the secret that they share; the first
    `voters` vote, or all. Where addresses are chosen here, voters of before keep those by which the others
    know them.

    Raises InvalidConfig as a broker would.
    """
    for key in _OWN_KEYS:
        if key in config:
            raise InvalidConfig(key=key, reason="is chosen by LocalCluster")
    homes = [directory / f"broker-{number}" for number in range(1, count + 1)]
    if addresses is None:
        # The metadata of several voters have the addresses by which they reach each other.
        known = _peer_addresses(homes) if count > 1 else {}
        chosen = enumerate(free(count), 1)
        addresses = [own._replace(peer=known.get(number, own.peer)) for number, own in chosen]
    together: dict[str, Any] = {}
    if count > 1:
        secret = directory / SECRET
        _make_secret(secret)
        together = {
            "cluster.voters": [f"{number}@{own.peer}" for number, own in enumerate(addresses[:voters], 1)],
            "cluster.secret_file": str(secret),
        }
    for number, (home, where) in enumerate(zip(homes, addresses, strict=True), 1):
        home.mkdir(parents=True, exist_ok=True)
        own = {
            "broker.id": number,
            "broker.data_dir": str(home / "data"),
            "broker.listen": where.client,
            "cluster.peer_listen": where.peer,
            "http.listen": where.http,
        }
        _write_config(home / CONFIG, own | together | dict(config))


def free(count: int) -> list[Addresses]:
    """For so many brokers, where nobody listens just now."""
    ports = iter(free_ports(3 * count))
    return [Addresses(*(f"{LOOPBACK}:{next(ports)}" for _ in range(3))) for _ in range(count)]


def _make_secret(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # An empty one is of a start that was killed as it made it: no broker has ever started with that.
    if not path.exists() or not path.stat().st_size:
        write_whole(path, secrets.token_hex(), 0o600)


def _peer_addresses(homes: Sequence[Path]) -> dict[int, str]:
    """Where the others reach each broker that has been there before. That of one whose own directory was lost
    is what the others were told: in their metadata it is that for good.
    """
    own: dict[int, str] = {}
    told: dict[int, str] = {}
    for number, home in enumerate(homes, 1):
        if not (home / "data" / "metadata").exists():
            continue
        cluster = _cluster_of(home)
        if isinstance(address := cluster.get("peer_listen"), str):
            own[number] = address
        for voter in cluster.get("voters", ()):
            broker, _, address = str(voter).partition("@")
            if broker.isdecimal() and address:
                told[int(broker)] = address
    return told | own


def _cluster_of(home: Path) -> Mapping[str, Any]:
    """What a broker's configuration says of its cluster; nothing where it cannot be read."""
    try:
        cluster = tomllib.loads((home / CONFIG).read_text(encoding="utf-8"))["cluster"]
    except (OSError, ValueError, KeyError):
        return {}
    return cluster if isinstance(cluster, dict) else {}


def _write_config(path: Path, config: Mapping[str, Any]) -> None:
    sections: dict[str, list[str]] = {}
    for key, value in config.items():
        section, _, name = key.partition(".")
        sections.setdefault(section, []).append(f"{json.dumps(name)} = {_toml(key, value)}")
    text = "\n".join(
        "\n".join((f"[{json.dumps(section)}]", *lines, "")) for section, lines in sections.items()
    )
    write_whole(path, text)
    # What is wrong with it is better said here than by a process that ends.
    from millpond_broker.config import load  # noqa: PLC0415 - a crossing, and only when brokers are started

    load(path, {}, {})


def _toml(key: str, value: object) -> str:
    if isinstance(value, bool | int | float):
        return str(value).lower()
    if isinstance(value, str | Path):
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml(key, item) for item in value)}]"
    raise InvalidConfig(key=key, reason=f"{value!r} has no form in a configuration file")
