"""Delayed records: they wait in the database and are appended when they are due, once, unless they are cancelled."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, NamedTuple

import pytest

import pgq
from pgq import DelayedRecordMetadata, FlushReport, RecordMetadata, errors
from pgq.core.partitioner import partition_for_key
from tests.plugins.proxy import Loss, Proxy
from tests.plugins.sessions import Connection, call, eventually, rows, value

from .applications import KINDS, Undo
from .conftest import Clients, read, until

HOUR_MS = 3_600_000
YEARS_9 = timedelta(days=9 * 365)
QUICK: dict[str, Any] = {"linger_ms": 0, "batch_size": 1, "retry_backoff_ms": 1, "retry_backoff_max_ms": 10}
"""A flush a record, and no time lost between attempts."""


class Waiting(NamedTuple):
    """A record that waits."""

    topic: str
    partition: int
    delayed_id: str
    due_ms: int
    key: bytes | None
    value: bytes | None

    @property
    def metadata(self) -> DelayedRecordMetadata:
        """What its future tells."""
        return DelayedRecordMetadata(self.topic, self.partition, self.delayed_id, self.due_ms)


def waiting(conn: Connection) -> list[Waiting]:
    """All records that wait, those due first before the others."""
    found = rows(
        conn,
        "select topic, partition, delayed_id, (date_part('epoch', due_at) * 1000)::int8, key, value"
        " from pgq.delayed_records order by due_at, split_part(delayed_id, '-', 2)::int8",
    )
    return [Waiting(*row) for row in found]


def deliver(conn: Connection) -> int:
    """Append what is due; return how many records."""
    result: int = value(conn, "select delivered from pgq.deliver_due()")
    return result


def deliver_all(conn: Connection, count: int) -> None:
    """Append so many records, as they become due."""
    delivered = 0

    def all_are() -> bool:
        nonlocal delivered
        delivered += deliver(conn)
        return delivered >= count

    eventually(all_are)
    assert delivered == count
    assert deliver(conn) == 0


def values(conn: Connection, topic: str, partition: int = 0) -> list[bytes]:
    return [v for (v,) in rows(conn, "select value from pgq.fetch(%s, %s, 0, 100000)", topic, partition)]


async def test_a_record_waits_until_it_is_due(clients: Clients, conn: Connection, topic: str) -> None:
    before_ms = time.time_ns() // 1_000_000
    async with clients.producer() as producer:
        later = await (await producer.send(topic, b"later", delay_ms=HOUR_MS))
        soon = await (await producer.send(topic, b"soon", delay_ms=20))
    after_ms = time.time_ns() // 1_000_000
    assert before_ms + HOUR_MS <= later.due_at <= after_ms + HOUR_MS
    assert before_ms + 20 <= soon.due_at
    deliver_all(conn, 1)
    assert values(conn, topic) == [b"soon"]
    assert value(conn, "select (date_part('epoch', clock_timestamp()) * 1000)::int8") >= soon.due_at
    assert [record.metadata for record in waiting(conn)] == [later]


async def test_deliver_at(clients: Clients, conn: Connection, topic: str) -> None:
    """To the millisecond, of whatever time zone; also years ahead."""
    at = datetime.now(UTC).replace(microsecond=123_987) + timedelta(hours=3)
    times = [at, at.astimezone(timezone(timedelta(hours=5, minutes=45))), at + YEARS_9]
    async with clients.producer() as producer:
        futures = [await producer.send(topic, b"v", deliver_at=t) for t in times]
        said = [await future for future in futures]
    due_ms = int(at.replace(microsecond=0).timestamp()) * 1000 + 123
    assert [m.due_at for m in said] == [due_ms, due_ms, due_ms + YEARS_9 // timedelta(milliseconds=1)]
    assert all(isinstance(m, DelayedRecordMetadata) and (m.topic, m.partition) == (topic, 0) for m in said)
    assert [record.metadata for record in waiting(conn)] == said


@pytest.mark.parametrize(
    "when",
    [
        {"delay_ms": 0},
        {"delay_ms": -5},
        {"deliver_at": datetime(1969, 1, 1, tzinfo=UTC)},
        {"deliver_at": datetime.now(UTC)},
    ],
    ids=["no delay", "negative delay", "long past", "just past"],
)
async def test_what_is_past_is_due_at_once(
    clients: Clients, conn: Connection, topic: str, when: dict[str, Any]
) -> None:
    """By the delay table nonetheless, so that what `send` returns does not depend on the clock."""
    before_ms: int = value(conn, "select floor(date_part('epoch', clock_timestamp()) * 1000)::int8")
    async with clients.producer() as producer:
        metadata = await (await producer.send(topic, b"v", **when))
    assert metadata.due_at >= before_ms
    assert values(conn, topic) == []
    assert waiting(conn)[0].metadata == metadata
    assert deliver(conn) == 1
    assert values(conn, topic) == [b"v"]


async def test_one_flush_for_many(clients: Clients, conn: Connection, wide_topic: str) -> None:
    reports: list[FlushReport] = []
    async with clients.producer(linger_ms=3_600_000, on_flush=reports.append) as producer:
        futures = [
            await producer.send(wide_topic, b"%d" % n, partition=n % 3, delay_ms=HOUR_MS * (1 + n % 2))
            for n in range(100)
        ]
        assert not futures[0].done()
        await producer.flush()
        said = [await future for future in futures]
        counted = producer.metrics()
    (report,) = reports
    assert (report.topics, report.partitions, report.records, report.attempts) == ((wide_topic,), 0, 100, 1)
    assert (counted["flushes_total"], counted["records_sent_total"], counted["buffer_bytes"]) == (1, 100, 0)
    assert counted["bytes_sent_total"] == report.bytes
    there = {record.delayed_id: record for record in waiting(conn)}
    assert len(there) == 100
    for n, metadata in enumerate(said):
        assert there[metadata.delayed_id].metadata == metadata
        assert there[metadata.delayed_id].value == b"%d" % n
        assert metadata.partition == n % 3


async def test_a_flush_of_both_kinds(clients: Clients, conn: Connection, topic: str) -> None:
    conn.execute("select pgq.create_topic('other')")
    reports: list[FlushReport] = []
    async with clients.producer(linger_ms=3_600_000, on_flush=reports.append) as producer:
        now, later, other = [], [], []
        for n in range(10):
            now.append(await producer.send(topic, b"now %d" % n, timestamp_ms=n))
            later.append(await producer.send(topic, b"later %d" % n, delay_ms=HOUR_MS))
            other.append(await producer.send("other", b"other %d" % n, delay_ms=0))
        await producer.flush()
        assert [await future for future in now] == [RecordMetadata(topic, 0, n, n) for n in range(10)]
        assert {m.metadata for m in waiting(conn)} == {await future for future in later + other}
    (report,) = reports
    assert (set(report.topics), report.partitions, report.records) == ({topic, "other"}, 1, 30)
    assert values(conn, topic) == [b"now %d" % n for n in range(10)]
    deliver_all(conn, 10)
    assert values(conn, "other") == [b"other %d" % n for n in range(10)]
    assert value(conn, "select count(*) from pgq.flush_marker") == 1


async def test_consumers_get_the_records_as_they_were_sent(clients: Clients, conn: Connection, topic: str) -> None:
    """Values are not compressed: they can be read in SQL while they wait."""
    big = b"compressible " * 1000
    sent = [
        {"value": big, "key": b"k", "headers": [("a", b"1"), ("a", None)], "timestamp_ms": 1_709_210_096_789},
        {"value": None, "key": b"", "headers": {"n": None}, "timestamp_ms": 0},
        {"value": b"", "key": None, "headers": None, "timestamp_ms": None},
        {"value": bytes(range(256)), "key": b"k", "headers": [("", b"\0")], "timestamp_ms": None},
    ]
    began_ms: int = value(conn, "select floor(date_part('epoch', clock_timestamp()) * 1000)::int8")
    async with clients.producer(compression_type="gzip") as producer:
        for record in sent:
            await producer.send(topic, **record, delay_ms=0)
    assert [record.value for record in waiting(conn)] == [record["value"] for record in sent]
    deliver_all(conn, len(sent))
    async with clients.consumer(topic) as consumer:
        got = await read(consumer, len(sent))
    pairs = [list(s["headers"].items() if isinstance(s["headers"], dict) else s["headers"] or ()) for s in sent]
    assert [(r.value, r.key, list(r.headers)) for r in got] == [
        (s["value"], s["key"], p) for s, p in zip(sent, pairs, strict=True)
    ]
    assert [r.timestamp for r in got[:2]] == [1_709_210_096_789, 0]
    assert all(r.timestamp >= began_ms for r in got[2:]), "when they were appended"


async def test_serializers(clients: Clients, conn: Connection, topic: str) -> None:
    async with clients.producer(key_serializer="str", value_serializer="json") as producer:
        await producer.send(topic, {"n": 1}, key="k", delay_ms=0)
        with pytest.raises(errors.InvalidRecordError):
            await producer.send(topic, object(), delay_ms=0)
    assert [(record.key, record.value) for record in waiting(conn)] == [(b"k", b'{"n":1}')]


async def test_partitions(clients: Clients, conn: Connection, wide_topic: str) -> None:
    """As those of other records: by the key, with the producer's partitioner; without one they change by the batch."""
    keys = [b"key %d" % n for n in range(20)]
    for partitioner in ("murmur2", "crc32"):
        async with clients.producer(partitioner=partitioner) as producer:
            futures = [await producer.send(wide_topic, b"v", key=key, delay_ms=HOUR_MS) for key in keys]
            said = [await future for future in futures]
        assert [m.partition for m in said] == [partition_for_key(key, 3, partitioner) for key in keys]
    async with clients.producer() as producer:
        said = []
        for _ in range(3):
            futures = [await producer.send(wide_topic, b"v", delay_ms=HOUR_MS) for _ in range(5)]
            await producer.flush()
            batch = [(await future).partition for future in futures]
            assert len(set(batch)) == 1
            said.append(batch[0])
    assert sorted(said) == [0, 1, 2]


