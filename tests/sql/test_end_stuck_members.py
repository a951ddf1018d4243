"""pgq.end_stuck_members ends members that the server cannot end by itself: those that are busy for too long."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest

from tests.plugins.sessions import Connection, call, eventually, value

from .conftest import Join, Member


@contextmanager
def stuck(member: Member, conn: Connection) -> Iterator[list[BaseException]]:
    """Its session waits for a lock that the test has, for longer than its session timeout of a second."""
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            member.session.execute("select pg_advisory_lock(1)")
        except psycopg.Error as error:
            errors.append(error)

    conn.execute("select pg_advisory_lock(1)")
    thread = threading.Thread(target=wait)
    thread.start()
    try:
        busy = (
            "select coalesce((select state = 'active' and query_start < clock_timestamp() - interval '1.05 s'"
            " from pg_stat_activity where pid = %s), false)"
        )
        eventually(lambda: bool(value(conn, busy, member.pid)))
        yield errors
    finally:
        conn.execute("select pg_advisory_unlock(1)")
        thread.join()


def end(member: Member) -> int:
    return int(call(member.session, "end_stuck_members", member_id=member.member_id)[0][0])


@pytest.fixture
def watched(join: Join, topic: str) -> tuple[Member, Member]:
    """One who looks, and one that has a short session timeout."""
    return join(topic), join(topic, session_timeout_ms=1000)


def test_one_that_waits_for_too_long_is_ended(conn: Connection, watched: tuple[Member, Member]) -> None:
    looking, waiting = watched
    with stuck(waiting, conn) as errors:
        assert end(looking) == 1
        eventually(lambda: bool(errors))
    assert isinstance(errors[0], psycopg.errors.AdminShutdown)
    eventually(lambda: end(looking) == 0)


def test_one_that_has_time_left_is_not(conn: Connection, join: Join, topic: str) -> None:
    looking, waiting = join(topic), join(topic, session_timeout_ms=60_000)
    with stuck(waiting, conn) as errors:
        assert end(looking) == 0
    assert errors == []
    assert waiting.heartbeat() == looking.heartbeat()


def test_other_groups_and_strangers_are_left_alone(
    conn: Connection, join: Join, topic: str, watched: tuple[Member, Member]
) -> None:
    looking, waiting = watched
    elsewhere = join(topic, group_id="other")
    with stuck(waiting, conn) as errors:
        assert end(elsewhere) == 0
        # a session that does not hold the alive lock is not that member, whatever its pid
        conn.execute("update pgq.group_member set pid = %s where member_id = %s", [waiting.pid, looking.member_id])
        conn.execute("update pgq.group_member set pid = 0 where member_id = %s", [waiting.member_id])
        assert end(looking) == 0
    assert errors == []


def test_what_may_not_be_ended_is_left(
    conn: Connection, watcher: Connection, join: Join, topic: str, connect: Callable[[], Connection]
) -> None:
    """A superuser's session: an ordinary role sees neither what it does nor may it end it."""
    looking = join(topic)
    waiting = join(topic, session=watcher, session_timeout_ms=1000)
    conn.execute("select pg_advisory_lock(1)")
    thread = threading.Thread(target=watcher.execute, args=["select pg_advisory_lock(1)"])
    thread.start()
    try:
        eventually(
            lambda: bool(
                value(conn, "select exists (select from pg_locks where pid = %s and not granted)", waiting.pid)
            )
        )
        conn.execute("update pgq.group_member set session_timeout_ms = 0 where member_id = %s", [waiting.member_id])
        assert end(looking) == 0
    finally:
        conn.execute("select pg_advisory_unlock(1)")
        thread.join()
