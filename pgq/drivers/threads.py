"""What the sync clients need of threads; tasks.py is its twin for the async clients, name for name."""

from __future__ import annotations

import inspect
import logging
import threading
import time
from asyncio import CancelledError
from collections.abc import Callable
from typing import Any, ClassVar, Generic

from pgq import errors
from pgq.core.accumulator import Batch, MetadataT, Part, Place, first_error, outcome
from pgq.types import RecordMetadata

logger = logging.getLogger("pgq")
Lock = threading.Lock
Mutex = threading.Lock
Event = threading.Event
sleep = time.sleep

_IDLE_S = 3600.0


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


class Deadline:
    """What is called inside ends in time: the server is asked to end it, and RequestTimedOutError is raised.

    One thread of the process watches all of them; blocking calls of a driver have no time limit of their own.
    """

    _GRACE_S = 5.0
    _all: ClassVar[set[Deadline]] = set()
    _changed = threading.Condition()
    _watcher: ClassVar[threading.Thread | None] = None

    def __init__(self, connection: Any, seconds: float) -> None:
        self._connection = connection
        self._seconds = seconds
        self._at = 0.0
        self._over = False
        self._left = threading.Event()

    def __enter__(self) -> None:
        self._at = time.monotonic() + self._seconds
        with self._changed:
            # who sleeps until an earlier time will see this one then
            if all(self._at < other._at for other in self._all):
                self._changed.notify()
            self._all.add(self)
            if Deadline._watcher is None or not Deadline._watcher.is_alive():  # which it is not in a forked process
                Deadline._watcher = threading.Thread(target=self._watch, name="pgq-deadlines", daemon=True)
                Deadline._watcher.start()

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        with self._changed:
            self._all.discard(self)
        self._left.set()
        if self._over and isinstance(error, errors.PgqError):
            raise errors.RequestTimedOutError(f"the server has not answered within {self._seconds:g} s") from error

    @classmethod
    def _watch(cls) -> None:
        while True:
            with cls._changed:
                now = time.monotonic()
                late = [deadline for deadline in cls._all if deadline._at <= now]
                cls._all.difference_update(late)
                for deadline in late:
                    deadline._over = True
                if not late:
                    cls._changed.wait(min((d._at for d in cls._all), default=now + _IDLE_S) - now)
            for deadline in late:
                threading.Thread(target=deadline._end, name="pgq-deadline", daemon=True).start()

    def _end(self) -> None:
        self._connection.cancel()
        if not self._left.wait(self._GRACE_S):
            self._connection.abort()


def check_handler(handler: Any) -> None:
    """Refuse what cannot be called with a record, or would have to be awaited."""
    if not callable(handler):
        raise errors.InvalidRequestError(f"the handler must be a function of a record, not {handler!r}")
    for function in (handler, type(handler).__call__):
        if inspect.iscoroutinefunction(function):
            raise errors.InvalidRequestError("the handler is a coroutine function: give it to AsyncConsumer.run")
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise errors.InvalidRequestError("the handler is a generator function: nothing runs when it is called")


def handle(handler: Callable[..., Any], record: Any) -> str | None:
    """Call the handler; return what is wrong with it, if anything."""
    result = handler(record)
    if result is None:
        return None
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()
        return "the handler returned something to be awaited: give it to AsyncConsumer.run"
    if inspect.isgenerator(result) or inspect.isasyncgen(result):
        return "the handler returned a generator: nothing of it has run"
    return None


def is_failure(error: BaseException) -> bool:
    """Whether it came out of the handler's work, and does not mean that the program is to end."""
    return isinstance(error, Exception | CancelledError)  # nobody cancels a thread


def ends_program(_error: BaseException) -> bool:
    """Whether it is to go on: not through a thread, which would only print it."""
    return False


def call(function: Callable[..., Any], *args: Any) -> None:
    """Call what the application gave."""
    function(*args)


class Delivery(Generic[MetadataT]):
    """The future of one record: ask it for its metadata, or for the error that kept it from being appended."""

    __slots__ = ("_batch", "_index", "_part")

    def __init__(self, batch: Batch, part: Part[MetadataT], index: int) -> None:
        self._batch = batch
        self._part = part
        self._index = index

    def done(self) -> bool:
        """Whether the outcome is known."""
        return bool(self._batch.done.is_set())

    def result(self, timeout: float | None = None) -> MetadataT:
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
        return part.metadata(self._index)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the outcome, at most timeout seconds; return the error, or None."""
        if not self._batch.done.wait(timeout):
            raise errors.RequestTimedOutError(f"not flushed within {timeout} s; the record may still be appended")
        return self._part.error

    def add_done_callback(self, callback: Callable[[Delivery[MetadataT]], object]) -> None:
        """Call back, with this future and in the sender's thread, once the outcome is known."""
        if not self._batch.when_done(lambda: callback(self)):
            callback(self)

    def wait(self) -> MetadataT:
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
