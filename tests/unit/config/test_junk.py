"""Whatever a configuration holds, it loads or raises InvalidConfig in one line; never anything else."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from millpond.wire.errors import InvalidConfig
from millpond_broker.config import _FIELDS, SECTIONS, load

KEYS = [*_FIELDS, "broker.x", "x.y", "x", "", "."]

words = st.text(max_size=30)
addresses = st.builds("{}:{}".format, st.text("ab.-[]:%0", max_size=8), st.text("0123456789x٣", max_size=6))
texts = words | addresses | st.builds("{}@{}".format, st.integers(), addresses) | st.integers().map(str)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("junk") / "c.toml"


def try_to_load(path: Path | None, environ: dict[str, str], overrides: dict[str, str]) -> None:
    try:
        config = load(path, environ, overrides)
    except InvalidConfig as error:
        told = str(error)
    else:
        told = ""
        assert config.broker.client_address(1)
        assert config.cluster.peer_address(config.broker.id)
    assert len(told) < 1000
    assert len(told.splitlines()) <= 1


@settings(max_examples=500)
@given(st.dictionaries(st.sampled_from(KEYS) | words, texts, max_size=5))
@example({"broker.id": "0\x1f"})  # white space to str.strip, and none to int
def test_junk_in_flags(overrides: dict[str, str]) -> None:
    try_to_load(None, {}, {"broker.id": "1", "broker.data_dir": "d"} | overrides)


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(KEYS) | words, texts, max_size=5))
def test_junk_in_the_environment(values: dict[str, str]) -> None:
    environ = {f"MILLPOND_{key.upper().replace('.', '__')}": value for key, value in values.items()}
    try_to_load(None, environ, {"broker.id": "1", "broker.data_dir": "d"})


toml_values = st.recursive(
    texts.map(lambda text: repr(text) if text.isascii() and "'" not in text else '"x"')
    | st.integers().map(str)
    | st.floats().map(str)
    | st.sampled_from(["true", "1979-05-27T07:32:00Z", "inf", "0x1f", "1_0", "'''\n'''", "9" * 5000]),
    lambda inner: st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
    max_leaves=5,
)
lines = st.builds("{} = {}".format, st.sampled_from([key.rpartition(".")[2] for key in KEYS]), toml_values)
sections = st.builds(
    lambda name, body: f"[{name}]\n" + "\n".join(body),
    st.sampled_from([*SECTIONS, "x"]),
    st.lists(lines, max_size=4),
)


@settings(max_examples=500)
@given(document=st.lists(sections, max_size=4).map("\n".join))
def test_junk_in_a_file_of_the_right_shape(path: Path, document: str) -> None:
    path.write_text(document)
    try_to_load(path, {}, {})
    try_to_load(path, {}, {"broker.id": "1", "broker.data_dir": "d"})


@settings(max_examples=500)
@given(data=st.binary(max_size=200))
def test_junk_instead_of_a_file(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    try_to_load(path, {}, {})
