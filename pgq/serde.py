"""Turns what the application sends into the bytes that are stored, and checks that it can be stored."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, cast

from pydantic import TypeAdapter
from pydantic_core import PydanticSerializationError, from_json, to_jsonable_python

from pgq import errors
from pgq.types import Deserializer, Header, Serializer


def serializer(what: str, given: Serializer | str | type | None) -> Serializer | None:
    """Return the function that "str", "json" or a pydantic model stand for; a callable stands for itself.

    Raises:
        InvalidRequestError: it is none of these.
    """
    if given is None or given == "bytes":
        return None
    if given == "str":
        return lambda value: _str_to_bytes(what, value)
    if given == "json":
        return lambda value: _json_to_bytes(what, value)
    if _is_model(given):
        adapter: TypeAdapter[Any] = TypeAdapter(cast(Any, given))
        return lambda value: _model_to_bytes(what, adapter, value)
    if callable(given):
        return given
    raise errors.InvalidRequestError(
        f'{what}_serializer is {given!r}: give "bytes", "str", "json", a pydantic model, or a callable'
    )


def deserializer(what: str, given: Deserializer | str | type | None) -> Deserializer | None:
    """Return the function that "str", "json" or a pydantic model stand for; a callable stands for itself.

    Raises:
        InvalidRequestError: it is none of these.
    """
    if given is None or given == "bytes":
        return None
    if given == "str":
        return bytes.decode
    if given == "json":
        return from_json
    if _is_model(given):
        return TypeAdapter(cast(Any, given)).validate_json
    if callable(given):
        return given
    raise errors.InvalidRequestError(
        f'{what}_deserializer is {given!r}: give "bytes", "str", "json", a pydantic model, or a callable'
    )


def _is_model(given: Any) -> bool:
    """Whether it is a pydantic model, or a dataclass made by pydantic."""
    return isinstance(given, type) and hasattr(given, "__pydantic_validator__")


def _str_to_bytes(what: str, value: Any) -> bytes:
    if not isinstance(value, str):
        raise errors.InvalidRecordError(f'the {what} is a {type(value).__name__}, and the serializer "str" takes a str')
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise errors.InvalidRecordError(f"the {what} cannot be UTF-8: {error}") from error


def _json_to_bytes(what: str, value: Any) -> bytes:
    try:
        # not pydantic_core.to_json, which turns NaN into null and says nothing
        text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"), default=to_jsonable_python)
        return text.encode()
    except (PydanticSerializationError, RecursionError, TypeError, ValueError) as error:
        raise errors.InvalidRecordError(f"the {what} cannot be JSON: {error}") from error


def _model_to_bytes(what: str, adapter: TypeAdapter[Any], value: Any) -> bytes:
    try:
        return adapter.dump_json(adapter.validate_python(value))
    except (PydanticSerializationError, ValueError) as error:
        raise errors.InvalidRecordError(f"the {what} does not fit the model: {error}") from error


def to_bytes(what: str, value: Any, serializer: Serializer | None) -> bytes | None:
    """Return the bytes of a key or value. None stays None, whatever the serializer.

    Raises:
        InvalidRecordError: it is not bytes and there is no serializer, or the serializer does not return bytes.
    """
    if value is None:
        return None
    if serializer is not None:
        value = serializer(value)
    if isinstance(value, bytes):
        return value
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    raise errors.InvalidRecordError(
        f"the {what} is a {type(value).__name__}, not bytes: encode it, or give the producer a {what}_serializer"
    )


def to_headers(headers: Iterable[Header] | None) -> tuple[Header, ...]:
    """Return the headers as they are stored: in order, duplicates kept.

    Raises:
        InvalidRecordError: a header is not a pair of a str (without NUL) and bytes or None.
    """
    if not headers:
        return ()
    result: list[Header] = []
    for header in headers.items() if isinstance(headers, dict) else headers:
        try:
            key, value = header
            if "\x00" in key:
                raise ValueError("a NUL character")
            key.encode()
            result.append((key, None if value is None else bytes(memoryview(value))))
        except (TypeError, ValueError, AttributeError) as error:
            raise errors.InvalidRecordError(
                f"bad header {header!r} ({error}): headers are pairs of a str key and a bytes value (or None)"
            ) from error
    return tuple(result)


def size_of(key: bytes | None, value: bytes | None, headers: tuple[Header, ...]) -> int:
    """Return the size in bytes as max.message.bytes counts it."""
    size = (len(key) if key else 0) + (len(value) if value else 0)
    for header_key, header_value in headers:
        size += len(header_key.encode()) + (len(header_value) if header_value else 0)
    return size
