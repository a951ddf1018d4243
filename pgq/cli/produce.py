"""`pgq produce`: append the records of a file or of stdin to a topic."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pgq.cli.options import Dsn, TopicName, parse_time, unescape
from pgq.cli.output import count_text
from pgq.cli.reading import BadInputError, Batch, Reader, csv_rows, json_lines, lines
from pgq.errors import PgqError, UnknownPartitionError

if TYPE_CHECKING:
    from pgq.drivers.threads import Delivery

__all__ = ["produce"]


class InputFormat(StrEnum):
    """What a record is in the input."""

    LINES = "lines"
    JSONL = "jsonl"
    CSV = "csv"


class Compression(StrEnum):
    """What values are compressed with."""

    NONE = "none"
    GZIP = "gzip"
    LZ4 = "lz4"
    ZSTD = "zstd"


class Partitioner(StrEnum):
    """How a key finds its partition."""

    MURMUR2 = "murmur2"
    CRC32 = "crc32"


class Acks(StrEnum):
    """What counts as appended."""

    ALL = "all"
    ONE = "1"
    ZERO = "0"


def produce(
    topic: TopicName,
    file: Annotated[
        Path,
        typer.Argument(help="File to read, - for stdin. It may be gzip's."),
    ] = Path("-"),
    input_format: Annotated[
        InputFormat, typer.Option("--format", help="A record is a line, a line of JSON, or a row of CSV with a header.")
    ] = InputFormat.LINES,
    key: Annotated[
        str | None, typer.Option("--key", "-k", metavar="FIELD", help="jsonl, csv: the field that is the record's key.")
    ] = None,
    key_separator: Annotated[
        str | None,
        typer.Option(
            "--key-separator", "-K", metavar="TEXT", help="lines: what ends the key; \\t and \\xNN are known."
        ),
    ] = None,
    partition: Annotated[int | None, typer.Option("--partition", "-p", min=0, help="Instead of the key's.")] = None,
    header: Annotated[
        list[str] | None, typer.Option("--header", "-H", metavar="NAME=VALUE", help="Of each record; repeatable.")
    ] = None,
    deliver_at: Annotated[
        str | None,
        typer.Option("--deliver-at", metavar="TIME", help="Append them at this time, ISO-8601; UTC if it has no zone."),
    ] = None,
    delay_ms: Annotated[
        float | None, typer.Option("--delay-ms", metavar="MS", min=0, help="Append each so long after it was read.")
    ] = None,
    acks: Annotated[
        Acks, typer.Option("--acks", help="What is waited for: standbys, the leader's disk, nothing.")
    ] = Acks.ALL,
    compression: Annotated[
        Compression, typer.Option("--compression", help="Of values; the topic's compression.type wins.")
    ] = Compression.NONE,
    partitioner: Annotated[
        Partitioner, typer.Option("--partitioner", help="As Kafka's Java client, or as librdkafka.")
    ] = Partitioner.MURMUR2,
    timeout_s: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", min=1, help="How long to try while the server is away.")
    ] = 120,
    empty_is_null: Annotated[bool, typer.Option("--null", "-Z", help="lines: empty keys and values are null.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
    dsn: Dsn = None,
) -> None:
    """Append the records of a file, or of stdin, to a topic.

    Records of one key go to one partition. At the first row that is not right the command ends with exit code 1, and
    what stood before it stays appended. Ctrl-C flushes what was read and ends with 130.
    """
    _check_options(input_format, key, key_separator, empty_is_null=empty_is_null)
    if deliver_at is not None and delay_ms is not None:
        raise typer.BadParameter("--deliver-at says when, and --delay-ms too: give one", param_hint="--delay-ms")
    fields: dict[str, Any] = {"partition": partition}
    if deliver_at is not None:
        fields["deliver_at"] = parse_time(deliver_at, "--deliver-at")
    elif delay_ms is not None:
        fields["delay_ms"] = delay_ms
    headers = [_parse_header(text) for text in header or []]
    separator = None if key_separator is None else unescape(key_separator)
    interruption = _Interruption()
    started = time.monotonic()
    with interruption.handled(), _reader(file, interruption) as reader:
        match input_format:
            case InputFormat.LINES:
                batches = lines(reader.blocks(), separator, empty_is_null=empty_is_null)
            case InputFormat.JSONL:
                batches = json_lines(reader.blocks(), key)
            case InputFormat.CSV:
                batches = csv_rows(reader.blocks(), key)
        if not quiet and str(file) == "-" and sys.stdin.isatty():
            typer.echo("One record a line; Ctrl-D ends.", err=True)
        options = {
            "dsn": dsn,
            "acks": acks.value,
            "compression_type": compression.value,
            "partitioner": partitioner.value,
            **_timeouts(timeout_s),
        }
        run = _Run(options, topic, headers, fields)
        with _progress(reader, quiet=quiet) as show:
            run.send_all(batches, interruption, show)
    seconds = time.monotonic() - started
    if run.problem is not None:
        typer.secho(run.problem, fg=typer.colors.RED, err=True)
    if not quiet or run.problem is not None or interruption.signal:
        rate = f", {run.appended / seconds:,.0f} records/s" if run.appended else ""
        cut = "Interrupted. " if interruption.signal else ""
        done = "appended to" if len(fields) == 1 else "delayed for"
        typer.echo(f"{cut}{count_text(run.appended, 'record')} {done} {topic} in {seconds:.1f} s{rate}", err=True)
    if interruption.signal:
        raise typer.Exit(128 + interruption.signal)
    if run.problem is not None:
        raise typer.Exit(1)


def _timeouts(timeout_s: float) -> dict[str, float]:
    linger_ms = 5.0
    return {
        "linger_ms": linger_ms,
        "delivery_timeout_ms": timeout_s * 1000,
        "request_timeout_ms": min(30_000, timeout_s * 1000 - linger_ms),
    }


def _check_options(
    input_format: InputFormat, key: str | None, key_separator: str | None, *, empty_is_null: bool
) -> None:
    if input_format is InputFormat.LINES and key is not None:
        raise typer.BadParameter("--key names a field of --format jsonl or csv; lines have -K", param_hint="--key")
    if input_format is not InputFormat.LINES and key_separator is not None:
        raise typer.BadParameter("-K is for --format lines; jsonl and csv have --key", param_hint="--key-separator")
    if input_format is not InputFormat.LINES and empty_is_null:
        raise typer.BadParameter("-Z is for --format lines", param_hint="--null")
    if key_separator == "":
        raise typer.BadParameter("a separator has at least one character", param_hint="--key-separator")


def _parse_header(text: str) -> tuple[str, bytes]:
    name, found, value = text.partition("=")
    if not found or not name:
        raise typer.BadParameter(f"{text!r} is no NAME=VALUE", param_hint="--header")
    return name, value.encode()


class _Interrupted(Exception):  # noqa: N818 - no error
    """Ctrl-C came while the command waited for input."""


class _Interruption:
    """Ctrl-C and SIGTERM end the reading; what was read is sent whole. A second one ends the command at once.

    The handler raises nothing, so that no record is cut between being sent and being counted. It wakes who waits for
    input by a pipe: a signal that comes just before a read would be slept through.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._wake: int | None = None

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle the signals within the block."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._wake, end = os.pipe()
        os.set_blocking(end, False)
        wake_before = signal.set_wakeup_fd(end, warn_on_full_buffer=False)
        previous = [(number, signal.signal(number, self._handle)) for number in (signal.SIGINT, signal.SIGTERM)]
        try:
            yield
        finally:
            for number, handler in previous:
                signal.signal(number, handler)
            signal.set_wakeup_fd(wake_before)
            os.close(self._wake)
            os.close(end)

    def wait(self, file: int) -> None:
        """Wait until the file can be read.

        Raises:
            _Interrupted: a signal has come.
        """
        if self._wake is None:
            return
        while True:
            ready, _, _ = select.select([file, self._wake], [], [])
            if self.signal:
                raise _Interrupted
            if file in ready:
                return

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.signal:
            if sys.stderr.isatty():
                sys.stderr.write("\x1b[?25h")  # the progress bar has hidden the cursor
                sys.stderr.flush()
            os._exit(128 + number)
        self.signal = number


@contextmanager
def _reader(file: Path, interruption: _Interruption) -> Iterator[Reader]:
    try:
        reader = Reader(file, interruption.wait)
    except _Interrupted:
        raise typer.Exit(128 + interruption.signal) from None
    except OSError as error:
        raise typer.BadParameter(f"{str(file)!r} cannot be read: {error.strerror}", param_hint="FILE") from error
    try:
        yield reader
    finally:
        reader.close()


class _Run:
    """One load: sends, and counts what the server has confirmed."""

    def __init__(
        self, options: dict[str, Any], topic: str, headers: list[tuple[str, bytes]], fields: dict[str, Any]
    ) -> None:
        self._options = options
        self._topic = topic
        self._headers = headers or None
        self._fields = fields
        """What all records have in common, as `send` takes it."""
        self._pending: deque[list[Delivery[Any]]] = deque()
        self.appended = 0
        self.problem: str | None = None
        """The sentence that says why the load ended early."""

    def send_all(self, batches: Iterator[Batch], interruption: _Interruption, show: Callable[[int], None]) -> None:
        """Send all batches, wait for the server, and leave what came of it in `appended` and `problem`."""
        from pgq import Producer

        with Producer(**self._options) as producer:
            partitions = producer.partitions_for(self._topic)  # no topic, no reading
            partition = self._fields["partition"]
            if partition is not None and partition not in partitions:
                raise UnknownPartitionError(
                    f"unknown partition {partition} of topic {self._topic!r}: it has 0 to {len(partitions) - 1}"
                )
            try:
                for numbers, pairs in batches:
                    self._send(producer, numbers, pairs)
                    self._settle()
                    show(self.appended)
                    if self.problem is not None or interruption.signal:
                        break
            except BadInputError as error:
                self.problem = str(error)
            except _Interrupted:
                pass
            with suppress(PgqError):  # the futures tell more
                producer.flush()
            self._settle()

    def _send(self, producer: Any, numbers: Any, pairs: list[tuple[bytes | None, bytes | None]]) -> None:
        deliveries: list[Delivery[Any]] = []
        self._pending.append(deliveries)
        send, sent = producer.send, deliveries.append
        topic, headers, fields = self._topic, self._headers, self._fields
        try:
            for key, value in pairs:
                sent(send(topic, value, key, headers, **fields))
        except PgqError as error:
            self.problem = f"line {numbers[len(deliveries)]}: {_sentence(error)}"

    def _settle(self) -> None:
        """Count what is decided. The producer's batches end in order, so a list's last record is its last to end."""
        pending = self._pending
        while pending and (not pending[0] or pending[0][-1].done()):
            for delivery in pending.popleft():
                error = delivery.exception()
                if error is None:
                    self.appended += 1
                elif self.problem is None:
                    self.problem = f"not all records were appended: {_sentence(error)}"


def _sentence(error: BaseException) -> str:
    return " ".join(str(error).split())


@contextmanager
def _progress(reader: Reader, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Give a function to call with the number of records, which moves a bar on stderr if that is a terminal."""
    if quiet or not sys.stderr.isatty() or (reader.size is None and sys.stdin.isatty()):
        yield lambda _records: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("0 records", total=reader.size)

        def show(records: int) -> None:
            completed = reader.position if reader.size is not None else 0
            progress.update(task, description=f"{records:,} records", completed=completed)

        yield show
