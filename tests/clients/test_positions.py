"""Where a consumer goes on: after a rollback, a lost session, a seek, a pause, a topic made later; what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from pgq import (
    AsyncConsumer,
    Consumer,
    ConsumerRebalanceListener,
    OffsetAndMetadata,
    RetryPolicy,
    TopicPartition,
    errors,
)
from tests.clients.conftest import Clients, expect_nothing, read
from tests.clients.test_group_troubles import committed, end_sessions
from tests.clients.test_groups import fill
from tests.plugins.sessions import Connection, value

MANUAL: dict[str, Any] = {"group_id": "g", "enable_auto_commit": False}


def numbers(records: list[Any]) -> list[int]:
    return [record.offset for record in records]


async def test_after_a_rollback_records_come_again_also_the_first_time(
    clients_and_application: tuple[Clients, Callable[[], Any]], conn: Connection, tp: TopicPartition
) -> None:
    """Nothing is committed yet, so that there is no committed offset to go back to."""
    clients, application = clients_and_application
    fill(conn, tp.topic, 5)
    async with clients.consumer(tp.topic, **MANUAL) as consumer, application() as app:
        assert len(await read(consumer, 5)) == 5
        await app.execute("begin")
        await consumer.commit(connection=app.raw)
        await app.execute("rollback")
        await consumer.seek_to_committed()
        assert numbers(await read(consumer, 5)) == [0, 1, 2, 3, 4]
        await app.execute("begin")
        await consumer.commit({tp: 3}, connection=app.raw)
        await app.execute("commit")
        await consumer.seek_to_committed()
        assert numbers(await read(consumer, 2)) == [3, 4]


async def test_back_to_where_latest_began(clients: Clients, conn: Connection, tp: TopicPartition) -> None:
    fill(conn, tp.topic, 5)
    async with clients.consumer(tp.topic, **MANUAL, auto_offset_reset="latest") as consumer:
        await consumer.getmany()
        fill(conn, tp.topic, 2)
        assert numbers(await read(consumer, 2)) == [5, 6]
        await consumer.seek_to_committed(tp)
        assert numbers(await read(consumer, 2)) == [5, 6]


async def test_offsets_named_do_not_escape_the_fence(
    clients_and_application: tuple[Clients, Callable[[], Any]], conn: Connection, tp: TopicPartition
) -> None:
    """The partition was another's for a while, who has processed the same records; then it is claimed again."""
    clients, application = clients_and_application
    fill(conn, tp.topic, 3)
    one = clients.consumer(tp.topic, **MANUAL)
    async with one, application() as app:
        assert len(await read(one, 3)) == 3
        await app.execute("begin")
        end_sessions(conn)
        async with clients.consumer(tp.topic, **MANUAL) as two:
            assert len(await read(two, 3)) == 3
            await two.commit()
        assert await one.getmany(timeout_ms=1000) == {}
        assert one.assignment() == {tp}
        with pytest.raises(errors.CommitFailedError) as caught:
            await one.commit({tp: 3}, connection=app.raw)
        assert caught.value.partitions == {tp}
        await app.execute("rollback")
        fill(conn, tp.topic, 1)
        assert numbers(await read(one, 1)) == [3]
        await app.execute("begin")
        await one.commit({tp: 4}, connection=app.raw)
        await app.execute("commit")
    assert committed(conn) == {0: 4}


async def test_a_replay_goes_on_after_a_lost_session(clients: Clients, conn: Connection, tp: TopicPartition) -> None:
    fill(conn, tp.topic, 10)
    async with clients.consumer(tp.topic, **MANUAL, max_poll_records=4) as consumer:
        assert len(await read(consumer, 10)) == 10
        await consumer.commit()
        await consumer.seek_to_beginning()
        assert len(await read(consumer, 4)) == 4
        end_sessions(conn)
        assert numbers(await read(consumer, 10)) == list(range(10))
        await consumer.seek(tp, 2)
        await consumer.getmany()
        await consumer.commit({tp: 5})
        end_sessions(conn)
        assert numbers(await read(consumer, 5)) == [5, 6, 7, 8, 9]


