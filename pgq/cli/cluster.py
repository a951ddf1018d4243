"""`pgq cluster`: the servers that hold the log."""

from __future__ import annotations

from typing import Annotated

import typer

from pgq.cli.options import Dsn
from pgq.cli.output import Format, Output, print_object

app = typer.Typer(no_args_is_help=True, help="Describe the servers that hold the log.")

_COLUMNS = (
    "server",
    "role",
    "address",
    "port",
    "state",
    "sync_state",
    "flush_lag_bytes",
    "replay_lag_bytes",
    "lag_seconds",
)


@app.callback()
def _main() -> None:
    """Keep `describe` a command of its own."""


@app.command()
def describe(
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 if there is a warning.")] = False,
    output: Output = Format.TABLE,
    dsn: Dsn = None,
) -> None:
    """Show the leader, its followers, how far behind they are, and what acks=all means right now."""
    from pgq import Admin

    with Admin(dsn) as admin:
        cluster = admin.describe_cluster()
    row = cluster._asdict() | {"servers": [server._asdict() for server in cluster.servers]}
    if output is Format.TABLE:
        row["warnings"] = "\n".join(cluster.warnings) or None
    print_object(row, {"servers": _COLUMNS}, output)
    if check and cluster.warnings:
        raise typer.Exit(1)
