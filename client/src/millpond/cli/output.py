"""What commands print: plain aligned tables for people, JSON lines for programs. Diagnostics go to stderr.

No colours, no frames: a table that is piped into another program is the same text.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any


def print_json(value: Mapping[str, Any]) -> None:
    """One object on a line of its own. ASCII, so that no reader takes a character in it for a line's end."""
    print(json.dumps(value))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns as wide as their widest cell; numbers stand to the right."""
    texts = [[_text(cell) for cell in row] for row in rows]
    right = [
        bool(rows) and all(row[column] is None or type(row[column]) in (int, float) for row in rows)
        for column in range(len(columns))
    ]
    widths = [max(map(len, column)) for column in zip(columns, *texts, strict=True)]
    for line in [list(columns), *texts]:
        cells = (
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        )
        print("  ".join(cells).rstrip())


def _text(cell: object) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, list | tuple):
        return ",".join(map(str, cell)) or "-"
    return str(cell) or "-"


def say(message: str) -> None:
    """One line for whoever watches."""
    print(message, file=sys.stderr)


def counted(number: int, noun: str) -> str:
    """`1 record`, `2,000 records`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
