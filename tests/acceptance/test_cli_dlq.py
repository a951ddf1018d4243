"""`pgq dlq` as an operator uses it: dead letters are found, looked at, sent back, given up."""

from __future__ import annotations

import csv
import io
import json
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from pgq import Consumer, Producer
from tests.acceptance.test_cli import refusal, run
from tests.acceptance.test_cli_group import DRY_RUN, good, quick
from tests.plugins.sessions import Connection, rows, value

START = datetime(2026, 1, 1, tzinfo=UTC)
DEAD = "orders.billing.dlq"
NO_MEMBER = (
    "Group billing has no living member: start one soon. Retention deletes from a retry topic what nobody has read in"
    " time.\n"
)
COLUMNS = (
    "topic,group,dead_letter_topic,partition,offset,origin_partition,origin_offset,failed_at,attempts,redriven,"
    "first_error,last_error"
)


def headers_of(number: int, error: str = "ValueError: no amount") -> dict[str, bytes]:
    failed = START + timedelta(minutes=number)
    return {
        "source": b"web",
        "pgq.group": b"billing",
        "pgq.origin.topic": b"orders",
        "pgq.origin.partition": b"2",
        "pgq.origin.offset": b"%d" % (100 + number),
        "pgq.origin.timestamp": b"%d" % (START.timestamp() * 1000),
        "pgq.attempt": b"5",
        "pgq.failed": b"%d" % (failed.timestamp() * 1000),
        "pgq.first_error": b"TimeoutError",
        "pgq.last_error": error.encode(),
    }


def bury(conn: Connection, number: int, value: bytes | None = b"v", key: bytes | None = b"k", **more: Any) -> None:
    headers = headers_of(number, **more)
    conn.execute("select pgq.produce(%s, %s, %s, %s, %s)", [DEAD, value, key, list(headers), list(headers.values())])


@pytest.fixture(autouse=True)
def failure_topics(conn: Connection) -> None:
    """What pgq.create_retry_topics makes for group billing, and topic orders."""
    conn.execute("select pgq.create_topic('orders', 3)")
    for kind, name in (("retry", "orders.billing.retry"), ("dead letter", DEAD)):
        conn.execute("select pgq.create_topic(%s)", [name])
        conn.execute(
            "insert into pgq.failure_topic (topic_id, kind, group_id, origin)"
            " select topic_id, %s, 'billing', 'orders' from pgq.topic where name = %s",
            [kind, name],
        )


def offsets(dsn: str, *arguments: str) -> list[int]:
    """What `pgq dlq list` lists."""
    code, shown, _ = quick(dsn, "dlq", "list", *arguments, "-o", "json")
    assert code == 0
    return [row["offset"] for row in json.loads(shown)]


def test_list(dsn: str, conn: Connection) -> None:
    bury(conn, 0)
    bury(conn, 1, error="two\nlines \x1b[31m")
    done = run("dlq", "list", PGQ_DSN=dsn)
    assert (done.returncode, done.stderr) == (0, "")
    header, *lines = [line.split(maxsplit=6) for line in done.stdout.splitlines()]
    assert header == ["DEAD_LETTER_TOPIC", "PARTITION", "OFFSET", "FAILED_AT", "ATTEMPTS", "REDRIVEN", "LAST_ERROR"]
    assert lines == [
        [DEAD, "0", "0", "2026-01-01T00:00:00.000Z", "5", "0", "ValueError: no amount"],
        [DEAD, "0", "1", "2026-01-01T00:01:00.000Z", "5", "0", "two lines \\x1b[31m"],
    ]
    row = json.loads(good(dsn, "dlq", "list", "-o", "json"))[1]
    assert row == {
        "topic": "orders",
        "group": "billing",
        "dead_letter_topic": DEAD,
        "partition": 0,
        "offset": 1,
        "origin_partition": 2,
        "origin_offset": 101,
        "failed_at": "2026-01-01T00:01:00.000Z",
        "attempts": 5,
        "redriven": 0,
        "first_error": "TimeoutError",
        "last_error": "two\nlines \x1b[31m",
    }
    shown = good(dsn, "dlq", "list", "-o", "csv")
    assert shown.splitlines()[0] == COLUMNS
    assert [row["last_error"] for row in csv.DictReader(io.StringIO(shown))] == [
        "ValueError: no amount",
        "two\nlines \x1b[31m",
    ]


