"""A process that behaves like a broker's at its worst: `standin.py MODE --config FILE --exit-with-parent`."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable

READY = {"event": "ready", "broker": 1, "client": "127.0.0.1:1", "http": "127.0.0.1:2"}


def say(line: str) -> None:
    sys.stdout.write(line)
    sys.stdout.flush()


def until_stdin_ends() -> None:
    while os.read(0, 100):
        pass


def well() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    say(json.dumps(READY) + "\n")
    until_stdin_ends()


def fails_at_once() -> None:
    sys.stderr.write("x" * 100_000 + "\nlimits.batch_bytes_max: no such thing\n")
    sys.exit(2)


def never_ready() -> None:
    sys.stderr.write("thinking\n")
    until_stdin_ends()


def says_half_a_line() -> None:
    say('{"event": ')


def says_something_else() -> None:
    say("Hello\n")
    until_stdin_ends()


def talks_without_end() -> None:
    while True:
        say("x" * 10_000)


def fails_as_it_stops() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
    say(json.dumps(READY) + "\n")
    until_stdin_ends()


def does_not_stop() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    say(json.dumps(READY) + "\n")
    until_stdin_ends()


def closes_its_output_and_stays() -> None:
    os.close(1)
    while True:
        time.sleep(60)


if __name__ == "__main__":
    act: Callable[[], None] = globals()[sys.argv[1]]
    act()
