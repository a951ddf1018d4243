"""Producer and AsyncProducer: what is sent is appended, once, in order; what cannot be is refused at once."""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from zlib import crc32

import pytest

import pgq
from pgq import RecordMetadata, TopicPartition, errors
from pgq.core.partitioner import partition_for_key
from tests.plugins.sessions import Connection, call, rows, value

from .conftest import Clients, read, until

YEAR_9999_MS = 253_402_300_799_999


def values(conn: Connection, topic: str, partition: int = 0) -> list[bytes]:
    return [v for (v,) in rows(conn, "select value from pgq.fetch(%s, %s, 0, 100000)", topic, partition)]


def create(conn: Connection, name: str, partitions: int = 1, config: str = "{}") -> None:
    conn.execute("select pgq.create_topic(%s, %s, %s::jsonb)", [name, partitions, config])


async def test_send_and_flush(clients: Clients, conn: Connection, topic: str) -> None:
    async with clients.producer() as producer:
        futures = [await producer.send(topic, b"%d" % i, timestamp_ms=1000 + i) for i in range(10)]
        await producer.flush()
        assert all(future.done() for future in futures)
        assert all(future.exception() is None for future in futures)
        assert [await future for future in futures] == [RecordMetadata(topic, 0, i, 1000 + i) for i in range(10)]
        assert (await futures[0]).topic_partition == TopicPartition(topic, 0)
    assert values(conn, topic) == [b"%d" % i for i in range(10)]


async def test_future_resolves_without_a_flush(clients: Clients, topic: str) -> None:
    async with clients.producer(linger_ms=1) as producer:
        assert (await (await producer.send(topic, b"v"))).offset == 0
        assert (await (await producer.send(topic, b"v"))).offset == 1


async def test_flush_does_not_wait_for_linger(clients: Clients, topic: str) -> None:
    async with clients.producer(linger_ms=3_600_000) as producer:
        future = await producer.send(topic, b"v")
        assert not future.done()
        await producer.flush()
        assert future.done()


async def test_batch_size_does_not_wait_for_linger(clients: Clients, topic: str) -> None:
    async with clients.producer(linger_ms=3_600_000, batch_size=10_000) as producer:
        futures = [await producer.send(topic, bytes(1000)) for _ in range(10)]
        assert [(await future).offset for future in futures[:9]] == list(range(9))


async def test_flush_of_nothing(clients: Clients) -> None:
    async with clients.producer() as producer:
        await producer.flush()
        await producer.flush()


async def test_done_callbacks(clients: Clients, topic: str) -> None:
    called: list[RecordMetadata] = []
    async with clients.producer(linger_ms=3_600_000) as producer:
        future = await producer.send(topic, b"v", timestamp_ms=1)
        future.add_done_callback(lambda f: called.append(f.result()))
        assert called == []
        await producer.flush()
        await until(lambda: len(called) == 1)
        future.add_done_callback(lambda f: called.append(f.result()))
        assert called == [RecordMetadata(topic, 0, 0, 1)] * 2


async def test_done_callback_that_raises_hurts_nobody(clients: Clients, topic: str) -> None:
    """Else every later record would wait for ever for a worker that has ended."""

    def fail(_: Any) -> None:
        raise RuntimeError("the application's mistake")

    called: list[Any] = []
    # not closed if the test fails, since that would wait for ever, too
    producer = clients.producer(linger_ms=3_600_000, batch_size=1000)
    first = await producer.send(topic, b"v")
    first.add_done_callback(fail)
    first.add_done_callback(called.append)
    await producer.flush()
    second = await producer.send(topic, bytes(1000))
    await until(second.done)
    await until(lambda: len(called) == 1)
    await producer.close()


async def test_order_is_kept_in_every_partition(clients: Clients, conn: Connection, wide_topic: str) -> None:
    async with clients.producer(batch_size=5_000, linger_ms=0) as producer:
        for i in range(3000):
            await producer.send(wide_topic, b"%d" % i, partition=i % 3)
    for partition in range(3):
        assert values(conn, wide_topic, partition) == [b"%d" % i for i in range(partition, 3000, 3)]


