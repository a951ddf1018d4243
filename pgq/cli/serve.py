"""`pgq serve`: the service as a program, with /healthz and /metrics on one HTTP port."""

from __future__ import annotations

import logging
import os
import queue
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from importlib.metadata import version
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pgq.cli.options import DirectDsn
from pgq.errors import InvalidRequestError

if TYPE_CHECKING:
    from pgq.service.maintenance import Maintenance

__all__ = ["serve"]

logger = logging.getLogger("pgq.service")

_SAME_SIGNAL_S = 0.5
"""A signal often comes twice, to the process and to its group, as `timeout` and shells send it."""


class LogLevel(StrEnum):
    """What is logged at least."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def _interval(what: str) -> Any:
    name = f"--{what}-interval-ms"
    return typer.Option(
        name,
        envvar=f"PGQ_SERVE_{what.upper()}_INTERVAL_MS",
        min=1,
        max=86_400_000,
        metavar="MS",
        help=f"How often to look for work of the job {what}: milliseconds.",
    )


def serve(
    host: Annotated[
        str, typer.Option(envvar="PGQ_SERVE_HOST", help="Address to listen on; 0.0.0.0 or :: for all.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(envvar="PGQ_SERVE_PORT", min=0, max=65535, help="TCP port; 0: any that is free.")
    ] = 8082,
    segments_interval_ms: Annotated[float, _interval("segments")] = 1_000,
    retention_interval_ms: Annotated[float, _interval("retention")] = 5_000,
    compaction_interval_ms: Annotated[float, _interval("compaction")] = 15_000,
    delivery_interval_ms: Annotated[float, _interval("delivery")] = 250,
    members_interval_ms: Annotated[float, _interval("members")] = 10_000,
    markers_interval_ms: Annotated[float, _interval("markers")] = 60_000,
    log_level: Annotated[
        LogLevel, typer.Option(envvar="PGQ_SERVE_LOG_LEVEL", help="What is logged to stderr at least.")
    ] = LogLevel.INFO,
    dsn: DirectDsn = None,
) -> None:
    """Deliver delayed records, delete by retention, and what else keeps a log small, until SIGTERM or Ctrl-C.

    Any number of instances may run; for each kind of job one leads, and another takes over when it ends. Answers
    /healthz and /metrics over HTTP. Waits for a server that is not there.
    """
    from pgq.service.http import HttpServer, make_app
    from pgq.service.maintenance import Maintenance
    from pgq.service.metrics import ServiceCollector

    _log_to_stderr(log_level)
    maintenance = Maintenance(
        dsn,
        segments_interval_ms=segments_interval_ms,
        retention_interval_ms=retention_interval_ms,
        compaction_interval_ms=compaction_interval_ms,
        delivery_interval_ms=delivery_interval_ms,
        members_interval_ms=members_interval_ms,
        markers_interval_ms=markers_interval_ms,
    )
    collector = ServiceCollector(maintenance, version("pgq-log"), dsn)
    try:
        http = HttpServer(host, port, make_app(maintenance, collector.registry()))
    except OSError as error:
        raise InvalidRequestError(
            f"cannot listen on port {port} of {host} ({error.strerror or error}): choose another --port or --host, or 0"
        ) from error
    http.start()
    with _signals() as events:
        # in a thread, since connecting may take long, and a signal is not to wait for it
        threading.Thread(target=_start, args=(maintenance, events), name="pgq-start", daemon=True).start()
        event = events.get()
        if isinstance(event, Exception):
            http.close()
            raise event
        if event is None:
            typer.echo(f"pgq serves {http.url}/healthz and {http.url}/metrics")
            event = events.get()
            logger.info("%s: stopping at the end of the steps at hand", event.name)
            maintenance.close()
        http.close()
        collector.close()
        logger.info("stopped")


def _start(maintenance: Maintenance, events: queue.SimpleQueue[Any]) -> None:
    try:
        maintenance.start()
    except Exception as error:  # noqa: BLE001 - raised again where it is read
        events.put(error)
    else:
        events.put(None)


@contextmanager
def _signals() -> Iterator[queue.SimpleQueue[Any]]:
    """Put the first SIGINT or SIGTERM into a queue, which a handler may do at any time; a second ends the process."""
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()
    came_at: float | None = None

    def handle(number: int, _frame: FrameType | None) -> None:
        nonlocal came_at
        if came_at is None:
            came_at = time.monotonic()
            events.put(signal.Signals(number))
        elif time.monotonic() - came_at > _SAME_SIGNAL_S:
            os._exit(128 + number)

    previous = [(number, signal.signal(number, handle)) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        yield events
    finally:
        for number, handler in previous:
            signal.signal(number, handler)


def _log_to_stderr(level: LogLevel) -> None:
    handler = logging.StreamHandler()
    formatter = logging.Formatter("{asctime}.{msecs:03.0f}Z {levelname} {message}", "%Y-%m-%dT%H:%M:%S", style="{")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    logging.basicConfig(level=level.upper(), handlers=[handler])
