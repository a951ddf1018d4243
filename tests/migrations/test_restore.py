"""A copy of a log is a log: dumped and restored, upgraded in place, or copied table by table and mended.

Everything runs as the ordinary role that owns the database, but for what is said to take a superuser.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event
from typing import Any

import psycopg
import pytest
from psycopg import sql

from pgq import schema
from pgq.embedded import EmbeddedServer, EmbeddedServerError, find_binaries
from scripts.dump_schema import dump
from tests.plugins.postgres import APPLICATION, SETTINGS, Server
from tests.plugins.sessions import Connection, call, eventually, rows, value

SCHEMAS = ("-n", "pgq", "-n", "pgq_log", "-n", "pgq_topic")
MEBIBYTE = 1_048_576

# Everything that readers and groups can tell apart.
CONTENTS = {
    "records": "select tableoid::regclass::text, r.* from pgq_log.t1 r",
    "wide records": "select tableoid::regclass::text, r.* from pgq_log.t2 r",
    "topics": "select t.* from pgq.topic t",
    "partitions": "select partition_id, topic_id, partition, sequence::text, log_start_offset from pgq.partition",
    "segments": "select s.* from pgq.segment s",
    "skipped ranges": "select r.* from pgq.skipped_range r",
    "groups": "select g.* from pgq.consumer_group g",
    "commits": "select c.* from pgq.committed_offset c",
    "next offsets": "select partition_id, pgq._next_offset(sequence) from pgq.partition",
}

IDENTITIES = (
    "committed_offset_serial_seq",
    "consumer_group_consumer_group_id_seq",
    "partition_partition_id_seq",
    "topic_topic_id_seq",
)


def run(*command: str | Path, text: str | None = None, **options: Any) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PG")}
    done = subprocess.run(command, input=text, env=environment, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def fill(conn: Connection) -> None:
    """Topic orders with all that a log can hold: segments, rolled-back offsets, a roll, commits, a log start, configs;
    topic wide with five partitions, of which one is empty and one has only rolled-back offsets at its end."""
    call(conn, "create_topic", name="orders", config=f'{{"segment.bytes": {MEBIBYTE}}}')
    call(conn, "create_topic", name="wide", partitions=5)
    call(conn, "produce_batch", topic="orders", values=[os.urandom(100_000)] * 20)
    upkeep = "select pgq.upkeep(partition_id) from pgq.partition where topic_id = 1"
    assert [value(conn, upkeep) for _ in range(3)] == ["made", "rolled", "done"]
    call(conn, "produce", topic="orders", value=b"after the roll", key=b"k", header_keys=["h"], header_values=[b"\x00"])
    for partition in range(4):
        count = 5000 if partition == 1 else 10
        call(conn, "produce_batch", topic="wide", values=[b"v"] * count, partitions=[partition] * count)
    with conn.transaction(force_rollback=True):
        call(conn, "produce_batch", topic="wide", values=[b"lost"] * 7, partitions=[2] * 7)
    call(conn, "produce", topic="wide", value=b"after a hole", partition=2)
    with conn.transaction(force_rollback=True):
        call(conn, "produce_batch", topic="wide", values=[b"lost"] * 7, partitions=[3] * 7)
    call(conn, "delete_records", topic="wide", partition=1, offset=1000)
    for offset in (5, 9):
        conn.execute("select pgq.commit_offsets('g', '{wide,wide}', '{0,3}', array[%s, 17]::bigint[])", [offset])
    assert value(conn, "select count(*) from pgq.skipped_range") == 1
    assert value(conn, "select count(*) from pgq.segment") == 2 + 6


def contents(conn: Connection) -> dict[str, list[str]]:
    return {name: sorted(map(repr, rows(conn, query))) for name, query in CONTENTS.items()}


def goes_on(conn: Connection) -> None:
    """Offsets go on where they stopped, groups where they were, and nothing is wrong."""
    assert rows(conn, "select * from pgq.check_log()") == []
    assert value(conn, "select \"offset\" from pgq.committed_offsets('g') where partition = 0") == 9
    for topic, partition in rows(
        conn, "select t.name, p.partition from pgq.partition p join pgq.topic t using (topic_id)"
    ):
        end = value(conn, "select pgq.log_end_offset(%s, %s)", topic, partition)
        assert call(conn, "produce", topic=topic, value=b"new", partition=partition) == [(partition, end)]
        assert rows(conn, "select value from pgq.fetch(%s, %s, %s)", topic, partition, end) == [(b"new",)]
    conn.execute("select pgq.commit_offsets('g', '{wide}', '{0}', '{11}')")
    assert value(conn, "select \"offset\" from pgq.committed_offsets('g') where partition = 0") == 11
    call(conn, "create_topic", name="new", partitions=2)
    assert call(conn, "produce", topic="new", value=b"v", partition=1) == [(1, 0)]
    call(conn, "delete_topic", name="wide")
    assert rows(conn, "select * from pgq.check_log()") == []


@pytest.fixture
def full(conn: Connection) -> Connection:
    """A connection to a database with a log that has something of everything."""
    fill(conn)
    return conn


# Dump and restore


@pytest.mark.parametrize("what", ["whole database", "schemas"])
def test_plain_dump_through_psql(full: Connection, dsn: str, empty_dsn: str, bin_dir: Path, what: str) -> None:
    text = run(bin_dir / "pg_dump", *(SCHEMAS if what == "schemas" else ()), "-d", dsn)
    run(bin_dir / "psql", empty_dsn, "-X", "-q", "-1", "-v", "ON_ERROR_STOP=1", text=text)
    with psycopg.connect(empty_dsn, autocommit=True) as copy:
        assert contents(copy) == contents(full)
        assert dump(empty_dsn) == dump(dsn)
        assert schema.check(empty_dsn) == []
        assert schema.repair(empty_dsn) == []
        assert contents(copy) == contents(full)
        goes_on(copy)
    assert schema.check(empty_dsn) == []


def test_records_that_wait_are_dumped_and_go_on_waiting(
    conn: Connection, dsn: str, empty_dsn: str, bin_dir: Path
) -> None:
    """Though a transaction was open whose locks the copy does not know; and their numbers are not given out again."""
    call(conn, "create_topic", name="orders")
    with psycopg.connect(dsn, autocommit=True) as slow:
        slow.execute("begin")
        slow.execute("select pgq.produce_delayed('orders', 'open', now())")
        conn.execute("select pgq.produce_delayed('orders', 'soon', now())")
        assert call(conn, "deliver_due") == [(1, 500)]
        slow.execute("commit")
    conn.execute("select pgq.produce_delayed('orders', 'now', now(), key => 'k')")
    conn.execute("select pgq.produce_delayed('orders', 'later', now() + interval '1 day')")
    text = run(bin_dir / "pg_dump", "-d", dsn)
    run(bin_dir / "psql", empty_dsn, "-X", "-q", "-1", "-v", "ON_ERROR_STOP=1", text=text)
    with psycopg.connect(empty_dsn, autocommit=True) as copy:
        waiting = "select * from pgq.delayed_records order by created_at"
        assert rows(copy, waiting) == rows(conn, waiting)
        assert len(rows(copy, waiting)) == 3
        assert schema.check(empty_dsn) == schema.check(dsn) == []
        assert schema.repair(empty_dsn) == []
        ((delivered, _),) = call(copy, "deliver_due")
        assert delivered == 2
        assert rows(copy, "select value from pgq.fetch('orders', 0, 0)") == [(b"soon",), (b"open",), (b"now",)]
        serials = "select max(split_part(delayed_id, '-', 2)::int) from pgq.delayed_records"
        last = value(copy, serials)
        copy.execute("select pgq.produce_delayed('orders', 'new', now() + interval '1 day')")
        assert value(copy, serials) == last + 1
        assert schema.check(empty_dsn) == []


@pytest.mark.parametrize("how", [("-j", "4"), ("-1",), ("--load-via-partition-root",)], ids=" ".join)
def test_folder_dump_through_pg_restore(
    full: Connection, dsn: str, empty_dsn: str, bin_dir: Path, tmp_path: Path, how: tuple[str, ...]
) -> None:
    """Also through the tree, where the trigger that refuses a direct insert is not there yet."""
    of_dump = how if how[0].startswith("--") else ()
    run(bin_dir / "pg_dump", "-Fd", "-j", "2", *of_dump, "-f", tmp_path / "dump", "-d", dsn)
    of_restore = () if of_dump else how
    run(bin_dir / "pg_restore", "--exit-on-error", *of_restore, "-d", empty_dsn, tmp_path / "dump")
    with psycopg.connect(empty_dsn, autocommit=True) as copy:
        assert contents(copy) == contents(full)
        assert schema.check(empty_dsn) == []
        goes_on(copy)


def test_definitions_first_and_data_only_after_them(full: Connection, dsn: str, empty_dsn: str, bin_dir: Path) -> None:
    """An ordinary role can load data only: it goes to the segments themselves, which have no trigger."""
    for part in ("--schema-only", "--data-only"):
        text = run(bin_dir / "pg_dump", part, "-d", dsn)
        run(bin_dir / "psql", empty_dsn, "-X", "-q", "-1", "-v", "ON_ERROR_STOP=1", text=text)
    with psycopg.connect(empty_dsn, autocommit=True) as copy:
        assert contents(copy) == contents(full)
        assert schema.check(empty_dsn) == []
        goes_on(copy)


def test_dump_without_the_schema_of_the_views(full: Connection, dsn: str, empty_dsn: str, bin_dir: Path) -> None:
    text = run(bin_dir / "pg_dump", "-n", "pgq", "-n", "pgq_log", "-d", dsn)
    run(bin_dir / "psql", empty_dsn, "-X", "-q", "-1", "-v", "ON_ERROR_STOP=1", text=text)
    problems = schema.check(empty_dsn)
    assert problems[0] == "schema pgq_topic is missing: create it and run `pgq db upgrade`"
    assert len(problems) == 3, problems  # and the two views
    with psycopg.connect(empty_dsn, autocommit=True) as copy:
        copy.execute("create schema pgq_topic")
        schema.upgrade(empty_dsn)
        assert [p for p in schema.check(empty_dsn) if "comment" not in p] == []
        goes_on(copy)


def test_dump_into_a_database_of_another_owner(
    admin: Connection, server: Server, full: Connection, dsn: str, empty_database: str, bin_dir: Path
) -> None:
    """Without owners and grants, so that all belongs to the role that restores."""
    admin.execute(sql.SQL("alter database {} owner to postgres").format(sql.Identifier(empty_database)))
    target = server.dsn(empty_database)
    text = run(bin_dir / "pg_dump", "--no-owner", "--no-acl", *SCHEMAS, "-d", dsn)
    run(bin_dir / "psql", target, "-X", "-q", "-1", "-v", "ON_ERROR_STOP=1", text=text)
    schema.upgrade(target)
    assert schema.check(target) == []
    with psycopg.connect(target, autocommit=True) as copy:
        assert contents(copy) == contents(full)
        goes_on(copy)


@contextmanager
def producers(dsn: str, topic: str, partitions: int) -> Iterator[Callable[[], int]]:
    """Producers that append, roll back and make segments; yields how many transactions they have ended so far."""
    stop, counts = Event(), [0, 0]

    def produce(number: int) -> None:
        with psycopg.connect(dsn, autocommit=True) as session:
            while not stop.is_set():
                with session.transaction(force_rollback=counts[number] % 7 == 6):
                    partition = counts[number] % partitions
                    call(session, "produce_batch", topic=topic, values=[b"v"] * 100, partitions=[partition] * 100)
                session.execute("select pgq.upkeep(partition_id) from pgq.partition")
                counts[number] += 1

    with ThreadPoolExecutor(2) as pool:
        tasks = [pool.submit(produce, number) for number in range(2)]
        try:
            yield lambda: sum(counts)
        finally:
            stop.set()
        for task in tasks:
            task.result(30)


def test_dump_while_producers_run(
    conn: Connection, admin: Connection, dsn: str, empty_database: str, empty_dsn: str, bin_dir: Path
) -> None:
    """Every dump has a snapshot of the records and later sequences, so that no offset is given out twice."""
    call(conn, "create_topic", name="orders", partitions=2)
    owner = sql.Identifier(APPLICATION)
    with producers(dsn, "orders", 2) as count:
        for _ in range(3):
            enough = count() + 5
            eventually(lambda enough=enough: count() >= enough)
            text = run(bin_dir / "pg_dump", "-d", dsn)
            run(bin_dir / "psql", empty_dsn, "-X", "-q", "-1", "-v", "ON_ERROR_STOP=1", text=text)
            with psycopg.connect(empty_dsn, autocommit=True) as copy:
                assert rows(copy, "select * from pgq.check_log()") == []
                for partition in range(2):
                    last = value(copy, 'select max("offset") from pgq_log.t1 where partition = %s', partition)
                    ((_, offset),) = call(copy, "produce", topic="orders", value=b"new", partition=partition)
                    assert offset > last
                    call(copy, "produce_batch", topic="orders", values=[b"v"] * 5000, partitions=[partition] * 5000)
                    assert rows(copy, "select value from pgq.fetch('orders', %s, %s, 1)", partition, offset) == [
                        (b"new",)
                    ]
                assert rows(copy, "select * from pgq.check_log()") == []
            admin.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(empty_database)))
            admin.execute(sql.SQL("create database {} owner {}").format(sql.Identifier(empty_database), owner))


def test_a_database_made_from_it_as_template(
    full: Connection, admin: Connection, server: Server, database: str, empty_database: str
) -> None:
    before = contents(full)
    full.close()  # nobody may be connected
    name, owner = sql.Identifier(empty_database), sql.Identifier(APPLICATION)
    admin.execute(sql.SQL("drop database {}").format(name))
    admin.execute(sql.SQL("create database {} template {} owner {}").format(name, sql.Identifier(database), owner))
    copy_dsn = server.dsn(empty_database, user=APPLICATION)
    with psycopg.connect(copy_dsn, autocommit=True) as copy:
        assert contents(copy) == before
        assert schema.check(copy_dsn) == []
        goes_on(copy)


# Tables without their sequences


def test_tables_copied_without_their_sequences(full: Connection, dsn: str, empty_dsn: str, bin_dir: Path) -> None:
    """A logical copy: check finds the sequences behind, repair sets them past all that is known."""
    text = run(bin_dir / "pg_dump", "--schema-only", "-d", dsn)
    run(bin_dir / "psql", empty_dsn, "-X", "-q", "-1", "-v", "ON_ERROR_STOP=1", text=text)
    text = run(bin_dir / "pg_dump", "--data-only", "-d", dsn)
    assert text.count("pg_catalog.setval(") >= 10
    text = re.sub(r"^SELECT pg_catalog\.setval\(.*$", "", text, flags=re.MULTILINE)
    run(bin_dir / "psql", empty_dsn, "-X", "-q", "-1", "-v", "ON_ERROR_STOP=1", text=text)
    with psycopg.connect(empty_dsn, autocommit=True) as copy:
        catalog = "split_part(problem, ' gives ', 1)"
        found = f"case when topic is null then {catalog} else problem end"
        assert rows(copy, f"select topic, partition, {found} from pgq.check_log()") == [
            ("orders", 0, "the sequence pgq_log.t1_p0_offset gives offset 0 next, but the last record is at 4096"),
            ("wide", 0, "the sequence pgq_log.t2_p0_offset gives offset 0 next, but the last record is at 9"),
            ("wide", 1, "the sequence pgq_log.t2_p1_offset gives offset 0 next, but the last record is at 4999"),
            ("wide", 2, "the sequence pgq_log.t2_p2_offset gives offset 0 next, but the last record is at 17"),
            ("wide", 3, "the sequence pgq_log.t2_p3_offset gives offset 0 next, but a group has committed 17"),
            *((None, None, f"the sequence pgq.{sequence}") for sequence in IDENTITIES),
        ]
        with pytest.raises(psycopg.errors.UniqueViolation):  # what happens to whoever does not look
            call(copy, "produce", topic="wide", value=b"v", partition=0)
        done = schema.repair(empty_dsn)
        assert len(done) == 9
        assert (
            done[0] == "topic 'orders': partition 0: the sequence pgq_log.t1_p0_offset gave 0 next, and gives 4097 now"
        )
        assert done[1] == "topic 'wide': partition 0: the sequence pgq_log.t2_p0_offset gave 1 next, and gives 10 now"
        assert schema.repair(empty_dsn) == []
        assert schema.check(empty_dsn) == []
        mended, expected = contents(copy), contents(full)
        assert {name for name in CONTENTS if mended[name] != expected[name]} <= {"next offsets"}
        goes_on(copy)


@pytest.fixture
def logical_server(bin_dir: Path, blank_data_dir: Path, server_folder: Path) -> Iterator[EmbeddedServer]:
    """A server with two databases of pgq_app, source and target, that may replicate logically."""
    past = shutil.ignore_patterns("postmaster.opts", "server.log")
    shutil.copytree(blank_data_dir, server_folder / "data", ignore=past)
    settings = SETTINGS | {"wal_level": "logical", "wal_retrieve_retry_interval": "100ms"}
    with EmbeddedServer(server_folder / "data", bin_dir=bin_dir, settings=settings) as server:
        with psycopg.connect(server.dsn(), autocommit=True) as superuser:
            superuser.execute(f"create role {APPLICATION} login")
            for name in ("source", "target"):
                superuser.execute(f"create database {name} owner {APPLICATION}")
        yield server


def test_logical_replication(logical_server: EmbeddedServer, bin_dir: Path) -> None:
    """As docs/howto/move.md says. Records come through the roots; the target has segments of its own."""
    source_dsn, target_dsn = (logical_server.dsn(name, user=APPLICATION) for name in ("source", "target"))
    schema.upgrade(source_dsn)
    with psycopg.connect(source_dsn, autocommit=True) as source, psycopg.connect(target_dsn, autocommit=True) as target:
        fill(source)
        text = run(bin_dir / "pg_dump", "--schema-only", *SCHEMAS, "-d", source_dsn)
        run(bin_dir / "psql", target_dsn, "-X", "-q", "-v", "ON_ERROR_STOP=1", text=text)
        catalog = ("alembic_version", "topic_config", "topic", "partition", "segment", "skipped_range")
        tables = [argument for table in catalog for argument in ("-t", f"pgq.{table}")]
        text = run(bin_dir / "pg_dump", "--data-only", *tables, "-d", source_dsn)
        run(bin_dir / "psql", target_dsn, "-X", "-q", "-v", "ON_ERROR_STOP=1", text=text)
        target.execute(
            "select pgq._cover_offset(partition_id, base_offset, base_offset + 100000)"
            " from (select partition_id, max(base_offset) as base_offset from pgq.segment group by 1) s"
        )
        source.execute(
            "create publication pgq_log for table pgq_log.t1, pgq_log.t2, pgq.consumer_group, pgq.committed_offset"
            " with (publish_via_partition_root = true)"
        )
        # within one server the slot is made beforehand, or the subscription would wait for itself
        with psycopg.connect(logical_server.dsn("source"), autocommit=True) as superuser:
            superuser.execute("select pg_create_logical_replication_slot('pgq_log', 'pgoutput')")
        with psycopg.connect(logical_server.dsn("target"), autocommit=True) as superuser:
            superuser.execute(
                sql.SQL(
                    "create subscription pgq_log connection {} publication pgq_log with (create_slot = false)"
                ).format(logical_server.dsn("source"))
            )
            call(source, "produce_batch", topic="wide", values=[b"later"] * 5000, partitions=[4] * 5000)
            source.execute("select pgq.commit_offsets('g', '{wide}', '{4}', '{5000}')")
            wanted = {name: contents(source)[name] for name in ("groups", "commits")}
            counts = "select (select count(*) from pgq_log.t1), (select count(*) from pgq_log.t2)"
            (expected,) = rows(source, counts)
            eventually(lambda: rows(target, counts) == [expected] and wanted.items() <= contents(target).items())
            superuser.execute("drop subscription pgq_log")
        by_offset = 'select partition, "offset", md5(value), header_keys from pgq_log.{} order by 1, 2'
        for tree in ("t1", "t2"):
            assert rows(target, by_offset.format(tree)) == rows(source, by_offset.format(tree))
        assert {row[0] for row in rows(target, "select partition from pgq.check_log() where topic = 'wide'")} == {
            0,
            1,
            2,
            3,
            4,
        }
        assert len(schema.repair(target_dsn)) == 6 + 2  # the partitions' sequences, and those of groups and commits
        assert schema.check(target_dsn) == []
        goes_on(target)


# pg_upgrade


def version(bin_dir: Path) -> int:
    return int(re.search(r"\d+", run(bin_dir / "postgres", "--version"))[0])


def older_binaries(bin_dir: Path) -> Path:
    if not (bin_dir / "pg_upgrade").exists():
        pytest.skip(f"no pg_upgrade in {bin_dir}")
    for kind in ("local", "embedded"):
        with suppress(EmbeddedServerError):
            folder = find_binaries(kind)
            if version(folder) < version(bin_dir):
                return folder
    pytest.skip("no older PostgreSQL is installed to upgrade from")


def programs(server: EmbeddedServer) -> Path:
    """The folder of the programs that a server really runs: under root a copy that its user can reach."""
    command = (server.data_dir / "postmaster.opts").read_text(encoding="utf-8")
    return Path(command.split(" ")[0]).parent


def forget_column_options(server: EmbeddedServer) -> None:
    """pgq sets none, but 15.20 of Debian notes one (pg_attver) for every column, which an older release of a newer
    version refuses when pg_upgrade restores it. Users take the newest release of the newer version."""
    for database in ("postgres", "template1", "app"):
        with psycopg.connect(server.dsn(database), autocommit=True) as superuser:
            superuser.execute("update pg_attribute set attoptions = null where attoptions is not null")


def without_checksums(control_data: str) -> bool:
    return re.search(r"checksum version: +0$", control_data, re.MULTILINE) is not None


@pytest.mark.slow
def test_pg_upgrade(bin_dir: Path, server_folder: Path) -> None:
    old = EmbeddedServer(server_folder / "old", bin_dir=older_binaries(bin_dir), settings=SETTINGS)
    new = EmbeddedServer(server_folder / "new", bin_dir=bin_dir, settings=SETTINGS)
    with old:
        with psycopg.connect(old.dsn(), autocommit=True) as superuser:
            superuser.execute(f"create role {APPLICATION} login")
            superuser.execute(f"create database app owner {APPLICATION}")
        schema.upgrade(old.dsn("app", user=APPLICATION))
        with psycopg.connect(old.dsn("app", user=APPLICATION), autocommit=True) as conn:
            fill(conn)
            before = contents(conn)
        forget_column_options(old)
        old_programs = programs(old)
    with new:
        new_programs = programs(new)
    owner = new.data_dir.stat()
    work = server_folder / "work"
    work.mkdir()
    os.chown(work, owner.st_uid, owner.st_gid)
    as_server = (
        {"cwd": work, "user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
        if os.getuid() == 0
        else {"cwd": work}
    )
    # Both must have checksums or neither; only from 18 does initdb make them.
    old_control, new_control = (
        run(folder / "pg_controldata", "-D", server.data_dir)
        for folder, server in ((old_programs, old), (new_programs, new))
    )
    if without_checksums(old_control) and not without_checksums(new_control):
        run(new_programs / "pg_checksums", "--disable", "-D", new.data_dir, **as_server)
    run(
        new_programs / "pg_upgrade",
        *("-b", old_programs, "-B", new_programs, "-d", old.data_dir, "-D", new.data_dir, "-U", "postgres"),
        *("-s", work),
        **as_server,
    )
    with new:
        dsn = new.dsn("app", user=APPLICATION)
        with psycopg.connect(dsn, autocommit=True) as conn:
            assert conn.info.server_version // 10000 == version(bin_dir)
            assert contents(conn) == before
            assert schema.check(dsn) == []
            goes_on(conn)
            schema.upgrade(dsn)
            assert schema.check(dsn) == []