@pytest.mark.parametrize(
    "headers",
    [
        [("b", b"1"), ("a", b"2"), ("b", b"3")],
        [("n", None), ("", b""), ("ü'\"", bytes(range(256)))],
        [("x", None)],
    ],
)
async def test_headers_keep_order_duplicates_and_none(clients: Clients, topic: str, headers: Any) -> None:
    async with clients.producer() as producer, clients.consumer(topic) as consumer:
        await producer.send(topic, b"v", headers=headers)
        await producer.send(topic, b"v")
        await producer.send(topic, b"v", headers=[])
        await producer.flush()
        assert [record.headers for record in await read(consumer, 3)] == [tuple(headers), (), ()]


@pytest.mark.parametrize("key", [None, b"", b"k", bytes(range(256))])
@pytest.mark.parametrize("payload", [None, b"", b"v", bytes(range(256))])
async def test_bytes_come_back_as_sent(clients: Clients, topic: str, key: bytes | None, payload: bytes | None) -> None:
    async with clients.producer() as producer, clients.consumer(topic) as consumer:
        await (await producer.send(topic, payload, key=key))
        (record,) = await read(consumer, 1)
    assert (record.key, record.value, record.timestamp_type) == (key, payload, 0)


@pytest.mark.usefixtures("any_time")
async def test_random_records_come_back_as_sent(clients: Clients, topic: str) -> None:
    dice = random.Random(7)
    sent = [
        (
            dice.randbytes(dice.randrange(2000)) if dice.random() < 0.8 else None,
            dice.randbytes(dice.randrange(20)) if dice.random() < 0.5 else None,
            tuple((str(n), dice.choice([None, b"", dice.randbytes(9)])) for n in range(dice.randrange(4))),
            dice.randrange(2_000_000_000_000),
        )
        for _ in range(500)
    ]
    async with clients.producer(batch_size=30_000) as producer, clients.consumer(topic) as consumer:
        for payload, key, headers, timestamp_ms in sent:
            await producer.send(topic, payload, key=key, headers=headers, timestamp_ms=timestamp_ms)
        await producer.flush()
        received = await read(consumer, 500)
    assert [(r.value, r.key, r.headers, r.timestamp) for r in received] == sent


async def test_serializers_and_deserializers(clients: Clients, topic: str) -> None:
    producer = clients.producer(key_serializer=str.encode, value_serializer=lambda v: json.dumps(v).encode())
    consumer = clients.consumer(topic, key_deserializer=bytes.decode, value_deserializer=json.loads)
    async with producer, consumer:
        await producer.send(topic, {"a": [1, None]}, key="ü")
        await producer.send(topic, None, key=None)
        await producer.flush()
        assert [(r.key, r.value) for r in await read(consumer, 2)] == [("ü", {"a": [1, None]}), (None, None)]


async def test_key_decides_the_partition(clients: Clients, wide_topic: str) -> None:
    async with clients.producer() as producer:
        for key in (b"", b"21", b"foobar", b"abc"):
            assert (await (await producer.send(wide_topic, b"v", key=key))).partition == partition_for_key(key, 3)
            assert (await (await producer.send(wide_topic, b"v", key=key, partition=2))).partition == 2


async def test_crc32_decides_the_partition(clients: Clients, wide_topic: str) -> None:
    keys = [b"", b"23456", b"hejsan", b"k" * 100, b"abc"]
    expected = [crc32(key) % 3 for key in keys]
    assert expected != [partition_for_key(key, 3) for key in keys]
    async with clients.producer(partitioner="crc32") as producer:
        assert [(await producer.send_and_wait(wide_topic, b"v", key)).partition for key in keys] == expected
        future = await producer.send_many(wide_topic, [(b"v", key) for key in keys])
        assert [metadata.partition for metadata in await future] == expected
        assert {(await producer.send_and_wait(wide_topic, b"v")).partition for _ in range(12)} == {0, 1, 2}


