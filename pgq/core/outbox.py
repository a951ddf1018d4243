"""What an outbox has collected and not yet appended. Pure: no I/O, no clock of its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Generic, TypeVar, overload

from pgq import errors
from pgq.core import statements
from pgq.core.copy import Row
from pgq.core.rows import DelayedRow, delay_arguments, due_time_ms, make_row
from pgq.serde import serializer
from pgq.types import DelayedRecordMetadata, Header, RecordMetadata, Serializer

MetadataT = TypeVar("MetadataT")

_TOPIC_NAME = re.compile(r"[a-zA-Z0-9._-]{1,249}")
_MAX_PARTITION = 2**31 - 1


class OutboxDelivery(Generic[MetadataT]):
    """The future of one record of an outbox: its outcome is known once the record is appended or dropped.

    Of a delayed record, once it waits in the database.
    """

    __slots__ = ("_error", "_metadata", "delayed", "partition", "partitioner", "row", "topic")

    def __init__(
        self, topic: str, partition: int | None, partitioner: str, row: Row, delayed: DelayedRow | None = None
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.partitioner = partitioner
        self.row = row
        self.delayed = delayed
        self._metadata: MetadataT | None = None
        self._error: errors.PgqError | None = None

    def done(self) -> bool:
        """Whether the outcome is known."""
        return self._metadata is not None or self._error is not None

    def result(self) -> MetadataT:
        """Return where the record was appended, of a delayed one its id. Its transaction may still roll back.

        Raises:
            IllegalStateError: it is not appended yet, or was dropped with a transaction that rolled back.
        """
        error = self.exception()
        if error is not None:
            raise error
        assert self._metadata is not None
        return self._metadata

    def exception(self) -> errors.PgqError | None:
        """Return the error of a record that was dropped, None of one that was appended.

        Raises:
            IllegalStateError: it is not appended yet.
        """
        if not self.done():
            raise errors.IllegalStateError(
                "the record is not appended yet: the outbox appends at the transaction's end, ask after that"
            )
        return self._error

    def settle(self, metadata: MetadataT) -> None:
        """Note where it is."""
        self._metadata = metadata

    def drop(self) -> None:
        """Note that it will not be appended."""
        self._error = errors.IllegalStateError("the record was dropped: what it was sent in was rolled back")


class BaseOutbox:
    """What all outboxes have in common."""

    def __init__(
        self,
        *,
        key_serializer: Serializer | str | type | None,
        value_serializer: Serializer | str | type | None,
        partitioner: str,
        clock_ms: Callable[[], int],
    ) -> None:
        if partitioner not in ("murmur2", "crc32"):
            raise errors.InvalidRequestError(
                f"unknown partitioner {partitioner!r}: the server chooses when it appends, by 'murmur2' or 'crc32';"
                " for another choice give `partition`"
            )
        self._partitioner = partitioner
        self._key_serializer = serializer("key", key_serializer)
        self._value_serializer = serializer("value", value_serializer)
        self._clock_ms = clock_ms

    @overload
    def send(
        self,
        topic: str,
        value: Any,
        key: Any = None,
        headers: Iterable[Header] | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        deliver_at: None = None,
        delay_ms: None = None,
    ) -> OutboxDelivery[RecordMetadata]: ...
    @overload
    def send(
        self,
        topic: str,
        value: Any,
        key: Any = None,
        headers: Iterable[Header] | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        *,
        deliver_at: datetime,
        delay_ms: None = None,
    ) -> OutboxDelivery[DelayedRecordMetadata]: ...
    @overload
    def send(
        self,
        topic: str,
        value: Any,
        key: Any = None,
        headers: Iterable[Header] | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        deliver_at: None = None,
        *,
        delay_ms: float,
    ) -> OutboxDelivery[DelayedRecordMetadata]: ...
    @overload
    def send(
        self,
        topic: str,
        value: Any,
        key: Any = None,
        headers: Iterable[Header] | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        deliver_at: datetime | None = None,
        delay_ms: float | None = None,
    ) -> OutboxDelivery[Any]: ...
    def send(
        self,
        topic: str,
        value: Any,
        key: Any = None,
        headers: Iterable[Header] | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        deliver_at: datetime | None = None,
        delay_ms: float | None = None,
    ) -> OutboxDelivery[Any]:
        """Collect a record; it is appended at the end of the transaction, in the order sent. No I/O, nothing to await.

        Args:
            value: bytes, or what the value_serializer takes; None is stored as null.
            key: bytes, or what the key_serializer takes. Records of one key go to one partition.
            headers: pairs of a str and bytes (or None), in order; a key may come twice.
            partition: instead of the key's; without either, one for all such records of the topic that are appended
                together.
            timestamp_ms: milliseconds since 1970; if None, now, or when the delayed record is appended.
            deliver_at, delay_ms: as those of a producer's `send`: from the transaction's end on the record waits, and
                is appended when it is due.

        Returns:
            The record's future. Its `result()` tells partition and offset once the record is appended, of a delayed
            record the id.

        Raises:
            UnknownTopicError, UnknownPartitionError, InvalidRecordError, InvalidTimestampError, InvalidRequestError:
                the record is refused, nothing is collected. Whether topic and partition exist and how large a record
                may be is seen when it is appended: then the transaction fails.
            IllegalStateError: there is no transaction that the record could belong to.
        """
        if not isinstance(topic, str) or not _TOPIC_NAME.fullmatch(topic):
            raise errors.UnknownTopicError(f"unknown topic {topic!r}: no topic can have this name")
        if partition is not None and (not isinstance(partition, int) or not 0 <= partition <= _MAX_PARTITION):
            raise errors.UnknownPartitionError(f"unknown partition {partition!r} of topic {topic!r}")
        when = self._clock_ms() if timestamp_ms is None else timestamp_ms
        row = make_row(value, key, headers, when, self._key_serializer, self._value_serializer)
        delayed = None
        if deliver_at is not None or delay_ms is not None:
            due_ms = due_time_ms(deliver_at, delay_ms, self._clock_ms())
            delayed = DelayedRow(topic, partition, self._partitioner, timestamp_ms, row, due_ms)
        delivery: OutboxDelivery[Any] = OutboxDelivery(topic, partition, self._partitioner, row, delayed)
        self._add(delivery)
        return delivery

    def _add(self, delivery: OutboxDelivery[Any]) -> None:
        raise NotImplementedError


Call = tuple[str, tuple[list[Any], ...], Callable[[Sequence[Any]], None]]
"""A statement, its arguments, and what is to be told the rows that it returns."""


def calls(deliveries: Sequence[OutboxDelivery[Any]]) -> Iterator[Call]:
    """Yield what appends the records: that for the log last, since its readers wait from then on."""
    delayed = [delivery for delivery in deliveries if delivery.delayed is not None]
    if delayed:
        records = [delivery.delayed for delivery in delayed if delivery.delayed is not None]
        yield statements.DELAY_RECORDS, delay_arguments(records), partial(_settle_delayed, delayed)
    appended = [delivery for delivery in deliveries if delivery.delayed is None]
    if appended:
        yield statements.APPEND_RECORDS, _arguments(appended), partial(_settle, appended)


def _arguments(deliveries: Sequence[OutboxDelivery[Any]]) -> tuple[list[Any], ...]:
    """Return the arguments of statements.APPEND_RECORDS; it returns a row a record, in their order."""
    rows = [delivery.row for delivery in deliveries]
    headers = [(nth, *header) for nth, row in enumerate(rows, 1) for header in row[3]]
    return (
        [delivery.topic for delivery in deliveries],
        [delivery.partition for delivery in deliveries],
        [delivery.partitioner for delivery in deliveries],
        [row[0] for row in rows],
        [row[1] for row in rows],
        [row[2] for row in rows],
        [nth for nth, _, _ in headers],
        [key for _, key, _ in headers],
        [value for _, _, value in headers],
    )


def _settle(deliveries: Sequence[OutboxDelivery[Any]], rows: Sequence[Any]) -> None:
    for delivery, (partition, offset) in zip(deliveries, rows, strict=True):
        delivery.settle(RecordMetadata(delivery.topic, partition, offset, delivery.row[0]))


def _settle_delayed(deliveries: Sequence[OutboxDelivery[Any]], rows: Sequence[Any]) -> None:
    for delivery, (delayed_id, partition, due_at) in zip(deliveries, rows, strict=True):
        delivery.settle(DelayedRecordMetadata(delivery.topic, partition, delayed_id, due_at))
