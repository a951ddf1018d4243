"""`pgq dev` gives a migrated server that keeps its data and its DSN, ends cleanly, and explains itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from pgq import Admin, Consumer, Producer
from tests.acceptance.test_cli import run

PGQ = (sys.executable, "-c", "from pgq.cli import app; app()")


@contextmanager
def running_dev(bin_dir: Path, data_dir: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A `pgq dev` that has said all it says at the start, and the DSN it printed."""
    with subprocess.Popen(
        [*PGQ, "dev", "--data-dir", data_dir, *options],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PGQ_PG_BIN": str(bin_dir)},
    ) as process:
        try:
            assert process.stdout is not None
            printed = ""
            while "Ctrl-C" not in printed:
                line = process.stdout.readline()
                assert line, f"`pgq dev` ended after printing: {printed!r}"
                printed += line
            yield process, printed.partition("export PGQ_DSN=")[2].split()[0]
        finally:
            process.terminate()


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_dev_migrates_ends_cleanly_and_keeps_data_and_dsn(
    bin_dir: Path, server_folder: Path, end: signal.Signals
) -> None:
    with running_dev(bin_dir, server_folder / "data") as (process, dsn):
        with psycopg.connect(dsn) as conn:
            conn.execute("select pgq.create_topic('kept')")
        process.send_signal(end)
        process.send_signal(end)  # impatience changes nothing
        printed, _ = process.communicate()
        assert process.returncode == 0
        assert "data stays" in printed
    with running_dev(bin_dir, server_folder / "data") as (_, dsn_again):
        assert dsn_again == dsn
        with psycopg.connect(dsn) as conn:
            assert conn.execute("select array_agg(name) from pgq.topic").fetchone() == (["kept"],)


def test_dev_says_in_a_sentence_why_it_cannot_start(server_folder: Path) -> None:
    environment = {**os.environ, "PGQ_PG_BIN": str(server_folder)}
    done = subprocess.run([*PGQ, "dev"], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == f"PGQ_PG_BIN names {server_folder}, which does not hold initdb and postgres.\n"


def test_dev_says_when_the_server_ends_by_itself(bin_dir: Path, server_folder: Path) -> None:
    with running_dev(bin_dir, server_folder / "data") as (process, _):
        os.kill(int((server_folder / "data" / "postmaster.pid").read_text().split()[0]), signal.SIGINT)
        assert process.wait() == 1


def test_dev_with_followers(bin_dir: Path, server_folder: Path) -> None:
    data_dir = server_folder / "data"
    with running_dev(bin_dir, data_dir, "--replicas", "2") as (process, quoted):
        dsn = quoted.strip("'")
        with Admin(dsn) as admin, Producer(dsn) as producer:
            cluster = admin.describe_cluster()
            assert [(server.server, server.sync_state) for server in cluster.servers] == [
                ("pgq1", None),
                ("pgq2", "quorum"),
                ("pgq3", "quorum"),
            ]
            assert (cluster.in_sync_replicas, cluster.warnings) == (2, [])
            admin.create_topic("safe", 1, {"min.insync.replicas": 2})
            assert producer.send_and_wait("safe", b"v").offset == 0
        described = run("cluster", "describe", "--check", PGQ_DSN=dsn)
        assert (described.returncode, described.stderr) == (0, "")
        assert "any 1 of pgq2, pgq3" in described.stdout
        pids = [int((data_dir / name / "postmaster.pid").read_text().split()[0]) for name in ("pgq1", "pgq2", "pgq3")]
        process.send_signal(signal.SIGINT)
        assert process.wait() == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert not list(data_dir.glob("*/postmaster.pid"))
    with (
        running_dev(bin_dir, data_dir, "--replicas", "2") as (_, quoted),
        Consumer("safe", dsn=quoted.strip("'"), auto_offset_reset="earliest") as consumer,
    ):
        assert consumer.getone().value == b"v"


@pytest.mark.parametrize(
    "made, options, told",
    [
        ("pgq1", [], "holds a cluster"),
        ("PG_VERSION", ["--replicas", "1"], "holds a server without followers"),
        ("", ["--replicas", "1", "--synchronous", "2"], "2 of 1 followers"),
        ("", ["--replicas", "1", "--port", "5"], "a port of its own"),
        ("", ["--synchronous", "1"], "nobody to wait for"),
    ],
)
def test_dev_refuses_what_does_not_fit(tmp_path: Path, made: str, options: list[str], told: str) -> None:
    if made:
        (tmp_path / made).mkdir()
    done = run("dev", "--data-dir", str(tmp_path), *options, COLUMNS="200")
    assert done.returncode == (1 if made else 2)
    assert told in done.stderr
