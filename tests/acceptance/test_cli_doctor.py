"""`pgq doctor`: a database that is well, and one test a fault, which really happens.

Faults of a whole server happen on a server of the test's own.
"""

from __future__ import annotations

import csv
import io
import json
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pgq import Admin, schema
from pgq.config import SCHEMA_VERSION
from pgq.embedded import EmbeddedServer
from pgq.embedded_cluster import EmbeddedCluster
from pgq.schema import checks
from pgq.schema.checks import CHECKS, Limits, Status, judge_version
from pgq.schema.doctor import Finding, examine
from tests.acceptance import test_docs, test_name_clash
from tests.acceptance.test_cli import run
from tests.plugins.sessions import Connection, call, eventually, value

NAMES = ("installation", *(check.__name__ for check, _ in CHECKS))
OK, WARNING, PROBLEM = Status

ours, theirs, environment = test_name_clash.ours, test_name_clash.theirs, test_name_clash.environment

MakeServer = Callable[..., EmbeddedServer]


@pytest.fixture
def make_server(bin_dir: Path, blank_data_dir: Path, server_folder: Path) -> Iterator[MakeServer]:
    """Start a server of the test's own, as `pgq dev` does, but with these settings; the schema is in it."""
    with ExitStack() as stack:

        def make(**settings: str) -> EmbeddedServer:
            past = shutil.ignore_patterns("postmaster.opts", "server.log")
            shutil.copytree(blank_data_dir, server_folder / "data", ignore=past)
            server = EmbeddedServer(server_folder / "data", bin_dir=bin_dir, settings=settings)
            stack.enter_context(server)
            schema.upgrade(server.dsn())
            return server

        yield make


@pytest.fixture
def session() -> Iterator[Callable[[str], Connection]]:
    """Open sessions that are closed after the test, not in autocommit mode."""
    with ExitStack() as stack:
        yield lambda dsn: stack.enter_context(psycopg.connect(dsn))


@pytest.fixture
def powerless_dsn(admin: Connection, admin_dsn: str) -> Iterator[str]:
    """The DSN of the test's own database for a role that nobody has granted anything."""
    name = f"pgq_nobody_{secrets.token_hex(4)}"
    admin.execute(sql.SQL("create role {}").format(sql.Identifier(name)))
    yield make_conninfo(admin_dsn, options=f"-c role={name}")
    admin.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))


def found(dsn: str, check: str, **limits: Any) -> list[Finding]:
    """What one check finds."""
    return examine(dsn, limits=Limits(**limits), skip=set(NAMES) - {check})


def fault(dsn: str, check: str, **limits: Any) -> Finding:
    """The one thing that a check finds; it says what to do."""
    (finding,) = found(dsn, check, **limits)
    assert finding.status is not OK
    assert finding.remedy
    return finding


def is_well(dsn: str, check: str, **limits: Any) -> bool:
    return [finding.status for finding in found(dsn, check, **limits)] == [OK]


# The command


def test_a_fresh_server_is_well(make_server: MakeServer) -> None:
    dsn = make_server().dsn()
    done = run("doctor", "-o", "json", PGQ_DSN=dsn)
    findings = json.loads(done.stdout)
    assert [(f["check"], f["status"], f["remedy"]) for f in findings] == [(name, "ok", None) for name in NAMES]
    assert all(f["finding"] for f in findings)
    assert (done.returncode, done.stderr) == (0, "")
    table = run("doctor", "--dsn", dsn)
    assert (table.returncode, table.stderr) == (0, "")
    assert [line.split()[:2] for line in table.stdout.splitlines()] == [
        ["CHECK", "STATUS"],
        *([name, "ok"] for name in NAMES),
    ]


def test_a_server_that_is_used_is_well(admin_dsn: str, conn: Connection) -> None:
    conn.execute("select pgq.create_topic('orders', 12)")
    conn.execute("select from generate_series(1, 100), pgq.produce('orders', 'v')")
    assert [(f.check, f.status) for f in examine(admin_dsn)] == [(name, OK) for name in NAMES[1:]]


