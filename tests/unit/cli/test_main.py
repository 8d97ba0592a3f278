"""The command line as such: help, usage errors, what is not there, what is not installed."""

from __future__ import annotations

import importlib.util
import inspect
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from typing import Any

import click
import pytest

import millpond
from millpond import cli, errors
from millpond.cli.app import root
from millpond.cli.hints import described

NOWHERE = "-b 127.0.0.1:1 --timeout 0.2"
"""Port 1 needs privileges that nothing in a test has: nobody listens there."""


def commands(command: click.Command, path: str = "millpond") -> Iterator[tuple[str, click.Command]]:
    """Every command below one, with its words."""
    if isinstance(command, click.Group):
        with click.Context(command) as context:
            for name in command.list_commands(context):
                found = command.get_command(context, name)
                assert found is not None
                yield f"{path} {name}", found
                yield from commands(found, f"{path} {name}")


EVERY = dict(commands(root))


def run(capsys: pytest.CaptureFixture[str], line: str) -> tuple[int, str, str]:
    status = cli.main(line.split())
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def refused(capsys: pytest.CaptureFixture[str], line: str, status: int = 2) -> str:
    """The one line on stderr."""
    found, out, err = run(capsys, line)
    assert (found, out) == (status, "")
    assert err.count("\n") == 1, err
    assert err.startswith("millpond")
    assert "Traceback" not in err
    return err.rstrip()


def test_there_is_exactly_what_this_version_can_do() -> None:
    leaves = {
        path.removeprefix("millpond ") for path, command in EVERY.items() if not hasattr(command, "commands")
    }
    assert leaves == {
        "broker",
        "up",
        "topic create",
        "topic list",
        "topic describe",
        "topic delete",
        "topic alter",
        "topic reassign",
        "topic trim",
        "produce",
        "consume",
        "cluster status",
        "cluster brokers",
        "cluster elect-leaders",
        "cluster drain",
        "cluster add-voter",
        "cluster remove-voter",
        "bench produce",
        "bench consume",
        "bench latency",
        "completion",
    }


@pytest.mark.parametrize("option", ["-h", "--help"])
@pytest.mark.parametrize("path", EVERY)
def test_every_command_has_help_with_examples_that_name_it(
    capsys: pytest.CaptureFixture[str], path: str, option: str
) -> None:
    status, out, err = run(capsys, f"{path.removeprefix('millpond ')} {option}")
    assert (status, err) == (0, "")
    assert out.startswith(f"Usage: {path} ")
    assert "\n  Examples:\n    " in out
    assert path in out[out.index("Examples:") : out.index("\nOptions:")]


@pytest.mark.parametrize("path", EVERY)
def test_every_command_but_those_without_a_cluster_takes_the_common_options(path: str) -> None:
    command = EVERY[path]
    without = ("millpond broker", "millpond up", "millpond completion")
    if not isinstance(command, click.Group) and path not in without:
        words = {word for parameter in command.params for word in parameter.opts}
        assert {"-b", "--bootstrap", "-o", "--output", "--timeout"} <= words


@pytest.mark.parametrize("path", EVERY)
def test_examples_are_command_lines_that_would_be_taken(path: str) -> None:
    """Each `millpond …` of an example names a command, and options that it has."""
    text = EVERY[path].help
    assert text is not None
    for line in re.findall(r"^ {2}.*$", text[text.index("Examples:") :], re.MULTILINE):
        for words in re.findall(r"millpond((?: [\w:.\-\\]+)+)", line):
            name = "millpond"
            rest = words.split()
            while rest and f"{name} {rest[0].replace('ls', 'list')}" in EVERY:
                name += f" {rest.pop(0).replace('ls', 'list')}"
            options = {option for p in EVERY[name].params for option in (*p.opts, *p.secondary_opts)}
            assert {
                word for word in rest if re.match(r"--?[a-z]", word) and not word[1].isdigit()
            } <= options, line


