"""The producer: buffers records, flushes them in batches, one transaction a batch for all its partitions."""

from __future__ import annotations

import time
from collections.abc import Iterable
from itertools import groupby
from typing import Any

from pgq import errors
from pgq.aio.client import AsyncClient
from pgq.aio.client import connect as connect_checked
from pgq.core import copy, statements
from pgq.core.accumulator import Accumulator, Batch, PartitionBatch, Place
from pgq.core.copy import Row
from pgq.core.metadata import TopicMetadata
from pgq.core.partitioner import SHORT_KEY, Partitioner, check_partition, choose_partitioner
from pgq.drivers import asyncpg as driver
from pgq.drivers.tasks import Deliveries, Delivery, Event, Lock, Mutex, Worker, logger
from pgq.serde import serializer, size_of, to_bytes, to_headers
from pgq.types import Header, RecordMetadata, Serializer

_MAX_TIMESTAMP_MS = 9_000_000_000_000_000  # PostgreSQL's calendar ends in the year 294,276
_ABSENT = (None, None, None, None, None)
_RECORD_FIELDS = len(_ABSENT)
_ATTEMPTS = 4
_UPKEEP_BYTES = 16 * 1024 * 1024
_UPKEEP_LOCK_TIMEOUTS_MS = (10, 20, 50, 100, 200)


