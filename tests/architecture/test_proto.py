"""The protobuf messages say what the code says, and the stubs are those of the sources."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from millpond.v1 import errors_pb2
from millpond.wire.errors import ERRORS

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "proto"
STUBS = ROOT / "client" / "src"
GENERATOR = ROOT / ".venv-proto" / "bin" / "python"


def test_every_error_has_its_number_in_the_protocol() -> None:
    table = {f"ERROR_CODE_{code}": cls.number for code, cls in ERRORS.items()}
    assert dict(errors_pb2.ErrorCode.items()) == {"ERROR_CODE_UNSPECIFIED": 0} | table


def test_an_error_travels_with_its_facts() -> None:
    sent = errors_pb2.ErrorDetail(
        code=errors_pb2.ERROR_CODE_UNKNOWN_TOPIC, message="no such topic", facts={"topic": "orders"}
    )
    assert errors_pb2.ErrorDetail.FromString(sent.SerializeToString()) == sent


def test_every_source_has_its_stubs() -> None:
    sources = {path.relative_to(SOURCES).with_suffix("") for path in SOURCES.rglob("*.proto")}
    stubs = {
        path.relative_to(STUBS).with_name(path.name.removesuffix("_pb2.py"))
        for path in STUBS.rglob("*_pb2.py")
    }
    assert sources == stubs


@pytest.mark.skipif(
    not (GENERATOR.parent.parent / ".installed").exists(), reason="`make proto` was not run here"
)
def test_the_stubs_are_those_of_the_sources(tmp_path: Path) -> None:
    """Where the generator is at hand; `make proto-check` holds it everywhere."""
    sources = sorted(path.relative_to(SOURCES).as_posix() for path in SOURCES.rglob("*.proto"))
    generate = ["-m", "grpc_tools.protoc", "--proto_path=.", f"--python_out={tmp_path}"]
    subprocess.run(
        [GENERATOR, *generate, f"--pyi_out={tmp_path}", *sources],
        cwd=SOURCES,
        check=True,
        timeout=60,
    )
    made = {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*_pb2.py*")}
    assert made
    assert made == {name: (STUBS / name).read_text() for name in made}