def test_the_help_lists_every_command_and_nothing_that_is_not_there(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for line in ("", "--help", "-h"):
        status, out, err = run(capsys, line)
        assert (status, err) == (0, "")
        listed = re.findall(
            r"^  (\w+)  +", out[out.index("commands:") : out.index("`millpond COMMAND")], re.M
        )
        assert listed == list(root.list_commands(click.Context(root)))
        assert not set(listed) & set(cli.NOT_YET)


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version") == (0, f"millpond {millpond.__version__}\n", "")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("group list", "'group' belongs to consumer groups"),
        ("check history", "'check' belongs to"),
        ("consume t --group g", "consumer groups are not in this version; leave --group out"),
    ],
)
def test_what_this_version_does_not_have_is_refused_by_name(
    capsys: pytest.CaptureFixture[str], line: str, says: str
) -> None:
    assert says in refused(capsys, line)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("topc", "'topc' is not a command (did you mean 'topic'?); see: millpond --help"),
        ("--frob", "see: millpond --help"),
        ("topic", "Missing command; see: millpond topic --help"),
        ("topic frob", "see: millpond topic --help"),
        ("topic create", "see: millpond topic create --help"),
        ("topic create t --partitions 0", "--partitions"),
        ("topic create t --partitions many", "--partitions"),
        ("topic reassign t --partition 0", "--replicas"),
        ("topic reassign t --partition 0 --replicas 1,b", "'1,b' is not broker ids with commas between"),
        ("cluster elect-leaders --unclean", "name it with --topic"),
        ("cluster drain", "BROKER"),
        ("topic create t --config a", "'a' is not KEY=VALUE"),
        ("topic create t --config a=1 --config a=2", "'a' stands twice"),
        ("topic alter t", "nothing to change"),
        ("topic alter t --config a=1 --unset a", "both set and unset"),
        ("topic trim t", "--before"),
        ("topic trim t --before never", "'never' is not a time"),
        ("topic list -b nowhere:x", "--bootstrap"),
        ("topic list -o xml", "--output"),
        ("topic list --timeout 0", "--timeout"),
        ("produce", "TOPIC"),
        ("produce t /nowhere/at/all", "/nowhere/at/all"),
        ("produce t /", "/"),
        ("produce t --acks some", "--acks"),
        ("produce t --compression snappy", "--compression"),
        ("produce t --key a --key-separator :", "not both"),
        ("produce t --input json --key a", "leave --key and --key-separator out"),
        ("produce t --header h", "'h' is not NAME=VALUE"),
        ("consume", "TOPIC"),
        ("consume t --from middle", "'middle' is not a time"),
        ("consume t --print key,size", "'size' is not one of topic"),
        ("consume t --max-records -1", "--max-records"),
        ("bench", "Missing command"),
        ("up --brokers 0", "--brokers"),
        ("up --ephemeral --data d", "--ephemeral keeps no data"),
        ("up --port 65530", "leaves no room for the ports of the others"),
        ("up --restart maybe", "see: millpond up --help"),
        ("bench produce --records 0", "--records"),
        ("completion tcsh", "tcsh"),
    ],
)
def test_a_command_line_that_means_nothing_is_one_line_and_exit_2(
    capsys: pytest.CaptureFixture[str], line: str, says: str
) -> None:
    assert says in refused(capsys, line)


def test_an_error_nobody_foresaw_is_one_line_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("all\nwrong")

    monkeypatch.setattr("millpond.cli.cluster.with_client", fail)
    line = refused(capsys, "cluster brokers", status=1)
    assert line == "millpond: unforeseen RuntimeError: all wrong (MILLPOND_TRACEBACK=1 shows where)"
    monkeypatch.setenv("MILLPOND_TRACEBACK", "1")
    with pytest.raises(RuntimeError, match="all"):
        cli.main(["cluster", "brokers"])


@pytest.mark.parametrize("error", errors.ERRORS.values())
def test_every_error_has_its_line(error: type[errors.MillpondError]) -> None:
    """A hint that names a fact the error does not have would be an error of its own."""
    inner = errors.UnknownTopic(topic="t")
    values: dict[str, Any] = {"tried": {"b1:7070": "refused"}, "failed": {0: inner}, "first": inner}
    names = inspect.signature(error).parameters
    assert described(error(**{name: values.get(name, 1) for name in names}))


