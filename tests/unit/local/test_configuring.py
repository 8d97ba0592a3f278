"""The files that a local cluster's brokers start with: voters are known by one address for good."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest

from millpond._local.configuring import write_configs


def configs(directory: Path) -> list[dict[str, Any]]:
    paths = sorted(directory.glob("broker-*/broker.toml"))
    return [tomllib.loads(path.read_text()) for path in paths]


@pytest.mark.parametrize("voters", [None, 3])
def test_a_lost_directory_does_not_change_who_votes(voters: int | None, tmp_path: Path) -> None:
    count = 3 if voters is None else 4
    write_configs(tmp_path, count, {}, voters)
    before = [(each["cluster"]["voters"], each["cluster"]["peer_listen"]) for each in configs(tmp_path)]
    for number in range(1, count + 1):
        (tmp_path / f"broker-{number}" / "data" / "metadata").mkdir(parents=True)
    shutil.rmtree(tmp_path / "broker-2")
    write_configs(tmp_path, count, {}, voters)
    assert [
        (each["cluster"]["voters"], each["cluster"]["peer_listen"]) for each in configs(tmp_path)
    ] == before


def test_before_anybody_has_metadata_ports_are_found_anew(tmp_path: Path) -> None:
    write_configs(tmp_path, 2, {})
    path = tmp_path / "broker-1" / "broker.toml"
    path.write_text(path.read_text().replace("127.0.0.1:", "127.0.0.2:"))
    write_configs(tmp_path, 2, {})
    assert all("127.0.0.2" not in str(each) for each in configs(tmp_path))
