"""Prints what a broker's image installs besides the project itself, one requirement a line.

Read from pyproject.toml, so that it is written once.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]
print(*project["dependencies"], *extras["broker"], *extras["cli"], sep="\n")
