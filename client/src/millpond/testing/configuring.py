"""The configuration files of a local cluster's brokers, and the secret that they share."""

from __future__ import annotations

import json
import secrets
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from millpond.testing.ports import LOOPBACK, free_ports
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


def check_count(directory: Path, count: int, voters: int | None) -> None:
    """A directory that is found again has as many brokers as before: they are who votes. With `voters` named
    others may have joined them.
    """
    before = len(list(directory.glob("broker-*/data/metadata")))
    if before not in (0, count) and (voters is None or before > count):
        raise InvalidConfig(key="brokers", reason=f"{directory} has a cluster of {before}, not {count}")


def write_configs(directory: Path, count: int, config: Mapping[str, Any], voters: int | None = None) -> None:
    """Every broker's file, with ports of its own, and the secret that they share. The first `voters` vote,
    or all. Raises InvalidConfig as a broker would.
    """
    for key in _OWN_KEYS:
        if key in config:
            raise InvalidConfig(key=key, reason="is chosen by LocalCluster")
    homes = [directory / f"broker-{number}" for number in range(1, count + 1)]
    ports = iter(free_ports(3 * count))
    addresses = [tuple(f"{LOOPBACK}:{next(ports)}" for _ in range(3)) for _ in homes]
    # The metadata of several voters have the addresses by which they reach each other.
    kept = [_peer_address(home) if count > 1 else None for home in homes]
    peers = [before or peer for before, (_, peer, _) in zip(kept, addresses, strict=True)]
    together: dict[str, Any] = {}
    if count > 1:
        secret = directory / "secret"
        _make_secret(secret)
        together = {
            "cluster.voters": [f"{number}@{peer}" for number, peer in enumerate(peers[:voters], 1)],
            "cluster.secret_file": str(secret),
        }
    for number, (home, (client, _, scraped), peer) in enumerate(zip(homes, addresses, peers, strict=True), 1):
        home.mkdir(parents=True, exist_ok=True)
        own = {
            "broker.id": number,
            "broker.data_dir": str(home / "data"),
            "broker.listen": client,
            "cluster.peer_listen": peer,
            "http.listen": scraped,
        }
        _write_config(home / "broker.toml", own | together | dict(config))


def _make_secret(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(), encoding="ascii")


def _peer_address(home: Path) -> str | None:
    """Where the other voters reach a broker that has been one before."""
    if not (home / "data" / "metadata").exists():
        return None
    try:
        found = tomllib.loads((home / "broker.toml").read_text(encoding="utf-8"))
        address = found["cluster"]["peer_listen"]
    except (OSError, ValueError, KeyError):
        return None
    return address if isinstance(address, str) else None


def _write_config(path: Path, config: Mapping[str, Any]) -> None:
    sections: dict[str, list[str]] = {}
    for key, value in config.items():
        section, _, name = key.partition(".")
        sections.setdefault(section, []).append(f"{json.dumps(name)} = {_toml(key, value)}")
    text = "\n".join(
        "\n".join((f"[{json.dumps(section)}]", *lines, "")) for section, lines in sections.items()
    )
    path.write_text(text, encoding="utf-8")
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
