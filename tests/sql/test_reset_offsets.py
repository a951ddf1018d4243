"""pgq.reset_offsets works out other committed offsets, and stores them where no member lives."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.plugins.sessions import Connection, call, refused, rows, value

from .conftest import Join, committed

Connect = Callable[[], Connection]
Terminate = Callable[[int], None]
START = datetime(2026, 1, 1, tzinfo=UTC)


SPECS: list[tuple[str, Any, int, bool]] = [
    ("to-earliest", None, 2, False),
    ("to-latest", None, 10, False),
    ("to-current", None, 5, False),
    ("to-offset", 7, 7, False),
    ("to-offset", 2, 2, False),
    ("to-offset", 10, 10, False),
    ("to-offset", 1, 2, True),
    ("to-offset", -1, 2, True),
    ("to-offset", 11, 10, True),
    ("to-offset", 2**63 - 1, 10, True),
    ("shift-by", 2, 7, False),
    ("shift-by", -3, 2, False),
    ("shift-by", -4, 2, True),
    ("shift-by", 6, 10, True),
    ("shift-by", 2**63 - 1, 10, True),
    ("shift-by", -(2**63), 2, True),
    ("to-datetime", START + timedelta(hours=4), 4, False),
    ("to-datetime", START + timedelta(hours=3, seconds=1), 4, False),
    ("to-datetime", "2026-01-01T06:00:00+02:00", 4, False),
    ("to-datetime", START, 2, False),
    ("to-datetime", START + timedelta(hours=10), 10, False),
    ("by-duration", "P1000D", 2, False),
    ("by-duration", "PT1S", 10, False),
]

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"spec": "to-nowhere"}, "PQ023"),
    ({"spec": None}, "PQ023"),
    ({"spec": "to-latest", "value": "1"}, "PQ023"),
    ({"spec": "to-offset"}, "PQ023"),
    ({"spec": "to-offset", "value": "x"}, "PQ023"),
    ({"spec": "to-offset", "value": "1.5"}, "PQ023"),
    ({"spec": "to-offset", "value": str(2**63)}, "PQ023"),
    ({"spec": "to-datetime", "value": "yesteryear"}, "PQ023"),
    ({"spec": "to-datetime", "value": "2026-13-01"}, "PQ023"),
    ({"spec": "by-duration", "value": "long"}, "PQ023"),
    ({"spec": "by-duration", "value": "7"}, "PQ023"),
    ({"spec": "by-duration", "value": "P999999Y"}, "PQ023"),
    ({"spec": "to-offset", "value": "1", "offsets": [1]}, "PQ023"),
    ({"spec": "to-offset", "offsets": [1, 2]}, "PQ023"),
    ({"spec": "to-offset", "offsets": [None]}, "PQ023"),
    ({"spec": "to-offset", "offsets": [1], "partitions": [None]}, "PQ023"),
    ({"spec": "to-offset", "offsets": [1], "partitions": None}, "PQ023"),
    ({"spec": "to-offset", "offsets": [1, 1], "topics": ["wide", "wide"], "partitions": [0, 0]}, "PQ023"),
    ({"spec": "shift-by", "offsets": [1]}, "PQ023"),
    ({"spec": "to-latest", "partitions": [0, 1]}, "PQ023"),
    ({"spec": "to-latest", "topics": ["nope"]}, "PQ001"),
    ({"spec": "to-latest", "topics": [None]}, "PQ001"),
    ({"spec": "to-latest", "partitions": [3]}, "PQ002"),
    ({"spec": "to-latest", "partitions": [-1]}, "PQ002"),
    ({"spec": "to-latest", "group_id": ""}, "PQ019"),
    ({"spec": "to-latest", "group_id": None}, "PQ019"),
]


@pytest.fixture(autouse=True)
def log(conn: Connection, make_topic: Callable[..., str]) -> None:
    """wide-0 has offsets 2 to 9, an hour apart; group g has committed 5 of it, and 0 of orders-0, where nothing is."""
    make_topic("wide", 3)
    make_topic("orders")
    times = [START + timedelta(hours=number) for number in range(10)]
    call(conn, "produce_batch", topic="wide", values=[b"v"] * 10, partitions=[0] * 10, timestamps=times)
    call(conn, "delete_records", topic="wide", partition=0, offset=2)
    call(conn, "commit_offsets", group_id="g", topics=["wide", "orders"], partitions=[0, 0], offsets=[5, 0])


def reset(conn: Connection, spec: str | None, value: Any = None, **more: Any) -> list[tuple[Any, ...]]:
    """Of partition 0 of topic wide, unless told otherwise."""
    arguments = {"group_id": "g", "topics": ["wide"], "partitions": [0]} | more
    return call(conn, "reset_offsets", spec=spec, value=None if value is None else str(value), **arguments)


def test_specs(conn: Connection) -> None:
    for spec, given, new, clamped in SPECS:
        call(conn, "commit_offsets", group_id="g", topics=["wide"], partitions=[0], offsets=[5])
        expected = [("wide", 0, 5, new, clamped)]
        assert reset(conn, spec, given) == expected, (spec, given)
        assert committed(conn) == {("orders", 0): 0, ("wide", 0): 5}, "nothing is changed"
        assert reset(conn, spec, given, execute=True) == expected
        assert committed(conn) == {("orders", 0): 0, ("wide", 0): new}


def test_by_duration_counts_from_now(conn: Connection) -> None:
    now = value(conn, "select clock_timestamp()")
    times = [now - timedelta(minutes=minutes) for minutes in (30, 20, 10)]
    call(conn, "produce_batch", topic="wide", values=[b"v"] * 3, partitions=[1] * 3, timestamps=times)
    assert reset(conn, "by-duration", "PT15M", partitions=[1]) == [("wide", 1, None, 2, False)]
    assert reset(conn, "by-duration", "PT25M", partitions=[1]) == [("wide", 1, None, 1, False)]


def test_without_topics_it_is_all_that_was_committed(conn: Connection) -> None:
    found = reset(conn, "to-latest", topics=None, partitions=None, execute=True)
    assert found == [("orders", 0, 0, 0, False), ("wide", 0, 5, 10, False)]
    assert committed(conn) == {("orders", 0): 0, ("wide", 0): 10}


def test_topics_and_partitions(conn: Connection) -> None:
    assert [row[:3] for row in reset(conn, "to-current", partitions=None)] == [
        ("wide", 0, 5), ("wide", 1, None), ("wide", 2, None)
    ]  # fmt: skip
    mixed = reset(conn, "to-current", topics=["wide", "orders", "wide"], partitions=[2, None, 2])
    assert [row[:2] for row in mixed] == [("orders", 0), ("wide", 2)]
    assert reset(conn, "to-current", partitions=[1]) == [("wide", 1, None, 0, False)], "without one it is the end"
    assert reset(conn, "to-earliest", topics=[], partitions=[], execute=True) == []


def test_offsets_one_a_partition(conn: Connection) -> None:
    arguments = {"topics": ["wide", "orders", "wide"], "partitions": [1, 0, 0], "offsets": [4, 0, 8]}
    assert reset(conn, "to-offset", **arguments, execute=True) == [
        ("orders", 0, 0, 0, False),
        ("wide", 0, 5, 8, False),
        ("wide", 1, None, 0, True),
    ]
    assert committed(conn) == {("orders", 0): 0, ("wide", 0): 8, ("wide", 1): 0}


def test_an_open_producer_is_where_the_end_is(conn: Connection, connect: Connect) -> None:
    producer = connect()
    with producer.transaction():
        call(producer, "produce", topic="wide", value=b"v", partition=0)
        assert reset(conn, "to-offset", 11) == [("wide", 0, 5, 10, True)]
    assert reset(conn, "to-offset", 11) == [("wide", 0, 5, 11, False)]


def test_a_group_is_made_for_topics_that_are_named(conn: Connection) -> None:
    assert reset(conn, "to-latest", group_id="new") == [("wide", 0, None, 10, False)]
    assert rows(conn, "select name from pgq.consumer_group") == [("g",)]
    reset(conn, "to-latest", group_id="new", execute=True)
    assert committed(conn, "new") == {("wide", 0): 10}
    for execute in (False, True):
        with refused("PQ040"):
            reset(conn, "to-latest", group_id="nope", topics=None, partitions=None, execute=execute)


def test_the_metadata_goes(conn: Connection) -> None:
    call(conn, "commit_offsets", group_id="g", topics=["wide"], partitions=[0], offsets=[6], metadata=["note"])
    reset(conn, "to-offset", 3, execute=True)
    assert call(conn, "committed_offsets", group_id="g", topics=["wide"], partitions=[0])[0][2:4] == (3, "")
    assert value(conn, "select count(*) from pgq.committed_offset where partition_id = 1") == 1


def test_members_have_to_be_stopped(conn: Connection, join: Join, terminate: Terminate) -> None:
    member, other = join("wide"), join("orders")
    member.heartbeat()
    member.claim(("wide", 0))
    assert reset(conn, "to-latest") == [("wide", 0, 5, 10, False)], "to look is possible"
    with refused("PQ039"):
        reset(conn, "to-latest", execute=True)
    member.leave()
    with refused("PQ039"):
        reset(conn, "to-latest", execute=True)
    terminate(other.pid)
    assert reset(conn, "to-latest", execute=True)
    assert committed(conn)["wide", 0] == 10


def test_nobody_joins_meanwhile(
    conn: Connection, join: Join, connect: Connect, wait_until_blocked: Callable[[Connection], None]
) -> None:
    session, members = connect(), []
    with conn.transaction():
        reset(conn, "to-offset", 9, execute=True)
        joining = threading.Thread(target=lambda: members.append(join("wide", session=session)))
        joining.start()
        wait_until_blocked(session)
    joining.join()
    claimed = call(
        session,
        "claim_partitions",
        member_id=members[0].member_id,
        generation=members[0].generation,
        topics=["wide"],
        partitions=[0],
    )
    assert [row[:5] for row in claimed] == [("wide", 0, 1, 9, "")]


def test_one_who_is_joining_is_waited_for(
    conn: Connection, join: Join, connect: Connect, wait_until_blocked: Callable[[Connection], None]
) -> None:
    session, found = connect(), []
    session.execute("begin")
    join("wide", session=session)

    def try_it() -> None:
        try:
            reset(conn, "to-latest", execute=True)
        except Exception as error:
            found.append(getattr(error, "sqlstate", error))

    resetting = threading.Thread(target=try_it)
    resetting.start()
    wait_until_blocked(conn)
    session.execute("commit")
    resetting.join()
    assert found == ["PQ039"]


@pytest.mark.parametrize("static", [False, True])
def test_an_old_snapshot_does_not_hide_members(
    conn: Connection, join: Join, connect: Connect, terminate: Terminate, static: bool
) -> None:
    """A static member that comes back changes no row of the group."""
    if static:
        terminate(join("wide", group_instance_id="one").pid)
    session = connect()
    session.execute("begin isolation level repeatable read")
    value(session, "select count(*) from pgq.group_member")
    join("wide", group_instance_id="one" if static else None)
    with refused("40001"):
        reset(session, "to-latest", execute=True)


@pytest.mark.parametrize("end", ["leave", "terminate", "open"])
def test_what_a_member_commits_late_is_refused(
    conn: Connection, join: Join, connect: Connect, terminate: Terminate, end: str
) -> None:
    """It may commit in a transaction of the application, on another connection than the one that died."""
    member, application = join("wide"), connect()
    member.claim(("wide", 0), ("wide", 1))
    if end == "leave":
        member.leave()
    else:
        terminate(member.pid)
    if end == "open":
        with application.transaction():
            member.commit({("wide", 0): 6}, application)
            conn.execute("set lock_timeout = '100ms'")
            with refused("55P03"):
                reset(conn, "to-offset", 3, execute=True)
    reset(conn, "to-offset", 3, execute=True)
    with refused("PQ036"):
        member.commit({("wide", 0): 8}, application)
    member.commit({("wide", 1): 0}, application)
    assert committed(conn) == {("orders", 0): 0, ("wide", 0): 3, ("wide", 1): 0}
    successor = join("wide")
    successor.claim(("wide", 0))
    assert successor.epochs["wide", 0] == 3, "epochs do not go back"


def test_refused(conn: Connection) -> None:
    with refused("PQ021"):  # there is nothing to shift in the others
        reset(conn, "shift-by", 1, partitions=None, execute=True)
    for arguments, sqlstate in WRONG:
        for execute in (False, True):
            with refused(sqlstate):
                reset(conn, **({"spec": None} | arguments | {"execute": execute}))
    assert committed(conn) == {("orders", 0): 0, ("wide", 0): 5}


def test_large_topics_leave_no_locks_of_segments(conn: Connection) -> None:
    """No transaction takes locks in proportion to a topic's segments."""
    count = (
        "select count(*) from pg_locks l where l.pid = pg_backend_pid()"
        " and l.relation in (select to_regclass(relation) from pgq.segment_status)"
    )
    with conn.transaction():
        reset(conn, "by-duration", "P100Y", partitions=None)
        assert value(conn, count) == 0
