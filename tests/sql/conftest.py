"""What the tests of the SQL functions share: topics, how to fill them, members of groups in plain SQL, dead letters."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.plugins.sessions import Connection, call, rows, value

MakeTopic = Callable[..., str]
Partition = tuple[str, int]


class Member:
    """A member of a group as a client in plain SQL is one: a session, and what the functions returned."""

    def __init__(self, session: Connection, group_id: str, topics: list[str], **more: Any) -> None:
        self.session = session
        self.group_id = group_id
        ((self.member_id, self.generation, self.channel),) = call(
            session, "join_group", group_id=group_id, topics=topics, **more
        )
        self.epochs: dict[Partition, int] = {}
        self.held: set[Partition] = set()

    @property
    def pid(self) -> int:
        return self.session.info.backend_pid

    def heartbeat(self) -> int | None:
        """What the group's generation is, None if this is no member any more; it is taken over."""
        ((self.generation, *_),) = call(self.session, "heartbeat", member_id=self.member_id)
        return self.generation

    def claim(self, *wanted: Partition) -> list[Partition]:
        """Claim partitions and return those that were free."""
        arrays = {"topics": [t for t, _ in wanted], "partitions": [p for _, p in wanted]}
        claimed = call(self.session, "claim_partitions", member_id=self.member_id, generation=self.generation, **arrays)
        self.epochs |= {(topic, partition): epoch for topic, partition, epoch, *_ in claimed}
        self.held |= {(topic, partition) for topic, partition, *_ in claimed}
        return [(topic, partition) for topic, partition, *_ in claimed]

    def commit(self, offsets: dict[Partition, int], connection: Connection | None = None) -> None:
        call(
            connection or self.session,
            "commit_offsets",
            group_id=self.group_id,
            topics=[t for t, _ in offsets],
            partitions=[p for _, p in offsets],
            offsets=list(offsets.values()),
            member_id=self.member_id,
            epochs=[self.epochs[tp] for tp in offsets],
        )

    def release(self, *given: Partition) -> None:
        """Give these back; the epochs stay known, as to a zombie."""
        self.held -= set(given)
        arrays = {"topics": [t for t, _ in self.held], "partitions": [p for _, p in self.held]}
        call(self.session, "keep_partitions", member_id=self.member_id, **arrays)

    def leave(self) -> None:
        call(self.session, "leave_group", member_id=self.member_id)


Join = Callable[..., Member]


@pytest.fixture
def join(connect: Callable[[], Connection]) -> Join:
    """Let a session, a new one unless it is given, join a group: "g" unless told otherwise."""

    def join(*topics: str, group_id: str = "g", session: Connection | None = None, **more: Any) -> Member:
        return Member(session or connect(), group_id, list(topics), **more)

    return join


def generation(conn: Connection, group_id: str = "g") -> int:
    """The generation of a group."""
    result: int = value(conn, "select generation from pgq.consumer_group where name = %s", group_id)
    return result


def committed(conn: Connection, group_id: str = "g") -> dict[Partition, int]:
    """What a group has committed."""
    found = call(conn, "committed_offsets", group_id=group_id)
    return {(topic, partition): offset for topic, partition, offset, *_ in found}


@pytest.fixture
def make_topic(conn: Connection) -> MakeTopic:
    """Create a topic and return its name."""

    def make_topic(name: str, partitions: int = 1, config: str = "{}") -> str:
        conn.execute("select pgq.create_topic(%s, %s, %s::jsonb)", [name, partitions, config])
        return name

    return make_topic


@pytest.fixture
def topic(make_topic: MakeTopic) -> str:
    """A topic of one partition."""
    return make_topic("orders")


@pytest.fixture
def wide_topic(make_topic: MakeTopic) -> str:
    """A topic of five partitions."""
    return make_topic("wide", 5)


@pytest.fixture
def fill(conn: Connection) -> Callable[..., None]:
    """Append records to partition 0 of a topic: their values are the numbers from 0 on, as text."""

    def fill(topic: str, count: int, connection: Any = conn) -> None:
        connection.execute(
            "select from generate_series(0, %s - 1) n, pgq.produce(%s, n::text::bytea, partition => 0)", [count, topic]
        )

    return fill


