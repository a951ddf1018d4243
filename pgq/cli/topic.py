"""`pgq topic`: create, list, describe, alter, grow, trim and delete topics."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from pgq.cli.options import Dsn, TopicName, fetch, parse_time
from pgq.cli.output import Format, Output, count_text, print_object, print_rows, progress_bar
from pgq.errors import TopicAlreadyExistsError, UnknownTopicError
from pgq.types import TopicPartition

app = typer.Typer(no_args_is_help=True, help="Create, list, describe, alter, trim and delete topics.")

_FIELDS = (
    "select topic, topic_id, state, partitions, t.records, coalesce(d.records, 0)::int8, segments, skew::float8,"
    " created_at, config::text"
)
_FROM = " from pgq.topic_status t left join pgq._delayed_counts() d using (topic_id)"
_LIST = _FIELDS + "{}" + _FROM + " order by topic"
_COLUMNS = (
    "topic",
    "topic_id",
    "state",
    "partitions",
    "records",
    "delayed",
    "segments",
    "skew",
    "created_at",
    "config",
)
_TOPIC = _FIELDS + ", bytes" + _FROM + " where topic = $1::text"
_PARTITIONS = (
    "select partition, log_start_offset, high_watermark, log_end_offset, records, bytes, segments, producers,"
    " producer_pid, producer_application, extract(epoch from producer_age)::float8, producer_prepared"
    " from pgq.partition_status where topic = $1::text order by partition"
)
_PARTITION_COLUMNS: tuple[str, ...] = (
    "partition",
    "log_start_offset",
    "high_watermark",
    "log_end_offset",
    "records",
    "bytes",
    "segments",
    "producers",
    "producer_pid",
    "producer_application",
    "producer_age",
    "producer_prepared",
)
_PLAN_TRIM = (
    "select partition, log_start_offset, new_log_start_offset, records"
    " from pgq._plan_trim($1::text, $2::int4[], $3::text, $4::text)"
)
_TRIM_COLUMNS = ("partition", "log_start_offset", "new_log_start_offset", "records")
_PRODUCER_COLUMNS = 4
"""The last columns, which say something only where a producer's transaction is open."""

Config = Annotated[
    list[str] | None, typer.Option("--config", "-c", metavar="KEY=VALUE", help="Configuration; repeatable.")
]


@app.command()
def create(
    name: TopicName,
    partitions: Annotated[int, typer.Option("--partitions", "-p", min=1, help="1 to 1,000.")] = 1,
    config: Config = None,
    if_not_exists: Annotated[
        bool, typer.Option("--if-not-exists", help="A topic of this name, as it may be, is no error.")
    ] = False,
    dsn: Dsn = None,
) -> None:
    """Create a topic. What an interrupted command left is finished by the same command again."""
    from pgq import Admin

    settings = _parse_config(config)
    with Admin(dsn) as admin, progress_bar(f"creating {name}", "partitions") as progress:
        try:
            topic = admin.create_topic(name, partitions, settings, progress=progress)
        except TopicAlreadyExistsError:
            if not if_not_exists:
                raise
            topic = None
    if topic is None:
        typer.echo(f"topic {name} exists already; nothing was changed")
    else:
        typer.echo(f"created topic {name} with {count_text(topic.partitions, 'partition')}")


@app.command("list")
def list_topics(
    sizes: Annotated[bool, typer.Option("--bytes", help="Their sizes on disk too, which take longer.")] = False,
    output: Output = Format.TABLE,
    dsn: Dsn = None,
) -> None:
    """List all topics, those in creation and deletion too."""
    rows = [_topic_row(row) for row in fetch(dsn, _LIST.format(", bytes" if sizes else ""))]
    shown = ["topic", "state", "partitions", "records", "delayed", "skew", "created_at"]
    if sizes:
        shown.insert(5, "bytes")
    print_rows(rows, shown, output)


@app.command()
def describe(name: TopicName, output: Output = Format.TABLE, dsn: Dsn = None) -> None:
    """Show a topic, its configuration and its partitions."""
    from pgq.sync.client import READ_COMMITTED, connect

    connection = connect(dsn, READ_COMMITTED)
    try:
        found = connection.fetch(_TOPIC, name)
        if not found:
            raise UnknownTopicError(f"unknown topic {name!r}: see `pgq topic list`")
        partitions = [dict(zip(_PARTITION_COLUMNS, row, strict=True)) for row in connection.fetch(_PARTITIONS, name)]
    finally:
        connection.close()
    columns = _PARTITION_COLUMNS
    if output is Format.TABLE and not any(row["producers"] for row in partitions):
        columns = columns[:-_PRODUCER_COLUMNS]
    print_object(_topic_row(found[0]) | {"partition_status": partitions}, {"partition_status": columns}, output)


@app.command()
def alter(
    name: TopicName,
    config: Config = None,
    delete_config: Annotated[
        list[str] | None, typer.Option("--delete-config", metavar="KEY", help="Back to the default; repeatable.")
    ] = None,
    dsn: Dsn = None,
) -> None:
    """Change a topic's configuration. Keys that are not named stay as they are."""
    from pgq import Admin

    settings = _parse_config(config)
    for key in delete_config or []:
        if key in settings:
            raise typer.BadParameter(f"{key} is to be set and deleted", param_hint="--delete-config")
        settings[key] = None
    if not settings:
        raise typer.BadParameter("nothing to change: give -c KEY=VALUE or --delete-config KEY", param_hint="--config")
    with Admin(dsn) as admin:
        topic = admin.alter_topic_config(name, settings)
    for key in settings:
        typer.echo(f"{name}: {key}={topic.config[key]}{' (default)' if settings[key] is None else ''}")


