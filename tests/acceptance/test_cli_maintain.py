"""`pgq maintain --once` as cron runs it: what it prints, its exit codes, what it leaves to an instance that leads."""

from __future__ import annotations

import csv
import io
import json

import pgq
from pgq import Admin, Producer
from tests.acceptance.test_cli import refusal, run
from tests.plugins.sessions import Connection, eventually, value

JOBS = [status.job for status in pgq.Maintenance("").status()]


def once(dsn: str) -> dict[str, dict[str, object]]:
    done = run("maintain", "--once", "-o", "json", PGQ_DSN=dsn)
    assert (done.returncode, done.stderr) == (0, "")
    return {row["job"]: row for row in json.loads(done.stdout)}


def test_it_does_what_is_due(dsn: str, conn: Connection) -> None:
    with Admin(dsn) as admin, Producer(dsn) as producer:
        admin.create_topic("orders", config={"retention.ms": 1})
        producer.send_and_wait("orders", b"x", timestamp_ms=1)
    reports = once(dsn)
    assert list(reports) == JOBS
    assert all(row["led"] and row["error"] is None for row in reports.values())
    assert reports["retention"]["result"]
    assert value(conn, "select log_start_offset > 0 and records = 0 from pgq.partition_status")
    assert value(conn, "select count(*) from pgq.job_status") == len(JOBS)

    done = run("maintain", "--once", PGQ_DSN=dsn)
    assert (done.returncode, done.stderr) == (0, "")
    header, *lines = done.stdout.splitlines()
    assert header.split() == ["JOB", "RESULT", "SECONDS", "ERROR"]
    assert [line.split()[0] for line in lines] == JOBS
    assert all("nothing to do" in line for line in lines)
    table = list(csv.DictReader(io.StringIO(run("maintain", "--once", "-o", "csv", PGQ_DSN=dsn).stdout)))
    assert [(row["job"], row["result"], row["error"]) for row in table] == [(job, "nothing to do", "") for job in JOBS]


def test_another_instance_leads(dsn: str) -> None:
    with pgq.Maintenance(dsn) as maintenance:
        eventually(lambda: all(status.leads for status in maintenance.status()))
        done = run("maintain", "--once", PGQ_DSN=dsn)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.count("another instance leads") == len(JOBS)
        assert not any(row["led"] for row in once(dsn).values())


def test_a_job_that_fails(dsn: str, watcher: Connection) -> None:
    watcher.execute(
        "create or replace function pgq._remove_dead_members() returns int language plpgsql as"
        " $$ begin raise exception 'out of order'; end $$"
    )
    done = run("maintain", "--once", PGQ_DSN=dsn)
    assert (done.returncode, done.stderr) == (1, "")
    lines = {line.split()[0]: line for line in done.stdout.splitlines()[1:]}
    assert "out of order" in lines.pop("members")
    assert all("nothing to do" in line for line in lines.values())


def test_the_loop_is_another_command(dsn: str) -> None:
    done = run("maintain", PGQ_DSN=dsn)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--once" in done.stderr
    assert "pgq serve" in done.stderr


def test_wrong_settings_are_one_sentence(empty_dsn: str) -> None:
    assert "PGQ_DSN" in refusal("maintain", "--once")
    assert "pgq db upgrade" in refusal("maintain", "--once", PGQ_DSN=empty_dsn)
    assert "is not available" in refusal("maintain", "--once", PGQ_DSN="host=127.0.0.1 port=1 connect_timeout=2")
