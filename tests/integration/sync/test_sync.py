"""The synchronous client against a real broker: threads, interrupts, forks, and what is left behind."""

from __future__ import annotations

import gc
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import FrameType

import pytest

import millpond
from millpond.errors import (
    BufferFull,
    ClientClosed,
    ClusterUnavailable,
    DeliveryFailed,
    DeliveryTimeout,
    ForkedClient,
    InvalidConfig,
    InvalidRequest,
    MillpondError,
    OperationTimeout,
    Outcome,
    PartialDelivery,
    TopicExists,
    UnknownTopic,
)
from millpond.testing import LocalCluster


def loop_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "millpond-sync"]


@pytest.fixture
def client(millpond_cluster: LocalCluster) -> Iterator[millpond.sync.Client]:
    with millpond.sync.connect(millpond_cluster.bootstrap) as made:
        yield made
    assert not loop_threads()


@pytest.fixture
def topic(client: millpond.sync.Client, millpond_topic: str) -> str:
    client.admin.create_topic(millpond_topic, partitions=3)
    return millpond_topic


def records_of(client: millpond.sync.Client, topic: str) -> dict[tuple[int, int], bytes | None]:
    with client.consumer(topic, stop="end") as consumer:
        return {(record.partition, record.offset): record.value for record in consumer}


def test_records_go_out_and_come_back(client: millpond.sync.Client, topic: str) -> None:
    with client.producer() as producer:
        ack = producer.send(topic, b"v", key=b"k")
        delivery = producer.enqueue(topic, b"w")
        assert delivery.result(timeout=5.0) == delivery.result()
        assert delivery.done()
        last = producer.send_nowait(topic, b"x")
        producer.flush()
        assert last.done()
        many = producer.send_many(topic, (b"%d" % number for number in range(1000)))
        assert producer.unsettled_bytes == 0
    there = records_of(client, topic)
    assert there[ack.partition, ack.offset] == b"v"
    for number, place in enumerate(zip(many.partitions, many.offsets, strict=True)):
        assert there[place] == b"%d" % number
    assert len(there) == 1003


def test_a_consumer_reads_in_every_way(client: millpond.sync.Client, topic: str) -> None:
    with client.producer() as producer:
        producer.send_many(topic, [b"v"] * 3000, partition=1)
    with client.consumer(topic, partitions=[1]) as consumer:
        assert len(consumer.poll(max_records=10)) == 10
        assert consumer.position(topic, 1) == 10
        consumer.seek(topic, 1, offset=2990)
        assert [record.offset for record in consumer.poll()] == list(range(2990, 3000))
        assert consumer.poll(timeout=0.01) == []
        assert consumer.assignment == [(topic, 1)]
        assert (consumer.finished, consumer.records_skipped) == (False, 0)
        with pytest.raises(InvalidConfig):
            consumer.commit()
    with client.consumer(topic, stop="end") as consumer:
        assert sum(len(batch) for batch in consumer.batches()) == 3000
        assert consumer.finished


def test_what_is_raised_is_what_the_asyncio_client_raises(client: millpond.sync.Client, topic: str) -> None:
    with pytest.raises(TopicExists):
        client.admin.create_topic(topic)
    with client.producer() as producer:
        with pytest.raises(UnknownTopic):
            producer.send("nowhere", b"v")
        with pytest.raises(UnknownTopic):
            producer.send_nowait("nowhere", b"v")
        with pytest.raises(TypeError, match="value_serializer="):
            producer.send(topic, "text")  # type: ignore[arg-type]  # what is tested
    with pytest.raises(ClusterUnavailable):
        millpond.sync.connect("127.0.0.1:1", timeout=0.3)


def test_threads_share_a_producer(client: millpond.sync.Client, topic: str) -> None:
    with client.producer(batch_bytes=5_000, buffer_bytes=50_000) as producer:
        bound = producer.topic(topic)

        def produce(thread: int) -> list[tuple[bytes, millpond.sync.Delivery]]:
            sent = []
            for number in range(2_000):
                value = b"%d-%d" % (thread, number)
                sent.append((value, bound.enqueue(value, key=value if number % 2 else None)))
            return sent

        with ThreadPoolExecutor(4) as pool:
            sent = [each for part in pool.map(produce, range(4)) for each in part]
        acks = [(value, delivery.result()) for value, delivery in sent]
        assert producer.unsettled_bytes == 0
    there = records_of(client, topic)
    assert len(there) == 8_000
    assert all(there[ack.partition, ack.offset] == value for value, ack in acks)