async def test_many_hours(clients: Clients, conn: Connection, topic: str) -> None:
    """A batch is ended before its records are due in too many hours, each of which has a table of its own."""
    reports: list[FlushReport] = []
    async with clients.producer(linger_ms=3_600_000, on_flush=reports.append) as producer:
        start = datetime.now(UTC) + timedelta(hours=1)
        futures = [await producer.send(topic, b"%d" % n, deliver_at=start + timedelta(hours=n)) for n in range(150)]
        await producer.flush()
        said = [await future for future in futures]
    assert [report.records for report in reports] == [100, 50]
    assert [record.metadata for record in waiting(conn)] == said


async def test_done_callbacks(clients: Clients, conn: Connection, topic: str) -> None:
    called: list[DelayedRecordMetadata] = []
    async with clients.producer(linger_ms=3_600_000) as producer:
        future = await producer.send(topic, b"v", delay_ms=HOUR_MS)
        future.add_done_callback(lambda f: called.append(f.result()))
        await producer.flush()
        await until(lambda: len(called) == 1)
    assert called == [record.metadata for record in waiting(conn)]
    assert future.exception() is None


@pytest.mark.parametrize("acks", [0, 1, "all"])
async def test_acks(clients: Clients, conn: Connection, topic: str, acks: int | str) -> None:
    async with clients.producer(linger_ms=3_600_000) as producer:
        await producer.send(topic, b"now")
        await producer.send(topic, b"later", delay_ms=0, acks=acks)
        await producer.flush()
        assert producer.metrics()["flushes_total"] == (1 if acks == "all" else 2)
        with pytest.raises(errors.InvalidRequestError, match="acks"):
            await producer.send(topic, b"later", delay_ms=0, acks=2)
    assert deliver(conn) == 1


