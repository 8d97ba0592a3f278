"""What the tree may look like: tables first, then the checks that hold a module against them.

A check is a pure function of a `Module` (a path below the project's root, and its source) and
returns findings as lines of text, so that a test can plant a violation as a string. The tables are
what one edits: a layer, a crossing or an exception is a line in them, with its reason.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Final, NamedTuple

# --- the tables ------------------------------------------------------------------------------

SOURCE_ROOTS: Final = ("client/src", "broker/src")
"""Where packages live; the rules on layers and fences hold here."""

HAND_WRITTEN_ROOTS: Final = (*SOURCE_ROOTS, "tests", "deploy", "docs")
"""Where the rules on form hold."""

GENERATED: Final = re.compile(r"client/src/millpond/v1/.*_pb2\.pyi?$")


class Unit(NamedTuple):
    """One line of the layer table: what may be imported freely from within and from above."""

    name: str
    layer: int


_SDK: Final = Unit("the SDK's surface", 3)
_BROKER_TOP: Final = Unit("the broker's top", 6)

CLIENT: Final = "millpond"
BROKER: Final = "millpond_broker"

UNITS: Final[Mapping[str, Unit]] = MappingProxyType(
    {
        "millpond.wire": Unit("wire", 0),
        "millpond.v1": Unit("v1", 0),
        "millpond.errors": Unit("errors", 1),  # public names for the table in wire
        "millpond._core": Unit("_core", 1),
        "millpond._transport": Unit("_transport", 2),
        "millpond._local": Unit("_local", 2),
        "millpond": _SDK,  # the package itself; a module that is not in this table is a finding
        "millpond.producer": _SDK,
        "millpond.consumer": _SDK,
        "millpond.admin": _SDK,
        "millpond.client": _SDK,
        "millpond.sync": _SDK,
        "millpond.testing": _SDK,
        "millpond.embedded": Unit("embedded", 3),
        "millpond.cli": Unit("cli", 4),
        "millpond.__main__": Unit("the command's module", 5),
        "millpond_broker": Unit("the broker's name", 0),  # an empty package: importing it is free
        "millpond_broker.core": Unit("core", 1),
        "millpond_broker.observe": Unit("observe", 2),
        "millpond_broker.storage": Unit("storage", 3),
        "millpond_broker.consensus": Unit("consensus", 3),
        "millpond_broker.runtime": Unit("runtime", 4),
        "millpond_broker.rpc": Unit("rpc", 5),
        "millpond_broker.gateway": Unit("gateway", 5),
        "millpond_broker.config": _BROKER_TOP,
        "millpond_broker.app": _BROKER_TOP,
        "millpond_broker.others": _BROKER_TOP,
        "millpond_broker.__main__": _BROKER_TOP,
    }
)

SHARED: Final = ("millpond.wire", "millpond.v1")
"""The only parts of the client package that the broker may import."""


class Crossing(NamedTuple):
    """An import that is allowed although it does not point down. Lazy: only inside a function."""

    importer: str
    imported: str
    lazy: bool
    reason: str


CROSSINGS: Final = (
    Crossing(
        "millpond.embedded",
        "millpond_broker.core",
        lazy=False,
        reason="topic settings and admission are the broker's; only users import embedded",
    ),
    Crossing(
        "millpond.embedded",
        "millpond_broker.storage",
        lazy=False,
        reason="the embedded queue is the broker's storage; only users import embedded",
    ),
    Crossing(
        "millpond_broker.consensus",
        "millpond_broker.storage.files",
        lazy=False,
        reason="the journal is on disk through the one file layer, and uses nothing else of storage",
    ),
    Crossing(
        "millpond._local",
        "millpond_broker.config",
        lazy=True,
        reason="what is set wrong is said by whoever starts brokers, not by a broker that ends",
    ),
    Crossing(
        "millpond.cli.broker",
        "millpond_broker.app",
        lazy=True,
        reason="`millpond broker` runs a broker in its own process, and loads it only then",
    ),
)

BY_USERS_ONLY: Final = ("millpond.embedded",)
"""What no other module of ours imports as it loads: it pulls in the server package."""

WITHOUT_INTERNALS: Final = ("millpond_broker.gateway",)
"""Broker packages that are built on the public SDK and use nothing else of the broker."""

SANS_IO: Final = ("millpond.wire", "millpond._core", "millpond_broker.core")

IMPURE_MODULES: Final = frozenset(
    "_thread aiofiles asyncio concurrent ctypes fcntl fileinput ftplib glob http io logging mmap"
    " multiprocessing os pathlib queue random sched secrets select selectors shutil signal socket"
    " socketserver ssl subprocess tempfile threading time urllib uuid".split()
)
IMPURE_NAMES: Final = frozenset(
    "datetime.datetime.now datetime.datetime.today datetime.datetime.utcnow datetime.date.today"
    " sys.stdin sys.stdout sys.stderr".split()
)
IMPURE_BUILTINS: Final = frozenset("breakpoint input open print".split())


class Fence(NamedTuple):
    """A foreign package, and the few modules that may import it."""

    foreign: str
    inside: tuple[str, ...]


_PROTOBUF_USERS: Final = (
    "millpond.v1",
    "millpond._transport",
    "millpond_broker.rpc",
    "millpond_broker.consensus.codec",
    "millpond_broker.consensus.raft.codec",
)
FENCES: Final = (
    Fence("grpc", ("millpond._transport", "millpond_broker.rpc")),
    Fence("grpc_health", ("millpond_broker.rpc",)),
    Fence("grpc_reflection", ("millpond_broker.rpc",)),
    Fence("prometheus_client", ("millpond_broker.observe",)),
    Fence("pysyncobj", ("millpond_broker.consensus.raft.library",)),
    Fence("google.protobuf", _PROTOBUF_USERS),
    Fence("millpond.v1", _PROTOBUF_USERS),
    Fence("click", ("millpond.cli",)),
    Fence("rich", ("millpond.cli",)),
)

THROUGH_FILE_LAYER: Final = ("millpond_broker.storage", "millpond_broker.consensus", "millpond.embedded")
FILE_LAYER: Final = "millpond_broker.storage.files"
RAW_FILE_MODULES: Final = frozenset("aiofiles fcntl fileinput glob io mmap shutil tempfile".split())
OS_WITHOUT_FILES: Final = frozenset("PathLike fspath getpid register_at_fork".split())
PATH_IO: Final = frozenset(
    "chmod exists glob hardlink_to is_dir is_file iterdir lstat mkdir read_bytes read_text rename"
    " rglob rmdir samefile stat symlink_to touch unlink walk write_bytes write_text".split()
)
"""Methods of Path that reach the disk. Those the file layer has too are known by their receiver."""

FUNCTION_LINES_MAX: Final = 70
FILE_LINES_MAX: Final = 600
LONG_FILES: Final[Mapping[str, int]] = MappingProxyType({})
"""Files over the limit, each with the length it may not exceed. The list only gets shorter."""
LONG_FUNCTIONS: Final[Mapping[str, int]] = MappingProxyType({})
"""Functions over the limit, as "path:name", likewise."""

# --- a module, as the checks see it ----------------------------------------------------------


class Import(NamedTuple):
    """One imported name, absolute and dotted. Lazy: it happens in a function, not on load."""

    target: str
    line: int
    lazy: bool


@dataclass(frozen=True)
class Module:
    """A source file. `path` is relative to the project's root, with forward slashes."""

    path: str
    source: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.source, self.path)

    @cached_property
    def name(self) -> str:
        """The dotted name it is imported by, or "" outside the packages."""
        for root in SOURCE_ROOTS:
            if self.path.startswith(root + "/"):
                parts = PurePosixPath(self.path).relative_to(root).with_suffix("").parts
                return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        return ""

    @cached_property
    def imports(self) -> Sequence[Import]:
        """Every import; `from a import b` counts as one of `a.b`, which may be a module."""
        return tuple(self._imports())

    def _imports(self) -> Iterator[Import]:
        lazy = {
            id(node)
            for function in ast.walk(self.tree)
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for node in ast.walk(function)
        }
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield Import(alias.name, node.lineno, id(node) in lazy)
            elif isinstance(node, ast.ImportFrom):
                base = self._base(node)
                for alias in node.names:
                    yield Import(f"{base}.{alias.name}", node.lineno, id(node) in lazy)

    def _base(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        package = self.name.split(".")
        if not self.path.endswith("/__init__.py"):
            package = package[:-1]
        package = package[: len(package) - (node.level - 1)]
        return ".".join([*package, node.module] if node.module else package)

    @cached_property
    def aliases(self) -> Mapping[str, str]:
        """The dotted origin of each imported name, to see through `import x as y`."""
        found = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    top = alias.name.partition(".")[0]
                    found[alias.asname or top] = alias.name if alias.asname else top
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    found[alias.asname or alias.name] = f"{self._base(node)}.{alias.name}"
        return found

    def origin(self, node: ast.expr) -> str:
        """`datetime.datetime.now` for whatever way it was imported and written; "" if unknown."""
        if isinstance(node, ast.Name):
            return self.aliases.get(node.id, node.id)
        if isinstance(node, ast.Attribute):
            owner = self.origin(node.value)
            return f"{owner}.{node.attr}" if owner else ""
        return ""

    @cached_property
    def comments(self) -> Mapping[int, str]:
        """The comment of each line that has one."""
        tokens = tokenize.generate_tokens(io.StringIO(self.source).readline)
        return {token.start[0]: token.string for token in tokens if token.type == tokenize.COMMENT}

    def at(self, line: int, finding: str) -> str:
        return f"{self.path}:{line}: {finding}"


def within(name: str, packages: str | Sequence[str]) -> bool:
    """Whether a dotted name is one of the packages or lies in one."""
    wanted = (packages,) if isinstance(packages, str) else packages
    return any(name == package or name.startswith(package + ".") for package in wanted)


# --- layers ----------------------------------------------------------------------------------


def unit_of(name: str) -> Unit | None:
    """The unit of a module of ours; None for a module that the table does not know."""
    parts = name.split(".")
    if len(parts) == 1:
        return UNITS.get(name)
    return UNITS.get(".".join(parts[:2]))


def _unit_of_import(target: str) -> Unit | None:
    # `from millpond import Record` names no module: what it reaches is the package itself.
    return unit_of(target) or UNITS.get(target.partition(".")[0])


def check_layers(module: Module) -> list[str]:
    """Imports point down or are a named crossing; the broker sees only what is shared."""
    if not module.name:
        return []
    own = unit_of(module.name)
    if own is None:
        return [module.at(1, f"{module.name} has no layer: give it a line in UNITS")]
    return [
        module.at(found.line, finding)
        for found in module.imports
        if (finding := _layer_finding(module.name, own, found)) is not None
    ]


def _layer_finding(importer: str, own: Unit, found: Import) -> str | None:
    if not within(found.target, (CLIENT, BROKER)):
        return None
    crossing = crossing_of(importer, found.target)
    if crossing is not None:
        if crossing.lazy and not found.lazy:
            return f"the crossing to {found.target} belongs inside a function"
        return None
    by_user = found.lazy or within(importer, BY_USERS_ONLY)
    if within(found.target, BY_USERS_ONLY) and not by_user:
        return f"{found.target} is for users to import: it loads the server package"
    if within(importer, BROKER) and within(found.target, CLIENT):
        return None if within(found.target, SHARED) else f"the broker may not use {found.target}"
    if within(importer, CLIENT) and within(found.target, BROKER):
        return f"{found.target} is the server's, and this is no named crossing"
    other = _unit_of_import(found.target)
    assert other is not None, "both packages have a line of their own"
    if own == other:
        return None
    if within(importer, WITHOUT_INTERNALS) and within(found.target, BROKER):
        return f"{own.name} is built on the SDK and may not use {found.target}"
    if other.layer >= own.layer:
        theirs = f"{other.name} [{other.layer}]"
        return f"{own.name} [{own.layer}] may not import {found.target} of {theirs}"
    return None


def crossing_of(importer: str, target: str) -> Crossing | None:
    """The named crossing that this import is, if it is one."""
    for crossing in CROSSINGS:
        if within(importer, crossing.importer) and within(target, crossing.imported):
            return crossing
    return None


# --- fences ----------------------------------------------------------------------------------


def check_fences(module: Module) -> list[str]:
    """Each foreign package is imported only where the table says."""
    if not module.name:
        return []
    return [
        module.at(found.line, f"{fence.foreign} belongs in {', '.join(fence.inside)} only")
        for found in module.imports
        for fence in FENCES
        if within(found.target, fence.foreign) and not within(module.name, fence.inside)
    ]


def check_sans_io(module: Module) -> list[str]:
    """No file, socket, clock, randomness, thread or logger where decisions are made."""
    if not within(module.name, SANS_IO):
        return []
    findings = [
        module.at(found.line, f"{found.target} has no place in a sans-IO package")
        for found in module.imports
        if found.target.partition(".")[0] in IMPURE_MODULES
    ]
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and module.origin(node) in IMPURE_NAMES:
            findings.append(module.at(node.lineno, f"{module.origin(node)} is not sans-IO"))
        elif isinstance(node, ast.Name) and module.origin(node) in IMPURE_NAMES | IMPURE_BUILTINS:
            findings.append(module.at(node.lineno, f"{node.id} is not sans-IO"))
    return findings


def check_file_layer(module: Module) -> list[str]:
    """Storage and what stands on it reach the disk through the one injectable file layer."""
    if not within(module.name, THROUGH_FILE_LAYER) or module.name == FILE_LAYER:
        return []
    findings = {
        found.line: found.target
        for found in module.imports
        if found.target.partition(".")[0] in RAW_FILE_MODULES or _names_file_function(found.target)
    }
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and _names_file_function(module.origin(node)):
            findings.setdefault(node.lineno, module.origin(node))
        elif isinstance(node, ast.Call) and _reaches_disk(module, node.func):
            findings.setdefault(node.lineno, f"{ast.unparse(node.func)}()")
    return [module.at(line, f"{what} goes around the file layer") for line, what in findings.items()]


def _names_file_function(origin: str) -> bool:
    # All of `os` counts but a few names: what it grows is more likely to be about files than not.
    module, _, name = origin.partition(".")
    return module == "os" and bool(name) and name.partition(".")[0] not in OS_WITHOUT_FILES


def _reaches_disk(module: Module, called: ast.expr) -> bool:
    if isinstance(called, ast.Name):
        return called.id == "open" and not _defines(module, "open")
    if not isinstance(called, ast.Attribute):
        return False
    receiver = called.value
    word = receiver.attr if isinstance(receiver, ast.Attribute) else module.origin(receiver)
    if called.attr == "open":  # Log.open and files.open are ours; a path's is not
        return word.endswith(("path", "directory")) or isinstance(receiver, ast.BinOp | ast.Call)
    return called.attr in PATH_IO and not word.lower().endswith("files")


def _defines(module: Module, name: str) -> bool:
    return any(isinstance(node, ast.FunctionDef) and node.name == name for node in module.tree.body)


# --- form ------------------------------------------------------------------------------------

_EXEMPTION: Final = re.compile(r"#\s*(noqa|type:\s*ignore|pragma:\s*no cover)\b")
_EXEMPTION_WITH_REASON: Final = re.compile(
    r"""\#\s*(?: noqa:\s*[A-Z]+[0-9]+ (?:,\s*[A-Z]+[0-9]+)*
             | type:\s*ignore\[[^\]]+\]
             | pragma:\s*no\ cover )
        \s*(?: - | \# | : )\s*\S""",
    re.VERBOSE,
)


def check_exemptions(module: Module) -> list[str]:
    """A comment that silences a tool names the rule, and the reason on the same line."""
    return [
        module.at(line, "says which rule it silences, but not why (or not even which)")
        for line, comment in module.comments.items()
        if _EXEMPTION.search(comment) and not _EXEMPTION_WITH_REASON.search(comment)
    ]


def check_broad_except(module: Module) -> list[str]:
    """An except for everything says why on its line."""
    return [
        module.at(node.lineno, "a broad except gives its reason on its line")
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ExceptHandler) and _is_broad(node.type)
        if not re.search(r"[a-z]{2,} +[a-z]", module.comments.get(node.lineno, ""))
    ]


