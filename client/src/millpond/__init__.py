"""millpond: a durable, replicated message log and work queue in Python.

Importing this package costs nothing but the standard library: what needs a dependency (the embedded
queue, the client) is imported from its own module when it is first used.
"""

from millpond.wire.record import Headers, Record, TopicPartition

__version__ = "0.1.0.dev0"

__all__ = ["Headers", "Record", "TopicPartition", "__version__"]
