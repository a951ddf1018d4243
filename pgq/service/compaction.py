"""Compaction: of each key of a partition the last record remains, and its offset stays what it was.

A pass reads which keys came last, then copies what remains of some neighbouring segments into a new table, and puts
that in their place in one short transaction: see docs/decisions/0008. The records pass through this process, since only
COPY FROM with FREEZE writes rows that every snapshot shows. What is decided is decided in SQL: sql/functions/internal.

A process that is killed leaves at most a copy that nobody reads; the next pass drops it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing
from datetime import datetime
from typing import Any, ClassVar, NamedTuple

from pgq import errors
from pgq.core import copy, statements
from pgq.drivers.threads import Deadline
from pgq.service.jobs import Job

Connect = Callable[..., Any]
"""Opens a connection of pgq.drivers.psycopg with the settings given, `set` statements, as the schema's owner."""
Stopping = Callable[[], bool]

_STEP_S = 3600.0
"""How long reading the keys of a partition, or copying some segments, may take: a server that is gone is noticed."""
_LOOK_AGAIN_S = 0.1
"""A transaction that holds a table for longer than this is not waited for."""
_LOCK_TIMEOUTS_MS = (50, 100, 200)
"""For how long a swap keeps others waiting, at its first attempts and its last."""
_BEAT_S = 2.0
"""How often the session that leads is heard of during a pass, as far as a step of it does not take longer."""
_RETRY_S = (10.0, 300.0)
"""How long a partition is left alone that somebody holds, at first and at most: a backup holds it for hours."""
_BATCH = 100
"""How many partitions pgq._compaction_due looks at."""
_COLUMNS = copy.COLUMNS + copy.HEADER_COLUMNS + copy.CODEC_COLUMNS

_READING = (
    "set default_transaction_isolation = 'read committed'",
    "set statement_timeout = 0",
    "set lock_timeout = '1s'",
    # the last offsets of keys in memory, if they fit; others spill to disk
    "set work_mem = '64MB'",
    # it has time, and others have not
    "set max_parallel_workers_per_gather = 0",
    "select pgq._set_session_timeouts(3600000)",
)
_WRITING = (
    "set default_transaction_isolation = 'read committed'",
    "set statement_timeout = 0",
    "set lock_timeout = '1s'",
    "set synchronous_commit = 'local'",
    "select pgq._set_session_timeouts(3600000)",
)


class Compaction(NamedTuple):
    """How one pass over a partition went."""

    outcome: str
    """"done": the partition is compacted up to its last closed segment. "nothing": there is none, or the topic is not
    compacted. "postponed": somebody holds what is to be swapped, or it changed; a later pass goes on. "busy": another
    session compacts the partition. "stopped": as asked for."""
    records_before: int = 0
    """In the closed segments."""
    records_after: int = 0
    """What remains of them; once the pass is done."""
    bytes_before: int = 0
    """On disk, of the whole partition."""
    bytes_after: int = 0
    swaps: int = 0
    """How often segments were replaced."""


def compact_partition(
    connect: Connect, partition_id: int, *, at: datetime | None = None, stopping: Stopping = lambda: False
) -> Compaction:
    """Make one pass over a partition, on two connections of its own, whether it is due or not.

    Safe beside producers, consumers, retention, other instances of itself, and to be ended anywhere, by kill -9 too.
    Producers wait for a swap a few milliseconds, and at most for the time of its locks: 50 to 200 ms.

    Args:
        connect: called twice, with settings; not through a pooler.
        at: the time against which tombstones and records are old; the server's clock if None.
        stopping: asked between two groups of segments, and within the copy of one.

    Raises:
        PgqError: the server is gone, or refuses something. The partition is as before, or compacted in part.
    """
    with closing(connect(*_WRITING)) as writing, closing(connect(*_READING)) as reading:
        return _Pass(writing, reading, partition_id, stopping).run(at)


class _Stopped(Exception):  # noqa: N818 - no error
    """The copy was given up, as asked for."""


class _Postponed(Exception):  # noqa: N818 - no error
    """Somebody is in the way."""


