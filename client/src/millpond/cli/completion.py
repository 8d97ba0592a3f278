"""`millpond completion`: the script with which a shell completes this command."""

from __future__ import annotations

from typing import Final

import click
from click.shell_completion import get_completion_class

from millpond.cli import COMPLETION_VARIABLE
from millpond.cli.app import Command, root

SHELLS: Final = ("bash", "zsh", "fish")


@click.command("completion", cls=Command)
@click.argument("shell", type=click.Choice(SHELLS), metavar="bash|zsh|fish")
def command(shell: str) -> None:
    """Print the completion script for a shell.

    Examples:
      millpond completion bash > ~/.local/share/bash-completion/completions/millpond
      millpond completion zsh > "${fpath[1]}/_millpond"
      millpond completion fish > ~/.config/fish/completions/millpond.fish
      source <(millpond completion bash)      # for this shell only
    """
    kind = get_completion_class(shell)
    assert kind is not None, "click has all three"
    click.echo(kind(root, {}, "millpond", COMPLETION_VARIABLE).source(), nl=False)