@app.command()
def delete(
    name: TopicName,
    if_exists: Annotated[bool, typer.Option("--if-exists", help="No such topic is no error.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dsn: Dsn = None,
) -> None:
    """Delete a topic, its records and the offsets committed for it.

    On a terminal it asks first; elsewhere it needs --yes. What an interrupted command left is finished by the same
    command again.
    """
    from pgq import Admin

    found = fetch(dsn, _TOPIC, name)
    if not found:
        if if_exists:
            typer.echo(f"no topic {name}; nothing was changed")
            return
        raise UnknownTopicError(f"unknown topic {name!r}: see `pgq topic list`")
    if not yes:
        if not sys.stdin.isatty():
            raise typer.BadParameter("nobody can be asked here: add --yes", param_hint="--yes")
        row = _topic_row(found[0])
        what = [count_text(row["partitions"], "partition"), count_text(row["records"], "record")]
        if row["delayed"]:
            what.append(count_text(row["delayed"], "delayed record"))
        typer.confirm(f"Delete topic {name} with {', '.join(what[:-1])} and {what[-1]}?", abort=True, err=True)
    with Admin(dsn) as admin, progress_bar(f"deleting {name}", "steps") as progress:
        admin.delete_topic(name, progress=progress)
    typer.echo(f"deleted topic {name}")


@app.command()
def trim(
    name: TopicName,
    to_offset: Annotated[
        int | None, typer.Option("--to-offset", min=0, metavar="N", help="What is before offset N; takes -p.")
    ] = None,
    to_latest: Annotated[bool, typer.Option("--to-latest", help="Everything that is there now.")] = False,
    to_datetime: Annotated[
        str | None,
        typer.Option("--to-datetime", metavar="TIME", help="What is before the first record of that time or later."),
    ] = None,
    older_than: Annotated[
        str | None,
        typer.Option("--older-than", metavar="DURATION", help="The same, for so long ago: 7d, 12h, P7D, PT1H30M."),
    ] = None,
    partition: Annotated[
        list[int] | None, typer.Option("--partition", "-p", min=0, metavar="N", help="Only this; repeatable.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    output: Output = Format.TABLE,
    dsn: Dsn = None,
) -> None:
    """Delete the oldest records of a topic: move log starts. Shows first what would go.

    On a terminal it asks then; elsewhere it needs --yes. Space comes back with the next run of retention.
    """
    from pgq import Admin

    given = {
        "to-offset": None if to_offset is None else str(to_offset),
        "to-latest": "" if to_latest else None,
        "to-datetime": None if to_datetime is None else parse_time(to_datetime, "--to-datetime").isoformat(),
        "by-duration": older_than,
    }
    specs = [(spec, value) for spec, value in given.items() if value is not None]
    if len(specs) != 1:
        raise typer.BadParameter(
            "give one of --to-offset, --to-latest, --to-datetime, --older-than", param_hint="--to-…"
        )
    if to_offset is not None and not partition:
        raise typer.BadParameter("an offset is that of a partition: add -p", param_hint="--to-offset")
    found = fetch(dsn, _PLAN_TRIM, name, partition, *specs[0])
    rows = [dict(zip(_TRIM_COLUMNS, row, strict=True)) for row in found]
    print_rows(rows, _TRIM_COLUMNS, output)
    moved = [row for row in rows if row["new_log_start_offset"] > row["log_start_offset"]]
    if not moved:
        typer.echo("nothing to delete", err=True)
        return
    what = f"{count_text(sum(row['records'] for row in moved), 'record')} of {count_text(len(moved), 'partition')}"
    if not yes:
        if not sys.stdin.isatty():
            raise typer.BadParameter("nobody can be asked here: add --yes", param_hint="--yes")
        typer.confirm(f"Delete {what} of topic {name}?", abort=True, err=True)
    with Admin(dsn) as admin:
        admin.delete_records({TopicPartition(name, row["partition"]): row["new_log_start_offset"] for row in moved})
    typer.echo(f"deleted {what} of topic {name}", err=True)


@app.command("add-partitions")
def add_partitions(
    name: TopicName,
    partitions: Annotated[int, typer.Option("--partitions", "-p", min=1, help="How many it shall have in all.")],
    dsn: Dsn = None,
) -> None:
    """Give a topic more partitions.

    Records that are there stay where they are. From now on a key's records may go to another partition than before, so
    a reader that needs the order of a key has to have read the old partitions first.
    """
    from pgq import Admin

    with Admin(dsn) as admin, progress_bar(f"adding to {name}", "partitions") as progress:
        before = admin.describe_topic(name).partitions
        after = admin.add_partitions(name, partitions, progress=progress).partitions
    typer.echo(f"topic {name} has {count_text(after, 'partition')} now, {before:,} before")
    typer.secho("Records of a key may go to another partition from now on.", fg=typer.colors.YELLOW, err=True)


def _topic_row(row: Any) -> dict[str, Any]:
    result = dict(zip((*_COLUMNS, "bytes"), row, strict=False))
    result["config"] = json.loads(result["config"])
    return result


def _parse_config(texts: list[str] | None) -> dict[str, int | str | None]:
    result: dict[str, int | str | None] = {}
    for text in texts or []:
        key, found, value = text.partition("=")
        if not found or not key:
            raise typer.BadParameter(f"{text!r} is no KEY=VALUE", param_hint="--config")
        try:
            result[key] = int(value)
        except ValueError:
            result[key] = value
    return result
