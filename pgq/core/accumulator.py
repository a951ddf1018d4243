"""What a producer has been given and not yet flushed. Pure: no I/O, no clock of its own.

A batch is what goes into one transaction. Records of one partition stand together in it, in the order they were sent;
a record's future is its place there, so that completing a batch costs nothing a record.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Generic, TypeVar

from pgq.core.copy import Row
from pgq.core.metadata import TopicMetadata
from pgq.core.rows import DelayedRow
from pgq.types import DelayedRecordMetadata, RecordMetadata

MetadataT = TypeVar("MetadataT")

MAX_PARTITIONS = 100
"""Partitions in one transaction: each takes three locks of a table that all sessions share."""

MAX_HOURS = 100
"""Hours in which the delayed records of one transaction are due: those of each stand in a table of their own."""

RECORD_OVERHEAD = 64
"""Bytes that a buffered record is counted with beside its own."""


class Part(Generic[MetadataT]):
    """Records of one topic in a batch, and after the flush what became of them."""

    __slots__ = ("bytes", "error", "topic", "topic_id")

    rows: Sequence[object]

    def __init__(self, topic: str, topic_id: int) -> None:
        self.topic = topic
        self.topic_id = topic_id
        self.bytes = 0
        self.error: BaseException | None = None

    def metadata(self, index: int) -> MetadataT:
        """Return what the future of the record at this place tells; only after a flush without an error."""
        raise NotImplementedError


class PartitionBatch(Part[RecordMetadata]):
    """The records of one partition in a batch, and after the flush their offsets or the error."""

    __slots__ = ("has_codecs", "has_headers", "offsets", "partition", "rows")

    def __init__(self, topic: str, topic_id: int, partition: int) -> None:
        super().__init__(topic, topic_id)
        self.partition = partition
        self.rows: list[Row] = []
        self.has_headers = False
        self.has_codecs = False
        self.offsets: Sequence[int] = ()

    def metadata(self, index: int) -> RecordMetadata:
        """Return where the record was appended."""
        return RecordMetadata(self.topic, self.partition, self.offsets[index], self.rows[index][0])


class DelayedPart(Part[DelayedRecordMetadata]):
    """The records of one topic in a batch that wait until they are due, of whatever partitions."""

    __slots__ = ("kept", "rows")

    def __init__(self, topic: str, topic_id: int) -> None:
        super().__init__(topic, topic_id)
        self.rows: list[DelayedRow] = []
        self.kept: Sequence[tuple[str, int, int]] = ()
        """The id, partition and due time of each, once the server has told."""

    def metadata(self, index: int) -> DelayedRecordMetadata:
        """Return the record's id, and when it is due."""
        delayed_id, partition, due_at = self.kept[index]
        return DelayedRecordMetadata(self.topic, partition, delayed_id, due_at)


class Batch:
    """Records that are flushed together. `done` is the shell's event: set when all of them succeeded or failed."""

    __slots__ = ("acks", "begun_at", "callbacks", "delayed", "done", "hours", "parts", "size")

    def __init__(self, done: Any, begun_at: float, acks: str) -> None:
        self.done = done
        self.begun_at = begun_at
        self.acks = acks
        self.size = 0
        self.parts: dict[int, PartitionBatch] = {}
        """By partition_id."""
        self.delayed: dict[int, DelayedPart] = {}
        """By topic_id."""
        self.hours: set[int] = set()
        """In which they are due."""
        self.callbacks: list[Callable[[], object]] | None = []

    def when_done(self, callback: Callable[[], object]) -> bool:
        """Have it called back when the batch is done; return False, and never call, if it is already."""
        callbacks = self.callbacks
        if callbacks is None:
            return False
        callbacks.append(callback)
        # take_callbacks() may have come in between; then whoever removes the callback from the list is to call it
        if self.callbacks is None:
            try:
                callbacks.remove(callback)
            except ValueError:
                return True
            return False
        return True

    def take_callbacks(self) -> Iterator[Callable[[], object]]:
        """Yield what is to be called now that the batch is done."""
        callbacks, self.callbacks = self.callbacks, None
        while callbacks:
            yield callbacks.pop(0)


Place = tuple[PartitionBatch, int]
"""Where a record stands: its part of a batch, and its place there."""


def first_error(places: Sequence[Place]) -> BaseException | None:
    """Return the error of the first record that was not appended."""
    return next((part.error for part, _ in places if part.error is not None), None)


