"""`pgq produce` as a user feeds it: files, pipes, gzip's, broken rows, Ctrl-C."""

from __future__ import annotations

import gzip
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgq import Admin, Consumer, Producer, partition_for_key
from pgq.types import ConsumerRecord
from tests.acceptance.test_cli import PGQ, environment, refusal
from tests.plugins.sessions import eventually, value

Pair = tuple[bytes | None, bytes | None]


@pytest.fixture
def topic(dsn: str) -> str:
    """A topic of one partition, so that records come back in the order of the input."""
    with Admin(dsn) as admin:
        admin.create_topic("orders")
    return "orders"


def feed(dsn: str, data: bytes, *arguments: str, topic: str = "orders") -> subprocess.CompletedProcess[bytes]:
    """Run the command with this on stdin."""
    command = [*PGQ, "produce", topic, *arguments]
    return subprocess.run(command, input=data, env=environment(PGQ_DSN=dsn), capture_output=True, check=False)


def records(dsn: str, topic: str = "orders") -> list[ConsumerRecord]:
    with Consumer(topic, dsn=dsn, auto_offset_reset="earliest") as consumer:
        found = []
        while batch := consumer.getmany(max_records=10_000):
            found += [record for part in batch.values() for record in part]
        return found


def pairs(dsn: str) -> list[Pair]:
    return [(record.key, record.value) for record in records(dsn)]


def appended(done: subprocess.CompletedProcess[bytes]) -> int:
    """The number in the report."""
    assert done.stdout == b""
    assert b"Traceback" not in done.stderr
    (count,) = re.findall(
        rb"^(?:Interrupted\. )?([\d,]+) records? appended to orders in [\d.]+ s", done.stderr, re.MULTILINE
    )
    return int(count.replace(b",", b""))


@pytest.mark.parametrize(
    "data, arguments, expected",
    [
        (b"a\nb\n", [], [(None, b"a"), (None, b"b")]),
        (b"a\n\nno end", [], [(None, b"a"), (None, b""), (None, b"no end")]),
        (b"a\r\nb\r\n", [], [(None, b"a"), (None, b"b")]),
        (b"\xff\x00\n", [], [(None, b"\xff\x00")]),
        (b"", [], []),
        (b"k:v:w\nplain\n:v\nk:\n", ["-K", ":"], [(b"k", b"v:w"), (None, b"plain"), (b"", b"v"), (b"k", b"")]),
        (b"k\tv\n", ["-K", "\\t"], [(b"k", b"v")]),
        (b"k => v\n", ["--key-separator", " => "], [(b"k", b"v")]),
        (b"k:\n:v\n\n", ["-K", ":", "-Z"], [(b"k", None), (None, b"v"), (None, None)]),
    ],
)
def test_lines(dsn: str, topic: str, data: bytes, arguments: list[str], expected: list[Pair]) -> None:
    done = feed(dsn, data, *arguments)
    assert done.returncode == 0
    assert appended(done) == len(expected)
    assert pairs(dsn) == expected


def test_json_lines(dsn: str, topic: str) -> None:
    data = '\ufeff{"id": "ä", "n": 1}\n\n{"id": 7}\r\n  {"id": 1.50}\n{"id": true}\n{"id": null}'.encode()
    assert appended(feed(dsn, data, "--format", "jsonl", "--key", "id")) == 5
    assert pairs(dsn) == [
        ("ä".encode(), '{"id": "ä", "n": 1}'.encode()),
        (b"7", b'{"id": 7}'),
        (b"1.50", b'  {"id": 1.50}'),
        (b"true", b'{"id": true}'),
        (None, b'{"id": null}'),
    ]
    assert appended(feed(dsn, b'[1]\n"x"\n', "--format", "jsonl")) == 2