async def test_min_insync_replicas(clients: Clients, conn: Connection) -> None:
    call(conn, "create_topic", name="safe", config='{"min.insync.replicas": 2}')
    async with clients.producer(retries=0) as producer:
        future = await producer.send("safe", b"refused", delay_ms=HOUR_MS)
        with pytest.raises(errors.NotEnoughReplicasError):
            await future
        with pytest.raises(errors.NotEnoughReplicasError):
            await producer.flush()
        await (await producer.send("safe", b"v", delay_ms=HOUR_MS, acks=1))
    assert [record.value for record in waiting(conn)] == [b"v"]


async def test_the_buffer_is_bounded(clients: Clients, topic: str) -> None:
    options = {"linger_ms": 3_600_000, "delivery_timeout_ms": 7_200_000, "buffer_memory": 1000, "max_block_ms": 50}
    async with clients.producer(**options) as producer:
        await producer.send(topic, bytes(1000), delay_ms=HOUR_MS)
        assert producer.metrics()["buffer_bytes"] >= 1000
        with pytest.raises(errors.BufferFullError):
            await producer.send(topic, b"one too many", delay_ms=HOUR_MS)


# cancelling


async def test_cancel(clients: Clients, conn: Connection, topic: str) -> None:
    async with clients.producer() as producer, clients.admin() as admin:
        futures = [await producer.send(topic, b"%d" % n, delay_ms=0) for n in range(3)]
        ids = [(await future).delayed_id for future in futures]
        assert await admin.cancel_delayed(ids[1])
        assert not await admin.cancel_delayed(ids[1])
        deliver_all(conn, 2)
        assert values(conn, topic) == [b"0", b"2"]
        assert not await admin.cancel_delayed(ids[0])
        with pytest.raises(errors.InvalidDelayedIdError):
            await admin.cancel_delayed("no id")


