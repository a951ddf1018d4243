"""pgq.purge_dead_letters gives dead letters up; with those that are redriven, each is settled once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from tests.plugins.sessions import Connection, call, refused

from .conftest import START, Bury, log_start, marks, minutes, retried

Connect = Callable[[], Connection]
SETTLING = ("redrive_dead_letters", "purge_dead_letters")
pytestmark = pytest.mark.usefixtures("failure_topics")


def test_purge(conn: Connection, bury: Bury) -> None:
    for minute in range(4):
        bury(minute)
    found = call(conn, "purge_dead_letters", topic="orders", group_id="billing", most=3, execute=True)
    assert found[1] == (
        "orders",
        "billing",
        "orders.billing.dlq",
        0,
        1,
        0,
        101,
        START + timedelta(minutes=1),
        "ValueError: no amount",
    )
    assert (minutes(conn), log_start(conn), marks(conn), retried(conn)) == ([3], 3, [], [])
    with refused("PQ008"):
        call(conn, "fetch", topic="orders.billing.dlq", partition=0, offset=2)


def test_those_in_the_middle(conn: Connection, bury: Bury) -> None:
    """The log start stays before what is kept; what is behind that is marked."""
    for minute in range(6):
        bury(minute, error="keep" if minute in (1, 4) else "go")
    assert minutes(conn, "redrive_dead_letters", error="go", most=3, execute=True) == [0, 2, 3]
    assert (log_start(conn), marks(conn)) == (1, [(2, "redriven"), (3, "redriven")])
    assert minutes(conn, "purge_dead_letters", error="go", execute=True) == [5]
    assert (minutes(conn), log_start(conn)) == ([1, 4], 1)
    assert minutes(conn, "purge_dead_letters", most=1, execute=True) == [1]
    assert (log_start(conn), marks(conn)) == (4, [(5, "purged")])
    assert minutes(conn, "redrive_dead_letters", execute=True) == [4]
    assert (log_start(conn), marks(conn)) == (6, [])
    assert [row[2] for row in sorted(retried(conn), key=lambda row: row[2])] == [b"v0", b"v2", b"v3", b"v4"]


@pytest.mark.parametrize("function", SETTLING)
def test_a_dry_run_says_what_the_next_call_does(conn: Connection, bury: Bury, function: str) -> None:
    for minute, topic in ((3, "orders"), (1, "payments"), (2, "orders"), (5, "payments")):
        bury(minute, topic)
    filters: dict[str, Any] = {"most": 3, "group_id": "billing"}
    planned = call(conn, function, **filters)
    assert len(planned) == 3
    assert (marks(conn), log_start(conn), retried(conn)) == ([], 0, [])
    assert call(conn, function, **filters, execute=True) == planned
    assert minutes(conn) == [5]
    assert minutes(conn, function, execute=True) == [5]
    assert minutes(conn, function, execute=True) == []


@pytest.mark.parametrize("function", SETTLING)
def test_it_joins_the_transaction(conn: Connection, bury: Bury, function: str) -> None:
    bury(0)
    with conn.transaction(force_rollback=True):
        assert minutes(conn, function, execute=True) == [0]
        assert minutes(conn) == []
        assert minutes(conn, function, execute=True) == []
    assert (minutes(conn), log_start(conn), retried(conn)) == ([0], 0, [])


@pytest.mark.parametrize("first", SETTLING)
@pytest.mark.parametrize("second", SETTLING)
@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_two_at_once_settle_each_once(
    conn: Connection,
    connect: Connect,
    wait_until_blocked: Callable[[Connection], None],
    bury: Bury,
    first: str,
    second: str,
    end: str,
) -> None:
    for minute in range(4):
        bury(minute)
    bury(9, "payments")
    session, found = connect(), []
    conn.execute("begin")
    assert minutes(conn, first, most=3, execute=True) == [0, 1, 2]
    other = threading.Thread(target=lambda: found.append(minutes(session, second, most=3, execute=True)))
    other.start()
    wait_until_blocked(session)
    assert minutes(connect(), topic="payments", function=second, execute=True) == [9], "other topics are not waited for"
    conn.execute(end)
    other.join()
    expected = {"commit": [[3]], "rollback": [[0, 1, 2]]}[end]
    assert found == expected
    assert log_start(conn) == {"commit": 4, "rollback": 3}[end]


def test_many_at_once_settle_each_once(conn: Connection, connect: Connect, bury: Bury) -> None:
    """While records go on failing, some of them in transactions that are rolled back or end late."""
    purged: list[int] = []
    failed: list[BaseException] = []
    ended = threading.Event()

    def guarded(work: Callable[..., None], *args: Any, **more: Any) -> threading.Thread:
        def run() -> None:
            try:
                work(*args, **more)
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def fail(session: Connection, first: int) -> None:
        for minute in range(first, first + 60, 3):
            with session.transaction(force_rollback=minute % 5 == 0):
                for number in range(3):
                    bury(minute + number, connection=session, error="odd" if number == 1 else "even")

    def settle(session: Connection, function: str, **filters: Any) -> None:
        last_round = False
        while True:
            found = minutes(session, function, **filters, most=4, execute=True)
            if function == "purge_dead_letters":
                purged.extend(found)
            if not found and last_round:
                return
            last_round = ended.is_set()

    failing = [guarded(fail, connect(), first) for first in (0, 60)]
    settling = [guarded(settle, connect(), "redrive_dead_letters", error="even") for _ in range(2)]
    settling.append(guarded(settle, connect(), "purge_dead_letters", error="odd"))
    for thread in failing:
        thread.join()
    ended.set()
    for thread in settling:
        thread.join()
    assert failed == []
    expected = [m + n for m in range(0, 120, 3) if m % 5 for n in range(3)]
    assert sorted(purged) == [minute for minute in expected if minute % 3 == 1]
    assert sorted(int(row[2][1:]) for row in retried(conn)) == [minute for minute in expected if minute % 3 != 1]
    assert (minutes(conn), marks(conn)) == ([], [])
