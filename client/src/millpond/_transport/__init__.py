"""Calls and streams to brokers: the only part of the client that knows grpc and protobuf.

`connection` is what one client has open, `link` one broker's channel, `translate` turns messages into the
types of `_core` and back, `tasks` owns what runs, `opening` is how an object is opened and closed.
"""

import os

# Read once, when grpc is first imported: by default it tells stderr of every connection that a broker's
# restart closed, between the lines of whatever program uses this.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
