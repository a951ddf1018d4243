"""What the service measures, for Prometheus: topics and groups by one statement a scrape, its own jobs from memory.

A scrape has its time, whatever the database does: then `pgq_up` is 0, and what is read from the database is missing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pgq import errors
from pgq.core import statements
from pgq.drivers.dsn import direct_dsn
from pgq.drivers.threads import Deadline
from pgq.service.maintenance import Maintenance
from pgq.sync.client import connect
from pgq.telemetry import SERVICE_METRICS

logger = logging.getLogger("pgq.service")

_SCRAPE_S = 4.0
"""How long a scrape waits for the database. Prometheus itself waits 10 s by default."""
_SETTINGS = (
    f"set statement_timeout = '{_SCRAPE_S:g}s'",
    "set lock_timeout = '2s'",
    "set default_transaction_read_only = on",
    # the numbers are small, and compiling takes longer than the statement
    "set jit = off",
)

_Samples = list[tuple[str, tuple[str, ...], float]]
"""A metric, the values of its labels, and the number."""


class ServiceCollector(Collector):
    """Collects what pgq.telemetry.SERVICE_METRICS lists. Scrapes may come at the same time.

    Args:
        maintenance: whose jobs are told of.
        version: of pgq.
        dsn: as Maintenance's. The role needs no more than pgq_reader.
    """

    def __init__(self, maintenance: Maintenance, version: str, dsn: str | None = None) -> None:
        self._maintenance = maintenance
        self._version = version
        self._reader = _Reader(dsn)

    def registry(self) -> CollectorRegistry:
        """Return a registry with nothing else in it."""
        result = CollectorRegistry(auto_describe=False)
        result.register(self)
        return result

    def close(self) -> None:
        """Close the connection."""
        self._reader.close()

    def describe(self) -> Iterable[Metric]:
        """Return the metrics without numbers, so that registering them reads nothing."""
        return list(_families([]))

    def collect(self) -> Iterator[Metric]:
        """Return the metrics."""
        began = time.monotonic()
        rows = self._reader.rows(_SCRAPE_S)
        seconds = time.monotonic() - began
        samples: _Samples = [
            ("pgq_up", (), float(rows is not None)),
            ("pgq_scrape_duration_seconds", (), seconds),
            ("pgq_build_info", (self._version,), 1.0),
        ]
        for name, topic, partition, group, value in rows or ():
            given = {"topic": topic, "partition": partition, "consumergroup": group}
            samples.append((name, tuple(str(given[label]) for label in _LABELS[name]), value))
        return _families(samples + self._jobs())

    def _jobs(self) -> _Samples:
        result: _Samples = []
        for job in self._maintenance.status():
            result += [
                ("pgq_job_leads", (job.job,), float(job.leads)),
                ("pgq_job_runs_total", (job.job, "success"), job.runs - job.failures),
                ("pgq_job_runs_total", (job.job, "failure"), job.failures),
                ("pgq_job_seconds_total", (job.job,), job.seconds_total),
            ]
            if job.succeeded_at is not None:
                result.append(("pgq_job_last_success_timestamp_seconds", (job.job,), job.succeeded_at))
            result += [("pgq_job_done_total", (job.job, what), count) for what, count in job.done.items()]
        return result


_LABELS = {metric.name: metric.labels for metric in SERVICE_METRICS}


def _families(samples: _Samples) -> Iterator[Metric]:
    families: dict[str, Any] = {
        metric.name: (CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily)(
            metric.name, metric.description, labels=metric.labels
        )
        for metric in SERVICE_METRICS
    }
    for name, labels, value in samples:
        families[name].add_metric(labels, value)
    return iter(families.values())


class _Reader:
    """Reads the numbers on a connection of its own, in a thread of its own: logging in may take as long as it will."""

    def __init__(self, dsn: str | None) -> None:
        self._dsn = dsn
        self._lock = threading.Lock()
        self._attempt: Future[list[Any]] | None = None
        self._connection: Any = None
        self._closed = False

    def rows(self, seconds: float) -> list[Any] | None:
        """Return the rows, or None if they cannot be had in time. Who comes while they are being read gets the same."""
        with self._lock:
            if self._closed:
                return None
            if self._attempt is None or self._attempt.done():
                self._attempt = Future()
                threading.Thread(target=self._read, args=(self._attempt,), name="pgq-scrape", daemon=True).start()
            attempt = self._attempt
        try:
            return attempt.result(seconds)
        except TimeoutError:
            logger.warning("scrape: the database has not answered within %g s", seconds)
        except errors.PgqError as error:
            logger.warning("scrape: %s", " ".join(str(error).split()))
        return None

    def close(self) -> None:
        """Close the connection, which no attempt uses any more, or will do so when it ends."""
        with self._lock:
            self._closed = True
            idle = self._attempt is None or self._attempt.done()
        if idle:
            self._disconnect()

    def _read(self, attempt: Future[list[Any]]) -> None:
        try:
            if self._connection is None or self._connection.closed:
                self._connection = connect(direct_dsn(self._dsn), *_SETTINGS)
            with Deadline(self._connection, _SCRAPE_S):
                rows = self._connection.fetch(statements.METRICS)
        except Exception as error:  # noqa: BLE001 - raised again where it is read
            # before it is told: then the next attempt may begin
            self._disconnect()
            attempt.set_exception(error)
        else:
            with self._lock:
                attempt.set_result(rows)
                closed = self._closed
            if closed:
                self._disconnect()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
