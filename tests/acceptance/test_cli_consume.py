"""`pgq consume` as a user reads with it: where it begins, what it prints, how it ends."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from pgq import Admin, Consumer, Producer, TopicPartition
from tests.acceptance.test_cli import PGQ, environment, refusal, run
from tests.plugins.sessions import Connection, eventually, rows, value

DAY_MS = 86_400_000
MAY_MS = 1_777_593_600_000  # 2026-05-01T00:00:00Z


@pytest.fixture
def topics(dsn: str) -> Iterator[Admin]:
    with Admin(dsn) as topics:
        yield topics


@pytest.fixture
def producer(dsn: str) -> Iterator[Producer]:
    with Producer(dsn) as producer:
        yield producer


@pytest.fixture
def topic(topics: Admin, producer: Producer) -> str:
    """Two partitions of five records, `partition.offset`, a day between one and the next."""
    topics.create_topic("orders", 2)
    for offset in range(5):
        for partition in range(2):
            text = f"{partition}.{offset}".encode()
            producer.send("orders", text, partition=partition, timestamp_ms=MAY_MS + offset * DAY_MS)
    producer.flush()
    return "orders"


def consume(dsn: str, *arguments: str) -> bytes:
    """What the command prints when all is well."""
    done = subprocess.run(
        [*PGQ, "consume", "orders", *arguments], env=environment(PGQ_DSN=dsn), capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout


def printed(dsn: str, *arguments: str) -> list[str]:
    """The values by partition: records of one come in order, and partitions in any."""
    return sorted(consume(dsn, *arguments).decode().split())


def all_from(first: int, second: int) -> list[str]:
    return [f"0.{n}" for n in range(first, 5)] + [f"1.{n}" for n in range(second, 5)]


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ([], all_from(0, 0)),
        (["--from-beginning"], all_from(0, 0)),
        (["--offset", "start"], all_from(0, 0)),
        (["--offset", "end"], []),
        (["--offset", "3"], all_from(3, 3)),
        (["--offset", "-2"], all_from(3, 3)),
        (["--offset", "-99"], all_from(0, 0)),
        (["--offset", "99"], []),
        (["--offset", "@2026-05-04"], all_from(3, 3)),
        (["--offset", "@2026-05-03T23:59:59.999Z"], all_from(3, 3)),
        (["--offset", "@2026-05-04T02:00:00.001+02:00"], all_from(4, 4)),
        (["--offset", f"@{MAY_MS + DAY_MS + 1}"], all_from(2, 2)),
        (["--offset", "@2027-01-01"], []),
        (["-p", "1"], all_from(5, 0)),
        (["-p", "1", "--partition", "0", "--offset=-1"], all_from(4, 4)),
        (["-p", "0", "-n", "2", "--offset", "1"], ["0.1", "0.2"]),
        (["-p", "0", "-n", "99"], all_from(0, 5)),
    ],
)
def test_where_it_begins_and_ends(dsn: str, topic: str, arguments: list[str], expected: list[str]) -> None:
    assert printed(dsn, *arguments) == expected


def test_deleted_records_are_left_out(dsn: str, topic: str, topics: Admin) -> None:
    topics.delete_records({TopicPartition(topic, 0): 3})
    assert printed(dsn) == all_from(3, 0)
    assert printed(dsn, "--offset", "1") == all_from(3, 1)


def test_the_end_is_the_high_watermark_and_rolled_back_offsets_are_stepped_over(
    dsn: str, topic: str, connect: Callable[[], Connection], producer: Producer
) -> None:
    session = connect()
    with session.transaction(force_rollback=True):
        session.execute("select pgq.produce('orders', 'gone', partition => 0)")
        producer.send("orders", b"0.6", partition=0).result()
        assert printed(dsn) == all_from(0, 0)
    assert printed(dsn) == sorted([*all_from(0, 0), "0.6"])
    with session.transaction(force_rollback=True):
        session.execute("select pgq.produce('orders', 'gone', partition => 0)")
    assert printed(dsn, "-p", "0", "--offset", "6") == ["0.6"]


def test_an_empty_topic(dsn: str, topics: Admin) -> None:
    topics.create_topic("orders", 3)
    assert consume(dsn) == b""
    assert consume(dsn, "-o", "json") == b""
    assert consume(dsn, "-o", "csv").count(b"\n") == 1


@pytest.fixture
def odd(topics: Admin, producer: Producer) -> str:
    """Records that are not plain text: nulls, empty ones, quotes, bytes that are no UTF-8, controls, headers."""
    topics.create_topic("orders")
    send = {"topic": "orders", "timestamp_ms": MAY_MS + 7}
    producer.send(**send, value=b'say "hi",\n\xc3\xa4', key=b"k", headers=[("a", b"1"), ("a", None), ("b", b"\xff")])
    producer.send(**send, value=None, key=b"")
    producer.send(**send, value=b"\xff\x00", key=b"\xfe")
    producer.send(**send, value=b"", key=None)
    producer.send(**send, value=b"\x1b[31m\tred")
    producer.flush()
    return "orders"


def test_values(dsn: str, odd: str) -> None:
    lines = [b'say "hi",\n\xc3\xa4', b"", b"\xff\x00", b"", b"\x1b[31m\tred", b""]
    assert consume(dsn) == b"\n".join(lines)
    assert consume(dsn, "-Z", "-n", "2") == b'say "hi",\n\xc3\xa4\nNULL\n'
    assert consume(dsn, "-K", "\\t", "-n", "1") == b'k\tsay "hi",\n\xc3\xa4\n'
    assert consume(dsn, "-K", "%s", "-n", "1") == b'k%ssay "hi",\n\xc3\xa4\n'


def test_template(dsn: str, odd: str) -> None:
    text = r"%t[%p]@%o %T %k=%s|%v (%K %S %V) %h%%\x41\t\q\n"
    expected = b'orders[0]@0 1777593600007 k=say "hi",\n\xc3\xa4|say "hi",\n\xc3\xa4 (1 12 12) a=1,a=,b=\xff%A\t\\q\n'
    assert consume(dsn, "--format", text, "-n", "1") == expected
    assert consume(dsn, "--format", "%k:%s %K %S;", "-Z", "--offset", "1") == (
        b":NULL 0 -1;\xfe:\xff\x00 1 2;NULL: -1 0;NULL:\x1b[31m\tred -1 9;"
    )
    assert consume(dsn, "--format", "x", "-n", "3") == b"xxx"


def test_json(dsn: str, odd: str) -> None:
    found = [json.loads(line) for line in consume(dsn, "-o", "json").decode().split("\n")[:-1]]
    same = {"topic": "orders", "partition": 0, "timestamp": MAY_MS + 7}
    headers = [
        {"key": "a", "value": "1"},
        {"key": "a", "value": None},
        {"key": "b", "value": base64.b64encode(b"\xff").decode(), "value_encoding": "base64"},
    ]
    encoded = {"key": "/g==", "key_encoding": "base64", "value": "/wA=", "value_encoding": "base64"}
    assert found == [
        same | {"offset": 0, "key": "k", "value": 'say "hi",\nä', "headers": headers},
        same | {"offset": 1, "key": "", "value": None, "headers": []},
        same | {"offset": 2, "headers": []} | encoded,
        same | {"offset": 3, "key": None, "value": "", "headers": []},
        same | {"offset": 4, "key": None, "value": "\x1b[31m\tred", "headers": []},
    ]


def test_csv(dsn: str, odd: str, conn: psycopg.Connection[Any]) -> None:
    text = consume(dsn, "-o", "csv").decode()
    found = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["offset"] for row in found] == ["0", "1", "2", "3", "4"]
    assert (found[0]["key"], found[0]["value"], len(json.loads(found[0]["headers"]))) == ("k", 'say "hi",\nä', 3)
    assert (found[2]["key_encoding"], found[2]["value_encoding"]) == ("base64", "base64")
    # null and empty text stay apart, for PostgreSQL itself
    conn.execute("create temp table back (t text, p int, o int, ts bigint, k text, v text, h jsonb, ke text, ve text)")
    with conn.cursor().copy("copy back from stdin (format csv, header)") as copy:
        copy.write(text)
    assert rows(conn, "select k, v from back where o in (1, 3) order by o") == [("", None), (None, "")]


def test_table_obeys_no_control_characters(dsn: str, odd: str) -> None:
    lines = consume(dsn, "-o", "table").decode().splitlines()
    assert lines[0].split() == ["PARTITION", "OFFSET", "TIMESTAMP", "KEY", "VALUE"]
    assert lines[1].split()[:4] == ["0", "0", "2026-05-01T00:00:00.007Z", "k"]
    assert lines[1].endswith(r'say "hi",\x0aä')
    assert lines[5].endswith(r"\x1b[31m\x09red")
    assert len(lines) == 6


def test_group_commits_what_was_printed(dsn: str, topic: str, producer: Producer) -> None:
    assert len(printed(dsn, "-g", "billing", "-n", "3")) == 3
    rest = printed(dsn, "--group", "billing")
    assert len(rest) == 7
    assert printed(dsn, "-g", "billing", "--from-beginning") == []
    producer.send(topic, b"new", partition=1).result()
    assert printed(dsn, "-g", "billing") == ["new"]
    assert printed(dsn, "-g", "other", "--offset", "end") == []
    with Consumer(topic, dsn=dsn, group_id="billing") as consumer:
        assert [consumer.committed(TopicPartition(topic, p)) for p in (0, 1)] == [5, 6]


def test_partitions_that_members_of_the_group_hold(dsn: str, topic: str) -> None:
    """All of them are read, but nothing is committed behind the members' back."""
    with Consumer(topic, dsn=dsn, group_id="billing", enable_auto_commit=False) as member:
        assert len(member.assignment()) == 2
        done = run("consume", topic, "-g", "billing", PGQ_DSN=dsn)
        assert (done.returncode, len(done.stdout.splitlines()), done.stderr.count("\n")) == (1, 10, 1)
        assert "stop the group's members first" in done.stderr
        assert [member.committed(tp) for tp in sorted(member.assignment())] == [None, None]


