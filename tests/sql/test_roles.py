"""What each of pgq's roles may do, and what it may not: every attempt is made."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgq import Admin, AsyncConsumer, AsyncProducer, Consumer, Producer, schema
from pgq.errors import DatabaseError
from tests.plugins.sessions import Connection, call, refused, rows, value

ROLES = ("reader", "producer", "consumer", "admin")
PROCEDURE = "pgq_log.produce_" + hashlib.md5(b"orders", usedforsecurity=False).hexdigest()
EVERYBODY, NOBODY = "reader producer consumer admin", ""

# what is tried, and who may
ATTEMPTS = [
    ("select pgq.schema_version()", EVERYBODY),
    ("select * from pgq.list_topics()", EVERYBODY),
    ("select * from pgq.describe_cluster()", EVERYBODY),
    ("select * from pgq.acks_status()", EVERYBODY),
    ("select * from pgq.describe_topic('orders')", EVERYBODY),
    ("select pgq.partition_for_key('k', 3)", EVERYBODY),
    ("select pgq.partition_for_key('k', 3, p) from unnest(array['crc32', 'murmur2']) p", EVERYBODY),
    ("select pgq.compound_key('k', 3), pgq.compound_keys('k', 3, 3, 'crc32')", EVERYBODY),
    ("select * from pgq.split_compound_key('k#salt=1')", EVERYBODY),
    ("select * from pgq.produce('orders', 'v', key => 'k')", "producer admin"),
    (
        "select * from pgq.produce('wide', 'v', header_keys => '{a}', header_values => '{b}', partition => 2)",
        "producer admin",
    ),
    ("select * from pgq.produce_json('wide', '{}', headers => '{\"a\": \"b\"}')", "producer admin"),
    ("select * from pgq.produce_batch('wide', array['a', 'b']::bytea[])", "producer admin"),
    ("select * from pgq.begin_append('{1}', '{0}', '{3}')", "producer admin"),
    ("select pgq.upkeep(1)", "producer admin"),
    (f"call {PROCEDURE}('v', null)", "producer admin"),
    ("select * from pgq.fetch('orders', 0, 0)", "reader consumer admin"),
    ("select pgq.high_watermark('orders', 0)", "reader consumer admin"),
    ("select pgq.log_start_offset('orders', 0)", "reader consumer admin"),
    ("select pgq.log_end_offset('orders', 0)", "reader consumer admin"),
    ("select pgq.offsets_for_times('orders', 0, 'epoch')", "reader consumer admin"),
    ("select * from pgq_topic.orders", "reader consumer admin"),
    ("select * from pgq_topic.later", "reader consumer admin"),
    ("select * from pgq.topic_status", "reader consumer admin"),
    ("select * from pgq.partition_status", "reader consumer admin"),
    ("select * from pgq.segment_status", "reader consumer admin"),
    ("select * from pgq.group_status", "reader consumer admin"),
    ("select * from pgq.group_partition_status", "reader consumer admin"),
    ("select * from pgq.member_status", "reader consumer admin"),
    ("select * from pgq._metrics()", "reader consumer admin"),
    ("select * from pgq.delayed_records", "reader consumer admin"),
    ("select * from pgq.delayed_status", "reader consumer admin"),
    ("select pgq.cancel_delayed(pgq.produce_delayed('orders', 'v', now() + interval '1 day'))", "producer admin"),
    ("select * from pgq.deliver_due()", "consumer admin"),
    ("select * from pgq.create_retry_topics('g', '{orders}')", "consumer admin"),
    ("select pgq.fail_records('g', '{orders}', '{0}', '{0}', '{null}', '{e}')", "consumer admin"),
    ("insert into pgq_log.delayed (due_at, serial, topic_id, partition) values (now(), 1, 1, 0)", NOBODY),
    ("select nextval('pgq_log.delayed_serial')", NOBODY),
    ("select * from pgq.dead_letters()", "reader consumer admin"),
    ("select * from pgq.redrive_dead_letters(execute => true)", "admin"),
    ("select * from pgq.purge_dead_letters(execute => true)", "admin"),
    ("select pgq.commit_offsets('g', '{orders}', '{0}', '{1}')", "consumer admin"),
    ("select * from pgq.committed_offsets('g')", "consumer admin"),
    ("select * from pgq.join_group('h', '{orders}')", "consumer admin"),
    ("select pgq.heartbeat(1), pgq.group_assignment(1), pgq.end_stuck_members(1)", "consumer admin"),
    (
        "select pgq.keep_partitions(1, '{}', '{}'), pgq.leave_group(1)",
        "consumer admin",
    ),
    ("select * from pgq.claim_partitions(1, 1, '{}', '{}')", "consumer admin"),
    ("select pgq.change_subscription(m.member_id, '{}') from pgq.join_group('h', '{}') m", "consumer admin"),
    ("select * from pgq.reset_offsets('g', 'to-latest', topics => '{orders}')", "admin"),
    ("select pgq.alter_group_offsets('g', '{orders}', '{0}', '{1}')", "admin"),
    ("select pgq.delete_group_offsets('kept', '{orders}')", "admin"),
    ("select pgq.delete_group('kept')", "admin"),
    ("select * from pgq_log.t1", "consumer admin"),
    ("select * from pgq_log.t1_p0_s0", "consumer admin"),
    ("select * from pgq_log.t3_p0_s0", "consumer admin"),
    ("select * from pgq.create_topic('mine')", "admin"),
    ("select pgq.create_topic_step('mine', 30)", "admin"),
    ("select * from pgq.add_partitions('wide', 6)", "admin"),
    ("select * from pgq.alter_topic_config('orders', '{\"max.message.bytes\": 1000}')", "admin"),
    ("select pgq.delete_records('orders', 0, 0)", "admin"),
    ("select * from pgq._plan_trim('orders', null, 'to-latest', null)", "admin"),
    ("select pgq.delete_topic('orders')", "admin"),
    ("select * from pgq.check_log()", "admin"),
    ("select * from pgq.restart_offsets()", NOBODY),
    ("select pgq.delete_topic_step('orders')", "admin"),
    ('insert into pgq_log.t1_p0 (partition, "offset", "timestamp") values (0, 99, now())', NOBODY),
    ('insert into pgq_log.t1_p0_s0 (partition, "offset", "timestamp") values (0, 99, now())', NOBODY),
    ("update pgq_log.t1 set value = 'forged'", NOBODY),
    ("delete from pgq_log.t1", NOBODY),
    ("truncate pgq_log.t1", NOBODY),
    ("drop table pgq_log.t1", NOBODY),
    ("select nextval('pgq_log.t1_p0_offset')", NOBODY),
    ("select setval('pgq_log.t1_p0_offset', 1)", NOBODY),
    ("insert into pgq_topic.orders (partition) values (0)", NOBODY),
    ("create table pgq.mine (x int)", NOBODY),
    ("create table pgq_log.mine (x int)", NOBODY),
    ("create view pgq_topic.mine as select 1", NOBODY),
    *(
        (f"select * from pgq.{table}", NOBODY)
        for table in (
            "topic",
            "partition",
            "segment",
            "committed_offset",
            "consumer_group",
            "group_member",
            "partition_owner",
            "settled_dead_letter",
            "delivery",
            "failure_topic",
        )
    ),
    ("update pgq.topic set config = '{}'", NOBODY),
    ("select pgq._define_produce(1)", NOBODY),
    ("select pgq._roll_segment(1, 10)", NOBODY),
    ("select pgq._make_segment(1, 4096)", NOBODY),
    ("select pgq._grant_roles()", NOBODY),
    ("select pgq._drop_step(1)", NOBODY),
]


@pytest.fixture
def as_role(conn: Connection, watcher: Connection, dsn: str) -> Iterator[Callable[[str], Connection]]:
    """Sessions of the application that have given up its rights for those of one role. Roles belong to the server."""
    for role in ROLES:
        watcher.execute(
            f"do $$ begin create role pgq_{role} nologin;"
            " exception when duplicate_object or unique_violation then null; end $$"
        )
        watcher.execute(f"grant pgq_{role} to pgq_app")
    call(conn, "create_topic", name="orders")
    call(conn, "create_topic", name="wide", partitions=5)
    conn.execute("select pgq.commit_offsets('kept', '{orders}', '{0}', '{0}')")
    conn.execute("select pgq._grant_roles()")
    call(conn, "create_topic", name="later")
    opened = []

    def as_role(role: str) -> Connection:
        session = psycopg.connect(dsn, autocommit=True)
        opened.append(session)
        session.execute(f"set session role pgq_{role}")
        return session

    yield as_role
    for session in opened:
        session.close()
    for role in ROLES:
        watcher.execute(f"revoke pgq_{role} from pgq_app")  # other tests want it without any membership


@pytest.mark.parametrize("role", ROLES)
def test_each_attempt(as_role: Callable[[str], Connection], role: str) -> None:
    session = as_role(role)
    wrong = []
    for statement, allowed in ATTEMPTS:
        outcome = "allowed"
        try:
            with session.transaction(force_rollback=True):
                session.execute(statement)
        except psycopg.errors.InsufficientPrivilege:
            outcome = "refused"
        except psycopg.errors.ObjectNotInPrerequisiteState:
            outcome = "refused"  # a view that cannot be written
        if (outcome == "allowed") != (role in allowed.split()):
            wrong.append((statement, outcome))
    assert wrong == []


def test_insert_into_the_root_is_held_by_the_append_rule(as_role: Callable[[str], Connection]) -> None:
    producer = as_role("producer")
    statement = 'insert into pgq_log.t1 (partition, "offset", "timestamp") values (0, 99, now())'
    with refused("PQ012"):
        producer.execute(statement)
    producer.execute("begin")
    producer.execute("select * from pgq.produce('orders', 'v')")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        producer.execute(f"{statement} returning value")


def test_tables_of_delayed_records_are_for_the_functions(
    conn: Connection, as_role: Callable[[str], Connection]
) -> None:
    """The views show them to who may read; a table that has been made since has no other grants."""
    delayed_id = value(conn, "select pgq.produce_delayed('orders', 'v', now() + interval '1 day', key => 'k')")
    bucket = value(conn, "select bucket from pgq._delay_buckets()")
    for role in ROLES:
        session = as_role(role)
        if role != "producer":
            seen = rows(session, "select delayed_id, key_text, value_text from pgq.delayed_records")
            assert seen == [(delayed_id, "k", "v")]
        for statement in (f"delete from {bucket}", f"update {bucket} set due_at = now()", f"drop table {bucket}"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                session.execute(statement)
    assert value(as_role("producer"), "select pgq.cancel_delayed(%s)", delayed_id)


TRAP = """
    create function trap.{name}(a {type}, b {type}) returns {result} language plpgsql
        as $$ begin raise exception 'trapped, with the rights of %', current_user; end $$;
    create operator trap.{operator} (leftarg = {type}, rightarg = {type}, function = trap.{name})