async def test_a_replay_by_transactions_is_not_done_twice(
    clients_and_application: tuple[Clients, Callable[[], Any]], conn: Connection, tp: TopicPartition
) -> None:
    """The offset that was committed last is the one from before the replay: it must not begin again."""
    clients, application = clients_and_application
    fill(conn, tp.topic, 4)
    async with clients.consumer(tp.topic, **MANUAL) as consumer, application() as app:
        assert len(await read(consumer, 4)) == 4
        await consumer.commit()
        await consumer.seek(tp, 0)
        assert len(await read(consumer, 4)) == 4
        await app.execute("begin")
        await consumer.commit({tp: 4}, connection=app.raw)
        await app.execute("commit")
        end_sessions(conn)
        assert await consumer.getmany(timeout_ms=1000) == {}
        assert consumer.assignment() == {tp}
        await expect_nothing(consumer)


async def test_what_is_paused_stays_so_over_a_lost_session(
    clients: Clients, conn: Connection, tp: TopicPartition
) -> None:
    fill(conn, tp.topic, 3)
    async with clients.consumer(tp.topic, **MANUAL) as consumer:
        assert len(await read(consumer, 3)) == 3
        await consumer.commit()
        consumer.pause(tp)
        fill(conn, tp.topic, 2)
        end_sessions(conn)
        assert await consumer.getmany(timeout_ms=1000) == {}
        assert consumer.assignment() == consumer.paused() == {tp}
        consumer.resume(tp)
        assert numbers(await read(consumer, 2)) == [3, 4]


@pytest.mark.parametrize("group_id", ["g", None])
async def test_latest_skips_nothing_of_a_topic_made_later(
    clients: Clients, conn: Connection, tp: TopicPartition, group_id: str | None
) -> None:
    """Nobody could have read the records that were there before it was found."""
    fill(conn, tp.topic, 3)
    options = {"auto_offset_reset": "latest", "metadata_max_age_ms": 50}
    by_pattern = clients.consumer(**options, group_id=group_id)
    by_name = clients.consumer(tp.topic, **options, group_id=group_id and "h")
    by_pattern.subscribe(pattern="order")
    async with by_pattern, by_name:
        for consumer in (by_pattern, by_name):
            await expect_nothing(consumer)
        conn.execute("select pgq.create_topic('orders-new')")
        fill(conn, "orders-new", 2)
        assert [(r.topic, r.offset) for r in await read(by_pattern, 2)] == [("orders-new", 0), ("orders-new", 1)]
        conn.execute("select pgq.delete_topic('orders'), pgq.create_topic('orders')")
        fill(conn, "orders", 2)
        assert numbers(await read(by_name, 2)) == [0, 1]


async def test_unsubscribing_frees_the_partitions_at_once(
    clients: Clients, conn: Connection, tp: TopicPartition
) -> None:
    fill(conn, tp.topic, 3)
    options = {"group_id": "g", "session_timeout_ms": 30_000}
    async with clients.consumer(tp.topic, **options) as one, clients.consumer(tp.topic, **options) as two:
        assert len(await read(one, 3)) == 3
        one.unsubscribe()
        fill(conn, tp.topic, 2)
        assert numbers(await asyncio.wait_for(read(two, 2), 5)) == [3, 4]
        with pytest.raises(errors.IllegalStateError, match="nothing to read"):
            await one.getmany()
        one.subscribe([tp.topic])
        await one.getmany()


async def test_the_others_are_read_where_one_partition_is_out_of_range(clients: Clients, conn: Connection) -> None:
    conn.execute("select pgq.create_topic('wide', 3)")
    bad, good, worse = (TopicPartition("wide", n) for n in range(3))
    fill(conn, "wide", 5, good.partition)
    async with clients.consumer(auto_offset_reset="none") as consumer:
        await consumer.assign([bad, good, worse])
        for tp, offset in ((bad, 9), (good, 0), (worse, 8)):
            await consumer.seek(tp, offset)
        assert len(await read(consumer, 5)) == 5
        with pytest.raises(errors.OffsetOutOfRangeError) as caught:
            await consumer.getmany()
        assert caught.value.partitions == {bad, worse}
        fill(conn, "wide", 2, good.partition)
        await consumer.seek_to_beginning(bad, worse)
        fill(conn, "wide", 1, bad.partition)
        assert sorted((r.partition, r.offset) for r in await read(consumer, 3)) == [(0, 0), (1, 5), (1, 6)]