# the application's own transaction


async def test_in_the_applications_transaction(
    clients_and_application: tuple[Clients, Callable[[], Any]], conn: Connection, wide_topic: str
) -> None:
    clients, application = clients_and_application
    at = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    async with clients.producer(partitioner="crc32") as producer, application() as app:
        said = []
        for end in ("rollback", "commit"):
            await app.execute("begin")
            future = await producer.send(
                wide_topic, b"v", key=b"k", headers=[("h", b"1")], deliver_at=at, connection=app.raw
            )
            assert future.done()
            said.append(await future)
            assert waiting(conn) == []
            await app.execute(end)
        assert not app.closed
        for refused in ({"topic": "nope"}, {"partition": 7}, {"delay_ms": 1}, {"deliver_at": datetime(2200, 1, 1)}):  # noqa: DTZ001
            with pytest.raises(errors.PgqError):
                await producer.send(
                    **{"topic": wide_topic, "value": b"v", "deliver_at": at, "connection": app.raw} | refused
                )
    assert [record.metadata for record in waiting(conn)] == said[1:]
    assert said[1].due_at == int(at.timestamp()) * 1000
    assert said[1].partition == partition_for_key(b"k", 3, "crc32")
    assert said[0].delayed_id != said[1].delayed_id


@pytest.mark.parametrize("kind", KINDS)
async def test_outbox(kind: str, dsn: str, conn: Connection, topic: str) -> None:
    """Collected with the other records, in the same transaction, and dropped with it."""
    async with KINDS[kind](dsn) as app:
        outbox = pgq.outbox(app.connection)
        async with app.sending(outbox):
            dropped = outbox.send(topic, b"dropped", delay_ms=0)
            raise Undo
        assert isinstance(dropped.exception(), errors.IllegalStateError)
        async with app.sending(outbox):
            first = outbox.send(topic, b"later", delay_ms=HOUR_MS)
            now = outbox.send(topic, b"now", timestamp_ms=1)
            second = outbox.send(topic, b"at once", key=b"k", headers=[("h", b"1")], delay_ms=0)
            assert not first.done()
            assert waiting(conn) == []
            with pytest.raises(errors.InvalidRequestError, match="time zone"):
                outbox.send(topic, b"v", deliver_at=datetime(2200, 1, 1))  # noqa: DTZ001
        assert now.result() == RecordMetadata(topic, 0, 0, 1)
        assert [record.metadata for record in waiting(conn)] == [second.result(), first.result()]
        async with app.sending(outbox):
            outbox.send(topic, b"alone", delay_ms=HOUR_MS)
    assert values(conn, topic) == [b"now"]
    assert deliver(conn) == 1
    assert values(conn, topic) == [b"now", b"at once"]
    assert [record.value for record in waiting(conn)] == [b"later", b"alone"]


# lost commits