def _is_broad(caught: ast.expr | None) -> bool:
    if isinstance(caught, ast.Tuple):
        return any(map(_is_broad, caught.elts))
    return caught is None or ast.unparse(caught) in ("Exception", "BaseException")


def check_tasks(module: Module) -> list[str]:
    """A task belongs to a group that stops it; the loop keeps none alive by itself."""
    if not module.name:
        return []
    return [
        module.at(node.lineno, "a bare task: start it in a TaskGroup or hand it to its parent")
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and _starts_bare_task(module, node.func)
    ]


def _starts_bare_task(module: Module, called: ast.expr) -> bool:
    if module.origin(called) in ("asyncio.create_task", "asyncio.ensure_future"):
        return True
    return (
        isinstance(called, ast.Attribute)
        and called.attr == "create_task"
        and "loop" in ast.unparse(called.value)
    )


def check_docstring(module: Module) -> list[str]:
    """Every module begins with its job and its place."""
    return [] if ast.get_docstring(module.tree) else [module.at(1, "has no docstring")]


def check_length(module: Module) -> list[str]:
    """No function and no file longer than what one can hold in mind, but for the named ones."""
    findings = []
    lines, lines_max = len(module.source.splitlines()), FILE_LINES_MAX
    if lines > LONG_FILES.get(module.path, lines_max):
        findings.append(module.at(1, f"{lines} lines are more than {lines_max} (LONG_FILES)"))
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        assert node.end_lineno is not None, "parsed from source"
        lines, lines_max = node.end_lineno - node.lineno + 1, FUNCTION_LINES_MAX
        if lines > LONG_FUNCTIONS.get(f"{module.path}:{node.name}", lines_max):
            what = f"{node.name} has {lines} lines, more than {lines_max} (LONG_FUNCTIONS)"
            findings.append(module.at(node.lineno, what))
    return findings


Check = Callable[[Module], list[str]]

CHECKS: Final[tuple[Check, ...]] = (
    check_layers,
    check_fences,
    check_sans_io,
    check_file_layer,
    check_exemptions,
    check_broad_except,
    check_tasks,
    check_docstring,
    check_length,
)
