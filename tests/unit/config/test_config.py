"""The broker's configuration: where values come from, what is refused, and with which words (DESIGN §10)."""

from __future__ import annotations

import dataclasses
import socket
from pathlib import Path
from typing import Any

import pytest

from millpond.wire.errors import InvalidConfig
from millpond_broker.config import SECTIONS, Config, Kind, LimitsConfig, Voter, load

LEAST = {"broker.id": "1", "broker.data_dir": "data"}

WHOLE_FILE = """
[broker]
id = 7
data_dir = "/var/lib/millpond"
rack = "b"
listen = "127.0.0.1:0"
advertise = "b7.example:17070"

[cluster]
peer_listen = "127.0.0.1:7071"
peer_advertise = "b7.example:7071"
voters = ["7@b7.example:7071", "8@b8.example:7071", "9@b9.example:7071"]
secret_file = "/etc/millpond/secret"

[http]
listen = "[::1]:7072"

[limits]
batch_bytes_max = 1_048_576
streams_max = 5
"""


def loaded(**settings: str) -> Config:
    """The least configuration with these overrides, `section__key=value`."""
    return load(None, {}, LEAST | {key.replace("__", "."): value for key, value in settings.items()})


def refusal(overrides: dict[str, str] | None = None, environ: dict[str, str] | None = None) -> InvalidConfig:
    with pytest.raises(InvalidConfig) as raised:
        load(None, environ or {}, LEAST | (overrides or {}))
    return raised.value


def refusal_of_file(path: Path, text: str) -> InvalidConfig:
    path.write_text(text)
    with pytest.raises(InvalidConfig) as raised:
        load(path, {}, LEAST)
    return raised.value


# --- where values come from --------------------------------------------------------------------------


def test_what_nobody_sets_is_the_documented_default() -> None:
    config = loaded()
    assert (config.broker.id, config.broker.data_dir) == (1, Path("data"))
    assert (config.broker.listen, config.broker.rack) == ("0.0.0.0:7070", "")
    assert (config.cluster.peer_listen, config.http.listen) == ("0.0.0.0:7071", "127.0.0.1:7072")
    assert config.limits == LimitsConfig()
    assert (config.limits.batch_bytes_max, config.limits.produce_bytes_max) == (4 << 20, 64 << 20)


def test_a_file_sets_everything(tmp_path: Path) -> None:
    path = tmp_path / "broker.toml"
    path.write_text(WHOLE_FILE)
    config = load(path, {}, {})
    assert (config.broker.id, config.broker.data_dir, config.broker.rack) == (
        7,
        Path("/var/lib/millpond"),
        "b",
    )
    assert config.broker.advertise == "b7.example:17070"
    assert [str(voter) for voter in config.cluster.voters] == [f"{n}@b{n}.example:7071" for n in (7, 8, 9)]
    assert config.cluster.secret_file == Path("/etc/millpond/secret")
    assert config.http.listen == "[::1]:7072"
    assert (config.limits.batch_bytes_max, config.limits.streams_max) == (1 << 20, 5)


def test_the_environment_goes_over_the_file_and_a_flag_over_both(tmp_path: Path) -> None:
    path = tmp_path / "broker.toml"
    path.write_text(WHOLE_FILE)
    environ = {"MILLPOND_BROKER__RACK": "env", "MILLPOND_LIMITS__STREAMS_MAX": "6", "PATH": "/bin"}
    config = load(path, environ, {"limits.streams_max": "7"})
    assert (config.broker.id, config.broker.rack, config.limits.streams_max) == (7, "env", 7)


def test_the_clients_variables_are_none_of_the_brokers_business() -> None:
    assert load(None, {"MILLPOND_BOOTSTRAP": "elsewhere:1"}, LEAST) == loaded()


def test_everything_can_come_from_the_environment() -> None:
    environ = {
        "MILLPOND_BROKER__ID": "3",
        "MILLPOND_BROKER__DATA_DIR": "/data",
        "MILLPOND_CLUSTER__VOTERS": "3@b3:7071",
    }
    config = load(None, environ, {})
    assert config.cluster.voters == (Voter(id=3, address="b3:7071"),)


def test_a_configuration_written_out_and_loaded_again_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "broker.toml"
    path.write_text(WHOLE_FILE)
    config = load(path, {}, {})
    texts = {}
    for section in SECTIONS:
        for name, value in dataclasses.asdict(getattr(config, section)).items():
            texts[f"{section}.{name}"] = str(value)
    texts["cluster.secret_file"] = str(config.cluster.secret_file)
    texts["cluster.voters"] = ",".join(map(str, config.cluster.voters))
    assert load(None, {}, texts) == config


# --- addresses ---------------------------------------------------------------------------------------


