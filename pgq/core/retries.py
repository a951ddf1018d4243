"""What becomes of records that could not be processed: when they are tried again, and what is known of them. Pure."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

from pgq import errors
from pgq.types import ConsumerRecord

MOST_S = 315_360_000.0
"""The longest delay: ten years."""
_MOST_CHARACTERS = 1_000
_CONTROLS = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")
_COUNT, _NUMBER = re.compile(rb"[0-9]{1,9}"), re.compile(rb"-?[0-9]{1,18}")


@dataclass(frozen=True)
class RetryPolicy:
    """How often a record that failed is tried again, and when.

    Args:
        max_attempts: how often a record is processed at most, the first time included; then it is a dead letter.
        initial: seconds before the second attempt.
        multiplier: how many times longer each further wait is.
        maximum: the longest wait, in seconds.
        jitter: by which share a wait is longer or shorter at random, so that what failed together does not come back
            together. Waits of nearly the maximum are shorter only.
        blocking: try again in place. Until the record is through, or a dead letter, no later one of its partition is
            begun. Otherwise it goes to the group's retry topic, and its partition goes on without it.

    Raises:
        InvalidRequestError: a value makes no sense.
    """

    max_attempts: int = 5
    initial: float = 30.0
    multiplier: float = 2.0
    maximum: float = 3600.0
    jitter: float = 0.1
    blocking: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.max_attempts, int) or isinstance(self.max_attempts, bool) or self.max_attempts < 1:
            raise errors.InvalidRequestError(f"max_attempts must be 1 or more, not {self.max_attempts!r}")
        for name, least, most in (
            ("initial", 0, MOST_S),
            ("multiplier", 1, 1e6),
            ("maximum", 0, MOST_S),
            ("jitter", 0, 1),
        ):
            given = getattr(self, name)
            if not _is_number(given) or not least <= given <= most:
                raise errors.InvalidRequestError(f"{name} must be {least} to {most:,}, not {given!r}")
        if not isinstance(self.blocking, bool):
            raise errors.InvalidRequestError(f"blocking must be True or False, not {self.blocking!r}")

    def delay_s(self, attempt: int, random: float) -> float:
        """Return how many seconds after the attempt of this number, from 1, the next one is due.

        Args:
            random: from 0 to 1, uniform.
        """
        try:
            wait_s = min(self.initial * float(self.multiplier) ** (attempt - 1), self.maximum)
        except OverflowError:
            wait_s = self.maximum if self.initial else 0.0
        return min(wait_s * (1 - self.jitter + 2 * self.jitter * random), self.maximum)


class Reject(Exception):  # noqa: N818 - a verdict on a record, no error of the program
    """Raised by a handler: no further attempt would help, so the record goes to the dead letter topic at once."""

    def __init__(self, reason: object = "") -> None:
        super().__init__(reason)
        self.reason = reason


class RetryLater(Exception):  # noqa: N818
    """Raised by a handler: the record should be tried again after so many seconds. It counts as an attempt.

    Raises:
        InvalidRequestError: seconds are not 0 to ten years.
    """

    def __init__(self, seconds: float, reason: object = "") -> None:
        super().__init__(seconds, reason)
        self.seconds = check_delay("seconds", seconds, MOST_S)
        self.reason = reason

    def __str__(self) -> str:
        return str(self.reason) or f"in {self.seconds:g} s"


class FailureHistory(NamedTuple):
    """What the headers of a record in a retry topic or a dead letter topic say. Times are ms since 1970."""

    group: str
    """The consumer group that could not process it."""
    topic: str
    """Where it was first: its origin."""
    partition: int | None
    offset: int | None
    timestamp: int | None
    attempt: int
    """How often it was processed in vain; 0 after a redrive."""
    due: int | None
    """When it was to be tried again; None for a dead letter."""
    failed: int | None
    """When it failed last."""
    first_error: str | None
    last_error: str | None
    redriven: int
    """How often it was sent back from the dead letter topic."""


def failure_history(record: ConsumerRecord) -> FailureHistory | None:
    """Return what is known of a record's failures; None if it comes from neither a retry nor a dead letter topic.

    Headers can be written by every producer. One that makes no sense is taken for missing.
    """
    if not record.headers:
        return None
    found = {name: value for name, value in record.headers if name.startswith("pgq.") and value is not None}
    try:
        return FailureHistory(
            group=found["pgq.group"].decode(),
            topic=found["pgq.origin.topic"].decode(),
            partition=_number(found, "pgq.origin.partition", _COUNT),
            offset=_number(found, "pgq.origin.offset"),
            timestamp=_number(found, "pgq.origin.timestamp"),
            attempt=_number(found, "pgq.attempt", _COUNT) or 0,
            due=_number(found, "pgq.due"),
            failed=_number(found, "pgq.failed"),
            first_error=_text(found, "pgq.first_error"),
            last_error=_text(found, "pgq.last_error"),
            redriven=_number(found, "pgq.redriven", _COUNT) or 0,
        )
    except (KeyError, ValueError):
        return None  # headers of somebody else's


def attempts_made(record: ConsumerRecord) -> int:
    """Return how often the group has processed a record of a retry topic of its own in vain before."""
    return _number({name: value for name, value in record.headers if value is not None}, "pgq.attempt", _COUNT) or 0


def error_text(error: object) -> str | None:
    """Return what is stored of an error, or of a sentence: text that PostgreSQL takes, not too long."""
    if error is None:
        return None
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - the application's
        text = "" if isinstance(error, BaseException) else type(error).__name__
    if isinstance(error, BaseException):
        text = f"{type(error).__name__}: {text}".removesuffix(": ")
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()[:_MOST_CHARACTERS]


def one_line(text: str | None) -> str:
    """Return a text for a line of a log: with a space for what would break the line, or what a terminal obeys."""
    return _CONTROLS.sub(" ", text or "").strip()


def check_delay(name: str, given: Any, most: float) -> float:
    """Return a delay, or refuse it."""
    if not _is_number(given) or not 0 <= given <= most:
        raise errors.InvalidRequestError(f"{name} must be 0 to {most:,.0f}, not {given!r}")
    return float(given)


def _is_number(given: Any) -> bool:
    return isinstance(given, int | float) and not isinstance(given, bool) and math.isfinite(given)


def _number(found: dict[str, bytes], name: str, pattern: re.Pattern[bytes] = _NUMBER) -> int | None:
    text = found.get(name)
    return int(text) if text is not None and pattern.fullmatch(text) else None


def _text(found: dict[str, bytes], name: str) -> str | None:
    return found[name].decode("utf-8", "replace") if name in found else None
