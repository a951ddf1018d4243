"""The jobs, all of one shape: `run_once` does what is due, on a connection whose session leads, and says what it did.

Every step is a short transaction of its own and leaves the log as it should be, so that a job may be ended anywhere, by
kill -9 too: the next run goes on. What the steps do is in sql/functions/internal.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import Any, ClassVar, Self

from pgq import errors
from pgq.core import statements

_PATIENCE_S = 5.0
"""How long transactions that hold a table may take before its segments count as held."""
_YOUNG_S = 2.0
"""A transaction that has been seen for less than this is waited for by whoever detaches: most end soon."""
_STUBBORN_S = 30.0
"""Segments that have been held for so long are detached all the same: that waits for the holders, and others go on."""
_STUBBORN_AFTER_S = 1.0
_STUBBORN_EVERY_S = 2.0
"""But not if it has just become possible to drop others, and the other partitions come in between."""
_DETACH_TIMEOUT_MS = 10_000
"""How long DETACH ... CONCURRENTLY may wait, which holds nothing meanwhile."""
_LOOK_EVERY_S = 0.05
_HELD_EVERY_S = 1.0
_HELD_SHARE = 50
"""What is held is looked at again after so many times as long as a look takes."""
_BATCH = 100
"""How many partitions pgq._segments_due, pgq._retention_due and pgq._next_offsets look at."""
_DROPPABLE = 1000
_DROPPABLE_OF_ONE = 20
"""How many segments pgq._droppable names at most, and of a partition."""
_LOCK_TIMEOUTS_MS = (10, 200)
"""How long a roll keeps others waiting: at first, and at most, after several attempts."""
_DROP_TIMEOUTS_MS = (10, 5_000)
"""How long a segment is waited for: at first, and at most. Twice as long each time: most often it is autovacuum that
works there, and is done soon; else it gives way to whoever has waited for deadlock_timeout."""
_PENDING_TIMEOUT_MS = 500
"""At most, while others wait who want the partition: to end an interrupted detach."""
_RETRY_SHARE = 10
"""A segment that could not be had is tried again after so many times as long as it was waited for."""
_SLICE_S = 0.25
"""After so long in one partition the others are looked at again."""
_HOT_S = 10.0
"""How long a partition is looked at closely after it was given a segment, or its log start moved."""
_QUICK_S = (0.05, 1.0)
"""How often partitions are looked at closely, and how often is looked for new segments."""
_HOT_SHARE = 3
"""That takes a quarter of the time at most."""
_QUICK_SHARE = 400
"""What is looked at between two whole looks costs 0.25 % at most."""
_GROWN = 20
"""From how many partitions that have grown on a whole look costs less than one at each of them."""

_DELIVER_MOST = 1000
"""Records that are delivered in one transaction."""

Stopping = Callable[[], bool]


class Pace:
    """How long to wait between looks that find nothing, so that they cost a share of a core at most.

    By the shortest of the last looks: one that was slow once, at the first look or because of a lock, says nothing.
    """

    def __init__(self, share: float, least_s: float, most_s: float) -> None:
        self._share = share
        self._least_s = least_s
        self._most_s = max(least_s, most_s)
        self._looks: deque[float] = deque(maxlen=5)

    def wait_s(self, seconds: float) -> float:
        """Note how long a look took, and return how long to wait."""
        self._looks.append(seconds)
        return max(self._least_s, min(self._share * min(self._looks), self._most_s))


class Job(ABC):
    """Something that is to be done again and again."""

    name: ClassVar[str]
    idle_share: ClassVar[float] = 100.0
    """It waits so many times as long as it takes to find out that nothing is due: so it costs 1 % of a core at most,"""
    most_wait_s: ClassVar[float] = 30.0
    """unless that would be longer than this."""
    again_s: float | None = None
    """After a run: when run_again is worth while, if that may be sooner than the next run."""

    @abstractmethod
    def run_once(self, connection: Any, stopping: Stopping) -> Counter[str]:
        """Do what is due, and return how much of what was done. Ends early, between two steps, once `stopping()`."""

    def run_again(self, connection: Any, stopping: Stopping) -> Counter[str]:
        """Do what is due where something is likely to be."""
        return self.run_once(connection, stopping)

    def run_to_end(self, connection: Any, stopping: Stopping) -> Counter[str]:
        """Do what is due, as one who does not come back soon: until nothing is left but what others hold for long."""
        return self.run_once(connection, stopping)


class Rolls:
    """Steps that may have to roll a segment: asks again, with more patience, where transactions were in the way."""

    def __init__(self) -> None:
        self._lock_timeouts_ms: dict[int, int] = {}

    def run(
        self, connection: Any, statement: str, partition_id: int, stopping: Stopping, *, to_end: bool = False
    ) -> Counter[str]:
        """Run the statement until it says 'done' or 'busy'; return how often it said what, but 'done'.

        Parameters:
            to_end: not to give up before the last timeout; 'busy' is then counted once.
        """
        result: Counter[str] = Counter()
        least, most = _LOCK_TIMEOUTS_MS
        while not stopping():
            timeout_ms = self._lock_timeouts_ms.pop(partition_id, least)
            ((said,),) = connection.fetch(statement, partition_id, timeout_ms)
            if said == "busy":
                self._lock_timeouts_ms[partition_id] = min(2 * timeout_ms, most)
                if to_end and timeout_ms < most:
                    # who could not take offsets meanwhile is let in first
                    time.sleep(_LOOK_EVERY_S)
                    continue
            if said == "done":
                break
            result[said] += 1
            if said == "busy":
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


class _Changes:
    """Which partitions have changed within the last seconds, by a number of each that grows with it."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] | None = None
        self._until: dict[int, float] = {}

    def note(self, rows: list[Any]) -> None:
        """Compare with the numbers before. The first time nothing has changed."""
        before, self._numbers = self._numbers, dict(rows)
        if before is not None:
            for partition_id, number in rows:
                if before.get(partition_id) != number:
                    self.add(partition_id)

    def add(self, partition_id: int) -> None:
        """Count it as changed now."""
        self._until[partition_id] = time.monotonic() + _HOT_S

    def recent(self) -> list[int]:
        """Return the partitions, in their order."""
        now = time.monotonic()
        self._until = {partition_id: until for partition_id, until in self._until.items() if until > now}
        return sorted(self._until)


