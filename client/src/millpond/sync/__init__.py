"""The client without `await`: `millpond.sync.connect(…)`, the same surface over the same core.

One daemon thread a process runs the event loop of all synchronous clients (`_transport.loop_thread`); it
ends with the last client. Client, producer and admin may be used by any thread. A consumer belongs to the
thread that opened it. Records are added to their batches by the thread that sends them, under one lock for
each producer, so that nothing is handed over a record at a time.
"""

from millpond.sync.admin import Admin
from millpond.sync.client import Client, connect
from millpond.sync.consumer import Consumer
from millpond.sync.producer import BoundTopic, Delivery, Producer

__all__ = ["Admin", "BoundTopic", "Client", "Consumer", "Delivery", "Producer", "connect"]