def test_mistakes(dsn: str, topic: str) -> None:
    assert "nowhere" in refusal("consume", "nowhere", PGQ_DSN=dsn)
    assert "partition 7" in refusal("consume", topic, "-p", "7", PGQ_DSN=dsn)
    assert "is not available" in refusal("consume", topic, PGQ_DSN="host=127.0.0.1 port=1")
    for arguments in (
        ["--offset", "middle"],
        ["--offset", "--5"],
        ["--offset", "@yesterday"],
        ["--offset", "3", "--from-beginning"],
        ["-o", "json", "--format", "%s"],
        ["-K", ":", "-o", "csv"],
        ["--format", "%q"],
        ["--format", "100%"],
        ["-n", "0"],
        ["-o", "xml"],
    ):
        done = subprocess.run(
            [*PGQ, "consume", topic, *arguments], env=environment(PGQ_DSN=dsn), capture_output=True, check=False
        )
        assert (done.returncode, done.stdout) == (2, b""), arguments
        assert b"Traceback" not in done.stderr


@pytest.fixture
def start(dsn: str) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start the command and leave it running until the test's end."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started.append(subprocess.Popen([*PGQ, "consume", *arguments], env=environment(PGQ_DSN=dsn), **pipes))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


Start = Callable[..., subprocess.Popen[bytes]]


