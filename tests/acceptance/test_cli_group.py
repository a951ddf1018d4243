"""`pgq group` and `pgq lag` as an operator uses them, beside members that read in the background."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

from pgq import Admin, Consumer, Producer, TopicPartition
from pgq.cli import app
from pgq.embedded_cluster import EmbeddedCluster
from tests.acceptance.test_cli import PGQ, environment, refusal, run
from tests.acceptance.test_cli_topic import in_terminal
from tests.plugins.sessions import Connection, eventually, rows, value

OFFSETS_HEADER = "GROUP TOPIC PARTITION CURRENT_OFFSET LOG_END_OFFSET LAG TIME_LAG CONSUMER_ID HOST CLIENT_ID"
LAG_HEADER = "STATUS GROUP TOPIC PARTITIONS LAG TIME_LAG CLAIMED UNCOMMITTED"
DRY_RUN = "Nothing was changed: this is what --execute would do.\n"


@contextmanager
def member(dsn: str, *topics: str, group_id: str = "billing", **options: Any) -> Iterator[Consumer]:
    """A member of a group that polls in a thread, and has its partitions."""
    consumer = Consumer(*topics, dsn=dsn, group_id=group_id, auto_offset_reset="earliest", **options)
    ended = threading.Event()

    def poll() -> None:
        while not ended.is_set():
            consumer.getmany(timeout_ms=20)

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        eventually(lambda: bool(consumer.assignment()))
        yield consumer
    finally:
        ended.set()
        thread.join()
        consumer.close()


@pytest.fixture
def orders(dsn: str) -> str:
    """orders of 2 partitions with 10 and 4 records an hour apart, and payments with 1 that is new."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    with Admin(dsn) as admin, Producer(dsn) as producer:
        admin.create_topic("orders", 2)
        admin.create_topic("payments")
        for partition, count in ((0, 10), (1, 4)):
            for number in range(count):
                time_ms = int((start + timedelta(hours=number)).timestamp() * 1000)
                producer.send("orders", b"v", partition=partition, timestamp_ms=time_ms)
        producer.send("payments", b"v")
    return "orders"