def test_filters(dsn: str, conn: Connection) -> None:
    for number in range(4):
        bury(conn, number, error="even" if number % 2 == 0 else "odd")
    assert offsets(dsn) == [0, 1, 2, 3]
    assert offsets(dsn, "--error", "EVEN") == [0, 2]
    assert offsets(dsn, "--since", "2026-01-01T00:01") == [1, 2, 3]
    assert offsets(dsn, "--since", "2026-01-01T01:01+01:00", "--until", "2026-01-01T00:03Z") == [1, 2]
    assert offsets(dsn, "-t", "orders", "-g", "billing", "--limit", "1") == [0]
    code, _, report = quick(dsn, "dlq", "list", "--limit", "3")
    assert (code, report) == (0, "There are more than 3: see --limit.\n")
    assert quick(dsn, "dlq", "list", "--limit", "4")[2] == ""


def test_show(dsn: str, conn: Connection) -> None:
    bury(conn, 3, b'{"amount": null}\n\x1b[31m')
    shown = good(dsn, "dlq", "show", DEAD, "0", "0")
    lines = [line.split(maxsplit=1) for line in shown.splitlines()]
    for expected in (
        ["topic", "orders"],
        ["group", "billing"],
        ["origin_partition", "2"],
        ["origin_offset", "103"],
        ["origin_timestamp", "2026-01-01T00:00:00.000Z"],
        ["failed_at", "2026-01-01T00:03:00.000Z"],
        ["attempts", "5"],
        ["redriven", "0"],
        ["last_error", "ValueError: no amount"],
        ["key", "k"],
        ["value", '{"amount": null}'],
        ["\\x1b[31m"],
        ["source", "web"],
        ["pgq.attempt", "5"],
    ):
        assert expected in lines
    record = json.loads(good(dsn, "dlq", "show", DEAD, "0", "0", "-o", "json"))
    assert (record["value"], record["first_error"], record["codec"]) == (
        '{"amount": null}\n\x1b[31m', "TimeoutError", None
    )  # fmt: skip
    assert record["headers"][0] == {"key": "source", "value": "web"}
    assert len(record["headers"]) == len(headers_of(0))
    header, first, *_ = good(dsn, "dlq", "show", DEAD, "0", "0", "-o", "csv").splitlines()
    assert (header, first) == ("key,value,value_encoding", "source,web,")


def test_show_what_is_no_text(dsn: str, conn: Connection) -> None:
    conn.execute(
        "select pgq.produce(%s, '\\xff00', null, array['a', 'pgq.failed', 'pgq.attempt', 'b'],"
        " array['\\xfe', 'soon', '999999999999999999999', null]::bytea[])",
        [DEAD],
    )
    record = json.loads(good(dsn, "dlq", "show", DEAD, "0", "0", "-o", "json"))
    assert (record["value"], record["value_encoding"], record["key"]) == ("/wA=", "base64", None)
    assert record["headers"][0] == {"key": "a", "value": "/g==", "value_encoding": "base64"}
    assert record["headers"][3] == {"key": "b", "value": None}
    assert (record["failed_at"], record["attempts"], record["origin_offset"]) == (None, None, None)
    shown = good(dsn, "dlq", "show", DEAD, "0", "0")
    assert ["value", "\\xff\\x00"] in [line.split() for line in shown.splitlines()]
    assert len(json.loads(good(dsn, "dlq", "list", "-o", "json"))) == 1


