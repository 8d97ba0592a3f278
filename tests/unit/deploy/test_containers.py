"""What docker-compose.yml and the Dockerfile promise, held without an engine; `make chaos` runs it."""

from __future__ import annotations

import io
import re
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from millpond_broker.config import Address, Config, load

ROOT = Path(__file__).parents[3]
IMAGE = ROOT / "deploy" / "docker"
BROKERS = (1, 2, 3)
COMPOSE = "docker-compose.yml"


def _substituted(text: str, environment: dict[str, str]) -> str:
    """As compose does it, in the one form that both generations know: ${NAME:-default}."""
    return re.sub(r"\$\{(\w+):-([^}$]*)\}", lambda found: environment.get(found[1]) or found[2], text)


def _compose(**environment: str) -> dict[str, Any]:
    text = _substituted((ROOT / COMPOSE).read_text(), environment)
    assert "$" not in text, "a form of substitution that docker-compose 1.29 may not know"
    parsed: dict[str, Any] = yaml.safe_load(text)
    return parsed


@pytest.fixture(params=BROKERS)
def broker(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


def _service(broker: int, **environment: str) -> dict[str, Any]:
    service: dict[str, Any] = _compose(**environment)["services"][f"broker-{broker}"]
    return service


def _config(service: dict[str, Any]) -> Config:
    """As the broker in it reads it."""
    image = {"MILLPOND_BROKER__DATA_DIR": "/var/lib/millpond", "MILLPOND_HTTP__LISTEN": "0.0.0.0:7072"}
    assert all(f"{name}={value}" in (IMAGE / "Dockerfile").read_text() for name, value in image.items())
    assert all(isinstance(value, str) for value in service["environment"].values()), "compose v1 wants text"
    return load(None, image | service["environment"], {})


def test_there_are_three_brokers_and_no_word_that_only_one_generation_of_compose_knows() -> None:
    compose = _compose()
    assert sorted(compose["services"]) == [f"broker-{number}" for number in BROKERS]
    assert {key for key in compose if not key.startswith("x-")} == {
        "services",
        "networks",
        "volumes",
        "secrets",
    }
    for service in compose["services"].values():
        # v1 heeds limits under `deploy:` in a swarm only, v2 heeds these.
        assert "deploy" not in service


def test_ports_are_published_on_loopback_only_and_the_other_brokers_port_not_at_all(broker: int) -> None:
    published = [port.split(":") for port in _service(broker)["ports"]]
    assert [host for host, _, _ in published] == ["127.0.0.1", "127.0.0.1"]
    first = 7070 + 10 * (broker - 1)
    assert [(outside, inside) for _, outside, inside in published] == [
        (str(first), str(first)),
        (str(first + 2), "7072"),
    ]


def test_a_broker_is_nobody_may_write_its_volume_only_and_has_bounds(broker: int) -> None:
    service = _service(broker)
    assert (service["user"], service["read_only"]) == ("10001:10001", True)
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert service["volumes"] == [f"data-{broker}:/var/lib/millpond"]
    assert (service["mem_limit"], service["memswap_limit"], service["cpus"]) == ("1g", "1g", 1.0)
    assert service["pids_limit"] >= 256
    assert service["restart"] == "unless-stopped"
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}


def test_it_has_time_for_a_clean_stop(broker: int) -> None:
    service = _service(broker)
    grace_seconds = int(service["stop_grace_period"].removesuffix("s"))
    assert grace_seconds * 1000 > _config(service).limits.stop_timeout_ms
    assert "STOPSIGNAL SIGTERM" in (IMAGE / "Dockerfile").read_text()


def test_healthy_means_ready(broker: int) -> None:
    check = _service(broker)["healthcheck"]["test"]
    assert check == ["CMD", "python3", "-I", "-S", "/opt/millpond/ready.py"]
    assert "/readyz" in (IMAGE / "ready.py").read_text()
    # The same in the image, for who runs it without compose.
    assert '"-I", "-S", "/opt/millpond/ready.py"' in (IMAGE / "Dockerfile").read_text()


def test_settings_are_accepted_and_lead_clients_and_brokers_to_each_other(broker: int) -> None:
    service = _service(broker)
    config = _config(service)
    assert config.broker.id == broker
    assert config.broker.client_address(0) == f"127.0.0.1:{7070 + 10 * (broker - 1)}"
    assert Address.parse(config.broker.listen).port == Address.parse(config.broker.client_address(0)).port
    # Its name among brokers is one of the network of brokers alone: cut from that one, it is cut from them.
    assert service["networks"] == {"clients": {}, "peers": {"aliases": [f"peer-{broker}"]}}
    assert config.cluster.peer_address(broker) == f"peer-{broker}:7071"
    assert [voter.id for voter in config.cluster.voters] == list(BROKERS)
    assert str(config.cluster.secret_file) == "/run/secrets/cluster_secret"


