"""Writes docs/configuration.md from the dataclasses that hold the settings: `make docs`."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from collections.abc import Mapping
from pathlib import Path

from millpond_broker import config
from millpond_broker.core import topic_config
from millpond_broker.core.topic_config import TopicConfig

PAGE = Path(__file__).with_name("configuration.md")

HEAD = """# Configuration

Written by `make docs` from the code; change it there.

## Broker settings

A broker reads a TOML file, then the environment, then flags; the later wins. `batch_bytes_max` of the
section `limits` is, in the file and in the environment,

```toml
[limits]
batch_bytes_max = 1_000_000
```

```
MILLPOND_LIMITS__BATCH_BYTES_MAX=1000000
```

The least that a broker needs is `broker.id` and `broker.data_dir`; of three that are a cluster, each also
needs `cluster.voters` and `cluster.secret_file`. A key or section that is unknown, a value
out of bounds, and settings that contradict each other are refused with an error that names the key, before
anything starts. Times are in ms, sizes in bytes.
"""

TOPIC_HEAD = """
## Topic settings

For `millpond topic create --config k=v`, `admin.create_topic(config={…})`, and the embedded queue, as
`embedded.open(path, config={"retention_bytes": 1 << 30})`. A wrong key or value is refused with an error that
names it. Times are in ms, sizes in bytes; `-1` stands for no limit.
"""

TABLE_HEAD = """
| key | default | allowed | what it does |
|---|---|---|---|
"""

EMBEDDED = """
The embedded queue keeps records for good (`retention_ms=-1`) unless told otherwise, and
takes `flush` as a parameter of `open`.
"""


def docstrings(cls: type) -> tuple[str, dict[str, str]]:
    """A dataclass's own docstring, and the string that follows each of its fields, each on one line."""
    (definition,) = ast.parse(inspect.getsource(cls)).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for field, text in zip(definition.body, definition.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
        ):
            found[field.target.id] = _one_line(ast.literal_eval(text.value))
    return _one_line(ast.get_docstring(definition) or ""), found


def _one_line(text: str) -> str:
    return " ".join(text.split())


def allowed(field: dataclasses.Field[object]) -> str:
    """Choices, bounds or form, as the parser enforces them."""
    if choices := field.metadata.get("choices"):
        return ", ".join(f"`{choice}`" for choice in choices)
    if "kind" in field.metadata:
        kind: config.Kind = field.metadata["kind"]
        return f"{kind.minimum:,} to {kind.maximum:,}" if kind.maximum else kind.name
    minimum, maximum, unlimited = field.metadata["bounds"]
    return f"{minimum:,} to {maximum:,}" + (", or -1" if unlimited else "")


def default(field: dataclasses.Field[object]) -> str:
    """A default as one would write it."""
    value = field.default
    if value is dataclasses.MISSING:
        return "required"
    if "kind" in field.metadata and (value is None or value in ("", ())):
        return "none"
    return "`-1`" if value is None else f"`{value}`"


def table(cls: type) -> str:
    """The fields of a dataclass."""
    texts = docstrings(cls)[1]
    rows = [
        f"| `{field.name}` | {default(field)} | {allowed(field)} | {texts[field.name]} |"
        for field in dataclasses.fields(cls)
    ]
    return TABLE_HEAD + "\n".join(rows) + "\n"


def refused(keys: Mapping[str, str]) -> str:
    """The settings whose feature is to come."""
    lines = [f"- `{key}`: {feature}" for key, feature in keys.items()]
    return "\nKnown, and refused until the feature they belong to is there:\n\n" + "\n".join(lines) + "\n"


def page() -> str:
    """The whole page."""
    sections = [
        f"\n### [{section}]\n\n{docstrings(cls)[0]}\n{table(cls)}" for section, cls in config.SECTIONS.items()
    ]
    return "".join(
        (
            *(HEAD, *sections),
            *(TOPIC_HEAD, table(TopicConfig), EMBEDDED, refused(topic_config.NOT_YET)),
        )
    )


if __name__ == "__main__":
    PAGE.write_text(page())