def test_show_compressed_values(dsn: str, conn: Connection) -> None:
    with Producer(dsn, compression_type="gzip") as producer:
        producer.send(DEAD, b"long " * 1000)
    record = json.loads(good(dsn, "dlq", "show", DEAD, "0", "0", "-o", "json"))
    assert (record["value"], record["codec"]) == ("long " * 1000, "gzip")
    table = value(conn, "select 'pgq_log.t' || topic_id from pgq.topic where name = %s", DEAD)
    conn.execute(f"update {table} set value = 'damaged'")
    code, shown, report = quick(dsn, "dlq", "show", DEAD, "0", "0", "-o", "json")
    assert (code, json.loads(shown)["value"]) == (0, "damaged")
    assert report.startswith("The value is shown as it is stored: the value cannot be decompressed")


def retried(conn: Connection) -> list[tuple[Any, ...]]:
    return rows(conn, "select convert_from(value, 'UTF8') from pgq.fetch('orders.billing.retry', 0, 0)")


def test_redrive_shows_first_and_then_does(dsn: str, conn: Connection) -> None:
    for number in range(5):
        bury(conn, number, b"v%d" % number, error="odd" if number % 2 else "even")
    what = ("dlq", "redrive", "--topic", "orders", "--group", "billing", "--error", "even")
    code, shown, report = quick(dsn, *what)
    assert (code, report) == (0, DRY_RUN + NO_MEMBER)
    header, *lines = [line.split() for line in shown.splitlines()]
    assert header == ["DEAD_LETTER_TOPIC", "PARTITION", "OFFSET", "FAILED_AT", "LAST_ERROR", "RETRY_TOPIC"]
    assert [(line[0], line[2], line[4], line[5]) for line in lines] == [
        (DEAD, str(n), "even", "orders.billing.retry") for n in (0, 2, 4)
    ]
    planned = json.loads(quick(dsn, *what, "-o", "json")[1])
    assert planned[1]["origin_offset"] == 102
    assert (offsets(dsn), retried(conn)) == ([0, 1, 2, 3, 4], [])

    done = run(*what, "--execute", "--batch", "2", PGQ_DSN=dsn)
    assert (done.returncode, done.stderr) == (0, "sent back 3 dead letters\n" + NO_MEMBER)
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["TOPIC", "GROUP", "DEAD_LETTER_TOPIC", "RETRY_TOPIC", "RECORDS"],
        ["orders", "billing", DEAD, "orders.billing.retry", "3"],
    ]
    assert (offsets(dsn), retried(conn)) == ([1, 3], [("v0",), ("v2",), ("v4",)])
    assert quick(dsn, *what, "--execute", "-o", "csv") == (
        0, "topic,group,dead_letter_topic,retry_topic,records\n", "sent back 0 dead letters\n"
    )  # fmt: skip
    with Consumer("orders", dsn=dsn, group_id="billing") as member:
        member.getmany(timeout_ms=0)
        report = quick(dsn, "dlq", "redrive", "--execute", "--limit", "1", "--batch", "7")[2]
    assert report == "sent back 1 dead letter\n", "somebody is there to process it"
    assert offsets(dsn) == [3]


def test_purge_shows_first_and_then_does(dsn: str, conn: Connection) -> None:
    for number in range(5):
        bury(conn, number)
    code, shown, report = quick(dsn, "dlq", "purge", "--limit", "3", "-o", "csv")
    assert (code, report) == (0, DRY_RUN)
    assert [row["offset"] for row in csv.DictReader(io.StringIO(shown))] == ["0", "1", "2"]
    assert offsets(dsn) == [0, 1, 2, 3, 4]
    code, shown, report = quick(dsn, "dlq", "purge", "--limit", "3", "--batch", "2", "--execute", "-o", "json")
    assert (code, report) == (0, "purged 3 dead letters\n")
    assert json.loads(shown) == [{"topic": "orders", "group": "billing", "dead_letter_topic": DEAD, "records": 3}]
    assert offsets(dsn) == [3, 4]
    assert value(conn, "select pgq.log_start_offset(%s, 0)", DEAD) == 3
    assert quick(dsn, "dlq", "purge", "--execute", "--until", "2026-01-01T00:04")[2] == "purged 1 dead letter\n"
    assert offsets(dsn) == [4]


