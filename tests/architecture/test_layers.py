"""The tree obeys the rules, and each rule bites when a violation is planted."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import pytest

from tests.architecture import rules
from tests.architecture.rules import Check, Module

ROOT = Path(__file__).parents[2]


@lru_cache(maxsize=1)
def tree() -> tuple[Module, ...]:
    """Every hand-written module of the project."""
    paths = sorted(
        path.relative_to(ROOT).as_posix()
        for root in rules.HAND_WRITTEN_ROOTS
        for path in (ROOT / root).rglob("*.py")
    )
    return tuple(
        Module(path, (ROOT / path).read_text(encoding="utf-8"))
        for path in paths
        if not rules.GENERATED.match(path)
    )


@pytest.mark.parametrize("check", rules.CHECKS, ids=lambda check: check.__name__)
def test_the_tree_obeys(check: Check) -> None:
    findings = [finding for module in tree() for finding in check(module)]
    assert not findings, "\n".join(["", *findings])


def test_the_rules_look_at_the_tree() -> None:
    """An empty tree would obey everything."""
    names = {module.name for module in tree()}
    assert {"millpond.wire.batch", "millpond_broker.storage.log", "millpond.cli"} <= names


def test_every_crossing_is_in_use() -> None:
    """A crossing that nobody takes any more is a door left open."""
    taken = {
        rules.crossing_of(module.name, found.target)
        for module in tree()
        if module.name
        for found in module.imports
    }
    assert set(rules.CROSSINGS) <= taken


def test_the_lists_of_what_is_too_long_only_get_shorter() -> None:
    """An exception that is no longer needed is taken off the list."""
    sources = {module.path: module for module in tree()}
    for path, lines in rules.LONG_FILES.items():
        assert len(sources[path].source.splitlines()) > rules.FILE_LINES_MAX, path
        assert lines > rules.FILE_LINES_MAX
    for place in rules.LONG_FUNCTIONS:
        path, _, name = place.rpartition(":")
        plain = Module("tests/plain.py", sources[path].source)
        assert any(f" {name} has " in finding for finding in rules.check_length(plain)), place


SDK = "client/src/millpond/__init__.py"
WIRE = "client/src/millpond/wire/x.py"
SDK_CORE = "client/src/millpond/_core/x.py"
TRANSPORT = "client/src/millpond/_transport/x.py"
PRODUCER = "client/src/millpond/producer.py"
EMBEDDED = "client/src/millpond/embedded/x.py"
CLI = "client/src/millpond/cli/x.py"
CORE = "broker/src/millpond_broker/core/x.py"
STORAGE = "broker/src/millpond_broker/storage/x.py"
FILES = "broker/src/millpond_broker/storage/files.py"
CONSENSUS = "broker/src/millpond_broker/consensus/x.py"
LIBRARY = "broker/src/millpond_broker/consensus/raft/library.py"
CODEC = "broker/src/millpond_broker/consensus/codec.py"
RUNTIME = "broker/src/millpond_broker/runtime/x.py"
RPC = "broker/src/millpond_broker/rpc/x.py"
GATEWAY = "broker/src/millpond_broker/gateway/x.py"
TEST = "tests/unit/test_x.py"

LONG_FUNCTION = "def f():\n" + "    x = 1\n" * rules.FUNCTION_LINES_MAX
LONG_FILE = "x = 1\n" * (rules.FILE_LINES_MAX + 1)

PLANTED: list[tuple[Check, str, str]] = [
    # upward, sideways, and the modules that the table does not know
    (rules.check_layers, WIRE, "from millpond._core import retry"),
    (rules.check_layers, WIRE, "from .._core import retry"),
    (rules.check_layers, WIRE, "import millpond.client"),
    (rules.check_layers, WIRE, "from millpond import Record"),
    (rules.check_layers, WIRE, "def f():\n    from millpond import client"),
    (rules.check_layers, "client/src/millpond/wire/__init__.py", "from .. import errors"),
    (rules.check_layers, SDK_CORE, "from millpond._transport import call"),
    (rules.check_layers, PRODUCER, "from millpond.cli import main"),
    (rules.check_layers, CORE, "from millpond_broker.storage import log"),
    (rules.check_layers, STORAGE, "from millpond_broker import runtime"),
    (rules.check_layers, STORAGE, "import millpond_broker.consensus"),
    (rules.check_layers, CONSENSUS, "from millpond_broker.storage.log import Log"),
    (rules.check_layers, RPC, "from millpond_broker.gateway import http"),
    (rules.check_layers, RUNTIME, "from millpond_broker.config import BrokerConfig"),
    (rules.check_layers, "broker/src/millpond_broker/helpers.py", ""),
    (rules.check_layers, "client/src/millpond/utils/__init__.py", ""),
    # between the two packages
    (rules.check_layers, PRODUCER, "from millpond_broker.core import topic_config"),
    (rules.check_layers, CLI, "def up():\n    import millpond_broker.app"),
    (rules.check_layers, EMBEDDED, "from millpond_broker.consensus import raft"),
    (rules.check_layers, SDK, "from millpond import embedded"),
    (rules.check_layers, CLI, "from millpond.embedded import open"),
    (rules.check_layers, STORAGE, "from millpond.errors import StorageFull"),
    (rules.check_layers, STORAGE, "from millpond import Record"),
    (rules.check_layers, RUNTIME, "from millpond.embedded.queue import Queue"),
    (rules.check_layers, GATEWAY, "from millpond_broker.runtime import host"),
    # foreign packages
    (rules.check_fences, PRODUCER, "import grpc"),
    (rules.check_fences, RUNTIME, "from grpc import aio"),
    (rules.check_fences, RUNTIME, "def f():\n    import grpc.aio"),
    (rules.check_fences, RUNTIME, "import pysyncobj"),
    (rules.check_fences, CONSENSUS, "import pysyncobj"),
    (rules.check_fences, CONSENSUS, "from google.protobuf import message"),
    (rules.check_fences, CORE, "from millpond.v1 import errors_pb2"),
    (rules.check_fences, PRODUCER, "import rich.progress"),
    # input and output, clock, randomness, threads, logs
    (rules.check_sans_io, CORE, "import os"),
    (rules.check_sans_io, CORE, "import os.path as p"),
    (rules.check_sans_io, SDK_CORE, "from time import monotonic"),
    (rules.check_sans_io, WIRE, "def f():\n    import threading"),
    (rules.check_sans_io, CORE, "import logging"),
    (rules.check_sans_io, CORE, "import random"),
    (rules.check_sans_io, CORE, "from uuid import uuid4"),
    (rules.check_sans_io, CORE, "from pathlib import Path"),
    (rules.check_sans_io, CORE, "from concurrent.futures import Future"),
    (rules.check_sans_io, CORE, "from datetime import datetime\nx = datetime.now()"),
    (rules.check_sans_io, CORE, "from datetime import datetime as d\nx = d.utcnow()"),
    (rules.check_sans_io, CORE, "import datetime as d\nx = d.date.today()"),
    (rules.check_sans_io, CORE, "x = open('f')"),
    (rules.check_sans_io, CORE, "print('x')"),
    (rules.check_sans_io, CORE, "import sys\nsys.stderr.write('x')"),
    (rules.check_sans_io, CORE, "from sys import stdout\nstdout.write('x')"),
    # around the file layer
    (rules.check_file_layer, STORAGE, "import os\nos.fsync(3)"),
    (rules.check_file_layer, STORAGE, "from os import fdatasync"),
    (rules.check_file_layer, STORAGE, "import os as system\nsystem.unlink('f')"),
    (rules.check_file_layer, STORAGE, "import os\nos.path.exists('f')"),
    (rules.check_file_layer, STORAGE, "import mmap"),
    (rules.check_file_layer, STORAGE, "x = open('f')"),
    (rules.check_file_layer, STORAGE, "def f(path):\n    path.read_bytes()"),
    (rules.check_file_layer, STORAGE, "def f(self):\n    self.path.open()"),
    (rules.check_file_layer, STORAGE, "def f(path):\n    (path / 'x').open()"),
    (rules.check_file_layer, STORAGE, "def f(directory):\n    directory.mkdir()"),
    (rules.check_file_layer, EMBEDDED, "import shutil"),
    (rules.check_file_layer, CONSENSUS, "import os\nos.fsync(3)"),
    # form
    (rules.check_exemptions, TEST, "x = 1  # noqa"),
    (rules.check_exemptions, TEST, "x = 1  # noqa: E501"),
    (rules.check_exemptions, TEST, "x = 1  # type: ignore"),
    (rules.check_exemptions, TEST, "x = 1  # type: ignore[arg-type]"),
    (rules.check_exemptions, TEST, "x = 1  # type: ignore  # whatever it is"),
    (rules.check_exemptions, TEST, "x = 1  # pragma: no cover"),
    (rules.check_broad_except, TEST, "try:\n    f()\nexcept:\n    pass"),
    (rules.check_broad_except, TEST, "try:\n    f()\nexcept Exception:\n    pass"),
    (rules.check_broad_except, TEST, "try:\n    f()\nexcept BaseException as e:\n    raise"),
    (
        rules.check_broad_except,
        TEST,
        "try:\n    f()\nexcept (OSError, Exception):  # noqa\n    pass",
    ),
    (rules.check_tasks, RUNTIME, "import asyncio\nasyncio.create_task(f())"),
    (rules.check_tasks, RUNTIME, "from asyncio import ensure_future as go\nx = go(f())"),
    (rules.check_tasks, RUNTIME, "import asyncio\nasyncio.get_running_loop().create_task(f())"),
    (rules.check_docstring, TEST, "x = 1"),
    (rules.check_length, TEST, LONG_FUNCTION),
    (rules.check_length, TEST, "class A:\n    async " + LONG_FUNCTION.replace("\n", "\n    ")),
    (rules.check_length, TEST, LONG_FILE),
]


@pytest.mark.parametrize(("check", "path", "source"), PLANTED)
def test_a_planted_violation_is_found(check: Check, path: str, source: str) -> None:
    findings = check(Module(path, source))
    assert len(findings) == 1, findings
    assert findings[0].startswith(f"{path}:"), "a finding says where"


SOUND: list[tuple[Check, str, str]] = [
    (
        rules.check_layers,
        SDK,
        "from millpond.wire.record import Record",
    ),
    (rules.check_layers, PRODUCER, "from millpond.client import Client\nfrom . import consumer"),
    (rules.check_layers, CLI, "from millpond import __version__, connect"),
    (rules.check_layers, CLI, "def f():\n    from millpond import embedded"),
    (rules.check_layers, EMBEDDED, "from millpond_broker.storage.log import Log"),
    (rules.check_layers, CONSENSUS, "from millpond_broker.storage.files import Files"),
    (
        rules.check_layers,
        RPC,
        "from millpond.v1 import errors_pb2\nfrom millpond.wire import batch",
    ),
    (rules.check_layers, RPC, "from millpond_broker.runtime import host"),
    (rules.check_layers, TEST, "import millpond_broker.storage, millpond.cli"),
    (rules.check_fences, RPC, "import grpc\nfrom google.protobuf import message"),
    (rules.check_fences, TRANSPORT, "import grpc.aio\nfrom millpond.v1 import errors_pb2"),
    (rules.check_fences, CODEC, "from millpond.v1 import errors_pb2"),
    (rules.check_fences, LIBRARY, "import pysyncobj.node"),
    (rules.check_fences, PRODUCER, "import grpcish"),
    (rules.check_sans_io, CORE, "from datetime import datetime\ndatetime.fromtimestamp(0)"),
    (rules.check_sans_io, CORE, "def f(log):\n    log.open()\n    log.now()"),
    (rules.check_sans_io, RUNTIME, "import asyncio, os, time"),
    (
        rules.check_file_layer,
        STORAGE,
        "def f(files, path):\n    files.unlink(path)\n    Log.open(path)",
    ),
    (rules.check_file_layer, STORAGE, "def f(self, path):\n    self._files.exists(path)"),
    (rules.check_file_layer, EMBEDDED, "import os\nos.getpid()\nx: os.PathLike[str]"),
    (rules.check_file_layer, FILES, "import os\nos.fsync(3)"),
    (rules.check_exemptions, TEST, "x = 1  # noqa: E501 - a table reads better whole"),
    (rules.check_exemptions, TEST, "x = 1  # type: ignore[arg-type]  # a null raises here"),
    (rules.check_exemptions, TEST, "x = '# noqa'"),
    (rules.check_broad_except, TEST, "try:\n    f()\nexcept OSError:\n    pass"),
    (
        rules.check_broad_except,
        TEST,
        "try:\n    f()\nexcept Exception:  # the root of a task\n    raise",
    ),
    (rules.check_tasks, RUNTIME, "async def f(group):\n    group.create_task(g())"),
    (rules.check_docstring, TEST, "'''Says why.'''"),
    (rules.check_length, TEST, LONG_FUNCTION.removesuffix("    x = 1\n")),
]


@pytest.mark.parametrize(("check", "path", "source"), SOUND)
def test_what_the_rules_allow_passes(check: Check, path: str, source: str) -> None:
    assert check(Module(path, source)) == []


def test_every_check_has_a_planted_violation() -> None:
    assert {check for check, _, _ in PLANTED} == set(rules.CHECKS)
