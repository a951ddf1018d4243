"""Who does the jobs, and when: any number of instances may run, one session leads for each kind of job.

A session that leads holds an advisory lock, and does the work itself: whoever is killed loses both at once, and another
instance goes on within a second. An instance that is stopped, or whose host is gone, loses them when the server ends
its silent session.
"""

from __future__ import annotations

import logging
import math
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple, Self

from pgq import errors
from pgq.core import statements
from pgq.drivers.dsn import direct_dsn
from pgq.drivers.threads import Deadline
from pgq.service.compaction import CompactionJob
from pgq.service.jobs import Delivery, Job, Markers, Members, Pace, Retention, Segments
from pgq.sync.client import connect

logger = logging.getLogger("pgq.service")

_BEAT_S = 1.0
"""How often an instance looks whether it leads. Take-over takes no longer, if the one before was killed."""
_BUSY_SHARE = 10
_AGAIN_S = 0.1
"""A job that had something to do is run again after so many times as long as it took, but not sooner than that: where
much is appended, its interval would be too long."""
_EVERYDAY = frozenset(("busy", "postponed", "delivered"))
"""What a job has not done, because of others, or does all the time: no event for the log every second."""
_REPORT_EVERY_S = 10.0
"""How often pgq.job_status is written for a job that goes well, and the log says what it has done."""
_STEP_S = 60.0
"""How long one statement may take."""
_RECONNECT_S = (0.2, 5.0)
_GRACE_S = 5.0
"""How long close() waits for the steps at hand; then it takes the connection from them, as when a process is killed."""
_LEAVE_S = 2.0
"""How long it waits for them after that: logging in to a server that does not answer cannot be cut off."""

_SETTINGS = (
    # for DETACH ... CONCURRENTLY, which holds nothing while it waits; the functions have shorter ones of their own
    "set lock_timeout = '10s'",
    f"set statement_timeout = '{_STEP_S:g}s'",
    "set idle_in_transaction_session_timeout = '60s'",
    "set default_transaction_isolation = 'read committed'",
    # what a crash takes back is done again. A drop is flushed all the same, with what it rests on before it
    "set synchronous_commit = 'off'",
)
_OWNS = (
    "select pg_is_in_recovery(), pg_has_role(current_user, n.nspowner, 'usage'), pg_get_userbyid(n.nspowner),"
    " current_user::text from pg_namespace n where n.nspname = 'pgq'"
)


class JobReport(NamedTuple):
    """How one run of a job went."""

    job: str
    seconds: float
    result: dict[str, int]
    """How much of what was done; empty if nothing was due."""
    error: str | None
    """Why it failed; None if it did not."""
    led: bool = True
    """Whether it was run: False if another instance leads."""


class JobStatus(NamedTuple):
    """What an instance knows of a job since it was started."""

    job: str
    leads: bool
    """Whether this instance runs it now."""
    runs: int
    failures: int
    seconds_total: float
    seconds: float
    """Of the last run."""
    done: dict[str, int]
    """How much of what it has done."""
    succeeded_at: float | None
    """When it last ended well: seconds since 1970."""
    error: str | None
    """Of the last run."""
    interval_s: float


class _Session:
    """A connection on which every statement has its time: a server that is gone without a word is noticed."""

    def __init__(self, connection: Any, answered: Callable[[], None]) -> None:
        self._connection = connection
        self._answered = answered
        self.close = connection.close
        self.abort = connection.abort

    def fetch(self, sql: str, *args: Any) -> list[Any]:
        with Deadline(self._connection, 2 * _STEP_S):
            rows: list[Any] = self._connection.fetch(sql, *args)
        self._answered()
        return rows

    def execute(self, sql: str) -> None:
        with Deadline(self._connection, 2 * _STEP_S):
            self._connection.execute(sql)
        self._answered()