class Segments(Job):
    """Makes segments before they are needed, and rolls those that have become too large.

    Args:
        interval_s: how often is looked for partitions that have grown, at most. Looking at what is in all of them takes
            ten times as long, and is done less often where there are many.
    """

    name: ClassVar[str] = "segments"
    idle_share: ClassVar[float] = 400.0

    def __init__(self, interval_s: float = 1.0) -> None:
        self._rolls = Rolls()
        self._grown = _Changes()
        self._pace = Pace(_QUICK_SHARE, interval_s, 3.0)

    def run_once(self, connection: Any, stopping: Stopping) -> Counter[str]:
        """Do what is due."""
        self.again_s = self._pace.wait_s(self._look_for_growth(connection, stopping))
        return self._run(connection, stopping)

    def run_again(self, connection: Any, stopping: Stopping) -> Counter[str]:
        """Do what is due in partitions that have grown."""
        self.again_s = self._pace.wait_s(self._look_for_growth(connection, stopping))
        grown = self._grown.recent()
        if len(grown) >= _GROWN:
            return self._run(connection, stopping)
        result: Counter[str] = Counter()
        with _Errors() as failures:
            for partition_id in grown:
                with failures.kept():
                    result += self._rolls.run(connection, statements.UPKEEP, partition_id, stopping)
        return result

    def run_to_end(self, connection: Any, stopping: Stopping) -> Counter[str]:
        """Do what is due, and wait for transactions that are in the way."""
        return self._run(connection, stopping, to_end=True)

    def _run(self, connection: Any, stopping: Stopping, *, to_end: bool = False) -> Counter[str]:
        result: Counter[str] = Counter()
        with _Errors() as failures:
            for partition_id, due in _look(connection, statements.SEGMENTS_DUE, stopping):
                if due:
                    with failures.kept():
                        result += self._rolls.run(connection, statements.UPKEEP, partition_id, stopping, to_end=to_end)
        return result

    def _look_for_growth(self, connection: Any, stopping: Stopping) -> float:
        began = time.monotonic()
        self._grown.note(_look(connection, statements.NEXT_OFFSETS, stopping))
        return time.monotonic() - began


