"""A name server on loopback with one answer, which a test changes."""

from __future__ import annotations

import socket
import threading
from types import TracebackType
from typing import Final, Self

_TYPE_A: Final = 1


class NameServer:
    """Every name has the same IPv4 address here, and no other."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.questions = 0
        self.is_silent = False
        """Takes questions, and answers none; nor later ones of whoever asks meanwhile."""
        self._ignored: set[tuple[str, int]] = set()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            query, sender = self._socket.recvfrom(512)
            if not query:
                return
            answer = self._answer(query)
            if self.is_silent:
                self._ignored.add(sender)
            if sender not in self._ignored:
                self._socket.sendto(answer, sender)

    def _answer(self, query: bytes) -> bytes:
        self.questions += 1
        end = query.index(b"\0", 12) + 1  # of the name, which is labels and a zero
        question = query[12 : end + 4]
        answers = b""
        if int.from_bytes(question[-4:-2], "big") == _TYPE_A:
            # A pointer to the name in the question, type A, class IN, for 300 s, 4 bytes.
            answers = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x01\x2c\x00\x04" + socket.inet_aton(self.address)
        counts = b"\x00\x01" + (b"\x00\x01" if answers else b"\x00\x00") + bytes(4)
        return query[:2] + b"\x81\x80" + counts + question + answers
