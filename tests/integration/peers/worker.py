"""A voter in a process of its own: python -m tests.integration.peers.worker '{"id": 2, …}'.

One JSON object a line on stdout for each thing that happens; it sends every message back to its peer. It ends
when its standard input does.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from tests.integration.peers.voters import Recorder, Voter


def say(**fields: Any) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


class Saying(Recorder):
    """Tells its parent."""

    def _tell(self, what: str, broker_id: int) -> None:
        super()._tell(what, broker_id)
        say(event=what, peer=broker_id)


def main() -> None:
    settings = json.loads(sys.argv[1])
    voter = Voter(settings["id"], listen=settings["listen"])

    def echo(peer: int, message: bytes) -> bool:
        voter.links.send(peer, [message])
        return True

    voter.told.take = echo
    voter.told.__class__ = Saying
    say(event="ready", port=voter.port)
    for peer, address in settings["peers"].items():
        voter.links.connect(int(peer), address)
    sys.stdin.read()
    voter.close()


if __name__ == "__main__":
    main()
