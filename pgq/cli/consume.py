"""`pgq consume`: print the records of a topic."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from pgq.cli import formats
from pgq.cli.options import Dsn, TopicName
from pgq.cli.output import Format
from pgq.errors import BrokerNotAvailableError
from pgq.types import TopicPartition

if TYPE_CHECKING:
    from pgq.sync.consumer import Consumer

__all__ = ["consume"]

_FIRST_RECORDS, _MOST_RECORDS = 500, 5_000
_BATCH_BYTES = 16 * 1024 * 1024
_RETRY_S = 1.0
_PIPE_CLOSED = 128 + 13  # what a shell reports of a program that SIGPIPE ended

_STARTS = ("start", "beginning", "earliest", "oldest")
_ENDS = ("end", "latest", "newest")

_Positions = dict[TopicPartition, int]
_Start = Callable[["Consumer", _Positions, _Positions], _Positions]
"""From the log starts and the high watermarks to where the reading begins."""


def consume(
    topic: TopicName,
    partition: Annotated[
        list[int] | None, typer.Option("--partition", "-p", min=0, help="Only this one; repeatable.")
    ] = None,
    offset: Annotated[
        str | None,
        typer.Option(
            metavar="start|end|N|-N|@TIME",
            help="Where to begin in each partition: offset N, N before the end, a time (ISO-8601, or ms since 1970).",
            show_default="start",
        ),
    ] = None,
    from_beginning: Annotated[bool, typer.Option("--from-beginning", help="The same as --offset start.")] = False,
    count: Annotated[int | None, typer.Option("--count", "-n", min=1, help="End after so many records.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, for ever.")] = False,
    group: Annotated[
        str | None,
        typer.Option("--group", "-g", help="Begin where this group has committed, and commit what was printed."),
    ] = None,
    output: Annotated[
        Format | None, typer.Option("--output", "-o", help="Instead of values: json is an object a line.")
    ] = None,
    template: Annotated[
        str | None, typer.Option("--format", metavar="TEMPLATE", help="Instead of values: as kcat's, '%k %s\\n'.")
    ] = None,
    key_separator: Annotated[
        str | None, typer.Option("--key-separator", "-K", metavar="TEXT", help="Print keys too, and this after them.")
    ] = None,
    show_null: Annotated[
        bool, typer.Option("--null", "-Z", help="Print NULL for a null, rather than nothing.")
    ] = False,
    dsn: Dsn = None,
) -> None:
    """Print the values of a topic's records, one a line, up to where the topic ends now.

    Records of a partition come in order, one partition after the other. With --group offsets are committed after their
    records were printed, so a record may be printed twice when the command is interrupted, but none is left out.
    """
    if from_beginning and offset is not None:
        raise typer.BadParameter("--from-beginning is --offset start: give one of them", param_hint="--offset")
    start = _parse_offset(offset or "start")
    writer = _writer(output, template, key_separator, null=b"NULL" if show_null else b"")
    reading = _Reading(topic, start, writer, group=group, follow=follow, left=count)
    try:
        if output is Format.CSV:
            _write(formats.CSV_HEADER)
        reading.run(dsn, partition)
    except BrokenPipeError:
        _end_quietly()
    except _WriteError as error:
        typer.secho(f"the output cannot be written: {error}", fg=typer.colors.RED, err=True)
        raise typer.Exit(1) from error


class _WriteError(Exception):
    """stdout takes no more, for another reason than that its reader has gone."""


class _Reading:
    """One run over some partitions of a topic."""

    def __init__(
        self, topic: str, start: _Start, writer: formats.Writer, *, group: str | None, follow: bool, left: int | None
    ) -> None:
        self._topic = topic
        self._start = start
        self._writer = writer
        self._group = group
        self._follow = follow
        self._left = left
        self._limit = _FIRST_RECORDS

    def run(self, dsn: str | None, partitions: list[int] | None) -> None:
        """Print until the end, the count, or for ever."""
        from pgq import Admin, Consumer

        topics = [self._topic]
        if self._group is not None:
            topics = []  # a member would have only its share of the partitions
            if not partitions:
                with Admin(dsn) as admin:
                    partitions = list(range(admin.describe_topic(self._topic).partitions))
        # committed is what was printed, not what was delivered
        with Consumer(
            *topics, dsn=dsn, group_id=self._group, auto_offset_reset="earliest", enable_auto_commit=False
        ) as consumer:
            if partitions:
                consumer.assign([TopicPartition(self._topic, number) for number in sorted(set(partitions))])
            tps = sorted(consumer.assignment())
            begins, ends = consumer.beginning_offsets(tps), consumer.end_offsets(tps)
            positions = self._start(consumer, begins, ends)
            for tp in tps:
                consumer.seek(tp, min(max(positions[tp], begins[tp]), max(ends[tp], begins[tp])))
            if self._group is not None:
                consumer.seek_to_committed(*tps)
            if self._follow:
                self._read_on(consumer)
            else:
                self._read_to(consumer, ends)

    def _read_on(self, consumer: Consumer) -> None:
        told = False
        while self._left != 0:
            try:
                self._poll(consumer, (), {}, 1000)
                told = False
            except BrokerNotAvailableError as error:
                if not told:
                    typer.secho(f"{' '.join(str(error).split())}: trying again", fg=typer.colors.YELLOW, err=True)
                told = True
                time.sleep(_RETRY_S)

    def _read_to(self, consumer: Consumer, ends: _Positions) -> None:
        left = {tp for tp, end in ends.items() if consumer.position(tp) < end}
        while left and self._left != 0:
            read = self._poll(consumer, left, ends, 10)
            # nothing: what is left may be offsets that were rolled back, over which positions move without a record
            left -= {tp for tp in (read or list(left)) if consumer.position(tp) >= ends[tp]}

    def _poll(
        self, consumer: Consumer, only: set[TopicPartition] | tuple[()], ends: _Positions, timeout_ms: int
    ) -> list[TopicPartition]:
        """Print what one call brings, commit it, and return the partitions that it came from."""
        limit = self._limit if self._left is None else min(self._limit, self._left)
        batches = consumer.getmany(*only, timeout_ms=timeout_ms, max_records=limit)
        texts: list[bytes] = []
        printed = 0
        for tp, records in batches.items():
            end = ends.get(tp)
            if end is not None and records[-1].offset >= end:
                records = [record for record in records if record.offset < end]
            if records:
                texts.append(self._writer(records))
                printed += len(records)
        if texts:
            text = b"".join(texts)
            _write(text)
            # records may be of any size, and a batch of them has to fit in memory
            self._limit = max(1, min(_MOST_RECORDS, _BATCH_BYTES * printed // (len(text) + 1)))
            if self._left is not None:
                self._left -= printed
        if self._group is not None and batches:
            consumer.commit({tp: min(consumer.position(tp), ends.get(tp, sys.maxsize)) for tp in batches})
        return list(batches)


def _writer(output: Format | None, template: str | None, key_separator: str | None, *, null: bytes) -> formats.Writer:
    if sum(option is not None for option in (output, template, key_separator)) > 1:
        raise typer.BadParameter("-o, --format and -K exclude each other: give one of them", param_hint="--format")
    match output:
        case Format.JSON:
            return formats.json_lines
        case Format.CSV:
            return formats.csv_lines
        case Format.TABLE:
            return formats.table_lines()
    if key_separator is not None:
        template = f"%k{key_separator.replace('%', '%%')}%s\\n"
    if template is None:
        return formats.values(null=null)
    try:
        return formats.template(template, null=null)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--format") from error


def _parse_offset(text: str) -> _Start:
    if text in _STARTS:
        return lambda _consumer, begins, _ends: begins
    if text in _ENDS:
        return lambda _consumer, _begins, ends: ends
    if text.startswith("@"):
        timestamp_ms = _parse_time(text[1:])
        return lambda consumer, _begins, ends: _at_time(consumer, ends, timestamp_ms)
    if not text.removeprefix("-").isdecimal() or not text.isascii():
        raise typer.BadParameter(f"{text!r} is none of start, end, N, -N, @TIME", param_hint="--offset")
    number = int(text)
    if text.startswith("-"):
        return lambda _consumer, _begins, ends: {tp: end + number for tp, end in ends.items()}
    return lambda _consumer, _begins, ends: dict.fromkeys(ends, number)


def _at_time(consumer: Consumer, ends: _Positions, timestamp_ms: int) -> _Positions:
    found = consumer.offsets_for_times(dict.fromkeys(ends, timestamp_ms))
    return {tp: end if (at := found[tp]) is None else at.offset for tp, end in ends.items()}


def _parse_time(text: str) -> int:
    if text.isdecimal() and text.isascii():
        return int(text)
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is no time: give ISO-8601, such as 2026-05-31T12:00:00Z, or milliseconds since 1970",
            param_hint="--offset",
        ) from None
    if time.tzinfo is None:
        time = time.replace(tzinfo=UTC)
    return max(0, round(time.timestamp() * 1000))


def _write(text: bytes) -> None:
    try:
        sys.stdout.buffer.write(text)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _WriteError(error.strerror or str(error)) from error


def _end_quietly() -> NoReturn:
    # what is still buffered goes nowhere, so that closing stdout at exit does not fail again
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise typer.Exit(_PIPE_CLOSED)
