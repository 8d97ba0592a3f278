"""What advice names can be typed as it stands: it reaches the same cluster, and names what there is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from millpond import cli, errors
from millpond._core.cluster import NotReady, Unreached

REFUSED = errors.ClusterUnavailable(tried={"localhost:7070": "connection refused"})

Said = Callable[[str, errors.MillpondError], str]


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Said:
    """The one line of a command that fails with an error, as it would in a cluster."""
    monkeypatch.delenv("MILLPOND_BOOTSTRAP", raising=False)

    def said(line: str, error: errors.MillpondError) -> str:
        def fail(*_: object) -> None:
            raise error

        for module in ("topic", "cluster", "consume", "bench"):
            monkeypatch.setattr(f"millpond.cli.{module}.with_client", fail)
        assert cli.main(line.split()) == 1
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        return err.rstrip()

    return said


def test_at_the_default_address_a_cluster_is_one_command_away(said: Said) -> None:
    assert said("topic list", REFUSED) == (
        "millpond: no broker could be reached: localhost:7070 (connection refused);"
        " start a cluster on this machine with: millpond up; or name another with -b HOST:PORT"
    )


def test_a_broker_that_is_not_ready_runs_and_is_not_to_be_started(said: Said) -> None:
    reason = NotReady(errors.BrokerNotReady(reason="broker 1 is starting"))
    error = errors.ClusterUnavailable(tried={"b1:7070": reason, "b2:7070": "connection refused"})
    line = said("topic list -b b1:7070", error)
    assert line.startswith(
        "millpond: no broker is ready: b1:7070 (the broker is not ready: broker 1 is starting), b2"
    )
    assert "try again in some seconds" in line
    assert "millpond broker" not in line


def test_a_hint_repeats_the_address_that_was_given(said: Said) -> None:
    error = errors.UnknownTopic(topic="t")
    assert said("consume t -b b1:7080", error).endswith("with: millpond topic create t -b b1:7080")
    assert said("topic describe t --bootstrap b1:7080,b2:7080", error).endswith(
        "with: millpond topic list -b b1:7080,b2:7080"
    )
    assert said("topic create t -b b1:7080", errors.TopicExists(topic="t")).endswith(
        "with: millpond topic describe t -b b1:7080"
    )


def test_what_the_environment_or_nothing_names_need_not_be_repeated(
    said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = errors.UnknownTopic(topic="t")
    assert said("consume t", error).endswith("with: millpond topic create t")
    monkeypatch.setenv("MILLPOND_BOOTSTRAP", "b1:7080")
    assert said("consume t", error).endswith("with: millpond topic create t")
    assert "millpond up; or" not in said("topic list", REFUSED), "it is not the default that was tried"


def test_a_record_that_is_too_large_is_told_with_its_topic(said: Said) -> None:
    error = errors.RecordTooLarge(size_bytes=2, limit_bytes=1)
    assert "with: millpond topic alter orders --config record_bytes_max=N -b b1:7080" in said(
        "bench produce --topic orders -b b1:7080", error
    )


@pytest.mark.parametrize(("reason", "port"), [(Unreached.HTTP_PORT, 7092), (Unreached.PEER_PORT, 7091)])
def test_another_port_of_a_broker_is_told_with_the_one_that_is_likely_meant(
    said: Said, reason: Unreached, port: int
) -> None:
    error = errors.ClusterUnavailable(tried={f"b1:{port}": reason})
    line = said(f"cluster status -b b1:{port}", error)
    assert line.endswith("the one for clients first: try -b b1:7090")
    assert reason in line
    in_those_words = errors.ClusterUnavailable(tried={f"b1:{port}": reason.value})
    assert "try -b" not in said(f"cluster status -b b1:{port}", in_those_words), "words decide nothing"


def test_a_leader_that_is_away_is_not_the_cluster(said: Said) -> None:
    error = errors.ClusterUnavailable(tried={"b1:7070": "connection refused"}, leader_of="orders-2")
    line = said("consume orders", error)
    assert "the leader of orders-2 could not be reached: b1:7070 (connection refused);" in line
    assert "millpond cluster status" in line
    assert "no broker" not in line
