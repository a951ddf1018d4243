"""From records to the bytes that `pgq consume` prints, a batch at a time.

A writer takes records of one partition and returns their text. Work is done by column where it can be: a hundred
thousand records a second are printed.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from itertools import chain, repeat
from json.encoder import encode_basestring

from pgq.cli.options import unescape
from pgq.types import ConsumerRecord, Header

__all__ = ["Writer", "csv_lines", "json_lines", "table_lines", "template", "values"]

Records = Sequence[ConsumerRecord]
Writer = Callable[[Records], bytes]
_Column = Callable[[Records], Iterable[bytes]]

CSV_HEADER = b"topic,partition,offset,timestamp,key,value,headers,key_encoding,value_encoding\n"

_TOKEN = re.compile(r"%(.)", re.DOTALL)
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def values(*, null: bytes) -> Writer:
    """Return a writer of values, one a line."""

    def write(records: Records) -> bytes:
        return b"\n".join([null if record[6] is None else record[6] for record in records]) + b"\n"

    return write


def template(text: str, *, null: bytes) -> Writer:
    """Return a writer of records in kcat's template language.

    Raises:
        ValueError: a token is not known.
    """
    tokens = _tokens(null)
    columns: list[_Column] = []
    end = 0
    for found in _TOKEN.finditer(text):
        columns.append(_constant(unescape(text[end : found.start()])))
        if found[1] not in tokens:
            raise ValueError(f"%{found[1]} is no token; there are {' '.join('%' + name for name in tokens)}")
        columns.append(tokens[found[1]])
        end = found.end()
    if text.endswith("%") and end < len(text):
        raise ValueError("a % at the end is no token: write %% for a percent sign")
    columns.append(_constant(unescape(text[end:])))

    def write(records: Records) -> bytes:
        return b"".join(chain.from_iterable(zip(*(column(records) for column in columns), strict=True)))

    return write


def _tokens(null: bytes) -> dict[str, _Column]:
    def value(records: Records) -> Iterable[bytes]:
        return [null if r[6] is None else r[6] for r in records]

    def value_length(records: Records) -> Iterable[bytes]:
        return [b"-1" if r[6] is None else b"%d" % len(r[6]) for r in records]

    return {
        "t": lambda records: [r[0].encode() for r in records],
        "p": lambda records: [b"%d" % r[1] for r in records],
        "o": lambda records: [b"%d" % r[2] for r in records],
        "k": lambda records: [null if r[5] is None else r[5] for r in records],
        "K": lambda records: [b"-1" if r[5] is None else b"%d" % len(r[5]) for r in records],
        "s": value,
        "S": value_length,
        "v": value,
        "V": value_length,
        "T": lambda records: [b"%d" % r[3] for r in records],
        "h": lambda records: [_header_list(r[7], null) for r in records],
        "%": _constant(b"%"),
    }


def _constant(text: bytes) -> _Column:
    return lambda records: repeat(text, len(records))


def _header_list(headers: Sequence[Header], null: bytes) -> bytes:
    return b",".join(name.encode() + b"=" + (null if value is None else value) for name, value in headers)


def json_lines(records: Records) -> bytes:
    """Write a JSON object a line. Bytes that are no UTF-8 are in base64, and a field beside them says so."""
    topic = encode_basestring(records[0][0])
    result = [
        f'{{"topic":{topic},"partition":{partition},"offset":{offset},"timestamp":{timestamp}'
        f"{_json_field('key', key)}{_json_field('value', value)},"
        f'"headers":[{",".join(map(_json_header, headers)) if headers else ""}]}}\n'
        for _, partition, offset, timestamp, _, key, value, headers in records
    ]
    return "".join(result).encode()


def _json_field(name: str, value: bytes | None) -> str:
    if value is None:
        return f',"{name}":null'
    try:
        return f',"{name}":{encode_basestring(value.decode())}'
    except UnicodeDecodeError:
        return f',"{name}":"{base64.b64encode(value).decode()}","{name}_encoding":"base64"'


def _json_header(header: Header) -> str:
    name, value = header
    return f'{{"key":{encode_basestring(name)}{_json_field("value", value)}}}'


def csv_lines(records: Records) -> bytes:
    """Write a row of CSV a record, below CSV_HEADER. Null is nothing and empty text is "", as PostgreSQL reads them."""
    result = []
    for topic, partition, offset, timestamp, _, key, value, headers in records:
        key_text, key_encoding = _csv_field(key)
        value_text, value_encoding = _csv_field(value)
        header_text = _quoted(f"[{','.join(map(_json_header, headers))}]") if headers else ""
        result.append(
            f"{topic},{partition},{offset},{timestamp},{key_text},{value_text},{header_text},"
            f"{key_encoding},{value_encoding}\n"
        )
    return "".join(result).encode()


def _csv_field(value: bytes | None) -> tuple[str, str]:
    if value is None:
        return "", ""
    try:
        return _quoted(value.decode()), ""
    except UnicodeDecodeError:
        return base64.b64encode(value).decode(), "base64"


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def table_lines() -> Writer:
    """Return a writer of aligned columns, with a header before the first record.

    Records come without end, so that widths are those of the first records; a longer cell pushes its line to the right.
    """
    width = 0

    def write(records: Records) -> bytes:
        nonlocal width
        rows = [
            (partition, offset, _time(timestamp), _printable(key), _printable(value))
            for _, partition, offset, timestamp, _, key, value, _ in records
        ]
        lines = []
        if not width:
            width = max(3, *(min(40, len(row[3])) for row in rows))
            lines.append(f"{'PARTITION':>9}  {'OFFSET':>10}  {'TIMESTAMP':24}  {'KEY':{width}}  VALUE\n")
        lines += [f"{row[0]:>9}  {row[1]:>10}  {row[2]:24}  {row[3]:{width}}  {row[4]}\n" for row in rows]
        return "".join(lines).encode()

    return write


def _time(timestamp_ms: int) -> str:
    try:
        time = datetime.fromtimestamp(timestamp_ms // 1000, UTC)
    except (OverflowError, ValueError):
        return str(timestamp_ms)  # after the year 9999
    return f"{time:%Y-%m-%dT%H:%M:%S}.{timestamp_ms % 1000:03}Z"


def _printable(value: bytes | None) -> str:
    """Return a value in one line that a terminal prints and does not obey."""
    if value is None:
        return "-"
    return _UNPRINTABLE.sub(lambda found: f"\\x{ord(found[0]):02x}", value.decode(errors="backslashreplace"))