def test_what_fails_again_meanwhile_is_left(dsn: str, conn: Connection) -> None:
    """A handler that still fails would keep the command going for ever."""
    for number in range(3):
        bury(conn, number)
    ended = threading.Event()

    def fail_again() -> None:
        fail = "select pgq.fail_records('billing', '{orders.billing.retry}', '{0}', array[%s]::int8[], '{null}', '{e}')"
        read = 0
        with psycopg.connect(dsn, autocommit=True) as session:
            while not ended.is_set():
                for (offset,) in rows(session, "select \"offset\" from pgq.fetch('orders.billing.retry', 0, %s)", read):
                    session.execute(fail, [offset])
                    read = offset + 1

    worker = threading.Thread(target=fail_again)
    worker.start()
    try:
        code, _, report = quick(dsn, "dlq", "redrive", "--batch", "1", "--execute")
    finally:
        ended.set()
        worker.join()
    assert (code, report) == (0, "sent back 3 dead letters\n" + NO_MEMBER)
    assert {row["redriven"] for row in json.loads(good(dsn, "dlq", "list", "-o", "json"))} <= {1}


def test_what_is_not_there(dsn: str, conn: Connection) -> None:
    bury(conn, 0)
    for command in ("list", "redrive", "purge"):
        for option in ("--topic", "--group"):
            code, shown, sentence = quick(dsn, "dlq", command, option, "nope")
            assert (code, shown, sentence.count("\n"), "nope" in sentence) == (1, "", 1, True)
    assert "offset 1" in refusal("dlq", "show", DEAD, "0", "1", PGQ_DSN=dsn)
    assert "partition 1" in quick(dsn, "dlq", "show", DEAD, "1", "0")[2]
    assert "nope" in quick(dsn, "dlq", "show", "nope", "0", "0")[2]
    conn.execute("select pgq.delete_topic('orders.billing.retry')")
    for more in ([], ["--execute"]):
        code, shown, sentence = quick(dsn, "dlq", "redrive", *more)
        assert (code, shown, "no retry topic" in sentence) == (1, "", True)


def test_what_was_done_before_an_error_is_told(dsn: str, conn: Connection) -> None:
    bury(conn, 0)
    bury(conn, 1)
    conn.execute(
        "create function pgq.trap() returns trigger language plpgsql as $$"
        " begin if new.\"offset\" = 1 then raise 'trapped'; end if; return new; end $$"
    )
    conn.execute(
        "create trigger trap before insert on pgq.settled_dead_letter for each row execute function pgq.trap()"
    )
    code, shown, sentence = quick(dsn, "dlq", "purge", "--batch", "1", "--execute")
    assert (code, shown.splitlines()[1].split()[-1], "trapped" in sentence) == (1, "1", True)
    assert offsets(dsn) == [1]


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
def test_other_isolation_levels_by_default(dsn: str, conn: Connection, isolation: str) -> None:
    for number in range(2):
        bury(conn, number)
    name = value(conn, "select quote_ident(current_database())")
    conn.execute(f"alter database {name} set default_transaction_isolation = '{isolation}'")
    assert offsets(dsn) == [0, 1]
    good(dsn, "dlq", "show", DEAD, "0", "0")
    assert quick(dsn, "dlq", "redrive")[0] == 0
    assert quick(dsn, "dlq", "redrive", "--limit", "1", "--execute")[0] == 0
    assert quick(dsn, "dlq", "purge", "--execute")[0] == 0
    assert offsets(dsn) == []


def test_usage_errors() -> None:
    for arguments in (
        ["list", "--since", "soon"],
        ["list", "--limit", "0"],
        ["list", "-o", "xml"],
        ["show", DEAD],
        ["show", DEAD, "0", "x"],
        ["redrive", "--until", "then"],
        ["redrive", "--batch", "0"],
        ["purge", "--limit", "0"],
    ):
        assert quick("host=nowhere.invalid", "dlq", *arguments)[:2] == (2, ""), arguments