def quick(dsn: str, *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command in this process, which starts in no time."""
    done = CliRunner().invoke(app, arguments, env={"PGQ_DSN": dsn})
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


def good(dsn: str, *arguments: str) -> str:
    """What a command prints that ends well and says nothing on stderr."""
    code, shown, report = quick(dsn, *arguments)
    assert (code, report) == (0, "")
    return shown


def commit(dsn: str, group_id: str, offsets: dict[tuple[str, int], int]) -> None:
    with Admin(dsn) as admin:
        admin.alter_consumer_group_offsets(group_id, {TopicPartition(*tp): offset for tp, offset in offsets.items()})


def committed(conn: Connection, group_id: str) -> dict[tuple[str, int], int]:
    found = rows(conn, 'select topic, partition, "offset" from pgq.committed_offsets(%s)', group_id)
    return {(topic, partition): offset for topic, partition, offset in found}


def test_list(dsn: str, orders: str) -> None:
    commit(dsn, "audit", {(orders, 0): 3})
    with member(dsn, orders):
        table = [line.split() for line in good(dsn, "group", "list").splitlines()]
        assert table[0] == ["GROUP", "STATE", "MEMBERS", "PARTITIONS", "ASSIGNOR", "GENERATION", "LAG", "CREATED_AT"]
        assert [row[:5] for row in table[1:]] == [
            ["audit", "Empty", "0", "0", "-"],
            ["billing", "Stable", "1", "2", "range"],
        ]
        assert table[1][6] == "7"
        found = json.loads(good(dsn, "group", "list", "--state", "empty", "-o", "json"))
        assert [(row["group"], row["lag"], row["assignor"]) for row in found] == [("audit", 7, None)]
        header, line = good(dsn, "group", "list", "--state", "Stable", "-o", "csv").splitlines()
        assert header == "group,state,members,partitions,assignor,generation,lag,created_at"
        assert line.startswith("billing,Stable,1,2,range,")
    assert quick(dsn, "group", "list", "--state", "Busy")[0] == 2


def test_describe_offsets(dsn: str, conn: Connection, orders: str) -> None:
    commit(dsn, "audit", {(orders, 0): 3, (orders, 1): 4})
    with member(dsn, orders, client_id="billing-1", enable_auto_commit=False) as consumer:
        header, *lines = good(dsn, "group", "describe", "billing", "audit").splitlines()
        assert header.split() == OFFSETS_HEADER.split()
        member_id = value(conn, "select member_id from pgq.group_member")
        host = value(conn, "select coalesce(host(client_addr), '-') from pgq.group_member")
        assert [line.split() for line in lines[:2]] == [
            ["billing", "orders", str(n), "-", end, "-", "-", str(member_id), host, "billing-1"]
            for n, end in ((0, "10"), (1, "4"))
        ]
        audit = [line.split() for line in lines[2:]]
        assert [row[:6] + row[7:] for row in audit] == [
            ["audit", "orders", "0", "3", "10", "7", "-", "-", "-"],
            ["audit", "orders", "1", "4", "4", "0", "-", "-", "-"],
        ]
        assert float(audit[0][6]) > 86_400
        assert float(audit[1][6]) == 0
        consumer.commit({TopicPartition(orders, 0): 8})
        found = json.loads(good(dsn, "group", "describe", "--all", "-o", "json"))
        assert [(row["group"], row["partition"], row["lag"]) for row in found] == [
            ("audit", 0, 7),
            ("audit", 1, 0),
            ("billing", 0, 2),
            ("billing", 1, None),
        ]
        assert (found[2]["epoch"], found[2]["high_watermark"], found[2]["metadata"]) == (1, 10, "")
    found = list(csv.DictReader(io.StringIO(good(dsn, "group", "describe", "billing", "-o", "csv"))))
    assert [(row["current_offset"], row["consumer_id"], row["epoch"]) for row in found] == [("8", "", "")]


def test_describe_members_and_state(dsn: str, conn: Connection, orders: str) -> None:
    with member(dsn, orders, "payments", client_id="billing-1", group_instance_id="one"):
        header, line = good(dsn, "group", "describe", "billing", "--members").splitlines()
        assert header.split() == [
            "GROUP", "CONSUMER_ID", "HOST", "CLIENT_ID", "GROUP_INSTANCE_ID", "ALIVE", "PARTITIONS", "ASSIGNMENT"
        ]  # fmt: skip
        assert line.split()[3:] == ["billing-1", "one", "yes", "3", "orders(0,1),", "payments(0)"]
        (row,) = json.loads(good(dsn, "group", "describe", "billing", "--members", "-o", "json"))
        assert (row["assignment"], row["topics"], row["alive"], row["session_timeout_ms"]) == (
            {"orders": [0, 1], "payments": [0]},
            ["orders", "payments"],
            True,
            45000,
        )
        assert row["pid"] == value(conn, "select pid from pgq.group_member")
        (row,) = csv.DictReader(io.StringIO(good(dsn, "group", "describe", "billing", "--members", "-o", "csv")))
        assert json.loads(row["assignment"]) == {"orders": [0, 1], "payments": [0]}
        header, line = good(dsn, "group", "describe", "billing", "--state").splitlines()
        assert header.split()[:4] == ["GROUP", "STATE", "MEMBERS", "PARTITIONS"]
        assert line.split()[:4] == ["billing", "Stable", "1", "3"]


def test_reset_shows_first_and_then_does(dsn: str, conn: Connection, orders: str) -> None:
    commit(dsn, "billing", {(orders, 0): 5, (orders, 1): 4})
    what = ("group", "reset", "billing", "--all-topics", "--shift-by", "-2")
    done = run(*what, PGQ_DSN=dsn)
    assert (done.returncode, done.stderr) == (0, DRY_RUN)
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["GROUP", "TOPIC", "PARTITION", "CURRENT_OFFSET", "NEW_OFFSET", "CLAMPED"],
        ["billing", "orders", "0", "5", "3", "no"],
        ["billing", "orders", "1", "4", "2", "no"],
    ]
    assert committed(conn, "billing") == {(orders, 0): 5, (orders, 1): 4}
    done = run(*what, "--execute", PGQ_DSN=dsn)
    assert (done.returncode, done.stderr) == (0, "reset 2 partitions of group billing\n")
    assert committed(conn, "billing") == {(orders, 0): 3, (orders, 1): 2}


def test_every_way_to_reset(dsn: str, conn: Connection, orders: str) -> None:
    commit(dsn, "billing", {(orders, 0): 5})
    for options, expected in (
        (["-t", "orders", "--to-earliest"], {(orders, 0): 0, (orders, 1): 0}),
        (["--topic", "orders:0", "--to-latest"], {(orders, 0): 10, (orders, 1): 0}),
        (["-t", "orders:0,1", "--to-offset", "6"], {(orders, 0): 6, (orders, 1): 4}),
        (["--all-topics", "--to-datetime", "2026-01-01T02:00"], {(orders, 0): 2, (orders, 1): 2}),
        (["--all-topics", "--to-datetime", "2026-01-01T02:00+01:00"], {(orders, 0): 1, (orders, 1): 1}),
        (["-t", "orders:1", "--by-duration", "PT1H"], {(orders, 0): 1, (orders, 1): 4}),
        (["-t", "orders", "-t", "payments", "--to-current"], {(orders, 0): 1, (orders, 1): 4, ("payments", 0): 1}),
    ):
        code, _, report = quick(dsn, "group", "reset", "billing", *options, "--execute")
        assert (code, report[:6]) == (0, "reset ")
        assert committed(conn, "billing") == expected


def test_reset_from_a_file(dsn: str, conn: Connection, orders: str, tmp_path: Path) -> None:
    """What a dry run prints, corrected by hand, or what Kafka's tool exports."""
    commit(dsn, "billing", {(orders, 0): 5, (orders, 1): 3})
    _, printed, _ = quick(dsn, "group", "reset", "billing", "--all-topics", "--to-earliest", "-o", "csv")
    assert printed == (
        "group,topic,partition,current_offset,new_offset,clamped\nbilling,orders,0,5,0,False\n"
        "billing,orders,1,3,0,False\n"
    )
    file = tmp_path / "offsets.csv"
    file.write_text(printed.replace("0,5,0", "0,5,7") + "audit,orders,0,5,9,False\n", encoding="utf-8")
    arguments = ("group", "reset", "billing", "--from-file", str(file), "--execute")
    assert quick(dsn, *arguments)[0] == 0
    assert committed(conn, "billing") == {(orders, 0): 7, (orders, 1): 0}
    file.write_text("orders,0,2\norders,1,99\n", encoding="utf-8")
    found = json.loads(quick(dsn, *arguments, "-o", "json")[1])
    assert [(row["new_offset"], row["clamped"]) for row in found] == [(2, False), (4, True)]
    for wrong in (
        "orders,0\n",
        "orders,x,1\n",
        "",
        "group,topic,partition,offset\naudit,orders,0,1\n",
        "a,0,1\na,0,2\n",
    ):
        file.write_text(wrong, encoding="utf-8")
        assert quick(dsn, *arguments)[:2] == (2, "")
    assert committed(conn, "billing") == {(orders, 0): 2, (orders, 1): 4}


def test_members_have_to_be_stopped(dsn: str, conn: Connection, orders: str) -> None:
    with member(dsn, orders, enable_auto_commit=False):
        assert quick(dsn, "group", "reset", "billing", "-t", orders, "--to-latest")[0] == 0
        for command in (
            ["reset", "billing", "-t", orders, "--to-latest", "--execute"],
            ["delete", "billing", "-y"],
            ["delete-offsets", "billing", "-t", orders, "-y"],
        ):
            code, _, sentence = quick(dsn, "group", *command)
            assert (code, sentence.count("\n"), "'billing'" in sentence) == (1, 1, True)
            assert "Stop them first" in sentence
    assert committed(conn, "billing") == {}


def test_delete(dsn: str, conn: Connection, orders: str) -> None:
    for name in ("a", "b", "c"):
        commit(dsn, name, {(orders, 0): 1, (orders, 1): 1, ("payments", 0): 1})
    done = run("group", "delete", "a", PGQ_DSN=dsn)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--yes" in done.stderr
    code, shown = in_terminal("n", "group", "delete", "a", PGQ_DSN=dsn)
    assert (code, "Delete group a " in shown) == (1, True)
    assert in_terminal("y", "group", "delete", "a", PGQ_DSN=dsn)[0] == 0
    assert quick(dsn, "group", "delete", "b", "nope", "-y")[0] == 1
    assert rows(conn, "select name from pgq.consumer_group order by 1") == [("b",), ("c",)]

    what = ("-t", "orders:1", "-t", "payments")
    assert quick(dsn, "group", "delete-offsets", "b", *what)[0] == 2
    assert good(dsn, "group", "delete-offsets", "b", *what, "--yes") == (
        "deleted the offsets of group b for 2 partitions\n"
    )
    assert committed(conn, "b") == {(orders, 0): 1}
    with member(dsn, orders, group_id="c"):
        code, shown, report = quick(dsn, "group", "delete", "c", "b", "-y")
        assert (code, shown) == (1, "deleted group b\n"), "the others are deleted all the same"
        assert report.count("\n") == 1


def test_what_is_not_there(dsn: str, orders: str) -> None:
    for command in (
        ["describe", "nope"],
        ["delete", "nope", "-y"],
        ["delete-offsets", "nope", "-t", orders, "-y"],
        ["reset", "nope", "--all-topics", "--to-latest"],
    ):
        code, shown, sentence = quick(dsn, "group", *command)
        assert (code, shown, sentence.count("\n"), "nope" in sentence) == (1, "", 1, True)
    assert "nowhere" in quick(dsn, "group", "reset", "new", "-t", "nowhere", "--to-latest")[2]
    assert "partition 2" in refusal("group", "reset", "new", "-t", "orders:2", "--to-latest", PGQ_DSN=dsn)
    assert good(dsn, "group", "describe", "--all").split() == OFFSETS_HEADER.split()


def test_usage_errors() -> None:
    for arguments in (
        ["describe"],
        ["describe", "g", "--all"],
        ["describe", "g", "--members", "--state"],
        ["reset", "g", "--to-latest"],
        ["reset", "g", "--all-topics"],
        ["reset", "g", "-t", "a", "--all-topics", "--to-latest"],
        ["reset", "g", "-t", "a", "--to-latest", "--to-earliest"],
        ["reset", "g", "-t", "a:", "--to-latest"],
        ["reset", "g", "-t", "a:x", "--to-latest"],
        ["reset", "g", "-t", "a", "--to-datetime", "soon"],
        ["reset", "g", "--from-file", "/nowhere/at/all.csv"],
        ["delete"],
        ["delete-offsets", "g", "-y"],
    ):
        assert quick("host=nowhere.invalid", "group", *arguments)[:2] == (2, ""), arguments


def test_groups_complete_themselves(dsn: str, orders: str) -> None:
    for name in ("billing", "bi", "audit"):
        commit(dsn, name, {(orders, 0): 1})
    words = {"COMP_WORDS": "pgq group describe bi", "COMP_CWORD": "3", "_PGQ_COMPLETE": "complete_bash"}
    command = [*PGQ[:2], "from pgq.cli import app; app(prog_name='pgq')"]
    for server, expected in ((dsn, ["bi", "billing"]), ("host=127.0.0.1 port=1", [])):
        variables = environment(PGQ_DSN=server, **words)
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
        assert (done.stdout.split(), done.stderr) == (expected, "")


# pgq lag


def lag(dsn: str, *arguments: str) -> tuple[int, list[str]]:
    code, shown, _ = quick(dsn, "lag", *arguments)
    return code, shown.splitlines()


def test_lag_and_its_limits(dsn: str, orders: str) -> None:
    commit(dsn, "audit", {(orders, 0): 10, (orders, 1): 4, ("payments", 0): 0})
    commit(dsn, "billing", {(orders, 0): 3, (orders, 1): 2})
    code, lines = lag(dsn)
    assert code == 0
    assert lines[0].startswith("OK: group billing is 9 records behind in topic orders, the oldest of them ")
    assert lines[0].partition(" | ")[2].startswith("lag=9;;;0 time_lag=")
    assert lines[1].split() == LAG_HEADER.split()
    table = [line.split() for line in lines[2:]]
    assert [row[:5] + row[6:] for row in table] == [
        ["OK", "audit", "orders", "2", "0", "0", "0"],
        ["OK", "audit", "payments", "1", "1", "0", "0"],
        ["OK", "billing", "orders", "2", "9", "0", "0"],
    ]
    assert float(table[0][5]) == 0 < float(table[1][5]) < 86_400 < float(table[2][5])
    for arguments, expected, word in (
        (["-w", "9"], 0, "OK"),
        (["-w", "8"], 1, "WARNING"),
        (["-w", "8", "-c", "9"], 1, "WARNING"),
        (["-w", "5", "-c", "8"], 2, "CRITICAL"),
        (["-c", "8"], 2, "CRITICAL"),
        (["audit", "-w", "0"], 1, "WARNING"),
        (["audit", "-w", "1"], 0, "OK"),
        (["audit", "--topic", "orders", "-w", "0", "-c", "0", "--time-critical", "0"], 0, "OK"),
        (["--time-warning", "86400"], 1, "WARNING"),
        (["--time-warning", "1", "--time-critical", "86400"], 2, "CRITICAL"),
        (["audit", "--time-critical", "86400"], 0, "OK"),
        (["billing", "audit", "--time-critical", "1e12"], 0, "OK"),
    ):
        code, lines = lag(dsn, *arguments)
        assert (code, lines[0].partition(":")[0]) == (expected, word), arguments
    assert lag(dsn, "-w", "8", "-c", "100")[1][0].partition(" | ")[2].startswith("lag=9;8;100;0 time_lag=")
    assert ", and 1 more" in lag(dsn, "-w", "0")[1][0]


def test_lag_in_every_form(dsn: str, orders: str) -> None:
    commit(dsn, "billing", {(orders, 0): 3})
    code, shown, _ = quick(dsn, "lag", "-w", "5", "-o", "json")
    found = json.loads(shown)
    assert (code, found["status"], found["summary"][:8]) == (1, "WARNING", "WARNING:")
    ((row),) = found["groups"]
    assert (row["status"], row["group"], row["topic"], row["lag"]) == ("WARNING", "billing", orders, 7)
    _, shown, report = quick(dsn, "lag", "-o", "csv")
    (row,) = csv.DictReader(io.StringIO(shown))
    assert (row["partitions"], row["lag"], row["claimed"]) == ("1", "7", "0")
    assert report.startswith("OK: group billing is 7 records behind")


def test_lag_of_living_members(dsn: str, orders: str) -> None:
    with member(dsn, orders, auto_commit_interval_ms=0):
        eventually(lambda: json.loads(quick(dsn, "lag", "-o", "json")[1])["groups"][0]["lag"] == 0)
        code, lines = lag(dsn, "billing", "-w", "0", "--time-warning", "0")
        assert (code, lines[0].partition(" | ")[0]) == (0, "OK: group billing is 0 records behind in topic orders")
        assert lines[2].split()[-2] == "2", "both partitions are claimed"


LIMITS = (["-w", "100"], ["-c", "100"], ["--time-warning", "1e12"], ["--time-critical", "1e12"])


def performance(line: str) -> dict[str, str]:
    """label -> value of what a monitoring system makes of the first line: a number with its unit, or U for unknown."""
    _, separator, data = line.partition(" | ")
    assert separator, line
    found = {}
    for part in data.split(" "):
        match = re.fullmatch(r"(\w+)=(-?[0-9.]+s?|U);([0-9.e+]*);([0-9.e+]*);0", part)
        assert match, part
        found[match[1]] = match[2]
    return found


def test_lag_of_a_group_that_never_committed(dsn: str, orders: str) -> None:
    """Its members live and hold all partitions, and records wait: that is not a lag of 0."""
    sentence = "group billing has nothing committed for 2 of 2 partitions of topic orders"
    with member(dsn, orders, enable_auto_commit=False):
        code, lines = lag(dsn, "billing")
        assert (code, lines[0].partition(" | ")[0]) == (0, f"OK: {sentence}")
        assert performance(lines[0]) == {"lag": "U", "time_lag": "U"}
        assert [line.split() for line in lines[1:]] == [
            LAG_HEADER.split(),
            ["OK", "billing", "orders", "2", "-", "-", "2", "2"],
        ]
        for limit in LIMITS:
            code, lines = lag(dsn, *limit)
            assert (code, lines[0].partition(" | ")[0]) == (1, f"WARNING: {sentence}"), limit
            assert performance(lines[0]) == {"lag": "U", "time_lag": "U"}
        code, shown, _ = quick(dsn, "lag", "-w", "100", "-o", "json")
        found = json.loads(shown)
        assert (code, found["status"], found["summary"]) == (1, "WARNING", f"WARNING: {sentence}")
        assert found["groups"] == [
            {
                "status": "WARNING",
                "group": "billing",
                "topic": orders,
                "partitions": 2,
                "lag": None,
                "time_lag": None,
                "claimed": 2,
                "uncommitted": 2,
            }
        ]
        code, shown, report = quick(dsn, "lag", "-w", "100", "-o", "csv")
        (row,) = csv.DictReader(io.StringIO(shown))
        assert (code, row["lag"], row["time_lag"], row["uncommitted"]) == (1, "", "", "2")
        assert report == f"WARNING: {sentence}\n"


def test_lag_where_some_partitions_have_nothing_committed(dsn: str, orders: str) -> None:
    with member(dsn, orders, "payments", enable_auto_commit=False) as consumer:
        consumer.commit({TopicPartition(orders, 0): 7})
        code, lines = lag(dsn, "-t", orders)
        assert code == 0
        assert re.fullmatch(
            r"OK: group billing is 3 records behind in topic orders, the oldest of them [0-9.]+ s old;"
            r" group billing has nothing committed for 1 of 2 partitions of topic orders",
            lines[0].partition(" | ")[0],
        )
        assert performance(lines[0])["lag"] == "3"
        assert [lines[2].split()[n] for n in (0, 4, 6, 7)] == ["OK", "3", "2", "1"]
        for arguments, expected in ((["-w", "100"], 1), (["-w", "2"], 1), (["-c", "2"], 2), (["-c", "3"], 1)):
            code, lines = lag(dsn, "-t", orders, *arguments)
            assert (code, "nothing committed for 1 of 2" in lines[0]) == (expected, True), arguments
        code, lines = lag(dsn, "-w", "100")
        assert (code, lines[0].count("nothing committed"), ", and 1 more | " in lines[0]) == (1, 1, True)
        assert [line.split()[0] for line in lines[2:]] == ["WARNING", "WARNING"]
        consumer.commit({TopicPartition(orders, 1): 4, TopicPartition("payments", 0): 1})
        code, lines = lag(dsn, "-w", "100")
        assert (code, "nothing" in lines[0]) == (0, False)


def test_lag_tells_of_a_group_that_never_committed_beside_others(dsn: str, orders: str) -> None:
    commit(dsn, "audit", {(orders, 0): 3, (orders, 1): 4})
    with member(dsn, orders, enable_auto_commit=False):
        for arguments, expected, beginning in (
            ([], 0, "OK: group audit is 7 records behind"),
            (["-w", "5"], 1, "WARNING: group audit is 7 records behind"),
            (["-c", "5"], 2, "CRITICAL: group audit is 7 records behind"),
            (["-c", "9"], 1, "WARNING: group billing has nothing committed for 2 of 2 partitions of topic orders | "),
        ):
            code, lines = lag(dsn, *arguments)
            assert (code, lines[0][: len(beginning)]) == (expected, beginning)
            assert "group billing has nothing committed for 2 of 2 partitions of topic orders | " in lines[0]
            assert performance(lines[0])["lag"] == "7"


def test_a_partition_without_records_has_no_lag(dsn: str, conn: Connection) -> None:
    """Neither one that never had any, nor one whose records were all deleted and whose segment was rolled."""
    with Admin(dsn) as admin, Producer(dsn) as producer:
        admin.create_topic("quiet", 2)
        for _ in range(3):
            producer.send("quiet", b"v", partition=1)
        producer.flush()
        admin.delete_records({TopicPartition("quiet", 1): 3})
    conn.execute("select pgq._make_segment(p.partition_id, 4096) from pgq.partition p where p.partition = 1")
    assert value(conn, "select pgq._roll_segment(p.partition_id) from pgq.partition p where p.partition = 1")
    with member(dsn, "quiet", enable_auto_commit=False):
        code, lines = lag(dsn, "billing", "-w", "0", "--time-warning", "0")
        assert (code, lines[0]) == (
            0,
            "OK: group billing is 0 records behind in topic quiet | lag=0;0;;0 time_lag=0.000s;0;;0",
        )
        assert lines[2].split() == ["OK", "billing", "quiet", "2", "0", "0.0", "2", "0"]


def test_lag_of_a_group_that_reads_nothing(dsn: str, orders: str) -> None:
    with member(dsn, orders, enable_auto_commit=False):
        pass
    commit(dsn, "audit", {(orders, 0): 3})
    assert lag(dsn, "-w", "100")[0] == 0, "nobody asked for it"
    code, lines = lag(dsn, "billing")
    assert (code, lines[0]) == (0, "OK: group billing reads nothing | lag=U;;;0 time_lag=U;;;0")
    for limit in LIMITS:
        code, lines = lag(dsn, "billing", *limit)
        assert (code, lines[0].partition(" | ")[0]) == (3, "UNKNOWN: group billing reads nothing"), limit
        assert performance(lines[0]) == {"lag": "U", "time_lag": "U"}
        assert lines[2].split() == ["UNKNOWN", "billing", "-", "0", "-", "-", "0", "0"]
    code, lines = lag(dsn, "billing", "audit", "-w", "5")
    assert (code, lines[0].partition(" | ")[0]) == (3, "UNKNOWN: group billing reads nothing")
    assert performance(lines[0])["lag"] == "7"
    code, lines = lag(dsn, "billing", "audit", "-c", "5")
    assert (code, lines[0][:32]) == (2, "CRITICAL: group audit is 7 recor"), "it does not hide what is worse"
    assert "; group billing reads nothing | " in lines[0]
    code, lines = lag(dsn, "billing", "audit", "-c", "9", "-t", orders)
    assert (code, lines[0].partition(" | ")[0]) == (3, "UNKNOWN: group billing does not read orders")
    with Admin(dsn) as admin:
        admin.delete_topic(orders)
    code, shown, _ = quick(dsn, "lag", "audit", "-w", "5", "-o", "json")
    found = json.loads(shown)
    assert (code, found["summary"]) == (3, "UNKNOWN: group audit reads nothing")
    assert [(row["status"], row["topic"], row["lag"]) for row in found["groups"]] == [("UNKNOWN", None, None)]


def test_lag_on_a_standby_is_unknown(cluster: EmbeddedCluster) -> None:
    """It knows no high watermark, whether or not it has heard of the group already."""
    leader = cluster.leader.dsn("app")
    standby = next(iter(cluster.followers.values())).dsn("app")
    beginning = "UNKNOWN: this server is a standby"
    for arguments in ([], ["-w", "100"], ["-t", "orders"]):
        code, lines = lag(standby, *arguments)
        assert (code, len(lines), lines[0][: len(beginning)]) == (3, 1, beginning)
    with Admin(leader) as admin, Producer(leader) as producer:
        admin.create_topic("orders")
        producer.send("orders", b"v")
    commit(leader, "billing", {("orders", 0): 0})
    assert lag(leader, "-w", "0")[0] == 1
    with psycopg.connect(standby, autocommit=True) as follower:
        eventually(lambda: value(follower, "select count(*) from pgq.group_partition_status") == 1)
    for arguments in ([], ["billing"], ["billing", "-w", "100"], ["--time-critical", "1"], ["nope"]):
        code, lines = lag(standby, *arguments)
        assert (code, len(lines), lines[0][: len(beginning)]) == (3, 1, beginning), arguments
        assert "name the primary in the DSN" in lines[0]
    code, shown, _ = quick(standby, "lag", "billing", "-o", "json")
    found = json.loads(shown)
    assert (code, found["status"], found["groups"]) == (3, "UNKNOWN", [])
    assert found["summary"].startswith(beginning)
    code, shown, report = quick(standby, "lag", "billing", "-o", "csv")
    assert (code, shown) == (3, ",".join(LAG_HEADER.lower().split()) + "\n")
    assert report.startswith(beginning)


def test_lag_is_unknown(dsn: str, orders: str) -> None:
    """Nothing that goes wrong is taken for a warning, or for a lag."""
    assert lag(dsn) == (0, ["OK: no group reads anything | lag=0;;;0 time_lag=0.000s;;;0"])
    commit(dsn, "billing", {(orders, 0): 3})
    for arguments, word in ((["nope"], "nope"), (["billing", "nope"], "nope"), (["-t", "payments"], "payments")):
        code, lines = lag(dsn, *arguments)
        assert code == 3
        assert lines[0].startswith("UNKNOWN: ")
        assert word in lines[0]
        assert len(lines) == 1
    code, lines = lag("host=127.0.0.1 port=1")
    assert (code, lines[0][:9], len(lines)) == (3, "UNKNOWN: ", 1)
    code, shown, _ = quick(dsn, "lag", "nope", "-o", "json")
    assert (code, json.loads(shown)["status"]) == (3, "UNKNOWN"), "an object, whatever goes wrong"
    for wrong in (
        ["-w", "x"],
        ["-w", "-1"],
        ["-w", "5", "-c", "4"],
        ["--nonsense"],
        ["-o", "xml"],
        ["--time-warning", "2", "--time-critical", "1"],
    ):
        assert lag(dsn, *wrong) == (3, [])


def test_exit_codes_of_the_process(dsn: str, orders: str) -> None:
    commit(dsn, "billing", {(orders, 0): 3})
    for arguments, code in ((["-w", "1"], 1), (["-c", "1"], 2), (["nope"], 3), (["--nonsense"], 3)):
        done = run("lag", *arguments, PGQ_DSN=dsn)
        assert (done.returncode, "Traceback" in done.stderr) == (code, False)


def test_a_schema_that_does_not_fit_is_unknown(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn):
        code, lines = lag(empty_dsn)
    assert (code, lines[0][:9]) == (3, "UNKNOWN: ")
