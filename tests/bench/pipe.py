"""The yardstick of replication: three processes that pass bytes on over plain sockets, and sync them.

`pipe.py` follows: it takes one connection, writes what comes to a file, and answers with how many bytes of
it are synced, eight bytes each time. `pipe.py PORT PORT` leads two of those: it passes on what comes, and
answers with how many bytes all three have synced. No batches, checksums, offsets or protocol; blocking
sockets and threads, not asyncio. Each prints its port, and ends with its input.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import tempfile
import threading

CHUNK_BYTES = 256 << 10
COUNT = struct.Struct("<Q")


class File:
    """What was written to it, and how much of that is synced, by a thread that does nothing else."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._written = 0
        self.synced = 0
        self.is_over = False
        self.changed = threading.Condition()
        threading.Thread(target=self._sync, daemon=True).start()

    def write(self, data: memoryview) -> None:
        os.write(self._file.fileno(), data)
        with self.changed:
            self._written += len(data)
            self.changed.notify_all()

    def end(self) -> None:
        """Nothing more comes."""
        with self.changed:
            self.is_over = True
            self.changed.notify_all()

    def _sync(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self._written > self.synced)
                written = self._written
            os.fdatasync(self._file.fileno())
            with self.changed:
                self.synced = written
                self.changed.notify_all()


class Follower:
    """One connection to another process of this kind, and how much it has synced."""

    def __init__(self, port: int, file: File) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.synced = 0
        self._file = file
        threading.Thread(target=self._hear, daemon=True).start()

    def _hear(self) -> None:
        while data := self.socket.recv(COUNT.size, socket.MSG_WAITALL):
            with self._file.changed:
                (self.synced,) = COUNT.unpack(data)
                self._file.changed.notify_all()


def answer(client: socket.socket, file: File, followers: list[Follower]) -> None:
    """Say how much all have synced, whenever that is more."""
    told = 0

    def news() -> int:
        synced = min([file.synced, *[follower.synced for follower in followers]])
        return synced if synced > told else 0

    while True:
        with file.changed:
            file.changed.wait_for(lambda: file.is_over or news())
            if file.is_over:
                return
            told = news()
        client.sendall(COUNT.pack(told))


def serve(listener: socket.socket, ports: list[int]) -> None:
    """One connection after another, each with a file of its own."""
    buffer = memoryview(bytearray(CHUNK_BYTES))
    while True:
        client, _ = listener.accept()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        file = File()
        followers = [Follower(port, file) for port in ports]
        answering = threading.Thread(target=answer, args=(client, file, followers), daemon=True)
        answering.start()
        while size := client.recv_into(buffer):
            for follower in followers:
                follower.socket.sendall(buffer[:size])
            file.write(buffer[:size])
        file.end()
        for follower in followers:
            follower.socket.shutdown(socket.SHUT_RDWR)  # closed alone it waits for its thread
            follower.socket.close()
        answering.join()
        client.close()


def main() -> None:
    """The process."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(
            target=serve, args=(listener, [int(port) for port in sys.argv[1:]]), daemon=True
        ).start()
        sys.stdout.write(f"{listener.getsockname()[1]}\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
