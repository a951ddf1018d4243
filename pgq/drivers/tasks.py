"""What the async clients need of asyncio; threads.py is its twin for the sync clients, name for name."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Coroutine, Generator
from types import TracebackType
from typing import Any, Generic

from pgq import errors
from pgq.core.accumulator import Batch, MetadataT, Part, Place, first_error, outcome
from pgq.types import RecordMetadata

logger = logging.getLogger("pgq")


class Lock:
    """Nothing: between two awaits no other task runs."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


Mutex = asyncio.Lock


class Event:
    """An event whose wait ends early, without an error, when the time is up."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.set = self._event.set
        self.clear = self._event.clear
        self.is_set = self._event.is_set

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait until the event is set or the timeout (seconds) is over; return whether it is set."""
        if timeout is None:
            return await self._event.wait()
        try:
            async with asyncio.timeout(timeout):
                return await self._event.wait()
        except TimeoutError:
            return self._event.is_set()


class Worker:
    """Something that runs beside the caller."""

    def __init__(self, function: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        self._task = asyncio.create_task(function(), name=name)

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return not self._task.done()

    async def join(self) -> None:
        """Wait for its end."""
        await asyncio.gather(self._task, return_exceptions=True)


class Deadline:
    """What is awaited inside ends in time: the server is asked to end it, and RequestTimedOutError is raised."""

    def __init__(self, _connection: Any, seconds: float) -> None:
        self._seconds = seconds
        self._timeout = asyncio.timeout(seconds)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._timeout.__aexit__(kind, raised, trace)
        except TimeoutError as error:
            raise errors.RequestTimedOutError(f"the server has not answered within {self._seconds:g} s") from error


async def sleep(seconds: float) -> None:
    """Let others run for that time."""
    await asyncio.sleep(seconds)


def check_handler(handler: Any) -> None:
    """Refuse what cannot be called with a record, or does nothing when it is called."""
    if not callable(handler):
        raise errors.InvalidRequestError(f"the handler must be a function of a record, not {handler!r}")
    for function in (handler, type(handler).__call__):
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise errors.InvalidRequestError("the handler is a generator function: nothing runs when it is called")


async def handle(handler: Callable[..., Any], record: Any) -> str | None:
    """Call the handler, and await what it returns if that can be awaited; return what is wrong with it, if anything."""
    result = handler(record)
    if result is None:
        return None
    if inspect.isawaitable(result):
        result = await result
    if inspect.isgenerator(result) or inspect.isasyncgen(result):
        return "the handler returned a generator: nothing of it has run"
    return None


def is_failure(error: BaseException) -> bool:
    """Whether it came out of the handler's work, and does not mean that this task is to end."""
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and not task.cancelling()  # a task of the handler's own was cancelled
    return isinstance(error, Exception)


def ends_program(error: BaseException) -> bool:
    """Whether it is to go on through the event loop: it ends more than this task."""
    return not isinstance(error, Exception)


async def call(function: Callable[..., Any], *args: Any) -> None:
    """Call what the application gave, and await what it returns if that can be awaited."""
    result = function(*args)
    if inspect.isawaitable(result):
        await result


class Delivery(Generic[MetadataT]):
    """The future of one record: await it for its metadata, or for the error that kept it from being appended."""

    __slots__ = ("_batch", "_index", "_part")

    def __init__(self, batch: Batch, part: Part[MetadataT], index: int) -> None:
        self._batch = batch
        self._part = part
        self._index = index

    def done(self) -> bool:
        """Whether the outcome is known."""
        return bool(self._batch.done.is_set())

    def result(self) -> MetadataT:
        """Return the outcome, which must be known.

        Raises:
            PgqError: the record was not appended, or its fate is not known.
        """
        if not self.done():
            raise asyncio.InvalidStateError("the record is not flushed yet: await the future, or flush()")
        part = self._part
        if part.error is not None:
            raise part.error
        return part.metadata(self._index)

    def exception(self) -> BaseException | None:
        """Return the error, or None; the outcome must be known."""
        if not self.done():
            raise asyncio.InvalidStateError("the record is not flushed yet: await the future, or flush()")
        return self._part.error

    def add_done_callback(self, callback: Callable[[Delivery[MetadataT]], object]) -> None:
        """Call back, with this future, once the outcome is known."""
        if not self._batch.when_done(lambda: callback(self)):
            callback(self)

    def __await__(self) -> Generator[Any, None, MetadataT]:
        if not self.done():
            yield from self._batch.done.wait().__await__()
        return self.result()

    async def wait(self) -> MetadataT:
        """As awaiting it."""
        return await self


class Deliveries:
    """The future of many records: await it for their RecordMetadata, or for the error of the first that failed."""

    __slots__ = ("_batch", "_places")

    def __init__(self, last_batch: Batch, places: list[Place]) -> None:
        self._batch = last_batch  # batches are done in order
        self._places = places

    def done(self) -> bool:
        """Whether the outcome of all is known."""
        return bool(self._batch.done.is_set())

    def result(self) -> list[RecordMetadata]:
        """Return the outcome, in the order sent; it must be known.

        Raises:
            PgqError: a record was not appended, or its fate is not known. Those of other batches may have been.
        """
        if not self.done():
            raise asyncio.InvalidStateError("not all records are flushed yet: await the future, or flush()")
        return outcome(self._places)

    def exception(self) -> BaseException | None:
        """Return the first error, or None; the outcome must be known."""
        if not self.done():
            raise asyncio.InvalidStateError("not all records are flushed yet: await the future, or flush()")
        return first_error(self._places)

    def add_done_callback(self, callback: Callable[[Deliveries], object]) -> None:
        """Call back, with this future, once the outcome of all is known."""
        if not self._batch.when_done(lambda: callback(self)):
            callback(self)

    def __await__(self) -> Generator[Any, None, list[RecordMetadata]]:
        if not self.done():
            yield from self._batch.done.wait().__await__()
        return self.result()
