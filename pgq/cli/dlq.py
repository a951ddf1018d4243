"""`pgq dlq`: list and show dead letters, send them back, give them up."""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pgq.cli.options import Dsn, TopicName, fetch, parse_time
from pgq.cli.output import Format, Output, count_text, print_object, print_rows
from pgq.core.compression import NUMBERS, decompress
from pgq.errors import CorruptRecordError, OffsetOutOfRangeError, UnsupportedCompressionTypeError

if TYPE_CHECKING:
    from pgq.types import SettledDeadLetter

app = typer.Typer(
    no_args_is_help=True, help="Dead letters, records that groups could not process: list, show, redrive, purge them."
)

_MOST = 2**31 - 1
_MOST_BYTES = 104_857_600
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_CODECS = {number: name for name, number in NUMBERS.items()}

_LIST = (
    'select topic, group_id, dead_letter_topic, partition, "offset", origin_partition, origin_offset, failed_at,'
    " attempts, redriven, first_error, last_error"
    " from pgq.dead_letters($1::text, $2::text, $3::text, $4::timestamptz, $5::timestamptz, $6::int4)"
)
_LIST_COLUMNS: tuple[str, ...] = (
    "topic",
    "group",
    "dead_letter_topic",
    "partition",
    "offset",
    "origin_partition",
    "origin_offset",
    "failed_at",
    "attempts",
    "redriven",
    "first_error",
    "last_error",
)
_LIST_SHOWN = ("dead_letter_topic", "partition", "offset", "failed_at", "attempts", "redriven", "last_error")
_SETTLED_COLUMNS: tuple[str, ...] = (*_LIST_COLUMNS[:8], "last_error", "retry_topic")
_SETTLED_SHOWN = ("dead_letter_topic", "partition", "offset", "failed_at", "last_error", "retry_topic")
_SUMMARY_COLUMNS = ("topic", "group", "dead_letter_topic", "retry_topic", "records")

_NOW = "select clock_timestamp()"
_WITHOUT_MEMBERS = (
    "select g from unnest($1::text[]) g"
    " where not exists (select from pgq.group_status s where s.group_id = g and s.members > 0) order by g"
)
_RECORD = (
    'select "offset", (date_part(\'epoch\', "timestamp") * 1000)::int8, key, value, header_keys, header_values, codec'
    " from pgq.fetch($1::text, $2::int4, $3::int8, 1)"
)

Topic = Annotated[
    str | None,
    typer.Option("--topic", "-t", metavar="TOPIC", help="Only of this topic, which they were first read from."),
]
Group = Annotated[str | None, typer.Option("--group", "-g", metavar="GROUP", help="Only of this group.")]
Error = Annotated[
    str | None,
    typer.Option("--error", "-e", metavar="TEXT", help="Only those whose first or last error contains this."),
]
Since = Annotated[
    str | None,
    typer.Option("--since", metavar="TIME", help="Only those that failed last then or later: ISO-8601, UTC."),
]
Until = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Only those that failed last before then.")]
Limit = Annotated[int | None, typer.Option("--limit", "-n", min=1, max=_MOST, help="How many at most. Default: all.")]
Batch = Annotated[int, typer.Option("--batch", min=1, max=100_000, help="How many in a transaction.")]
Execute = Annotated[bool, typer.Option("--execute", help="Do it. Without this nothing is changed.")]


@app.command("list")
def list_dead_letters(
    topic: Topic = None,
    group: Group = None,
    error: Error = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=_MOST - 1, help="How many at most.")] = 100,
    output: Output = Format.TABLE,
    dsn: Dsn = None,
) -> None:
    """List dead letters that were neither redriven nor purged, the oldest failure first."""
    found = fetch(dsn, _LIST, topic, group, error, _time(since, "--since"), _time(until, "--until"), limit + 1)
    _print(found[:limit], _LIST_COLUMNS, _LIST_SHOWN, output)
    if len(found) > limit:
        typer.secho(f"There are more than {limit:,}: see --limit.", fg=typer.colors.YELLOW, err=True)


