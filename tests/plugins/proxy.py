"""A TCP proxy in front of a PostgreSQL server that loses what it is told to lose.

It knows enough of the protocol (version 3, no TLS) to see a COMMIT go by, sent as a simple query, and the server's
answer to it. The network's failures that matter most to a producer are those around a commit: before it has reached the
server, when it has and the answer has not come back.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import Enum, auto
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import pytest


class Loss(Enum):
    """What is lost of a commit."""

    REQUEST = auto()
    """The server does not get it: the connection is cut first."""
    BLIND = auto()
    """The connection is cut as soon as it has been sent on."""
    REPLY = auto()
    """The server's answer: the connection is cut when that has come."""


Plan = Callable[[int], Loss | None]
"""What to lose of the commit of this number, from 1."""


def nothing(_number: int) -> None:
    """Lose nothing."""


class Proxy:
    """Listens on 127.0.0.1; each connection has two threads, one a direction."""

    def __init__(self, host: str, port: int) -> None:
        self.target = (host, port)
        """Where new connections are led to."""
        self.plan: Plan = nothing
        self.commits = 0
        self.lost: list[Loss] = []
        self.open = threading.Event()
        """While it is not set, bytes are accepted and kept: a black hole that may give back what it took."""
        self.open.set()
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def dsn(self, dsn: str) -> str:
        """Return the URL of a database with this proxy in place of its server."""
        parts = urlsplit(dsn)
        query = dict(parse_qsl(parts.query)) | {"sslmode": "disable", "gssencmode": "disable"}
        host = f"{parts.username}@127.0.0.1:{self.port}"
        return urlunsplit((parts.scheme, host, parts.path, urlencode(query), ""))

    def cut(self) -> None:
        """Cut all connections."""
        with self._lock:
            sockets, self._sockets = self._sockets, set()
        for one in sockets:
            _reset(one)

    def close(self) -> None:
        """Listen no more, and cut all connections."""
        self._listener.close()
        self.open.set()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self.target, timeout=10)
            except OSError:
                _reset(client)
                continue
            server.settimeout(None)
            for one in (client, server):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            link = _Link(self, client, server)
            with self._lock:
                self._sockets |= {client, server}
            for work in (link.requests, link.replies):
                threading.Thread(target=work, name="proxy", daemon=True).start()

    def next_loss(self) -> Loss | None:
        """Count a commit and say what is to be lost of it."""
        with self._lock:
            self.commits += 1
            loss = self.plan(self.commits)
            if loss is not None:
                self.lost.append(loss)
            return loss


class _Link:
    """One client's connection, and the one to the server that belongs to it."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self.proxy = proxy
        self.client = client
        self.server = server
        self.swallow = threading.Event()

    def requests(self) -> None:
        self._carry(self._requests)

    def replies(self) -> None:
        self._carry(self._replies)

    def _carry(self, work: Callable[[], Any]) -> None:
        with suppress(OSError, EOFError):
            work()
        _reset(self.client)
        _reset(self.server)

    def _requests(self) -> None:
        length = _read(self.client, 4)  # the start-up packet has no type; a request to cancel is one, too
        self.server.sendall(length + _read(self.client, struct.unpack("!I", length)[0] - 4))
        while True:
            kind, message = _message(self.client)
            self.proxy.open.wait()
            if kind == b"Q" and message[5:].rstrip(b"\0; ").lower() == b"commit":
                loss = self.proxy.next_loss()
                if loss is Loss.REQUEST:
                    return
                if loss is Loss.REPLY:
                    self.swallow.set()
                self.server.sendall(message)
                if loss is Loss.BLIND:
                    return
            else:
                self.server.sendall(message)

    def _replies(self) -> None:
        while True:
            kind, message = _message(self.server)
            self.proxy.open.wait()
            if self.swallow.is_set():
                if kind == b"Z":  # ready for query: the commit is done
                    return
            else:
                self.client.sendall(message)


def _message(source: socket.socket) -> tuple[bytes, bytes]:
    head = _read(source, 5)
    return head[:1], head + _read(source, struct.unpack("!I", head[1:])[0] - 4)


def _read(source: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        piece = source.recv(length - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


def _reset(one: socket.socket) -> None:
    """Cut a connection as a lost network does, without a goodbye, and wake who waits for it."""
    with suppress(OSError):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()


@pytest.fixture
def make_proxy() -> Iterator[Callable[[str], Proxy]]:
    """Make a proxy in front of the server of a DSN."""
    made: list[Proxy] = []

    def make(dsn: str) -> Proxy:
        parts = urlsplit(dsn)
        assert parts.hostname
        assert parts.port
        made.append(Proxy(parts.hostname, parts.port))
        return made[-1]

    yield make
    for proxy in made:
        proxy.close()


@pytest.fixture
def proxy(make_proxy: Callable[[str], Proxy], dsn: str) -> Proxy:
    """A proxy in front of the server of the test's own database."""
    return make_proxy(dsn)
