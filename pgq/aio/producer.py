"""The producer: buffers records, flushes them in batches, one transaction a batch for all its partitions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from itertools import chain, groupby, islice
from operator import itemgetter
from random import random
from typing import Any, NamedTuple, overload

from pgq import errors
from pgq.aio.client import AsyncClient
from pgq.aio.client import connect as connect_checked
from pgq.core import copy, statements
from pgq.core.accumulator import Accumulator, Batch, DelayedPart, Part, PartitionBatch, Place
from pgq.core.backoff import backoff_s
from pgq.core.compression import Compressor, compressor
from pgq.core.copy import Row
from pgq.core.metadata import TopicMetadata
from pgq.core.partitioner import SHORT_KEY, Partitioner, check_partition, choose_partitioner
from pgq.core.rows import DelayedRow, delay_arguments, due_time_ms, make_row
from pgq.drivers import asyncpg as driver
from pgq.drivers.tasks import Deadline, Deliveries, Delivery, Event, Lock, Mutex, Worker, logger, sleep
from pgq.serde import serializer, size_of
from pgq.telemetry import PRODUCER_METRICS
from pgq.types import DelayedRecordMetadata, FlushReport, Header, RecordMetadata, Serializer

_ACKS: dict[int | str, str] = {0: "0", 1: "1", -1: "all", "0": "0", "1": "1", "-1": "all", "all": "all"}
_ABSENT = (None, None, None, None, None)
_RECORD_FIELDS = len(_ABSENT)
_timestamp = itemgetter(0)
_UPKEEP_LOCK_TIMEOUTS_MS = (10, 20, 50, 100, 200)


class _Identity(NamedTuple):
    """What marks the flushes of a producer."""

    producer_id: int | None
    producer_epoch: int | None
    rotation: int | None


_NOBODY = _Identity(None, None, None)


def _acks(acks: int | str) -> str:
    """Return acks as pgq.begin_flush takes it."""
    if acks not in _ACKS or isinstance(acks, bool):
        raise errors.InvalidRequestError(f"acks must be 0, 1 or 'all', not {acks!r}")
    return _ACKS[acks]


def _check_ahead(known: TopicMetadata, timestamp_ms: int) -> None:
    """Refuse a timestamp that the server would refuse, and the whole batch with it."""
    after_max_ms = known.timestamp_after_max_ms
    if after_max_ms is not None and timestamp_ms > time.time_ns() // 1_000_000 + after_max_ms:
        raise errors.InvalidTimestampError(
            f"timestamp_ms {timestamp_ms} is more than message.timestamp.after.max.ms ({after_max_ms}) of topic"
            f" {known.topic!r} ahead of now: give milliseconds, or raise it with alter_topic_config"
        )


def _closed() -> errors.PgqError:
    return errors.IllegalStateError("the producer is closed: make a new one")


class _Flush:
    """Parts that go into one transaction, and what its attempts have in common."""

    __slots__ = ("acks", "attempts", "delayed", "give_up_at", "number", "parts", "repeated")

    def __init__(
        self, parts: Iterable[PartitionBatch], delayed: Iterable[DelayedPart], acks: str, give_up_at: float
    ) -> None:
        self.parts = sorted(parts, key=lambda part: (part.topic_id, part.partition))
        self.delayed = list(delayed)
        self.acks = acks
        self.give_up_at = give_up_at
        self.attempts = 0
        self.number = 0
        self.repeated = False
        """Whether a commit was sent, so that the records may be in the log, or may still get there."""

    @property
    def all_parts(self) -> Sequence[Part[Any]]:
        """Its parts of either kind."""
        return (*self.parts, *self.delayed)


class AsyncProducer(AsyncClient):
    """Appends records to topics.

    `send` buffers and returns a future; a worker flushes what is buffered. Records of one partition keep the order in
    which they were sent. A batch is appended whole or not at all.

    A flush that fails for a passing reason is tried again, on a new connection and, after a failover, on another of the
    DSN's hosts. With enable_idempotence it is never appended twice, though the connection was lost during its commit.

    Args:
        dsn: libpq connection string or URL; PGQ_DSN if None. Name all servers that may become the leader:
            `host=a,b,c target_session_attrs=read-write`.
        acks: what the future of a record waits for. "all": that the synchronous standbys have the record, if the server
            has any, as its synchronous_standby_names say; without any it is as 1. 1: that it survives a crash of the
            leader. 0: that it is committed; a crash may lose the last fraction of a second.
        enable_idempotence: mark each flush in its transaction, so that one whose outcome is unknown can be tried again.
            Without it such a flush may be appended twice; give retries=0 to have it at most once.
        transactional_id: a name that one running producer at a time has; who starts with it fences the one before,
            whose flushes then fail with ProducerFencedError. Needs enable_idempotence.
        retries: how often a flush is tried again.
        retry_backoff_ms, retry_backoff_max_ms: the wait before that, doubled each time, give or take 20 %.
        request_timeout_ms: how long one attempt may take, the wait for standbys included.
        delivery_timeout_ms: how long after its first record a batch is given up; then its futures fail with the last
            attempt's error. None: four times request_timeout_ms, so 120,000.
        linger_ms: how long a batch waits for more records.
        batch_size: bytes at which a batch is flushed without waiting.
        buffer_memory: bytes that may be buffered; then `send` waits.
        max_block_ms: how long `send` waits for that.
        compression_type: "none", "gzip", "lz4" or "zstd", for values; a topic's compression.type wins.
            The extras lz4 and zstd bring the libraries. Compressed values cannot be read in SQL.
        compression_min_bytes: values below it stay as they are, and any that do not get smaller.
        key_serializer, value_serializer: from the application's objects to bytes: "str", "json", a pydantic model, or
            any callable; None takes bytes. The value None is never serialized.
        partitioner: from a key to a partition: "murmur2" as Kafka's Java client, "crc32" as librdkafka, or a function
            of the key's bytes and the number of partitions. All who send to a topic should use the same.
        metadata_max_age_ms: how long what is known of a topic is trusted.
        on_flush: called with a FlushReport whenever a flush has ended, for traces and metrics; before the futures are
            done, by the worker, which waits for it.
    """

    def __init__(
        self,
        dsn: str | None = None,
        *,
        acks: int | str = "all",
        enable_idempotence: bool = True,
        transactional_id: str | None = None,
        retries: int = 2_147_483_647,
        retry_backoff_ms: float = 100,
        retry_backoff_max_ms: float = 1000,
        request_timeout_ms: float = 30_000,
        delivery_timeout_ms: float | None = None,
        linger_ms: float = 5,
        batch_size: int = 1_048_576,
        buffer_memory: int = 33_554_432,
        max_block_ms: int = 60_000,
        compression_type: str = "none",
        compression_min_bytes: int = 256,
        key_serializer: Serializer | str | type | None = None,
        value_serializer: Serializer | str | type | None = None,
        partitioner: str | Partitioner = "murmur2",
        metadata_max_age_ms: int = 300_000,
        on_flush: Callable[[FlushReport], object] | None = None,
    ) -> None:
        super().__init__(dsn)
        self._partitioner = partitioner
        self._find_by_short_key, self._find_by_key = choose_partitioner(partitioner)
        if linger_ms < 0 or batch_size < 1 or buffer_memory < 1 or max_block_ms < 0:
            raise errors.InvalidRequestError(
                "linger_ms and max_block_ms must be 0 or more, batch_size and buffer_memory 1 or more"
            )
        if delivery_timeout_ms is None:
            delivery_timeout_ms = max(4 * request_timeout_ms, linger_ms + request_timeout_ms)
        if retries < 0 or retry_backoff_ms < 0 or retry_backoff_max_ms < retry_backoff_ms:
            raise errors.InvalidRequestError(
                "retries and retry_backoff_ms must be 0 or more, retry_backoff_max_ms retry_backoff_ms or more"
            )
        if request_timeout_ms < 1 or delivery_timeout_ms < linger_ms + request_timeout_ms:
            raise errors.InvalidRequestError(
                "request_timeout_ms must be 1 or more, delivery_timeout_ms linger_ms + request_timeout_ms or more"
            )
        if transactional_id is not None and not enable_idempotence:
            raise errors.InvalidRequestError(
                "a transactional_id needs enable_idempotence: a flush is fenced by what marks it"
            )
        self._acks = _acks(acks)
        self._idempotent = enable_idempotence
        self._transactional_id = transactional_id
        self._identity: _Identity | None = None
        self._flushes = 0
        self._retries = retries
        self._backoff_s = retry_backoff_ms / 1000
        self._backoff_max_s = retry_backoff_max_ms / 1000
        self._request_timeout_s = request_timeout_ms / 1000
        self._delivery_timeout_s = delivery_timeout_ms / 1000
        self._begin = statements.begin(max(1, int(request_timeout_ms)))
        self._codecs: dict[str, Compressor | None] = {"producer": compressor(compression_type)}
        """By a topic's compression.type."""
        self._compression_min_bytes = compression_min_bytes
        self._key_serializer = serializer("key", key_serializer)
        self._value_serializer = serializer("value", value_serializer)
        self._on_flush = on_flush
        self._counts = dict.fromkeys((metric.name for metric in PRODUCER_METRICS), 0.0)
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
        self._refusal: errors.PgqError | None = None
        self._sender: Worker | None = None
        self._first_error: BaseException | None = None
        self._side_connection: Any = None
        self._upkeep_connection: Any = None
        self._upkeep_due: dict[int, int] = {}
        self._upkeep_worker: Worker | None = None
        self._upkeep_bytes: dict[int, int] = {}

    async def start(self) -> None:
        """Connect, fence a predecessor, and start the worker. A context manager does it; else the first `send` does.

        Raises:
            BrokerNotAvailableError, RequestTimedOutError: the server does not answer.
        """
        if self._closed:
            raise _closed()
        async with self._starting:
            if self._sender is None:
                connection = await self._connection()
                if self._idempotent:
                    async with Deadline(connection, self._request_timeout_s):
                        rows = await connection.fetch(statements.INIT_PRODUCER, self._transactional_id)
                    self._identity = _Identity(*rows[0])
                self._sender = Worker(self._run, "pgq-producer")

    @overload
    async def send(
        self,
        topic: str,
        value: Any,
        key: Any = None,
        headers: Iterable[Header] | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        connection: Any = None,
        acks: int | str | None = None,
        deliver_at: None = None,
        delay_ms: None = None,
    ) -> Delivery[RecordMetadata]: ...
    @overload
    async def send(
        self,
        topic: str,
        value: Any,
        key: Any = None,
        headers: Iterable[Header] | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        connection: Any = None,
        acks: int | str | None = None,
        *,
        deliver_at: datetime,
        delay_ms: None = None,
    ) -> Delivery[DelayedRecordMetadata]: ...
    @overload
    async def send(
        self,
        topic: str,
        value: Any,
        key: Any = None,
        headers: Iterable[Header] | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        connection: Any = None,
        acks: int | str | None = None,
        deliver_at: None = None,
        *,
        delay_ms: float,
    ) -> Delivery[DelayedRecordMetadata]: ...
    @overload
    async def send(
        self,
        topic: str,
        value: Any,
        key: Any = None,
        headers: Iterable[Header] | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        connection: Any = None,
        acks: int | str | None = None,
        deliver_at: datetime | None = None,
        delay_ms: float | None = None,
    ) -> Delivery[Any]: ...
    async def send(
        self,
        topic: str,
        value: Any,
        key: Any = None,
        headers: Iterable[Header] | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        connection: Any = None,
        acks: int | str | None = None,
        deliver_at: datetime | None = None,
        delay_ms: float | None = None,
    ) -> Delivery[Any]:
        """Buffer a record and return the future of its RecordMetadata, or DelayedRecordMetadata.

        With `deliver_at` or `delay_ms` the record waits in the database and is appended when it is due, never earlier,
        by any consumer or by the service; while neither runs it goes on waiting. Its future is done when it waits
        there, by a flush like any other. What is due first is appended first.

        With `connection` the record is appended now, in that connection's transaction: it becomes visible, or not,
        with everything else in it, and readers of its partition stop before it until then. The future is done, though
        the commit is still to come. The connection is not closed.

        Args:
            value: bytes, or what the value_serializer takes; None is stored as null.
            key: bytes, or what the key_serializer takes. Records of one key go to one partition.
            headers: pairs of a str and bytes (or None), in order; a key may come twice.
            partition: instead of the key's; without either, one that changes from batch to batch.
            timestamp_ms: milliseconds since 1970; if None, now, or when the delayed record is appended.
            connection: the application's own connection; its synchronous_commit decides what its commit waits for.
                Nothing is compressed then.
            acks: instead of the producer's. A change of it ends a batch.
            deliver_at: when the record is due, with a time zone. What is past is due at once. Ten years ahead at most.
                Nothing is compressed then.
            delay_ms: the same as milliseconds from this call on, by this machine's clock.

        Raises:
            UnknownTopicError, UnknownPartitionError, MessageTooLargeError, InvalidRecordError, InvalidTimestampError,
            InvalidRequestError: the record is refused, nothing is buffered.
            BufferFullError: the buffer stayed full for max_block_ms; nothing is buffered.
            ProducerFencedError: another producer with this one's transactional_id has started.
        """
        when = time.time_ns() // 1_000_000 if timestamp_ms is None else timestamp_ms
        row = make_row(value, key, headers, when, self._key_serializer, self._value_serializer)
        if deliver_at is not None or delay_ms is not None:
            due_ms = due_time_ms(deliver_at, delay_ms, time.time_ns() // 1_000_000)
            delayed = DelayedRow(topic, partition, "murmur2", timestamp_ms, row, due_ms)
            if connection is not None:
                return await self._delay_in(connection, delayed)
            return await self._delay(delayed, self._acks if acks is None else _acks(acks))
        if connection is not None:
            return await self._send_in(connection, topic, row, partition)
        known = self._topics.get(topic)
        if known is None:
            known = await self._metadata(topic)
        if timestamp_ms is not None:
            _check_ahead(known, timestamp_ms)
        codec = self._codecs[known.compression_type]
        if codec is not None:
            row = self._compress(row, codec)
        partition, size = self._place(known, row, partition)
        if partition < 0:
            partition = self._sticky.get(topic, 0) % len(known.partition_ids)
        if self._accumulator.bytes >= self._buffer_memory:
            await self._wait_for_room()
        with self._lock:
            if self._refusal is not None:
                raise self._refusal
            batch, part, index, wake = self._accumulator.add(
                known, partition, row, size, self._acks if acks is None else _acks(acks)
            )
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
        acks: int | str | None = None,
    ) -> RecordMetadata:
        """Send a record and wait until it is appended. One at a time: each waits for linger_ms and a commit.

        Raises:
            PgqError: as `send`, or what the record's future fails with.
        """
        return await (await self.send(topic, value, key, headers, partition, timestamp_ms, acks=acks)).wait()

    async def send_many(self, topic: str, records: Iterable[Any], acks: int | str | None = None) -> Deliveries:
        """Buffer many records of a topic, none if one of them is refused, and return one future of all.

        All are looked at before the first is buffered, so they are held in memory twice for a moment: send some
        thousands at a time. They may be appended in several batches, in their order within each partition; keyless
        ones change the partition from batch to batch.

        Args:
            records: each a tuple of what `send` takes after the topic, in that order: (value,), (value, key),
                (value, key, headers, partition, timestamp_ms). What is not a tuple is a value.
            acks: instead of the producer's.

        Raises:
            UnknownTopicError, UnknownPartitionError, MessageTooLargeError, InvalidRecordError, InvalidTimestampError:
                a record is refused, nothing is buffered.
            BufferFullError: the buffer stayed full for max_block_ms. Records before this one are appended all the same.
            ProducerFencedError: as for `send`.
        """
        wanted_acks = self._acks if acks is None else _acks(acks)
        known = self._topics.get(topic)
        if known is None:
            known = await self._metadata(topic)
        codec = self._codecs[known.compression_type]
        entries = []
        for record in records:
            fields = record if type(record) is tuple else (record,)
            if not 1 <= len(fields) <= _RECORD_FIELDS:
                raise errors.InvalidRecordError(
                    f"a record of {len(fields)} fields: give (value, key, headers, partition, timestamp_ms),"
                    " of which all but the value may be left out"
                )
            value, key, headers, partition, timestamp_ms = fields + _ABSENT[len(fields) :]
            when = time.time_ns() // 1_000_000 if timestamp_ms is None else timestamp_ms
            row = make_row(value, key, headers, when, self._key_serializer, self._value_serializer)
            if timestamp_ms is not None:
                _check_ahead(known, timestamp_ms)
            if codec is not None:
                row = self._compress(row, codec)
            partition, size = self._place(known, row, partition)
            entries.append((partition, row, size))
        places: list[Place] = []
        batch = None
        while len(places) < len(entries):
            if self._accumulator.bytes >= self._buffer_memory:
                await self._wait_for_room()
            with self._lock:
                if self._refusal is not None:
                    raise self._refusal
                sticky = self._sticky.get(topic, 0)
                batch, wake = self._accumulator.add_many(
                    known, entries, places, sticky % len(known.partition_ids), wanted_acks
                )
                if len(places) < len(entries):
                    self._sticky[topic] = sticky + 1
            if wake:
                self._wake.set()
        if batch is None:
            batch = self._done_batch()
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
                self._refusal = self._refusal or _closed()
            self._wake.set()
            if self._sender is not None:
                await self._sender.join()
            if self._upkeep_worker is not None:
                await self._upkeep_worker.join()
            for connection in (self._side_connection, self._upkeep_connection):
                if connection is not None:
                    await connection.close()
            await super().close()

    def metrics(self) -> dict[str, float]:
        """Return what the producer has counted; pgq.telemetry.PRODUCER_METRICS says what each number means."""
        buffered = self._accumulator.bytes
        available = max(0, self._buffer_memory - buffered)
        return self._counts | {"buffer_bytes": buffered, "buffer_available_bytes": available}

    async def partitions_for(self, topic: str) -> set[int]:
        """Return the numbers of a topic's partitions.

        Raises:
            UnknownTopicError
        """
        if self._closed:
            raise _closed()
        return set(range(len((self._topics.get(topic) or await self._metadata(topic)).partition_ids)))

    def _compress(self, row: Row, codec: Compressor) -> Row:
        """Return the record with its value compressed, if that makes it smaller."""
        timestamp_ms, key, value, headers, _ = row
        if value is None or len(value) < self._compression_min_bytes:
            return row
        compressed = codec.compress(value)
        return row if len(compressed) >= len(value) else (timestamp_ms, key, compressed, headers, codec.number)

    def _place(self, known: TopicMetadata, row: Row, partition: int | None) -> tuple[int, int]:
        """Return the partition of a record, -1 for any, and its size; or refuse it."""
        _, key, value, headers, _ = row
        size = (len(value) if value else 0) + (len(key) if key else 0)
        if headers:
            size = size_of(key, value, headers)
        if size > known.max_message_bytes:
            raise errors.MessageTooLargeError(
                f"record of {size} bytes is over max.message.bytes ({known.max_message_bytes}) of topic"
                f" {known.topic!r}: send less, or raise it with alter_topic_config"
            )
        if key is None and known.needs_key:
            raise errors.InvalidRecordError(
                f"topic {known.topic!r} is compacted and takes no record without a key: give one"
            )
        if partition is not None:
            return check_partition(known.topic, partition, len(known.partition_ids)), size
        if key is None:
            return -1, size
        find = self._find_by_short_key if len(key) <= SHORT_KEY else self._find_by_key
        return find(key, len(known.partition_ids)), size

    async def _wait_for_room(self) -> None:
        began = time.monotonic()
        try:
            while self._accumulator.bytes >= self._buffer_memory:
                self._room.clear()
                left = began + self._max_block_s - time.monotonic()
                if left <= 0:
                    raise errors.BufferFullError(
                        f"{self._accumulator.bytes} bytes are buffered and were not flushed within"
                        f" {self._max_block_s:g} s: the server is slower than the application, or gone"
                    )
                await self._room.wait(min(left, 0.05))
        finally:
            with self._lock:
                self._counts["buffer_wait_seconds_total"] += time.monotonic() - began

    async def _metadata(self, topic: str) -> TopicMetadata:
        """Ask for a topic's metadata, on a connection beside the worker's, one sender at a time."""
        await self.start()
        async with self._asking:
            known = self._topics.get(topic)
            if known is None:
                if self._side_connection is None or self._side_connection.closed:
                    self._side_connection = await connect_checked(self._dsn)
                rows = await self._side_connection.fetch(statements.TOPIC_METADATA, topic)
                topic_id, ids, max_message_bytes, compression_type, after_max_ms, needs_key, upkeep_bytes = rows[0]
                known = TopicMetadata(
                    topic,
                    topic_id,
                    tuple(ids),
                    max_message_bytes,
                    compression_type,
                    after_max_ms,
                    needs_key,
                    time.monotonic(),
                    upkeep_bytes,
                )
                if compression_type not in self._codecs:
                    self._codecs[compression_type] = compressor(compression_type)
                self._topics[topic] = known
            return known

    async def _send_in(
        self,
        connection: Any,
        topic: str,
        row: Row,
        partition: int | None,
    ) -> Delivery[RecordMetadata]:
        timestamp_ms, key, value, headers, _ = row
        names = [name for name, _ in headers] or None
        values = [header_value for _, header_value in headers] if headers else None
        wrapped = driver.wrap(connection)
        partition = await self._choose_in(wrapped, topic, key, partition)
        rows = await wrapped.fetch(statements.PRODUCE, topic, value, key, names, values, partition, timestamp_ms)
        part = PartitionBatch(topic, 0, rows[0][0])
        part.rows.append(row)
        part.offsets = (rows[0][1],)
        return Delivery(self._done_batch(), part, 0)

    async def _choose_in(self, wrapped: Any, topic: str, key: bytes | None, partition: int | None) -> int | None:
        """Return the partition of a record where the server would choose another: it knows murmur2."""
        if partition is None and key is not None and self._partitioner != "murmur2":
            rows = await wrapped.fetch(statements.TOPIC_METADATA, topic)
            return self._find_by_key(key, len(rows[0][1]))
        return partition

    def _done_batch(self) -> Batch:
        """Return a batch for a future whose outcome is known."""
        batch = Batch(Event(), 0, self._acks)
        batch.done.set()
        return batch

    async def _delay_in(self, connection: Any, record: DelayedRow) -> Delivery[DelayedRecordMetadata]:
        wrapped = driver.wrap(connection)
        partition = await self._choose_in(wrapped, record.topic, record.row[1], record.partition)
        part = DelayedPart(record.topic, 0)
        part.kept = await wrapped.fetch(
            statements.DELAY_RECORDS, *delay_arguments([record._replace(partition=partition)])
        )
        return Delivery(self._done_batch(), part, 0)

    async def _delay(self, record: DelayedRow, acks: str) -> Delivery[DelayedRecordMetadata]:
        """Buffer a delayed record."""
        topic = record.topic
        known = self._topics.get(topic)
        if known is None:
            known = await self._metadata(topic)
        if record.timestamp_ms is not None:
            _check_ahead(known, record.timestamp_ms)
        partition, size = self._place(known, record.row, record.partition)
        if partition < 0:
            partition = self._sticky.get(topic, 0) % len(known.partition_ids)
        if self._accumulator.bytes >= self._buffer_memory:
            await self._wait_for_room()
        with self._lock:
            if self._refusal is not None:
                raise self._refusal
            batch, part, index, wake = self._accumulator.add_delayed(
                known, record._replace(partition=partition), size, acks
            )
        if wake:
            self._wake.set()
        return Delivery(batch, part, index)

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
                self._refusal = self._refusal or _closed()
                left = self._accumulator.force()
            for batch in left:
                parts: list[Part[Any]] = [*batch.parts.values(), *batch.delayed.values()]
                self._fail(parts, errors.IllegalStateError("the producer's worker was ended"))
                self._finish(batch)

    async def _flush(self, batch: Batch) -> None:
        give_up_at = batch.begun_at + self._delivery_timeout_s
        flush = _Flush(batch.parts.values(), batch.delayed.values(), batch.acks, give_up_at)
        parts = flush.all_parts
        now = time.monotonic()
        for topic in {part.topic for part in parts}:
            self._sticky[topic] = self._sticky.get(topic, 0) + 1
            known = self._topics.get(topic)
            if known is not None and now - known.fetched_at > self._metadata_max_age_s:
                self._topics.pop(topic, None)  # the next send asks again
        error = await self._append_or_say(flush)
        topics = {part.topic_id for part in parts}
        if error is not None and len(topics) > 1 and not flush.repeated:
            # nothing was appended; one topic's trouble is not the others'
            for topic_id in topics:
                flush = _Flush(
                    (part for part in batch.parts.values() if part.topic_id == topic_id),
                    (part for part in batch.delayed.values() if part.topic_id == topic_id),
                    batch.acks,
                    give_up_at,
                )
                error = await self._append_or_say(flush)
                if error is not None:
                    self._fail(flush.all_parts, error)
        elif error is not None:
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

    async def _append_or_say(self, flush: _Flush) -> Exception | None:
        """Append, or return why not: whatever it is, the futures tell it and the worker goes on."""
        began = time.monotonic()
        failure = None
        try:
            await self._append(flush)
        except Exception as error:  # noqa: BLE001
            failure = error
        report = FlushReport(
            topics=tuple({part.topic: None for part in flush.all_parts}),
            partitions=len(flush.parts),
            records=sum(len(part.rows) for part in flush.all_parts),
            bytes=sum(part.bytes for part in flush.all_parts),
            acks=flush.acks,
            attempts=flush.attempts,
            seconds=time.monotonic() - began,
            error=failure,
        )
        self._count(report)
        if self._on_flush is not None:
            try:
                self._on_flush(report)
            except Exception:  # noqa: BLE001 - the application's, whatever it is
                logger.exception("on_flush failed")
        return failure

    def _count(self, report: FlushReport) -> None:
        counts = self._counts
        counts["flushes_total"] += 1
        counts["flush_retries_total"] += max(0, report.attempts - 1)
        counts["flush_seconds_total"] += report.seconds
        counts["flush_seconds_max"] = max(counts["flush_seconds_max"], report.seconds)
        if report.error is None:
            counts["records_sent_total"] += report.records
            counts["bytes_sent_total"] += report.bytes

    def _fail(self, parts: Sequence[Part[Any]], error: Exception) -> None:
        records = sum(len(part.rows) for part in parts)
        self._counts["record_errors_total"] += records
        logger.error("%d records to %s were not appended: %s", records, {part.topic for part in parts}, error)
        for part in parts:
            part.error = error
            if isinstance(error, errors.UnknownTopicOrPartitionError):
                self._topics.pop(part.topic, None)
        if isinstance(error, errors.ProducerFencedError):
            self._refusal = error
        if self._first_error is None:
            self._first_error = error

    async def _append(self, flush: _Flush) -> None:
        """Append, and try again as long as it may help."""
        self._flushes += 1
        flush.number = self._flushes
        failures = 0
        before: errors.PgqError | None = None
        while True:
            left_s = flush.give_up_at - time.monotonic()
            try:
                if left_s <= 0:
                    raise errors.RequestTimedOutError(
                        f"not appended within the {self._delivery_timeout_s:g} s of delivery_timeout_ms"
                    )
                flush.attempts += 1
                return await self._append_once(flush, min(self._request_timeout_s, left_s))
            except errors.UnknownProducerIdError:
                if flush.repeated:
                    raise
                await self._renew_rotation()
            except errors.PgqError as error:
                failures += 1
                wait_s = backoff_s(failures, self._backoff_s, self._backoff_max_s, random())
                if (
                    not error.retriable
                    or isinstance(error, errors.UnknownTopicOrPartitionError)  # a topic of this id does not come back
                    or failures > self._retries
                    or time.monotonic() + wait_s >= flush.give_up_at
                ):
                    if before is not None and left_s < self._request_timeout_s:
                        raise before from error  # this one had too little time to tell more
                    raise
                before = error
                logger.warning("flush %d failed, trying again in %.2f s: %s", flush.number, wait_s, error)
                await sleep(wait_s)

    async def _append_once(self, flush: _Flush, limit_s: float) -> None:
        """Append the records of some partitions, and keep those that are delayed, in one transaction; note where."""
        connection = await self._connection()
        parts = flush.parts
        producer_id, producer_epoch, rotation = self._identity or _NOBODY
        committing = False
        try:
            async with Deadline(connection, limit_s):
                await connection.execute(self._begin)
                rows = await connection.fetch(
                    statements.BEGIN_FLUSH,
                    [part.topic_id for part in parts],
                    [part.partition for part in parts],
                    [len(part.rows) for part in parts],
                    [max(map(_timestamp, part.rows)) for part in parts],
                    flush.acks,
                    producer_id,
                    producer_epoch,
                    flush.number,
                    rotation,
                    flush.repeated,
                )
                taken = {(row[0], row[1]): row for row in rows}
                if not rows[0][6]:
                    if flush.delayed:
                        await self._keep(connection, flush.delayed)
                    for topic_id, group in groupby(parts, key=lambda part: part.topic_id):
                        await self._copy(connection, topic_id, list(group), taken)
                committing = flush.repeated = True
                complete = await connection.commit()
        except BaseException as error:
            # whatever state it is in: closing it rolls back what is not committed
            await self._disconnect()
            if committing and flush.acks == "all" and isinstance(error, errors.RequestTimedOutError):
                raise errors.NotEnoughReplicasAfterAppendError(
                    "the commit was not confirmed in time: standbys are missing, or the network; the records may be on"
                    " the leader alone, where a failover loses them"
                ) from error
            raise
        if not complete:
            raise errors.NotEnoughReplicasAfterAppendError(
                "appended on the leader, but the wait for its standbys was cut short: a failover may lose the records"
            )
        if self._identity is not None:
            self._identity = self._identity._replace(rotation=rows[0][7])
        for part in parts:
            row = taken[part.topic_id, part.partition]
            part.offsets = row[3]
            if row[2] is not None:
                self._note_upkeep(part.topic, row[2], sum(len(r[2] or b"") for r in part.rows), due=row[4])

    async def _keep(self, connection: Any, parts: Sequence[DelayedPart]) -> None:
        """Have delayed records wait; note their ids.

        They are known before the commit is sent. So where an attempt of unknown outcome turns out to have kept them,
        these are their ids.
        """
        records = list(chain.from_iterable(part.rows for part in parts))
        kept = iter(await connection.fetch(statements.DELAY_RECORDS, *delay_arguments(records)))
        for part in parts:
            part.kept = list(islice(kept, len(part.rows)))

    async def _copy(
        self, connection: Any, topic_id: int, parts: list[PartitionBatch], taken: dict[tuple[int, int], Any]
    ) -> None:
        log_append_ms = taken[topic_id, parts[0].partition][5]
        if log_append_ms is not None:
            for part in parts:
                part.rows = [(log_append_ms, *row[1:]) for row in part.rows]
        columns: tuple[str, ...] = copy.COLUMNS
        if headers := any(part.has_headers for part in parts):
            columns += copy.HEADER_COLUMNS
        if codecs := any(part.has_codecs for part in parts):
            columns += copy.CODEC_COLUMNS
        file = copy.encode(
            ((part.partition, taken[topic_id, part.partition][3], part.rows) for part in parts),
            headers=headers,
            codecs=codecs,
        )
        await connection.copy_in(f"t{topic_id}", columns, file)

    async def _renew_rotation(self) -> None:
        """Learn the rotation of markers anew, after a long time without a flush."""
        rows = await (await self._connection()).fetch(statements.INIT_PRODUCER, None)
        if self._identity is not None:
            self._identity = self._identity._replace(rotation=rows[0][2])

    def _note_upkeep(self, topic: str, partition_id: int, appended_bytes: int, *, due: bool) -> None:
        total = self._upkeep_bytes.get(partition_id, 0) + appended_bytes
        known = self._topics.get(topic)
        if due or known is None or total >= known.upkeep_bytes:
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
