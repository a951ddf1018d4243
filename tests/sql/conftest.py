"""What the tests of the SQL functions share: a topic or two, how to fill them, and members of groups in plain SQL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.plugins.sessions import Connection, call, value

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
        ((self.generation, _),) = call(self.session, "heartbeat", member_id=self.member_id)
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