async def test_errors_name_the_partitions_without_an_offset(
    clients: Clients, conn: Connection, wide_topic: str
) -> None:
    async with clients.consumer(wide_topic, group_id="g", auto_offset_reset="none") as consumer:
        with pytest.raises(errors.NoOffsetForPartitionError, match="wide-0, wide-1, wide-2") as caught:
            await consumer.getmany()
        assert caught.value.partitions == {TopicPartition(wide_topic, n) for n in range(3)}


async def test_offsets_are_committed_with_a_transaction_or_not_at_all(
    clients_and_application: tuple[Clients, Callable[[], Any]], conn: Connection, tp: TopicPartition
) -> None:
    clients, application = clients_and_application
    fill(conn, tp.topic, 2)
    async with clients.consumer(tp.topic, group_id="auto") as consumer, application() as app:
        await read(consumer, 2)
        await app.execute("begin")
        with pytest.raises(errors.IllegalStateError, match="enable_auto_commit"):
            await consumer.commit(connection=app.raw)
        await app.execute("rollback")
    async with clients.consumer(tp.topic, **MANUAL) as consumer, application() as app:
        await read(consumer, 2)
        with pytest.raises(errors.IllegalStateError, match="begin one"):
            await consumer.commit(connection=app.raw)
    assert committed(conn) == {}


@pytest.mark.parametrize("end", ["rollback", "commit"])
def test_a_block_may_not_end_its_transaction(dsn: str, conn: Connection, tp: TopicPartition, end: str) -> None:
    fill(conn, tp.topic, 2)
    with Consumer(tp.topic, dsn=dsn, auto_offset_reset="earliest", **MANUAL) as consumer:

        def work() -> list[Any]:
            records = consumer.getmany(timeout_ms=5000)[tp]
            with consumer.transaction() as own:
                own.execute(end)
            return records

        with pytest.raises(errors.IllegalStateError, match="has ended the transaction"):
            work()
        assert committed(conn) == {}
        assert numbers(consumer.getmany(timeout_ms=5000)[tp]) == [0, 1]


class Reads(ConsumerRebalanceListener):
    """Polls when it is told something, which is refused."""

    def __init__(self) -> None:
        self.consumer: Any = None
        self.errors: list[Exception] = []

    def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        try:
            self.consumer.getmany()
        except errors.IllegalStateError as error:
            self.errors.append(error)


def test_a_listener_does_not_read(dsn: str, conn: Connection, tp: TopicPartition) -> None:
    fill(conn, tp.topic, 2)
    with Consumer(dsn=dsn, auto_offset_reset="earliest", group_id="g") as consumer:
        listener = Reads()
        listener.consumer = consumer
        consumer.subscribe([tp.topic], listener=listener)
        assert numbers(consumer.getmany(timeout_ms=5000)[tp]) == [0, 1]
    assert len(listener.errors) == 1


async def test_two_calls_at_once_are_refused(dsn: str, conn: Connection, tp: TopicPartition) -> None:
    fill(conn, tp.topic, 5)
    async with AsyncConsumer(tp.topic, dsn=dsn, auto_offset_reset="earliest", group_id="g") as consumer:
        results = await asyncio.gather(*(consumer.getmany(timeout_ms=2000) for _ in range(3)), return_exceptions=True)
        assert [isinstance(result, errors.IllegalStateError) for result in results] == [False, True, True]
        assert numbers(results[0][tp]) == [0, 1, 2, 3, 4]  # type: ignore[index]


