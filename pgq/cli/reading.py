"""From a file or stdin to keys and values: lines, lines of JSON, CSV.

Nothing here knows of a topic. Batches come as soon as their input does, so a pipe that trickles is passed on at once.
The first row that is not right ends the reading, after what was right before it was given out.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from json.encoder import encode_basestring
from pathlib import Path
from typing import Any

__all__ = ["BadInputError", "Batch", "Reader", "csv_rows", "json_lines", "lines"]

_CHUNK_BYTES = 256 * 1024
_MAX_LINE_BYTES = 256 * 1024 * 1024
_GZIP = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"

Pair = tuple[bytes | None, bytes | None]
Batch = tuple[Sequence[int], list[Pair]]
"""The numbers of the lines where records begin, and as many keys and values."""


class BadInputError(Exception):
    """The input is not what it was said to be: a sentence that names the line."""


class _Input(io.FileIO):
    """A file that is waited for before it is read."""

    def __init__(self, file: int | Path, wait: Callable[[int], None], *, closefd: bool) -> None:
        super().__init__(file, closefd=closefd)
        self._wait = wait

    def readinto(self, buffer: Any) -> int | None:
        self._wait(self.fileno())
        return super().readinto(buffer)


class Reader:
    """The bytes of a file, or of stdin for "-", unpacked if they are gzip's.

    Args:
        path: the file.
        wait: called with the descriptor before every read; what it raises ends the reading.
    """

    def __init__(self, path: Path, wait: Callable[[int], None] = lambda _file: None) -> None:
        # stdin's own buffer may belong to a test or to nobody; the descriptor is always there
        source = _Input(0, wait, closefd=False) if str(path) == "-" else _Input(path, wait, closefd=True)
        self._raw = io.BufferedReader(source)
        status = os.fstat(self._raw.fileno())
        self.size = status.st_size if os.path.isfile(path) else None  # noqa: PTH113 - "-" is no file here
        packed = self._raw.peek(2)[:2] == _GZIP
        self._file: Any = gzip.GzipFile(fileobj=self._raw) if packed else self._raw

    def close(self) -> None:
        """Close the file."""
        self._raw.close()

    @property
    def position(self) -> int:
        """How many bytes of `size` were read."""
        return self._raw.tell()

    def blocks(self) -> Iterator[bytes]:
        """Yield whole lines, many at once; the last one may lack its end.

        Raises:
            BadInputError: the file cannot be read, is cut, or has a line without an end.
        """
        pieces: list[bytes] = []
        size = 0
        while data := self._read():
            cut = data.rfind(b"\n") + 1
            if cut:
                yield b"".join([*pieces, data[:cut]])
                pieces, size = [], 0
            pieces.append(data[cut:])
            size += len(data) - cut
            if size > _MAX_LINE_BYTES:
                raise BadInputError(f"a line is longer than {_MAX_LINE_BYTES:,} bytes: this is no file of lines")
        if size:
            yield b"".join(pieces)

    def _read(self) -> bytes:
        try:
            data: bytes = self._file.read1(_CHUNK_BYTES)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise BadInputError(f"the gzip file is damaged or cut short: {error}") from error
        except OSError as error:
            raise BadInputError(f"the input cannot be read: {error.strerror or error}") from error
        return data


def lines(blocks: Iterator[bytes], separator: bytes | None, *, empty_is_null: bool) -> Iterator[Batch]:
    """Yield a record a line, without its end. What stands before the first separator is the key."""
    number = 1
    for block in blocks:
        values = _split(block)
        pairs: list[Pair]
        if separator is None:
            pairs = [(None, value) for value in values]
        else:
            pairs = []
            for line in values:
                key, found, value = line.partition(separator)
                pairs.append((key, value) if found else (None, line))
        if empty_is_null:
            pairs = [(key or None, value or None) for key, value in pairs]
        yield range(number, number + len(values)), pairs
        number += len(values)


def json_lines(blocks: Iterator[bytes], key: str | None) -> Iterator[Batch]:
    """Yield a record a line, each of them one JSON value, as it stands there. Empty lines are no records.

    Raises:
        BadInputError: a line is no JSON, or lacks the key's field.
    """
    # numbers stay the text they are, since a key is made of what stands in the file
    decode = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=_refuse_constant).decode
    number = 0
    for block in blocks:
        if number == 0:
            block = block.removeprefix(_BOM)
        numbers: list[int] = []
        pairs: list[Pair] = []
        try:
            for line in _split(block):
                number += 1
                if not line.strip():
                    continue
                parsed = decode(_text(line, number))
                pairs.append((None if key is None else _key_of(parsed, key, number), line))
                numbers.append(number)
        except BadInputError:
            yield numbers, pairs
            raise
        except (ValueError, RecursionError) as error:
            yield numbers, pairs
            reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
            raise BadInputError(f"line {number} is not JSON: {reason}") from error
        yield numbers, pairs


def csv_rows(blocks: Iterator[bytes], key: str | None) -> Iterator[Batch]:
    """Yield a record a row: a JSON object of strings, by the names of the header line, in its order.

    Raises:
        BadInputError: there is no such column, or a row is no CSV or has not as many fields as the header line.
    """
    csv.field_size_limit(_MAX_LINE_BYTES)
    rest: list[bytes] = []  # lines of the block at hand, last first, that the parser has not asked for yet
    rows = csv.reader(_feed(blocks, rest), strict=True)
    header = _next_row(rows)
    while header == []:
        header = _next_row(rows)
    if header is None:
        return
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise BadInputError(f"line 1: the column {twice!r} stands there twice")
    if key is not None and key not in header:
        raise BadInputError(f"line 1: there is no column {key!r} for the key; there are {', '.join(header)}")
    key_at = None if key is None else header.index(key)
    template = "{" + ",".join(encode_basestring(name).replace("%", "%%") + ":%s" for name in header) + "}"
    numbers: list[int] = []
    pairs: list[Pair] = []
    while True:
        number = rows.line_num + 1
        try:
            row = _next_row(rows)
            if row and len(row) != len(header):
                raise BadInputError(f"line {number} has {len(row)} fields, and the header line has {len(header)}")
        except BadInputError:
            yield numbers, pairs
            raise
        if row is None:
            break
        if row:
            value = template % tuple(map(encode_basestring, row))
            pairs.append((None if key_at is None else row[key_at].encode(), value.encode()))
            numbers.append(number)
        if not rest:
            yield numbers, pairs
            numbers, pairs = [], []
    yield numbers, pairs


def _split(block: bytes) -> list[bytes]:
    found = block.split(b"\n")
    if not found[-1]:
        found.pop()
    if b"\r" in block:
        found = [line.removesuffix(b"\r") for line in found]
    return found


def _text(line: bytes, number: int) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise BadInputError(
            f"line {number} is not UTF-8 (byte {error.start + 1} of it is 0x{line[error.start]:02x}):"
            " convert the file, for example with iconv"
        ) from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")


def _key_of(parsed: Any, field: str, number: int) -> bytes | None:
    if not isinstance(parsed, dict):
        raise BadInputError(f"line {number} is no JSON object, so it has no field {field!r} for the key")
    if field not in parsed:
        raise BadInputError(f"line {number} has no field {field!r} for the key")
    match parsed[field]:
        case str(text):
            try:
                return text.encode()
            except UnicodeEncodeError as error:
                raise BadInputError(f"line {number}: the key is no valid text: {error.reason}") from error
        case None:
            return None
        case bool(value):
            return b"true" if value else b"false"
        case _:
            raise BadInputError(f"line {number}: the field {field!r} is a list or an object, which is no key")


def _feed(blocks: Iterator[bytes], rest: list[bytes]) -> Iterator[str]:
    """Yield lines with their ends, which the CSV parser needs where a quoted field goes on in the next line."""
    number = 0
    for block in blocks:
        if number == 0:
            block = block.removeprefix(_BOM)
        rest.extend(reversed(block.splitlines(keepends=True)))
        while rest:
            number += 1
            yield _text(rest.pop(), number)


def _next_row(rows: Any) -> list[str] | None:
    number = rows.line_num + 1
    try:
        row: list[str] | None = next(rows, None)
    except csv.Error as error:
        raise BadInputError(f"line {number} is not CSV: {error}") from error
    return row
