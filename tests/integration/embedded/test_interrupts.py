"""Ctrl-C in the main thread, at any step of a call."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

INTERRUPTS = 500


def test_interrupts_at_any_step_lose_no_acknowledged_record_and_block_nobody(tmp_path: Path) -> None:
    script = Path(__file__).with_name("interrupted.py")
    ended = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "queue"), str(INTERRUPTS)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (0, "whole\n"), ended.stderr
