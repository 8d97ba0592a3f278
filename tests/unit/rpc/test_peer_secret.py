"""The cluster's secret is read from a file, and one that cannot be a secret is refused by name."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from millpond.wire.errors import InvalidConfig
from millpond_broker.rpc.peer_secret import SECRET_BYTES_MAX, SECRET_BYTES_MIN, read_secret


def secret_file(path: Path, data: bytes, mode: int = 0o600) -> Path:
    file = path / "secret"
    file.write_bytes(data)
    file.chmod(mode)
    return file


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_a_newline_at_the_end_is_no_part_of_it(tmp_path: Path, end: bytes) -> None:
    assert read_secret(secret_file(tmp_path, b"s" * 32 + end)) == b"s" * 32


def test_bytes_within_it_are_kept_as_they_are(tmp_path: Path) -> None:
    secret = b"\n\x00 \xff" * 5 + b" "
    assert read_secret(secret_file(tmp_path, secret)) == secret


@pytest.mark.parametrize("size", [SECRET_BYTES_MIN, SECRET_BYTES_MAX])
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_its_bounds_are_inclusive(tmp_path: Path, size: int, end: bytes) -> None:
    assert len(read_secret(secret_file(tmp_path, b"s" * size + end))) == size


@pytest.mark.parametrize("data", [b"", b"\n", b"s" * 15, b"s" * 15 + b"\n", b"s" * 4097, b"s" * 100_000])
def test_one_that_is_too_short_or_too_long_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(InvalidConfig) as caught:
        read_secret(secret_file(tmp_path, data))
    assert caught.value.key == "cluster.secret_file"


def test_no_file_no_secret(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match=r"cannot be read: No such file"):
        read_secret(tmp_path / "none")
    with pytest.raises(InvalidConfig, match="is no file"):
        read_secret(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidConfig, match="is no file"):
        read_secret(tmp_path / "pipe")


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o400, False), (0o640, True), (0o604, True)])
def test_one_that_others_may_read_is_told_to_the_log_and_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int, warned: bool
) -> None:
    with caplog.at_level(logging.WARNING):
        assert read_secret(secret_file(tmp_path, b"s" * 32, mode)) == b"s" * 32
    assert [record.getMessage() for record in caplog.records] == ["secret_file_readable_by_others"] * warned
