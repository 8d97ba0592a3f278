"""Which of the product's code runs in simulated worlds: modules, and with `--coverage` lines.

Modules are those of which some function was called: in one seed of `MODULES_EVERY`, since each call is looked
at then. Lines are those within functions; what runs when a module is imported says nothing.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import CodeType, FrameType
from typing import Final, TypeVar

from coverage import Coverage

T = TypeVar("T")

ROOT: Final = Path(__file__).resolve().parents[3]
SOURCES: Final = (ROOT / "broker" / "src", ROOT / "client" / "src")
PACKAGES: Final = (
    "millpond_broker.core",
    "millpond_broker.runtime",
    "millpond_broker.storage",
    "millpond_broker.rpc",
    "millpond._core",
    "millpond._transport",
    "millpond.wire",
)
"""Whose lines are counted."""
MODULES_EVERY: Final = 25


def noting_modules(call: Callable[[], T]) -> tuple[T, tuple[str, ...]]:
    """What the call gives, and the modules that ran in it."""
    codes: set[CodeType] = set()

    def trace(frame: FrameType, _event: str, _argument: object) -> None:
        codes.add(frame.f_code)

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        result = call()
    finally:
        sys.settrace(before)
    paths = {Path(code.co_filename) for code in codes if code.co_name != "<module>"}
    return result, tuple(sorted(name for path in paths if (name := module_of(path)) is not None))


def module_of(path: Path) -> str | None:
    """The product's module at that path."""
    for source in SOURCES:
        if path.is_relative_to(source):
            return ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__")
    return None


def covering(call: Callable[[], T], data: Path) -> T:
    """What the call gives; the lines that it runs are kept in that file."""
    coverage = _coverage(data)
    coverage.start()
    try:
        return call()
    finally:
        coverage.stop()
        coverage.save()


def lines_told(directory: Path) -> Iterator[str]:
    """Of all that was kept in files of that directory: how many of the lines of each package ran, then of its
    modules.
    """
    coverage = _coverage(directory / "all")
    coverage.combine([str(path) for path in directory.iterdir()])
    told: dict[str, dict[str, tuple[int, int]]] = {package: {} for package in PACKAGES}
    for package, module, path in _modules():
        statements = _lines_of_functions(path)
        _, known, _, missing, _ = coverage.analysis2(str(path))
        wanted = statements & set(known)
        told[package][module] = (len(wanted - set(missing)), len(wanted))
    for package, modules in told.items():
        yield f"{_share(modules.values())} {package}"
        yield from (f"    {_share([ran])} {module}" for module, ran in _least_first(modules))


def _least_first(modules: Mapping[str, tuple[int, int]]) -> list[tuple[str, tuple[int, int]]]:
    return sorted(modules.items(), key=lambda item: item[1][0] / max(1, item[1][1]))


def _share(counts: Iterable[tuple[int, int]]) -> str:
    ran, known = (sum(column) for column in zip(*counts, strict=True))
    return f"{100 * ran / max(1, known):5.1f} % of {known:4} lines"


def _modules() -> Iterator[tuple[str, str, Path]]:
    for package in PACKAGES:
        for source in SOURCES:
            for path in sorted((source / package.replace(".", "/")).rglob("*.py")):
                module = module_of(path)
                assert module is not None, "it lies there"
                yield package, module, path


def _lines_of_functions(path: Path) -> set[int]:
    """Where statements within functions begin."""
    tree = ast.parse(path.read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {
        inner.lineno
        for function in functions
        for statement in function.body
        for inner in ast.walk(statement)
        if isinstance(inner, ast.stmt)
    }


def _coverage(data: Path) -> Coverage:
    return Coverage(data_file=str(data), config_file=False, source=[str(source) for source in SOURCES])
