"""A durable, partitioned queue in one directory, with no server: the broker's storage, in your process.

    from millpond import embedded

    with embedded.open("jobs") as queue:
        queue.produce(b"customer-7", b"order created")        # on disk when it returns
        for record in queue.consume("billing", timeout=1.0):  # from where the group committed
            handle(record)
            queue.commit("billing", record)

One process holds a directory at a time; within it, every method may be called from any thread. Needs no
grpc and no pysyncobj. The modules: `queue` is the surface, `partition` a log under its lock, `commits`
makes many threads share one sync, `shield` keeps signal handlers out of all that, `offsets` keeps what
groups committed, `settings` what was fixed at the start, `stats` says how a queue is doing.
"""

from millpond.embedded.queue import Queue, open  # noqa: A004 - users write embedded.open
from millpond.embedded.stats import GroupStats, PartitionStats, QueueStats

__all__ = ["GroupStats", "PartitionStats", "Queue", "QueueStats", "open"]
