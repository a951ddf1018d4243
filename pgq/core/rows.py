"""A record as it is stored, from what the application gives; and the tests that need no server."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pgq import errors
from pgq.core.copy import Row
from pgq.serde import to_bytes, to_headers
from pgq.types import Header, Serializer

_MAX_TIMESTAMP_MS = 9_000_000_000_000_000  # PostgreSQL's calendar ends in the year 294,276


def make_row(
    value: Any,
    key: Any,
    headers: Iterable[Header] | None,
    timestamp_ms: int,
    key_serializer: Serializer | None,
    value_serializer: Serializer | None,
) -> Row:
    """Return a record as it is stored, its value not compressed.

    Raises:
        InvalidRecordError, InvalidTimestampError: it cannot be stored.
    """
    # a hundred thousand times a second: plain bytes take the short way through every test
    if not isinstance(timestamp_ms, int) or not 0 <= timestamp_ms < _MAX_TIMESTAMP_MS:
        raise errors.InvalidTimestampError(
            f"timestamp_ms {timestamp_ms!r} is out of range: give whole milliseconds since 1970"
        )
    if type(value) is not bytes or value_serializer is not None:
        value = to_bytes("value", value, value_serializer)
    if key is not None and (type(key) is not bytes or key_serializer is not None):
        key = to_bytes("key", key, key_serializer)
    return timestamp_ms, key, value, to_headers(headers) if headers else (), 0
