"""`pgq maintain`: the service's jobs once, for cron."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pgq.cli.options import DirectDsn
from pgq.cli.output import Format, Output, print_rows

if TYPE_CHECKING:
    from pgq.service.maintenance import JobReport

__all__ = ["maintain"]

_COLUMNS = ("job", "result", "seconds", "error")


def maintain(
    once: Annotated[bool, typer.Option("--once", help="Do what is due now, and end.")] = False,
    output: Output = Format.TABLE,
    dsn: DirectDsn = None,
) -> None:
    """Do once what `pgq serve` does again and again: for cron. Exits with 1 if a job failed.

    Goes on until nothing is left that can be done now; what others hold is left after some seconds.

    Does nothing of a job that another instance leads, and exits with 0.
    """
    from pgq.service.maintenance import Maintenance

    if not once:
        raise typer.BadParameter("add --once; `pgq serve` is what goes on until it is stopped", param_hint="--once")
    logging.getLogger("pgq.service").addHandler(logging.NullHandler())  # the rows say it
    reports = Maintenance(dsn).run_once()
    if output is Format.JSON:
        print_rows([report._asdict() for report in reports], (), output)
    else:
        print_rows([_row(report) for report in reports], _COLUMNS, output)
    if any(report.error for report in reports):
        raise typer.Exit(1)


def _row(report: JobReport) -> dict[str, Any]:
    done = ", ".join(f"{count} {what}" for what, count in report.result.items())
    result = done or ("nothing to do" if report.led else "another instance leads")
    return {
        "job": report.job,
        "result": None if report.error else result,
        "seconds": round(report.seconds, 3),
        "error": report.error,
    }