# dead letters

Bury = Callable[..., int]
START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def make_failure_topics(conn: Connection, make_topic: MakeTopic) -> Callable[..., None]:
    """Make the retry topic and the dead letter topic of a group for a topic, as pgq.create_retry_topics does."""

    def make(origin: str, group_id: str, retry_partitions: int = 3, partitions: int = 1) -> None:
        for kind, name, count in (
            ("retry", f"{origin}.{group_id}.retry", retry_partitions),
            ("dead letter", f"{origin}.{group_id}.dlq", partitions),
        ):
            make_topic(name, count)
            conn.execute(
                "insert into pgq.failure_topic (topic_id, kind, group_id, origin)"
                " select topic_id, %s, %s, %s from pgq.topic where name = %s",
                [kind, group_id, origin, name],
            )

    return make


@pytest.fixture
def failure_topics(make_topic: MakeTopic, make_failure_topics: Callable[..., None]) -> None:
    """Group billing reads orders and payments, and audit reads orders."""
    make_topic("orders")
    make_topic("payments")
    make_failure_topics("orders", "billing")
    make_failure_topics("payments", "billing")
    make_failure_topics("orders", "audit")


@pytest.fixture
def bury(conn: Connection) -> Bury:
    """Append a dead letter; minute 0 is START. Returns its offset."""

    def bury(
        minute: int,
        topic: str = "orders",
        group_id: str = "billing",
        error: str = "ValueError: no amount",
        key: bytes | None = None,
        connection: Connection = conn,
        partition: int = 0,
        **more: bytes | None,
    ) -> int:
        failed_ms = int((START + timedelta(minutes=minute)).timestamp() * 1000)
        headers: dict[str, bytes | None] = {
            "source": b"web",
            "pgq.group": group_id.encode(),
            "pgq.origin.topic": topic.encode(),
            "pgq.origin.partition": b"0",
            "pgq.origin.offset": b"%d" % (minute + 100),
            "pgq.attempt": b"5",
            "pgq.failed": b"%d" % failed_ms,
            "pgq.first_error": b"first",
            "pgq.last_error": error.encode(),
        }
        headers |= {f"pgq.{name}": header for name, header in more.items()}
        ((_, offset),) = call(
            connection,
            "produce",
            topic=f"{topic}.{group_id}.dlq",
            value=b"v%d" % minute,
            key=key,
            header_keys=list(headers),
            header_values=list(headers.values()),
            partition=partition,
        )
        return int(offset)

    return bury


def minutes(conn: Connection, function: str = "dead_letters", **arguments: Any) -> list[int]:
    """The minutes in which those that a function returns failed, in its order."""
    return [int((row[7] - START) / timedelta(minutes=1)) for row in call(conn, function, **arguments)]


def retried(conn: Connection, topic: str = "orders.billing.retry") -> list[tuple[Any, ...]]:
    """Partition, key, value, headers of the records of a retry topic."""
    found = rows(
        conn,
        "select r.partition, r.key, r.value, r.header_keys, r.header_values"
        " from generate_series(0, (select partitions - 1 from pgq.topic where name = %s)) p, pgq.fetch(%s, p, 0) r",
        topic,
        topic,
    )
    return [(*row[:3], dict(zip(row[3], row[4], strict=True))) for row in found]


def log_start(conn: Connection, topic: str = "orders.billing.dlq", partition: int = 0) -> int:
    """The log start of a dead letter topic."""
    return int(value(conn, "select pgq.log_start_offset(%s, %s)", topic, partition))


def marks(conn: Connection) -> list[tuple[Any, ...]]:
    """Which dead letters are marked, and as what."""
    return rows(
        conn,
        'select d."offset", d.outcome from pgq.settled_dead_letter d join pgq.partition using (partition_id)'
        ' join pgq.topic t using (topic_id) order by t.name, d."offset"',
    )