@app.command()
def show(
    topic: TopicName,
    partition: Annotated[int, typer.Argument(min=0, help="Number of the partition.")],
    offset: Annotated[int, typer.Argument(min=0, help="Offset of the record.")],
    output: Output = Format.TABLE,
    dsn: Dsn = None,
) -> None:
    """Show one dead letter: where it comes from, its errors, key, value and headers. TOPIC is the dead letter topic."""
    found = fetch(dsn, _RECORD, topic, partition, offset)
    if not found or found[0][0] != offset:
        raise OffsetOutOfRangeError(f"there is no record at offset {offset} of {topic}-{partition}: see `pgq dlq list`")
    _, timestamp_ms, key, value, header_keys, header_values, codec = found[0]
    headers = list(zip(header_keys or (), header_values or (), strict=True))
    said = {name: content.decode("utf-8", "backslashreplace") for name, content in headers if content is not None}
    row: dict[str, Any] = {
        "topic": said.get("pgq.origin.topic"),
        "group": said.get("pgq.group"),
        "dead_letter_topic": topic,
        "partition": partition,
        "offset": offset,
        "timestamp": _moment(timestamp_ms),
        "origin_partition": _number(said, "pgq.origin.partition"),
        "origin_offset": _number(said, "pgq.origin.offset"),
        "origin_timestamp": _moment(_number(said, "pgq.origin.timestamp")),
        "failed_at": _moment(_number(said, "pgq.failed")),
        "attempts": _number(said, "pgq.attempt"),
        "redriven": _number(said, "pgq.redriven") or 0,
        "first_error": said.get("pgq.first_error"),
        "last_error": said.get("pgq.last_error"),
        "codec": None if codec is None else _CODECS.get(codec, codec),
    }
    if codec is not None and value is not None:
        try:
            value = decompress(codec, value, _MOST_BYTES)
        except (CorruptRecordError, UnsupportedCompressionTypeError) as problem:
            typer.secho(f"The value is shown as it is stored: {problem}", fg=typer.colors.YELLOW, err=True)
    row |= _bytes("key", key, output) | _bytes("value", value, output)
    row["headers"] = [{"key": name} | _bytes("value", content, output) for name, content in headers]
    if output is Format.TABLE:
        row["headers"] = [_printable(header) for header in row["headers"]]
        row = _printable(row)
    columns: tuple[str, ...] = ("key", "value")
    if output is Format.CSV:
        columns = ("key", "value", "value_encoding")
        row["headers"] = [{"value_encoding": None} | header for header in row["headers"]]
    print_object(row, {"headers": columns}, output)


@app.command()
def redrive(
    topic: Topic = None,
    group: Group = None,
    error: Error = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = None,
    batch: Batch = 1_000,
    execute: Execute = False,
    output: Output = Format.TABLE,
    dsn: Dsn = None,
) -> None:
    """Send dead letters back to their groups, which process them anew; without --execute only show which.

    They go to the groups' retry topics and are due at once. Those that fail again meanwhile are left for the next time.
    """
    from pgq import Admin

    filters = _filters(dsn, topic, group, error, since, until)
    with Admin(dsn) as admin:
        if execute:
            counts = _execute(admin.redrive_dead_letters, filters, limit, batch, _SUMMARY_COLUMNS, output)
            typer.echo(f"sent back {count_text(counts.total(), 'dead letter')}", err=True)
            groups = {group_id for _, group_id, *_ in counts}
        else:
            found = admin.redrive_dead_letters(**filters, most=limit or _MOST)
            _print_plan(found, _SETTLED_COLUMNS, _SETTLED_SHOWN, output)
            groups = {row.group_id for row in found}
    for (group_id,) in fetch(dsn, _WITHOUT_MEMBERS, sorted(groups)) if groups else ():
        typer.secho(
            f"Group {group_id} has no living member: start one soon. Retention deletes from a retry topic what nobody"
            " has read in time.",
            fg=typer.colors.YELLOW,
            err=True,
        )


