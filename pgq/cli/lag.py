"""`pgq lag`: how far consumer groups are behind, as a check for monitoring.

Its exit codes and its first line are those of a plug-in for Nagios and Icinga. Errors and wrong usage are UNKNOWN, so
that none of them is taken for a lag.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from pgq.cli.options import Dsn, GroupIds, fetch
from pgq.cli.output import Format, Output, count_text, print_object, print_rows
from pgq.errors import GroupIdNotFoundError, PgqError

__all__ = ["MonitoringCommand", "lag"]

_UsageError: Any = typer.BadParameter.__base__
"""Of click, or of the copy of it that younger versions of typer bring along."""

_OK, _WARNING, _CRITICAL, _UNKNOWN = range(4)
_NAMES = ("OK", "WARNING", "CRITICAL", "UNKNOWN")

_KNOWN = "select group_id from pgq.group_status where $1::text[] is null or group_id = any ($1::text[])"
_LAG = (
    "select group_id, topic, count(*), coalesce(sum(lag), 0)::int8,"
    " coalesce(round(extract(epoch from max(time_lag)), 3), 0)::float8, count(member_id)"
    " from pgq.group_partition_status"
    " where ($1::text[] is null or group_id = any ($1::text[])) and ($2::text[] is null or topic = any ($2::text[]))"
    ' group by group_id, topic order by group_id collate "C", topic collate "C"'
)
_COLUMNS = ("status", "group", "topic", "partitions", "lag", "time_lag", "claimed")


class MonitoringCommand(TyperCommand):
    """The command, whose wrong usage is UNKNOWN (3), not the 2 that means CRITICAL."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().make_context(*args, **kwargs)
        except _UsageError as error:
            error.exit_code = _UNKNOWN
            raise

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except _UsageError as error:
            error.exit_code = _UNKNOWN
            raise
        except PgqError as error:
            typer.echo(f"UNKNOWN: {' '.join(str(error).split())}")
            raise typer.Exit(_UNKNOWN) from error


def lag(
    groups: GroupIds = None,
    topic: Annotated[list[str] | None, typer.Option("--topic", "-t", help="Only this topic; repeatable.")] = None,
    warning: Annotated[
        int | None, typer.Option("--warning", "-w", min=0, metavar="N", help="WARNING if the lag is above N.")
    ] = None,
    critical: Annotated[
        int | None, typer.Option("--critical", "-c", min=0, metavar="N", help="CRITICAL if the lag is above N.")
    ] = None,
    time_warning: Annotated[
        float | None,
        typer.Option(
            "--time-warning",
            min=0,
            metavar="SECONDS",
            help="WARNING if a record has been waiting for longer than that.",
        ),
    ] = None,
    time_critical: Annotated[
        float | None, typer.Option("--time-critical", min=0, metavar="SECONDS", help="CRITICAL, likewise.")
    ] = None,
    output: Output = Format.TABLE,
    dsn: Dsn = None,
) -> None:
    """Say how far groups, or all groups, are behind. Exit codes: 0 ok, 1 warning, 2 critical, 3 unknown.

    Limits apply to the sum over the partitions of each topic that a group reads, and to the record that has waited
    longest.
    """
    for low, high, name in ((warning, critical, "--critical"), (time_warning, time_critical, "--time-critical")):
        if low is not None and high is not None and high < low:
            raise typer.BadParameter(f"{high:g} is less than the warning's {low:g}", param_hint=name)
    known = {name for (name,) in fetch(dsn, _KNOWN, groups or None)}
    for name in groups or ():
        if name not in known:
            raise GroupIdNotFoundError(f"unknown group {name!r}: see `pgq group list`")
    rows = []
    for row in fetch(dsn, _LAG, groups or None, topic or None):
        fields = dict(zip(_COLUMNS[1:], row, strict=True))
        status = max(_grade(row[3], warning, critical), _grade(row[4], time_warning, time_critical))
        rows.append({"status": _NAMES[status]} | fields)
    if topic and (missing := set(topic) - {row["topic"] for row in rows}):
        raise GroupIdNotFoundError(f"no such group reads topic {min(missing)!r}: see `pgq group describe`")
    worst = max((_NAMES.index(row["status"]) for row in rows), default=_OK)
    summary = f"{_NAMES[worst]}: {_sentence(rows, worst)}"
    match output:
        case Format.TABLE:
            typer.echo(f"{summary} | {_performance_data(rows, warning, critical, time_warning, time_critical)}")
            if rows:
                print_rows(rows, _COLUMNS, output)
        case Format.JSON:
            print_object({"status": _NAMES[worst], "summary": summary, "groups": rows}, {"groups": _COLUMNS}, output)
        case Format.CSV:
            typer.echo(summary, err=True)
            print_rows(rows, _COLUMNS, output)
    if worst:
        raise typer.Exit(worst)


def _grade(value: float, warning: float | None, critical: float | None) -> int:
    if critical is not None and value > critical:
        return _CRITICAL
    return _WARNING if warning is not None and value > warning else _OK


def _sentence(rows: list[dict[str, Any]], worst: int) -> str:
    if not rows:
        return "no group reads anything"
    bad = [row for row in rows if row["status"] == _NAMES[worst]]
    row = max(bad, key=lambda row: (row["lag"], row["time_lag"]))
    others = f", and {len(bad) - 1} more" if worst and len(bad) > 1 else ""
    furthest = f"group {row['group']} is {count_text(row['lag'], 'record')} behind in topic {row['topic']}"
    return (
        f"{furthest}, the oldest of them {row['time_lag']:.1f} s old{others}" if row["lag"] else f"{furthest}{others}"
    )


def _performance_data(rows: list[dict[str, Any]], *limits: float | None) -> str:
    """Return the largest lags as monitoring systems read them: label=value[unit];warning;critical;minimum."""
    warning, critical, time_warning, time_critical = ("" if limit is None else f"{limit:g}" for limit in limits)
    largest = max((row["lag"] for row in rows), default=0)
    oldest = max((row["time_lag"] for row in rows), default=0.0)
    return f"lag={largest};{warning};{critical};0 time_lag={oldest:.3f}s;{time_warning};{time_critical};0"
