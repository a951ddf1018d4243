"""Turns what the application sends into the bytes that are stored, and checks that it can be stored."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pgq import errors
from pgq.types import Header, Serializer


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
