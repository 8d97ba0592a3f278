"""What links tell the log is told once a minute for each peer and reason, with how often it was left out."""

from __future__ import annotations

import logging

import pytest

from millpond_broker.rpc.peer_log import KINDS_MAX, SECONDS_BETWEEN, PeerLog


def fields(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    return [vars(record)["millpond_fields"] for record in caplog.records]


def test_a_kind_is_told_once_a_minute(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("millpond_broker.rpc.peer_log.time.monotonic", lambda: now[0])
    log = PeerLog()
    for _ in range(5):
        log.tell(logging.WARNING, "peer_refused", 2, "secret", at="somewhere")
    log.tell(logging.WARNING, "peer_refused", 3, "secret")
    log.tell(logging.WARNING, "peer_refused", 2, "version")
    log.tell(logging.WARNING, "peer_lost", 0, "secret")
    assert fields(caplog) == [
        {"at": "somewhere", "peer": 2, "reason": "secret"},
        {"peer": 3, "reason": "secret"},
        {"peer": 2, "reason": "version"},
        {"reason": "secret"},
    ]
    now[0] += SECONDS_BETWEEN
    log.tell(logging.WARNING, "peer_refused", 2, "secret")
    assert fields(caplog)[-1] == {"peer": 2, "reason": "secret", "left_out": 4}


def test_what_it_remembers_is_bounded() -> None:
    log = PeerLog()
    for peer in range(2 * KINDS_MAX):
        log.tell(logging.DEBUG, "peer_refused", peer)
    assert len(log._kinds) == KINDS_MAX
