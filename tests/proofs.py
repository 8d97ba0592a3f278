"""Where long proofs write what they ran: one line a run, with the commit it ran at."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

PROOFS = Path("docs/proofs.txt")


def note(what: str) -> None:
    """Append (day, commit, what came of it) to docs/proofs.txt, and show it. The commit is called dirty if
    the tree is another than was committed; that file itself does not count.
    """
    commit = _git("describe", "--always").strip()
    if _git("status", "--porcelain", "--", ".", f":(exclude){PROOFS}"):
        commit += "-dirty"
    line = f"{datetime.now(UTC):%F} {commit} {what}\n"
    with PROOFS.open("a") as proofs:
        proofs.write(line)
    sys.stdout.write(line)


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout
