"""The command `pgq` as a user runs it: what it prints, its exit codes, and its errors in one red sentence."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

import pgq
from pgq import schema
from pgq.config import SCHEMA_VERSION

ROOT = Path(pgq.__file__).parents[1]
PGQ = (sys.executable, "-c", "from pgq.cli import app; app()")


def environment(**variables: str) -> dict[str, str]:
    """The environment without what would name a database, and with colours as in a terminal left to the terminal."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PG") and k not in ("NO_COLOR", "FORCE_COLOR")}
    return kept | {"PYTHONPATH": str(ROOT)} | variables


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PGQ, *arguments], env=environment(**variables), capture_output=True, text=True, check=False)


def refusal(*arguments: str, **variables: str) -> str:
    """The sentence with which a command fails: exit code 1, nothing on stdout, one line on stderr, no traceback."""
    done = run(*arguments, **variables)
    assert (done.returncode, done.stdout) == (1, "")
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1
    return done.stderr.strip()


def test_upgrade_current_and_check(empty_dsn: str) -> None:
    done = run("db", "current", "--dsn", empty_dsn)
    assert (done.returncode, done.stdout) == (1, f"schema pgq: none (library: {SCHEMA_VERSION})\n")
    assert "pgq db upgrade" in refusal("db", "check", "--dsn", empty_dsn)

    done = run("db", "upgrade", "--dsn", empty_dsn)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"schema pgq: none -> {SCHEMA_VERSION}\n", "")
    done = run("db", "upgrade", PGQ_DSN=empty_dsn)
    assert (done.returncode, done.stdout) == (0, f"schema pgq: {SCHEMA_VERSION} -> {SCHEMA_VERSION}\n")

    done = run("db", "current", PGQ_DSN=empty_dsn)
    assert (done.returncode, done.stdout) == (0, f"schema pgq: {SCHEMA_VERSION} (library: {SCHEMA_VERSION})\n")
    done = run("db", "check", PGQ_DSN=empty_dsn)
    assert (done.returncode, done.stdout) == (0, "schema pgq is as it should be\n")


def test_check_prints_what_differs_and_fails(dsn: str, conn: psycopg.Connection[Any]) -> None:
    conn.execute("drop function pgq.murmur2(bytea)")
    done = run("db", "check", "--dsn", dsn)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout == "function pgq.murmur2(bytea) is missing: run `pgq db upgrade`\n"


def test_sql_needs_no_database_and_installs(empty_dsn: str, psql: Path) -> None:
    done = run("db", "sql")
    assert (done.returncode, done.stderr) == (0, "")
    command = [psql, empty_dsn, "-X", "-q", "-1", "-v", "ON_ERROR_STOP=1"]
    subprocess.run(command, input=done.stdout, text=True, check=True, stdout=subprocess.DEVNULL)
    assert schema.check(empty_dsn) == []


@pytest.mark.parametrize("command", ["upgrade", "current", "check"])
def test_errors_are_one_sentence(command: str) -> None:
    assert "PGQ_DSN" in refusal("db", command)
    assert "not a connection string" in refusal("db", command, "--dsn", "nonsense=1")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    for host in ("127.0.0.1", "localhost", "127.0.0.1,localhost"):  # libpq has a line for each address
        message = refusal("db", command, "--dsn", f"host={host} port={port} dbname=pgq")
        assert "is not available" in message


def test_a_foreign_schema_is_one_sentence(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        conn.execute("create schema pgq; create table pgq.queue ()")
    assert "Skytools" in refusal("db", "upgrade", "--dsn", empty_dsn)


def test_in_a_terminal_the_sentence_is_red() -> None:
    ours, theirs = pty.openpty()
    try:
        with subprocess.Popen([*PGQ, "db", "current"], env=environment(TERM="xterm"), stderr=theirs) as process:
            assert process.wait() == 1
        text = os.read(ours, 65536).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert re.fullmatch(r"\x1b\[31m[^\x1b\n]*PGQ_DSN[^\x1b\n]*\x1b\[0m\r\n", text)


def test_a_wrong_option_is_a_usage_error() -> None:
    done = run("db", "upgrade", "--nonsense")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["db", "--help"], ["db", "upgrade", "-h"], ["dev", "-h"]])
def test_help(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 0
    assert "Usage:" in done.stdout


def test_dev_serves_clients_and_leaves_no_server_behind(bin_dir: Path, server_folder: Path) -> None:
    """What else `pgq dev` promises stands in test_dev.py."""
    data = server_folder / "data"
    variables = environment(PGQ_PG_BIN=str(bin_dir), PYTHONUNBUFFERED="1")
    for start in ("first", "second"):
        with subprocess.Popen(
            [*PGQ, "dev", "--data-dir", str(data)], env=variables, stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                printed = ""
                while "Ctrl-C" not in printed:
                    line = process.stdout.readline()
                    assert line, printed
                    printed += line
                dsn = re.search(r"export PGQ_DSN=(\S+)", printed)[1]
                if start == "first":
                    with pgq.Admin(dsn) as admin, pgq.Producer(dsn) as producer:
                        admin.create_topic("orders")
                        assert producer.send("orders", b"kept").result(10).offset == 0
                with pgq.Consumer("orders", dsn=dsn, auto_offset_reset="earliest") as consumer:
                    assert next(consumer).value == b"kept"
                postmaster = int((data / "postmaster.pid").read_text().split()[0])
                process.send_signal(signal.SIGINT)
                assert process.wait() == 0
            finally:
                process.kill()
        with pytest.raises(ProcessLookupError):
            os.kill(postmaster, 0)
        assert not (data / "postmaster.pid").exists()
        address = conninfo_to_dict(dsn)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((address["host"], int(address["port"])))


def test_db_check_and_current_for_programs(dsn: str, conn: psycopg.Connection[Any]) -> None:
    assert json.loads(run("db", "current", "-o", "json", "--dsn", dsn).stdout) == [
        {"schema": SCHEMA_VERSION, "library": SCHEMA_VERSION}
    ]
    assert json.loads(run("db", "check", "-o", "json", "--dsn", dsn).stdout) == []
    conn.execute("drop function pgq.murmur2(bytea)")
    found = run("db", "check", "-o", "json", "--dsn", dsn)
    assert found.returncode == 1
    assert len(json.loads(found.stdout)) >= 1
    assert run("db", "check", "-o", "csv", "--dsn", dsn).stdout.startswith("problem\n")


def test_db_roles(admin_dsn: str) -> None:
    run("db", "roles", "--dsn", admin_dsn)
    assert "all roles are there" in run("db", "roles", "--dsn", admin_dsn).stdout