async def test_a_closed_consumer_reads_no_more(clients: Clients, conn: Connection, tp: TopicPartition) -> None:
    fill(conn, tp.topic, 5)
    consumer = clients.consumer(tp.topic, group_id="g")
    async with consumer:
        await consumer.getone()
    for call in (consumer.getone, consumer.getmany, lambda: consumer.seek(tp, 1)):
        with pytest.raises(errors.IllegalStateError, match="closed"):
            await call()


async def test_an_assigned_consumer_of_a_group_delivers_what_is_due(
    clients: Clients, conn: Connection, tp: TopicPartition
) -> None:
    """It has no heartbeat that says when something is due."""
    async with clients.consumer(group_id="g") as consumer:
        await consumer.assign([tp])
        await consumer.getmany(timeout_ms=1200)
        conn.execute("select pgq.produce_delayed('orders', 'later', clock_timestamp() + interval '0.3 seconds')")
        assert numbers(await asyncio.wait_for(read(consumer, 1), 6)) == [0]


@pytest.mark.parametrize(
    "options, error",
    [
        ({"group_id": b"x"}, errors.InvalidGroupIdError),
        ({"group_id": 5}, errors.InvalidGroupIdError),
        ({"group_id": "g", "group_instance_id": 3}, errors.InvalidRequestError),
        ({"client_id": 5}, errors.InvalidRequestError),
        ({"enable_auto_commit": "false"}, errors.InvalidRequestError),
        ({"partition_assignment_strategy": ["range"]}, errors.InvalidRequestError),
        ({"fetch_max_bytes": float("inf")}, errors.InvalidRequestError),
        ({"max_poll_records": 1.5}, errors.InvalidRequestError),
        ({"max_poll_records": True}, errors.InvalidRequestError),
        ({"auto_offset_reset": "by_duration:P99999999999D"}, errors.InvalidRequestError),
        ({"auto_offset_reset": None}, errors.InvalidRequestError),
        ({"retry": RetryPolicy()}, errors.InvalidGroupIdError),
    ],
    ids=str,
)
def test_options_are_checked_at_once(options: dict[str, Any], error: type[Exception]) -> None:
    for kind in (Consumer, AsyncConsumer):
        with pytest.raises(error):
            kind("orders", dsn="host=nowhere", **options)


def test_arguments_are_checked(dsn: str, conn: Connection, tp: TopicPartition) -> None:
    with pytest.raises(errors.InvalidTopicError, match="a string"):
        Consumer(["orders"], dsn=dsn)  # type: ignore[arg-type]
    fill(conn, tp.topic, 2)
    with Consumer(tp.topic, dsn=dsn, group_id="g", auto_offset_reset="earliest") as consumer:
        for pattern in ("*", b"orders"):
            with pytest.raises(errors.InvalidRequestError, match="regular expression"):
                consumer.subscribe(pattern=pattern)  # type: ignore[arg-type]
        with pytest.raises(errors.InvalidRequestError, match="on_partitions_revoked"):
            consumer.subscribe(["orders"], listener=object())  # type: ignore[arg-type]
        for timeout_ms in (None, -1, float("nan"), "5"):
            with pytest.raises(errors.InvalidRequestError, match="timeout_ms"):
                consumer.getmany(timeout_ms=timeout_ms)  # type: ignore[arg-type]
        for most in (0, 1.5, True):
            with pytest.raises(errors.InvalidRequestError, match="max_records"):
                consumer.getmany(max_records=most)  # type: ignore[arg-type]
        consumer.getmany(timeout_ms=5000)
        for offset in (True, 1.5, "5", -1, 2**63, None):
            with pytest.raises(errors.InvalidCommitOffsetError):
                consumer.commit({tp: offset})  # type: ignore[dict-item]
            with pytest.raises(errors.InvalidCommitOffsetError):
                consumer.commit({tp: OffsetAndMetadata(offset)})  # type: ignore[arg-type]
            with pytest.raises(errors.InvalidRequestError):
                consumer.seek(tp, offset)  # type: ignore[arg-type]
        assert value(conn, "select count(*) from pgq.committed_offsets('g')") == 0