async def test_a_function_decides_the_partition(clients: Clients, wide_topic: str) -> None:
    seen = []

    def by_last_byte(key: bytes, partitions: int) -> int:
        seen.append((key, partitions))
        return key[-1] - 1 if key else partitions

    async with clients.producer(partitioner=by_last_byte, key_serializer="str") as producer:
        for key in ("a\x01", "ü\x03", "x" * 100 + "\x02"):
            metadata = await producer.send_and_wait(wide_topic, b"v", key)
            assert metadata.partition == ord(key[-1]) - 1
            assert seen.pop() == (key.encode(), 3)
        await producer.send_and_wait(wide_topic, b"v", "a\x01", partition=2)
        await producer.send_and_wait(wide_topic, b"v")
        assert seen == []
        with pytest.raises(errors.InvalidRequestError, match="returned 3 for the key b''"):
            await producer.send(wide_topic, b"v", "")


async def test_records_without_a_key_are_spread_over_the_partitions(clients: Clients, wide_topic: str) -> None:
    async with clients.producer(linger_ms=0) as producer:
        used = {(await (await producer.send(wide_topic, b"v"))).partition for _ in range(12)}
    assert used == {0, 1, 2}


@pytest.mark.parametrize("timestamp_ms", [0, 1, 951_782_400_001, 1_709_210_096_789, YEAR_9999_MS])
@pytest.mark.usefixtures("any_time")
async def test_timestamp(clients: Clients, topic: str, timestamp_ms: int) -> None:
    async with clients.producer() as producer, clients.consumer(topic) as consumer:
        assert (await (await producer.send(topic, b"v", timestamp_ms=timestamp_ms))).timestamp == timestamp_ms
        (record,) = await read(consumer, 1)
    assert record.timestamp == timestamp_ms


async def test_partitions_for(clients: Clients, wide_topic: str) -> None:
    async with clients.producer() as producer:
        assert await producer.partitions_for(wide_topic) == {0, 1, 2}
        with pytest.raises(errors.UnknownTopicError):
            await producer.partitions_for("nope")


REFUSED = [
    pytest.param({"topic": "nope"}, errors.UnknownTopicError, id="unknown topic"),
    pytest.param({"topic": "ORDERS"}, errors.UnknownTopicError, id="another case"),
    pytest.param({"partition": 1}, errors.UnknownPartitionError, id="partition too large"),
    pytest.param({"partition": -1}, errors.UnknownPartitionError, id="negative partition"),
    pytest.param({"value": bytes(1_048_577)}, errors.MessageTooLargeError, id="value too large"),
    pytest.param({"value": bytes(1_048_576), "key": b"k"}, errors.MessageTooLargeError, id="too large with its key"),
    pytest.param(
        {"value": bytes(1_048_576), "headers": [("h", None)]}, errors.MessageTooLargeError, id="too large with headers"
    ),
    pytest.param({"value": "text"}, errors.InvalidRecordError, id="text value"),
    pytest.param({"key": 1}, errors.InvalidRecordError, id="number as key"),
    pytest.param({"headers": [("h", "text")]}, errors.InvalidRecordError, id="text header"),
    pytest.param({"headers": [(None, b"")]}, errors.InvalidRecordError, id="header without key"),
    pytest.param({"timestamp_ms": -1}, errors.InvalidTimestampError, id="timestamp before 1970"),
    pytest.param({"timestamp_ms": 1.5}, errors.InvalidTimestampError, id="fractional timestamp"),
    pytest.param({"timestamp_ms": 10**18}, errors.InvalidTimestampError, id="timestamp beyond the calendar"),
]


