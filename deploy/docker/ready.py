"""Exit 0 if the broker of this container is ready: what HEALTHCHECK runs every few seconds.

A socket and nothing more: importing an HTTP client takes most of the time that this has on a busy machine.
"""

from __future__ import annotations

import os
import socket
import sys

TIMEOUT_SECONDS = 2.0
ANSWER_BYTES_MAX = 4096


def main() -> int:
    """0: ready; 1: it says that it is not, or says nothing."""
    port = int(os.environ.get("MILLPOND_HTTP__LISTEN", ":7072").rpartition(":")[2])
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_SECONDS) as connection:
            connection.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            status = connection.recv(ANSWER_BYTES_MAX).split(b" ", 2)[1:2]
    except OSError as error:
        print(error)
        return 1
    print(*status)
    return 0 if status == [b"200"] else 1


if __name__ == "__main__":
    sys.exit(main())
