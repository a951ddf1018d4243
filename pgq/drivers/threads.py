"""What the sync clients need of threads; tasks.py is its twin for the async clients, name for name."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from pgq import errors
from pgq.core.accumulator import Batch, PartitionBatch, Place, first_error, outcome
from pgq.types import RecordMetadata

logger = logging.getLogger("pgq")
Lock = threading.Lock
Mutex = threading.Lock
Event = threading.Event
sleep = time.sleep


class Worker:
    """Something that runs beside the caller, in a daemon thread: a forgotten client does not keep the process."""

    def __init__(self, function: Callable[[], None], name: str) -> None:
        self._thread = threading.Thread(target=function, name=name, daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._thread.is_alive()

    def join(self) -> None:
        """Wait for its end."""
        self._thread.join()


class Delivery:
    """The future of one record: ask it for its RecordMetadata, or for the error that kept it from being appended."""

    __slots__ = ("_batch", "_index", "_part")

    def __init__(self, batch: Batch, part: PartitionBatch, index: int) -> None:
        self._batch = batch
        self._part = part
        self._index = index

    def done(self) -> bool:
        """Whether the outcome is known."""
        return bool(self._batch.done.is_set())

    def result(self, timeout: float | None = None) -> RecordMetadata:
        """Wait for the outcome, at most timeout seconds.

        Raises:
            RequestTimedOutError: the time is up; the record may still be appended.
            PgqError: the record was not appended, or its fate is not known.
        """
        if not self._batch.done.wait(timeout):
            raise errors.RequestTimedOutError(f"not flushed within {timeout} s; the record may still be appended")
        part = self._part
        if part.error is not None:
            raise part.error
        return RecordMetadata(part.topic, part.partition, part.offsets[self._index], part.rows[self._index][0])

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the outcome, at most timeout seconds; return the error, or None."""
        if not self._batch.done.wait(timeout):
            raise errors.RequestTimedOutError(f"not flushed within {timeout} s; the record may still be appended")
        return self._part.error

    def add_done_callback(self, callback: Callable[[Delivery], object]) -> None:
        """Call back, with this future and in the sender's thread, once the outcome is known."""
        if not self._batch.when_done(lambda: callback(self)):
            callback(self)

    def wait(self) -> RecordMetadata:
        """As result()."""
        return self.result()


class Deliveries:
    """The future of many records: ask it for their RecordMetadata, or for the error of the first that failed."""

    __slots__ = ("_batch", "_places")

    def __init__(self, last_batch: Batch, places: list[Place]) -> None:
        self._batch = last_batch  # batches are done in order
        self._places = places

    def done(self) -> bool:
        """Whether the outcome of all is known."""
        return bool(self._batch.done.is_set())

    def result(self, timeout: float | None = None) -> list[RecordMetadata]:
        """Wait for the outcome, at most timeout seconds, and return it in the order sent.

        Raises:
            RequestTimedOutError: the time is up; the records may still be appended.
            PgqError: a record was not appended, or its fate is not known. Those of other batches may have been.
        """
        if not self._batch.done.wait(timeout):
            raise errors.RequestTimedOutError(f"not flushed within {timeout} s; the records may still be appended")
        return outcome(self._places)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the outcome, at most timeout seconds; return the first error, or None."""
        if not self._batch.done.wait(timeout):
            raise errors.RequestTimedOutError(f"not flushed within {timeout} s; the records may still be appended")
        return first_error(self._places)

    def add_done_callback(self, callback: Callable[[Deliveries], object]) -> None:
        """Call back, with this future and in the sender's thread, once the outcome of all is known."""
        if not self._batch.when_done(lambda: callback(self)):
            callback(self)
