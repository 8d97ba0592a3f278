"""`client.admin` without `await`: the methods of the asyncio one, each run in the loop's thread."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from millpond import admin as asyncio_admin
from millpond._transport.loop_thread import LoopThread

T = TypeVar("T")
P = ParamSpec("P")


def _plain(
    method: Callable[Concatenate[asyncio_admin.Admin, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Admin, P], T]:
    """A method of the asyncio surface without its `await`."""

    @wraps(method)
    def call(self: Admin, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._thread.run(partial(method, self._inner, *args, **kwargs))

    return call


class Admin:
    """Changes and describes topics. Every call takes `timeout=` in seconds and ends by then."""

    def __init__(self, inner: asyncio_admin.Admin, thread: LoopThread) -> None:
        self._inner = inner
        self._thread = thread

    create_topic = _plain(asyncio_admin.Admin.create_topic)
    delete_topic = _plain(asyncio_admin.Admin.delete_topic)
    describe_topic = _plain(asyncio_admin.Admin.describe_topic)
    list_topics = _plain(asyncio_admin.Admin.list_topics)
    alter_topic = _plain(asyncio_admin.Admin.alter_topic)
    trim_topic = _plain(asyncio_admin.Admin.trim_topic)
    reassign = _plain(asyncio_admin.Admin.reassign)
    elect_leaders = _plain(asyncio_admin.Admin.elect_leaders)
    drain = _plain(asyncio_admin.Admin.drain)
    add_voter = _plain(asyncio_admin.Admin.add_voter)
    remove_voter = _plain(asyncio_admin.Admin.remove_voter)
    brokers = _plain(asyncio_admin.Admin.brokers)
    status = _plain(asyncio_admin.Admin.status)
    list_offsets = _plain(asyncio_admin.Admin.list_offsets)