@pytest.mark.parametrize("record, error", REFUSED)
async def test_refused_record_raises_at_once_and_hurts_no_other(
    clients: Clients, conn: Connection, topic: str, record: dict[str, Any], error: type[Exception]
) -> None:
    async with clients.producer(linger_ms=3_600_000) as producer:
        before = await producer.send(topic, b"before")
        with pytest.raises(error):
            await producer.send(**({"topic": topic, "value": b"refused"} | record))
        after = await producer.send(topic, b"after")
        await producer.flush()
        assert [(await before).offset, (await after).offset] == [0, 1]
    assert values(conn, topic) == [b"before", b"after"]


async def test_largest_record(clients: Clients, topic: str) -> None:
    largest = random.Random(3).randbytes(1_048_576)
    async with clients.producer() as producer, clients.consumer(topic) as consumer:
        for _ in range(3):
            await producer.send(topic, largest)
        await producer.flush()
        assert [record.value for record in await read(consumer, 3)] == [largest] * 3


async def test_deleted_topic_fails_its_own_records_only(clients: Clients, conn: Connection) -> None:
    for name in ("gone", "fine", "good"):
        create(conn, name, 2)
    async with clients.producer(linger_ms=3_600_000) as producer:
        for name in ("gone", "fine", "good"):
            await (await _sent(producer, name))
        conn.execute("select pgq.delete_topic('gone')")
        futures = {
            name: [await producer.send(name, b"v", partition=p) for p in (0, 1)] for name in ("fine", "gone", "good")
        }
        with pytest.raises(errors.UnknownTopicOrPartitionError):
            await producer.flush()
        for future in futures["gone"]:
            with pytest.raises(errors.UnknownTopicOrPartitionError):
                await future
            assert isinstance(future.exception(), errors.UnknownTopicOrPartitionError)
        for name in ("fine", "good"):
            assert [(await future).partition for future in futures[name]] == [0, 1]
        with pytest.raises(errors.UnknownTopicError):
            await producer.send("gone", b"v")
        await producer.flush()


async def _sent(producer: Any, topic: str) -> Any:
    future = await producer.send(topic, b"first", partition=0)
    await producer.flush()
    return future


async def test_topic_made_again_is_found_again(clients: Clients, conn: Connection, topic: str) -> None:
    async with clients.producer() as producer:
        await (await producer.send(topic, b"old"))
        conn.execute("select pgq.delete_topic('orders')")
        create(conn, topic, 2)
        with pytest.raises(errors.UnknownTopicOrPartitionError):
            await (await producer.send(topic, b"lost"))
        assert (await (await producer.send(topic, b"new", partition=1))).offset == 0
        with pytest.raises(errors.UnknownTopicOrPartitionError):
            await producer.flush()


async def test_close_flushes(clients: Clients, conn: Connection, topic: str) -> None:
    producer = clients.producer(linger_ms=3_600_000)
    future = await producer.send(topic, b"v")
    await producer.close()
    assert future.done()
    assert values(conn, topic) == [b"v"]
    await producer.close()


async def test_leaving_the_context_flushes_also_after_an_error(clients: Clients, conn: Connection, topic: str) -> None:
    async def fail() -> None:
        async with clients.producer(linger_ms=3_600_000) as producer:
            await producer.send(topic, b"v")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    assert values(conn, topic) == [b"v"]


@pytest.mark.parametrize("known", [True, False])
async def test_closed_producer_refuses(clients: Clients, topic: str, known: bool) -> None:
    producer = clients.producer()
    if known:
        await producer.send(topic, b"v")
    await producer.close()
    for call_ in (lambda: producer.send(topic, b"v"), lambda: producer.partitions_for(topic), producer.start):
        with pytest.raises(errors.IllegalStateError):
            await call_()


async def test_first_sends_from_many_at_once(clients: Clients, conn: Connection, wide_topic: str) -> None:
    """Without a context manager the first of them starts the worker, and only one."""
    producer = clients.producer(linger_ms=0)
    futures = await asyncio.gather(*(producer.send(wide_topic, b"%d" % i, partition=i % 3) for i in range(24)))
    await until(lambda: all(future.done() for future in futures))
    metadata = [await future for future in futures]
    await producer.close()
    stored = sorted(int(v) for partition in range(3) for v in values(conn, wide_topic, partition))
    assert stored == list(range(24)), "each once"
    for i, md in enumerate(metadata):
        assert values(conn, wide_topic, md.partition)[md.offset] == b"%d" % i


