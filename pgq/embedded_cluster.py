"""A leader and followers of one's own, from Python: embedded servers that replicate, for development and tests.

Nobody watches them: who is to lead after a failure is decided by whoever calls `promote`, as in production by Patroni
or the provider of the database.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import psycopg
from psycopg import sql

from pgq.embedded import EmbeddedServer, EmbeddedServerError

__all__ = ["EmbeddedCluster"]

# Enough for a follower that was away for a while; a slot would keep everything for one that never comes back.
_SETTINGS = {"wal_keep_size": "1GB", "hot_standby_feedback": "on", "wal_receiver_status_interval": "1s"}


class EmbeddedCluster:
    """A leader and its followers in a folder, named pgq1, pgq2, ..., each an EmbeddedServer.

    Args:
        folder: where their data folders are, or are to be made.
        replicas: how many followers: 2 give replication factor 3.
        synchronous: how many followers a commit with acks=all waits for, whichever are first; 0 for none.
        bin_dir, settings: as for EmbeddedServer.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        replicas: int = 2,
        synchronous: int = 1,
        bin_dir: str | os.PathLike[str] | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        if not 1 <= replicas <= 8 or not 0 <= synchronous <= replicas:
            raise ValueError("replicas must be 1 to 8, synchronous 0 to replicas")
        self.folder = Path(folder).resolve()
        self.synchronous = synchronous
        self._options: dict[str, Any] = {"bin_dir": bin_dir}
        self._settings = {**_SETTINGS, **(settings or {})}
        self.names = [f"pgq{number}" for number in range(1, replicas + 2)]
        self.servers: dict[str, EmbeddedServer] = {}

    @property
    def leader(self) -> EmbeddedServer:
        """The server that is written to."""
        return self.servers[self._leader_name]

    @property
    def followers(self) -> dict[str, EmbeddedServer]:
        """The others, by name; those that do not run, too."""
        return {name: server for name, server in self.servers.items() if name != self._leader_name}

    def dsn(self, database: str = "postgres", *, user: str = "postgres") -> str:
        """Return the connection URL of a database on whichever server leads."""
        hosts = ",".join(["127.0.0.1"] * len(self.servers))
        ports = ",".join(str(server.port) for server in self.servers.values())
        where = f"host={quote(hosts)}&port={quote(ports)}&target_session_attrs=read-write"
        return f"postgresql://{quote(user, safe='')}@/{quote(database, safe='')}?{where}"

    def start(self) -> None:
        """Start all servers, making what is missing, and return when every follower streams.

        Raises:
            EmbeddedServerError: one does not come up; then none is left running.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._start_leader()
            for name in self.names:
                if name != self._leader_name:
                    self._start_follower(name)
            self.wait_until_streaming(len(self.followers))
            self._set_synchronous()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop all servers that run: the leader first, so that followers get all it has; paused ones go on for that."""
        running = [server for server in self.servers.values() if server.running]
        for server in running:
            server.resume()
        for server in sorted(running, key=lambda server: server is not self.leader):
            server.stop()

    def promote(self, name: str) -> EmbeddedServer:
        """Make a follower the leader, and let the other running followers follow it. The old leader must not run.

        Take the one that has the most: `most_advanced`.

        Raises:
            EmbeddedServerError: the leader runs, or the server does not.
        """
        if self.leader.running:
            raise EmbeddedServerError(f"{self._leader_name} runs and leads: stop or kill it first.")
        server = self.servers[name]
        with self._connect(server) as conn:
            conn.execute("select pg_promote(true)")
        (self.folder / "leader").write_text(name)
        for other in self.followers.values():
            if other.running:
                self._follow(other)
        self._set_synchronous()
        return server

    def most_advanced(self) -> str:
        """Return the running follower that has received the most: after a failover to it no acks=all record is lost."""
        received: dict[str, int] = {}
        for name, server in self.followers.items():
            if server.running:
                with self._connect(server) as conn:
                    row = conn.execute(
                        "select coalesce(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) - '0/0'"
                    ).fetchone()
                    received[name] = int(row[0]) if row else 0
        if not received:
            raise EmbeddedServerError("No follower runs.")
        return max(received, key=lambda name: received[name])

    def rebuild(self, name: str) -> EmbeddedServer:
        """Make a server that is no longer the leader a follower, from a fresh copy of the leader's data."""
        self.servers[name].kill()
        folder = self.servers[name].data_dir
        aside = folder.with_name(f"{folder.name}.{time.time_ns()}.old")
        folder.rename(aside)
        return self._start_follower(name)

    def wait_until_streaming(self, followers: int, timeout_seconds: float = 60.0) -> None:
        """Wait until so many followers stream from the leader."""
        deadline = time.monotonic() + timeout_seconds
        with self._connect(self.leader) as conn:
            while True:
                row = conn.execute("select count(*) from pg_stat_replication where state = 'streaming'").fetchone()
                if row and row[0] >= followers:
                    return
                if time.monotonic() > deadline:
                    raise EmbeddedServerError(f"{followers} followers do not stream within {timeout_seconds:g} s.")
                time.sleep(0.01)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def _leader_name(self) -> str:
        with suppress(FileNotFoundError):
            return (self.folder / "leader").read_text().strip()
        return self.names[0]

    def _start_leader(self) -> None:
        name = self._leader_name
        if name not in self.servers:
            self.servers[name] = EmbeddedServer(
                self.folder / name, settings={**self._settings, "cluster_name": name}, **self._options
            )
        if not self.leader.running:
            self.leader.start()

    def _start_follower(self, name: str) -> EmbeddedServer:
        known = self.servers.get(name)
        server = self.servers[name] = EmbeddedServer(
            self.folder / name,
            settings={**self._settings, "cluster_name": name},
            port=known.port if known else None,
            leader=self.leader,
            **self._options,
        )
        server.start()
        self._follow(server)
        return server

    def _follow(self, server: EmbeddedServer) -> None:
        """Let a follower follow whoever leads now; cluster_name is the name that it gives itself there."""
        conninfo = f"host=127.0.0.1 port={self.leader.port} user=postgres"
        with self._connect(server) as conn:
            conn.execute(sql.SQL("alter system set primary_conninfo = {}").format(conninfo))
            conn.execute("select pg_reload_conf()")

    def _set_synchronous(self) -> None:
        names = ", ".join(self.followers)
        wanted = f"ANY {self.synchronous} ({names})" if self.synchronous else ""
        with self._connect(self.leader) as conn:
            conn.execute("set synchronous_commit = local")
            conn.execute(sql.SQL("alter system set synchronous_standby_names = {}").format(wanted))
            conn.execute("select pg_reload_conf()")
        deadline = time.monotonic() + 60
        while self.synchronous:
            with self._connect(self.leader) as conn:
                row = conn.execute("select count(*) from pg_stat_replication where sync_state = 'quorum'").fetchone()
            if row and row[0] >= sum(server.running for server in self.followers.values()):
                return
            if time.monotonic() > deadline:
                raise EmbeddedServerError("The followers do not become synchronous within 60 s.")
            time.sleep(0.01)

    @staticmethod
    def _connect(server: EmbeddedServer) -> psycopg.Connection[Any]:
        return psycopg.connect(server.dsn(), autocommit=True)
