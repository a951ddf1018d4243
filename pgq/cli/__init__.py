"""The command `pgq`: one module a noun.

Importing it does no I/O. An error that pgq knows ends a command with one red sentence and exit code 1; anything else is
a bug and shows its traceback.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from pgq.cli.clash import clash
from pgq.cli.cluster import app as cluster_app
from pgq.cli.consume import consume
from pgq.cli.db import app as db_app
from pgq.cli.dev import dev
from pgq.cli.dlq import app as dlq_app
from pgq.cli.doctor import doctor
from pgq.cli.group import app as group_app
from pgq.cli.lag import MonitoringCommand, lag
from pgq.cli.maintain import maintain
from pgq.cli.produce import produce
from pgq.cli.serve import serve
from pgq.cli.topic import app as topic_app
from pgq.embedded import EmbeddedServerError
from pgq.errors import PgqError

__all__ = ["app"]


class _Commands(TyperGroup):
    """All commands, with the one place where errors become sentences."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except PgqError as error:
            # libpq's messages have several lines
            typer.secho(" ".join(str(error).split()), fg=typer.colors.RED, err=True)
            raise typer.Exit(1) from error
        except EmbeddedServerError as error:
            typer.secho(str(error), fg=typer.colors.RED, err=True)
            raise typer.Exit(1) from error


app = typer.Typer(
    name="pgq",
    help="A durable, partitioned, replayable log with Kafka's semantics inside PostgreSQL.",
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(topic_app, name="topic")
app.command()(produce)
app.command()(consume)
app.add_typer(group_app, name="group")
app.add_typer(dlq_app, name="dlq")
app.command(cls=MonitoringCommand)(lag)
app.command(cls=MonitoringCommand)(doctor)  # its exit codes are those of monitoring, too
app.command()(serve)
app.command()(maintain)
app.add_typer(db_app, name="db")
app.add_typer(cluster_app, name="cluster")
app.command()(dev)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(version("pgq-log"))
        raise typer.Exit


@app.callback()
def _main(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    if explanation := clash():
        typer.secho(explanation, fg=typer.colors.YELLOW, err=True)