@app.command()
def purge(
    topic: Topic = None,
    group: Group = None,
    error: Error = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = None,
    batch: Batch = 1_000,
    execute: Execute = False,
    output: Output = Format.TABLE,
    dsn: Dsn = None,
) -> None:
    """Give dead letters up: they are listed no more, and deleted. Without --execute only show which."""
    from pgq import Admin

    filters = _filters(dsn, topic, group, error, since, until)
    with Admin(dsn) as admin:
        if execute:
            columns = tuple(name for name in _SUMMARY_COLUMNS if name != "retry_topic")
            counts = _execute(admin.purge_dead_letters, filters, limit, batch, columns, output)
            typer.echo(f"purged {count_text(counts.total(), 'dead letter')}", err=True)
        else:
            found = admin.purge_dead_letters(**filters, most=limit or _MOST)
            _print_plan(found, _SETTLED_COLUMNS[:-1], _SETTLED_SHOWN[:-1], output)


def _filters(
    dsn: str | None, topic: str | None, group: str | None, error: str | None, since: str | None, until: str | None
) -> dict[str, Any]:
    """Return which dead letters are meant: none that fails from now on, or it might go on for ever."""
    times = _time(since, "--since"), _time(until, "--until")
    now = fetch(dsn, _NOW)[0][0]
    return {
        "topic": topic,
        "group_id": group,
        "error": error,
        "since": times[0],
        "until": now if times[1] is None else min(times[1], now),
    }


def _execute(
    settle: Callable[..., list[SettledDeadLetter]],
    filters: dict[str, Any],
    limit: int | None,
    batch: int,
    columns: tuple[str, ...],
    output: Format,
) -> Counter[tuple[str, str, str, str | None]]:
    """Settle batch after batch; print how many of which topics, also if that is interrupted, and return it."""
    counts: Counter[tuple[str, str, str, str | None]] = Counter()
    left = _MOST if limit is None else limit
    ended = False
    try:
        while left and (done := settle(**filters, most=min(batch, left), execute=True)):
            counts.update((row.topic, row.group_id, row.dead_letter_topic, row.retry_topic) for row in done)
            left -= len(done)
        ended = True
    finally:
        if ended or counts:
            rows = [dict(zip(_SUMMARY_COLUMNS, (*what, count), strict=True)) for what, count in sorted(counts.items())]
            print_rows([{name: row[name] for name in columns} for row in rows], columns, output)
    return counts


def _print_plan(
    found: list[SettledDeadLetter], columns: tuple[str, ...], shown: tuple[str, ...], output: Format
) -> None:
    rows = [(*row[:7], _moment(row.failed_at), *row[8:])[: len(columns)] for row in found]
    _print(rows, columns, shown, output)
    typer.secho("Nothing was changed: this is what --execute would do.", fg=typer.colors.YELLOW, err=True)


def _print(found: list[Any], columns: tuple[str, ...], shown: tuple[str, ...], output: Format) -> None:
    rows = [dict(zip(columns, row, strict=True)) for row in found]
    if output is Format.TABLE:
        for row in rows:
            row["last_error"] = None if row["last_error"] is None else " ".join(row["last_error"].split())
        rows = [_printable(row) for row in rows]
    print_rows(rows, columns if output is Format.CSV else shown, output)


def _time(text: str | None, option: str) -> datetime | None:
    return None if text is None else parse_time(text, option)


def _number(said: dict[str, str], name: str) -> int | None:
    text = said.get(name, "")
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else None


def _moment(time_ms: int | None) -> datetime | int | None:
    """Return a time; the number itself after the year 9999."""
    if time_ms is None:
        return None
    try:
        return datetime.fromtimestamp(time_ms / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return time_ms


def _bytes(name: str, content: bytes | None, output: Format) -> dict[str, str | None]:
    """Return a field with bytes as text; such as are no UTF-8 escaped, or in base64, which a second field says."""
    if content is None:
        return {name: None}
    try:
        return {name: content.decode()}
    except UnicodeDecodeError:
        if output is Format.TABLE:
            return {name: content.decode(errors="backslashreplace")}
        return {name: base64.b64encode(content).decode(), f"{name}_encoding": "base64"}


def _printable(row: dict[str, Any]) -> dict[str, Any]:
    """Return what a terminal prints, and does not obey."""
    return {
        name: _UNPRINTABLE.sub(lambda found: f"\\x{ord(found[0]):02x}", field) if isinstance(field, str) else field
        for name, field in row.items()
    }
