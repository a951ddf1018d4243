"""`pgq topic` as an operator uses it: what it prints in each form, its exit codes, and what it does in the database."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from pgq import Admin, Producer
from tests.acceptance.test_cli import PGQ, environment, refusal, run
from tests.plugins.sessions import Connection, rows, value

PARTITION_COLUMNS = (
    "partition,log_start_offset,high_watermark,log_end_offset,records,bytes,segments,producers,producer_pid,"
    "producer_application,producer_age,producer_prepared"
)


def ok(*arguments: str, **variables: str) -> str:
    """What a command prints that ends well and says nothing on stderr."""
    done = run(*arguments, **variables)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def in_terminal(answer: str, *arguments: str, **variables: str) -> tuple[int, str]:
    """Run a command in a terminal, answer its question, and return its exit code and what the terminal shows."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*PGQ, *arguments], env=environment(TERM="xterm", **variables), stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while True:
                shown += os.read(ours, 65536)
                if answer and b"[y/N]" in shown:
                    os.write(ours, answer.encode() + b"\n")
                    answer = ""
        except OSError:  # the terminal has gone with its process
            pass
        os.close(ours)
    return process.returncode, shown.decode()


def test_create_describe_alter_delete(dsn: str) -> None:
    assert ok("topic", "create", "orders", "-p", "3", "-c", "max.message.bytes=2000", PGQ_DSN=dsn) == (
        "created topic orders with 3 partitions\n"
    )
    described = json.loads(ok("topic", "describe", "orders", "-o", "json", PGQ_DSN=dsn))
    assert (described["topic"], described["state"], described["partitions"]) == ("orders", "ready", 3)
    assert described["config"]["max.message.bytes"] == 2000
    assert [row["partition"] for row in described["partition_status"]] == [0, 1, 2]
    assert {row["high_watermark"] for row in described["partition_status"]} == {0}

    changes = ("-c", "segment.bytes=16777216", "--delete-config", "max.message.bytes")
    assert ok("topic", "alter", "orders", *changes, PGQ_DSN=dsn) == (
        "orders: segment.bytes=16777216\norders: max.message.bytes=1048576 (default)\n"
    )
    config = json.loads(ok("topic", "describe", "orders", "-o", "json", PGQ_DSN=dsn))["config"]
    assert (config["segment.bytes"], config["max.message.bytes"]) == (16777216, 1048576)

    assert ok("topic", "delete", "orders", "--yes", PGQ_DSN=dsn) == "deleted topic orders\n"
    assert json.loads(ok("topic", "list", "-o", "json", PGQ_DSN=dsn)) == []


def test_list_in_every_form(dsn: str) -> None:
    with Admin(dsn) as admin, Producer(dsn) as producer:
        admin.create_topic("orders", 2)
        admin.create_topic("payments")
        for number in range(4):
            producer.send("orders", b"x", partition=number % 2)
    table = ok("topic", "list", PGQ_DSN=dsn).splitlines()
    assert table[0].split() == ["TOPIC", "STATE", "PARTITIONS", "RECORDS", "DELAYED", "SKEW", "CREATED_AT"]
    assert [line.split()[:6] for line in table[1:]] == [
        ["orders", "ready", "2", "4", "0", "1.0"],
        ["payments", "ready", "1", "0", "0", "-"],
    ]
    assert not any(line.endswith(" ") or "\x1b" in line for line in table)
    rows = list(csv.DictReader(io.StringIO(ok("topic", "list", "-o", "csv", "--bytes", PGQ_DSN=dsn))))
    assert [(row["topic"], row["records"], row["skew"]) for row in rows] == [
        ("orders", "4", "1.0"),
        ("payments", "0", ""),
    ]
    assert all(int(row["bytes"]) > 0 for row in rows)
    first, second = json.loads(ok("topic", "list", "-o", "json", PGQ_DSN=dsn))
    assert (first["topic"], first["records"], second["skew"]) == ("orders", 4, None)
    assert first["created_at"].endswith("Z")
    assert "bytes" not in first


def test_describe_names_an_open_producer(dsn: str, connect: Callable[[], Connection]) -> None:
    with Admin(dsn) as admin:
        admin.create_topic("orders")
    quiet = ok("topic", "describe", "orders", PGQ_DSN=dsn)
    assert "PRODUCERS" in quiet
    assert "PRODUCER_PID" not in quiet
    session = connect()
    with session.transaction():
        session.execute("select pgq.produce('orders', 'x')")
        assert "PRODUCER_PID" in ok("topic", "describe", "orders", PGQ_DSN=dsn)
        (row,) = json.loads(ok("topic", "describe", "orders", "-o", "json", PGQ_DSN=dsn))["partition_status"]
        assert (row["producers"], row["producer_pid"]) == (1, session.info.backend_pid)
        header, line = ok("topic", "describe", "orders", "-o", "csv", PGQ_DSN=dsn).splitlines()
        assert header == PARTITION_COLUMNS
        assert str(session.info.backend_pid) in line.split(",")


