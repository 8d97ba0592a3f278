"""Serializers of both kinds, as one."""

from __future__ import annotations

import json

import pytest

from millpond._core.serdes import SerdeContext, decode_column, decode_with, encode_with
from millpond.wire.record import Headers

CONTEXT = SerdeContext("orders", "value")


class Tagged:
    """A Serde that shows what it is told."""

    def encode(self, value: str, ctx: SerdeContext, /) -> bytes:
        return f"{ctx.topic}/{ctx.field}/{value}".encode()

    def decode(self, data: bytes, ctx: SerdeContext, /) -> str:
        return f"{ctx.topic}/{ctx.field}/{len(ctx.headers)}/{data.decode()}"


def test_a_callable_gets_the_value_alone() -> None:
    assert encode_with(str.encode, "value_serializer")("v", CONTEXT) == b"v"
    assert decode_with(json.loads, "value_deserializer")(b"[1]", CONTEXT) == [1]


def test_a_type_is_called_although_it_has_methods_of_those_names() -> None:
    assert decode_with(bytearray, "value_deserializer")(b"x", CONTEXT) == bytearray(b"x")
    assert encode_with(bytes, "value_serializer")([1, 2], CONTEXT) == b"\x01\x02"


def test_a_serde_is_told_what_it_works_on() -> None:
    assert encode_with(Tagged(), "key_serializer")("v", CONTEXT) == b"orders/value/v"
    assert decode_with(Tagged(), "key_deserializer")(b"v", CONTEXT) == "orders/value/0/v"


def test_what_is_neither_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match="value_deserializer= takes"):
        decode_with(3, "value_deserializer")  # type: ignore[arg-type]  # what is refused
    with pytest.raises(TypeError, match="key_serializer= takes"):
        encode_with(object(), "key_serializer")  # type: ignore[arg-type]  # what is refused
    with pytest.raises(TypeError, match="value_serializer= takes a callable or a Serde, not str"):
        encode_with("utf-8", "value_serializer")  # type: ignore[arg-type]  # what is refused


def test_a_column_keeps_null_raw_and_errors_by_index() -> None:
    items, errors = decode_column(decode_with(int, "v"), "orders", "value", [b"1", None, b"x", b"4"], None)
    assert items == [1, None, b"x", 4]
    assert list(errors) == [2]
    assert isinstance(errors[2], ValueError)


def test_a_serde_sees_the_headers_of_each_record() -> None:
    headers = [Headers({"a": b""}), Headers()]
    items, errors = decode_column(decode_with(Tagged(), "v"), "orders", "key", [b"x", b"y"], headers)
    assert items == ["orders/key/1/x", "orders/key/0/y"]
    assert not errors
