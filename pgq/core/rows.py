"""A record as it is stored, from what the application gives; and the tests that need no server."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from pgq import errors
from pgq.core.copy import Row
from pgq.serde import to_bytes, to_headers
from pgq.types import Header, Serializer

_MAX_TIMESTAMP_MS = 9_000_000_000_000_000  # PostgreSQL's calendar ends in the year 294,276
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
# A little less than the server's 10 years, so that clocks that differ refuse no whole batch.
_MAX_DELAY_MS = 10 * 365 * 86_400_000


class DelayedRow(NamedTuple):
    """A record that waits until it is due."""

    topic: str
    partition: int | None
    """None: by its key, chosen by the server."""
    partitioner: str
    timestamp_ms: int | None
    """None: when it is appended."""
    row: Row
    """Its timestamp does not count."""
    due_ms: int


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


def due_time_ms(deliver_at: datetime | None, delay_ms: float | None, now_ms: int) -> int:
    """Return when a record is due, in milliseconds since 1970, from one of the two ways to say it.

    Raises:
        InvalidRequestError: both are given, or it is no time.
        InvalidTimestampError: it is more than ten years ahead.
    """
    if deliver_at is not None and delay_ms is not None:
        raise errors.InvalidRequestError("deliver_at and delay_ms are two ways to say the same: give one")
    if deliver_at is not None:
        if not isinstance(deliver_at, datetime):
            raise errors.InvalidRequestError(f"deliver_at is {deliver_at!r}: give a datetime with a time zone")
        if deliver_at.utcoffset() is None:
            raise errors.InvalidRequestError(
                f"deliver_at is {deliver_at!r}, without a time zone: give one, as in datetime.now(UTC)"
            )
        due_ms = (deliver_at - _EPOCH) // _MS
    elif isinstance(delay_ms, bool) or not isinstance(delay_ms, (int, float)) or math.isnan(delay_ms):
        raise errors.InvalidRequestError(f"delay_ms is {delay_ms!r}: give a number of milliseconds")
    else:
        due_ms = now_ms + math.ceil(min(max(delay_ms, 0), _MAX_DELAY_MS + 1))
    if due_ms > now_ms + _MAX_DELAY_MS:
        raise errors.InvalidTimestampError("a record can wait for ten years at most: give an earlier time")
    return max(due_ms, 0)


def delay_arguments(records: Sequence[DelayedRow]) -> tuple[list[Any], ...]:
    """Return the arguments of statements.DELAY_RECORDS; it returns a row a record, in their order."""
    headers = [(nth, *header) for nth, record in enumerate(records, 1) for header in record.row[3]]
    return (
        [record.topic for record in records],
        [record.partition for record in records],
        [record.partitioner for record in records],
        [record.timestamp_ms for record in records],
        [record.row[1] for record in records],
        [record.row[2] for record in records],
        [nth for nth, _, _ in headers],
        [key for _, key, _ in headers],
        [value for _, _, value in headers],
        [record.due_ms for record in records],
    )
