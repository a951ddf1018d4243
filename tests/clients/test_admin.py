"""Admin and AsyncAdmin: topics and groups from creation to deletion, with the errors of SQL as errors of pgq."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pgq import (
    ConsumerGroupDescription,
    ConsumerGroupListing,
    DeadLetter,
    OffsetAndMetadata,
    OffsetReset,
    SettledDeadLetter,
    TopicDescription,
    TopicPartition,
    errors,
)
from tests.plugins.sessions import Connection, rows, value

from .conftest import Clients, read

DEFAULTS = {
    "cleanup.policy": "delete",
    "compression.type": "producer",
    "delete.retention.ms": 86400000,
    "max.message.bytes": 1048576,
    "message.timestamp.after.max.ms": 3600000,
    "message.timestamp.type": "CreateTime",
    "min.compaction.lag.ms": 0,
    "min.insync.replicas": 1,
    "retention.bytes": 1073741824,
    "retention.ms": 604800000,
    "segment.bytes": 134217728,
    "segment.ms": 604800000,
}


async def test_describe_cluster(clients: Clients, conn: Connection) -> None:
    async with clients.admin() as admin:
        cluster = await admin.describe_cluster()
    (leader,) = cluster.servers
    assert (leader.server, leader.role, leader.state, leader.lag_seconds) == ("leader", "leader", None, None)
    assert cluster[1:3] == ("", 1)
    assert cluster.acks_all == value(conn, "select acks_all from pgq.acks_status()")
    assert cluster.warnings == value(conn, "select warnings from pgq.acks_status()")


async def test_life_of_a_topic(clients: Clients) -> None:
    async with clients.admin() as admin:
        assert await admin.list_topics() == []
        created = await admin.create_topic("orders", 3, {"max.message.bytes": 100})
        assert created == TopicDescription(created.topic_id, "orders", 3, DEFAULTS | {"max.message.bytes": 100})
        assert await admin.describe_topic("orders") == created
        assert await admin.list_topics() == [created]
        altered = await admin.alter_topic_config("orders", {"max.message.bytes": None, "segment.bytes": 2**20})
        assert altered.config == DEFAULTS | {"segment.bytes": 2**20}
        await admin.delete_topic("orders")
        assert await admin.list_topics() == []
        assert (await admin.create_topic("orders")).partitions == 1


async def test_delete_records(clients: Clients, conn: Connection, wide_topic: str) -> None:
    conn.execute(
        "select pgq.produce_batch('wide', array_fill('v'::bytea, '{10}'), partitions => array_fill(1, '{10}'))"
    )
    tps = [TopicPartition(wide_topic, partition) for partition in range(3)]
    async with clients.admin() as admin:
        assert await admin.delete_records({tps[1]: 4, tps[2]: -1}) == {tps[1]: 4, tps[2]: 0}
        assert await admin.delete_records({tps[1]: -1}) == {tps[1]: 10}
        assert await admin.delete_records({}) == {}
        with pytest.raises(errors.OffsetOutOfRangeError):
            await admin.delete_records({tps[0]: 1})
    assert value(conn, "select pgq.log_start_offset('wide', 1)") == 10


@pytest.mark.parametrize(
    "offset", [None, 1.5, 2.0, True, float("nan"), float("inf"), 2**63, -(2**63) - 1, "3", b"3", {"t": 1}]
)
async def test_delete_records_up_to_what_is_no_offset(
    clients: Clients, conn: Connection, wide_topic: str, offset: Any
) -> None:
    conn.execute("select pgq.produce('wide', 'v', partition => p) from generate_series(0, 2) p, generate_series(1, 3)")
    offsets = {TopicPartition(wide_topic, 0): 2, TopicPartition(wide_topic, 1): offset}
    async with clients.admin() as admin:
        with pytest.raises(errors.InvalidRequestError, match="nothing was deleted"):
            await admin.delete_records(offsets)
    assert value(conn, "select max(log_start_offset) from pgq.partition_status") == 0


async def test_delete_records_before_one_that_fails_stay_deleted(
    clients: Clients, conn: Connection, wide_topic: str
) -> None:
    conn.execute("select pgq.produce('wide', 'v', partition => 0) from generate_series(1, 3)")
    async with clients.admin() as admin:
        with pytest.raises(errors.OffsetOutOfRangeError):
            await admin.delete_records({TopicPartition(wide_topic, 0): 2, TopicPartition(wide_topic, 1): 9})
    assert value(conn, "select pgq.log_start_offset('wide', 0)") == 2


@pytest.mark.parametrize(
    "config",
    [
        None,
        "retention.ms",
        [("retention.ms", 1)],
        {"retention.ms": float("nan")},
        {"retention.ms": float("inf")},
        {"retention.ms": 1.5},
        {"retention.ms": True},
        {"retention.ms": b"1"},
        {"retention.ms": [1]},
        {("retention.ms",): 1},
        {1: 2},
        {None: 2},
    ],
)
async def test_config_that_is_none(clients: Clients, topic: str, config: Any) -> None:
    async with clients.admin() as admin:
        with pytest.raises(errors.InvalidConfigError):
            await admin.alter_topic_config(topic, config)
        if config:
            with pytest.raises(errors.InvalidConfigError):
                await admin.create_topic("other", 1, config)


@pytest.mark.parametrize(
    "method, args, error",
    [
        ("create_topic", ("orders",), errors.TopicAlreadyExistsError),
        ("create_topic", ("a b",), errors.InvalidTopicError),
        ("create_topic", ("",), errors.InvalidTopicError),
        ("create_topic", ("t\n",), errors.InvalidTopicError),
        ("create_topic", ("t", 0), errors.InvalidPartitionsError),
        ("create_topic", ("t", 1001), errors.InvalidPartitionsError),
        ("add_partitions", ("orders", 1), errors.InvalidPartitionsError),
        ("add_partitions", ("orders", 0), errors.InvalidPartitionsError),
        ("add_partitions", ("orders", 1001), errors.InvalidPartitionsError),
        ("add_partitions", ("nope", 2), errors.UnknownTopicError),
        ("create_topic", ("t", 1, {"nope": 1}), errors.InvalidConfigError),
        ("create_topic", ("t", 1, {"segment.bytes": 1}), errors.InvalidConfigError),
        ("delete_topic", ("nope",), errors.UnknownTopicError),
        ("describe_topic", ("nope",), errors.UnknownTopicError),
        ("alter_topic_config", ("nope", {}), errors.UnknownTopicError),
        ("alter_topic_config", ("orders", {"segment.bytes": "x"}), errors.InvalidConfigError),
        ("delete_records", ({("nope", 0): 0},), errors.UnknownTopicError),
        ("delete_records", ({("orders", 1): 0},), errors.UnknownPartitionError),
    ],
)
async def test_what_is_refused(
    clients: Clients, topic: str, method: str, args: tuple[Any, ...], error: type[errors.PgqError]
) -> None:
    async with clients.admin() as admin:
        with pytest.raises(error) as caught:
            await getattr(admin, method)(*args)
        assert type(caught.value) is error
        assert getattr(caught.value.__cause__, "sqlstate", None) == error.sqlstate
        assert [t.name for t in await admin.list_topics()] == [topic], "the connection goes on"


async def test_closed_admin_refuses(clients: Clients) -> None:
    admin = clients.admin()
    await admin.list_topics()
    await admin.close()
    with pytest.raises(errors.IllegalStateError):
        await admin.list_topics()


async def test_partitions_are_added(clients: Clients, topic: str) -> None:
    steps: list[tuple[int, int]] = []
    async with clients.admin() as admin:
        added = await admin.add_partitions(topic, 60, progress=lambda done, total: steps.append((done, total)))
        assert added.partitions == 60
        assert await admin.describe_topic(topic) == added
        assert steps == [(26, 60), (51, 60), (60, 60)]
    async with clients.producer() as producer:
        metadata = await (await producer.send(topic, b"v", partition=59))
        assert (metadata.partition, metadata.offset) == (59, 0)


async def test_a_large_topic_is_made_and_deleted(clients: Clients) -> None:
    steps: list[tuple[int, int]] = []
    async with clients.admin() as admin:
        made = await admin.create_topic("large", 60, {"segment.bytes": 1 << 20}, progress=lambda *s: steps.append(s))
        assert (made.partitions, made.config["segment.bytes"]) == (60, 1 << 20)
        await admin.delete_topic("large", progress=lambda *s: steps.append(s))
        assert steps == [(25, 60), (50, 60), (60, 60), (0, 60), (25, 60), (50, 60), (60, 60)]
        assert [t.name for t in await admin.list_topics()] == []


# consumer groups

W0, W1, W2 = (TopicPartition("wide", partition) for partition in range(3))


def produce(
    conn: Connection, partition: int, count: int, *, first: datetime = datetime(2026, 1, 1, tzinfo=UTC)
) -> None:
    """Append records an hour apart."""
    conn.execute(
        "select pgq.produce_batch('wide', array_fill('v'::bytea, array[%(count)s]),"
        " partitions => array_fill(%(partition)s::int, array[%(count)s]), timestamps => %(times)s)",
        {"count": count, "partition": partition, "times": [first + timedelta(hours=n) for n in range(count)]},
    )


async def test_groups_are_listed_and_described(clients: Clients, conn: Connection, wide_topic: str) -> None:
    produce(conn, 1, 5)
    async with clients.admin() as admin:
        assert await admin.list_consumer_groups() == []
        await admin.alter_consumer_group_offsets("idle", {W0: 0})
        async with clients.consumer(wide_topic, group_id="busy", client_id="billing-1") as consumer:
            await read(consumer, 5)
            await consumer.commit({W1: 2})
            assert await admin.list_consumer_groups() == [
                ConsumerGroupListing("busy", "Stable"),
                ConsumerGroupListing("idle", "Empty"),
            ]
            assert await admin.list_consumer_groups(["Empty"]) == [ConsumerGroupListing("idle", "Empty")]
            idle, busy = await admin.describe_consumer_groups(["idle", "busy"])
            assert idle == ConsumerGroupDescription("idle", "Empty", None, 0, 0, [])
            assert busy[:5] == (
                "busy",
                "Stable",
                "range",
                value(conn, "select max(generation) from pgq.group_status"),
                3,
            )
            (member,) = busy.members
            assert rows(conn, "select member_id, pid, host(client_addr) from pgq.member_status") == [
                (member.member_id, member.pid, member.host)
            ]
            assert member[1:3] == (None, "billing-1")
            assert member[6:] == (True, 45_000, ("wide",), (W0, W1, W2))
            assert abs(datetime.fromtimestamp(member.joined_at / 1000, UTC) - datetime.now(UTC)) < timedelta(minutes=1)
        assert (await admin.describe_consumer_groups(["busy"]))[0].state == "Empty"
        assert await admin.describe_consumer_groups([]) == []
        with pytest.raises(errors.GroupIdNotFoundError, match="nope"):
            await admin.describe_consumer_groups(["idle", "nope"])


async def test_offsets_of_a_group(clients: Clients, conn: Connection, wide_topic: str) -> None:
    async with clients.admin() as admin:
        assert await admin.list_consumer_group_offsets("g") == {}
        await admin.alter_consumer_group_offsets("g", {W0: 3, W2: OffsetAndMetadata(5, "note")})
        assert await admin.list_consumer_group_offsets("g") == {
            W0: OffsetAndMetadata(3),
            W2: OffsetAndMetadata(5, "note"),
        }
        assert await admin.list_consumer_group_offsets("g", [W1, W2]) == {W2: OffsetAndMetadata(5, "note")}
        assert await admin.list_consumer_group_offsets("g", []) == {}
        assert await admin.delete_consumer_group_offsets("g", [W1, W2]) == 1
        assert await admin.list_consumer_group_offsets("g") == {W0: OffsetAndMetadata(3)}
        with pytest.raises(errors.InvalidCommitOffsetError):
            await admin.alter_consumer_group_offsets("g", {W0: -1})
        with pytest.raises(errors.UnknownPartitionError):
            await admin.delete_consumer_group_offsets("g", [TopicPartition("wide", 3)])
        with pytest.raises(errors.GroupIdNotFoundError):
            await admin.delete_consumer_group_offsets("nope", [W0])


async def test_reset_offsets(clients: Clients, conn: Connection, wide_topic: str) -> None:
    produce(conn, 0, 10)
    produce(conn, 1, 2)
    async with clients.admin() as admin:

        async def reset(spec: str, value: Any = None, **more: Any) -> list[int]:
            """The new offsets of a dry run."""
            return [row.new_offset for row in await admin.reset_consumer_group_offsets("g", spec, value, **more)]

        assert await admin.reset_consumer_group_offsets("g", "to-latest", partitions=[W0], execute=True) == [
            OffsetReset("wide", 0, None, 10, False)
        ]
        assert await admin.reset_consumer_group_offsets("g", "shift-by", -4, execute=True) == [
            OffsetReset("wide", 0, 10, 6, False)
        ]
        assert await reset("to-offset", 12) == [10]
        assert await reset("to-offset", "3", topics=["wide"]) == [3, 2, 0]
        assert await reset("to-datetime", datetime(2026, 1, 1, 4, 30, tzinfo=UTC)) == [5]
        assert await reset("to-datetime", "2026-01-01T04:30:00Z") == [5]
        assert await reset("by-duration", timedelta(days=100_000)) == [0]
        assert await reset("by-duration", "PT1S", topics=["wide"]) == [10, 2, 0]
        assert await reset("to-earliest", partitions=[W1], topics=[]) == [0]
        assert await reset("to-offset", offsets={W1: 1, W0: 7}) == [7, 1]
        assert await admin.list_consumer_group_offsets("g") == {W0: OffsetAndMetadata(6)}, "none was executed"
        for spec, more, error in (
            ("to-nowhere", {}, errors.InvalidRequestError),
            ("to-offset", {"value": "x"}, errors.InvalidRequestError),
            ("shift-by", {"value": 1, "partitions": [W1]}, errors.NoOffsetForPartitionError),
            ("to-latest", {"topics": ["nope"]}, errors.UnknownTopicError),
        ):
            with pytest.raises(error):
                await admin.reset_consumer_group_offsets("g", spec, **more)
        with pytest.raises(errors.GroupIdNotFoundError):
            await admin.reset_consumer_group_offsets("nope", "to-latest")


async def test_a_consumer_goes_on_from_what_was_reset(clients: Clients, conn: Connection, wide_topic: str) -> None:
    produce(conn, 0, 10)
    async with clients.admin() as admin:
        async with clients.consumer(wide_topic, group_id="g") as consumer:
            assert len(await read(consumer, 10)) == 10
        await admin.reset_consumer_group_offsets("g", "to-offset", 7, topics=["wide"], execute=True)
        async with clients.consumer(wide_topic, group_id="g") as consumer:
            assert [record.offset for record in await read(consumer, 3)] == [7, 8, 9]


async def test_groups_with_members_stay_as_they_are(clients: Clients, conn: Connection, wide_topic: str) -> None:
    async with (
        clients.admin() as admin,
        clients.consumer(wide_topic, group_id="g", enable_auto_commit=False) as consumer,
    ):
        await admin.alter_consumer_group_offsets("idle", {W0: 1})
        await consumer.commit({W0: 0})
        for call in (
            admin.delete_consumer_groups(["idle", "g"]),
            admin.alter_consumer_group_offsets("g", {W0: 1}),
            admin.reset_consumer_group_offsets("g", "to-latest", execute=True),
        ):
            with pytest.raises(errors.NonEmptyGroupError, match="'g'"):
                await call
        with pytest.raises(errors.GroupSubscribedToTopicError, match="'wide'"):
            await admin.delete_consumer_group_offsets("g", [W0])
        assert [group.group_id for group in await admin.list_consumer_groups()] == ["g", "idle"], "all or nothing"
        assert await admin.list_consumer_group_offsets("g") == {W0: OffsetAndMetadata(0)}


async def test_groups_are_deleted(clients: Clients, wide_topic: str) -> None:
    async with clients.admin() as admin:
        await admin.alter_consumer_group_offsets("a", {W0: 1})
        await admin.alter_consumer_group_offsets("b", {W0: 1})
        with pytest.raises(errors.GroupIdNotFoundError, match="nope"):
            await admin.delete_consumer_groups(["a", "nope"])
        await admin.delete_consumer_groups(["a", "b"])
        assert await admin.list_consumer_groups() == []
        assert await admin.list_consumer_group_offsets("a") == {}


# dead letters

FAILED = datetime(2026, 1, 1, tzinfo=UTC)
FAILED_MS = int(FAILED.timestamp() * 1000)


def bury(conn: Connection, count: int, *, group_id: str = "billing", codec: int | None = None) -> None:
    """Append so many dead letters of topic orders, that failed a minute apart."""
    dead, retry = f"orders.{group_id}.dlq", f"orders.{group_id}.retry"
    if not rows(conn, "select from pgq.failure_topic f where f.group_id = %s", group_id):
        for kind, name in (("dead letter", dead), ("retry", retry)):
            conn.execute("select pgq.create_topic(%s)", [name])
            conn.execute(
                "insert into pgq.failure_topic (topic_id, kind, group_id, origin)"
                " select topic_id, %s, %s, 'orders' from pgq.topic where name = %s",
                [kind, group_id, name],
            )
    for number in range(count):
        headers = {
            "pgq.origin.partition": b"2",
            "pgq.origin.offset": b"%d" % number,
            "pgq.attempt": b"5",
            "pgq.failed": b"%d" % (FAILED_MS + 60_000 * number),
            "pgq.first_error": b"",
            "pgq.last_error": b"E%d" % number,
        }
        conn.execute(
            "select pgq.produce(%s, %s, 'k', %s, %s)", [dead, b"v%d" % number, list(headers), list(headers.values())]
        )
    if codec is not None:
        conn.execute(f"update pgq_log.t{value(conn, 'select pgq._topic_id(%s)', dead)} set codec = {codec}")


@pytest.mark.parametrize(
    "filters",
    [
        {"topic": 5},
        {"group_id": b"billing"},
        {"error": 5},
        {"since": datetime(2026, 1, 1)},  # noqa: DTZ001 - that is what is refused
        {"until": datetime(2026, 1, 1)},  # noqa: DTZ001
        {"until": "2030-01-01"},
        {"since": 1_767_225_600_000},
    ],
)
async def test_filters_of_dead_letters_that_make_no_sense(
    clients: Clients, topic: str, filters: dict[str, Any]
) -> None:
    async with clients.admin() as admin:
        for call in (admin.list_dead_letters, admin.redrive_dead_letters, admin.purge_dead_letters):
            with pytest.raises(errors.InvalidRequestError, match=f"{next(iter(filters))} is .*: give "):
                await call(**filters)


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
async def test_dead_letters_whatever_isolation_is_the_default(
    clients: Clients, conn: Connection, topic: str, isolation: str
) -> None:
    name = value(conn, "select quote_ident(current_database())")
    conn.execute(f"alter database {name} set default_transaction_isolation = '{isolation}'")
    conn.execute("select pgq.produce('orders', 'v')")
    conn.execute("select pgq.fail_records('g', '{orders}', '{0}', '{0}', '{null}', '{e}')")
    async with clients.admin() as admin:
        assert len(await admin.list_dead_letters()) == 1
        assert len(await admin.redrive_dead_letters(execute=True)) == 1
        assert await admin.purge_dead_letters(execute=True) == []


async def test_dead_letters(clients: Clients, conn: Connection) -> None:
    bury(conn, 4)
    bury(conn, 1, group_id="audit")
    async with clients.admin() as admin:
        found = await admin.list_dead_letters(group_id="billing")
        place = ("orders", "billing", "orders.billing.dlq", 0, 1, 2, 1, FAILED_MS + 60_000)
        assert found[1] == DeadLetter(*place, 5, 0, "", "E1", b"k", b"v1", found[1].headers, None)
        assert dict(found[1].headers)["pgq.last_error"] == b"E1"
        assert [letter.offset for letter in found] == [0, 1, 2, 3]
        assert len(await admin.list_dead_letters("orders", most=2)) == 2
        later = await admin.list_dead_letters(since=FAILED + timedelta(minutes=1), until=FAILED + timedelta(minutes=3))
        assert [letter.offset for letter in later] == [1, 2]

        which = {"group_id": "billing", "error": "e1"}
        (planned,) = await admin.redrive_dead_letters(**which)
        assert planned == SettledDeadLetter(*place, "E1", "orders.billing.retry")
        assert len(await admin.list_dead_letters(group_id="billing")) == 4, "nothing was changed"
        assert await admin.redrive_dead_letters(**which, execute=True) == [planned]
        assert await admin.redrive_dead_letters(**which, execute=True) == []
        (purged,) = await admin.purge_dead_letters(group_id="billing", most=1, execute=True)
        assert purged == SettledDeadLetter(*place[:4], 0, 2, 0, FAILED_MS, "E0", None)
        assert [letter.offset for letter in await admin.list_dead_letters(group_id="billing")] == [2, 3]
    assert value(conn, "select pgq.log_start_offset('orders.billing.dlq', 0)") == 2
    assert value(conn, "select count(*) from pgq.fetch('orders.billing.retry', 0, 0)") == 1


async def test_what_cannot_be_decompressed_is_listed(clients: Clients, conn: Connection) -> None:
    """That may be why it is a dead letter."""
    bury(conn, 1, codec=1)
    async with clients.admin() as admin:
        (letter,) = await admin.list_dead_letters()
        assert (letter.value, letter.codec) == (b"v0", 1)
    conn.execute("delete from pgq.failure_topic where kind = 'retry'")
    async with clients.admin() as admin:
        with pytest.raises(errors.UnknownTopicError, match="'billing' has no retry topic for topic 'orders'"):
            await admin.redrive_dead_letters()


async def test_dead_letters_that_there_are_not(clients: Clients, topic: str) -> None:
    async with clients.admin() as admin:
        for method in (admin.list_dead_letters, admin.redrive_dead_letters, admin.purge_dead_letters):
            assert await method(topic) == []
            for wrong in (0, -1, 2**31, True, "1"):
                with pytest.raises(errors.InvalidRequestError):
                    await method(most=wrong)
            with pytest.raises(errors.UnknownTopicError):
                await method("nope")
            with pytest.raises(errors.GroupIdNotFoundError):
                await method(group_id="nope")


async def test_a_dead_letter_of_a_compressed_record_can_be_read(clients: Clients, conn: Connection) -> None:
    bury(conn, 0)
    async with clients.producer(compression_type="gzip") as producer:
        await producer.send_and_wait("orders.billing.dlq", b"v" * 1000)
    async with clients.admin() as admin:
        (letter,) = await admin.list_dead_letters()
    assert (letter.value, letter.codec, letter.headers) == (b"v" * 1000, None, ())
    assert letter.failed_at == value(
        conn,
        """select (extract(epoch from "timestamp") * 1000)::int8 from pgq.fetch('orders.billing.dlq', 0, 0)""",
    )
