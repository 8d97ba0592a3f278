"""millpond: a durable, replicated message log and work queue in Python.

Importing this package costs nothing but the standard library: what needs a dependency (the embedded
queue, the client) is imported from its own module when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from millpond.wire.record import Headers, Record, TopicPartition

if TYPE_CHECKING:
    from millpond import errors as errors
    from millpond import sync as sync
    from millpond._core.handout import RecordBatch
    from millpond._core.serdes import Serde, SerdeContext
    from millpond.client import Client, connect
    from millpond.consumer import Consumer
    from millpond.producer import Ack, Delivery, Producer, SendResult

__version__ = "0.1.0.dev0"

__all__ = [
    "Ack",
    "Client",
    "Consumer",
    "Delivery",
    "Headers",
    "Producer",
    "Record",
    "RecordBatch",
    "SendResult",
    "Serde",
    "SerdeContext",
    "TopicPartition",
    "__version__",
    "connect",
]

_AT_FIRST_USE = {
    "Ack": "millpond.producer",
    "Client": "millpond.client",
    "Consumer": "millpond.consumer",
    "Delivery": "millpond.producer",
    "Producer": "millpond.producer",
    "RecordBatch": "millpond._core.handout",
    "SendResult": "millpond.producer",
    "Serde": "millpond._core.serdes",
    "SerdeContext": "millpond._core.serdes",
    "connect": "millpond.client",
}
"""Names that need grpc and protobuf, and the modules they come from."""


def __getattr__(name: str) -> Any:
    if name in ("errors", "sync"):  # so that `except millpond.errors.UnknownTopic` needs no import of its own
        return import_module(f"millpond.{name}")
    if name not in _AT_FIRST_USE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_AT_FIRST_USE[name]), name)
    globals()[name] = value
    return value
