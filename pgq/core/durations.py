"""Durations as ISO 8601 writes them. Pure."""

from __future__ import annotations

import re

from pgq import errors

_DURATION = re.compile(
    r"P(?=.)(?:(\d+)W)?(?:(\d+)D)?(?:T(?=.)(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)(?:\.(\d{1,9}))?S)?)?", re.ASCII
)
_MS = (604_800_000, 86_400_000, 3_600_000, 60_000, 1000)


def duration_ms(text: str) -> int:
    """Return the milliseconds of a duration such as P1DT12H or PT0.5S.

    Raises:
        InvalidRequestError: it is none. Years and months are none: they differ.
    """
    found = _DURATION.fullmatch(text)
    if found is None:
        raise errors.InvalidRequestError(f"{text!r} is no duration: write PnDTnHnMnS, such as P7D or PT1H30M")
    *whole, fraction = found.groups()
    result = sum(int(part or 0) * ms for part, ms in zip(whole, _MS, strict=True))
    return result + int((fraction or "0").ljust(3, "0")[:3])
