"""How commands print rows: a table for people, CSV or JSON for programs. The one implementation for all commands.

Colours are for terminals only, and rich leaves them out when NO_COLOR is set. In a pipe a table is as wide as its rows.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any

import typer

__all__ = ["Format", "Output", "count_text", "print_object", "print_rows", "progress_bar", "size_text", "table_text"]

Row = Mapping[str, Any]


class Format(StrEnum):
    """The forms that rows can be printed in."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


Output = Annotated[Format, typer.Option("--output", "-o", help="table for people; json or csv for programs.")]


def print_rows(rows: Sequence[Row], columns: Sequence[str], output: Format) -> None:
    """Print rows: a table with a header, CSV with a header line, or a JSON array of objects.

    Args:
        rows: column -> value: text, numbers, times, None, or mappings and lists of these.
        columns: which to print, in order. Numbers stand to the right in a table, and columns named `bytes` are
            rounded there; a column may be left out of a table by leaving it out here, while JSON has all of a row.
    """
    match output:
        case Format.JSON:
            _write_json(list(rows))
        case Format.CSV:
            writer = csv.writer(sys.stdout, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows([[_csv_cell(row[column]) for column in columns] for row in rows])
        case Format.TABLE:
            _print_table(rows, columns)


def print_object(row: Row, parts: Mapping[str, Sequence[str]], output: Format) -> None:
    """Print one thing: its fields and below them its parts, or a JSON object that holds both.

    Args:
        row: field -> value. A mapping is a table of its keys and values; a list of rows is a table of theirs.
        parts: which fields are lists of rows, and the columns to print of them. CSV has the rows of the first.
    """
    match output:
        case Format.JSON:
            _write_json(dict(row))
        case Format.CSV:
            name, columns = next(iter(parts.items()))
            print_rows(row[name], columns, output)
        case Format.TABLE:
            fields = {name: value for name, value in row.items() if name not in parts}
            plain = {name: value for name, value in fields.items() if not isinstance(value, Mapping)}
            _print_pairs(plain)
            for name, value in fields.items():
                if name not in plain:
                    typer.echo(f"\n{name}")
                    _print_pairs({f"  {key}": part for key, part in value.items()})
            for name, columns in parts.items():
                typer.echo("")
                _print_table(row[name], columns)


def count_text(number: int, noun: str) -> str:
    """Return a number with its noun: 1 record, 1,000 records."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def size_text(count: int) -> str:
    """Return a number of bytes, rounded as `ls -h` does: 12.3MiB."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f}{unit}" if unit == "B" else f"{size:.1f}{unit}"
        size /= 1024
    return f"{size:.1f}TiB"


def table_text(name: str, value: Any) -> str:
    """Return a value as a table shows it: a dash for nothing, times in UTC without a space."""
    if value is None:
        return "-"
    if name == "bytes" and isinstance(value, int):
        return size_text(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return " ".join(f"{key}={part}" for key, part in value.items()) or "-"
    return str(_plain(value))


@contextmanager
def progress_bar(title: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Give a function to call with (done, total), which moves a bar on stderr if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _write_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=_plain))


def _plain(value: Any) -> Any:
    """Return what JSON and CSV can hold of a value: times as ISO-8601, durations in seconds, the rest as text."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if isinstance(value, timedelta):
        return round(value.total_seconds(), 3)
    return value if isinstance(value, str | int | float) else str(value)


def _csv_cell(value: Any) -> Any:
    if isinstance(value, Mapping | list):
        return json.dumps(value, ensure_ascii=False, default=_plain)
    return None if value is None else _plain(value)


def _print_renderable(renderable: Any) -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    if console.is_terminal:
        console.print(renderable)
        return
    console.width = 100_000  # a program reads it: nothing is folded, cut or padded
    with console.capture() as captured:
        console.print(renderable)
    for line in captured.get().splitlines():
        typer.echo(line.rstrip())


def _print_pairs(pairs: Row) -> None:
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs.items():
        table.add_row(name, table_text(name.strip(), value))
    _print_renderable(table)


def _print_table(rows: Sequence[Row], columns: Sequence[str]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        numbers = any(isinstance(row[column], int | float) for row in rows)
        table.add_column(column.upper(), justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(table_text(column, row[column]) for column in columns))
    _print_renderable(table)