def test_a_full_buffer_is_said_or_waited_for(millpond_topic: str) -> None:
    with LocalCluster() as cluster, millpond.sync.connect(cluster.bootstrap) as client:
        client.admin.create_topic(millpond_topic, partitions=1)
        with client.producer(buffer_bytes=10_000, delivery_timeout=30.0) as producer:
            producer.send(millpond_topic, b"warm")
            cluster.pause(0)
            with pytest.raises(BufferFull):  # noqa: PT012 - the last of many
                while True:
                    late = producer.send_nowait(millpond_topic, b"x" * 1000)
            with pytest.raises(OperationTimeout):
                producer.room(timeout=0.05)
            with pytest.raises(DeliveryTimeout) as caught:
                producer.enqueue(millpond_topic, b"x" * 1000, timeout=0.05)
            assert caught.value.outcome is Outcome.NOT_WRITTEN
            with pytest.raises(DeliveryTimeout) as caught:
                late.result(timeout=0.05)
            assert caught.value.outcome is Outcome.UNKNOWN
            with pytest.raises(OperationTimeout):
                producer.flush(timeout=0.05)
            with pytest.raises(PartialDelivery):
                producer.send_many(millpond_topic, [b"x"] * 10, timeout=0.05)
            cluster.resume(0)
            producer.room(timeout=10.0)
            assert producer.enqueue(millpond_topic, b"x" * 1000).result().offset > 0
            assert late.result().offset > 0


def test_failures_nobody_asked_for_are_raised_by_close() -> None:
    with LocalCluster() as cluster, millpond.sync.connect(cluster.bootstrap) as client:
        client.admin.create_topic("t", partitions=1)
        producer = client.producer(delivery_timeout=2.0)
        producer.send("t", b"warm")
        cluster.pause(0)
        asked = producer.send_nowait("t", b"a")
        producer.send_nowait("t", b"b")
        with pytest.raises(DeliveryTimeout):
            asked.result()
        with pytest.raises(DeliveryFailed) as caught:
            producer.close()
        assert caught.value.count == 1
        cluster.resume(0)


def test_a_consumer_belongs_to_its_thread(client: millpond.sync.Client, topic: str) -> None:
    with client.consumer(topic) as consumer, ThreadPoolExecutor(1) as pool:
        for use in (consumer.poll, lambda: next(consumer), lambda: consumer.position(topic, 0)):
            with pytest.raises(InvalidRequest, match="thread"):
                pool.submit(use).result()
        pool.submit(consumer.close).result()


def test_clients_share_a_thread_which_ends_with_the_last(millpond_cluster: LocalCluster) -> None:
    first = millpond.sync.connect(millpond_cluster.bootstrap)
    second = millpond.sync.connect(millpond_cluster.bootstrap)
    assert len(loop_threads()) == 1
    producer = first.producer()
    first.close()
    with pytest.raises(ClientClosed):
        producer.send("t", b"v")
    assert second.admin.brokers()
    second.close()
    second.close()
    assert not loop_threads()
    with pytest.raises(ClientClosed):
        second.admin.brokers()
    with millpond.sync.connect(millpond_cluster.bootstrap) as third:
        assert third.admin.brokers()


def test_a_child_of_a_fork_may_not_use_it(client: millpond.sync.Client, topic: str) -> None:
    admin = client.admin
    with client.producer() as producer, client.consumer(topic) as consumer:
        bound = producer.topic(topic)
        delivery = bound.send_nowait(b"v")
        pid = os.fork()
        if pid == 0:
            status = 3
            for use in (
                lambda: bound.send_nowait(b"v"),
                lambda: producer.send(topic, b"v"),
                producer.flush,
                admin.brokers,
                lambda: client.admin,
                consumer.poll,
                client.producer,
            ):
                try:
                    use()
                    status = 1
                    break
                except ForkedClient:
                    status = 0
                except BaseException:  # whatever it is, the child must not return into the test
                    status = 2
                    break
            client.close()
            os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert delivery.result().offset >= 0


class Interrupted(BaseException):
    """What the signal handler raises."""