def outcome(places: Sequence[Place]) -> list[RecordMetadata]:
    """Return where the records were appended, or raise the error of the first that was not."""
    error = first_error(places)
    if error is not None:
        raise error
    return [RecordMetadata(part.topic, part.partition, part.offsets[i], part.rows[i][0]) for part, i in places]


class Accumulator:
    """Batches in the order in which they were begun. The last one grows until it is full, due, or forced.

    Records of different acks go into different batches: a batch is one transaction, which has one.
    """

    def __init__(
        self, *, linger_s: float, batch_size: int, new_event: Callable[[], Any], clock: Callable[[], float]
    ) -> None:
        self._clock = clock
        self._linger_s = linger_s
        self._batch_size = batch_size
        self._new_event = new_event
        self._batches: deque[Batch] = deque()
        self._growing: Batch | None = None
        self.bytes = 0
        """Bytes of all records that are buffered or being flushed."""

    def add(
        self, known: TopicMetadata, partition: int, row: Row, size: int, acks: str
    ) -> tuple[Batch, PartitionBatch, int, bool]:
        """Buffer a record; return its batch, its part, its place there, and whether the sender must look."""
        batch = self._growing
        wake = False
        if batch is None or batch.acks != acks:
            batch = self._growing = Batch(self._new_event(), self._clock(), acks)
            self._batches.append(batch)
            wake = True
        partition_id = known.partition_ids[partition]
        part = batch.parts.get(partition_id)
        if part is None:
            if len(batch.parts) == MAX_PARTITIONS:
                self._growing = None
                return (*self.add(known, partition, row, size, acks)[:3], True)
            part = batch.parts[partition_id] = PartitionBatch(known.topic, known.topic_id, partition)
        size += RECORD_OVERHEAD
        rows = part.rows
        rows.append(row)
        if row[3]:
            part.has_headers = True
        if row[4]:
            part.has_codecs = True
        part.bytes += size
        batch.size += size
        self.bytes += size
        if batch.size >= self._batch_size:
            self._growing = None
            wake = True
        return batch, part, len(rows) - 1, wake

    def add_delayed(
        self, known: TopicMetadata, row: DelayedRow, size: int, acks: str
    ) -> tuple[Batch, DelayedPart, int, bool]:
        """Buffer a record that waits in the database until it is due; returns what `add` does."""
        batch = self._growing
        wake = False
        if batch is None or batch.acks != acks:
            batch = self._growing = Batch(self._new_event(), self._clock(), acks)
            self._batches.append(batch)
            wake = True
        hour = row.due_ms // 3_600_000
        if hour not in batch.hours:
            if len(batch.hours) == MAX_HOURS:
                self._growing = None
                return (*self.add_delayed(known, row, size, acks)[:3], True)
            batch.hours.add(hour)
        part = batch.delayed.get(known.topic_id)
        if part is None:
            part = batch.delayed[known.topic_id] = DelayedPart(known.topic, known.topic_id)
        part.rows.append(row)
        size += RECORD_OVERHEAD
        part.bytes += size
        batch.size += size
        self.bytes += size
        if batch.size >= self._batch_size:
            self._growing = None
            wake = True
        return batch, part, len(part.rows) - 1, wake

    def add_many(
        self, known: TopicMetadata, entries: Sequence[tuple[int, Row, int]], places: list[Place], sticky: int, acks: str
    ) -> tuple[Batch, bool]:
        """Buffer records, at least one, from the one after `places` on until a batch is full, and add their places.

        Entries are (partition, or -1 for `sticky`; row; size). Returns the batch, and whether the sender must look.
        """
        wake = False
        for partition, row, size in islice(entries, len(places), None):
            batch, part, index, must_look = self.add(known, sticky if partition < 0 else partition, row, size, acks)
            places.append((part, index))
            wake = wake or must_look
            if batch is not self._growing:
                break
        return batch, wake

    def force(self) -> list[Batch]:
        """Let the growing batch grow no more; return all batches that are not done."""
        self._growing = None
        return list(self._batches)

    def wait_s(self, now: float) -> float | None:
        """Return the seconds until a batch is ready: 0 if one is, None if nothing is buffered."""
        if not self._batches:
            return None
        first = self._batches[0]
        return max(0.0, first.begun_at + self._linger_s - now) if first is self._growing else 0.0

    def first(self) -> Batch:
        """Return the batch to flush now; it stays until `remove`, so that `force` still sees it."""
        batch = self._batches[0]
        if batch is self._growing:
            self._growing = None
        return batch

    def remove(self, batch: Batch) -> None:
        """Forget the first batch, which is done."""
        self._batches.popleft()
        self.bytes -= batch.size
