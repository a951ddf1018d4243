"""Scenes of a few sessions in which a log that is nearly right skips, repeats or refuses records."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

import pgq

from .lab import GATE_SQL, RULES, ByConsumer, Edit, Rule, kinds, lab, wait_until
from .workload import TOPIC

if TYPE_CHECKING:
    from pgq.embedded import EmbeddedServer

BOTH_PATHS = pytest.mark.parametrize("batch", [False, True], ids=["produce", "produce_batch"])
EVERY_RULE = pytest.mark.parametrize("rule", RULES)

GATE_BEFORE_SETTLING = Edit("_settle.sql", r"(perform pgq\._check_fetch\(part\.topic_id\);)", rf"\1 {GATE_SQL}")
GATE_AFTER_SETTLING = Edit("_settle.sql", r"end if; end \$\$;", f"end if; {GATE_SQL} end $$;")


@EVERY_RULE
@BOTH_PATHS
def test_mark_ends_with_its_savepoint(dsn: str, batch: bool, rule: type[Rule]) -> None:
    """The lock of an append in a savepoint goes with ROLLBACK TO, and so must the mark: the next append locks anew."""
    with lab(dsn) as scene:
        slow, fast, reader = scene.producer(batch=batch), scene.producer(), scene.reader(rule)
        slow.begin()
        mark = slow.savepoint()
        slow.produce()
        slow.rollback_to(mark)
        slow.produce()
        fast.produce()
        assert reader.poll() == []
        slow.commit()
        reader.drain()
        assert kinds(scene.judge()) == set()


@EVERY_RULE
def test_records_deleted_after_settling(dsn: str, rule: type[Rule]) -> None:
    """What was there when a reader settled may be gone when it reads on: then it is told."""
    with lab(dsn, [GATE_AFTER_SETTLING]) as scene:
        producer, reader = scene.producer(batch=True), scene.reader(rule)
        producer.begin()
        producer.produce()
        producer.rollback()
        producer.produce(10)
        scene.gate.close()
        polling = scene.beside(reader.poll)
        scene.gate.wait_for_somebody(polling)
        scene.delete_records(6)
        scene.gate.open()
        polling.result()
        reader.drain()
        assert kinds(scene.judge()) == set()


def test_watermark_kept_over_a_crash(own_dsn: str, own_server: EmbeddedServer) -> None:
    """A watermark that was noted before a crash says nothing about the offsets that are issued again after it."""
    with lab(own_dsn, [GATE_BEFORE_SETTLING], own_server) as scene:
        first, second, third = (scene.producer(batch=True) for _ in range(3))
        reader = scene.reader(ByConsumer)
        # a sequence writes 33 offsets ahead into the WAL, so 33 is the first that a crash brings back
        first.produce(32)
        reader.drain()
        first.begin()
        first.produce()
        scene.gate.close()
        # the reader finds 32 missing; before it asks for the watermark, 32 is there and 33 to 232 are rolled back
        polling = scene.beside(reader.poll)
        scene.gate.wait_for_somebody(polling)
        first.commit()
        scene.stop_wal_writer()
        second.begin()
        second.produce(200)
        second.rollback()
        scene.gate.open()
        assert polling.result() == [32]
        scene.crash()
        for session in (first, second, third, reader):
            session.reconnect()
        first.produce(40)
        second.begin()
        second.produce()
        third.produce()
        reader.drain()
        second.commit()
        reader.drain()
        assert kinds(scene.judge()) == set()


@EVERY_RULE
def test_asynchronous_commit_read_before_it_is_flushed(
    own_dsn: str, own_server: EmbeddedServer, rule: type[Rule]
) -> None:
    """A record that a reader was given survives a crash, also when its producer did not wait for the flush."""
    with lab(own_dsn, (), own_server) as scene:
        asynchronous = scene.producer(batch=True, settings="-c synchronous_commit=off")
        synchronous, reader = scene.producer(batch=True), scene.reader(rule)
        scene.stop_wal_writer()
        asynchronous.produce(200)
        reader.drain()
        scene.crash()
        synchronous.reconnect()
        reader.reconnect()
        synchronous.produce(300)
        reader.drain()
        assert kinds(scene.judge()) == set()


def test_connection_lost_between_two_partitions(dsn: str) -> None:
    """What a consumer had of one partition when it lost its connection at the next one comes with the next poll."""
    with (
        psycopg.connect(dsn, autocommit=True) as conn,
        psycopg.connect(dsn) as blocker,
        pgq.Consumer(dsn=dsn) as consumer,
        ThreadPoolExecutor() as pool,
    ):
        conn.execute("select pgq.create_topic(%s, 2)", (TOPIC,))
        tps = [pgq.TopicPartition(TOPIC, partition) for partition in (0, 1)]
        consumer.assign(tps)
        for tp in tps:
            conn.execute("select pgq.produce(%s, 'a', partition => %s)", tp)
            consumer.seek(tp, 0)
        # which partition comes first is the consumer's affair: so block the one, then the other
        found: list[pgq.TopicPartition] = []
        for blocked in (0, 1):
            blocker.execute(f"lock table pgq_log.t1_p{blocked} in access exclusive mode")
            polling = pool.submit(consumer.getmany)
            terminate_who_waits(conn, unless=polling)
            blocker.rollback()
            with suppress(pgq.errors.BrokerNotAvailableError):
                found += polling.result()
        for _ in range(4):
            found += consumer.getmany()
        assert sorted(found) == tps


def terminate_who_waits(conn: psycopg.Connection[Any], *, unless: Future[Any]) -> None:
    """Terminate the backend of this database that comes to wait for a lock, unless the call ends that should wait."""
    terminate = (
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where datname = current_database() and wait_event_type = 'Lock'"
    )
    wait_until(lambda: unless.done() or bool(conn.execute(terminate).fetchall()))


def test_segment_made_in_a_prepared_transaction_that_is_rolled_back(dsn: str) -> None:
    """A session that made a segment in a transaction that somebody else rolls back goes on as if it had not."""
    with psycopg.connect(dsn, autocommit=True) as conn, psycopg.connect(dsn, autocommit=True) as other:
        conn.execute("select pgq.create_topic(%s)", (TOPIC,))
        conn.execute("select pgq.produce_batch(%s, array_fill('a'::bytea, array[4096]))", (TOPIC,))
        conn.execute("begin")
        assert conn.execute("select \"offset\" from pgq.produce(%s, 'a')", (TOPIC,)).fetchone() == (4096,)
        conn.execute("prepare transaction 'made a segment'")
        other.execute("rollback prepared 'made a segment'")
        assert conn.execute("select \"offset\" from pgq.produce(%s, 'a')", (TOPIC,)).fetchone() == (4097,)


def test_connection_ended_while_it_was_idle(dsn: str) -> None:
    """Whatever the driver says of a connection that the server ended, the client says BrokerNotAvailableError."""

    async def main(conn: psycopg.Connection[Any]) -> None:
        async with pgq.AsyncProducer(make_conninfo(dsn, application_name="idle"), linger_ms=0) as producer:
            for turns in range(24):
                await (await producer.send(TOPIC, b"a"))
                conn.execute("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'idle'")
                for _ in range(turns % 8):
                    await asyncio.sleep(0)  # the loop gets so far in noticing it
                delivery = await producer.send(TOPIC, b"a")
                with suppress(pgq.errors.BrokerNotAvailableError):
                    await delivery
            with suppress(pgq.errors.BrokerNotAvailableError):
                await producer.flush()

    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("select pgq.create_topic(%s)", (TOPIC,))
        asyncio.run(main(conn))