async def test_every_first_commit_is_lost(
    clients: Clients, conn: Connection, proxy: Proxy, dsn: str, wide_topic: str
) -> None:
    """Each record waits once, and its future tells the id that it has; those for now are there once, too."""
    count = 150
    dice = random.Random(clients.world)

    def plan(number: int) -> Loss | None:
        return dice.choice(list(Loss)) if number % 2 or dice.random() < 0.1 else None

    proxy.plan = plan
    options = QUICK | {"linger_ms": 1, "batch_size": 2 * 64 + 2}
    async with clients.producer(dsn=proxy.dsn(dsn), **options) as producer:
        later, now = [], []
        for n in range(count):
            later.append(await producer.send(wide_topic, b"%d" % n, partition=n % 3, delay_ms=HOUR_MS))
            if n % 3:
                now.append(await producer.send(wide_topic, b"%d" % n, partition=0, timestamp_ms=n))
        said = [await future for future in later]
        appended = [await future for future in now]
    assert set(proxy.lost) == set(Loss)
    assert len(proxy.lost) > count / 3
    there = {record.delayed_id: record for record in waiting(conn)}
    assert len(there) == count
    for n, metadata in enumerate(said):
        record = there[metadata.delayed_id]
        assert (record.metadata, record.value) == (metadata, b"%d" % n)
    in_log = rows(conn, 'select "offset", value::int from pgq_topic.wide order by "offset"')
    assert in_log == [(m.offset, m.timestamp) for m in appended]
    async with clients.admin() as admin:
        assert all([await admin.cancel_delayed(m.delayed_id) for m in said])
    assert waiting(conn) == []


async def test_a_lost_answer_and_a_delivery_in_between(
    clients: Clients, conn: Connection, proxy: Proxy, dsn: str, topic: str
) -> None:
    """The first attempt has kept the record, and it is delivered before the second one looks: it is not kept again."""

    def plan(number: int) -> Loss | None:
        if number == 1:
            proxy.open.clear()  # the second attempt has to wait
            return Loss.REPLY
        return None

    proxy.plan = plan
    async with clients.producer(dsn=proxy.dsn(dsn), **QUICK) as producer:
        future = await producer.send(topic, b"v", delay_ms=0)
        await until(lambda: deliver(conn) == 1)
        assert not future.done()
        proxy.open.set()
        metadata = await future
    assert (metadata.topic, metadata.partition) == (topic, 0)
    assert waiting(conn) == []
    assert values(conn, topic) == [b"v"]
    async with clients.admin() as admin:
        assert not await admin.cancel_delayed(metadata.delayed_id)


async def test_without_idempotence_lost_answers_make_duplicates(
    clients: Clients, conn: Connection, proxy: Proxy, dsn: str, topic: str
) -> None:
    proxy.plan = lambda number: Loss.REPLY if number % 2 else None
    async with clients.producer(dsn=proxy.dsn(dsn), enable_idempotence=False, **QUICK) as producer:
        await (await producer.send(topic, b"v", delay_ms=HOUR_MS))
    assert len(waiting(conn)) == 2


# what is refused


