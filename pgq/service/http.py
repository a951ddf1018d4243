"""The service's HTTP port: /healthz for whoever restarts it, /metrics for Prometheus. Both only read; no password."""

from __future__ import annotations

import json
import logging
import socket
import socketserver
import sys
import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

from pgq.service.maintenance import Maintenance

logger = logging.getLogger("pgq.service")

_REQUEST_S = 10.0
"""How long a client may be silent."""

_App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def make_app(maintenance: Maintenance, registry: CollectorRegistry) -> _App:
    """Return the WSGI application, for a server of one's own."""
    metrics = make_wsgi_app(registry)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == "/metrics":
            result: Iterable[bytes] = metrics(environ, start_response)
            return result
        status, kind, body = "404 Not Found", "text/plain; charset=utf-8", b"/healthz\n/metrics\n"
        if path == "/healthz":
            health = _health(maintenance)
            status = "200 OK" if health["status"] == "ok" else "503 Service Unavailable"
            kind, body = "application/json", json.dumps(health, indent=2).encode() + b"\n"
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            status, kind, body = "405 Method Not Allowed", "text/plain; charset=utf-8", b"GET or HEAD\n"
        start_response(
            status, [("Content-Type", kind), ("Content-Length", str(len(body))), ("Cache-Control", "no-store")]
        )
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    return app


def _health(maintenance: Maintenance) -> dict[str, Any]:
    problems = maintenance.problems()
    return {
        "status": "failing" if problems else "ok",
        "problems": problems,
        "jobs": {
            job.job: {
                "leads": job.leads,
                "last_success": None
                if job.succeeded_at is None
                else datetime.fromtimestamp(job.succeeded_at, UTC).isoformat(timespec="milliseconds"),
                "error": job.error,
                "runs": job.runs,
                "failures": job.failures,
            }
            for job in maintenance.status()
        },
    }


class _Handler(WSGIRequestHandler):
    timeout = _REQUEST_S

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        logger.debug("%s %s", self.address_string(), format % args)


class HttpServer(socketserver.ThreadingMixIn, WSGIServer):
    """Listens from the beginning, and answers once it is started: a thread a request.

    Raises:
        OSError: the port is taken, or is not ours to take.
    """

    daemon_threads = True
    allow_reuse_port = False  # two instances on one port: each request would go to either
    request_queue_size = 32

    def __init__(self, host: str, port: int, app: _App) -> None:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        self.address_family = family
        super().__init__(address[:2], _Handler)  # type: ignore[arg-type]
        self.set_app(app)
        self._thread = threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 1.0}, name="pgq-http", daemon=True
        )

    @property
    def url(self) -> str:
        """Where it listens."""
        host = str(self.server_address[0])
        return f"http://{f'[{host}]' if ':' in host else host}:{self.server_port}"

    def start(self) -> None:
        """Answer requests, in threads of its own."""
        self._thread.start()

    def close(self) -> None:
        """Listen no more."""
        if self._thread.is_alive():
            self.shutdown()
            self._thread.join()
        self.server_close()

    def server_bind(self) -> None:
        """Bind, without asking the name service for the host's name as the base class does: that can take long."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def handle_error(self, _request: Any, client_address: Any) -> None:
        """Note what went wrong with a request: a client that is silent or gone is nothing to shout about."""
        error = sys.exc_info()[1]
        level = logging.DEBUG if isinstance(error, OSError) else logging.ERROR
        logger.log(level, "a request of %s failed: %r", client_address[0], error)