def test_csv(dsn: str, topic: str) -> None:
    data = '\ufeffid,"100%",text\r\n1,"a ""b""",ä\r\n\r\n2,"two\nlines",\n'.encode()
    assert appended(feed(dsn, data, "--format", "csv", "--key", "id")) == 2
    assert pairs(dsn) == [
        (b"1", r'{"id":"1","100%":"a \"b\"","text":"ä"}'.encode()),
        (b"2", rb'{"id":"2","100%":"two\nlines","text":""}'),
    ]
    assert appended(feed(dsn, b"only,a,header\n", "--format", "csv")) == 0
    assert appended(feed(dsn, b"", "--format", "csv", "--key", "id")) == 0


@pytest.mark.parametrize(
    "data, arguments, before, sentence",
    [
        (b'{"a": 1}\nnonsense\n{"a": 3}\n', ["--format", "jsonl"], 1, "line 2 is not JSON"),
        (b'{"a": 1}\n\n{"b": 1}\n', ["--format", "jsonl", "--key", "a"], 1, "line 3 has no field 'a'"),
        (b'{"a": 1}\n5\n', ["--format", "jsonl", "--key", "a"], 1, "line 2 is no JSON object"),
        (b'{"a": [1]}\n', ["--format", "jsonl", "--key", "a"], 0, "line 1: the field 'a' is a list"),
        (b'{"a": "\\ud800"}\n', ["--format", "jsonl", "--key", "a"], 0, "line 1: the key is no valid text"),
        (b"1\nNaN\n", ["--format", "jsonl"], 1, "line 2 is not JSON: NaN"),
        (b"1\n" + b"[" * 100_000 + b"\n", ["--format", "jsonl"], 1, "line 2 is not JSON: it is nested too deeply"),
        (b'1\n"\xe4"\n', ["--format", "jsonl"], 1, "line 2 is not UTF-8"),
        (b"a,b\n1,2\n1\n", ["--format", "csv"], 1, "line 3 has 1 fields, and the header line has 2"),
        (b'a,b\n1,"x\ny"\n1,2,3\n', ["--format", "csv"], 1, "line 4 has 3 fields"),
        (b'a\n1\n"never closed\n', ["--format", "csv"], 1, "line 3 is not CSV"),
        (b"a\n1\n\xe4\n", ["--format", "csv"], 1, "line 3 is not UTF-8"),
        (b"a,b\n1,2\n", ["--format", "csv", "--key", "c"], 0, "line 1: there is no column 'c'"),
        (b"a,a\n1,2\n", ["--format", "csv"], 0, "line 1: the column 'a' stands there twice"),
        ("a\n1\n".encode("utf-16"), ["--format", "csv"], 0, "line 1 is not UTF-8"),
        (b"x\n" + b"y" * 2_000_000 + b"\nz\n", [], 1, "line 2: record of 2000000 bytes is over max.message.bytes"),
        (
            gzip.compress(os.urandom(100_000).hex().encode() + b"\n")[:50_000],
            [],
            0,
            "the gzip file is damaged or cut short",
        ),
    ],
)
def test_a_bad_row_ends_it_and_nothing_stands_half(
    dsn: str, topic: str, data: bytes, arguments: list[str], before: int, sentence: str
) -> None:
    done = feed(dsn, data, *arguments)
    assert done.returncode == 1
    assert sentence in done.stderr.decode().splitlines()[0]
    assert appended(done) == before
    assert len(records(dsn)) == before


def test_files_and_gzip(dsn: str, topic: str, tmp_path: Path) -> None:
    expected = [(None, b"line %d" % number) for number in range(30_000)]
    text = b"".join(b"%s\n" % line for _, line in expected)
    plain, packed = tmp_path / "lines", tmp_path / "lines.gz"
    plain.write_bytes(text)
    packed.write_bytes(gzip.compress(text[:100_000]) + gzip.compress(text[100_000:]))
    for arguments, data in ([str(plain)], b""), ([str(packed)], b""), (["-"], packed.read_bytes()):
        assert appended(feed(dsn, data, *arguments)) == len(expected)
    assert pairs(dsn) == expected * 3