def test_more_partitions_than_one_transaction_makes(dsn: str, conn: psycopg.Connection[Any]) -> None:
    assert "60 partitions" in ok("topic", "create", "wide", "--partitions", "60", PGQ_DSN=dsn)
    done = run("topic", "add-partitions", "wide", "-p", "64", PGQ_DSN=dsn)
    assert (done.returncode, done.stdout) == (0, "topic wide has 64 partitions now, 60 before\n")
    assert done.stderr == "Records of a key may go to another partition from now on.\n"
    assert value(conn, "select partitions from pgq.describe_topic('wide')") == 64
    assert "PQ" not in refusal("topic", "add-partitions", "wide", "-p", "10", PGQ_DSN=dsn)
    assert ok("topic", "delete", "wide", "-y", PGQ_DSN=dsn) == "deleted topic wide\n"


def test_what_is_there_and_what_is_not(dsn: str) -> None:
    ok("topic", "create", "orders", "--if-not-exists", PGQ_DSN=dsn)
    assert "orders" in refusal("topic", "create", "orders", PGQ_DSN=dsn)
    assert "nothing was changed" in ok("topic", "create", "orders", "-p", "9", "--if-not-exists", PGQ_DSN=dsn)
    for command in (
        ["describe"],
        ["alter", "-c", "segment.bytes=16777216"],
        ["delete", "-y"],
        ["add-partitions", "-p", "2"],
    ):
        assert "nowhere" in refusal("topic", *command, "nowhere", PGQ_DSN=dsn)
    assert "nothing was changed" in ok("topic", "delete", "nowhere", "--if-exists", PGQ_DSN=dsn)
    assert "nonsense" in refusal("topic", "create", "other", "-c", "nonsense=1", PGQ_DSN=dsn)
    assert "segment.bytes" in refusal("topic", "create", "other", "-c", "segment.bytes=much", PGQ_DSN=dsn)
    assert "a b" in refusal("topic", "create", "a b", PGQ_DSN=dsn)


@pytest.mark.parametrize(
    "arguments",
    [
        ["create", "orders", "-p", "0"],
        ["create", "orders", "-c", "segment.bytes"],
        ["create", "orders", "-c", "=1"],
        ["alter", "orders"],
        ["alter", "orders", "-c", "a=1", "--delete-config", "a"],
        ["list", "-o", "xml"],
        ["add-partitions", "orders"],
        ["trim", "orders"],
        ["trim", "orders", "--to-latest", "--older-than", "7d"],
        ["trim", "orders", "--to-offset", "1"],
        ["trim", "orders", "--to-offset", "-1", "-p", "0"],
        ["trim", "orders", "--to-datetime", "yesterday"],
    ],
    ids=" ".join,
)
def test_usage_errors(arguments: list[str]) -> None:
    done = run("topic", *arguments, PGQ_DSN="host=nowhere.invalid")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


def test_delete_asks_in_a_terminal_and_needs_yes_elsewhere(dsn: str) -> None:
    with Admin(dsn) as admin, Producer(dsn) as producer:
        admin.create_topic("orders")
        producer.send("orders", b"x")
        producer.flush()
        done = run("topic", "delete", "orders", PGQ_DSN=dsn)
        assert (done.returncode, done.stdout) == (2, "")
        assert "--yes" in done.stderr
        code, shown = in_terminal("n", "topic", "delete", "orders", PGQ_DSN=dsn)
        assert code == 1
        assert "Delete topic orders with 1 partition and 1 record?" in shown
        assert [topic.name for topic in admin.list_topics()] == ["orders"]
        code, shown = in_terminal("y", "topic", "delete", "orders", PGQ_DSN=dsn)
        assert code == 0
        assert "deleted topic orders" in shown
        assert admin.list_topics() == []


def test_delayed_records_are_shown(dsn: str) -> None:
    with Admin(dsn) as admin, Producer(dsn) as producer:
        admin.create_topic("orders", 2)
        admin.create_topic("others")
        for _ in range(5):
            producer.send("orders", b"later", delay_ms=3_600_000)
        producer.flush()
        listed = json.loads(ok("topic", "list", "-o", "json", PGQ_DSN=dsn))
        assert [(row["topic"], row["records"], row["delayed"]) for row in listed] == [
            ("orders", 0, 5),
            ("others", 0, 0),
        ]
        assert json.loads(ok("topic", "describe", "orders", "-o", "json", PGQ_DSN=dsn))["delayed"] == 5
        code, shown = in_terminal("n", "topic", "delete", "orders", PGQ_DSN=dsn)
        assert code == 1
        assert "Delete topic orders with 2 partitions, 0 records and 5 delayed records?" in shown


def test_colours_are_for_terminals_and_not_with_no_color(dsn: str) -> None:
    with Admin(dsn) as admin:
        admin.create_topic("orders")
    assert "\x1b[1mTOPIC" in in_terminal("", "topic", "list", PGQ_DSN=dsn)[1]
    shown = in_terminal("", "topic", "list", PGQ_DSN=dsn, NO_COLOR="1")[1]
    assert "TOPIC" in shown
    assert "\x1b[3" not in shown