def test_exit_codes_and_csv(admin_dsn: str, conn: Connection, session: Callable[[str], Connection]) -> None:
    value(session(admin_dsn), "select txid_current()")
    done = run("doctor", "--transaction-age", "0", "-o", "csv", PGQ_DSN=admin_dsn)
    assert (done.returncode, done.stderr) == (1, "")
    statuses = {row["check"]: row["status"] for row in csv.DictReader(io.StringIO(done.stdout))}
    assert {name for name, status in statuses.items() if status != "ok"} == {"transactions"}
    skipping = run("doctor", "--transaction-age", "0", "--skip", "transactions", "--skip", "log", PGQ_DSN=admin_dsn)
    assert skipping.returncode == 0
    assert {line.split()[0] for line in skipping.stdout.splitlines()[1:]} == set(NAMES) - {"transactions", "log"}
    conn.execute("drop function pgq.murmur2(bytea)")
    assert run("doctor", "--transaction-age", "0", PGQ_DSN=admin_dsn).returncode == 2


@pytest.mark.parametrize("dsn", ["postgresql://127.0.0.1:1/x", "nonsense=1", ""])
def test_a_server_that_cannot_be_reached_is_a_problem(dsn: str) -> None:
    done = run("doctor", "-o", "json", "--skip", "installation", PGQ_DSN=dsn)
    assert (done.returncode, done.stderr) == (2, "")
    (row,) = json.loads(done.stdout)
    assert (row["check"], row["status"]) == ("server", "problem")
    assert "\n" not in row["finding"]
    assert "PGQ_DSN" in row["remedy"]


@pytest.mark.parametrize("arguments", [["--skip", "nonsense"], ["--nonsense"], ["--transaction-age", "-1"]])
def test_wrong_usage_is_no_problem_of_the_server(arguments: list[str]) -> None:
    done = run("doctor", *arguments)
    assert (done.returncode, done.stdout) == (3, "")


def test_every_check_is_documented() -> None:
    assert tuple(test_docs.table(test_docs.REFERENCE / "cli.md", "Check")) == NAMES


def test_another_package_of_the_name(environment: Any, ours: Path, theirs: Path) -> None:
    environment.install(theirs)
    environment.install(ours)
    done = environment.start("pgq", "doctor", "-o", "json", "--dsn", "postgresql://127.0.0.1:1/x")
    row = json.loads(done.stdout)[0]
    assert (row["check"], row["status"]) == ("installation", "warning")
    assert "pgq 3.8" in row["finding"]
    assert row["remedy"].startswith("run `pip uninstall pgq`, then `pip install")


# How the server is reached


def test_versions() -> None:
    assert judge_version("14.9", 14).status is PROBLEM
    assert [judge_version(f"{major}.1", major) for major in range(15, 19)] == [None] * 4
    assert judge_version("19beta1", 19).status is WARNING


def test_a_database_that_is_read_only(dsn: str, database: str, conn: Connection) -> None:
    conn.execute(sql.SQL("alter database {} set default_transaction_read_only = on").format(sql.Identifier(database)))
    finding = fault(dsn, "server")
    assert finding.status is PROBLEM
    assert "default_transaction_read_only" in finding.remedy