@pytest.mark.parametrize(
    "record, error, says",
    [
        ({"deliver_at": datetime(2030, 1, 1)}, errors.InvalidRequestError, "time zone"),  # noqa: DTZ001
        ({"deliver_at": "2030-01-01"}, errors.InvalidRequestError, "datetime"),
        ({"deliver_at": datetime(2030, 1, 1, tzinfo=UTC), "delay_ms": 1}, errors.InvalidRequestError, "give one"),
        ({"delay_ms": "1"}, errors.InvalidRequestError, "milliseconds"),
        ({"delay_ms": True}, errors.InvalidRequestError, "milliseconds"),
        ({"delay_ms": float("nan")}, errors.InvalidRequestError, "milliseconds"),
        ({"delay_ms": float("inf")}, errors.InvalidTimestampError, "ten years"),
        ({"delay_ms": 11 * 366 * 24 * HOUR_MS}, errors.InvalidTimestampError, "ten years"),
        ({"deliver_at": datetime.max.replace(tzinfo=UTC)}, errors.InvalidTimestampError, "ten years"),
        ({"delay_ms": 1, "topic": "nope"}, errors.UnknownTopicError, "nope"),
        ({"delay_ms": 1, "partition": 1}, errors.UnknownPartitionError, "1"),
        ({"delay_ms": 1, "value": bytes(1_048_577)}, errors.MessageTooLargeError, "max.message.bytes"),
        ({"delay_ms": 1, "value": "text"}, errors.InvalidRecordError, "bytes"),
        ({"delay_ms": 1, "timestamp_ms": 253_402_300_799_999}, errors.InvalidTimestampError, "after.max.ms"),
        ({"delay_ms": 1, "timestamp_ms": -1}, errors.InvalidTimestampError, "range"),
        ({"delay_ms": 1, "topic": "keyed"}, errors.InvalidRecordError, "without a key"),
    ],
)
async def test_refused_at_once(
    clients: Clients, conn: Connection, topic: str, record: dict[str, Any], error: type[errors.PgqError], says: str
) -> None:
    """And the batch goes on without it."""
    call(conn, "create_topic", name="keyed", config='{"cleanup.policy": "compact"}')
    async with clients.producer(linger_ms=3_600_000) as producer:
        before = await producer.send(topic, b"kept", delay_ms=HOUR_MS)
        with pytest.raises(error, match=says):
            await producer.send(**{"topic": topic, "value": b"v"} | record)
        await producer.flush()
        assert await before == waiting(conn)[0].metadata
    assert [r.value for r in waiting(conn)] == [b"kept"]


async def test_a_deleted_topic_does_not_hurt_the_others(clients: Clients, conn: Connection, topic: str) -> None:
    conn.execute("select pgq.create_topic('gone')")
    async with clients.producer(linger_ms=3_600_000) as producer:
        await producer.partitions_for("gone")
        conn.execute("select pgq.delete_topic('gone')")
        lost = await producer.send("gone", b"v", delay_ms=HOUR_MS)
        kept = await producer.send(topic, b"kept", delay_ms=HOUR_MS)
        now = await producer.send(topic, b"now")
        with pytest.raises(errors.UnknownTopicOrPartitionError):
            await producer.flush()
        with pytest.raises(errors.UnknownTopicOrPartitionError):
            await lost
        assert await kept == waiting(conn)[0].metadata
        await now
        assert values(conn, topic) == [b"now"]
        assert producer.metrics()["record_errors_total"] == 1
        with pytest.raises(errors.UnknownTopicError):
            await producer.send("gone", b"v", delay_ms=HOUR_MS)
    assert len(waiting(conn)) == 1


async def test_a_fenced_producer_keeps_nothing(clients: Clients, conn: Connection, topic: str) -> None:
    async with clients.producer(transactional_id="one") as first:
        await (await first.send(topic, b"1", delay_ms=HOUR_MS))
        async with clients.producer(transactional_id="one") as second:
            await (await second.send(topic, b"2", delay_ms=HOUR_MS))
            future = await first.send(topic, b"3", delay_ms=HOUR_MS)
            with pytest.raises(errors.ProducerFencedError):
                await future
            with pytest.raises(errors.ProducerFencedError):
                await first.send(topic, b"4", delay_ms=HOUR_MS)
        with pytest.raises(errors.ProducerFencedError):
            await first.flush()
    assert [record.value for record in waiting(conn)] == [b"1", b"2"]


def test_a_member_that_waits_wakes_itself_for_what_it_delivers(dsn: str, topic: str, conn: Connection) -> None:
    """Its own session holds the lock by which appends see that somebody waits."""
    with pgq.Consumer(topic, dsn=dsn, group_id="g", auto_offset_reset="earliest") as consumer:
        eventually(lambda: not consumer.getmany(timeout_ms=200) and consumer._parking.parked)
        late = []
        for number in range(4):
            delay = timedelta(milliseconds=1100 + 37 * number)
            delayed_id = value(conn, "select pgq.produce_delayed(%s, 'x', clock_timestamp() + %s)", topic, delay)
            while not consumer.getmany(timeout_ms=5000):
                pass
            late.append(time.time() - int(delayed_id.split("-")[0]) / 1000)
        assert max(late) < 0.9, late