# --- what is not installed -------------------------------------------------------------------------------


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Packages that are not there, for whoever looks."""
    missing: set[str] = set()
    look = importlib.util.find_spec

    def find(name: str) -> ModuleSpec | None:
        return None if name in missing else look(name)

    monkeypatch.setattr(cli, "find_spec", find)
    return missing


@pytest.mark.parametrize("package", ["click", "rich"])
def test_without_the_cli_extra_every_command_says_how_to_get_it(
    capsys: pytest.CaptureFixture[str], without: set[str], package: str
) -> None:
    without.add(package)
    line = refused(capsys, "topic list")
    assert line == "millpond topic needs the cli extra: pip install 'millpond[cli]'"
    assert run(capsys, "--version")[0] == 0


@pytest.mark.parametrize("package", ["click", "pysyncobj"])
def test_without_the_broker_extra_broker_says_how_to_get_it(
    capsys: pytest.CaptureFixture[str], without: set[str], package: str
) -> None:
    without.add(package)
    line = refused(capsys, "broker --config x.toml")
    assert line == "millpond broker needs the broker extra: pip install 'millpond[broker,cli]'"


# --- as a process ------------------------------------------------------------------------------------------

COMMAND = [sys.executable, "-m", "millpond"]


WITHIN = """
import sys
from millpond import cli
from millpond.cli import cluster
def work(*_): exec({script!r})
cluster.with_client = work
sys.exit(cli.main(["cluster", "brokers"]))
"""
"""A command that does something else than ask a cluster."""


def failed(line: str, **environment: str) -> str:
    """The one line of a process that failed. One of its own: grpc and its loop are not for this one."""
    done = subprocess.run(
        [*COMMAND, *line.split()],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
    return done.stderr.rstrip()


def test_a_relative_time_is_not_taken_for_an_option() -> None:
    """It gets as far as the cluster, which is not there."""
    assert "no broker could be reached" in failed(f"consume t --from -1h {NOWHERE}")


def test_a_cluster_that_is_not_there_is_named_with_what_to_do() -> None:
    assert failed(f"topic ls {NOWHERE}") == (
        "millpond: no broker could be reached: 127.0.0.1:1 (connection refused);"
        " start one with: millpond broker --config FILE (several on this machine: millpond up),"
        " or name another with -b HOST:PORT"
    )


def test_a_disk_without_room_for_records_or_rows_is_one_line_too() -> None:
    script = "from millpond.cli.output import print_json\nwhile True: print_json({'a': 1})"
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device, as a shell would open it
        done = subprocess.run(
            [sys.executable, "-c", WITHIN.format(script=script)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == 1
    assert done.stderr == "millpond: input or output failed: No space left on device\n"


def test_the_environment_names_the_cluster_where_the_line_does_not() -> None:
    elsewhere = {"MILLPOND_BOOTSTRAP": "127.0.0.1:2"}
    assert "127.0.0.1:2 (" in failed("cluster status --timeout 0.2", **elsewhere)
    assert "127.0.0.1:1 (" in failed(f"cluster status {NOWHERE}", **elsewhere)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_of_that_shell(shell: str) -> None:
    done = subprocess.run(
        [*COMMAND, "completion", shell], capture_output=True, text=True, check=True, timeout=60
    )
    assert "_MILLPOND_COMPLETE" in done.stdout
    assert shell in done.stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("millpond to", ["topic"]),
        ("millpond topic de", ["delete", "describe"]),
        ("millpond consume t --no", ["--no-follow"]),
        ("millpond produce t --acks ", ["all", "leader", "none"]),
    ],
)
def test_the_shell_is_told_what_may_follow(words: str, expected: list[str]) -> None:
    environment = {
        **os.environ,
        "_MILLPOND_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    }
    done = subprocess.run(COMMAND, env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert [line.partition(",")[2] for line in done.stdout.splitlines()] == expected


def test_ctrl_c_ends_a_command_that_waits_quietly_with_130() -> None:
    """A listener that accepts and says nothing keeps the command waiting for as long as it lasts."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with subprocess.Popen(
            [*COMMAND, "topic", "list", "-b", address, "--timeout", "60"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            listener.settimeout(60)
            connection, _ = listener.accept()
            with connection:
                process.send_signal(signal.SIGINT)
                assert process.communicate(timeout=60) == (b"", b"")
        assert process.returncode == 130


def _children_seconds() -> float:
    """Of the processor, that ended children took so far."""
    times = os.times()
    return times.children_user + times.children_system


def test_help_loads_neither_grpc_nor_rich_and_comes_quickly() -> None:
    """What a prompt waits for: about a tenth of a second, almost all of it the processor's. That time is what
    is judged, since a busy machine makes every prompt wait.
    """
    script = (
        "import sys; from millpond.cli import main; status = main(sys.argv[1:]);"
        "print(status, *sorted({'grpc', 'google.protobuf', 'rich'} & sys.modules.keys()), file=sys.stderr)"
    )
    fastest = 60.0
    for _ in range(3):
        before = _children_seconds()
        done = subprocess.run(
            [sys.executable, "-c", script, "consume", "--help"],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        fastest = min(fastest, _children_seconds() - before)
        assert done.stderr == "0\n"
    assert 0 < fastest < 0.4, "the bound of the contract"


def test_a_disk_without_room_for_the_output_is_one_line() -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device, as a shell would open it
        done = subprocess.run(
            [*COMMAND, "--help"], stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60
        )
    assert done.returncode == 1
    assert done.stderr == "millpond: cannot write the output: No space left on device\n"


def test_a_broker_with_a_bad_configuration_is_one_line_and_exit_2(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.mktemp("broker") / "broker.toml"
    path.write_text("[broker]\nid = 0\n")
    done = subprocess.run(
        [*COMMAND, "broker", "--config", str(path)], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "broker.id" in done.stderr