def test_poolers(dsn: str, empty_dsn: str, pooled_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_well(dsn, "pooler")
    monkeypatch.setenv("PGQ_DSN", pooled_dsn)
    alone = {finding.check: finding for finding in examine()}
    assert alone["pooler"].status is WARNING
    assert "PGQ_DIRECT_DSN" in alone["pooler"].remedy
    assert set(alone) == set(NAMES[1:])
    assert {name for name, finding in alone.items() if finding.status is not OK} == {"pooler", "role"}

    monkeypatch.setenv("PGQ_DIRECT_DSN", dsn)
    assert is_well(pooled_dsn, "pooler")
    assert [f.check for f in examine() if f.status is not OK] == ["role"]
    assert is_well(empty_dsn, "pooler")  # which PGQ_DIRECT_DSN does not belong to
    for direct, said in (
        (pooled_dsn, "through a pooler"),
        (empty_dsn, "another server or database"),
        ("postgresql://127.0.0.1:1/x", "not available"),
        ("nonsense=1", "not a connection string"),
    ):
        monkeypatch.setenv("PGQ_DIRECT_DSN", direct)
        finding = fault(pooled_dsn, "pooler")
        assert finding.status is PROBLEM
        assert said in finding.finding


def test_few_connections_are_left(make_server: MakeServer, session: Callable[[str], Connection]) -> None:
    dsn = make_server(max_connections="12").dsn()
    assert is_well(dsn, "connections")
    for _ in range(7):
        session(dsn)
    assert fault(dsn, "connections").finding == "8 of 9 connections are taken"


def test_a_role_that_does_not_see_others(
    dsn: str, admin_dsn: str, powerless_dsn: str, conn: Connection, session: Callable[[str], Connection]
) -> None:
    """It is told that it sees nothing of them, and nothing is made up."""
    value(session(admin_dsn), "select txid_current()")
    assert fault(admin_dsn, "transactions", transaction_s=0).status is WARNING
    assert is_well(dsn, "transactions", transaction_s=0)
    for each in (dsn, powerless_dsn):
        finding = fault(each, "role")
        assert finding.status is WARNING
        assert "not visible to this role" in finding.finding
        assert finding.remedy.startswith("grant pg_monitor to ")
    assert is_well(admin_dsn, "role")


# The schema and the log


def test_no_schema(empty_dsn: str) -> None:
    finding = fault(empty_dsn, "schema")
    assert (finding.status, finding.finding) == (PROBLEM, "this database has no schema pgq")
    assert "pgq db upgrade" in finding.remedy
    names = [finding.check for finding in examine(empty_dsn)]
    assert names == [name for name in NAMES[1:] if name in names]
    assert {"server", "pooler", "transactions", "slots", "wraparound"} <= set(names)
    assert not {"log", "producers", "vacuum", "maintenance"} & set(names)


def test_a_foreign_schema(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        conn.execute("create schema pgq; create table pgq.queue ()")
    finding = fault(empty_dsn, "schema")
    assert finding.status is PROBLEM
    assert "Skytools" in finding.finding
    assert finding.remedy == "choose another database, or rename that schema"


@pytest.mark.parametrize("revision, remedy", [("0001", "run `pgq db upgrade`"), ("9999", "upgrade pgq-log")])
def test_another_revision(dsn: str, conn: Connection, revision: str, remedy: str) -> None:
    conn.execute("update pgq.alembic_version set version_num = %s", [revision])
    finding = fault(dsn, "schema")
    assert (finding.status, finding.remedy) == (PROBLEM, remedy)
    assert revision in finding.finding
    assert SCHEMA_VERSION in finding.finding
    assert not found(dsn, "log")


def test_a_role_without_rights(powerless_dsn: str, conn: Connection) -> None:
    finding = fault(powerless_dsn, "schema")
    assert finding.status is WARNING
    assert "not visible to this role" in finding.finding
    assert "owner of schema pgq" in finding.remedy
    assert not found(powerless_dsn, "log")

    conn.execute("grant usage on schema pgq to public; grant execute on function pgq.schema_version() to public")
    finding = fault(powerless_dsn, "schema")
    assert finding.status is WARNING
    assert finding.finding.startswith(f"revision {SCHEMA_VERSION}; whether")
    for check in ("log", "maintenance", "durability", "producers", "locks"):
        finding = fault(powerless_dsn, check)
        assert finding.status is WARNING
        assert "not visible to this role" in finding.finding


def test_a_role_for_monitoring(make_server: MakeServer) -> None:
    dsn = make_server().dsn()
    schema.create_roles(dsn)
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("create role watcher in role pg_monitor, pgq_admin")
        conn.execute("select pgq.create_topic('orders')")
    watching = make_conninfo(dsn, options="-c role=watcher")
    assert [finding.check for finding in examine(watching) if finding.status is not OK] == ["schema"]
    assert [finding.check for finding in examine(watching, skip=["schema"])] == [n for n in NAMES[1:] if n != "schema"]


def test_the_server_goes_away(make_server: MakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server = make_server()
    monkeypatch.setattr(checks, "sql", lambda: server.stop() or "")  # which the check of the schema calls
    last = examine(server.dsn())[-1]
    assert (last.check, last.status) == ("log", PROBLEM)
    assert "not available" in last.finding


def test_a_function_is_missing(dsn: str, conn: Connection) -> None:
    assert is_well(dsn, "schema")
    conn.execute("drop function pgq.murmur2(bytea)")
    finding = fault(dsn, "schema")
    assert finding == ("schema", PROBLEM, "function pgq.murmur2(bytea) is missing", "run `pgq db upgrade`")


def test_a_check_that_fails_does_not_keep_the_others(dsn: str, conn: Connection) -> None:
    conn.execute("drop function pgq.maintenance_due(interval)")
    finding = fault(dsn, "maintenance")
    assert finding.status is PROBLEM
    assert "pgq.maintenance_due" in finding.finding
    assert is_well(dsn, "vacuum")


def test_nobody_waits_for_somebody_elses_lock(dsn: str, conn: Connection) -> None:
    with conn.transaction():
        conn.execute("lock table pgq.partition in access exclusive mode")
        finding = fault(dsn, "log", lock_timeout_ms=10)
    assert finding.status is WARNING
    assert "lock timeout" in finding.finding
    assert "pg_locks" in finding.remedy


def test_a_sequence_with_a_cache_and_a_missing_trigger(dsn: str, conn: Connection) -> None:
    conn.execute("select pgq.create_topic('orders')")
    assert is_well(dsn, "log")
    topic_id = value(conn, "select topic_id from pgq.topic")
    conn.execute(f"alter sequence pgq_log.t{topic_id}_p0_offset cache 20")
    conn.execute(f"drop trigger append_rule on pgq_log.t{topic_id}")
    trigger, sequence = found(dsn, "log")
    assert (trigger.status, sequence.status) == (PROBLEM, PROBLEM)
    assert trigger.finding.startswith("topic orders, ")
    assert trigger.remedy.startswith("create trigger append_rule")
    assert sequence.finding == f"topic orders, partition 0: the sequence pgq_log.t{topic_id}_p0_offset has cache 20"
    assert f"alter sequence pgq_log.t{topic_id}_p0_offset" in sequence.remedy


def test_what_the_service_has_not_done(dsn: str, conn: Connection) -> None:
    for group in ("a", "b"):
        with psycopg.connect(dsn, autocommit=True) as member:
            call(member, "join_group", group_id=group, topics=["orders"])
    assert is_well(dsn, "maintenance")  # there is still time
    eventually(lambda: not is_well(dsn, "maintenance", overdue_s=0))
    finding = fault(dsn, "maintenance", overdue_s=0)
    assert finding.status is WARNING
    assert finding.finding.startswith(
        "the job members has never been done: group a: sessions that have ended have left 1 member"
    )
    assert finding.finding.endswith("; and 1 more")
    assert "pgq serve" in finding.remedy


def test_records_that_should_have_been_deleted(dsn: str, conn: Connection) -> None:
    conn.execute("select pgq.create_topic('orders', 2, '{\"retention.ms\": 1}')")
    conn.execute("select from pgq.produce('orders', 'v', partition => 1)")
    eventually(lambda: not is_well(dsn, "maintenance", overdue_s=0))
    finding = fault(dsn, "maintenance", overdue_s=0)
    assert finding.finding.startswith("the job retention has never been done: ")
    assert finding.finding.endswith(" (topic orders, partition 1)")


# Durability


def test_a_cluster(cluster: EmbeddedCluster, session: Callable[[str], Connection]) -> None:
    dsn, leader = cluster.leader.dsn("app"), cluster.leader
    name, server = next(iter(cluster.followers.items()))
    follower = server.dsn("app")
    assert [(f.check, f.status) for f in examine(dsn)] == [(name, OK) for name in NAMES[1:]]
    assert "every record is on 2 servers" in found(dsn, "durability")[0].finding

    standby = {finding.check: finding for finding in examine(follower)}
    assert list(standby) == ["server", "pooler", "connections", "role", "schema"]
    assert standby.pop("server").status is WARNING
    assert {finding.status for finding in standby.values()} == {OK}

    # a query on a follower keeps what is deleted on the leader
    looking = session(follower)
    looking.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    value(looking, "select count(*) from pgq.topic")
    with psycopg.connect(leader.dsn("app"), autocommit=True) as conn:
        for _ in range(3):
            value(conn, "select txid_current()")
        conn.execute("select pgq.create_topic('orders', 1, '{\"min.insync.replicas\": 2}')")
    eventually(lambda: any(f"follower {name} keeps" in f.finding for f in found(dsn, "slots", slot_xids=2)))
    assert {finding.status for finding in found(dsn, "slots", slot_xids=2)} == {WARNING}
    looking.close()

    with psycopg.connect(leader.dsn("app"), autocommit=True) as conn:
        conn.execute("revoke pg_read_all_stats from pgq_app")
        finding = fault(dsn, "durability")
        assert (finding.status, finding.finding.startswith("The owner of schema pgq")) == (WARNING, True)
        conn.execute("grant pg_read_all_stats to pgq_app")
    for server in cluster.followers.values():
        server.stop()
    eventually(lambda: not is_well(dsn, "durability"))
    eventually(lambda: len(found(dsn, "durability")) == 2 and "Only 0" in found(dsn, "durability")[0].finding)
    waits, refused = found(dsn, "durability")
    assert (waits.status, refused.status) == (PROBLEM, PROBLEM)
    assert "topic orders" in refused.finding
    assert "min.insync.replicas" in refused.remedy
    assert run("doctor", PGQ_DSN=dsn).returncode == 2


def test_more_replicas_are_asked_for_than_there_are(dsn: str, conn: Connection) -> None:
    assert is_well(dsn, "durability")
    conn.execute("select pgq.create_topic('orders', 1, '{\"min.insync.replicas\": 2}')")
    finding = fault(dsn, "durability")
    assert (finding.status, "topic orders" in finding.finding) == (PROBLEM, True)


def test_settings_that_risk_the_data(make_server: MakeServer) -> None:
    dsn = make_server().dsn()
    with psycopg.connect(dsn, autocommit=True) as boss:
        for setting in ("fsync", "full_page_writes", "synchronous_commit"):
            boss.execute(f"alter system set {setting} = off")
        boss.execute("select pg_reload_conf()")
        eventually(lambda: len(found(dsn, "durability")) == 3)
    findings = found(dsn, "durability")
    assert [(f.status, f.finding.split()[0]) for f in findings] == [
        (PROBLEM, "fsync"),
        (PROBLEM, "full_page_writes"),
        (WARNING, "synchronous_commit"),
    ]
    assert all(finding.remedy for finding in findings)


def test_commits_that_do_not_wait_in_one_database(dsn: str, database: str, conn: Connection) -> None:
    conn.execute(sql.SQL("alter database {} set synchronous_commit = off").format(sql.Identifier(database)))
    finding = fault(dsn, "durability")
    assert (finding.status, "(set by: database)" in finding.finding) == (WARNING, True)


# What holds others up


def test_an_open_transaction_with_a_snapshot(dsn: str, session: Callable[[str], Connection]) -> None:
    assert is_well(dsn, "transactions", transaction_s=0)
    first, second = session(make_conninfo(dsn, application_name="report")), session(dsn)
    first.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    value(first, "select count(*) from pgq.topic")
    second.execute("lock table pgq.topic in access share mode")
    assert is_well(dsn, "transactions")  # there is still time
    finding = fault(dsn, "transactions", transaction_s=0)
    pid = first.info.backend_pid
    assert finding.status is WARNING
    assert finding.finding.startswith(f"a transaction of session {pid} (report, role {first.info.user}; idle in")
    assert finding.finding.endswith(" s and holds up vacuum; and 1 more")
    assert f"select pg_terminate_backend({pid})" in finding.remedy
    first.close()
    assert "its locks" in fault(dsn, "transactions", transaction_s=0).finding


def test_a_prepared_transaction(dsn: str, conn: Connection, session: Callable[[str], Connection]) -> None:
    conn.execute("select pgq.create_topic('orders')")
    preparing = session(dsn)
    preparing.execute("select from pgq.produce('orders', 'v')")
    preparing.execute("prepare transaction 'forgotten'")
    finding = fault(dsn, "transactions", transaction_s=0)
    assert finding.status is WARNING
    assert "prepared transaction 'forgotten'" in finding.finding
    assert "rollback prepared 'forgotten'" in finding.remedy
    finding = fault(dsn, "producers", producer_s=0)
    assert finding.finding.startswith("the prepared transaction 'forgotten' has held up the readers of topic orders,")
    assert "terminate" not in finding.remedy
    conn.execute("rollback prepared 'forgotten'")
    assert is_well(dsn, "producers", producer_s=0)


def test_an_open_producer(dsn: str, admin_dsn: str, conn: Connection, session: Callable[[str], Connection]) -> None:
    conn.execute("select pgq.create_topic('orders', 3)")
    producing = session(make_conninfo(dsn, application_name="slow"))
    for partition in range(3):
        producing.execute("select from pgq.produce('orders', 'v', partition => %s)", [partition])
    assert is_well(dsn, "producers")  # there is still time
    finding = fault(dsn, "producers", producer_s=0)
    pid = producing.info.backend_pid
    assert finding.status is WARNING
    assert finding.finding.startswith(
        f"a transaction of session {pid} (slow) has held up the readers of topic orders, partition 0 and 2 more for"
    )
    assert f"pg_terminate_backend({pid})" in finding.remedy
    producing.rollback()
    hidden = session(admin_dsn)
    hidden.execute("select from pgq.produce('orders', 'v')")
    finding = fault(dsn, "producers")
    assert "not visible to the owner" in finding.finding
    assert finding.remedy.startswith("grant pg_read_all_stats")


def test_slots(make_server: MakeServer) -> None:
    dsn = make_server(wal_level="logical").dsn()
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("select pg_create_logical_replication_slot('changes', 'pgoutput')")
        conn.execute("select pg_create_physical_replication_slot('standby', true)")
        for _ in range(5):
            conn.execute("create table t (); drop table t")
        assert is_well(dsn, "slots")
        keeps_rows, keeps_wal, more_wal = found(dsn, "slots", slot_xids=3, slot_bytes=0)
        assert {keeps_rows.status, keeps_wal.status} == {WARNING}
        assert "slot changes keeps deleted rows of the last" in keeps_rows.finding
        assert "slot changes has no reader" in keeps_wal.finding
        assert "slot standby has no reader" in more_wal.finding
        assert "pg_drop_replication_slot('standby')" in more_wal.remedy


# What wears out


def test_autovacuum_is_off(make_server: MakeServer) -> None:
    dsn = make_server(autovacuum="off", track_counts="off").dsn()
    assert [(f.status, f.finding.partition(":")[0]) for f in found(dsn, "vacuum")] == [
        (PROBLEM, "autovacuum is off"),
        (PROBLEM, "track_counts is off"),
    ]


def test_autovacuum_is_off_for_a_table(dsn: str, conn: Connection) -> None:
    conn.execute("alter table pgq.committed_offset set (autovacuum_enabled = off)")
    finding = fault(dsn, "vacuum")
    assert finding.finding == "autovacuum is off for table pgq.committed_offset"
    conn.execute(finding.remedy)
    assert is_well(dsn, "vacuum")


def test_dead_rows(dsn: str, conn: Connection) -> None:
    for _ in range(3):
        conn.execute("update pgq.topic_config set minimum = minimum")
    conn.execute("select pg_stat_force_next_flush()")
    eventually(lambda: not is_well(dsn, "vacuum", dead_rows=5))
    finding = fault(dsn, "vacuum", dead_rows=5)
    assert finding.status is WARNING
    assert finding.finding.startswith("table pgq.topic_config has ")
    assert is_well(dsn, "vacuum")


def test_dead_rows_of_the_catalog(dsn: str, conn: Connection) -> None:
    """Segments come and go."""
    columns = ", ".join(f"c{n} int" for n in range(500))
    for _ in range(20):
        conn.execute(f"create table public.passing ({columns})")
        conn.execute("drop table public.passing")
    conn.execute("select pg_stat_force_next_flush()")
    eventually(lambda: not is_well(dsn, "vacuum", dead_rows=5000))
    finding = fault(dsn, "vacuum", dead_rows=5000)
    assert finding.status is WARNING
    assert finding.finding.startswith("table pg_attribute has 10,")
    assert "vacuum (verbose) pg_attribute" in finding.remedy
    assert is_well(dsn, "vacuum")


def test_transaction_ids_are_not_given_back(make_server: MakeServer, session: Callable[[str], Connection]) -> None:
    """An open transaction keeps the ids of 160,000 that have ended, although autovacuum may let 100,000 become old."""
    dsn = make_server(autovacuum_freeze_max_age="100000").dsn()
    assert is_well(dsn, "wraparound")
    burning = session(dsn)
    burning.execute("create temporary table t (n int)")
    burning.execute(
        "do $$ begin for n in 1 .. 160000 loop begin insert into t values (n); exception when others"
        " then null; end; end loop; end $$"
    )
    finding = fault(dsn, "wraparound")
    assert finding.status is WARNING
    assert "from 100,000 on" in finding.finding


def test_the_lock_table_is_small(make_server: MakeServer, session: Callable[[str], Connection]) -> None:
    dsn = make_server(max_connections="20").dsn()
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("select pgq.create_topic('small', 12)")
        assert is_well(dsn, "locks")
    with Admin(dsn) as administrator:
        administrator.create_topic("large", partitions=100)
    finding = fault(dsn, "locks")
    assert finding.status is WARNING
    assert finding.finding.startswith("4 producers that append to all 100 partitions of topic large")
    assert "max_locks_per_transaction = 128" in finding.remedy
    query, _ = found(dsn, "locks", locks=0.2)
    assert query.finding.startswith("a query of pgq_topic.large without a condition takes some ")
    # 112 partitions, at the end: two locks each
    *_, last = found(dsn, "locks", locks=0.17)
    assert last.finding.startswith("a group that reads all 112 partitions takes some 224 locks of about 1,280")
    assert "max_locks_per_transaction = 128" in last.remedy
    taking = session(dsn)
    for n in range(700):
        taking.execute("select pg_advisory_xact_lock(%s)", [n])
    taken, _ = found(dsn, "locks")
    assert taken.finding.startswith("70")
    assert "pg_locks" in taken.remedy


def test_the_lock_table_is_full(make_server: MakeServer, session: Callable[[str], Connection]) -> None:
    dsn = make_server(max_connections="20", max_locks_per_transaction="10").dsn()
    with psycopg.connect(dsn, autocommit=True) as conn:
        for n in range(10):
            conn.execute("select pgq.create_topic(%s, 3)", [f"t{n}"])
    taking = session(dsn)
    taking.autocommit = True
    with pytest.raises(psycopg.errors.OutOfMemory):
        taking.execute("select pg_advisory_lock(n) from generate_series(1, 10000) n")
    # enough for a session to begin
    taking.execute("select pg_advisory_unlock(n) from generate_series(1, 50) n")
    findings = [f for f in examine(dsn) if "could not be looked at" in f.finding]
    assert findings
    assert {f.status for f in findings} == {PROBLEM}
    assert all("raise max_locks_per_transaction" in f.remedy for f in findings if f.remedy)