def test_send_from_eight_threads_at_once(dsn: str, conn: Connection, wide_topic: str) -> None:
    together = threading.Barrier(8)
    futures: dict[int, list[Any]] = {}
    with pgq.Producer(dsn, linger_ms=0, batch_size=2000) as producer:

        def send(thread: int) -> None:
            together.wait(30)
            futures[thread] = [producer.send(wide_topic, b"%d %d" % (thread, i), partition=i % 3) for i in range(300)]

        threads = [threading.Thread(target=send, args=[n]) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        producer.flush()
    stored = {partition: values(conn, wide_topic, partition) for partition in range(3)}
    assert sum(map(len, stored.values())) == 2400
    for number in range(8):
        for i, future in enumerate(futures[number]):
            md = future.result(0)
            assert stored[md.partition][md.offset] == b"%d %d" % (number, i)
        for partition in range(3):
            own = [v for v in stored[partition] if v.startswith(b"%d " % number)]
            assert own == [b"%d %d" % (number, i) for i in range(partition, 300, 3)]


async def test_hundreds_of_partitions_in_one_flush(clients: Clients, conn: Connection) -> None:
    for number in range(6):
        create(conn, f"topic{number}", 45)
    async with clients.producer(linger_ms=3_600_000) as producer:
        futures = [
            await producer.send(f"topic{n}", b"%d %d %d" % (n, p, i), partition=p)
            for i in range(2)
            for n in range(6)
            for p in range(45)
        ]
        await producer.flush()
        assert all(future.exception() is None for future in futures)
    for n in range(6):
        for p in (0, 17, 44):
            assert values(conn, f"topic{n}", p) == [b"%d %d %d" % (n, p, i) for i in range(2)]


async def test_batch_wider_than_a_segment(clients: Clients, conn: Connection, topic: str) -> None:
    async with clients.producer(linger_ms=3_600_000, batch_size=2**30) as producer:
        for i in range(9000):
            await producer.send(topic, b"%d" % i)
        await producer.flush()
    assert values(conn, topic) == [b"%d" % i for i in range(9000)]


async def test_segments_are_made_ahead_by_the_producer(clients: Clients, conn: Connection, topic: str) -> None:
    async with clients.producer() as producer:
        for i in range(3000):
            await producer.send(topic, b"%d" % i)
        await producer.flush()
        await until(lambda: value(conn, "select count(*) from pgq.segment") == 2)


async def test_full_buffer_makes_send_wait_and_then_refuse(
    clients: Clients, conn: Connection, connect: Callable[[], Connection], topic: str
) -> None:
    blocker = connect()
    async with clients.producer(linger_ms=0, buffer_memory=20_000, max_block_ms=100) as producer:
        await (await producer.send(topic, b"first"))
        blocker.execute("begin")
        blocker.execute(f"lock table pgq_log.t{value(conn, 'select topic_id from pgq.topic')}")
        futures: list[Any] = []

        async def fill_the_buffer() -> None:
            while True:
                futures.append(await producer.send(topic, bytes(1000)))

        with pytest.raises(errors.BufferFullError):
            await fill_the_buffer()
        assert 10 < len(futures) < 25
        blocker.execute("commit")
        await producer.flush()
        assert [(await future).offset for future in futures] == list(range(1, len(futures) + 1))
        assert (await (await producer.send(topic, b"again"))).offset == len(futures) + 1


async def test_full_buffer_makes_send_wait_until_there_is_room(
    clients: Clients, conn: Connection, connect: Callable[[], Connection], topic: str
) -> None:
    blocker = connect()
    async with clients.producer(linger_ms=0, buffer_memory=5_000, max_block_ms=30_000) as producer:
        await (await producer.send(topic, b"first"))
        blocker.execute("begin")
        blocker.execute(f"lock table pgq_log.t{value(conn, 'select topic_id from pgq.topic')}")
        for _ in range(5):
            await producer.send(topic, bytes(1000))
        waiting = asyncio.create_task(producer.send(topic, b"last"))
        done, _ = await asyncio.wait([waiting], timeout=0.2)
        assert not done
        blocker.execute("commit")
        assert (await (await waiting)).offset == 6


async def test_records_larger_than_the_buffer_pass_one_by_one(clients: Clients, topic: str) -> None:
    async with clients.producer(buffer_memory=100) as producer:
        assert [(await (await producer.send(topic, bytes(1000)))).offset for _ in range(3)] == [0, 1, 2]


async def test_lost_connection_fails_at_most_one_batch_with_a_retriable_error(
    clients: Clients, conn: Connection, topic: str, terminate: Callable[[int], None]
) -> None:
    async with clients.producer() as producer:
        await (await producer.send(topic, b"before"))
        for (pid,) in rows(conn, "select pid from pg_stat_activity where application_name = 'pgq'"):
            terminate(pid)
        with suppress(errors.BrokerNotAvailableError):
            await (await producer.send(topic, b"during"))
        await (await producer.send(topic, b"after"))
        assert values(conn, topic) in ([b"before", b"after"], [b"before", b"during", b"after"])
        with suppress(errors.BrokerNotAvailableError):  # told once more, as the first error since the last flush
            await producer.flush()


@pytest.mark.parametrize("restored", ["default_transaction_isolation = 'serializable'", "search_path = 'nowhere'"])
async def test_settings_of_the_role_do_not_matter(
    clients: Clients, conn: Connection, topic: str, restored: str, database: str
) -> None:
    conn.execute(f"alter database {database} set {restored}")
    async with clients.producer() as producer, clients.consumer(topic) as consumer:
        await producer.send(topic, b"v", headers=[("h", b"1")])
        await producer.flush()
        assert [record.value for record in await read(consumer, 1)] == [b"v"]


@pytest.mark.parametrize(
    "option", [{"linger_ms": -1}, {"batch_size": 0}, {"buffer_memory": 0}, {"max_block_ms": -1}, {"partitioner": "x"}]
)
def test_bad_option_is_refused_before_any_io(clients: Clients, option: dict[str, Any]) -> None:
    with pytest.raises(errors.InvalidRequestError):
        clients.producer(dsn="host=/nowhere", **option)


async def test_records_of_sql_and_python_stand_in_one_log(clients: Clients, conn: Connection, topic: str) -> None:
    async with clients.producer() as producer:
        await (await producer.send(topic, b"python"))
        call(conn, "produce", topic=topic, value=b"sql")
        await (await producer.send(topic, b"python"))
    assert values(conn, topic) == [b"python", b"sql", b"python"]


async def test_send_and_wait(clients: Clients, conn: Connection, topic: str) -> None:
    async with clients.producer(linger_ms=1) as producer:
        assert await producer.send_and_wait(topic, b"v", timestamp_ms=5) == RecordMetadata(topic, 0, 0, 5)
        assert (await producer.send_and_wait(topic, b"w", b"k", [("h", None)], 0)).offset == 1
        with pytest.raises(errors.UnknownPartitionError):
            await producer.send_and_wait(topic, b"v", partition=7)
    assert values(conn, topic) == [b"v", b"w"]


async def test_send_many_keeps_order_over_batches(clients: Clients, conn: Connection) -> None:
    create(conn, "many", 3)
    records = [(b"%d" % i, b"k%d" % (i % 17)) for i in range(5000)]
    async with clients.producer(batch_size=20_000) as producer:
        future = await producer.send_many("many", iter(records))
        called: list[object] = []
        future.add_done_callback(called.append)
        await producer.flush()
        assert future.done()
        assert future.exception() is None
        placed = await future
        await until(lambda: len(called) == 1)
    assert [m.partition for m in placed] == [partition_for_key(key, 3) for _, key in records]
    for partition in range(3):
        mine = [(m.offset, records[i][0]) for i, m in enumerate(placed) if m.partition == partition]
        assert [offset for offset, _ in mine] == list(range(len(mine)))
        assert values(conn, "many", partition) == [v for _, v in mine]


async def test_send_many_takes_every_field(clients: Clients, conn: Connection, topic: str) -> None:
    create(conn, "fields", 2)
    async with clients.producer(value_serializer="json", key_serializer="str") as producer:
        future = await producer.send_many(
            "fields", [{"a": 1}, ([1],), ("v", "key"), (None, None, [("h", b"1"), ("h", None)], 1, 12)]
        )
        placed = await future
        assert placed[3] == RecordMetadata("fields", 1, placed[3].offset, 12)
    stored = {}
    for partition in range(2):
        for row in rows(
            conn, "select \"offset\", value, key, header_keys, header_values from pgq.fetch('fields', %s, 0)", partition
        ):
            stored[partition, row[0]] = row[1:]
    assert [stored[m.partition, m.offset] for m in placed] == [
        (b'{"a":1}', None, None, None),
        (b"[1]", None, None, None),
        (b'"v"', b"key", None, None),
        (None, None, ["h", "h"], [b"1", None]),
    ]


async def test_send_many_refuses_all_for_one(clients: Clients, conn: Connection, topic: str) -> None:
    async with clients.producer() as producer:
        for bad, error in [
            ((b"v", b"k", None, 9), errors.UnknownPartitionError),
            ((b"v", b"k", None, None, -1), errors.InvalidTimestampError),
            ((b"v", "text"), errors.InvalidRecordError),
            ((), errors.InvalidRecordError),
            ((b"v", b"k", None, None, None, None), errors.InvalidRecordError),
            ((bytes(2_000_000),), errors.MessageTooLargeError),
        ]:
            with pytest.raises(error):
                await producer.send_many(topic, [b"good", bad])
        with pytest.raises(errors.UnknownTopicError):
            await producer.send_many("nowhere", [b"v"])
        assert await (await producer.send_many(topic, [])) == []
        await producer.flush()
    assert values(conn, topic) == []


async def test_send_many_spreads_keyless_records(clients: Clients, conn: Connection) -> None:
    create(conn, "spread", 4)
    async with clients.producer(batch_size=5_000) as producer:
        placed = await (await producer.send_many("spread", [bytes(100)] * 1000))
    assert {m.partition for m in placed} == {0, 1, 2, 3}


async def test_send_many_waits_for_room(clients: Clients, conn: Connection, topic: str) -> None:
    async with clients.producer(buffer_memory=50_000, batch_size=10_000) as producer:
        placed = await (await producer.send_many(topic, [bytes(1000)] * 500))
    assert [m.offset for m in placed] == list(range(500))


async def test_send_many_tells_what_was_not_appended(clients: Clients, conn: Connection, topic: str) -> None:
    async with clients.producer(linger_ms=3_600_000, batch_size=10_000) as producer:
        await producer.send_and_wait(topic, bytes(20_000))
        conn.execute("select pgq.delete_topic(%s)", [topic])
        future = await producer.send_many(topic, [bytes(1000)] * 30)
        with pytest.raises(errors.UnknownTopicOrPartitionError):
            await producer.flush()
        with pytest.raises(errors.UnknownTopicOrPartitionError):
            await future
        assert isinstance(future.exception(), errors.UnknownTopicOrPartitionError)


async def test_send_many_of_a_closed_producer(clients: Clients, topic: str) -> None:
    producer = clients.producer()
    await producer.start()
    await producer.send_and_wait(topic, b"v")
    await producer.close()
    with pytest.raises(errors.IllegalStateError):
        await producer.send_many(topic, [b"v"])
