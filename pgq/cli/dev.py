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

from pgq import Admin, schema
from pgq.embedded import EmbeddedServer, EmbeddedServerError
from pgq.embedded_cluster import EmbeddedCluster

__all__ = ["dev"]


def dev(
    data_dir: Annotated[
        Path, typer.Option(help="Folder of the data; it is made when missing and survives a stop.")
    ] = Path(".pgq-dev"),
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="TCP port; by default the one used last, else a free one.")
    ] = None,
    database: Annotated[str, typer.Option(help="Database; it is made when missing.")] = "pgq",
    replicas: Annotated[
        int, typer.Option(min=0, max=8, help="Followers, as servers of their own: 2 give replication factor 3.")
    ] = 0,
    synchronous: Annotated[
        int | None, typer.Option(min=0, help="Followers that acks=all waits for; 1 with --replicas.")
    ] = None,
) -> None:
    """Run a PostgreSQL server for development until Ctrl-C, with pgq's schema in it, and print its DSN.

    The server listens on 127.0.0.1 and trusts every user of this computer. With --replicas it has followers.
    """
    server: EmbeddedServer | EmbeddedCluster
    if replicas:
        server = _cluster(data_dir, replicas, synchronous, port)
    else:
        if synchronous:
            raise typer.BadParameter("there is nobody to wait for without --replicas", param_hint="--synchronous")
        if (data_dir / "pgq1").exists():
            raise EmbeddedServerError(
                f"{data_dir} holds a cluster: say --replicas {len(list(data_dir.glob('pgq[0-9]'))) - 1},"
                " or give another --data-dir."
            )
        server = EmbeddedServer(data_dir, port=port)
    with _interrupted_once():
        try:
            server.start()
            leader = server.leader if isinstance(server, EmbeddedCluster) else server
            _create_database(leader.dsn(), database)
            dsn = server.dsn(database)
            schema.upgrade(leader.dsn(database))
            typer.echo(f"PostgreSQL {leader.version} runs on 127.0.0.1:{leader.port}. Its data is in {data_dir}.\n")
            if isinstance(server, EmbeddedCluster):
                for name, follower in server.followers.items():
                    typer.echo(f"    {name} follows on 127.0.0.1:{follower.port}")
                typer.echo("\n" + _what_acks_all_means(leader.dsn(database)) + "\n")
            typer.echo(f"    {dsn}\n")
            typer.echo(f"    export PGQ_DSN={shlex.quote(dsn)}\n")
            typer.echo("Ctrl-C stops it; the data survives.")
            code = leader.wait()
        except KeyboardInterrupt:
            typer.echo("Stopping PostgreSQL …")
        else:
            raise EmbeddedServerError(
                f"PostgreSQL ended by itself (exit code {code}). Its log ends with:\n{leader.log_tail()}"
            )
        finally:
            server.stop()
    typer.echo(f"Stopped. The data stays in {data_dir}; the same command goes on with it.")


def _cluster(data_dir: Path, replicas: int, synchronous: int | None, port: int | None) -> EmbeddedCluster:
    if port is not None:
        raise typer.BadParameter("with --replicas every server has a port of its own", param_hint="--port")
    wanted = 1 if synchronous is None else synchronous
    if wanted > replicas:
        raise typer.BadParameter(f"{wanted} of {replicas} followers", param_hint="--synchronous")
    if (data_dir / "PG_VERSION").exists():
        raise EmbeddedServerError(f"{data_dir} holds a server without followers: give another --data-dir.")
    return EmbeddedCluster(data_dir, replicas=replicas, synchronous=wanted)


def _what_acks_all_means(dsn: str) -> str:
    with Admin(dsn) as admin:
        cluster = admin.describe_cluster()
    return " ".join([cluster.acks_all, *cluster.warnings])


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