def test_clients_are_told_the_host_listened_on_and_the_port_that_is_open() -> None:
    assert loaded(broker__listen="127.0.0.1:0").broker.client_address(4242) == "127.0.0.1:4242"
    assert loaded(broker__listen="[::1]:0").broker.client_address(4242) == "[::1]:4242"


@pytest.mark.parametrize("everywhere", ["0.0.0.0:7070", "[::]:7070"])
def test_a_broker_on_all_interfaces_is_known_by_its_machines_name(everywhere: str) -> None:
    assert loaded(broker__listen=everywhere).broker.client_address(9) == f"{socket.gethostname()}:9"


def test_an_advertised_address_is_told_as_it_is() -> None:
    assert loaded(broker__advertise="lb.example:443").broker.client_address(7070) == "lb.example:443"


def test_the_peer_address_is_advertised_or_the_voters_or_derived() -> None:
    def told(**settings: str) -> str:
        return loaded(**settings).cluster.peer_address(1)

    assert told(cluster__peer_advertise="p:1") == "p:1"
    assert told(cluster__voters="1@v:2") == "v:2"
    assert told(cluster__voters="2@v:1,1@v:2", cluster__secret_file="s") == "v:2"
    assert told() == f"{socket.gethostname()}:7071"
    assert told(cluster__peer_listen="127.0.0.1:0") == "127.0.0.1:0"


@pytest.mark.parametrize(
    "text",
    [
        *("", "a b:1", "h:1 ", "[fe80::1%\n]:1", "a" * 64 + ":1"),
        *"7070 :7070 h h: h:x h:65536 h:-1 h:٣ h:000001 hö:1 a..b:1 ::1:7070 [::1] [x]:1".split(),
    ],
)
@pytest.mark.parametrize("key", ["broker.listen", "broker.advertise", "cluster.peer_listen", "http.listen"])
def test_what_is_no_address_is_refused_by_key(key: str, text: str) -> None:
    assert refusal({key: text}).key == key


@pytest.mark.parametrize("text", ["0.0.0.0:7070", "[::]:7070", "[::0]:1", "host:0"])
def test_an_address_that_nobody_can_come_to_is_not_advertised(text: str) -> None:
    error = refusal({"broker.advertise": text})
    assert error.key == "broker.advertise"
    assert "others can come to" in error.reason


def test_two_listeners_do_not_share_a_port() -> None:
    error = refusal({"broker.listen": "0.0.0.0:7072"})
    assert (error.key, "broker.listen" in error.reason) == ("http.listen", True)
    assert refusal({"cluster.peer_listen": "h:7070"}).key == "cluster.peer_listen"
    loaded(broker__listen="10.0.0.1:7072")  # another host's port is another port
    loaded(broker__listen="h:0", cluster__peer_listen="h:0", http__listen="h:0")


# --- what is refused ---------------------------------------------------------------------------------


def test_id_and_data_directory_are_required() -> None:
    for key in LEAST:
        with pytest.raises(InvalidConfig, match=f"{key}: is required"):
            load(None, {}, {other: value for other, value in LEAST.items() if other != key})


@pytest.mark.parametrize(
    ("key", "meant"),
    [("broker.lisen", "broker.listen"), ("limits.batch_byte_max", "limits.batch_bytes_max")],
)
def test_an_unknown_key_is_named_with_the_one_that_was_meant(key: str, meant: str) -> None:
    error = refusal({key: "1"})
    assert (error.key, error.reason) == (key, f"unknown setting; did you mean {meant}?")


def test_an_unknown_section_is_named_with_the_one_that_was_meant(tmp_path: Path) -> None:
    error = refusal_of_file(tmp_path / "c.toml", "[brokr]\nid = 1\n")
    assert (error.key, error.reason) == ("brokr", "unknown section; did you mean broker?")
    assert refusal({"xyzzy.id": "1"}).reason == "unknown section"


def test_a_refused_variable_is_named_beside_its_key() -> None:
    error = refusal(environ={"MILLPOND_BROKER__LISTEN": "nowhere"})
    assert (error.key, "MILLPOND_BROKER__LISTEN" in error.reason) == ("broker.listen", True)
    assert refusal(environ={"MILLPOND_BROKR__ID": "1"}).key == "brokr.id"


@pytest.mark.parametrize(
    "line",
    [
        *("broker = 5", "[broker.id]\nx = 1", "[cluster]\nvoters = 'x'", "[cluster]\nvoters = [1]"),
        *(f"[broker]\n{line}" for line in ("id = true", "id = 1.0", "id = '1'", "rack = 1", "data_dir = []")),
    ],
)
def test_a_value_of_another_type_is_refused_by_key(tmp_path: Path, line: str) -> None:
    assert refusal_of_file(tmp_path / "c.toml", line).key.partition(".")[0] in SECTIONS


