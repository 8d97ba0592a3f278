"""A wire between two voters that a test can cut, hold up, or make change bytes."""

from __future__ import annotations

import socket
import threading
from types import TracebackType
from typing import Self


class Wire:
    """Takes connections and carries what comes to `target`, and back."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._flow = threading.Event()
        self._flow.set()
        self._flip = 0
        self.flipped = 0
        """How many bytes were really changed."""
        self._threads = [threading.Thread(target=self._accept)]
        self._closed = False

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        socket.create_connection(self._listener.getsockname()).close()
        self._flow.set()
        self._threads[0].join()
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join()

    def cut(self) -> None:
        """Break every connection there is."""
        with self._lock:
            for one in self._open:
                try:
                    one.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue  # its other end was faster
            self._open.clear()

    def hold(self) -> None:
        """Carry nothing until `let_go`."""
        self._flow.clear()

    def let_go(self) -> None:
        self._flow.set()

    def flip_later(self, after_bytes: int) -> None:
        """Change one byte, so many bytes later in the direction to the target."""
        with self._lock:
            self._flip = after_bytes + 1

    def _accept(self) -> None:
        while True:
            near, _ = self._listener.accept()
            if self._closed:
                near.close()
                return
            try:
                far = socket.create_connection(self._target, 5)
            except OSError:
                near.close()
                continue
            for one in (near, far):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._open += [near, far]
            self._threads.append(threading.Thread(target=self._serve, args=(near, far)))
            self._threads[-1].start()

    def _serve(self, near: socket.socket, far: socket.socket) -> None:
        with near, far:
            back = threading.Thread(target=self._carry, args=(far, near, False))
            back.start()
            self._carry(near, far, there=True)
            back.join()
            with self._lock:
                self._open = [one for one in self._open if one not in (near, far)]

    def _carry(self, source: socket.socket, sink: socket.socket, there: bool) -> None:
        try:
            while data := source.recv(65_536):
                self._flow.wait()
                sink.sendall(self._changed(data) if there else data)
        except OSError:
            pass  # as at the end of what comes: the other direction ends as well
        for one in (source, sink):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def _changed(self, data: bytes) -> bytes:
        with self._lock:
            if not self._flip:
                return data
            self._flip -= len(data)
            if self._flip > 0:
                return data
            at, self._flip = self._flip - 1 + len(data), 0
            self.flipped += 1
        return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]
