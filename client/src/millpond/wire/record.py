"""Records as a user sees them: `Record`, its `Headers`, and the `TopicPartition` that it came from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from millpond.wire.errors import MillpondError

K = TypeVar("K")
V = TypeVar("V")


class TopicPartition(NamedTuple):
    """One partition of one topic."""

    topic: str
    partition: int


class Headers(Mapping[str, bytes]):
    """Immutable record headers: a mapping in which the last of a repeated name wins.

    Made from a mapping or from (name, value) pairs; `multi_items()` keeps every pair in order. Names are
    str, values bytes; anything else raises TypeError. A name that UTF-8 cannot hold raises
    UnicodeEncodeError: here, because in a batch it would fail its neighbours too.
    """

    __slots__ = ("_items",)

    _items: tuple[tuple[str, bytes], ...]

    def __init__(self, headers: Mapping[str, bytes] | Iterable[tuple[str, bytes]] = ()) -> None:
        if isinstance(headers, Headers):
            pairs: Iterable[tuple[str, bytes]] = headers.multi_items()
        else:
            pairs = headers.items() if isinstance(headers, Mapping) else headers
        self._items = tuple((name, value) for name, value in pairs)
        for name, value in self._items:
            if type(name) is not str or type(value) is not bytes:
                kinds = f"{type(name).__name__} to {type(value).__name__}"
                raise TypeError(f"headers map str to bytes, not {kinds}")
            if not name.isascii():
                name.encode()

    @classmethod
    def from_items(cls, items: tuple[tuple[str, bytes], ...]) -> Headers:
        """Headers of pairs whose types are known, as a decoder's are: nothing is checked again."""
        made = cls.__new__(cls)
        made._items = items  # noqa: SLF001 - its own, being made
        return made

    def multi_items(self) -> tuple[tuple[str, bytes], ...]:
        """Every (name, value) pair, repeated names included, in the order they were given."""
        return self._items

    def __getitem__(self, name: str) -> bytes:
        for candidate, value in reversed(self._items):
            if candidate == name:
                return value
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(name for name, _ in self._items))

    def __len__(self) -> int:
        return len({name for name, _ in self._items})

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Headers):
            return self._items == other._items
        return isinstance(other, Mapping) and dict(self) == dict(other)

    def __hash__(self) -> int:
        return hash(self._items)

    def __repr__(self) -> str:
        return f"Headers({list(self._items)!r})"


NO_HEADERS: Final = Headers()


class Record(NamedTuple, Generic[K, V]):
    """One record as it was read.

    `timestamp` is milliseconds since 1970 UTC. `value` is None for a tombstone, `key` is None where the
    record has none. A NamedTuple, because one is made in C: decoding makes them by the hundred thousand.
    """

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: K
    value: V
    headers: Headers = NO_HEADERS

    @property
    def datetime(self) -> datetime:
        """The timestamp as an aware datetime in UTC."""
        return datetime.fromtimestamp(self.timestamp / 1000, tz=UTC)

    @property
    def error(self) -> MillpondError | None:
        """Why the record is as raw as it came: see BadRecord. None for every sound one."""
        return None


class BadRecord(Record[K, V]):
    """A record that could not be read, or, with `value` the bytes of it, a whole batch that could not."""

    _error: MillpondError

    @classmethod
    def of(cls, record: Record[K, V], error: MillpondError) -> BadRecord[K, V]:
        """`record` with the reason why it could not be read."""
        made = cls(*record)
        made._error = error
        return made

    @property
    def error(self) -> MillpondError:
        return self._error