@pytest.mark.parametrize("text", ["", " ", "ten", "1.5", "1e6", "4MiB", "0x10", "--5", "٣", "9" * 5000])
def test_text_that_is_no_whole_number_is_refused(text: str) -> None:
    error = refusal({"limits.streams_max": text})
    assert (error.key, "whole number" in error.reason) == ("limits.streams_max", True)
    assert len(str(error)) < 300


def numbers() -> list[tuple[str, Kind]]:
    return [
        (f"{section}.{field.name}", field.metadata["kind"])
        for section, cls in SECTIONS.items()
        for field in dataclasses.fields(cls)
        if field.metadata["kind"].maximum
    ]


@pytest.mark.parametrize(("key", "kind"), numbers(), ids=lambda value: value if type(value) is str else "")
def test_a_number_past_a_bound_is_refused_by_key_and_says_the_bounds(key: str, kind: Kind) -> None:
    for value in (kind.minimum - 1, kind.maximum + 1):
        error = refusal({key: str(value)})
        assert error.key == key
        assert f"is not within {kind.minimum} to {kind.maximum}" in error.reason


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("limits.produce_stream_bytes_max", "2097152"),
        ("limits.produce_bytes_max", "8388608"),
        ("limits.fetch_stream_bytes_max", "2097152"),
    ],
)
def test_a_limit_that_would_block_another_is_refused(key: str, value: str) -> None:
    error = refusal({key: value})
    assert error.key == key
    assert f"{value} is less than limits." in error.reason


def test_every_limit_says_where_it_matters_and_has_bounds_with_its_default_within() -> None:
    for field in dataclasses.fields(LimitsConfig):
        kind: Kind = field.metadata["kind"]
        default: Any = field.default
        assert kind.minimum <= default <= kind.maximum, field.name


# --- several brokers ----------------------------------------------------------------------------------


def test_several_voters_need_a_secret() -> None:
    error = refusal({"cluster.voters": "1@b1:7071, 2@b2:7071, 3@b3:7071"})
    assert error.key == "cluster.secret_file"
    assert error.reason == "is required with 3 voters: by it they know each other"


def test_a_broker_alone_may_have_a_secret_and_needs_none() -> None:
    assert loaded().cluster.secret_file is None
    assert loaded(cluster__secret_file="s").cluster.secret_file == Path("s")


def test_a_broker_that_is_none_of_the_voters_needs_the_secret_to_follow_them() -> None:
    """Rule 44."""
    for others in ("2@b2:7071", "2@b2:7071,3@b3:7071"):
        error = refusal({"cluster.voters": others})
        assert (error.key, "broker 1 is none of the voters" in error.reason) == ("cluster.secret_file", True)
        cluster = loaded(
            cluster__voters=others, cluster__secret_file="s", cluster__peer_advertise="b1:1"
        ).cluster
        assert cluster.peer_address(1) == "b1:1"


def test_a_voters_address_is_the_one_that_it_advertises() -> None:
    for voters in ("1@b1:7071", "2@b2:7071,1@b1:7071"):
        settings = {"cluster.voters": voters, "cluster.secret_file": "s"}
        error = refusal(settings | {"cluster.peer_advertise": "other:7071"})
        assert (error.key, "cluster.peer_advertise says other:7071" in error.reason) == (
            "cluster.voters",
            True,
        )


@pytest.mark.parametrize(
    "text",
    [
        *"b:1 @b:1 x@b:1 1@ 1@b 1@b:0 0@b:1 1@b:1, 1@a:1,1@b:1 1@a:1,2@a:1".split(),
        *"99999999999@h:1 3000000000@h:1".split(),
        ",".join(f"{n}@h{n}:1" for n in range(1, 9)),
    ],
)
def test_what_is_no_list_of_voters_is_refused(text: str) -> None:
    assert refusal({"cluster.voters": text}).key == "cluster.voters"


# --- files that are none -----------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"[broker", b"\xff\xfe", b"x = ", b"[a]\n[a]", b"x = " + b"[" * 5000])
def test_a_file_that_is_no_toml_is_refused_by_its_path(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "c.toml"
    path.write_bytes(data)
    with pytest.raises(InvalidConfig) as raised:
        load(path, {}, LEAST)
    assert raised.value.key == str(path)


def test_a_file_that_cannot_be_read_is_refused_by_its_path(tmp_path: Path) -> None:
    bad: Any
    for bad in (tmp_path / "missing", tmp_path, Path("a\0b")):
        with pytest.raises(InvalidConfig, match="cannot be read"):
            load(bad, {}, LEAST)


def test_a_file_that_is_no_page_of_text_is_not_read_to_its_end() -> None:
    with pytest.raises(InvalidConfig, match="more than"):
        load(Path("/dev/zero"), {}, LEAST)


def test_a_byte_order_mark_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_bytes(b"\xef\xbb\xbf" + WHOLE_FILE.encode())
    assert load(path, {}, {}).broker.id == 7