class AsyncProducer(AsyncClient):
    """Appends records to topics.

    `send` buffers and returns a future; a worker flushes what is buffered. Records of one partition keep the order in
    which they were sent. A batch is appended whole or not at all. When the connection is lost during a commit its
    records may or may not be there: the future fails with a retriable error.

    Args:
        dsn: libpq connection string or URL; PGQ_DSN if None.
        linger_ms: how long a batch waits for more records.
        batch_size: bytes at which a batch is flushed without waiting.
        buffer_memory: bytes that may be buffered; then `send` waits.
        max_block_ms: how long `send` waits for that.
        key_serializer, value_serializer: from the application's objects to bytes: "str", "json", a pydantic model, or
            any callable; None takes bytes. The value None is never serialized.
        partitioner: from a key to a partition: "murmur2" as Kafka's Java client, "crc32" as librdkafka, or a function
            of the key's bytes and the number of partitions. All who send to a topic should use the same.
        metadata_max_age_ms: how long what is known of a topic is trusted.
    """

    _settings = ("set default_transaction_isolation = 'read committed'",)

    def __init__(
        self,
        dsn: str | None = None,
        *,
        linger_ms: float = 5,
        batch_size: int = 1_048_576,
        buffer_memory: int = 33_554_432,
        max_block_ms: int = 60_000,
        key_serializer: Serializer | str | type | None = None,
        value_serializer: Serializer | str | type | None = None,
        partitioner: str | Partitioner = "murmur2",
        metadata_max_age_ms: int = 300_000,
    ) -> None:
        super().__init__(dsn)
        self._partitioner = partitioner
        self._find_by_short_key, self._find_by_key = choose_partitioner(partitioner)
        if linger_ms < 0 or batch_size < 1 or buffer_memory < 1 or max_block_ms < 0:
            raise errors.InvalidRequestError(
                "linger_ms and max_block_ms must be 0 or more, batch_size and buffer_memory 1 or more"
            )
        self._key_serializer = serializer("key", key_serializer)
        self._value_serializer = serializer("value", value_serializer)
        self._metadata_max_age_s = metadata_max_age_ms / 1000
        self._max_block_s = max_block_ms / 1000
        self._buffer_memory = buffer_memory
        self._topics: dict[str, TopicMetadata] = {}
        self._sticky: dict[str, int] = {}
        self._accumulator = Accumulator(
            linger_s=linger_ms / 1000, batch_size=batch_size, new_event=Event, clock=time.monotonic
        )
        self._lock = Lock()
        self._starting = Mutex()
        self._asking = Mutex()
        self._wake = Event()
        self._room = Event()
        self._stopping = False
        self._sender: Worker | None = None
        self._first_error: BaseException | None = None
        self._side_connection: Any = None
        self._upkeep_connection: Any = None
        self._upkeep_due: dict[int, int] = {}
        self._upkeep_worker: Worker | None = None
        self._upkeep_bytes: dict[int, int] = {}

    async def start(self) -> None:
        """Connect and start the worker. A context manager does it; else the first `send` does."""
        if self._closed:
            raise errors.IllegalStateError("the producer is closed: make a new one")
        async with self._starting:
            if self._sender is None:
                await self._connection()
                self._sender = Worker(self._run, "pgq-producer")

    async def send(
        self,
        topic: str,
        value: Any,
        key: Any = None,
        headers: Iterable[Header] | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        connection: Any = None,
    ) -> Delivery:
        """Buffer a record and return the future of its RecordMetadata.

        With `connection` the record is appended now, in that connection's transaction: it becomes visible, or not,
        with everything else in it, and readers of its partition stop before it until then. The future is done, though
        the commit is still to come. The connection is not closed.

        Args:
            value: bytes, or what the value_serializer takes; None is stored as null.
            key: bytes, or what the key_serializer takes. Records of one key go to one partition.
            headers: pairs of a str and bytes (or None), in order; a key may come twice.
            partition: instead of the key's; without either, one that changes from batch to batch.
            timestamp_ms: milliseconds since 1970; now if None.
            connection: the application's own connection.

        Raises:
            UnknownTopicError, UnknownPartitionError, MessageTooLargeError, InvalidRecordError, InvalidTimestampError:
                the record is refused, nothing is buffered.
            BufferFullError: the buffer stayed full for max_block_ms; nothing is buffered.
        """
        row = self._row(value, key, headers, timestamp_ms)
        if connection is not None:
            return await self._send_in(connection, topic, row, partition)
        known = self._topics.get(topic)
        if known is None:
            known = await self._metadata(topic)
        partition, size = self._place(known, row, partition)
        if partition < 0:
            partition = self._sticky.get(topic, 0) % len(known.partition_ids)
        if self._accumulator.bytes >= self._buffer_memory:
            await self._wait_for_room()
        with self._lock:
            if self._stopping:
                raise errors.IllegalStateError("the producer is closed: make a new one")
            batch, part, index, wake = self._accumulator.add(known, partition, row, size)
        if wake:
            self._wake.set()
        return Delivery(batch, part, index)

    async def send_and_wait(
        self,
        topic: str,
        value: Any,
        key: Any = None,
        headers: Iterable[Header] | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> RecordMetadata:
        """Send a record and wait until it is appended. One at a time: each waits for linger_ms and a commit.

        Raises:
            PgqError: as `send`, or what the record's future fails with.
        """
        return await (await self.send(topic, value, key, headers, partition, timestamp_ms)).wait()

    async def send_many(self, topic: str, records: Iterable[Any]) -> Deliveries:
        """Buffer many records of a topic, none if one of them is refused, and return one future of all.

        All are looked at before the first is buffered, so they are held in memory twice for a moment: send some
        thousands at a time. They may be appended in several batches, in their order within each partition; keyless
        ones change the partition from batch to batch.

        Args:
            records: each a tuple of what `send` takes after the topic, in that order: (value,), (value, key),
                (value, key, headers, partition, timestamp_ms). What is not a tuple is a value.

        Raises:
            UnknownTopicError, UnknownPartitionError, MessageTooLargeError, InvalidRecordError, InvalidTimestampError:
                a record is refused, nothing is buffered.
            BufferFullError: the buffer stayed full for max_block_ms. Records before this one are appended all the same.
        """
        known = self._topics.get(topic)
        if known is None:
            known = await self._metadata(topic)
        entries = []
        for record in records:
            fields = record if type(record) is tuple else (record,)
            if not 1 <= len(fields) <= _RECORD_FIELDS:
                raise errors.InvalidRecordError(
                    f"a record of {len(fields)} fields: give (value, key, headers, partition, timestamp_ms),"
                    " of which all but the value may be left out"
                )
            value, key, headers, partition, timestamp_ms = fields + _ABSENT[len(fields) :]
            row = self._row(value, key, headers, timestamp_ms)
            partition, size = self._place(known, row, partition)
            entries.append((partition, row, size))
        places: list[Place] = []
        batch = None
        while len(places) < len(entries):
            if self._accumulator.bytes >= self._buffer_memory:
                await self._wait_for_room()
            with self._lock:
                if self._stopping:
                    raise errors.IllegalStateError("the producer is closed: make a new one")
                sticky = self._sticky.get(topic, 0)
                batch, wake = self._accumulator.add_many(known, entries, places, sticky % len(known.partition_ids))
                if len(places) < len(entries):
                    self._sticky[topic] = sticky + 1
            if wake:
                self._wake.set()
        if batch is None:
            batch = Batch(Event(), 0)
            batch.done.set()
        return Deliveries(batch, places)

    async def flush(self, timeout: float | None = None) -> None:
        """Wait until everything sent so far is appended, at most timeout seconds.

        Raises:
            RequestTimedOutError: the time is up; what was sent may still be appended.
            PgqError: the first error of a record sent since the last flush. The records' futures say which.
        """
        with self._lock:
            batches = self._accumulator.force()
        self._wake.set()
        deadline = None if timeout is None else time.monotonic() + timeout
        for batch in batches:
            await batch.done.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
            if not batch.done.is_set():
                raise errors.RequestTimedOutError(f"not flushed within {timeout} s; it may still be appended")
        error, self._first_error = self._first_error, None
        if error is not None:
            raise error

    async def close(self) -> None:
        """Flush, stop the worker and close the connection. May be called again.

        Raises:
            PgqError: as `flush`.
        """
        if self._closed:
            return
        try:
            if self._sender is not None:
                await self.flush()
        finally:
            with self._lock:
                self._stopping = True
            self._wake.set()
            if self._sender is not None:
                await self._sender.join()
            if self._upkeep_worker is not None:
                await self._upkeep_worker.join()
            for connection in (self._side_connection, self._upkeep_connection):
                if connection is not None:
                    await connection.close()
            await super().close()

    async def partitions_for(self, topic: str) -> set[int]:
        """Return the numbers of a topic's partitions.

        Raises:
            UnknownTopicError
        """
        if self._closed:
            raise errors.IllegalStateError("the producer is closed: make a new one")
        return set(range(len((self._topics.get(topic) or await self._metadata(topic)).partition_ids)))

    def _row(self, value: Any, key: Any, headers: Iterable[Header] | None, timestamp_ms: int | None) -> Row:
        """Return a record as it is stored, or refuse it."""
        # a hundred thousand times a second: plain bytes take the short way through every test
        if timestamp_ms is None:
            timestamp_ms = time.time_ns() // 1_000_000
        elif not isinstance(timestamp_ms, int) or not 0 <= timestamp_ms < _MAX_TIMESTAMP_MS:
            raise errors.InvalidTimestampError(
                f"timestamp_ms {timestamp_ms!r} is out of range: give whole milliseconds since 1970"
            )
        if type(value) is not bytes or self._value_serializer is not None:
            value = to_bytes("value", value, self._value_serializer)
        if key is not None and (type(key) is not bytes or self._key_serializer is not None):
            key = to_bytes("key", key, self._key_serializer)
        return timestamp_ms, key, value, to_headers(headers) if headers else ()

    def _place(self, known: TopicMetadata, row: Row, partition: int | None) -> tuple[int, int]:
        """Return the partition of a record, -1 for any, and its size; or refuse it."""
        _, key, value, headers = row
        size = (len(value) if value else 0) + (len(key) if key else 0)
        if headers:
            size = size_of(key, value, headers)
        if size > known.max_message_bytes:
            raise errors.MessageTooLargeError(
                f"record of {size} bytes is over max.message.bytes ({known.max_message_bytes}) of topic"
                f" {known.topic!r}: send less, or raise it with alter_topic_config"
            )
        if partition is not None:
            return check_partition(known.topic, partition, len(known.partition_ids)), size
        if key is None:
            return -1, size
        find = self._find_by_short_key if len(key) <= SHORT_KEY else self._find_by_key
        return find(key, len(known.partition_ids)), size

    async def _wait_for_room(self) -> None:
        deadline = time.monotonic() + self._max_block_s
        while self._accumulator.bytes >= self._buffer_memory:
            self._room.clear()
            left = deadline - time.monotonic()
            if left <= 0:
                raise errors.BufferFullError(
                    f"{self._accumulator.bytes} bytes are buffered and were not flushed within {self._max_block_s:g} s:"
                    " the server is slower than the application, or gone"
                )
            await self._room.wait(min(left, 0.05))

    async def _metadata(self, topic: str) -> TopicMetadata:
        """Ask for a topic's metadata, on a connection beside the worker's, one sender at a time."""
        await self.start()
        async with self._asking:
            known = self._topics.get(topic)
            if known is None:
                if self._side_connection is None or self._side_connection.closed:
                    self._side_connection = await connect_checked(self._dsn)
                rows = await self._side_connection.fetch(statements.TOPIC_METADATA, topic)
                topic_id, partition_ids, max_message_bytes = rows[0]
                known = TopicMetadata(topic, topic_id, tuple(partition_ids), max_message_bytes, time.monotonic())
                self._topics[topic] = known
            return known

    async def _send_in(
        self,
        connection: Any,
        topic: str,
        row: Row,
        partition: int | None,
    ) -> Delivery:
        timestamp_ms, key, value, headers = row
        names = [name for name, _ in headers] or None
        values = [header_value for _, header_value in headers] if headers else None
        wrapped = driver.wrap(connection)
        if partition is None and key is not None and self._partitioner != "murmur2":
            # pgq.produce would choose by murmur2
            rows = await wrapped.fetch(statements.TOPIC_METADATA, topic)
            partition = self._find_by_key(key, len(rows[0][1]))
        rows = await wrapped.fetch(statements.PRODUCE, topic, value, key, names, values, partition, timestamp_ms)
        part = PartitionBatch(topic, 0, rows[0][0])
        part.rows.append(row)
        part.offsets = (rows[0][1],)
        batch = Batch(Event(), 0)
        batch.done.set()
        return Delivery(batch, part, 0)

    async def _run(self) -> None:
        """Flush batches until the producer stops and nothing is left. What the worker runs."""
        try:
            while True:
                with self._lock:
                    wait_s = self._accumulator.wait_s(time.monotonic())
                    if wait_s != 0:
                        if wait_s is None and self._stopping:
                            return
                        self._wake.clear()
                        batch = None
                    else:
                        batch = self._accumulator.first()
                if batch is None:
                    await self._wake.wait(wait_s)
                else:
                    await self._flush(batch)
        finally:
            # ended from outside, or by a bug: nobody may wait for ever
            with self._lock:
                self._stopping = True
                left = self._accumulator.force()
            for batch in left:
                self._fail(list(batch.parts.values()), errors.IllegalStateError("the producer's worker was ended"))
                self._finish(batch)

    async def _flush(self, batch: Batch) -> None:
        parts = list(batch.parts.values())
        now = time.monotonic()
        for topic in {part.topic for part in parts}:
            self._sticky[topic] = self._sticky.get(topic, 0) + 1
            known = self._topics.get(topic)
            if known is not None and now - known.fetched_at > self._metadata_max_age_s:
                self._topics.pop(topic, None)  # the next send asks again
        try:
            await self._append(parts)
        except Exception as error:  # noqa: BLE001 - whatever it is, the futures tell it; the worker goes on
            topics = {part.topic_id for part in parts}
            if len(topics) > 1 and not isinstance(error, errors.BrokerNotAvailableError):
                # nothing was appended; one topic's trouble is not the others'
                for topic_id in topics:
                    await self._append_or_fail([part for part in parts if part.topic_id == topic_id])
            else:
                self._fail(parts, error)
        self._finish(batch)
        if self._upkeep_due and (self._upkeep_worker is None or not self._upkeep_worker.running):
            self._upkeep_worker = Worker(self._upkeep, "pgq-upkeep")

    def _finish(self, batch: Batch) -> None:
        """Wake whoever waits for a batch: every part of it has offsets or an error."""
        batch.done.set()
        with self._lock:
            self._accumulator.remove(batch)
        self._room.set()
        for callback in batch.take_callbacks():
            try:
                callback()
            except Exception:  # noqa: BLE001 - the application's, whatever it is
                logger.exception("a callback of a record's future failed")

    async def _append_or_fail(self, parts: list[PartitionBatch]) -> None:
        try:
            await self._append(parts)
        except Exception as error:  # noqa: BLE001
            self._fail(parts, error)

    def _fail(self, parts: list[PartitionBatch], error: Exception) -> None:
        records = sum(len(part.rows) for part in parts)
        logger.error("%d records to %s were not appended: %s", records, {part.topic for part in parts}, error)
        for part in parts:
            part.error = error
            if isinstance(error, errors.UnknownTopicOrPartitionError):
                self._topics.pop(part.topic, None)
        if self._first_error is None:
            self._first_error = error

    async def _append(self, parts: list[PartitionBatch]) -> None:
        """Append, once more where the server has certainly rolled back for a passing reason, such as a deadlock."""
        for _ in range(_ATTEMPTS - 1):
            try:
                return await self._append_once(parts)
            except errors.DatabaseError as error:
                if not error.retriable:
                    raise
                logger.info("appending again: %s", error)
        return await self._append_once(parts)

    async def _append_once(self, parts: list[PartitionBatch]) -> None:
        """Append the records of some partitions in one transaction, and note their offsets."""
        connection = await self._connection()
        parts = sorted(parts, key=lambda part: (part.topic_id, part.partition))
        try:
            await connection.execute(statements.BEGIN)
            taken = await connection.fetch(
                statements.BEGIN_APPEND,
                [part.topic_id for part in parts],
                [part.partition for part in parts],
                [len(part.rows) for part in parts],
            )
            offsets = {(row[0], row[1]): row for row in taken}
            for topic_id, group in groupby(parts, key=lambda part: part.topic_id):
                of_topic = list(group)
                headers = any(part.has_headers for part in of_topic)
                file = copy.encode(
                    ((part.partition, offsets[topic_id, part.partition][3], part.rows) for part in of_topic),
                    headers=headers,
                )
                columns = copy.COLUMNS + copy.HEADER_COLUMNS if headers else copy.COLUMNS
                await connection.copy_in(f"t{topic_id}", columns, file)
            await connection.execute("commit")
        except BaseException:
            # whatever state it is in: closing it rolls back what is not committed
            await self._disconnect()
            raise
        for part in parts:
            row = offsets[part.topic_id, part.partition]
            part.offsets = row[3]
            self._note_upkeep(row[2], sum(len(r[2] or b"") for r in part.rows), due=row[4])

    def _note_upkeep(self, partition_id: int, appended_bytes: int, *, due: bool) -> None:
        total = self._upkeep_bytes.get(partition_id, 0) + appended_bytes
        if due or total >= _UPKEEP_BYTES:
            with self._lock:
                self._upkeep_due.setdefault(partition_id, 0)
            total = 0
        self._upkeep_bytes[partition_id] = total

    async def _upkeep(self) -> None:
        """Make segments ahead and roll full ones, on a connection of its own; what fails is tried again later."""
        try:
            while True:
                with self._lock:
                    due = next(iter(self._upkeep_due.items()), None)
                if due is None:
                    return
                partition_id, attempt = due
                if self._upkeep_connection is None or self._upkeep_connection.closed:
                    self._upkeep_connection = await driver.connect(self._dsn)
                rows = await self._upkeep_connection.fetch(
                    statements.UPKEEP, partition_id, _UPKEEP_LOCK_TIMEOUTS_MS[attempt]
                )
                with self._lock:
                    if rows[0][0] == "busy" and attempt + 1 < len(_UPKEEP_LOCK_TIMEOUTS_MS):
                        self._upkeep_due[partition_id] = attempt + 1
                    elif rows[0][0] in ("busy", "done"):
                        del self._upkeep_due[partition_id]
        except Exception as error:  # noqa: BLE001 - never the producer's trouble
            logger.warning("upkeep of segments failed, appends go on and make what they need: %s", error)
            with self._lock:
                self._upkeep_due.clear()