class _Entry:
    """A job of a loop, and what is known of it."""

    def __init__(self, job: Job, interval_s: float) -> None:
        self.job = job
        self.interval_s = interval_s
        self.due_at = 0.0
        self.runs = self.failures = 0
        self.seconds_total = self.seconds = 0.0
        self.done: Counter[str] = Counter()
        self.succeeded_at: float | None = None
        self.error: str | None = None
        self.pace = Pace(job.idle_share, interval_s, job.most_wait_s)
        self.again_at = 0.0
        """When Job.run_again is due."""
        self.unreported = 0
        self.reported_at = 0.0
        self.unlogged: Counter[str] = Counter()
        self.logged_at = -math.inf

    def next_at(self) -> float:
        """Return when something is to be run: monotonic."""
        return min(self.due_at, self.again_at)

    def plan(self, report: JobReport, *, is_whole: bool) -> None:
        """Note when to run it again."""
        now = time.monotonic()
        if is_whole:
            if report.error is not None:
                wait_s = self.interval_s
            elif report.result.keys() - {"postponed"}:
                wait_s = min(max(_AGAIN_S, _BUSY_SHARE * report.seconds), self.interval_s)
            else:
                wait_s = self.pace.wait_s(report.seconds)
            self.due_at = now + wait_s
        again_s = self.job.again_s
        self.again_at = math.inf if again_s is None or report.error is not None else now + again_s


class _Loop:
    """Jobs that one session does in turn."""

    def __init__(self, number: int, session_timeout_ms: int, entries: list[_Entry]) -> None:
        self.number = number
        self.session_timeout_ms = session_timeout_ms
        self.entries = entries
        self.leads = False
        self.seen_at = 0.0
        """When the server last answered: monotonic."""
        self.started_at = 0.0
        """When it began: seconds since 1970."""
        self.thread: threading.Thread | None = None

    def answered(self) -> None:
        """Note that the server has answered."""
        self.seen_at = time.monotonic()


