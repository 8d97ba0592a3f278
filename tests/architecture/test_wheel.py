"""The built wheel, installed bare: what it answers without any dependency, and what it loads.

What an import costs, and what it needs, is part of the promise: the package and its command want
the standard library only, the embedded queue neither grpc nor pysyncobj.
"""

from __future__ import annotations

import json
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

import millpond

ROOT = Path(__file__).parents[2]

SITE_HOOKS = {"sitecustomize", "usercustomize", "_distutils_hack"}
"""What a Python may load as it starts, before us (the last comes with setuptools)."""

LOADED = """
import json, sys
{statement}
print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built with the build backend that is installed."""
    made = tmp_path_factory.mktemp("wheel")
    build = ["wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", str(made), str(ROOT)]
    run(Path(sys.executable), "-m", "pip", "--disable-pip-version-check", *build)
    (path,) = made.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin directory of an environment that holds the wheel and nothing else, not even pip."""
    home = tmp_path_factory.mktemp("bare")
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    install = ["--disable-pip-version-check", "--python", str(python), "install", "--no-deps"]
    run(Path(sys.executable), "-m", "pip", *install, "--no-index", str(wheel))
    return python.parent


def run(program: Path, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run to the end, outside the checkout's reach, and expect that exit status."""
    done = subprocess.run(
        [program, *arguments], cwd="/", capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done


def loaded_by(python: Path, statement: str) -> set[str]:
    """The modules that are loaded after a statement in a fresh process."""
    done = run(python, "-I", "-c", LOADED.format(statement=statement))
    modules: list[str] = json.loads(done.stderr)
    return set(modules)


def foreign(modules: set[str]) -> set[str]:
    """The top-level packages among them that are not the standard library's."""
    standard = sys.stdlib_module_names | SITE_HOOKS | {"__main__"}
    return {name.partition(".")[0] for name in modules} - standard


def ours(modules: set[str]) -> set[str]:
    return {name for name in modules if name.partition(".")[0].startswith("millpond")}


def test_it_holds_both_packages_their_type_markers_and_the_licence(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"millpond/py.typed", "millpond_broker/py.typed", "millpond/v1/errors_pb2.pyi"} <= names
    top = {name.partition("/")[0] for name in names}
    metadata = f"millpond-{millpond.__version__}.dist-info"
    assert top == {"millpond", "millpond_broker", metadata}
    assert f"{metadata}/licenses/LICENSE" in names


def test_the_package_loads_the_standard_library_only(bare: Path) -> None:
    modules = loaded_by(bare / "python", "import millpond")
    assert foreign(modules) == {"millpond"}
    assert ours(modules) == {"millpond", "millpond.wire", "millpond.wire.record"}


def test_the_command_loads_the_standard_library_only(bare: Path) -> None:
    modules = loaded_by(bare / "python", "from millpond.cli import main; main(['--help'])")
    assert foreign(modules) == {"millpond"}
    expected = {"millpond", "millpond.cli", "millpond.wire", "millpond.wire.record"}
    assert ours(modules) == expected


def test_the_command_answers_for_help_and_version(bare: Path) -> None:
    for program, first in ((bare / "millpond", []), (bare / "python", ["-m", "millpond"])):
        assert run(program, *first, "--help").stdout.startswith("usage: millpond")
        assert run(program, *first, "--version").stdout == f"millpond {millpond.__version__}\n"


def test_a_command_that_is_not_there_is_one_line_and_a_usage_error(bare: Path) -> None:
    done = run(bare / "millpond", "brokr", "--config", "x.toml", status=2)
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "millpond --help" in done.stderr


def test_a_command_whose_extra_is_missing_says_what_to_install(bare: Path) -> None:
    done = run(bare / "millpond", "broker", "--config", "x.toml", status=2)
    assert done.stderr == "millpond broker needs the broker extra: pip install 'millpond[broker,cli]'\n"
    done = run(bare / "millpond", "topic", "list", status=2)
    assert done.stderr == "millpond topic needs the cli extra: pip install 'millpond[cli]'\n"
    assert done.stdout == ""


def test_a_reader_that_stops_early_is_no_failure(bare: Path) -> None:
    """As in `millpond --help | true`: exit 0, and not a word on stderr."""
    with subprocess.Popen(
        [bare / "millpond", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 0


def test_the_embedded_queue_without_its_dependencies_says_which_one_is_missing(bare: Path) -> None:
    done = run(bare / "python", "-I", "-c", "from millpond import embedded", status=1)
    assert "ModuleNotFoundError: No module named" in done.stderr


def test_the_embedded_queue_loads_no_transport_no_raft_and_no_codec() -> None:
    modules = loaded_by(Path(sys.executable), "from millpond import embedded")
    assert "millpond_broker.storage.log" in modules
    assert foreign(modules) == {"crc32c", "millpond", "millpond_broker", "mmh3"}
