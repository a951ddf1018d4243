"""The jobs, all of one shape: `run_once` does what is due, on a connection whose session leads, and says what it did.

Every step is a short transaction of its own and leaves the log as it should be, so that a job may be ended anywhere, by
kill -9 too: the next run goes on. What the steps do is in sql/functions/internal.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Protocol, Self

from pgq import errors
from pgq.core import statements

_PATIENCE_S = 5.0
"""A transaction that holds a table for longer than this is not waited for, now or at the next run."""
_LOOK_EVERY_S = 0.05
_BATCH = 100
"""How many partitions pgq._segments_due and pgq._retention_due look at."""
_LOCK_TIMEOUTS_MS = (10, 200)
"""How long a roll keeps others waiting: at first, and at most, after several attempts."""
_DROP_TIMEOUTS_MS = (10, 5_000)
"""How long a segment is waited for: at first, and at most. Twice as long each time: most often it is autovacuum that
works there, and is done soon; else it gives way to whoever has waited for deadlock_timeout."""
_PENDING_TIMEOUT_MS = 500
"""At most, while others wait who want the partition: to end an interrupted detach."""

_DELIVER_MOST = 1000
"""Records that are delivered in one transaction."""

Stopping = Callable[[], bool]


class Job(Protocol):
    """Something that is to be done again and again."""

    name: ClassVar[str]

    def run_once(self, connection: Any, stopping: Stopping) -> Counter[str]:
        """Do what is due, and return how much of what was done. Ends early, between two steps, once `stopping()`."""
        ...


class Rolls:
    """Steps that may have to roll a segment: asks again, with more patience, where transactions were in the way."""

    def __init__(self) -> None:
        self._lock_timeouts_ms: dict[int, int] = {}

    def run(self, connection: Any, statement: str, partition_id: int, stopping: Stopping) -> Counter[str]:
        """Run the statement until it says 'done' or 'busy'; return how often it said what, but 'done'."""
        result: Counter[str] = Counter()
        least, most = _LOCK_TIMEOUTS_MS
        while not stopping():
            timeout_ms = self._lock_timeouts_ms.pop(partition_id, least)
            ((said,),) = connection.fetch(statement, partition_id, timeout_ms)
            if said == "done":
                break
            result[said] += 1
            if said == "busy":
                self._lock_timeouts_ms[partition_id] = min(2 * timeout_ms, most)
                break
        return result


class _Errors:
    """Steps of which one that fails does not keep the others from being done; the first error is raised after them."""

    def __init__(self) -> None:
        self._first: errors.PgqError | None = None

    def __enter__(self) -> Self:
        return self

    @contextmanager
    def kept(self) -> Iterator[None]:
        """The block is one step. Without its connection no step can be done."""
        try:
            yield
        except errors.BrokerNotAvailableError:
            raise
        except errors.PgqError as error:
            self._first = self._first or error

    def __exit__(self, kind: object, _error: BaseException | None, _trace: object) -> None:
        if kind is None and self._first is not None:
            raise self._first


def _look(connection: Any, statement: str, stopping: Stopping) -> list[Any]:
    """Return the statement's rows of all partitions, asking of a hundred at a time."""
    result: list[Any] = []
    after = 0
    while not stopping():
        rows = connection.fetch(statement, after)
        result += rows
        if len(rows) < _BATCH:
            break
        after = rows[-1][0]
    return result


class Segments:
    """Makes segments before they are needed, and rolls those that have become too large."""

    name: ClassVar[str] = "segments"

    def __init__(self) -> None:
        self._rolls = Rolls()

    def run_once(self, connection: Any, stopping: Stopping) -> Counter[str]:
        """Do what is due."""
        result: Counter[str] = Counter()
        with _Errors() as failures:
            for partition_id, due in _look(connection, statements.SEGMENTS_DUE, stopping):
                if due:
                    with failures.kept():
                        result += self._rolls.run(connection, statements.UPKEEP, partition_id, stopping)
        return result


