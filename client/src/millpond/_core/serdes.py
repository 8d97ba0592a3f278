"""How keys and values become bytes, and bytes keys and values.

A (de)serializer is a plain callable of one argument, or a Serde, which is also told what it works on.
None is a tombstone or no key at all, and passes both untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

from millpond.wire.record import NO_HEADERS, Headers

T = TypeVar("T")


class SerdeContext(NamedTuple):
    """What is being encoded or decoded: the key or the value of a record of `topic`, with these headers."""

    topic: str
    field: Literal["key", "value"]
    headers: Headers = NO_HEADERS


class Serde(Protocol[T]):
    """Both directions in one object, with the context that a schema needs."""

    def encode(self, value: T, ctx: SerdeContext, /) -> bytes | None:
        """The bytes of a value."""

    def decode(self, data: bytes, ctx: SerdeContext, /) -> T:
        """The value of the bytes."""


Serializer = Callable[[T], bytes | None] | Serde[T]
Deserializer = Callable[[bytes], T] | Serde[T]

Encode = Callable[[Any, SerdeContext], bytes | None]
Decode = Callable[[bytes, SerdeContext], Any]


def encode_with(serializer: Serializer[Any], what: str) -> Encode:
    """The one form that both kinds are called in. Raises TypeError, naming `what`, for neither."""
    method: Encode | None = _method(serializer, "encode")
    if method is not None:
        return method
    if not callable(serializer):
        raise TypeError(f"{what}= takes a callable or a Serde, not {type(serializer).__name__}")
    return lambda value, _: serializer(value)


def decode_with(deserializer: Deserializer[Any], what: str) -> Decode:
    """As `encode_with`, the other way."""
    method: Decode | None = _method(deserializer, "decode")
    if method is not None:
        return method
    if not callable(deserializer):
        raise TypeError(f"{what}= takes a callable or a Serde, not {type(deserializer).__name__}")
    return lambda data, _: deserializer(data)


def _method(serde: object, name: str) -> Any:
    # `str` and `bytes` have methods of these names too: the types are called, as any function is, and a
    # text (somebody meant an encoding) is neither.
    return None if isinstance(serde, type | str | bytes) else getattr(serde, name, None)


class Decoded(NamedTuple):
    """A column after decoding. `errors`: what failed, by index; the item is the raw bytes there."""

    items: Sequence[Any]
    errors: dict[int, Exception]


def decode_column(
    decode: Decode,
    topic: str,
    field: Literal["key", "value"],
    column: Sequence[bytes | None],
    headers: Sequence[Headers] | None,
) -> Decoded:
    """Every item through `decode`, None kept as it is."""
    errors: dict[int, Exception] = {}
    items: list[Any] = list(column)
    context = SerdeContext(topic, field)
    for index, data in enumerate(column):
        if data is None:
            continue
        try:
            if headers is not None:
                context = SerdeContext(topic, field, headers[index])
            items[index] = decode(data, context)
        except Exception as error:  # whatever a user's function raises belongs to that record alone
            errors[index] = error
    return Decoded(items, errors)