class Retention(Job):
    """Moves log starts by retention.ms and retention.bytes, ends segments by segment.ms, and drops what is below.

    Between two looks at all partitions it looks closely at those that were given a segment lately, or whose log start
    has moved: at full speed a partition grows by retention.bytes in seconds.
    """

    name: ClassVar[str] = "retention"
    idle_share: ClassVar[float] = 150.0
    most_wait_s: ClassVar[float] = 90.0

    def __init__(self) -> None:
        self._rolls = Rolls()
        self._hot = _Changes()
        self._drops = _Drops()
        self._open_segments: tuple[int, str | None] | None = None
        self._pace = Pace(_QUICK_SHARE, _QUICK_S[1], 3.0)

    def run_once(self, connection: Any, stopping: Stopping) -> Counter[str]:
        """Do what is due."""
        result: Counter[str] = Counter()
        with _Errors() as failures:
            self._look_for_segments(connection)
            self._retain(connection, stopping, result, failures)
            self._drops.run(connection, stopping, result, failures)
            result["postponed"] += self._drops.held
            self._plan(_QUICK_S[self._hot.recent() == []])
        return result

    def run_again(self, connection: Any, stopping: Stopping) -> Counter[str]:
        """Do what is due in partitions that grow fast, and drop what has become free."""
        result: Counter[str] = Counter()
        with _Errors() as failures:
            began = time.monotonic()
            self._look_for_segments(connection)
            hot = self._hot.recent()
            for partition_id in hot:
                with failures.kept():
                    result += self._apply(connection, partition_id, stopping)
            seconds = time.monotonic() - began
            if result["moved"] or self._drops.again_s is not None:
                self._drops.run(connection, stopping, result, failures)
            self._plan(max(_QUICK_S[0], _HOT_SHARE * seconds) if hot else self._pace.wait_s(seconds))
        return result

    def run_to_end(self, connection: Any, stopping: Stopping) -> Counter[str]:
        """Do what is due, and drop until nothing is left but what is held for seconds."""
        result: Counter[str] = Counter()
        with _Errors() as failures:
            self._drops = _Drops()  # what was seen long ago says nothing
            self._retain(connection, stopping, result, failures, to_end=True)
            deadline = time.monotonic() + _PATIENCE_S
            while True:
                dropped = result["dropped"]
                self._drops.run(connection, stopping, result, failures, to_end=True)
                if result["dropped"] > dropped:
                    deadline = time.monotonic() + _PATIENCE_S
                if self._drops.again_s is None or stopping() or time.monotonic() >= deadline:
                    break
                time.sleep(self._drops.again_s)
            del result["postponed"]  # one may have been tried several times
            result["postponed"] += self._drops.give_up(connection)
        return result

    def _retain(
        self, connection: Any, stopping: Stopping, result: Counter[str], failures: _Errors, *, to_end: bool = False
    ) -> None:
        """Move log starts, in all partitions."""
        for partition_id, due, upkeep_due in _look(connection, statements.RETENTION_DUE, stopping):
            with failures.kept():
                if upkeep_due:
                    result += self._rolls.run(connection, statements.UPKEEP, partition_id, stopping, to_end=to_end)
                if due:
                    result += self._apply(connection, partition_id, stopping, to_end=to_end)

    def _look_for_segments(self, connection: Any) -> None:
        """Find out which partitions were given a segment."""
        (found,) = connection.fetch(statements.OPEN_SEGMENTS)
        if found != self._open_segments:
            self._open_segments = found
            self._hot.note(connection.fetch(statements.LAST_SEGMENTS))

    def _apply(self, connection: Any, partition_id: int, stopping: Stopping, *, to_end: bool = False) -> Counter[str]:
        result = self._rolls.run(connection, statements.APPLY_RETENTION, partition_id, stopping, to_end=to_end)
        if result["moved"]:
            self._hot.add(partition_id)
        return result

    def _plan(self, look_s: float) -> None:
        """Say when to look closely again: then, or when something can be dropped."""
        self.again_s = look_s if self._drops.again_s is None else min(look_s, self._drops.again_s)


class _Held:
    """What is known of a partition with segments below its log start."""

    def __init__(self) -> None:
        self._seen: dict[str, float] | None = None
        """By transaction that holds a lock: since when, monotonic. Of those at the first look nobody knows."""
        self.since: float | None = None
        """Since when nothing of it can be dropped."""

    def is_free(self, holders: set[str]) -> bool:
        """Note who holds locks, and return whether all of them are likely to be done soon."""
        now = time.monotonic()
        seen = self._seen
        self._seen = {holder: -math.inf if seen is None else seen.get(holder, now) for holder in holders}
        return all(now - since < _YOUNG_S for since in self._seen.values())

    def held_s(self) -> float:
        """For how long nothing of it could be dropped."""
        return 0.0 if self.since is None else time.monotonic() - self.since


