"""Strangers at the broker-to-broker port: none gets in, none is heard, and a good link does not feel them."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import grpc
import pytest

from millpond.v1.internal import peer_pb2 as pb
from millpond_broker.rpc.peer_gate import HANDSHAKE_SECONDS_MAX, HANDSHAKES_MAX
from millpond_broker.rpc.peer_handshake import NONCE_BYTES, Opener
from millpond_broker.rpc.peer_server import CONNECTIONS_MAX, IDLE_MS_MAX, STREAMS_MAX
from tests.awake import awake
from tests.integration.peers.conftest import MakeVoter
from tests.integration.peers.raw import RawPeer
from tests.integration.peers.voters import Recorder, Voter, link_all, sockets, until

TLS_HELLO = bytes.fromhex("16030100c5010000c10303") + bytes(186)
HTTP_GET = b"GET /metrics HTTP/1.1\r\nHost: broker\r\n\r\n"
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HTTP2_SETTINGS = bytes.fromhex("000000040000000000")
GARBAGE = {
    "nothing": b"",
    "zeros": bytes(4096),
    "noise": bytes(range(256)) * 64,
    "TLS": TLS_HELLO,
    "HTTP/1": HTTP_GET,
    "half a preface": HTTP2_PREFACE[:10],
    "a preface": HTTP2_PREFACE,
    "settings": HTTP2_PREFACE + HTTP2_SETTINGS,
    "HTTP/2 noise": HTTP2_PREFACE + HTTP2_SETTINGS + bytes(range(256)) * 64,
    "a frame without end": HTTP2_PREFACE + HTTP2_SETTINGS + bytes.fromhex("ffffff000000000001") + bytes(4096),
}


def log_of(caplog: pytest.LogCaptureFixture, name: str) -> list[dict[str, object]]:
    """The fields of each line of that name."""
    found = [record for record in caplog.records if record.getMessage() == name]
    return [vars(record)["millpond_fields"] for record in found]


@contextmanager
def bouncing(one: Voter, two: Voter) -> Iterator[Callable[[], float]]:
    """A link in use all the time; gives the longest that a message and its answer have taken so far (s)."""
    stop, slowest = threading.Event(), [0.0]
    back = threading.Event()

    def echo(peer: int, message: bytes) -> bool:
        two.links.send(peer, [message])
        return True

    def came_back(_peer: int, _message: bytes) -> bool:
        back.set()
        return True

    two.told.take, one.told.take = echo, came_back

    def bounce() -> None:
        while not stop.is_set():
            back.clear()
            began = awake()
            one.links.send(two.id, [b"there and back"])
            if not back.wait(10):
                slowest[0] = float("inf")
                return
            slowest[0] = max(slowest[0], awake() - began)
            stop.wait(0.005)

    thread = threading.Thread(target=bounce)
    thread.start()
    try:
        yield lambda: slowest[0]
    finally:
        stop.set()
        thread.join(15)
    assert slowest[0] < 2.0, "the good link was held up"
    assert one.told.events == [("connected", two.id)], "the good link broke"
    assert two.told.events == [("connected", one.id)], "the good link broke"


def test_a_voter_with_another_secret_is_never_connected_and_both_say_so(
    voter: MakeVoter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    one, two = voter(1), voter(2, secret=b"another secret than ours")
    one.connect(two)
    two.connect(one)
    until(lambda: len(log_of(caplog, "peer_refused")) >= 2 and len(log_of(caplog, "peer_not_reached")) >= 2)
    refused = log_of(caplog, "peer_refused")
    assert {line["reason"] for line in refused} == {"secret"}
    for links in (one.links._links[2], two.links._links[1]):
        until(lambda link=links: link._not_before - link._earliest > 0.6)  # type: ignore[misc]  # a lambda with a default
    # Both have tried several times by now, and said it once each.
    assert len(log_of(caplog, "peer_refused")) == 2
    assert len(log_of(caplog, "peer_not_reached")) == 2
    for each, other in ((one, 2), (two, 1)):
        each.links.send(other, [b"never sent"])
        assert each.told.events == []
        assert each.told.messages == {}
        assert each.told.admitted == [], "nobody is asked about who has proven nothing"


def test_a_peer_that_the_receiver_does_not_admit_is_not_connected(
    voter: MakeVoter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    one, two = voter(1), voter(2)
    two.told.refused[1] = "it has another disk"
    one.connect(two)
    until(lambda: bool(log_of(caplog, "peer_not_reached")))
    assert log_of(caplog, "peer_refused")[0]["detail"] == "it has another disk"
    assert "it has another disk" in str(log_of(caplog, "peer_not_reached")[0]["detail"])
    assert one.told.events == []
    del two.told.refused[1]
    one.wait_linked(two)


def test_a_peer_that_the_opener_does_not_admit_is_not_connected(
    voter: MakeVoter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    one, two = voter(1), voter(2)
    one.told.refused[2] = "it has another disk"
    one.connect(two)
    until(lambda: bool(log_of(caplog, "peer_not_reached")))
    assert log_of(caplog, "peer_not_reached")[0]["reason"] == "not_admitted"
    assert one.told.events == []
    assert two.told.messages == {}
    del one.told.refused[2]
    one.wait_linked(two)


def test_another_voter_at_the_address_is_not_taken_for_the_one_that_is_meant(
    voter: MakeVoter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    one, three = voter(1), voter(3)
    one.links.connect(2, three.address)
    until(lambda: bool(log_of(caplog, "peer_not_reached")))
    assert log_of(caplog, "peer_refused")[0]["reason"] == "wrong_peer"
    assert one.told.events == []


@pytest.mark.parametrize("what", GARBAGE)
def test_hundreds_of_connections_with_garbage_leave_a_good_link_alone(voter: MakeVoter, what: str) -> None:
    one, two = voter(1), voter(2)
    link_all(one, two)
    before = len(sockets())
    with bouncing(one, two), ExitStack() as stack:
        opened: list[socket.socket] = []
        for _ in range(300):
            opened.append(stack.enter_context(socket.create_connection(("127.0.0.1", two.port), 5)))
            try:
                opened[-1].sendall(GARBAGE[what])
            except OSError:
                continue  # closed on us already, which is fine
        assert len(sockets()) <= before + 300 + CONNECTIONS_MAX, "each has its end here too, up to the bound"
        # None of them is kept, although none of them goes by itself.
        until(lambda: all(map(_ended, opened)), 20)


def _ended(one: socket.socket) -> bool:
    """Whether the other end has closed; what it says before is thrown away."""
    one.setblocking(False)
    try:
        while one.recv(65_536):
            pass
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def test_a_port_scan_leaves_a_good_link_alone(voter: MakeVoter) -> None:
    one, two = voter(1), voter(2)
    link_all(one, two)
    with bouncing(one, two):
        for _ in range(1_500):
            socket.create_connection(("127.0.0.1", two.port), 5).close()


def test_calls_of_other_services_and_methods_are_told_that_there_is_none(voter: MakeVoter) -> None:
    two = voter(2)
    with grpc.insecure_channel(two.address) as channel:
        for path in (
            "/millpond.v1.ProduceService/Produce",
            "/millpond.v1.internal.PeerService/Other",
            "/x/y",
        ):
            call: Any = channel.unary_unary(path)
            with pytest.raises(grpc.RpcError) as caught:
                call(b"", timeout=10)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_connection_without_a_stream_is_closed_although_it_answers_pings(voter: MakeVoter) -> None:
    two = voter(2)
    before = len(sockets())
    with ExitStack() as stack:
        for _ in range(20):
            options = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))
            channel = stack.enter_context(grpc.insecure_channel(two.address, options))
            grpc.channel_ready_future(channel).result(10)
        assert len(sockets()) >= before + 40
        assert until(lambda: len(sockets()) <= before + 2) < IDLE_MS_MAX / 1000 + 2


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff" * 100, bytes(1000), pb.PeerFrame(pieces=pb.PeerPieces(pieces=[pb.PeerPiece()] * 99))],
    ids=["nothing", "noise", "zeros", "pieces"],
)
def test_a_stream_that_begins_with_anything_else_is_ended(
    voter: MakeVoter, data: bytes | pb.PeerFrame
) -> None:
    two = voter(2)
    with RawPeer(two.address) as raw:
        raw.send(data)
        assert raw.ended()[0] is grpc.StatusCode.INVALID_ARGUMENT
    assert two.told.messages == {}


def test_a_first_frame_that_is_too_large_is_never_read(voter: MakeVoter) -> None:
    two = voter(2)
    with RawPeer(two.address) as raw:
        raw.send(bytes(70 << 20))
        assert raw.ended()[0] is not grpc.StatusCode.OK
    assert two.told.messages == {}


def test_pieces_before_the_proof_are_never_heard(voter: MakeVoter) -> None:
    two = voter(2)
    with RawPeer(two.address) as raw:
        opener = Opener(
            b"x" * 32, two.told.own, wanted=2, role=pb.PEER_ROLE_METADATA, nonce=b"n" * NONCE_BYTES
        )
        hello = opener.hello()
        hello.hello.opener.broker_id = 1
        raw.send(hello)
        assert raw.read().WhichOneof("kind") == "challenge"
        raw.messages(b"let me in")
        assert raw.ended()[0] is grpc.StatusCode.INVALID_ARGUMENT
    assert two.told.messages == {}


def test_streams_that_open_and_say_nothing_keep_no_peer_out(voter: MakeVoter) -> None:
    """As many as there are, the newest gets in; and each is ended in time."""
    one, two = voter(1), voter(2)
    with ExitStack() as stack:
        silent = [
            stack.enter_context(RawPeer(two.address, 100 + number)) for number in range(STREAMS_MAX - 1)
        ]
        until(lambda: len(two.links._incoming._gate._visits) == HANDSHAKES_MAX)
        one.connect(two)
        one.wait_linked(two)
        one.links.send(2, [b"heard"])
        two.told.wait(lambda: two.told.messages.get(1) == [b"heard"])
        began = awake()
        for raw in silent:
            assert raw.ended()[0] is grpc.StatusCode.CANCELLED
        assert awake() - began < HANDSHAKE_SECONDS_MAX + 1


def test_a_storm_of_strangers_streams_leaves_a_good_link_alone(voter: MakeVoter) -> None:
    one, two = voter(1), voter(2)
    link_all(one, two)
    with bouncing(one, two):
        for _ in range(10):
            with ExitStack() as stack:
                many = [stack.enter_context(RawPeer(two.address, 100 + number)) for number in range(60)]
                for raw in many:
                    raw.send(b"\xff")
                for raw in many:
                    assert raw.ended()[0] in (
                        grpc.StatusCode.INVALID_ARGUMENT,
                        grpc.StatusCode.RESOURCE_EXHAUSTED,
                        grpc.StatusCode.CANCELLED,
                    )


def test_a_server_that_is_no_voter_is_never_connected_to(voter: MakeVoter) -> None:
    """It takes the connection and answers nothing, or nonsense."""
    one = voter(1)
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.create_server(("127.0.0.1", 0)) as noisy:
        ended = threading.Event()

        def answer() -> None:
            while True:
                connection, _ = noisy.accept()
                with connection:
                    if ended.is_set():
                        return
                    connection.sendall(HTTP_GET)

        thread = threading.Thread(target=answer)
        thread.start()
        one.links.connect(2, f"127.0.0.1:{silent.getsockname()[1]}")
        one.links.connect(3, f"127.0.0.1:{noisy.getsockname()[1]}")
        for peer in (2, 3):
            link = one.links._links[peer]
            until(lambda link=link: link._not_before > 0)  # type: ignore[misc]  # a lambda with a default
        one.close()
        ended.set()
        socket.create_connection(noisy.getsockname()).close()
        thread.join()
    assert one.told.events == []


def test_a_recorder_says_when_it_is_told_twice() -> None:
    """The check that all of these tests stand on."""
    told = Recorder(1)
    told.on_connected(2)
    told.on_connected(2)
    assert told.mistakes == ["connected twice of 2"]