def test_with_names_clients_in_containers_are_led_to_names_that_their_network_knows(broker: int) -> None:
    config = _config(_service(broker, **{f"MILLPOND_HOST_{broker}": f"broker-{broker}"}))
    assert config.broker.client_address(0) == f"broker-{broker}:{7070 + 10 * (broker - 1)}"


def test_the_secret_is_a_file_and_git_and_the_image_do_not_get_it() -> None:
    compose = _compose()
    assert compose["secrets"] == {"cluster_secret": {"file": "./deploy/docker/secrets/cluster"}}
    assert all(service["secrets"] == ["cluster_secret"] for service in compose["services"].values())
    assert "deploy/docker/secrets/" in (ROOT / ".gitignore").read_text().splitlines()
    assert "deploy/docker/secrets" in (ROOT / ".dockerignore").read_text().splitlines()
    assert compose["networks"]["peers"] == {"internal": True}


def test_the_last_stage_of_the_image_installs_nothing_and_is_not_root() -> None:
    *_, first, last = re.split(r"\nFROM python:3\.13-slim.*\n", (IMAGE / "Dockerfile").read_text())
    assert "pip" in first
    commands = [line for line in last.splitlines() if line and not line.startswith("#")]
    assert not any("pip" in line or "apt" in line for line in commands)
    assert commands.index("USER 10001:10001") > max(
        number for number, line in enumerate(commands) if line.startswith(("RUN", "COPY"))
    )


def test_the_requirements_of_the_image_are_those_of_the_project() -> None:
    command = [sys.executable, str(IMAGE / "requirements.py")]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = {re.split(r"[<>=]", line)[0] for line in io.StringIO(told)}
    assert {"grpcio", "pysyncobj", "prometheus-client", "click"} <= names
    assert not {"pytest", "ruff", "docker"} & names


def test_a_secret_is_made_once(tmp_path: Path) -> None:
    # Its owner is given by a container's root; who is not root here cannot see that half.
    script = (IMAGE / "secret.py").read_text().replace("os.chown(", "(lambda *_ids: None)(")
    command = [sys.executable, "-c", script, str(tmp_path / "cluster")]
    subprocess.run(command, check=True)
    made = (tmp_path / "cluster").read_bytes()
    assert len(made) > 64
    assert (tmp_path / "cluster").stat().st_mode & 0o777 == 0o600
    (tmp_path / "cluster.new").write_bytes(b"of a run that was interrupted")
    subprocess.run(command, check=True)
    assert (tmp_path / "cluster").read_bytes() == made
    assert [path.name for path in tmp_path.iterdir()] == ["cluster"]


@pytest.mark.parametrize("target", ["up", "down"])
def test_without_docker_a_line_says_what_to_install(target: str, tmp_path: Path) -> None:
    command = [sys.executable, str(IMAGE / "cluster.py"), target]
    done = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        f"make {target}: docker was not found: install Docker Engine and compose (docs/operations.md)"
    ]


def test_a_broker_that_is_not_ready_is_not_healthy() -> None:
    """What the health check runs, against a port where nobody listens, one that says no, and one that is."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        assert _ready(port) == 1, "nobody listens"
        listener.listen()
        for answer, status in ((b"503 Service Unavailable", 1), (b"200 OK", 0)):
            with ThreadPoolExecutor(1) as answering:
                answered = answering.submit(_answer_one, listener, answer)
                assert _ready(port) == status
                assert answered.result(timeout=30).startswith(b"GET /readyz HTTP/1.1\r\n")


def _ready(port: int) -> int:
    environment = {"MILLPOND_HTTP__LISTEN": f"0.0.0.0:{port}"}
    command = [sys.executable, "-I", "-S", str(IMAGE / "ready.py")]
    return subprocess.run(command, env=environment, capture_output=True, check=False).returncode


def _answer_one(listener: socket.socket, answer: bytes) -> bytes:
    listener.settimeout(30)
    connection, _ = listener.accept()
    with connection:
        asked = connection.recv(4096)
        connection.sendall(b"HTTP/1.1 " + answer + b"\r\nConnection: close\r\n\r\n")
    return asked