class _Drops:
    """Drops segments below the log start, some in each partition at a time. Those that are held are left for later.

    Every look is short: a partition that somebody holds keeps no other one waiting, but for the attempts that are made
    after half a minute.
    """

    def __init__(self) -> None:
        self._partitions: dict[int, _Held] = {}
        self._attempts: dict[str, tuple[int, float]] = {}
        """By segment that could not be had: how long to wait for it, and when to try again."""
        self._noted: dict[int, float] | None = None
        """Partitions of which the catalog says that they are held: since when, monotonic."""
        self._stubborn_at = 0.0
        self.again_s: float | None = None
        """When to look again; None: nothing is left."""

    @property
    def held(self) -> int:
        """How many partitions have been held for long."""
        return sum(held.held_s() >= _PATIENCE_S for held in self._partitions.values())

    def run(
        self, connection: Any, stopping: Stopping, result: Counter[str], failures: _Errors, *, to_end: bool = False
    ) -> None:
        """Look once, and drop what can be dropped."""
        began = time.monotonic()
        rows = connection.fetch(statements.DROPPABLE)
        look_s = time.monotonic() - began
        self._attempts = {leaf: self._attempts[leaf] for _, _, _, leaf, *_ in rows if leaf in self._attempts}
        found = {partition_id: list(group) for partition_id, group in groupby(rows, lambda row: row[0])}
        self._partitions = {partition_id: self._partitions.get(partition_id) or _Held() for partition_id in found}
        self._note(connection)
        waits = [0.0] if len(rows) == _DROPPABLE else []
        for partition_id, segments in found.items():
            if stopping():
                break
            held = self._partitions[partition_id]
            with failures.kept():
                if held.is_free({holder for *_, holders in segments for holder in holders}):
                    more = self._drop_some(connection, segments, held, stopping, result, to_end=to_end)
                    waits += more
                    if not more:
                        del self._partitions[partition_id]
                    continue
                held.since = held.since or time.monotonic()
                # which is not in the tree any more: only who reads it by its name is in the way
                loose = [segment for segment in segments if segment[4] == "detached"]
                waits += self._drop_some(connection, loose, held, stopping, result, to_end=to_end)
                if held.held_s() < _PATIENCE_S:
                    waits.append(_LOOK_EVERY_S)
                else:
                    waits.append(max(_HELD_EVERY_S, _HELD_SHARE * look_s))
                if self._may_be_stubborn(partition_id, held):
                    self._detach_anyway(connection, segments[0], held, result)
        self.again_s = min(waits, default=None)

    def give_up(self, connection: Any) -> int:
        """Note that what is left is held, for whoever comes next; return in how many partitions that is."""
        for held in self._partitions.values():
            held.since = -math.inf
        self._note(connection)
        return len(self._partitions)

    def _drop_some(
        self,
        connection: Any,
        segments: list[Any],
        held: _Held,
        stopping: Stopping,
        result: Counter[str],
        *,
        to_end: bool,
    ) -> list[float]:
        """Drop segments of a partition that nobody is likely to hold for long; return when to go on."""
        began = time.monotonic()
        waits = []
        for partition_id, base_offset, tree, leaf, state, _ in segments:
            now = time.monotonic()
            if stopping() or now - began > _SLICE_S:
                waits.append(0.0)
                break
            timeout_ms, at = self._attempts.get(leaf, (_DROP_TIMEOUTS_MS[0], 0.0))
            said = "busy"
            if now >= at:
                said = self._drop(connection, partition_id, base_offset, tree, leaf, state, timeout_ms)
                if said == "dropped":
                    result["dropped"] += 1
                    held.since = None
                    continue
                result["postponed"] += 1
                held.since = held.since or now
                at = time.monotonic() + timeout_ms / 1000 * (1 if to_end else _RETRY_SHARE)
                self._attempts[leaf] = min(2 * timeout_ms, _DROP_TIMEOUTS_MS[1]), at
            waits.append(max(_LOOK_EVERY_S, at - now))
            # a partition can have one pending segment, so nothing else of it before that is gone
            if said == "held" or state == "pending":
                break
        else:
            if len(segments) == _DROPPABLE_OF_ONE:
                waits.append(0.0)
        return waits

    def _drop(
        self, connection: Any, partition_id: int, base_offset: int, tree: str, leaf: str, state: str, timeout_ms: int
    ) -> str:
        """Drop a segment; return 'dropped', 'busy', or 'held' if none of the partition's can be dropped now."""
        if state == "pending":
            timeout_ms = min(timeout_ms, _PENDING_TIMEOUT_MS)
        elif not connection.fetch(statements.CLEAR_SEGMENT, partition_id, base_offset, timeout_ms)[0][0]:
            return "busy"
        if state == "attached" and not _detach(connection, statements.detach_segment(tree, leaf)):
            return "held"  # seen at the next look
        ((gone,),) = connection.fetch(statements.DROP_SEGMENT, partition_id, base_offset, timeout_ms)
        if gone:
            return "dropped"
        return "held" if state == "pending" else "busy"

    def _may_be_stubborn(self, partition_id: int, held: _Held) -> bool:
        now = time.monotonic()
        noted_at = (self._noted or {}).get(partition_id, math.inf)
        return now - noted_at >= _STUBBORN_S and now >= self._stubborn_at and held.held_s() >= _STUBBORN_AFTER_S

    def _detach_anyway(self, connection: Any, segment: Any, held: _Held, result: Counter[str]) -> None:
        """Take a segment out of the tree that others hold. They end one after another, and those that come later do not
        use it any more; but as long as new ones come the tree is never free, as the usual way needs it."""
        partition_id, base_offset, tree, leaf, state, _ = segment
        if state == "attached":
            is_out = _detach(connection, statements.detach_segment(tree, leaf))
        else:
            # keeps makers of segments waiting while it waits
            connection.execute(f"set lock_timeout = {_PENDING_TIMEOUT_MS}")
            try:
                is_out = state == "detached" or _detach(connection, statements.finalize_detach(tree, leaf))
            finally:
                connection.execute(f"set lock_timeout = {_DETACH_TIMEOUT_MS}")
        if (
            is_out
            and connection.fetch(statements.DROP_SEGMENT, partition_id, base_offset, _DROP_TIMEOUTS_MS[0] * 5)[0][0]
        ):
            result["dropped"] += 1
            held.since = None
        # meanwhile for the other partitions
        self._stubborn_at = time.monotonic() + _STUBBORN_EVERY_S

    def _note(self, connection: Any) -> None:
        """Let the catalog say which partitions are held: pgq.maintenance_due tells it, and whoever leads next knows."""
        held = {partition_id for partition_id, held in self._partitions.items() if held.held_s() >= _PATIENCE_S}
        if self._noted is not None and held <= self._noted.keys() <= self._partitions.keys():
            return
        now = time.monotonic()
        self._noted = {
            partition_id: now - seconds
            for partition_id, seconds in connection.fetch(statements.NOTE_HELD, sorted(held))
        }


