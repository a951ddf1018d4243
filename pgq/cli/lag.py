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
from pgq.errors import GroupIdNotFoundError, NotLeaderError, PgqError

__all__ = ["MonitoringCommand", "lag"]

_UsageError: Any = typer.BadParameter.__base__
"""Of click, or of the copy of it that younger versions of typer bring along."""

_NAMES = ("OK", "WARNING", "CRITICAL", "UNKNOWN")
"""In the order of their exit codes."""
_UNKNOWN = _NAMES.index("UNKNOWN")
_SEVERITY = ("OK", "WARNING", "UNKNOWN", "CRITICAL")
"""A group that reads nothing must not hide another that is above a critical limit."""

_Limits = tuple[int | None, int | None, float | None, float | None]

# One statement: the server that says what there is says whether it can know. The lag of a partition with records and
# nothing committed is unknown: where its reader begins is the reader's choice. PostgreSQL computes `with_records` only
# if it comes across such a partition.
_LAG = """
with with_records as materialized (
    select topic, partition from pgq.partition_status where records > 0
), part as materialized (
    select group_id, topic, lag, time_lag, member_id, high_watermark, committed_offset,
           case when committed_offset is null and high_watermark > log_start_offset
                then (topic, partition) in (select topic, partition from with_records) else false end as uncommitted
      from pgq.group_partition_status
     where ($1::text[] is null or group_id = any ($1::text[])) and ($2::text[] is null or topic = any ($2::text[]))
), read as materialized (
    select group_id, topic, count(*) as partitions, sum(lag)::int8 as lag,
           round(extract(epoch from max(time_lag)), 3)::float8 as time_lag, count(member_id) as claimed,
           count(*) filter (where uncommitted) as uncommitted, bool_or(high_watermark is null) as undecided
      from part group by group_id, topic
)
select pg_is_in_recovery() or coalesce(r.undecided, false),
       g.group_id, r.topic, r.partitions, coalesce(r.lag, case when r.uncommitted = 0 then 0 end),
       coalesce(r.time_lag, case when r.uncommitted = 0 then 0 end), r.claimed, r.uncommitted
  from (values (0)) one
  left join pgq.group_status g on $1::text[] is null or g.group_id = any ($1::text[])
  left join read r on r.group_id = g.group_id
 order by g.group_id collate "C", r.topic collate "C"
"""
_COLUMNS = ("status", "group", "topic", "partitions", "lag", "time_lag", "claimed", "uncommitted")


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
            typer.echo(f"UNKNOWN: {_one_line(error)}")
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
    longest. With limits, records in a partition that nothing was committed for are a warning.
    """
    for low, high, name in ((warning, critical, "--critical"), (time_warning, time_critical, "--time-critical")):
        if low is not None and high is not None and high < low:
            raise typer.BadParameter(f"{high:g} is less than the warning's {low:g}", param_hint=name)
    limits = (warning, critical, time_warning, time_critical)
    rows: list[dict[str, Any]] = []
    try:
        rows = _examine(dsn, groups, topic, limits)
        worst = max((row["status"] for row in rows), default="OK", key=_SEVERITY.index)
        sentence = _sentence(rows, worst, topic)
        measured = f" | {_performance_data(rows, *limits)}"
    except PgqError as error:
        worst, sentence, measured = "UNKNOWN", _one_line(error), ""
    summary = f"{worst}: {sentence}"
    match output:
        case Format.TABLE:
            typer.echo(f"{summary}{measured}")
            if rows:
                print_rows(rows, _COLUMNS, output)
        case Format.JSON:
            print_object({"status": worst, "summary": summary, "groups": rows}, {"groups": _COLUMNS}, output)
        case Format.CSV:
            typer.echo(summary, err=True)
            print_rows(rows, _COLUMNS, output)
    if worst != "OK":
        raise typer.Exit(_NAMES.index(worst))


def _examine(
    dsn: str | None, groups: list[str] | None, topics: list[str] | None, limits: _Limits
) -> list[dict[str, Any]]:
    """Return a row for each topic that a group reads, and one without a topic for a named group that reads nothing."""
    warning, critical, time_warning, time_critical = limits
    limited = any(limit is not None for limit in limits)
    found = fetch(dsn, _LAG, groups or None, topics or None)
    if any(unknown for unknown, *_ in found):
        raise NotLeaderError(
            "this server is a standby, which cannot know how far groups are behind: name the primary in the DSN,"
            " or all servers and target_session_attrs=read-write"
        )
    known = {name for _, name, *_ in found}
    for name in groups or ():
        if name not in known:
            raise GroupIdNotFoundError(f"unknown group {name!r}: see `pgq group list`")
    if missing := set(topics or ()) - {name for _, _, name, *_ in found}:
        raise GroupIdNotFoundError(f"no such group reads topic {min(missing)!r}: see `pgq group describe`")
    rows = []
    for _, *fields in found:
        row = dict(zip(_COLUMNS[1:], fields, strict=True))
        grades = ["OK"]
        if row["topic"] is None:
            if row["group"] is None or not groups:
                continue
            row |= {"partitions": 0, "claimed": 0, "uncommitted": 0}
            grades += ["UNKNOWN"] if limited else []
        if row["lag"] is not None:
            grades += [_grade(row["lag"], warning, critical), _grade(row["time_lag"], time_warning, time_critical)]
        if row["uncommitted"] and limited:
            grades.append("WARNING")
        rows.append({"status": max(grades, key=_SEVERITY.index)} | row)
    return rows


def _grade(value: float, warning: float | None, critical: float | None) -> str:
    if critical is not None and value > critical:
        return "CRITICAL"
    return "WARNING" if warning is not None and value > warning else "OK"


def _sentence(rows: list[dict[str, Any]], worst: str, topics: list[str] | None) -> str:
    """Return what is the worst, and whatever else makes the lag unknown."""
    if not rows:
        return "no group reads anything"
    clauses = []
    bad = [row for row in rows if row["status"] == worst and row["lag"] is not None]
    furthest = max(bad, key=lambda row: (row["lag"], row["time_lag"]), default=None)
    if furthest is not None:
        clause = f"group {furthest['group']} is {count_text(furthest['lag'], 'record')} behind"
        clause += f" in topic {furthest['topic']}"
        clause += f", the oldest of them {furthest['time_lag']:.1f} s old" if furthest["lag"] else ""
        clauses.append(clause + (_others(bad) if worst != "OK" else ""))
    if idle := [row for row in rows if row["topic"] is None]:
        what = f"does not read {' or '.join(topics)}" if topics else "reads nothing"
        clauses.append(f"group {idle[0]['group']} {what}{_others(idle)}")
    if uncommitted := [row for row in rows if row["uncommitted"]]:
        row = furthest if furthest is not None and furthest["uncommitted"] else uncommitted[0]
        of = f"{row['uncommitted']:,} of {count_text(row['partitions'], 'partition')} of topic {row['topic']}"
        clauses.append(f"group {row['group']} has nothing committed for {of}{_others(uncommitted)}")
    return "; ".join(clauses)


def _others(rows: list[dict[str, Any]]) -> str:
    return f", and {len(rows) - 1} more" if len(rows) > 1 else ""


def _performance_data(rows: list[dict[str, Any]], *limits: float | None) -> str:
    """Return the largest lags as monitoring systems read them: label=value[unit];warning;critical;minimum.

    U is the value of what is unknown, as the guidelines for plug-ins have it.
    """
    warning, critical, time_warning, time_critical = ("" if limit is None else f"{limit:g}" for limit in limits)
    known = [row for row in rows if row["lag"] is not None]
    largest, oldest = "U", "U"
    if known or not rows:
        largest = str(max((row["lag"] for row in known), default=0))
        oldest = f"{max((row['time_lag'] for row in known), default=0.0):.3f}s"
    return f"lag={largest};{warning};{critical};0 time_lag={oldest};{time_warning};{time_critical};0"


def _one_line(error: PgqError) -> str:
    return " ".join(str(error).split())