class Retention:
    """Moves log starts by retention.ms and retention.bytes, ends segments by segment.ms, and drops what is below."""

    name: ClassVar[str] = "retention"

    def __init__(self) -> None:
        self._rolls = Rolls()
        self._in_the_way: set[str] = set()
        self._timeouts_ms: dict[str, int] = {}
        """Of segments that could not be had at the last run: how long to wait now."""

    def run_once(self, connection: Any, stopping: Stopping) -> Counter[str]:
        """Do what is due."""
        result: Counter[str] = Counter()
        with _Errors() as failures:
            for partition_id, due, upkeep_due in _look(connection, statements.RETENTION_DUE, stopping):
                with failures.kept():
                    if upkeep_due:
                        result += self._rolls.run(connection, statements.UPKEEP, partition_id, stopping)
                    if due:
                        result += self._rolls.run(connection, statements.APPLY_RETENTION, partition_id, stopping)
            self._drop_all(connection, stopping, result, failures)
        return result

    def _drop_all(self, connection: Any, stopping: Stopping, result: Counter[str], failures: _Errors) -> None:
        rows = connection.fetch(statements.DROPPABLE)
        # those who are here at first, and still
        holding = {holder for *_, holders in rows for holder in holders}
        deadline = time.monotonic() + _PATIENCE_S
        while holding - self._in_the_way and time.monotonic() < deadline and not stopping():
            time.sleep(_LOOK_EVERY_S)
            rows = connection.fetch(statements.DROPPABLE)
            holding.intersection_update(holder for *_, holders in rows for holder in holders)
        self._in_the_way = holding
        timeouts_ms, self._timeouts_ms = self._timeouts_ms, {}
        held: set[int] = set()
        for partition_id, base_offset, tree, leaf, state, holders in rows:
            if stopping():
                break
            # a partition can have one pending segment, so nothing else of it before that is gone
            if partition_id in held:
                continue
            timeout_ms = timeouts_ms.get(leaf, _DROP_TIMEOUTS_MS[0])
            said = "held"
            if not holding.intersection(holders):
                with failures.kept():
                    said = self._drop(connection, partition_id, base_offset, tree, leaf, state, timeout_ms)
                if said != "dropped":
                    self._timeouts_ms[leaf] = min(2 * timeout_ms, _DROP_TIMEOUTS_MS[1])
            if said == "held":
                held.add(partition_id)
            result["dropped" if said == "dropped" else "postponed"] += 1

    def _drop(
        self, connection: Any, partition_id: int, base_offset: int, tree: str, leaf: str, state: str, timeout_ms: int
    ) -> str:
        """Drop a segment; return 'dropped', 'busy', or 'held' if none of the partition's can be dropped now."""
        if state == "pending":
            timeout_ms = min(timeout_ms, _PENDING_TIMEOUT_MS)
        elif not connection.fetch(statements.CLEAR_SEGMENT, partition_id, base_offset, timeout_ms)[0][0]:
            return "busy"
        if state == "attached":
            try:
                connection.execute(statements.detach_segment(tree, leaf))
            except errors.UnknownTopicError:
                return "held"  # deleted meanwhile
            except errors.DatabaseError as error:
                if not error.retriable:
                    raise
                # somebody holds it after all, and it is left pending: seen at the next run
                return "held"
        ((gone,),) = connection.fetch(statements.DROP_SEGMENT, partition_id, base_offset, timeout_ms)
        if gone:
            return "dropped"
        return "held" if state == "pending" else "busy"


class Delivery:
    """Appends delayed records that are due. Members of groups do, too, but they may all be away."""

    name: ClassVar[str] = "delivery"

    def run_once(self, connection: Any, stopping: Stopping) -> Counter[str]:
        """Do what is due."""
        result: Counter[str] = Counter()
        while not stopping():
            ((delivered, next_due_ms),) = connection.fetch(statements.DELIVER_DUE, _DELIVER_MOST)
            result["delivered"] += delivered
            if not delivered or next_due_ms != 0:
                break
        return result


class Members:
    """Removes members of consumer groups whose sessions have ended, where no other member is left to notice."""

    name: ClassVar[str] = "members"

    def run_once(self, connection: Any, _stopping: Stopping) -> Counter[str]:
        """Do what is due."""
        ((groups,),) = connection.fetch(statements.REMOVE_DEAD_MEMBERS)
        return Counter({"groups": groups})


class Markers:
    """Forgets which flushes of which producers are in the log, once nobody can begin them again."""

    name: ClassVar[str] = "markers"

    def run_once(self, connection: Any, _stopping: Stopping) -> Counter[str]:
        """Do what is due."""
        ((rotated,),) = connection.fetch(statements.ROTATE_FLUSH_MARKERS)
        return Counter({"rotated": int(rotated)})