def _detach(connection: Any, statement: str) -> bool:
    """Return whether the segment is out of the tree; else it is pending, or as it was."""
    try:
        connection.execute(statement)
    except errors.UnknownTopicError:
        return False  # deleted meanwhile
    except errors.DatabaseError as error:
        if not error.retriable:
            raise
        return False  # somebody holds it after all
    return True


class Delivery(Job):
    """Appends delayed records that are due. Members of groups do, too, but they may all be away."""

    name: ClassVar[str] = "delivery"
    most_wait_s: ClassVar[float] = 0.8

    def run_once(self, connection: Any, stopping: Stopping) -> Counter[str]:
        """Do what is due."""
        result: Counter[str] = Counter()
        while not stopping():
            ((delivered, next_due_ms),) = connection.fetch(statements.DELIVER_DUE, _DELIVER_MOST)
            result["delivered"] += delivered
            if not delivered or next_due_ms != 0:
                self.again_s = None if next_due_ms is None else max(_LOOK_EVERY_S, next_due_ms / 1000)
                break
        return result


class Members(Job):
    """Removes members of consumer groups whose sessions have ended, where no other member is left to notice."""

    name: ClassVar[str] = "members"

    def run_once(self, connection: Any, _stopping: Stopping) -> Counter[str]:
        """Do what is due."""
        ((groups,),) = connection.fetch(statements.REMOVE_DEAD_MEMBERS)
        return Counter({"groups": groups})


class Markers(Job):
    """Forgets which flushes of which producers are in the log, once nobody can begin them again."""

    name: ClassVar[str] = "markers"

    def run_once(self, connection: Any, _stopping: Stopping) -> Counter[str]:
        """Do what is due."""
        ((rotated,),) = connection.fetch(statements.ROTATE_FLUSH_MARKERS)
        return Counter({"rotated": int(rotated)})
