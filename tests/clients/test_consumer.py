"""Consumer and AsyncConsumer: every record, once, in order by partition, from where the application says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from pgq import ConsumerRecord, OffsetAndMetadata, OffsetAndTimestamp, TopicPartition, errors
from tests.plugins.sessions import Connection, call, rows, value

from .conftest import Clients, expect_nothing, read


def fill(conn: Connection, topic: str, count: int, partition: int = 0) -> None:
    """Append records whose values are their numbers, from 0 on."""
    conn.execute(
        "select from generate_series(0, %s - 1) n, pgq.produce(%s, n::text::bytea, partition => %s)",
        [count, topic, partition],
    )


def roll_back(conn: Connection, topic: str, count: int = 1) -> None:
    """Take offsets of partition 0 that are never filled."""
    with conn.transaction(force_rollback=True):
        fill(conn, topic, count)


def offsets(records: list[ConsumerRecord]) -> list[int]:
    return [record.offset for record in records]


# what is read


async def test_record(clients: Clients, conn: Connection, tp: TopicPartition) -> None:
    call(conn, "produce", topic=tp.topic, value=b"v", key=b"k", timestamp="1970-01-01 00:00:01.5+00")
    async with clients.consumer(tp.topic) as consumer:
        assert await consumer.getmany(timeout_ms=1000) == {
            tp: [ConsumerRecord(tp.topic, 0, 0, 1500, 0, b"k", b"v", ())]
        }


async def test_several_topics(clients: Clients, conn: Connection, topic: str, wide_topic: str) -> None:
    fill(conn, topic, 3)
    for partition in range(3):
        fill(conn, wide_topic, 3, partition)
    async with clients.consumer(topic, wide_topic) as consumer:
        assert consumer.assignment() == {TopicPartition(topic, 0)} | {TopicPartition(wide_topic, p) for p in range(3)}
        records = await read(consumer, 12)
    for assigned in {(r.topic, r.partition) for r in records}:
        assert offsets([r for r in records if (r.topic, r.partition) == assigned]) == [0, 1, 2]


async def test_max_records(clients: Clients, conn: Connection, wide_topic: str) -> None:
    for partition in range(3):
        fill(conn, wide_topic, 10, partition)
    async with clients.consumer(wide_topic, max_poll_records=7) as consumer:
        for limit, expected in ((None, 7), (1, 1), (4, 4), (100, 18)):
            batches = await consumer.getmany(timeout_ms=1000, max_records=limit)
            assert 0 < sum(map(len, batches.values())) <= expected
            assert all(batches.values()), "no empty lists"


async def test_getmany_of_some_partitions(clients: Clients, conn: Connection, wide_topic: str) -> None:
    for partition in range(3):
        fill(conn, wide_topic, 2, partition)
    async with clients.consumer(wide_topic) as consumer:
        only = TopicPartition(wide_topic, 1)
        assert list(await consumer.getmany(only, timeout_ms=1000)) == [only]
        assert await consumer.getmany(only) == {}
        assert len(await read(consumer, 4)) == 4


async def test_getmany_returns_empty_when_the_time_is_up(clients: Clients, topic: str) -> None:
    async with clients.consumer(topic) as consumer:
        assert await consumer.getmany() == {}
        assert await asyncio.wait_for(consumer.getmany(timeout_ms=50), 10) == {}


async def test_getmany_waits_for_the_first_record(clients: Clients, conn: Connection, topic: str) -> None:
    async with clients.consumer(topic) as consumer:
        waiting = asyncio.create_task(consumer.getmany(timeout_ms=30_000))
        done, _ = await asyncio.wait([waiting], timeout=0.1)
        assert not done
        fill(conn, topic, 1)
        assert [offsets(batch) for batch in (await waiting).values()] == [[0]]


async def test_iteration(clients: Clients, conn: Connection, tp: TopicPartition) -> None:
    fill(conn, tp.topic, 1000)
    seen = []
    async with clients.consumer(tp.topic) as consumer:
        async for record in consumer:
            seen.append(record)
            assert await consumer.position(tp) == record.offset + 1
            if len(seen) == 1000:
                break
    assert [(r.offset, r.value) for r in seen] == [(i, b"%d" % i) for i in range(1000)]


async def test_iteration_and_getmany_share_one_position(clients: Clients, conn: Connection, tp: TopicPartition) -> None:
    fill(conn, tp.topic, 10)
    async with clients.consumer(tp.topic) as consumer:
        assert (await consumer.getone()).offset == 0
        fill(conn, tp.topic, 5)
        assert offsets(await read(consumer, 14)) == list(range(1, 15))


async def test_getmany_of_a_partition_beside_the_one_that_iteration_read_ahead(
    clients: Clients, conn: Connection, wide_topic: str
) -> None:
    """getmany looks further than what was read ahead."""
    fill(conn, wide_topic, 5, partition=0)
    async with clients.consumer(wide_topic) as consumer:
        assert (await consumer.getone()).partition == 0
        fill(conn, wide_topic, 1, partition=1)
        other = TopicPartition(wide_topic, 1)
        assert list(await consumer.getmany(other, timeout_ms=5000)) == [other]
        assert offsets(await read(consumer, 4)) == [1, 2, 3, 4]


async def test_many_segments_and_rolled_back_offsets(clients: Clients, conn: Connection, topic: str) -> None:
    for _ in range(5):
        fill(conn, topic, 900)
        roll_back(conn, topic, 700)
    fill(conn, topic, 1)
    expected = [o for o in range(8000) if o % 1600 < 900] + [8000]
    async with clients.consumer(topic, max_poll_records=333) as consumer:
        assert offsets(await read(consumer, len(expected))) == expected


async def test_open_transaction_is_waited_for(
    clients: Clients, conn: Connection, connect: Callable[[], Connection], topic: str
) -> None:
    fill(conn, topic, 2)
    producer = connect()
    producer.execute("begin")
    fill(producer, topic, 2)
    fill(conn, topic, 2)
    async with clients.consumer(topic) as consumer:
        assert offsets(await read(consumer, 2)) == [0, 1]
        await expect_nothing(consumer)
        producer.execute("commit")
        assert offsets(await read(consumer, 4)) == [2, 3, 4, 5]


async def test_reads_while_written(clients: Clients, topic: str) -> None:
    async with clients.producer(linger_ms=0, batch_size=3000) as producer, clients.consumer(topic) as consumer:
        reading = asyncio.create_task(read(consumer, 2000))
        for i in range(2000):
            await producer.send(topic, b"%d" % i)
            if i % 100 == 0:
                await producer.flush()
        await producer.flush()
        records = await reading
    assert [(r.offset, r.value) for r in records] == [(i, b"%d" % i) for i in range(2000)]


async def test_busy_partition_does_not_starve_the_others(clients: Clients, conn: Connection, wide_topic: str) -> None:
    """A partition whose window was full is not read before all others until it is empty."""
    fill(conn, wide_topic, 1000, partition=0)
    async with clients.consumer(wide_topic, max_poll_records=10) as consumer:
        await read(consumer, 20)
        for partition in (1, 2):
            fill(conn, wide_topic, 1, partition)
        polled = [set(await consumer.getmany(timeout_ms=1000)) for _ in range(6)]
    assert set().union(*polled) == {TopicPartition(wide_topic, p) for p in range(3)}


async def test_busy_partitions_take_turns(clients: Clients, conn: Connection, wide_topic: str) -> None:
    """As above."""
    for partition in range(3):
        fill(conn, wide_topic, 200, partition)
    async with clients.consumer(wide_topic, max_poll_records=10) as consumer:
        counts = {TopicPartition(wide_topic, partition): 0 for partition in range(3)}
        for _ in range(30):
            for tp, batch in (await consumer.getmany(timeout_ms=1000)).items():
                counts[tp] += len(batch)
    assert min(counts.values()) >= 80, counts


async def test_deserializer_that_fails_loses_nothing(clients: Clients, conn: Connection, wide_topic: str) -> None:
    for partition in (0, 2):
        fill(conn, wide_topic, 5, partition)
    call(conn, "produce", topic=wide_topic, value=b"poison", partition=1)
    poison = TopicPartition(wide_topic, 1)
    seen = []
    async with clients.consumer(wide_topic, value_deserializer=int) as consumer:
        for _ in range(6):
            try:
                batches = await consumer.getmany(timeout_ms=100)
            except ValueError:
                continue
            seen += [record for batch in batches.values() for record in batch]
        assert await consumer.position(poison) == 0
        await consumer.seek(poison, 1)
        while batches := await consumer.getmany(timeout_ms=100):
            seen += [record for batch in batches.values() for record in batch]
    assert sorted((r.partition, r.value) for r in seen) == [(p, i) for p in (0, 2) for i in range(5)]


# where it starts and goes on


@pytest.mark.parametrize("reset, expected", [("earliest", [0, 1, 2, 3]), ("latest", [3])])
async def test_start_without_a_committed_offset(
    clients: Clients, conn: Connection, tp: TopicPartition, reset: str, expected: list[int]
) -> None:
    fill(conn, tp.topic, 3)
    async with clients.consumer(tp.topic, auto_offset_reset=reset) as consumer:
        assert await consumer.position(tp) == expected[0]
        fill(conn, tp.topic, 1)
        assert offsets(await read(consumer, len(expected))) == expected


@pytest.mark.parametrize("group_id", [None, "g"])
async def test_start_without_a_committed_offset_is_refused_by_none(
    clients: Clients, tp: TopicPartition, group_id: str | None
) -> None:
    async with clients.consumer(tp.topic, auto_offset_reset="none", group_id=group_id) as consumer:
        for ask in (consumer.getmany, lambda: consumer.position(tp)):
            with pytest.raises(errors.NoOffsetForPartitionError, match="auto_offset_reset"):
                await ask()
        await consumer.seek(tp, 0)
        assert await consumer.getmany() == {}


@pytest.mark.parametrize("offset", [1, 11, 2**40, 2**63 - 1])
@pytest.mark.parametrize("reset", ["earliest", "latest", "none"])
async def test_position_out_of_range(
    clients: Clients, conn: Connection, tp: TopicPartition, reset: str, offset: int
) -> None:
    fill(conn, tp.topic, 10)
    conn.execute("select pgq.delete_records('orders', 0, 4)")
    async with clients.consumer(tp.topic, auto_offset_reset=reset) as consumer:
        await consumer.seek(tp, offset)
        if reset == "none":
            for _ in range(3):
                with pytest.raises(errors.OffsetOutOfRangeError):
                    await consumer.getmany(timeout_ms=100)
            assert await consumer.position(tp) == offset
            await consumer.seek(tp, 9)
            assert offsets(await read(consumer, 1)) == [9]
        else:
            expected = list(range(4, 10)) if reset == "earliest" else []
            assert offsets(await read(consumer, len(expected))) == expected
            await expect_nothing(consumer)
            assert await consumer.position(tp) == 10


async def test_log_start_that_passes_the_position(clients: Clients, conn: Connection, tp: TopicPartition) -> None:
    fill(conn, tp.topic, 10)
    async with clients.consumer(tp.topic, auto_offset_reset="none") as consumer:
        await consumer.seek(tp, 0)
        assert offsets((await consumer.getmany(max_records=2, timeout_ms=1000))[tp]) == [0, 1]
        conn.execute("select pgq.delete_records('orders', 0, 5)")
        # what is there may still be read; what is not must not be skipped in silence
        try:
            batches = await consumer.getmany(timeout_ms=1000)
        except errors.OffsetOutOfRangeError:
            return
        assert offsets(batches[tp]) == list(range(2, 10))


async def test_out_of_range_in_one_partition_loses_nothing_of_another(
    clients: Clients, conn: Connection, wide_topic: str
) -> None:
    for partition in range(3):
        fill(conn, wide_topic, 10, partition)
    seen: list[ConsumerRecord] = []
    async with clients.consumer(wide_topic, auto_offset_reset="none") as consumer:
        for partition in range(3):
            await consumer.seek(TopicPartition(wide_topic, partition), 5000 if partition == 1 else 0)
        for _ in range(6):
            try:
                batches = await consumer.getmany(timeout_ms=100)
            except errors.OffsetOutOfRangeError:
                continue
            seen += [record for batch in batches.values() for record in batch]
        await consumer.seek(TopicPartition(wide_topic, 1), 10)
        while batches := await consumer.getmany(timeout_ms=100):
            seen += [record for batch in batches.values() for record in batch]
    assert sorted((r.partition, r.offset) for r in seen) == [(p, o) for p in (0, 2) for o in range(10)]


async def test_seek(clients: Clients, conn: Connection, tp: TopicPartition) -> None:
    fill(conn, tp.topic, 10)
    async with clients.consumer(tp.topic) as consumer:
        for offset in (7, 0, 9, 10, 3):
            await consumer.seek(tp, offset)
            assert await consumer.position(tp) == offset
            assert offsets(await read(consumer, 10 - offset)) == list(range(offset, 10))


async def test_seek_discards_what_iteration_read_ahead(clients: Clients, conn: Connection, tp: TopicPartition) -> None:
    fill(conn, tp.topic, 10)
    async with clients.consumer(tp.topic) as consumer:
        assert (await consumer.getone()).offset == 0
        await consumer.seek(tp, 5)
        assert (await consumer.getone()).offset == 5
        await consumer.seek_to_beginning()
        assert (await consumer.getone()).offset == 0


async def test_seek_to_beginning_and_end(clients: Clients, conn: Connection, wide_topic: str) -> None:
    for partition in range(3):
        fill(conn, wide_topic, 5, partition)
    conn.execute("select pgq.delete_records('wide', 1, 2)")
    tps = [TopicPartition(wide_topic, partition) for partition in range(3)]
    async with clients.consumer(wide_topic) as consumer:
        await consumer.seek_to_end()
        assert [await consumer.position(tp) for tp in tps] == [5, 5, 5]
        await expect_nothing(consumer)
        await consumer.seek_to_beginning(tps[1])
        assert [await consumer.position(tp) for tp in tps] == [5, 2, 5]
        await consumer.seek_to_beginning()
        assert [await consumer.position(tp) for tp in tps] == [0, 2, 0]
        await consumer.seek_to_end(tps[0], tps[2])
        assert offsets(await read(consumer, 3)) == [2, 3, 4]


@pytest.mark.parametrize("offset", [-1, 1.5, "0", None])
async def test_bad_seek_is_refused(clients: Clients, tp: TopicPartition, offset: Any) -> None:
    async with clients.consumer(tp.topic) as consumer:
        with pytest.raises(errors.InvalidRequestError):
            await consumer.seek(tp, offset)


async def test_partition_that_is_not_assigned_is_refused(clients: Clients, topic: str, wide_topic: str) -> None:
    other = TopicPartition(wide_topic, 0)
    async with clients.consumer(topic) as consumer:
        for ask in (lambda: consumer.seek(other, 0), lambda: consumer.position(other)):
            with pytest.raises(errors.IllegalStateError, match="not assigned"):
                await ask()
        for ask in (consumer.pause, consumer.resume):
            with pytest.raises(errors.IllegalStateError, match="not assigned"):
                ask(other)


async def test_assign(clients: Clients, conn: Connection, wide_topic: str) -> None:
    for partition in range(3):
        fill(conn, wide_topic, 2, partition)
    tps = [TopicPartition(wide_topic, partition) for partition in range(3)]
    async with clients.consumer() as consumer:
        with pytest.raises(errors.IllegalStateError, match="assign"):
            await consumer.getmany()
        await consumer.assign([tps[1]])
        assert consumer.assignment() == {tps[1]}
        assert {r.partition for r in await read(consumer, 2)} == {1}
        await consumer.assign([(wide_topic, 1), tps[2]])
        assert consumer.assignment() == {tps[1], tps[2]}
        assert {r.partition for r in await read(consumer, 2)} == {2}, "a partition that stays keeps its position"
        await expect_nothing(consumer)


@pytest.mark.parametrize(
    "assigned, error",
    [
        (("nope", 0), errors.UnknownTopicError),
        (("orders", 1), errors.UnknownPartitionError),
        (("orders", -1), errors.UnknownPartitionError),
    ],
)
async def test_unknown_partition_is_refused(
    clients: Clients, topic: str, assigned: tuple[str, int], error: type[Exception]
) -> None:
    async with clients.consumer(topic) as consumer:
        unknown = TopicPartition(*assigned)
        for ask in (
            lambda: consumer.assign([unknown]),
            lambda: consumer.beginning_offsets([unknown]),
            lambda: consumer.end_offsets([unknown]),
            lambda: consumer.offsets_for_times({unknown: 0}),
        ):
            with pytest.raises(error):
                await ask()
        assert consumer.assignment() == {TopicPartition(topic, 0)}


async def test_unknown_topic_is_refused(clients: Clients) -> None:
    with pytest.raises(errors.UnknownTopicError):
        async with clients.consumer("nope"):
            pass


async def test_topic_deleted_meanwhile(clients: Clients, conn: Connection, topic: str) -> None:
    fill(conn, topic, 3)
    async with clients.consumer(topic) as consumer:
        await read(consumer, 3)
        conn.execute("select pgq.delete_topic('orders')")
        with pytest.raises(errors.UnknownTopicError):
            await consumer.getmany()


async def test_topic_deleted_before_it_was_read_to_its_end(clients: Clients, conn: Connection, topic: str) -> None:
    fill(conn, topic, 30)
    async with clients.consumer(topic, max_poll_records=10) as consumer:
        await read(consumer, 10)
        conn.execute("select pgq.delete_topic('orders')")
        with pytest.raises(errors.UnknownTopicError):
            await consumer.getmany()


async def test_pause_and_resume(clients: Clients, conn: Connection, wide_topic: str) -> None:
    tps = [TopicPartition(wide_topic, partition) for partition in range(3)]
    async with clients.consumer(wide_topic) as consumer:
        consumer.pause(tps[0], tps[2])
        assert consumer.paused() == {tps[0], tps[2]}
        for partition in range(3):
            fill(conn, wide_topic, 1, partition)
        assert [r.partition for r in await read(consumer, 1)] == [1]
        await expect_nothing(consumer)
        consumer.resume(tps[2])
        assert [r.partition for r in await read(consumer, 1)] == [2]
        consumer.resume(*tps)
        assert consumer.paused() == set()
        assert [r.partition for r in await read(consumer, 1)] == [0]


async def test_pause_holds_back_what_iteration_read_ahead(clients: Clients, conn: Connection, wide_topic: str) -> None:
    fill(conn, wide_topic, 5, partition=0)
    async with clients.consumer(wide_topic) as consumer:
        assert (await consumer.getone()).partition == 0
        consumer.pause(TopicPartition(wide_topic, 0))
        fill(conn, wide_topic, 1, partition=1)
        assert (await consumer.getone()).partition == 1
        consumer.resume(TopicPartition(wide_topic, 0))
        assert (await consumer.getone())[1:3] == (0, 1)


# what it tells


async def test_beginning_and_end_offsets(clients: Clients, conn: Connection, wide_topic: str) -> None:
    fill(conn, wide_topic, 5)
    conn.execute("select pgq.delete_records('wide', 0, 2)")
    first, second = TopicPartition(wide_topic, 0), TopicPartition(wide_topic, 1)
    async with clients.consumer() as consumer:
        assert await consumer.beginning_offsets([first, second]) == {first: 2, second: 0}
        assert await consumer.end_offsets([first, second]) == {first: 5, second: 0}
        assert await consumer.beginning_offsets([]) == {}


async def test_end_offset_is_the_high_watermark(
    clients: Clients, conn: Connection, connect: Callable[[], Connection], tp: TopicPartition
) -> None:
    producer = connect()
    fill(conn, tp.topic, 1)
    producer.execute("begin")
    fill(producer, tp.topic, 1)
    fill(conn, tp.topic, 1)
    async with clients.consumer(auto_offset_reset="latest") as consumer:
        assert await consumer.end_offsets([tp]) == {tp: 1}
        await consumer.assign([tp])
        assert await consumer.position(tp) == 1
        producer.execute("commit")
        assert offsets(await read(consumer, 2)) == [1, 2]


async def test_offsets_for_times(clients: Clients, conn: Connection, wide_topic: str) -> None:
    for seconds in (10, 20, 15):
        call(conn, "produce", topic=wide_topic, value=b"v", partition=0, timestamp=f"1970-01-01 00:00:{seconds}+00")
    first, second = TopicPartition(wide_topic, 0), TopicPartition(wide_topic, 1)
    async with clients.consumer() as consumer:
        assert await consumer.offsets_for_times({first: 11_000, second: 0}) == {
            first: OffsetAndTimestamp(1, 20_000),
            second: None,
        }
        assert await consumer.offsets_for_times({first: 0}) == {first: OffsetAndTimestamp(0, 10_000)}
        assert await consumer.offsets_for_times({first: 20_001}) == {first: None}


# committed offsets


async def test_commit_what_was_read(clients: Clients, conn: Connection, wide_topic: str) -> None:
    for partition in range(2):
        fill(conn, wide_topic, 5, partition)
    tps = [TopicPartition(wide_topic, partition) for partition in range(3)]
    async with clients.consumer(wide_topic, group_id="g") as consumer:
        assert [await consumer.committed(tp) for tp in tps] == [None] * 3
        await read(consumer, 10)
        await consumer.commit()
        assert [await consumer.committed(tp) for tp in tps] == [5, 5, 0]
        fill(conn, wide_topic, 1)
    async with clients.consumer(wide_topic, group_id="g", auto_offset_reset="none") as consumer:
        assert offsets(await read(consumer, 1)) == [5]
    async with clients.consumer(wide_topic, group_id="another") as consumer:
        assert len(await read(consumer, 11)) == 11


async def test_commit_in_the_middle_of_an_iteration(clients: Clients, conn: Connection, tp: TopicPartition) -> None:
    fill(conn, tp.topic, 10)
    async with clients.consumer(tp.topic, group_id="g") as consumer:
        for _ in range(4):
            await consumer.getone()
        await consumer.commit()
        assert await consumer.committed(tp) == 4


async def test_commit_of_given_offsets(clients: Clients, conn: Connection, tp: TopicPartition) -> None:
    fill(conn, tp.topic, 10)
    async with clients.consumer(tp.topic, group_id="g") as consumer:
        await consumer.commit({tp: 7})
        assert await consumer.committed(tp) == 7
        await consumer.commit({tp: OffsetAndMetadata(3, "it's")})
        assert await consumer.committed(tp) == 3
        assert rows(conn, "select metadata from pgq.committed_offsets('g')") == [("it's",)]
        await consumer.seek_to_committed()
        assert offsets(await read(consumer, 7)) == list(range(3, 10))
        await consumer.commit({})


async def test_commit_of_nothing_read_yet(clients: Clients, conn: Connection, topic: str) -> None:
    async with clients.consumer(topic, group_id="g") as consumer:
        await consumer.commit()
    assert value(conn, "select count(*) from pgq.committed_offset") == 0


async def test_committed_offset_out_of_range(clients: Clients, conn: Connection, tp: TopicPartition) -> None:
    fill(conn, tp.topic, 10)
    async with clients.consumer(tp.topic, group_id="g") as consumer:
        await consumer.commit({tp: 2})
    conn.execute("select pgq.delete_records('orders', 0, 5)")
    async with clients.consumer(tp.topic, group_id="g", enable_auto_commit=False) as consumer:
        assert offsets(await read(consumer, 5)) == list(range(5, 10))
    async with clients.consumer(tp.topic, group_id="g", auto_offset_reset="none") as consumer:
        with pytest.raises(errors.OffsetOutOfRangeError):
            await consumer.getmany(timeout_ms=1000)


@pytest.mark.parametrize(
    "committed, error",
    [
        ({TopicPartition("orders", 0): -1}, errors.InvalidCommitOffsetError),
        ({TopicPartition("orders", 0): OffsetAndMetadata(1, "x" * 4097)}, errors.InvalidCommitOffsetError),
        ({TopicPartition("nope", 0): 1}, errors.UnknownTopicError),
        ({TopicPartition("orders", 1): 1}, errors.UnknownPartitionError),
    ],
)
async def test_bad_commit_is_refused(clients: Clients, topic: str, committed: Any, error: type[Exception]) -> None:
    async with clients.consumer(topic, group_id="g") as consumer:
        with pytest.raises(error):
            await consumer.commit(committed)
        assert await consumer.committed(TopicPartition(topic, 0)) is None


async def test_without_a_group_nothing_is_committed(clients: Clients, tp: TopicPartition) -> None:
    async with clients.consumer(tp.topic) as consumer:
        for ask in (consumer.commit, lambda: consumer.commit({tp: 1}), lambda: consumer.committed(tp)):
            with pytest.raises(errors.InvalidGroupIdError):
                await ask()


@pytest.mark.parametrize("group_id", ["", "x" * 250])
async def test_bad_group_id_is_refused(clients: Clients, tp: TopicPartition, group_id: str) -> None:
    with pytest.raises(errors.InvalidGroupIdError):
        clients.consumer(tp.topic, group_id=group_id)


# connections


@pytest.mark.parametrize("seeking", [True, False])
async def test_lost_connection_keeps_the_positions(
    clients: Clients, conn: Connection, tp: TopicPartition, terminate: Callable[[int], None], seeking: bool
) -> None:
    fill(conn, tp.topic, 10)
    async with clients.consumer(tp.topic, max_poll_records=4) as consumer:
        assert offsets(await read(consumer, 4)) == [0, 1, 2, 3]
        for (pid,) in rows(conn, "select pid from pg_stat_activity where application_name = 'pgq'"):
            terminate(pid)
        if seeking:
            await consumer.seek(tp, 2)
        try:
            first = [r for batch in (await consumer.getmany(timeout_ms=1000)).values() for r in batch]
        except errors.BrokerNotAvailableError:
            first = []
        position = 2 if seeking else 4
        assert offsets(first + await read(consumer, 10 - position - len(first))) == list(range(position, 10))


async def test_connection_lost_while_waiting(
    clients: Clients, conn: Connection, tp: TopicPartition, terminate: Callable[[int], None]
) -> None:
    async with clients.consumer(tp.topic) as consumer:
        waiting = asyncio.create_task(consumer.getmany(timeout_ms=10_000))
        await asyncio.wait([waiting], timeout=0.05)
        for (pid,) in rows(conn, "select pid from pg_stat_activity where application_name = 'pgq'"):
            terminate(pid)
        fill(conn, tp.topic, 1)
        try:
            records = (await waiting)[tp]
        except errors.BrokerNotAvailableError as error:
            if not error.retriable or error.__cause__ is None:
                raise
            records = await read(consumer, 1)
        assert offsets(records) == [0]


async def test_closed_consumer_refuses(clients: Clients, tp: TopicPartition) -> None:
    consumer = clients.consumer(tp.topic, group_id="g")
    await consumer.start()
    await consumer.close()
    await consumer.close()
    for ask in (
        consumer.start,
        consumer.getmany,
        consumer.getone,
        lambda: consumer.assign([tp]),
        lambda: consumer.end_offsets([tp]),
        lambda: consumer.commit({tp: 1}),
        lambda: consumer.committed(tp),
    ):
        with pytest.raises(errors.IllegalStateError, match="closed"):
            await ask()


@pytest.mark.parametrize("option", [{"auto_offset_reset": "first"}, {"max_poll_records": 0}])
def test_bad_option_is_refused_before_any_io(clients: Clients, option: dict[str, Any]) -> None:
    with pytest.raises(errors.InvalidRequestError):
        clients.consumer("t", dsn="host=/nowhere", **option)


@pytest.mark.parametrize("max_records", [0, -1])
async def test_bad_max_records_is_refused(clients: Clients, topic: str, max_records: int) -> None:
    async with clients.consumer(topic) as consumer:
        with pytest.raises(errors.InvalidRequestError):
            await consumer.getmany(max_records=max_records)
