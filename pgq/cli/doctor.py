"""`pgq doctor`: what is wrong with the database and its server, or soon will be, and what to do."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from pgq.cli.clash import clash
from pgq.cli.options import Dsn
from pgq.cli.output import Format, Output, print_rows

__all__ = ["doctor"]

_EXIT_CODES = {"ok": 0, "warning": 1, "problem": 2}


def _check_names(names: list[str] | None) -> list[str]:
    from pgq.schema.checks import CHECKS

    known = ["installation", *(check.__name__ for check, _ in CHECKS)]
    for name in names or ():
        if name not in known:
            raise typer.BadParameter(f"{name!r} is none of {', '.join(known)}")
    return names or []


def doctor(
    transaction_age: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Warn of transactions that are older.")
    ] = 300.0,
    skip: Annotated[
        list[str] | None,
        typer.Option(metavar="CHECK", callback=_check_names, help="Leave a check out, by its name; repeatable."),
    ] = None,
    output: Output = Format.TABLE,
    dsn: Dsn = None,
) -> None:
    """Say what is wrong for pgq in the database and its server, or soon will be, and what to do. Changes nothing.

    Exit codes are those of monitoring plug-ins: 0 all is well, 1 there are warnings, 2 there are problems (a server
    that cannot be reached is one), 3 wrong usage.
    """
    from pgq.schema.checks import Limits, Status
    from pgq.schema.doctor import Finding, examine

    findings = examine(dsn, limits=Limits(transaction_s=transaction_age), skip=skip or ())
    if "installation" not in (skip or ()):
        told, _, remedy = (clash() or "").partition(" Run ")
        status = Status.WARNING if told else Status.OK
        ours = f"pgq-log {version('pgq-log')}, and no other package of the name pgq"
        findings.insert(0, Finding("installation", status, told or ours, f"run {remedy}" if told else None))
    print_rows([finding._asdict() for finding in findings], Finding._fields, output)
    raise typer.Exit(max((_EXIT_CODES[finding.status] for finding in findings), default=0))
