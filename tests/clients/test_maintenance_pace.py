"""How soon the service does what is due: though looks are slow, partitions grow fast, and others are in the way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

import pgq
from pgq import Maintenance
from pgq.schema.checks import CHECKS, Limits
from pgq.schema.doctor import examine
from pgq.service import jobs
from tests.plugins.proxy import Proxy
from tests.plugins.sessions import Connection, call, eventually, rows, value

from .test_maintenance import fill, log_start, make, once, open_transaction, segments, small_segments

__all__ = ["small_segments"]

Connect = Callable[[], Connection]


def runs(maintenance: Maintenance, job: str) -> int:
    return {status.job: status.runs for status in maintenance.status()}[job]


def held_since(conn: Connection) -> object:
    return value(conn, "select pgq._held_since('pgq_log.t1_p0')")


def droppable(conn: Connection) -> int:
    return int(value(conn, "select count(*) from pgq._droppable()"))


@pytest.mark.parametrize(
    "looks, wait_s",
    [
        pytest.param([0.001], 0.25, id="cheap"),
        pytest.param([5.0, 0.001], 0.25, id="the first look is cold"),
        pytest.param([0.005] * 4, 0.5, id="a hundred times as long"),
        pytest.param([0.001, 0.001, 5.0], 0.25, id="slow once"),
        pytest.param([5.0] * 9, 0.8, id="not for ever"),
    ],
)
def test_an_idle_job_waits(looks: list[float], wait_s: float) -> None:
    pace = jobs.Pace(100, 0.25, 0.8)
    assert [pace.wait_s(seconds) for seconds in looks][-1] == wait_s


def test_one_slow_look_delays_nothing(dsn: str, conn: Connection, connect: Connect) -> None:
    """Delayed records are delivered within a second of their time."""
    make(conn)
    conn.execute("select pgq.produce_delayed('orders', 'later', clock_timestamp() + interval '1 hour')")
    with Maintenance(dsn) as maintenance:
        eventually(lambda: runs(maintenance, "delivery") > 3)
        with open_transaction(connect(), "lock table pgq.delivery in access exclusive mode"):
            done = runs(maintenance, "delivery")
            threading.Event().wait(1.5)
        eventually(lambda: runs(maintenance, "delivery") > done)
        conn.execute("select pgq.produce_delayed('orders', 'due', clock_timestamp() + interval '0.5 s')")
        began = time.monotonic()
        eventually(lambda: value(conn, "select pgq.high_watermark('orders', 0)") == 1)
        assert time.monotonic() - began < 0.5 + 1.0


def test_partitions_that_grow_are_looked_at_between_two_looks_at_all(dsn: str, conn: Connection) -> None:
    make(conn, retention_bytes=200_000)
    with Maintenance(dsn, retention_interval_ms=600_000) as maintenance:
        eventually(lambda: runs(maintenance, "retention") > 0)
        start = 0
        for _ in range(3):
            fill(conn, 600)
            eventually(lambda: log_start(conn) > start and droppable(conn) == 0, 5.0)  # noqa: B023
            start = log_start(conn)


def test_partitions_that_grow_get_segments_between_two_looks_at_all(dsn: str, conn: Connection) -> None:
    make(conn)
    with Maintenance(dsn, segments_interval_ms=1000) as maintenance:
        # as where there are many partitions, and a look at all of them takes long
        (entry,) = maintenance._loops[0].entries
        eventually(lambda: 0 < entry.again_at < entry.due_at + 60)
        entry.due_at = time.monotonic() + 600
        conn.execute("select pgq.produce('orders', 'x') from generate_series(1, 2500)")
        eventually(lambda: len(segments(conn)) > 1, 5.0)


def backlog(conn: Connection, count: int) -> None:
    """So many segments, of which all but the last ones can go."""
    make(conn, segment_bytes=1)
    for _ in range(count):
        conn.execute("select pgq.produce('orders', 'x')")
        while value(conn, "select pgq.upkeep(partition_id, 200) from pgq.partition") in ("made", "rolled"):
            pass
    call(conn, "delete_records", topic="orders", partition=0, offset=-1)


def test_one_run_for_cron_drops_all(dsn: str, conn: Connection) -> None:
    """More than one look at what can be dropped names."""
    backlog(conn, 45)
    assert once(dsn)["retention"]["dropped"] > 40
    assert droppable(conn) == 0


def test_one_run_for_cron_waits_for_producers(dsn: str, conn: Connection, connect: Connect) -> None:
    """A roll waits longer and longer, since nobody comes back soon: here longer than it would at first."""
    make(conn, retention_bytes=1, segment_ms=1)
    ending = threading.Event()

    def produce(session: Connection) -> None:
        while not ending.is_set():
            with session.transaction():
                session.execute("select pgq.produce('orders', 'x')")
                ending.wait(0.06)

    conn.execute("select pgq.produce('orders', 'x', \"timestamp\" => clock_timestamp() - interval '1 hour')")
    threads = [threading.Thread(target=produce, args=(connect(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: value(conn, "select count(*) from pgq_topic.orders") > 3)
        assert once(dsn)["retention"]["rolled"] >= 1
    finally:
        ending.set()
        for thread in threads:
            thread.join()


@contextmanager
def overlapping_readers(connect: Connect, seconds: float) -> Iterator[None]:
    """Transactions that read a topic's view, of which there is always one."""
    ending = threading.Event()
    reading = threading.Barrier(3)

    def read(session: Connection, delay_s: float) -> None:
        ending.wait(delay_s)
        first = True
        while not ending.is_set():
            with session.transaction():
                session.execute("select count(*) from pgq_topic.orders")
                if first:
                    reading.wait(20)
                first = False
                ending.wait(seconds)

    threads = [threading.Thread(target=read, args=(connect(), delay)) for delay in (0.0, seconds / 2)]
    for thread in threads:
        thread.start()
    reading.wait(20)
    try:
        yield
    finally:
        ending.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("pending", [False, True])