"""


def test_the_producers_procedure_falls_into_no_trap(
    conn: Connection, as_role: Callable[[str], Connection], watcher: Connection
) -> None:
    """It runs with the owner's rights, so operators and types of the caller's own must not be found by it."""
    watcher.execute("create schema trap; grant all on schema trap to public")
    producer = as_role("producer")
    operators = [("bool", operator) for operator in ("<=", ">=", "<", ">", "=", "<>")]
    operators += [("{type}", operator) for operator in ("+", "|", "&", "*")]
    for type_ in ("int", "bigint", "text", "float8"):
        for number, (result, operator) in enumerate(operators):
            producer.execute(
                TRAP.format(
                    name=f"trap_{type_}_{number}", type=type_, result=result.format(type=type_), operator=operator
                )
            )
    producer.execute("create domain trap.text as pg_catalog.int4; create domain trap.regclass as pg_catalog.int4")
    producer.execute("set search_path = trap, pg_catalog")
    with pytest.raises(psycopg.errors.RaiseException, match="trapped"):
        producer.execute("select 1 <= 2")
    for statement in (
        "select * from pgq.produce('orders', 'v', key => 'k')",
        "select * from pgq.produce('wide', 'v', key => 'k', partition => 3)",
        "select * from pgq.produce('wide', 'v')",
        "select * from pgq.produce('orders', 'v', header_keys => '{a}'::pg_catalog.text[], header_values => '{b}')",
    ):
        for _ in range(3):
            producer.execute(statement)
    assert value(conn, "select count(*) from pgq_log.t1") == 6


def of(role: str, dsn: str) -> str:
    """A DSN whose sessions have only the rights of a role."""
    return make_conninfo(dsn, options=f"-c role=pgq_{role}")


def test_clients_work_by_their_roles(as_role: Callable[[str], Connection], dsn: str) -> None:
    as_role("producer")
    with Producer(of("producer", dsn)) as producer:
        for number in range(5000):
            producer.send("wide", b"%d" % number, key=b"%d" % (number % 11))
    with Consumer("wide", dsn=of("consumer", dsn), group_id="g", auto_offset_reset="earliest") as consumer:
        seen = 0
        while batches := consumer.getmany(timeout_ms=500, max_records=2000):
            seen += sum(map(len, batches.values()))
        consumer.commit()
    assert seen == 5000
    with Producer(of("producer", dsn)) as producer, Admin(of("producer", dsn)) as admin:
        later = producer.send("wide", b"later", delay_ms=3_600_000)
        assert admin.cancel_delayed(later.result().delayed_id)
    with pytest.raises(DatabaseError), Producer(of("consumer", dsn)) as producer:
        producer.send("wide", b"v").result()


async def use_async_clients(dsn: str) -> int:
    async with AsyncProducer(of("producer", dsn)) as producer:
        for number in range(500):
            await producer.send("wide", b"%d" % number)
    async with AsyncConsumer("wide", dsn=of("consumer", dsn), auto_offset_reset="earliest") as consumer:
        seen = 0
        while batches := await consumer.getmany(timeout_ms=500):
            seen += sum(map(len, batches.values()))
    return seen


def test_async_clients_work_by_their_roles(as_role: Callable[[str], Connection], dsn: str) -> None:
    as_role("producer")
    assert asyncio.run(use_async_clients(dsn)) == 500


def test_the_age_of_others_transactions_takes_a_right(conn: Connection, watcher: Connection, topic: str) -> None:
    """Without pg_read_all_stats the view names the producer and leaves its age out."""
    watcher.execute("set application_name = 'foreign'")
    watcher.execute("begin")
    watcher.execute("select pgq.produce('orders', 'v')")
    query = "select producer_pid, producer_application, producer_age is null from pgq.partition_status"
    try:
        assert rows(conn, query) == [(watcher.info.backend_pid, "foreign", True)]
    finally:
        watcher.execute("rollback")


def test_roles_are_made_by_whom_may(conn: Connection, watcher: Connection, dsn: str, admin_dsn: str) -> None:
    """By one with CREATEROLE; once they are there, the owner grants without a right more."""
    assert set(schema.ROLES) == {f"pgq_{role}" for role in ROLES}
    assert set(schema.create_roles(admin_dsn)) <= set(schema.ROLES)
    assert schema.create_roles(dsn) == []
    call(conn, "create_topic", name="orders")
    for role, expected in (("pgq_reader", True), ("pgq_producer", False)):
        assert value(watcher, "select has_table_privilege(%s, 'pgq_topic.orders', 'select')", role) is expected


def test_roles_are_not_made_by_whom_may_not(watcher: Connection, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "ROLES", (*schema.ROLES, "pgq_another"))
    with pytest.raises(DatabaseError, match="42501"):
        schema.create_roles(dsn)
    assert rows(watcher, "select from pg_roles where rolname = 'pgq_another'") == []