class Maintenance:
    """Does what keeps a log small, in threads of its own: what `pgq serve` runs, for inside an application.

    Makes and rolls segments, deletes by retention, compacts, delivers delayed records, removes dead members of groups,
    forgets old markers of flushes. Any number of instances may run; for each kind of job one of them leads, and another
    one takes over within a second when it is killed. Without any, producing and consuming go on, but no space comes
    back.

    Every job works in short transactions of its own, on connections of its own.

    Args:
        dsn: libpq connection string or URL; PGQ_DIRECT_DSN, or else PGQ_DSN, if None. It must lead to the primary, not
            through a pooler, as the role that owns the schema pgq or a member of it.
        segments_interval_ms: how often to look for segments to be made or rolled.
        retention_interval_ms: how often to look for records to be deleted.
        compaction_interval_ms: how often to look for partitions to be compacted.
        delivery_interval_ms: how often to look for delayed records that are due.
        members_interval_ms, markers_interval_ms: how often to look for members and markers to be removed.
    """

    def __init__(
        self,
        dsn: str | None = None,
        *,
        segments_interval_ms: float = 1_000,
        retention_interval_ms: float = 5_000,
        compaction_interval_ms: float = 15_000,
        delivery_interval_ms: float = 250,
        members_interval_ms: float = 10_000,
        markers_interval_ms: float = 60_000,
    ) -> None:
        intervals = {
            "segments_interval_ms": segments_interval_ms,
            "retention_interval_ms": retention_interval_ms,
            "compaction_interval_ms": compaction_interval_ms,
            "delivery_interval_ms": delivery_interval_ms,
            "members_interval_ms": members_interval_ms,
            "markers_interval_ms": markers_interval_ms,
        }
        for name, given in intervals.items():
            if not isinstance(given, int | float) or isinstance(given, bool) or not 1 <= given <= 86_400_000:
                raise errors.InvalidRequestError(f"{name} must be 1 to 86,400,000, not {given!r}")
        self._dsn = dsn
        self._stop = threading.Event()
        self._open: weakref.WeakSet[Any] = weakref.WeakSet()
        """Connections of all jobs."""
        # what is waited for must not keep segments from being made, so these have a session to themselves
        self._loops = [
            _Loop(1, 15_000, [_Entry(Segments(segments_interval_ms / 1000), segments_interval_ms / 1000)]),
            _Loop(
                2,
                15_000,
                [
                    _Entry(Retention(), retention_interval_ms / 1000),
                    _Entry(Members(), members_interval_ms / 1000),
                    _Entry(Markers(), markers_interval_ms / 1000),
                ],
            ),
            # which works for minutes, on sessions of its own besides
            _Loop(3, 600_000, [_Entry(CompactionJob(self._connect_raw), compaction_interval_ms / 1000)]),
            # whose records are due within a second
            _Loop(4, 15_000, [_Entry(Delivery(), delivery_interval_ms / 1000)]),
        ]

    def start(self) -> None:
        """Begin. A server that is not there yet is waited for, by the threads.

        Raises:
            InvalidRequestError: there is no DSN, or it is no connection string.
            SchemaMissingError, SchemaTooOldError, SchemaTooNewError: run `pgq db upgrade`, or upgrade the library.
            UnsupportedPoolerError: the connection goes through a pooler.
            ClusterAuthorizationFailedError: this role may not drop what retention drops.
            IllegalStateError: it has been started before.
        """
        if self._stop.is_set() or any(loop.thread for loop in self._loops):
            raise errors.IllegalStateError("this Maintenance has been started before: make a new one")
        try:
            self._connect(self._loops[0]).close()
        except (errors.BrokerNotAvailableError, errors.NotLeaderError) as error:
            logger.warning("waiting for the leader: %s", error)
        for loop in self._loops:
            loop.answered()
            loop.started_at = time.time()
            name = f"pgq-{loop.entries[0].job.name}"
            loop.thread = threading.Thread(target=self._keep_serving, args=(loop,), name=name, daemon=True)
            loop.thread.start()

    def close(self) -> None:
        """End the step that each job is at, and stop. Another instance takes over. May be called again.

        A step that takes longer than some seconds, as where the server does not answer, is cut off: whoever takes over
        does it again.
        """
        self._stop.set()
        threads = [loop.thread for loop in self._loops if loop.thread is not None]
        if not _joined(threads, _GRACE_S):
            logger.warning("cutting off the steps that have not ended after %g s", _GRACE_S)
            for connection in list(self._open):
                connection.abort()
            _joined(threads, _LEAVE_S)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run_once(self) -> list[JobReport]:
        """Do what is due of every job that no other instance leads, in this thread; return how that went.

        Goes on until nothing is left that can be done now. What others hold for longer than some seconds is left.

        Raises:
            BrokerNotAvailableError, NotLeaderError: the server does not answer, or is a standby.
            As start().
        """
        reports = []
        for loop in self._loops:
            connection = self._connect(loop)
            try:
                led = self._lead(loop, connection)
                for entry in loop.entries:
                    if led:
                        reports.append(self._run(entry, connection, entry.job.run_to_end))
                    else:
                        reports.append(JobReport(entry.job.name, 0.0, {}, None, led=False))
            finally:
                connection.close()
        return reports

    def status(self) -> list[JobStatus]:
        """Return what this instance knows of its jobs."""
        return [
            JobStatus(
                entry.job.name,
                loop.leads,
                entry.runs,
                entry.failures,
                entry.seconds_total,
                entry.seconds,
                dict(entry.done),
                entry.succeeded_at,
                entry.error,
                entry.interval_s,
            )
            for loop in self._loops
            for entry in loop.entries
        ]

    def problems(self, patience_s: float = 2 * _STEP_S + 10) -> list[str]:
        """Return what is wrong with this instance, a sentence each; nothing if it does its work, or stands by.

        Args:
            patience_s: how long a server may be away, and a job may fail.
        """
        result = []
        now = time.monotonic()
        for loop in self._loops:
            name = loop.entries[0].job.name
            if loop.thread is None or not loop.thread.is_alive():
                result.append(f"{name}: not running")
                continue
            # a step of compaction may take long, on sessions of its own
            if (away := now - loop.seen_at) > max(patience_s, loop.session_timeout_ms / 1000):
                result.append(f"{name}: the server has not answered for {away:.0f} s")
            if loop.leads:
                for entry in loop.entries:
                    since = time.time() - (entry.succeeded_at or loop.started_at)
                    if entry.error is not None and since > patience_s + entry.interval_s:
                        result.append(f"{entry.job.name}: {entry.error}")
        return result

    def _connect_raw(self, *settings: str) -> Any:
        connection = connect(direct_dsn(self._dsn), *settings)
        self._open.add(connection)
        return connection

    def _connect(self, loop: _Loop) -> _Session:
        connection = self._connect_raw(*_SETTINGS)
        try:
            if connection.pooled:
                raise errors.UnsupportedPoolerError(
                    "this connection goes through a pooler, and the service needs sessions of its own:"
                    " set PGQ_DIRECT_DSN to the server itself"
                )
            is_standby, owns, owner, user = connection.fetch(_OWNS)[0]
            if is_standby:
                raise errors.NotLeaderError(
                    "this server is a standby: give all servers and target_session_attrs=read-write"
                )
            if not owns:
                raise errors.ClusterAuthorizationFailedError(
                    f"the service has to make and drop tables, and {user} may not: connect as {owner}, or let it be"
                    f" a member (grant {owner} to {user})"
                )
        except BaseException:
            connection.close()
            raise
        return _Session(connection, loop.answered)

    def _keep_serving(self, loop: _Loop) -> None:
        least, most = _RECONNECT_S
        wait_s = least
        while not self._stop.is_set():
            began = time.monotonic()
            connection = None
            try:
                connection = self._connect(loop)
                self._serve(loop, connection)
            except errors.PgqError as error:
                level = logging.DEBUG if self._stop.is_set() else logging.WARNING
                logger.log(level, "%s: %s", loop.entries[0].job.name, " ".join(str(error).split()))
            except Exception:  # a bug of ours is no reason to stop for good
                logger.exception("%s failed", loop.entries[0].job.name)
            finally:
                loop.leads = False
                if connection is not None:
                    connection.close()
            wait_s = least if time.monotonic() - began > most else min(2 * wait_s, most)
            self._stop.wait(wait_s)

    def _serve(self, loop: _Loop, connection: _Session) -> None:
        while not self._stop.is_set():
            leads = self._lead(loop, connection)
            if leads != loop.leads:
                logger.info("%s: %s", loop.entries[0].job.name, "leads" if leads else "stands by")
            loop.leads = leads
            if leads:
                for entry in loop.entries:
                    if entry.next_at() <= time.monotonic() and not self._stop.is_set():
                        is_whole = entry.due_at <= time.monotonic()
                        step = entry.job.run_once if is_whole else entry.job.run_again
                        entry.plan(self._run(entry, connection, step), is_whole=is_whole)
            next_s = min(entry.next_at() for entry in loop.entries) - time.monotonic() if leads else _BEAT_S
            self._stop.wait(max(0.0, min(next_s, _BEAT_S)))

    def _lead(self, loop: _Loop, connection: _Session) -> bool:
        ((leads,),) = connection.fetch(statements.LEAD, loop.number, loop.session_timeout_ms)
        return bool(leads)

    def _run(
        self, entry: _Entry, connection: _Session, step: Callable[[Any, Callable[[], bool]], Counter[str]]
    ) -> JobReport:
        """Run a job, and report it; raise only if the connection is lost."""
        name = entry.job.name
        began = time.monotonic()
        result: Counter[str] = Counter()
        failure: errors.PgqError | None = None
        try:
            result = +step(connection, self._stop.is_set)
        except errors.PgqError as error:
            failure = error
        except Exception as error:  # a bug of ours is told as any failure, and the other jobs go on
            logger.exception("%s failed", name)
            failure = errors.PgqError(f"{type(error).__name__}: {error}")
        seconds = time.monotonic() - began
        problem = None if failure is None else " ".join(str(failure).split())
        entry.runs += 1
        entry.seconds = seconds
        entry.seconds_total += seconds
        entry.done += result
        entry.error = problem
        if failure is None:
            entry.succeeded_at = time.time()
        else:
            entry.failures += 1
            if not self._stop.is_set() or not isinstance(failure, errors.BrokerNotAvailableError):
                logger.warning("%s failed after %.1f s: %s", name, seconds, problem)
        entry.unlogged += Counter({word: count for word, count in result.items() if word not in _EVERYDAY})
        if entry.unlogged and began - entry.logged_at >= _REPORT_EVERY_S:
            logger.info("%s: %s", name, ", ".join(f"{count} {word}" for word, count in entry.unlogged.items()))
            entry.unlogged.clear()
            entry.logged_at = began
        entry.unreported += 1
        if isinstance(failure, errors.BrokerNotAvailableError):
            raise failure
        if failure is not None or began - entry.reported_at >= _REPORT_EVERY_S:
            words = ", ".join(f"{count} {word}" for word, count in result.items()) or "nothing to do"
            report = (name, seconds, None if failure else words, problem, entry.unreported)
            try:
                connection.fetch(statements.REPORT_JOB, *report)
            except errors.BrokerNotAvailableError:
                raise
            except errors.PgqError as error:
                logger.warning("the report of %s failed: %s", name, " ".join(str(error).split()))
            else:
                entry.reported_at = began
                entry.unreported = 0
        return JobReport(name, seconds, dict(result), problem)


def _joined(threads: list[threading.Thread], seconds: float) -> bool:
    """Wait for their end, so long at most in all; return whether they have ended."""
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return not any(thread.is_alive() for thread in threads)
