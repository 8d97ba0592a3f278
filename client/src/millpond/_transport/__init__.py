"""Calls and streams to brokers: the only part of the client that knows grpc and protobuf.

`connection` is what one client has open, `link` one broker's channel, `translate` turns messages into the
types of `_core` and back, `tasks` owns what runs, `opening` is how an object is opened and closed.
"""

import os

# Read once, when grpc is first imported: by default it tells stderr of every connection that a broker's
# restart closed, between the lines of whatever program uses this.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

# Likewise. grpc's own handling of fork() cannot stop the threads that serve an event loop: of children that
# did nothing but end, one in eight died of it (37 of 300; none without). A client is of no use in a child
# anyway, and says so.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
