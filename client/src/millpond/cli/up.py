"""`millpond up`: a local cluster in the foreground, in real broker processes, until Ctrl-C."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import click

from millpond._local.addressing import last_port
from millpond._local.home import kept, temporary
from millpond._local.keeping import STOP_SECONDS_MAX, Keeper, KeepOptions, check, ended
from millpond._local.record import BROKERS_MAX
from millpond.cli import FAILED, INTERRUPTED
from millpond.cli.app import Command
from millpond.cli.interrupts import Interrupts
from millpond.cli.output import counted
from millpond.cli.screen import STDERR, STDOUT, Screen, shows_colours
from millpond.wire.errors import InternalError, OperationTimeout

PORT: Final = 7070
PORT_MAX: Final = 65_535
DIRECTORY: Final = "millpond-data"


class _Directory(click.Path):
    """One that has a name: an empty word, as of a variable that is not set, is not the working directory."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("'' is no directory; '.' is this one", param, ctx)
        return super().convert(value, param, ctx)


@click.command("up", cls=Command)
@click.option(
    "--brokers",
    type=click.IntRange(1, BROKERS_MAX),
    metavar="N",
    help="How many.  [default: as many as the directory has, or 3]",
)
@click.option(
    "--data",
    metavar="DIR",
    type=_Directory(path_type=Path, file_okay=False),
    help=f"Where they keep their data, found again the next time.  [default: {DIRECTORY}]",
)
@click.option("--ephemeral", is_flag=True, help="Keep the data in a temporary directory that goes with it.")
@click.option(
    "--port",
    type=click.IntRange(0, PORT_MAX),
    default=PORT,
    show_default=True,
    help="The first broker's for clients; brokers and HTTP are at 1 and 2 more, the next broker at 10 more."
    " 0 takes free ones.",
)
@click.option("--restart/--no-restart", default=True, help="Start a broker that ends again.  [default: yes]")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="For people, or one JSON object a line and nothing else on stdout.",
)
def command(
    brokers: int | None, data: Path | None, port: int, output: str, *, ephemeral: bool, restart: bool
) -> int:
    """Run a local cluster in the foreground: real brokers, one process each, on this machine only.

    Says on standard output when it is ready; the brokers' logs go to standard error. Ctrl-C stops it
    cleanly, also while it starts; a second one at once. A broker that ends is started again, later each
    time. How many brokers a directory has is fixed once they have data.

    Examples:
      millpond up
      millpond up --ephemeral --port 0 -o json
      millpond up --brokers 1 --data /var/tmp/one

    In another terminal:
      millpond topic create orders
      echo hello | millpond produce orders
      millpond cluster status
    """
    if ephemeral and data is not None:
        raise click.UsageError("--ephemeral keeps no data: leave --data out")
    if last_port(port, brokers or BROKERS_MAX) > PORT_MAX:
        raise click.UsageError(f"--port {port} leaves no room for the ports of the others, 10 more each")
    options = KeepOptions(directory=data or Path(DIRECTORY), port=port, brokers=brokers, restart=restart)
    with (
        Interrupts() as interrupts,
        temporary() if ephemeral else kept(options.directory, lambda: check(options)) as directory,
    ):
        options = replace(options, directory=directory)
        return asyncio.run(_Up(options, interrupts, json_lines=output == "json").run())


class _Up:
    """Signals in, lines out."""

    def __init__(self, options: KeepOptions, interrupts: Interrupts, *, json_lines: bool) -> None:
        self._interrupts = interrupts
        self._json = json_lines
        self._port = options.port
        self._keeper = Keeper(options, self._told)
        self._screen = Screen(colours=shows_colours(STDERR))
        self._task: asyncio.Task[int] | None = None
        self._signals = 0
        self._is_late = False

    async def run(self) -> int:
        """The exit status: 0 stopped as it was asked to, 1 failed, 130 killed."""
        self._task = asyncio.current_task()
        self._interrupts.tell(self._signalled)
        try:
            clean = await self._keeper.run()
            if not clean and not self._signals:
                raise click.ClickException("no broker runs any more; the log above says why")
            self._told("stopped", {"clean": clean})
        except (InternalError, OperationTimeout) as error:
            # Without the end of the log, which has been shown.
            what = str(error).partition("; its log ends:")[0]
            raise click.ClickException(f"{what}; the log above says why") from None
        except asyncio.CancelledError:
            if not self._signals:
                raise
            self._told("killed", {"late": self._is_late})
            return FAILED if self._is_late else INTERRUPTED
        finally:
            self._screen.close()
        return 0 if clean else FAILED

    def _signalled(self) -> None:
        self._signals += 1
        assert self._task is not None, "it handles signals"
        if self._signals > 1:
            self._task.cancel()
            return
        self._told("stopping", {})
        self._keeper.stop()
        asyncio.get_running_loop().call_later(STOP_SECONDS_MAX, self._too_late)

    def _too_late(self) -> None:
        assert self._task is not None, "it handles signals"
        self._is_late = True
        self._task.cancel()

    # --- what happens, in words -----------------------------------------------------------------------

    def _told(self, event: str, facts: Mapping[str, Any]) -> None:
        if event == "starting":
            self._screen.follow(self._keeper.logs)
        if self._json:
            self._screen.say(json.dumps({"event": event, **facts}), STDOUT)
        elif event == "ready":
            self._say_ready(facts)
        else:
            self._say(_in_words(event, facts))

    def _say(self, text: str) -> None:
        self._screen.say(f"millpond up: {text}")

    def _say_ready(self, facts: Mapping[str, Any]) -> None:
        for broker in facts["brokers"]:
            self._say("broker {broker}: clients {client}, HTTP {http}, pid {pid}".format_map(broker))
        bootstrap = facts["bootstrap"]
        reach = "" if self._port == PORT else f" -b {bootstrap.partition(',')[0]}"
        for line in (
            f"ready: {counted(len(facts['brokers']), 'broker')} at {bootstrap}",
            "try in another terminal:",
            f"  millpond topic create orders{reach}",
            f"  echo hello | millpond produce orders{reach}",
        ):
            self._screen.say(line, STDOUT)


def _in_words(event: str, facts: Mapping[str, Any]) -> str:
    match event:
        case "starting":
            what = f"starting {counted(facts['brokers'], 'broker')}, data in {facts['data_dir']}"
            return f"{what}; Ctrl-C stops them"
        case "waiting":
            former = counted(len(facts["brokers"]), "broker")
            return f"waiting for {former} of a run before to stop, {facts['seconds_max']:g} s at most"
        case "broker_ready":
            return "broker {broker} is ready again, pid {pid}".format_map(facts)
        case "broker_ended" | "broker_did_not_start":
            how = ended(facts["status"]) if event == "broker_ended" else "did not start"
            wait = facts["restart_in_seconds"]
            then = "and is not started again" if wait is None else f"and is started again in {wait:g} s"
            return f"broker {facts['broker']} {how}, {then}"
        case "broker_failed_to_stop":
            return f"broker {facts['broker']} {ended(facts['status'])} instead of stopping cleanly"
        case "stopping":
            return "stopping; Ctrl-C again kills"
        case "stopped":
            return "stopped"
        case "killed":
            return f"killed{', they did not stop in time' if facts['late'] else ''}"
    raise AssertionError(f"{event} has words")
