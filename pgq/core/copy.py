"""The rows of a batch in PostgreSQL's binary COPY format.

Written by hand, unlike every other codec, for two reasons: both drivers send the same bytes, and it is the hot path;
psycopg's and asyncpg's own encoders want a datetime object a record.

Source: PostgreSQL documentation, COPY, "Binary Format"; array_send for the header arrays.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from struct import Struct

from pgq.types import Header

HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
TRAILER = b"\xff\xff"
EPOCH_2000_MS = 946_684_800_000

CHUNK_BYTES = 16_384
ROW_BYTES = 50
"""What a row is counted with beside its value; a guess is enough."""

COLUMNS = ("partition", "offset", "timestamp", "key", "value")
HEADER_COLUMNS = ("header_keys", "header_values")
CODEC_COLUMNS = ("codec",)

Row = tuple[int, bytes | None, bytes | None, tuple[Header, ...], int]
"""timestamp (ms since 1970), key, value, headers, codec of the value (0 for none)"""

_row = Struct("!hiiiqiqi").pack
_length = Struct("!i").pack
_codec = Struct("!ih").pack
_array = Struct("!iiiii").pack
_NULL = _length(-1)
_TEXT, _BYTEA = 25, 17


def encode(
    parts: Iterable[tuple[int, Sequence[int], Sequence[Row]]], *, headers: bool, codecs: bool
) -> Iterator[bytes]:
    """Yield a file, in pieces of some CHUNK_BYTES, of (partition, offsets, rows); with the columns named, if any.

    In pieces, so that the server inserts some while others are encoded, and no great buffer is allocated for a batch.
    """
    pieces: list[bytes] = [HEADER]
    add = pieces.append
    size = 0
    fields = len(COLUMNS) + len(HEADER_COLUMNS) * headers + len(CODEC_COLUMNS) * codecs
    for partition, offsets, rows in parts:
        for offset, (timestamp, key, value, record_headers, codec) in zip(offsets, rows, strict=True):
            micros = (timestamp - EPOCH_2000_MS) * 1000
            if key is None:
                add(_row(fields, 4, partition, 8, offset, 8, micros, -1))
            else:
                add(_row(fields, 4, partition, 8, offset, 8, micros, len(key)))
                add(key)
            if value is None:
                add(_NULL)
            else:
                length = len(value)
                size += length
                add(_length(length))
                add(value)
            if headers:
                if record_headers:
                    add(_sized(_text_or_bytes_array(_TEXT, [k.encode() for k, _ in record_headers])))
                    add(_sized(_text_or_bytes_array(_BYTEA, [v for _, v in record_headers])))
                else:
                    add(_NULL)
                    add(_NULL)
            if codecs:
                add(_codec(2, codec) if codec else _NULL)
            size += ROW_BYTES
            if size > CHUNK_BYTES:
                yield b"".join(pieces)
                pieces.clear()
                size = 0
    add(TRAILER)
    yield b"".join(pieces)


def _sized(data: bytes) -> bytes:
    return _length(len(data)) + data


def _text_or_bytes_array(oid: int, elements: Sequence[bytes | None]) -> bytes:
    has_null = int(None in elements)
    return _array(1, has_null, oid, len(elements), 1) + b"".join(
        _NULL if element is None else _sized(element) for element in elements
    )
