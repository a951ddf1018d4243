"""The catalogue of what clients measure of themselves. A metric stands here before it is counted."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Metric(NamedTuple):
    """A number that a client's `metrics()` returns under this name."""

    name: str
    kind: Literal["counter", "gauge"]
    """A counter only grows while the client lives."""
    unit: str
    description: str


PRODUCER_METRICS = (
    Metric("records_sent_total", "counter", "records", "Records whose futures succeeded."),
    Metric("record_errors_total", "counter", "records", "Records whose futures failed."),
    Metric("bytes_sent_total", "counter", "bytes", "Bytes of the records that succeeded, as buffered."),
    Metric("flushes_total", "counter", "flushes", "Flushes that ended, well or not."),
    Metric("flush_retries_total", "counter", "attempts", "Attempts beyond the first."),
    Metric("flush_seconds_total", "counter", "seconds", "Time that flushes took, waits between attempts included."),
    Metric("flush_seconds_max", "gauge", "seconds", "The longest of them."),
    Metric("buffer_bytes", "gauge", "bytes", "Bytes that are buffered or being flushed."),
    Metric("buffer_available_bytes", "gauge", "bytes", "Bytes that may be buffered before `send` waits."),
    Metric("buffer_wait_seconds_total", "counter", "seconds", "Time that `send` waited for room."),
)