def test_topics_complete_themselves(dsn: str) -> None:
    with Admin(dsn) as admin:
        for name in ("orders", "orders.late", "payments"):
            admin.create_topic(name)

    def complete(dsn: str) -> list[str]:
        # as the shell asks after `pgq consume or<TAB>`
        words = {"COMP_WORDS": "pgq consume or", "COMP_CWORD": "2", "_PGQ_COMPLETE": "complete_bash"}
        command = [*PGQ[:2], "from pgq.cli import app; app(prog_name='pgq')"]
        done = subprocess.run(
            command, env=environment(PGQ_DSN=dsn, **words), capture_output=True, text=True, check=False
        )
        assert done.stderr == ""
        return done.stdout.split()

    assert complete(dsn) == ["orders", "orders.late"]
    assert complete("host=127.0.0.1 port=1") == []


DAY_MS = 86_400_000
TRIM_COLUMNS = ["PARTITION", "LOG_START_OFFSET", "NEW_LOG_START_OFFSET", "RECORDS"]


@pytest.fixture
def days(dsn: str) -> str:
    """Topic orders of two partitions: in 0 a record each of 9 to 0 days ago, in 1 one of today."""
    now = int(time.time() * 1000)
    with Admin(dsn) as admin, Producer(dsn) as producer:
        admin.create_topic("orders", 2)
        for age in range(9, -1, -1):
            producer.send("orders", b"x", partition=0, timestamp_ms=now - age * DAY_MS)
        producer.send("orders", b"x", partition=1)
    return dsn


def trimmed(dsn: str, *arguments: str) -> list[tuple[int, int, int, int]]:
    """What a command says that it has deleted."""
    done = run("topic", "trim", "orders", *arguments, "--yes", "-o", "json", PGQ_DSN=dsn)
    assert done.returncode == 0, done.stderr
    assert "PQ" not in done.stderr
    return [tuple(row.values()) for row in json.loads(done.stdout)]


def starts(conn: psycopg.Connection[Any]) -> list[int]:
    return [start for (start,) in rows(conn, "select log_start_offset from pgq.partition_status order by partition")]


def test_trim_shows_what_would_go_and_asks(days: str, conn: psycopg.Connection[Any]) -> None:
    done = run("topic", "trim", "orders", "--older-than", "60h", PGQ_DSN=days)
    header, *lines = done.stdout.splitlines()
    assert done.returncode == 2
    assert "--yes" in done.stderr
    assert header.split() == TRIM_COLUMNS
    assert [line.split() for line in lines] == [["0", "0", "7", "7"], ["1", "0", "0", "0"]]
    code, shown = in_terminal("n", "topic", "trim", "orders", "--older-than", "P2DT12H", PGQ_DSN=days)
    assert code == 1
    assert "Delete 7 records of 1 partition of topic orders?" in shown
    assert starts(conn) == [0, 0]
    code, shown = in_terminal("y", "topic", "trim", "orders", "--older-than", "P2DT12H", PGQ_DSN=days)
    assert (code, starts(conn)) == (0, [7, 0])
    assert "deleted 7 records of 1 partition of topic orders" in shown


def test_trim_to_an_offset_a_time_and_the_end(days: str, conn: psycopg.Connection[Any]) -> None:
    assert trimmed(days, "--to-offset", "2", "-p", "0") == [(0, 0, 2, 2)]
    assert starts(conn) == [2, 0]
    then = datetime.now(UTC) - timedelta(days=4, hours=12)
    assert trimmed(days, "--to-datetime", then.isoformat()) == [(0, 2, 5, 3), (1, 0, 0, 0)]
    assert trimmed(days, "--to-datetime", then.replace(tzinfo=None).isoformat(), "-p", "0") == [(0, 5, 5, 0)]
    done = run("topic", "trim", "orders", "--to-offset", "3", "-p", "0", PGQ_DSN=days)
    assert (done.returncode, done.stderr) == (0, "nothing to delete\n")
    assert trimmed(days, "--to-latest", "-p", "1") == [(1, 0, 1, 1)]
    assert trimmed(days, "--to-latest")[0][2] == 10
    assert starts(conn) == [10, 1]


def test_trim_refuses_what_cannot_be(days: str, conn: psycopg.Connection[Any]) -> None:
    assert "11 is out of range" in refusal("topic", "trim", "orders", "--to-offset", "11", "-p", "0", PGQ_DSN=days)
    assert "nowhere" in refusal("topic", "trim", "nowhere", "--to-latest", PGQ_DSN=days)
    assert "7" in refusal("topic", "trim", "orders", "--to-latest", "-p", "7", PGQ_DSN=days)
    for duration in ("soon", "-7d"):
        assert duration in refusal("topic", "trim", "orders", "--older-than", duration, PGQ_DSN=days)
    assert starts(conn) == [0, 0]
