"""From the rows of a window to records: which of them may be delivered, and in what form.

Work is done once a batch wherever it can be: columns are zipped back together in C.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import repeat
from typing import Any

from pgq import errors
from pgq.core.compression import decompress
from pgq.types import ConsumerRecord, Deserializer, Header

_record: Any = partial(tuple.__new__, ConsumerRecord)


def deliverable(rows: Sequence[Any], position: int, decided: int) -> int:
    """Return how many of the rows may be delivered to a reader at a position, by the rule of pgq._settle.

    Rows are in order of offset, which is their first column. A gap may be stepped over if it lies wholly below
    `decided`, a high watermark that is older than the rows; at any other gap the unbroken run ends.
    """
    count = len(rows)
    if not count or rows[-1][0] - position == count - 1:
        return count
    expected = position
    for i, row in enumerate(rows):
        offset = row[0]
        if offset != expected and offset > decided:
            return i
        expected = offset + 1
    return count


def mean_bytes(rows: Sequence[Any], before: float) -> float:
    """Return the mean size of keys and values, from a few of the rows, against what it was before.

    Where they grow it follows at once, where they shrink by halves: too few are asked for rather than too many.
    """
    some = (rows[0], rows[len(rows) // 2], rows[-1])
    now = sum(len(row[2] or b"") + len(row[3] or b"") for row in some) / 3 + 64
    return max(now, before / 2)


def decode(
    topic: str,
    partition: int,
    rows: Sequence[Any],
    key_deserializer: Deserializer | None,
    value_deserializer: Deserializer | None,
    most_bytes: int,
    broken: Callable[[Exception], Any] | None = None,
) -> list[ConsumerRecord]:
    """Return the records of rows as fetch_window selects them, up to one that cannot be decompressed or deserialized.

    Args:
        most_bytes: how long a value may be when it is decompressed.
        broken: makes what stands for a value that cannot be decompressed; None to raise.

    Raises:
        CorruptRecordError, UnsupportedCompressionTypeError: the first value cannot be decompressed.
        Exception: what a deserializer raises for the first record, with a note that names it.
    """
    if not rows:
        return []
    offsets, timestamps, keys, values, header_keys, header_values, codecs = zip(*rows, strict=True)
    if codecs.count(None) != len(codecs):
        values = tuple(_decompressed(topic, partition, offsets, values, codecs, most_bytes, broken))
    if key_deserializer is not None:
        keys = _deserialized(topic, partition, offsets, keys, key_deserializer)
    if value_deserializer is not None:
        values = _deserialized(topic, partition, offsets, values, value_deserializer)
    headers: Any = repeat(())
    if header_keys.count(None) != len(header_keys):
        headers = [_headers(k, v) for k, v in zip(header_keys, header_values, strict=True)]
    return list(
        map(
            _record,
            zip(repeat(topic), repeat(partition), offsets, timestamps, repeat(0), keys, values, headers, strict=False),
        )
    )


def _decompressed(
    topic: str,
    partition: int,
    offsets: Sequence[int],
    values: Sequence[bytes | None],
    codecs: Sequence[int | None],
    most_bytes: int,
    broken: Callable[[Exception], Any] | None,
) -> Sequence[Any]:
    result: list[Any] = []
    for offset, value, codec in zip(offsets, values, codecs, strict=True):
        try:
            result.append(value if codec is None or value is None else decompress(codec, value, most_bytes))
        except (errors.CorruptRecordError, errors.UnsupportedCompressionTypeError) as error:
            if broken is not None and isinstance(error, errors.CorruptRecordError):
                result.append(broken(error))
                continue
            if result:
                break  # those before it first; the next call meets it
            raise type(error)(
                f"offset {offset} of {topic}-{partition}: {error} (seek to {offset + 1} to skip it)"
            ) from error
    return result


def _deserialized(
    topic: str, partition: int, offsets: Sequence[int], parts: Sequence[bytes | None], deserialize: Deserializer
) -> tuple[Any, ...]:
    result: list[Any] = []
    try:
        result.extend(None if part is None else deserialize(part) for part in parts)
    except Exception as error:
        if not result:
            error.add_note(f"pgq: offset {offsets[0]} of {topic}-{partition}; seek to {offsets[0] + 1} to skip it")
            raise
    return tuple(result)  # those before it first; the next call meets it


def _headers(keys: Sequence[str] | None, values: Sequence[bytes | None] | None) -> tuple[Header, ...]:
    return () if keys is None or values is None else tuple(zip(keys, values, strict=True))
