"""Writes docs/configuration.md from the dataclasses that hold the settings: `make docs`."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from pathlib import Path

from millpond_broker.core.topic_config import NOT_YET, TopicConfig

PAGE = Path(__file__).with_name("configuration.md")

HEAD = """# Configuration

Written by `make docs` from the code; change it there.

## Topic settings

For the embedded queue, as `embedded.open(path, config={"retention_bytes": 1 << 30})`. A wrong key or
value is refused with an error that names it. Times are in ms, sizes in bytes; `-1` stands for no limit.

| key | default | allowed | what it does |
|---|---|---|---|
"""


def docstrings(cls: type) -> dict[str, str]:
    """The string that follows each field of a dataclass, on one line."""
    (definition,) = ast.parse(inspect.getsource(cls)).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for field, text in zip(definition.body, definition.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
        ):
            found[field.target.id] = " ".join(ast.literal_eval(text.value).split())
    return found


def allowed(field: dataclasses.Field[object]) -> str:
    """Choices or bounds, as the parser enforces them."""
    if choices := field.metadata.get("choices"):
        return ", ".join(f"`{choice}`" for choice in choices)
    minimum, maximum, unlimited = field.metadata["bounds"]
    return f"{minimum:,} to {maximum:,}" + (", or -1" if unlimited else "")


def default(value: object) -> str:
    """A default as one would write it."""
    return "-1" if value is None else f"`{value}`"


def page() -> str:
    """The whole page."""
    texts = docstrings(TopicConfig)
    rows = [
        f"| `{field.name}` | {default(field.default)} | {allowed(field)} | {texts[field.name]} |"
        for field in dataclasses.fields(TopicConfig)
    ]
    refused = [f"- `{key}`: {feature}" for key, feature in NOT_YET.items()]
    return (
        HEAD
        + "\n".join(rows)
        + "\n\nThe embedded queue keeps records for good (`retention_ms=-1`) unless told otherwise, and\n"
        + "takes `flush` as a parameter of `open`.\n\n"
        + "Known, and refused until the feature they belong to is there:\n\n"
        + "\n".join(refused)
        + "\n"
    )


if __name__ == "__main__":
    PAGE.write_text(page())