def test_partition_and_headers(dsn: str) -> None:
    with Admin(dsn) as admin:
        admin.create_topic("orders", 3)
    assert appended(feed(dsn, b"x\n", "-p", "2", "-H", "source=shop", "--header", "note=a=b")) == 1
    (record,) = records(dsn)
    assert (record.partition, record.headers) == (2, (("source", b"shop"), ("note", b"a=b")))


def test_a_key_goes_where_the_producer_sends_it(dsn: str) -> None:
    with Admin(dsn) as admin:
        admin.create_topic("orders", 7)
    keys = [f"customer-{number}" for number in range(50)]
    assert appended(feed(dsn, "".join(f'{{"id":"{key}"}}\n' for key in keys).encode(), "--format", "jsonl", "-k", "id"))
    with Producer(dsn) as producer:
        sent = {key: producer.send("orders", b"x", key=key.encode()) for key in keys}
        expected = {key: future.result().partition for key, future in sent.items()}
    assert {record.key.decode(): record.partition for record in records(dsn)} == expected


def test_later(dsn: str, topic: str) -> None:
    """The report says that they are not in the log yet."""
    late = ["--deliver-at", "2035-05-31T12:00Z"]
    for arguments in ["--delay-ms", "0"], ["--deliver-at", "2026-01-01T00:00:00"], late:
        done = feed(dsn, b"%s\n\n" % arguments[1].encode(), "-p", "0", *arguments)
        assert re.fullmatch(rb"2 records delayed for orders in [\d.]+ s, [\d,]+ records/s\n", done.stderr), done.stderr
    with psycopg.connect(dsn, autocommit=True) as conn:
        assert value(conn, "select pgq.log_end_offset('orders', 0)") == 0
        query = "select count(*), max(due_at) = '2035-05-31 12:00+00' from pgq.delayed_records"
        assert conn.execute(query).fetchone() == (6, True)
        assert value(conn, "select delivered from pgq.deliver_due()") == 4
    assert pairs(dsn) == [(None, b"0"), (None, b""), (None, b"2026-01-01T00:00:00"), (None, b"")]
    done = feed(dsn, b"x\n", "--deliver-at", "9999-01-01")
    assert done.returncode == 1
    assert b"line 1: a record can wait for ten years" in done.stderr


def test_quiet(dsn: str, topic: str) -> None:
    done = feed(dsn, b"x\n", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_mistakes(dsn: str, topic: str, tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"x\n")
    assert "nowhere" in refusal("produce", "nowhere", str(path), PGQ_DSN=dsn)
    assert "partition 7" in refusal("produce", topic, str(path), "-p", "7", PGQ_DSN=dsn)
    assert "is not available" in refusal("produce", topic, str(path), PGQ_DSN="host=127.0.0.1 port=1")
    for arguments in (
        [str(tmp_path / "missing")],
        [str(tmp_path)],
        ["-", "--key", "a"],
        ["-", "-K", ""],
        ["-", "--format", "csv", "-K", ":"],
        ["-", "--format", "jsonl", "-Z"],
        ["-", "--format", "xml"],
        ["-", "-H", "nonsense"],
        ["-", "-p", "-1"],
        ["-", "--delay-ms", "-1"],
        ["-", "--delay-ms", "soon"],
        ["-", "--deliver-at", "tomorrow"],
        ["-", "--delay-ms", "1", "--deliver-at", "2030-01-01"],
    ):
        done = feed(dsn, b"x\n", *arguments)
        assert done.returncode == 2, arguments
        assert b"Traceback" not in done.stderr
    assert records(dsn) == []


@pytest.fixture
def trickle(dsn: str, topic: str) -> Iterator[subprocess.Popen[bytes]]:
    """The command, waiting for more on stdin."""
    command = [*PGQ, "produce", topic, "-", "--format", "jsonl"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environment(PGQ_DSN=dsn), **pipes) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_while_it_waits(
    dsn: str, trickle: subprocess.Popen[bytes], conn: psycopg.Connection[Any], number: signal.Signals
) -> None:
    """Lines are appended as they come; half a line is not; what was appended is told."""
    assert trickle.stdin is not None
    for count in (1, 2):
        trickle.stdin.write(b'{"a": 1}\n')
        trickle.stdin.flush()
        eventually(lambda: value(conn, "select pgq.high_watermark('orders', 0)") == count)  # noqa: B023
    trickle.stdin.write(b'{"a"')
    trickle.stdin.flush()
    trickle.send_signal(number)
    # stdin stays open: it is the signal that ends it
    assert trickle.wait(60) == 128 + number
    assert trickle.stderr is not None
    report = trickle.stderr.read().decode()
    assert report.startswith("Interrupted. 2 records appended to orders in ")
    assert len(records(dsn)) == 2


def test_interrupted_in_the_middle_of_a_load(dsn: str, topic: str, conn: psycopg.Connection[Any]) -> None:
    """The report counts exactly what is there."""
    command = [*PGQ, "produce", topic]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environment(PGQ_DSN=dsn), **pipes) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        try:
            interrupted = False
            while True:  # without end, so that only the signal can end it
                process.stdin.write(b"%0100d\n" % 0 * 1000)
                if not interrupted and value(conn, "select pgq.high_watermark('orders', 0)") > 0:
                    process.send_signal(signal.SIGINT)
                    interrupted = True
        except BrokenPipeError:
            pass
        report = process.stderr.read().decode()
        assert process.wait(60) == 130
        with suppress(BrokenPipeError):  # what was not written
            process.stdin.close()
    found = re.match(r"Interrupted\. ([\d,]+) records? appended to orders in ", report)
    assert found, report
    assert int(found[1].replace(",", "")) == len(records(dsn)) > 0


