"""PgBouncer, the real one, in transaction mode, in front of a test's database."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.plugins.sessions import eventually

POOLED_SESSIONS = 3
"""Of the server, that all clients of PgBouncer share."""

CONFIG = """\
[databases]
* = host={host} port={port} user={user} password={password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {own_port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {sessions}
server_round_robin = 1
"""


@pytest.fixture
def pooled_dsn(dsn: str, server_folder: Path) -> Iterator[str]:
    """The DSN of the test's own database through a PgBouncer of the test's own."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin")
    if program is None:
        pytest.skip("pgbouncer is not installed")
    given = conninfo_to_dict(dsn)
    with socket.create_server(("127.0.0.1", 0)) as free:
        own_port = free.getsockname()[1]
    config = server_folder / "pgbouncer.ini"
    config.write_text(
        CONFIG.format(
            host=given["host"],
            port=given.get("port", 5432),
            user=given["user"],
            password=given.get("password", "none"),
            own_port=own_port,
            sessions=POOLED_SESSIONS,
        )
    )
    config.chmod(0o644)
    # as anybody but root, under whom it does not run
    user = {"user": 65534, "group": 65534, "extra_groups": []} if os.getuid() == 0 else {}
    with (server_folder / "pgbouncer.log").open("w+") as log:
        process = subprocess.Popen([program, config], stderr=log, stdout=log, **user)
        pooled = f"postgresql://{given['user']}@127.0.0.1:{own_port}/{given['dbname']}"
        try:
            eventually(lambda: process.poll() is not None or _answers(pooled), 15)
            if process.poll() is not None:
                pytest.fail(f"pgbouncer ended: {(server_folder / 'pgbouncer.log').read_text()}")
            with ExitStack() as stack:  # it opens a session only where all are taken
                for _ in range(POOLED_SESSIONS):
                    stack.enter_context(psycopg.connect(pooled)).execute("select")
            yield pooled
        finally:
            process.terminate()
            process.wait(30)


def _answers(dsn: str) -> bool:
    try:
        psycopg.connect(dsn, connect_timeout=5).close()
    except psycopg.OperationalError:
        return False
    return True