def test_readers_that_overlap_do_not_keep_segments_for_ever(
    dsn: str, conn: Connection, connect: Connect, monkeypatch: pytest.MonkeyPatch, pending: bool
) -> None:
    monkeypatch.setattr(jobs, "_PATIENCE_S", 0.5)
    monkeypatch.setattr(jobs, "_YOUNG_S", 0.2)
    monkeypatch.setattr(jobs, "_STUBBORN_S", 1.5)
    make(conn)
    fill(conn, 300)
    if pending:
        conn.execute("set statement_timeout = '100ms'")
        with open_transaction(connect(), "select pgq.produce('orders', 'x')"), pytest.raises(Exception, match="cancel"):
            conn.execute("alter table pgq_log.t1_p0 detach partition pgq_log.t1_p0_s0 concurrently")
        conn.execute("reset statement_timeout")
    with overlapping_readers(connect, 2.0):
        call(conn, "delete_records", topic="orders", partition=0, offset=-1)
        before = droppable(conn)
        with Maintenance(dsn, retention_interval_ms=100) as maintenance:
            eventually(lambda: held_since(conn) is not None)
            eventually(lambda: droppable(conn) < before)
            assert {s.job: s.failures for s in maintenance.status()}["retention"] == 0
            # others do not wait for what is waited for
            conn.execute("set lock_timeout = '700ms'")
            for _ in range(20):
                conn.execute("select pgq.produce('orders', 'x')")
                conn.execute("select count(*) from pgq_topic.orders")
    assert once(dsn)["retention"].get("postponed") is None
    assert droppable(conn) == 0
    assert rows(conn, "select * from pgq.check_log()") == []


def test_cron_remembers_what_was_held(
    dsn: str, conn: Connection, connect: Connect, watcher: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time in another process: the catalog says it."""
    monkeypatch.setattr(jobs, "_PATIENCE_S", 1.5)
    make(conn)
    fill(conn, 300)
    with overlapping_readers(connect, 1.5):
        call(conn, "delete_records", topic="orders", partition=0, offset=-1)
        assert once(dsn)["retention"] == {"postponed": 1}
        since = held_since(conn)
        assert since is not None
        monkeypatch.setattr(jobs, "_STUBBORN_S", -1.0)
        before = droppable(conn)
        assert once(dsn)["retention"]["dropped"] > 0
        assert droppable(conn) < before
    once(dsn)
    assert droppable(conn) == 0
    once(dsn)
    assert held_since(conn) is None


def test_doctor_hears_of_segments_that_are_held(
    dsn: str, conn: Connection, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the job runs and fails at nothing."""
    monkeypatch.setattr(jobs, "_PATIENCE_S", 0.3)
    make(conn)
    fill(conn, 300)
    session = connect()
    with (
        Maintenance(dsn, retention_interval_ms=100),
        open_transaction(session, "declare c cursor for select * from pgq_topic.orders", "fetch 1 from c"),
    ):
        call(conn, "delete_records", topic="orders", partition=0, offset=-1)
        due = "select job, topic, partition, finding from pgq.maintenance_due(%s)"
        found: list[tuple[str, str, int, str]] = []

        def run_just_now() -> None:
            """As the job reports itself, but for the seconds between two reports."""
            conn.execute("update pgq.job set succeeded_at = clock_timestamp() where job = 'retention'")

        def told() -> bool:
            run_just_now()
            found[:] = rows(conn, due, "1 second")
            return any("could not be dropped for 00:00:" in row[-1] for row in found)

        eventually(told)
        ((job, topic, partition, finding),) = found
        assert (job, topic, partition) == ("retention", "orders", 0)
        assert finding.endswith(f", because of session {session.info.backend_pid} (no name)")
        assert rows(conn, due, "1 hour") == []
        checks = {check.__name__ for check, _ in CHECKS} - {"maintenance"}

        def held_up() -> bool:
            run_just_now()
            findings = examine(dsn, limits=Limits(overdue_s=1), skip=checks)
            return any("the job retention is held up" in finding.finding for finding in findings)

        eventually(held_up)
        session.execute("close c; rollback; begin")
        eventually(lambda: droppable(conn) == 0 and held_since(conn) is None)
        assert rows(conn, due, "0") == []


def test_it_stops_soon_though_the_server_does_not_answer(dsn: str, conn: Connection, proxy: Proxy) -> None:
    make(conn)
    maintenance = Maintenance(proxy.dsn(dsn))
    with maintenance:
        eventually(lambda: all(status.runs for status in maintenance.status()))
        proxy.open.clear()
        threading.Event().wait(1.5)  # all are at some step
        began = time.monotonic()
        maintenance.close()
        assert time.monotonic() - began < 10.0
    assert not any(loop.thread is not None and loop.thread.is_alive() for loop in maintenance._loops)


def test_a_step_that_takes_long_is_cut_off(
    dsn: str, conn: Connection, connect: Connect, watcher: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgq.service.maintenance._GRACE_S", 0.5)
    make(conn)
    with pgq.Maintenance(dsn) as maintenance:
        eventually(lambda: all(status.leads for status in maintenance.status()))
        with open_transaction(connect(), "lock table pgq.group_member in access exclusive mode"):
            began = time.monotonic()
            maintenance.close()
            assert time.monotonic() - began < 4.0
    assert {r.job for r in pgq.Maintenance(dsn).run_once() if r.led} >= {"segments"}
