"""How long to wait for the next attempt, and what headers say of those before."""

from __future__ import annotations

from typing import Any

import pytest

from pgq import ConsumerRecord, FailureHistory, Reject, RetryLater, RetryPolicy, errors, failure_history
from pgq.core.retries import attempts_made, error_text


def record(**headers: str) -> ConsumerRecord:
    named = tuple((f"pgq.{name.replace('__', '.')}", text.encode()) for name, text in headers.items())
    return ConsumerRecord("orders.g.retry", 0, 7, 0, 0, None, b"x", named)


ORIGIN = {"group": "g", "origin__topic": "orders", "origin__partition": "3", "origin__offset": "42"}


def test_the_wait_grows_up_to_a_maximum() -> None:
    policy = RetryPolicy(initial=30, multiplier=2, maximum=100, jitter=0)
    assert [policy.delay_s(attempt, 0.5) for attempt in (1, 2, 3, 4, 100_000)] == [30, 60, 100, 100, 100]
    assert RetryPolicy(initial=0, jitter=0).delay_s(100_000, 0.5) == 0


def test_jitter_is_a_share() -> None:
    policy = RetryPolicy(initial=10, jitter=0.1)
    assert policy.delay_s(1, 0.0) == pytest.approx(9)
    assert policy.delay_s(1, 0.5) == pytest.approx(10)
    assert policy.delay_s(1, 1.0) == pytest.approx(11)


def test_jitter_makes_no_wait_longer_than_the_maximum() -> None:
    policy = RetryPolicy(initial=60, maximum=60, jitter=0.1)
    assert policy.delay_s(1, 1.0) == 60
    assert policy.delay_s(1, 0.0) == pytest.approx(54)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_attempts": 0},
        {"max_attempts": 1.5},
        {"max_attempts": True},
        {"initial": -1},
        {"initial": float("nan")},
        {"multiplier": 0.5},
        {"maximum": float("inf")},
        {"jitter": 1.1},
        {"jitter": "some"},
        {"blocking": 1},
    ],
)
def test_policies_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(errors.InvalidRequestError, match=next(iter(wrong))):
        RetryPolicy(**wrong)


def test_the_history_of_a_record() -> None:
    times = {"origin__timestamp": "1000", "attempt": "2", "due": "3000", "failed": "2000", "redriven": "1"}
    history = failure_history(record(**ORIGIN, **times, first_error="a", last_error="ü"))
    assert history == FailureHistory("g", "orders", 3, 42, 1000, 2, 3000, 2000, "a", "ü", 1)
    assert failure_history(record(**ORIGIN)) == FailureHistory("g", "orders", 3, 42, None, 0, None, None, None, None, 0)


def test_records_without_a_history() -> None:
    assert failure_history(record()) is None
    assert failure_history(record(group="g", attempt="2")) is None


def test_each_header_stands_for_itself() -> None:
    history = failure_history(record(**(ORIGIN | {"origin__offset": "no number"}), redriven="x", attempt="2"))
    assert history is not None
    assert (history.partition, history.offset, history.redriven, history.attempt) == (3, None, 0, 2)


def test_attempts() -> None:
    assert attempts_made(record(**ORIGIN, attempt="3", redriven="x")) == 3
    assert attempts_made(record()) == 0
    for wrong in ("99999999999", "-1", "x", ""):
        assert attempts_made(record(**ORIGIN, attempt=wrong)) == 0


def test_what_is_kept_of_an_error() -> None:
    assert error_text(ValueError("no such customer")) == "ValueError: no such customer"
    assert error_text(ValueError()) == "ValueError"
    assert error_text(Reject("spam")) == "Reject: spam"
    assert error_text("a sentence") == "a sentence"
    assert error_text(None) is None
    assert error_text("a\0b\udc80") == "a\ufffdb?"
    assert len(error_text("x" * 5000) or "") == 1000


def test_an_error_that_cannot_be_printed() -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert error_text(MuteError()) == "MuteError"


def test_a_record_for_later() -> None:
    assert (RetryLater(5).seconds, str(RetryLater(5)), str(RetryLater(5, "busy"))) == (5, "in 5 s", "busy")
    for wrong in (-1, float("nan"), 1e10, "soon"):
        with pytest.raises(errors.InvalidRequestError):
            RetryLater(wrong)  # type: ignore[arg-type]