class _Pass:
    """One pass over a partition."""

    def __init__(self, writing: Any, reading: Any, partition_id: int, stopping: Stopping) -> None:
        self._writing = writing
        self._reading = reading
        self._partition_id = partition_id
        self._stopping = stopping
        self._swaps = 0

    def run(self, at: datetime | None) -> Compaction:
        began, at = self._write(statements.BEGIN_COMPACTION, at)[0]
        if not began:
            return Compaction("busy")
        bytes_before = self._bytes()
        outcome, clean_to, records, kept, tombstones = "nothing", None, 0, 0, 0
        try:
            if self._reading.fetch(statements.OPEN_COMPACTION_PLAN, self._partition_id, at)[0][0]:
                *groups, (_, end_offset, _, records, kept, tombstones) = self._plan()
                self._replace_all(groups)
                outcome, clean_to = "done", end_offset
        except _Stopped:
            outcome = "stopped"
        except (_Postponed, errors.UnknownTopicError):
            outcome = "postponed"  # it is held; or retention has dropped a segment, or the topic is gone
        self._write(statements.END_COMPACTION, clean_to, at, tombstones)
        return Compaction(outcome, records, kept, bytes_before, self._bytes(), self._swaps)

    def _plan(self) -> list[Any]:
        """Find out what is to be done; in vain if somebody holds the partition's table, so not then."""
        self._check_held([])
        left = 1
        while left:
            self._check_stopped()
            with Deadline(self._reading, _STEP_S):
                ((left,),) = self._reading.fetch(statements.READ_COMPACTION_STEP)
        plan: list[Any] = self._reading.fetch(statements.COMPACTION_PLAN, self._partition_id)
        return plan

    def _replace_all(self, groups: Iterable[Any]) -> None:
        for bases, end_offset, removable_below, _, kept, _ in groups:
            self._check_stopped()
            self._check_held(bases)
            self._copy(bases, end_offset, removable_below, kept)
            self._swap(bases, end_offset)

    def _check_stopped(self) -> None:
        if self._stopping():
            raise _Stopped

    def _check_held(self, bases: list[int]) -> None:
        """Do not begin if somebody is likely to hold the tables for longer than a swap would wait for them."""
        before = self._write(statements.COMPACTION_HOLDERS, bases)[0][0]
        if before:
            time.sleep(_LOOK_AGAIN_S)
            if not set(before).isdisjoint(self._write(statements.COMPACTION_HOLDERS, bases)[0][0]):
                raise _Postponed

    def _swap(self, bases: list[int], end_offset: int) -> None:
        """Put the copy in the place of the segments, or drop it if somebody is in the way."""
        for timeout_ms in _LOCK_TIMEOUTS_MS:
            said = self._write(statements.SWAP_COMPACTED, bases, end_offset, timeout_ms)[0][0]
            if said != "busy":
                break
            time.sleep(_LOOK_AGAIN_S)
        if said != "swapped":
            self._write(statements.DROP_COMPACTION_COPIES)
            raise _Postponed
        self._swaps += 1

    def _copy(self, bases: list[int], end_offset: int, removable_below: int, kept: int) -> None:
        ((survivors,),) = self._reading.fetch(
            statements.COMPACTION_SURVIVORS, self._partition_id, bases, removable_below
        )
        self._writing.execute("begin")
        try:
            ((name,),) = self._write(statements.CREATE_COMPACTION_COPY, bases[0], end_offset)
            with (
                Deadline(self._writing, _STEP_S),
                Deadline(self._reading, _STEP_S),
                closing(self._reading.copy_out(survivors)) as pieces,
            ):
                self._writing.copy_in(name, _COLUMNS, self._until_stopped(pieces), freeze=True)
            with Deadline(self._writing, _STEP_S):
                ((copied,),) = self._writing.fetch(statements.INDEX_COMPACTION_COPY, name)
            if copied != kept:
                raise errors.DatabaseError(
                    f"compaction counted {kept} records that remain and copied {copied} to {name}: nothing was changed"
                )
            self._writing.execute("commit")
        except (_Stopped, errors.UnknownTopicError):
            self._writing.execute("rollback")
            raise

    def _until_stopped(self, pieces: Iterable[bytes]) -> Iterable[bytes]:
        for piece in pieces:
            self._check_stopped()
            yield piece

    def _write(self, statement: str, *args: Any) -> list[Any]:
        rows: list[Any] = self._writing.fetch(statement, self._partition_id, *args)
        return rows

    def _bytes(self) -> int:
        return int(self._write(statements.PARTITION_BYTES)[0][0])


class _Beat:
    """Asks whether to stop, and lets the session that leads be heard of, which has nothing to do meanwhile."""

    def __init__(self, connection: Any, stopping: Stopping) -> None:
        self._connection = connection
        self._stopping = stopping
        self._heard_at = time.monotonic()

    def __call__(self) -> bool:
        if time.monotonic() - self._heard_at > _BEAT_S:
            self._connection.fetch(statements.SCHEMA_VERSION)
            self._heard_at = time.monotonic()
        return self._stopping()


class CompactionJob(Job):
    """Compacts the partitions of compacted topics that have become dirty, and removes their old tombstones."""

    name: ClassVar[str] = "compaction"

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._not_before: dict[int, tuple[float, float]] = {}
        """By partition that was held: when to try again, monotonic, and how long was waited for that."""

    def run_once(self, connection: Any, stopping: Stopping) -> Counter[str]:
        """Do what is due. A partition in which it fails does not keep the others from being compacted.

        Raises:
            PgqError: the first failure.
        """
        result: Counter[str] = Counter()
        failure: errors.PgqError | None = None
        stopping = _Beat(connection, stopping)
        for partition_id in self._due(connection, stopping):
            if stopping():
                break
            at, wait_s = self._not_before.get(partition_id, (0.0, _RETRY_S[0] / 2))
            if time.monotonic() < at:
                continue
            try:
                done = compact_partition(self._connect, partition_id, stopping=stopping)
            except errors.BrokerNotAvailableError:
                raise
            except errors.PgqError as error:
                failure = failure or error
                continue
            self._not_before.pop(partition_id, None)
            if done.outcome == "postponed":
                result["postponed"] += 1
                wait_s = min(2 * wait_s, _RETRY_S[1])
                self._not_before[partition_id] = time.monotonic() + wait_s, wait_s
            elif done.outcome == "done":
                result["compacted"] += 1
                result["removed"] += done.records_before - done.records_after
        if failure is not None:
            raise failure
        return result

    def _due(self, connection: Any, stopping: Stopping) -> list[int]:
        result = []
        after = 0
        while not stopping():
            rows = connection.fetch(statements.COMPACTION_DUE, after, None)
            result += [partition_id for partition_id, due in rows if due]
            if len(rows) < _BATCH:
                break
            after = rows[-1][0]
        return result
