"""Durations as ISO 8601 writes them."""

from __future__ import annotations

import pytest

from pgq import errors
from pgq.core.durations import duration_ms


@pytest.mark.parametrize(
    "text, milliseconds",
    [
        ("P1D", 86_400_000),
        ("P2W", 1_209_600_000),
        ("PT0.5S", 500),
        ("PT1.2345S", 1234),
        ("P1DT2H3M4S", 93_784_000),
        ("PT90M", 5_400_000),
        ("PT0S", 0),
    ],
)
def test_durations(text: str, milliseconds: int) -> None:
    assert duration_ms(text) == milliseconds


@pytest.mark.parametrize("text", ["", "P", "PT", "P1DT", "1D", "PT1D", "P1M", "P1Y", "P-1D", "PT1.S", "p1d", "P1D "])
def test_what_is_none_is_refused(text: str) -> None:
    with pytest.raises(errors.InvalidRequestError, match="PnDTnHnMnS"):
        duration_ms(text)
