"""What the demo shows: a line for each event, and on a terminal below them a table that lives.

In a log there are the lines only.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

import millpond
from millpond.admin import BrokerDescription, TopicDescription

REFRESHES_A_SECOND = 4


class View:
    """Lines and the table; a context manager."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self._console = Console(highlight=False, soft_wrap=True)
        self._live = (
            Live(console=self._console, refresh_per_second=REFRESHES_A_SECOND, transient=True)
            if self._console.is_terminal
            else None
        )
        self.progress: Callable[[], str] = str
        """What is going on just now, for a line below the table."""

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """One line, with the seconds since the beginning in front."""
        line = Text(f"{time.monotonic() - self.began:5.1f} s  ", style="dim")
        style = "bold red" if "SIGKILL" in text else "bold green" if text.startswith("PROVEN") else ""
        self._console.print(line.append(text, style=style or "not dim"))

    def show(self, brokers: list[BrokerDescription], topic: TopicDescription) -> None:
        """Redraw the table."""
        if self._live is None:
            return
        running = {broker.id for broker in brokers if broker.state == "running"}
        states = Text("brokers ")
        for broker in brokers:
            style = "green" if broker.id in running else "bold red"
            states.append(
                f" {broker.id} {broker.state}{' (controller)' if broker.controller else ''} ", style
            )
        table = Table("partition", "leader", "in sync", "high watermark", title=topic.name)
        for partition in topic.partitions:
            whole = len(partition.isr) == len(partition.replicas)
            table.add_row(
                str(partition.partition),
                "none" if partition.leader is None else str(partition.leader),
                Text(",".join(map(str, partition.isr)), style="green" if whole else "yellow"),
                "-" if partition.high_watermark is None else f"{partition.high_watermark:,}",
            )
        self._live.update(Group(table, states, Text(self.progress())))


async def watched(client: millpond.Client, topic: str, view: View, pause_seconds: float) -> None:
    """Keep the table as the cluster is, until cancelled."""
    while True:
        try:
            brokers = await client.admin.brokers(timeout=1)
            view.show(brokers, await client.admin.describe_topic(topic, timeout=1))
        except millpond.errors.MillpondError:
            pass  # in the middle of an election; the next look is soon
        await asyncio.sleep(pause_seconds)