def test_follow_prints_as_records_come_and_ctrl_c_ends_it_quietly(
    topic: str, producer: Producer, start: Start, conn: psycopg.Connection[Any]
) -> None:
    process = start(topic, "-f", "--offset", "-1", "-g", "tail")
    assert sorted([process.stdout.readline(), process.stdout.readline()]) == [b"0.4\n", b"1.4\n"]
    for number in range(3):
        producer.send(topic, b"new %d" % number, partition=0).result()
        assert process.stdout.readline() == b"new %d\n" % number
    committed = "select \"offset\" from pgq.committed_offsets('tail', array['orders'], array[0])"
    eventually(lambda: rows(conn, committed) == [(8,)])
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert (process.stdout.read(), process.stderr.read()) == (b"", b"")


def test_follow_ends_after_a_count(topic: str, producer: Producer, start: Start) -> None:
    process = start(topic, "--follow", "-n", "11", "--format", "%s,")
    producer.send(topic, b"last", partition=1).result()
    assert process.wait(60) == 0
    assert process.stdout.read().count(b",") == 11


def test_follow_survives_a_lost_connection(
    topic: str, producer: Producer, start: Start, conn: psycopg.Connection[Any], terminate: Callable[[int], None]
) -> None:
    process = start(topic, "-f", "-p", "0", "--offset=-1")
    assert process.stdout.readline() == b"0.4\n"
    producer.close()
    own = value(conn, "select pg_backend_pid()")
    (pid,) = (
        pid
        for (pid,) in rows(conn, "select pid from pg_stat_activity where application_name = 'pgq'")
        if pid != own
        and value(conn, "select query ilike '%%pgq._partition_offsets%%' from pg_stat_activity where pid = %s", pid)
    )
    terminate(pid)
    conn.execute("select pgq.produce('orders', 'after', partition => 0)")
    assert process.stdout.readline() == b"after\n"


def test_a_reader_that_goes_ends_it_quietly(dsn: str, topics: Admin, producer: Producer, start: Start) -> None:
    topics.create_topic("orders")
    for _ in range(3000):
        producer.send("orders", b"x" * 100)
    producer.flush()
    process = start("orders")
    assert process.stdout.readline() == b"x" * 100 + b"\n"
    process.stdout.close()
    assert process.wait(60) == 128 + signal.SIGPIPE
    assert process.stderr.read() == b""
    process.stdout = None


def test_a_full_disk_is_a_sentence(dsn: str, topic: str) -> None:
    if not os.path.exists("/dev/full"):  # noqa: PTH110
        pytest.skip("there is no /dev/full here")
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        done = subprocess.run(
            [*PGQ, "consume", topic], env=environment(PGQ_DSN=dsn), stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 1
    assert done.stderr == b"the output cannot be written: No space left on device\n"


def test_what_was_produced_comes_back(dsn: str, topics: Admin) -> None:
    """JSON lines with their keys, through the pipe and back."""
    topics.create_topic("orders")
    data = b"".join(b'{"id":"%d","text":"a\\tb"}\n' % number for number in range(1000))
    subprocess.run(
        [*PGQ, "produce", "orders", "-q", "--format", "jsonl", "-k", "id"],
        input=data,
        env=environment(PGQ_DSN=dsn),
        check=True,
    )
    assert consume(dsn) == data
    assert consume(dsn, "-K", "\\t").startswith(b'0\t{"id":"0"')
