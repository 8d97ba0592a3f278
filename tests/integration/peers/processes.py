"""A voter's process, started and watched by a test."""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.integration.peers.voters import WAIT_SECONDS

ROOT = Path(__file__).parents[3]


class VoterProcess:
    """Ready when it is made."""

    def __init__(self, broker_id: int, peers: dict[int, str], listen: str = "127.0.0.1:0") -> None:
        settings = {"id": broker_id, "listen": listen, "peers": peers}
        self.id = broker_id
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.peers.worker", json.dumps(settings)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._lines: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        ready = self._lines.get(timeout=WAIT_SECONDS)
        assert ready["event"] == "ready"
        self.address = f"127.0.0.1:{ready['port']}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(json.loads(line))

    def wait(self, event: str, peer: int) -> None:
        """Until it says so; what it says before is passed over."""
        while self._lines.get(timeout=WAIT_SECONDS) != {"event": event, "peer": peer}:
            pass

    def pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Cleanly; it has to end with status 0."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(WAIT_SECONDS) == 0
        self._reap()

    def kill(self) -> None:
        """As a power cut would."""
        self._process.kill()
        self._reap()

    def _reap(self) -> None:
        self._process.wait(WAIT_SECONDS)
        self._reader.join(WAIT_SECONDS)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
