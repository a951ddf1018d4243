"""Waits grow up to their limit, and scatter."""

from __future__ import annotations

import pytest

from pgq.core.backoff import backoff_s


@pytest.mark.parametrize(
    "failures, expected", [(1, 0.1), (2, 0.2), (3, 0.4), (4, 0.8), (5, 1.0), (6, 1.0), (10**6, 1.0)]
)
def test_doubled_up_to_the_limit(failures: int, expected: float) -> None:
    assert backoff_s(failures, 0.1, 1.0, 0.5) == pytest.approx(expected)


def test_a_fifth_up_and_down() -> None:
    assert backoff_s(1, 0.1, 1.0, 0.0) == pytest.approx(0.08)
    assert backoff_s(1, 0.1, 1.0, 1.0) == pytest.approx(0.12)


def test_none_at_all() -> None:
    assert backoff_s(3, 0.0, 0.0, 1.0) == 0
