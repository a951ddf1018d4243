"""`pgq dev`: a PostgreSQL server with pgq's schema for development, in the foreground."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import psycopg
import typer
from psycopg import sql

from pgq import schema
from pgq.embedded import EmbeddedServer, EmbeddedServerError

__all__ = ["dev"]


def dev(
    data_dir: Annotated[
        Path, typer.Option(help="Folder of the data; it is made when missing and survives a stop.")
    ] = Path(".pgq-dev"),
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="TCP port; by default the one used last, else a free one.")
    ] = None,
    database: Annotated[str, typer.Option(help="Database; it is made when missing.")] = "pgq",
) -> None:
    """Run a PostgreSQL server for development until Ctrl-C, with pgq's schema in it, and print its DSN.

    The server listens on 127.0.0.1 and trusts every user of this computer.
    """
    server = EmbeddedServer(data_dir, port=port)
    with _interrupted_once():
        try:
            server.start()
            _create_database(server.dsn(), database)
            dsn = server.dsn(database)
            schema.upgrade(dsn)
            typer.echo(f"PostgreSQL {server.version} runs on 127.0.0.1:{server.port}. Its data is in {data_dir}.\n")
            typer.echo(f"    {dsn}\n")
            typer.echo(f"    export PGQ_DSN={shlex.quote(dsn)}\n")
            typer.echo("Ctrl-C stops it; the data survives.")
            code = server.wait()
        except KeyboardInterrupt:
            typer.echo("Stopping PostgreSQL …")
        else:
            raise EmbeddedServerError(
                f"PostgreSQL ended by itself (exit code {code}). Its log ends with:\n{server.log_tail()}"
            )
        finally:
            server.stop()
    typer.echo(f"Stopped. The data stays in {data_dir}; `pgq dev` goes on with it.")


def _create_database(dsn: str, database: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        found = conn.execute("select from pg_database where datname = %s", [database]).fetchone()
        if found is None:
            conn.execute(sql.SQL("create database {}").format(sql.Identifier(database)))


@contextmanager
def _interrupted_once() -> Iterator[None]:
    """Let the first Ctrl-C or SIGTERM raise KeyboardInterrupt, and none after it cut short what that began."""
    signals = (signal.SIGINT, signal.SIGTERM)

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        for number in signals:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    previous = [(number, signal.signal(number, interrupt)) for number in signals]
    try:
        yield
    finally:
        for number, handler in previous:
            signal.signal(number, handler)
