"""pgq.delete_group removes a group and what it committed, for good."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from tests.plugins.sessions import Connection, call, refused, rows, value

from .conftest import Join, committed

Connect = Callable[[], Connection]
Terminate = Callable[[int], None]
A = ("wide", 0)


@pytest.fixture(autouse=True)
def wide(wide_topic: str) -> str:
    return wide_topic


def delete(conn: Connection, group_id: str | None = "g") -> None:
    call(conn, "delete_group", group_id=group_id)


def commit(conn: Connection, group_id: str = "g", offset: int = 5) -> None:
    call(conn, "commit_offsets", group_id=group_id, topics=["wide"], partitions=[0], offsets=[offset])


def test_nothing_is_left(conn: Connection, join: Join) -> None:
    commit(conn)
    commit(conn, "other")
    member = join("wide")
    member.claim(A)
    member.commit({A: 7})
    member.leave()
    delete(conn)
    for table in ("group_member", "partition_owner"):
        assert rows(conn, f"select from pgq.{table}") == []
    assert rows(conn, "select name from pgq.consumer_group") == [("other",)]
    assert committed(conn) == {}
    assert committed(conn, "other") == {A: 5}
    with refused("PQ040"):
        delete(conn)


def test_unknown(conn: Connection) -> None:
    for group_id in ("nope", "", None):
        with refused("PQ040"):
            delete(conn, group_id)


def test_members_have_to_be_stopped(conn: Connection, join: Join, terminate: Terminate) -> None:
    member = join("wide", group_instance_id="one")
    with refused("PQ039"):
        delete(conn)
    terminate(member.pid)
    delete(conn)
    assert rows(conn, "select from pgq.group_member") == [], "a static one that might come back goes, too"


def test_a_survivor_commits_nothing_for_a_group_of_the_same_name(
    conn: Connection, join: Join, connect: Connect, terminate: Terminate
) -> None:
    zombie, application = join("wide"), connect()
    zombie.claim(A)
    terminate(zombie.pid)
    delete(conn)
    with refused("PQ036"):
        zombie.commit({A: 9}, application)
    assert rows(conn, "select from pgq.consumer_group") == [], "it does not bring the group back"
    heir = join("wide")
    assert heir.claim(A) == [A]
    assert heir.epochs == zombie.epochs, "the same number, of another member"
    with refused("PQ036"):
        zombie.commit({A: 9}, application)
    heir.commit({A: 1})
    assert committed(conn) == {A: 1}


def test_a_session_that_survives_holds_nothing_of_the_new_group(
    conn: Connection, watcher: Connection, join: Join
) -> None:
    """Another session, which may not end it, took its place, and left: it holds its claims until it notices."""
    fenced = join("wide", session=watcher, group_instance_id="one")
    fenced.claim(A)
    join("wide", group_instance_id="one").leave()
    delete(conn)
    heir = join("wide")
    assert heir.claim(A) == [A]
    assert fenced.heartbeat() is None
    fenced.release(A)
    fenced.leave()
    assert value(conn, "select count(*) from pgq._group_locks() where partition_id is not null") == 1


def test_an_open_commit_is_waited_for_and_goes_as_well(
    conn: Connection, connect: Connect, wait_until_blocked: Callable[[Connection], None]
) -> None:
    commit(conn)
    application, session = connect(), connect()
    with application.transaction():
        commit(application, offset=6)
        deleting = threading.Thread(target=delete, args=[session])
        deleting.start()
        wait_until_blocked(session)
    deleting.join()
    assert rows(conn, "select from pgq.consumer_group") == []
    assert rows(conn, "select from pgq.committed_offset") == []


def test_nobody_joins_meanwhile(
    conn: Connection, connect: Connect, join: Join, wait_until_blocked: Callable[[Connection], None]
) -> None:
    commit(conn)
    session, refusals = connect(), []

    def try_it() -> None:
        try:
            join("wide", session=session)
        except Exception as error:
            refusals.append(getattr(error, "sqlstate", error))

    with conn.transaction():
        delete(conn)
        joining = threading.Thread(target=try_it)
        joining.start()
        wait_until_blocked(session)
    joining.join()
    assert refusals == ["40001"], "to be tried again, and then it makes the group anew"
    assert join("wide", session=session).generation == 1


def test_it_joins_the_transaction(conn: Connection) -> None:
    commit(conn)
    with conn.transaction(force_rollback=True):
        delete(conn)
        assert committed(conn) == {}
    assert committed(conn) == {A: 5}
