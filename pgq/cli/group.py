"""`pgq group`: list and describe consumer groups, reset their offsets, delete them."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from pgq.cli.options import Dsn, GroupId, GroupIds, fetch, parse_partitions, parse_time
from pgq.cli.output import Format, Output, count_text, print_rows
from pgq.errors import GroupIdNotFoundError, PgqError
from pgq.types import TopicPartition

app = typer.Typer(no_args_is_help=True, help="List and describe consumer groups, reset their offsets, delete them.")

_Names = tuple[str, ...]

_STATES = ("Empty", "Stable", "Rebalancing")

_LIST = (
    "select group_id, state, members, partitions, assignor, generation, lag, created_at from pgq.group_status"
    ' where $1::text[] is null or state = any ($1::text[]) order by group_id collate "C"'
)
_LIST_COLUMNS: _Names = ("group", "state", "members", "partitions", "assignor", "generation", "lag", "created_at")

_STATE = (
    "select group_id, state, members, partitions, assignor, generation, lag,"
    " round(extract(epoch from time_lag), 3)::float8, created_at"
    " from pgq.group_status where group_id = any ($1::text[])"
)
_STATE_COLUMNS: _Names = (*_LIST_COLUMNS[:-1], "time_lag", "created_at")

_MEMBERS = (
    "select group_id, member_id, host(client_addr), client_id, group_instance_id, pid, joined_at, alive, dead_since,"
    " session_timeout_ms, topics, partitions, assignment::text"
    " from pgq.member_status where group_id = any ($1::text[]) order by joined_at, member_id"
)
_MEMBER_COLUMNS: _Names = (
    "group",
    "consumer_id",
    "host",
    "client_id",
    "group_instance_id",
    "pid",
    "joined_at",
    "alive",
    "dead_since",
    "session_timeout_ms",
    "topics",
    "partitions",
    "assignment",
)
_MEMBERS_SHOWN: _Names = (
    "group",
    "consumer_id",
    "host",
    "client_id",
    "group_instance_id",
    "alive",
    "partitions",
    "assignment",
)

_OFFSETS = (
    "select group_id, topic, partition, committed_offset, log_end_offset, lag,"
    " round(extract(epoch from time_lag), 3)::float8, member_id, host(client_addr), client_id, metadata, committed_at,"
    " log_start_offset, high_watermark, pid, group_instance_id, epoch, claimed_at"
    " from pgq.group_partition_status where group_id = any ($1::text[])"
    ' order by topic collate "C", partition'
)
_OFFSET_COLUMNS: _Names = (
    "group",
    "topic",
    "partition",
    "current_offset",
    "log_end_offset",
    "lag",
    "time_lag",
    "consumer_id",
    "host",
    "client_id",
    "metadata",
    "committed_at",
    "log_start_offset",
    "high_watermark",
    "pid",
    "group_instance_id",
    "epoch",
    "claimed_at",
)
_OFFSETS_SHOWN: _Names = _OFFSET_COLUMNS[:10]

_KNOWN = "select group_id from pgq.group_status where $1::text[] is null or group_id = any ($1::text[])"

Topics = Annotated[
    list[str] | None,
    typer.Option("--topic", "-t", metavar="TOPIC[:0,1,2]", help="A topic, or some of its partitions; repeatable."),
]


@app.command("list")
def list_groups(
    state: Annotated[
        list[str] | None,
        typer.Option("--state", metavar="STATE", help="Only those that are Empty, Stable or Rebalancing; repeatable."),
    ] = None,
    output: Output = Format.TABLE,
    dsn: Dsn = None,
) -> None:
    """List consumer groups: whether members live, what they hold, how far behind they are."""
    wanted = [name.capitalize() for name in state] if state else None
    if wanted and not set(wanted) <= set(_STATES):
        raise typer.BadParameter(f"a state is one of {', '.join(_STATES)}", param_hint="--state")
    rows = [dict(zip(_LIST_COLUMNS, row, strict=True)) for row in fetch(dsn, _LIST, wanted)]
    print_rows(rows, _LIST_COLUMNS, output)


@app.command()
def describe(
    groups: GroupIds = None,
    all_groups: Annotated[bool, typer.Option("--all", help="All groups.")] = False,
    offsets: Annotated[
        bool, typer.Option("--offsets", help="Partitions: offsets, lag, who holds them. The default.")
    ] = False,
    members: Annotated[bool, typer.Option("--members", help="Members, and what they hold.")] = False,
    state: Annotated[bool, typer.Option("--state", help="The groups as a whole.")] = False,
    output: Output = Format.TABLE,
    dsn: Dsn = None,
) -> None:
    """Show what groups have committed and how far behind they are, or their members, or their state."""
    if bool(groups) == all_groups:
        raise typer.BadParameter("name groups, or give --all", param_hint="GROUP")
    if offsets + members + state > 1:
        raise typer.BadParameter("--offsets, --members and --state exclude each other", param_hint="--offsets")
    known = {name for (name,) in fetch(dsn, _KNOWN, groups or None)}
    names = sorted(known) if all_groups else list(dict.fromkeys(groups or ()))
    for name in names:
        if name not in known:
            raise GroupIdNotFoundError(f"unknown group {name!r}: see `pgq group list`")
    statement, columns, shown = _OFFSETS, _OFFSET_COLUMNS, _OFFSETS_SHOWN
    if members:
        statement, columns, shown = _MEMBERS, _MEMBER_COLUMNS, _MEMBERS_SHOWN
    elif state:
        statement, columns, shown = _STATE, _STATE_COLUMNS, _STATE_COLUMNS
    rows = [dict(zip(columns, row, strict=True)) for row in fetch(dsn, statement, names)]
    rows.sort(key=lambda row: names.index(row["group"]))
    for row in rows:
        if "assignment" in row:
            row["assignment"] = json.loads(row["assignment"] or "null")
            row["topics"] = list(row["topics"])
    if output is Format.TABLE:
        for row in rows:
            if row.get("assignment") is not None:
                row["assignment"] = _assignment_text(row["assignment"])
    print_rows(rows, columns if output is Format.CSV else shown, output)


@app.command()
def reset(
    group: GroupId,
    topic: Topics = None,
    all_topics: Annotated[
        bool, typer.Option("--all-topics", help="Every partition that the group has committed an offset for.")
    ] = False,
    to_earliest: Annotated[bool, typer.Option("--to-earliest", help="The first record that is still there.")] = False,
    to_latest: Annotated[bool, typer.Option("--to-latest", help="Only what comes from now on.")] = False,
    to_current: Annotated[
        bool, typer.Option("--to-current", help="What is committed, brought back into the log; else the end.")
    ] = False,
    to_offset: Annotated[int | None, typer.Option("--to-offset", metavar="N", help="This offset.")] = None,
    shift_by: Annotated[
        int | None, typer.Option("--shift-by", metavar="N", help="So many on, or with -N back.")
    ] = None,
    to_datetime: Annotated[
        str | None,
        typer.Option("--to-datetime", metavar="TIME", help="The first record of that time or later: ISO-8601, UTC."),
    ] = None,
    by_duration: Annotated[
        str | None, typer.Option("--by-duration", metavar="PnDTnHnMnS", help="The same, for so long ago: PT1H30M.")
    ] = None,
    from_file: Annotated[
        Path | None,
        typer.Option(
            "--from-file", exists=True, dir_okay=False, metavar="CSV", help="Lines of topic,partition,offset."
        ),
    ] = None,
    execute: Annotated[bool, typer.Option("--execute", help="Do it. Without this nothing is changed.")] = False,
    output: Output = Format.TABLE,
    dsn: Dsn = None,
) -> None:
    """Set a group's committed offsets elsewhere; without --execute only show what would be.

    The group's members have to be stopped first. An offset outside of the log becomes the nearest inside.
    """
    from pgq import Admin

    given: dict[str, Any] = {
        "to-earliest": to_earliest or None,
        "to-latest": to_latest or None,
        "to-current": to_current or None,
        "to-offset": to_offset,
        "shift-by": shift_by,
        "to-datetime": None if to_datetime is None else parse_time(to_datetime, "--to-datetime"),
        "by-duration": by_duration,
        "from-file": None if from_file is None else _read_offsets(from_file, group),
    }
    specs = [spec for spec, value in given.items() if value is not None]
    if len(specs) != 1:
        raise typer.BadParameter(f"give one of {', '.join('--' + name for name in given)}", param_hint="--to-…")
    (spec,) = specs
    value = None if given[spec] is True else given[spec]
    if from_file is not None:
        if topic or all_topics:
            raise typer.BadParameter("the file names the partitions", param_hint="--from-file")
        what: dict[str, Any] = {"offsets": value}
        spec, value = "to-offset", None
    else:
        if bool(topic) == all_topics:
            raise typer.BadParameter("give --topic or --all-topics", param_hint="--topic")
        what = {} if all_topics else parse_partitions(topic or [])
    with Admin(dsn) as admin:
        rows = [
            {"group": group} | row._asdict()
            for row in admin.reset_consumer_group_offsets(group, spec, value, **what, execute=execute)
        ]
    print_rows(rows, ("group", "topic", "partition", "current_offset", "new_offset", "clamped"), output)
    if execute:
        typer.echo(f"reset {count_text(len(rows), 'partition')} of group {group}", err=True)
    else:
        typer.secho("Nothing was changed: this is what --execute would do.", fg=typer.colors.YELLOW, err=True)


@app.command()
def delete(
    groups: GroupIds,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dsn: Dsn = None,
) -> None:
    """Delete groups and all that they have committed. Their members have to be stopped first.

    On a terminal it asks first; elsewhere it needs --yes.
    """
    from pgq import Admin

    names = list(dict.fromkeys(groups or ()))
    if not names:
        raise typer.BadParameter("name a group", param_hint="GROUP")
    known = {name for (name,) in fetch(dsn, _KNOWN, names)}
    if unknown := [name for name in names if name not in known]:
        raise GroupIdNotFoundError(f"unknown group {unknown[0]!r}: see `pgq group list`")
    if not yes:
        _ask(f"Delete {'group' if len(names) == 1 else 'groups'} {', '.join(names)} and what was committed?")
    failed: PgqError | None = None
    with Admin(dsn) as admin:
        for name in names:
            try:
                admin.delete_consumer_groups([name])
                typer.echo(f"deleted group {name}")
            except PgqError as error:  # the others are no less to be deleted
                if failed is not None:
                    typer.secho(str(failed), fg=typer.colors.RED, err=True)
                failed = error
    if failed is not None:
        raise failed


@app.command("delete-offsets")
def delete_offsets(
    group: GroupId,
    topic: Topics = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dsn: Dsn = None,
) -> None:
    """Forget what a group has committed for topics. Members that read them have to be stopped first.

    On a terminal it asks first; elsewhere it needs --yes.
    """
    from pgq import Admin

    if not topic:
        raise typer.BadParameter("name a topic", param_hint="--topic")
    named = parse_partitions(topic)
    if not yes:
        _ask(f"Delete what group {group} has committed for {', '.join(topic)}?")
    with Admin(dsn) as admin:
        partitions = list(named["partitions"])
        for name in named["topics"]:
            partitions += [TopicPartition(name, number) for number in range(admin.describe_topic(name).partitions)]
        deleted = admin.delete_consumer_group_offsets(group, partitions)
    typer.echo(f"deleted the offsets of group {group} for {count_text(deleted, 'partition')}")


def _ask(question: str) -> None:
    if not sys.stdin.isatty():
        raise typer.BadParameter("nobody can be asked here: add --yes", param_hint="--yes")
    typer.confirm(question, abort=True, err=True)


def _assignment_text(assignment: dict[str, list[int]]) -> str:
    """Return what a member holds as kafka-consumer-groups writes it: orders(0,1), payments(3)."""
    return ", ".join(f"{topic}({','.join(map(str, assignment[topic]))})" for topic in sorted(assignment)) or "-"


def _read_offsets(path: Path, group: str) -> dict[TopicPartition, int]:
    """Return the offsets of a file: what `group reset -o csv` prints, or Kafka's topic,partition,offset.

    With a column `group` only the rows of this group count.
    """
    result: dict[TopicPartition, int] = {}
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = [(number, row) for number, row in enumerate(csv.reader(file), 1) if row]
    header = ["topic", "partition", "offset"]
    if rows and "topic" in rows[0][1] and "partition" in rows[0][1]:
        header = ["offset" if name == "new_offset" else name for name in rows.pop(0)[1]]
    for number, row in rows:
        fields = dict(zip(header, row, strict=False))
        if fields.get("group", group) != group:
            continue
        try:
            tp = TopicPartition(fields["topic"].strip(), int(fields["partition"]))
            offset = int(fields["offset"])
        except (KeyError, ValueError):
            raise typer.BadParameter(
                f"line {number} of {path} is no topic,partition,offset", param_hint="--from-file"
            ) from None
        if result.setdefault(tp, offset) != offset:
            raise typer.BadParameter(
                f"line {number} of {path}: another offset for partition {tp.partition} of topic {tp.topic}",
                param_hint="--from-file",
            )
    if not result:
        raise typer.BadParameter(f"{path} names no partition", param_hint="--from-file")
    return result
