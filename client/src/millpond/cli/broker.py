"""`millpond broker`: the same as `python -m millpond_broker`, in this process.

The one place where the command reaches into the server package, and only when this command runs.
"""

from __future__ import annotations

from pathlib import Path

import click

from millpond.cli.app import Command


@click.command("broker", cls=Command)
@click.option("--config", metavar="FILE", type=click.Path(path_type=Path), help="Configuration, TOML.")
def command(config: Path | None) -> int:
    """Run one broker in the foreground, until Ctrl-C or SIGTERM stops it cleanly.

    Prints one line of JSON on standard output when it is ready, with the addresses it serves; its log goes
    to standard error. Every setting of the file can also be set as MILLPOND_SECTION__KEY in the environment.

    Examples:
      millpond broker --config broker.toml
      MILLPOND_BROKER__ID=1 MILLPOND_BROKER__DATA_DIR=data millpond broker

    broker.toml:
      [broker]
      id = 1
      data_dir = "data"
      listen = "127.0.0.1:7070"
    """
    from millpond_broker.app import main  # noqa: PLC0415 - the server, for this command only

    return main([] if config is None else ["--config", str(config)])