@contextmanager
def interrupting(function: str) -> Iterator[None]:
    """Signals, a thousand a second, whose handler raises wherever the main thread is in `function`."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        inside = False
        while frame is not None:
            name = frame.f_code.co_name
            if name in ("_remove", "__del__"):
                return  # Python itself ignores what is raised there
            inside = inside or name == function
            frame = frame.f_back
        if inside:
            raise Interrupted

    stop = threading.Event()
    main = threading.main_thread().ident
    assert main is not None

    def strike() -> None:
        pauses = random.Random(7)
        while not stop.wait(pauses.uniform(0.0002, 0.0015)):
            signal.pthread_kill(main, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    gc.disable()  # what is raised in a callback of the collector, as test tools have them, is only printed
    thread = threading.Thread(target=strike)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        signal.signal(signal.SIGUSR1, before)
        gc.enable()


def test_interrupts_at_any_step_break_nothing(client: millpond.sync.Client, topic: str) -> None:
    """Signal handlers that raise, a thousand times in the middle of sends: every Ack that was given is right,
    each record is there once, and the buffer's books are in order.
    """
    interrupts = number = 0
    known: list[tuple[bytes, millpond.sync.Delivery]] = []
    with client.producer(batch_bytes=2_000, buffer_bytes=20_000) as producer:
        bound = producer.topic(topic)
        until = time.monotonic() + 4.0
        with interrupting("enqueue"):
            while time.monotonic() < until:
                value = b"%d" % (number := number + 1)
                try:
                    delivery = bound.enqueue(value, key=value if number % 3 == 0 else None)
                except Interrupted:
                    interrupts += 1
                else:
                    known.append((value, delivery))
        producer.flush(timeout=30.0)
        acks = [(value, delivery.result(timeout=10.0)) for value, delivery in known]
        assert producer.unsettled_bytes == 0
    assert interrupts > 200
    there = records_of(client, topic)
    values = list(there.values())
    assert len(values) == len(set(values))
    assert all(there[ack.partition, ack.offset] == value for value, ack in acks)
    assert len(values) - len(known) <= interrupts


SCRIPT = """
import sys, millpond
client = millpond.sync.connect(sys.argv[1])
producer = client.producer()
print("ready", flush=True)
{work}
"""


def run_script(cluster: LocalCluster, topic: str, work: str) -> subprocess.Popen[bytes]:
    script = SCRIPT.format(work=work.format(topic=repr(topic)))
    started = subprocess.Popen(
        [sys.executable, "-c", script, cluster.bootstrap], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert started.stdout is not None
    assert started.stdout.readline() == b"ready\n"
    return started


@pytest.mark.parametrize(
    "work",
    [
        "with client, producer:\n    while True: producer.send({topic}, b'v')",
        "with client, producer:\n    while True: producer.enqueue({topic}, b'v')",
        "with client, producer, client.consumer({topic}) as consumer:\n    for record in consumer: pass",
    ],
)
def test_ctrl_c_ends_a_program_at_once(
    millpond_cluster: LocalCluster, client: millpond.sync.Client, topic: str, work: str
) -> None:
    started = run_script(millpond_cluster, topic, work)
    time.sleep(0.5)  # long enough to be in the middle of it; nothing depends on how far
    started.send_signal(signal.SIGINT)
    _, stderr = started.communicate(timeout=20)
    assert started.returncode in (-signal.SIGINT, 130)
    assert stderr.rstrip().endswith(b"KeyboardInterrupt"), stderr


def test_a_program_that_forgets_to_close_ends_all_the_same(
    millpond_cluster: LocalCluster, client: millpond.sync.Client, topic: str
) -> None:
    started = run_script(millpond_cluster, topic, "producer.send({topic}, b'v')")
    _, stderr = started.communicate(timeout=20)
    assert (started.returncode, stderr) == (0, b"")


def test_an_iterator_that_uses_the_client_may_feed_it(client: millpond.sync.Client, topic: str) -> None:
    with client.producer() as producer, client.consumer(topic, stop="end") as consumer:

        def values() -> Iterator[bytes]:
            for number in range(3):
                producer.send(topic, b"%d" % number)
                yield b"again %d" % number

        assert len(producer.send_many(topic, values())) == 3
        assert list(consumer) == []


def test_errors_are_typed(client: millpond.sync.Client) -> None:
    with pytest.raises(MillpondError):
        client.consumer("t", group="g")
