"""`pgq db`: install, upgrade, inspect and repair the schema."""

from __future__ import annotations

from typing import Annotated

import typer

from pgq.cli.output import Format, Output, print_rows

app = typer.Typer(no_args_is_help=True, help="Install, upgrade, inspect and repair the schema pgq in a database.")

Dsn = Annotated[
    str | None,
    typer.Option(help="libpq connection string or URL. Default: PGQ_DSN.", envvar="PGQ_DSN", show_envvar=False),
]


@app.command()
def upgrade(dsn: Dsn = None) -> None:
    """Install the schema, or bring it up to this version of pgq. Safe to repeat, and to start many times at once."""
    from pgq import schema

    before = schema.current(dsn)
    after = schema.upgrade(dsn)
    typer.echo(f"schema pgq: {before or 'none'} -> {after}")


@app.command()
def current(dsn: Dsn = None, output: Output = Format.TABLE) -> None:
    """Print the revision of the schema in the database, and this library's. Exits with 1 if there is none."""
    from pgq import schema
    from pgq.config import SCHEMA_VERSION

    installed = schema.current(dsn)
    if output is Format.TABLE:
        typer.echo(f"schema pgq: {installed or 'none'} (library: {SCHEMA_VERSION})")
    else:
        print_rows([{"schema": installed, "library": SCHEMA_VERSION}], ("schema", "library"), output)
    if installed is None:
        raise typer.Exit(1)


@app.command()
def check(dsn: Dsn = None, output: Output = Format.TABLE) -> None:
    """Compare the schema with this library's, and look at the log in it. Changes nothing. Exits with 1 at a problem."""
    from pgq import schema

    problems = schema.check(dsn)
    if output is Format.TABLE:
        for problem in problems or ["schema pgq is as it should be"]:
            typer.echo(problem)
    else:
        print_rows([{"problem": problem} for problem in problems], ("problem",), output)
    if problems:
        raise typer.Exit(1)


@app.command()
def repair(dsn: Dsn = None) -> None:
    """Mend a copy: upgrade the schema, set sequences past the last record. Then check. Exits with 1 at a problem."""
    from pgq import schema

    for change in schema.repair(dsn):
        typer.echo(change)
    check(dsn)


@app.command()
def roles(dsn: Dsn = None) -> None:
    """Make the roles pgq_reader, pgq_producer, pgq_consumer and pgq_admin, and grant them what they may do here."""
    from pgq import schema

    created = schema.create_roles(dsn)
    typer.echo(f"made {', '.join(created)}" if created else "all roles are there")
    typer.echo("granted; let somebody have one by `grant pgq_consumer to <role>`")


@app.command()
def sql() -> None:
    """Print the SQL of a fresh install, for a DBA: `pgq db sql | psql -1 -v ON_ERROR_STOP=1`."""
    from pgq import schema

    typer.echo(schema.sql())