def test_a_lost_server_is_told_with_what_was_confirmed(dsn: str, topic: str, admin_dsn: str) -> None:
    """Records go by many batches; the sessions are ended under way and no new ones are let in."""
    command = [*PGQ, "produce", topic, "--timeout", "2"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE}
    with (
        psycopg.connect(admin_dsn, autocommit=True) as watcher,
        subprocess.Popen(command, env=environment(PGQ_DSN=dsn), **pipes) as process,
    ):
        assert process.stdin is not None
        assert process.stderr is not None
        try:
            refused = False
            while True:
                process.stdin.write(b"%0100d\n" % 0 * 1000)
                if not refused and value(watcher, "select pgq.high_watermark('orders', 0)") > 0:
                    refused = True
                    name = watcher.info.dbname
                    watcher.execute(f'alter database "{name}" with connection limit 0')
                    watcher.execute(
                        "select pg_terminate_backend(pid) from pg_stat_activity"
                        " where datname = current_database() and pid <> pg_backend_pid()"
                    )
        except BrokenPipeError:
            pass
        report = process.stderr.read().decode()
        assert process.wait(60) == 1
        watcher.execute(f'alter database "{name}" with connection limit -1')
        with suppress(BrokenPipeError):  # what was not written
            process.stdin.close()
        problem = next(line for line in report.splitlines() if line.startswith("not all records were appended: "))
        assert "Traceback" not in report
        assert problem
        found = re.search(r"^([\d,]+) records? appended", report, re.MULTILINE)
        assert found, report
        # a commit whose answer was lost may be there too
        assert 0 < int(found[1].replace(",", "")) <= len(records(dsn))


def test_compression_and_partitioner(dsn: str) -> None:
    with Admin(dsn) as admin:
        admin.create_topic("orders", 3)
    data = b"".join(b"k%d:%s\n" % (n, b"v" * 1000) for n in range(20))
    assert appended(feed(dsn, data, "-K", ":", "--compression", "gzip", "--partitioner", "crc32")) == 20
    read = records(dsn)
    assert {record.value for record in read} == {b"v" * 1000}
    assert all(record.partition == partition_for_key(record.key or b"", 3, "crc32") for record in read)
    with psycopg.connect(dsn) as conn:
        assert value(conn, "select array_agg(distinct compression) from pgq_topic.orders") == ["gzip"]
