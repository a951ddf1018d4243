"""Make a history of a group: members join, leave, are killed, stopped and resumed; servers die. Then judge it.

    python -m tests.histories.groups --seconds 120 --seeds 20 [--bin-dir …/bin]

The anomalies stand in group_checker.py; beside them
    stuck   partitions whose end is not committed a minute after everything has calmed down
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

import pgq
from pgq import schema
from pgq.embedded import EmbeddedServer
from pgq.embedded_cluster import EmbeddedCluster

from .group_checker import (
    AUDIT,
    Place,
    audited,
    check_claims,
    check_commits,
    check_copies,
    check_deliveries,
)
from .member_process import GROUP, RESULTS, TOPIC

MODES = ("auto", "iterate", "manual")
EXACT_MODES = ("exact", "own")


@dataclass(frozen=True)
class Settings:
    """One run."""

    seed: int
    seconds: float = 20.0
    exact: bool = False
    faults: bool = True
    crashes: int = 1
    partitions: int = 6
    fewest: int = 3
    most: int = 6
    rate: int = 1000
    sql: str = ""
    """Run on the database before: a mutation."""


@dataclass
class Result:
    """What a run gave."""

    anomalies: list[str] = field(default_factory=list)
    acknowledged: int = 0
    given: int = 0
    repeated: int = 0
    commits: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    unexpected: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.anomalies and not self.unexpected

    def summary(self) -> str:
        """Say it in one line."""
        kinds = Counter(anomaly.split(":")[0] for anomaly in self.anomalies)
        wrong = ", ".join(f"{name} {count}" for name, count in kinds.items()) or "no anomaly"
        faults = " ".join(f"{name}={count}" for name, count in self.faults.items())
        return (
            f"{wrong}; {self.acknowledged} acknowledged, {self.given} given, {self.repeated} again,"
            f" {self.commits} commits; {faults}" + (f"; unexpected: {self.unexpected[0]}" if self.unexpected else "")
        )


class Server:
    """One server, or a leader with two followers: what can be killed and comes back."""

    def __init__(self, servers: EmbeddedServer | EmbeddedCluster) -> None:
        self.servers = servers

    def dsn(self, database: str) -> str:
        if isinstance(self.servers, EmbeddedCluster):
            return self.servers.dsn(database)
        return self.servers.dsn(database)

    def crash(self) -> str:
        """Kill it; start it again, or promote a follower."""
        if isinstance(self.servers, EmbeddedServer):
            self.servers.kill()
            time.sleep(0.5)
            self.servers.start()
            return "restart"
        old = self.servers.leader
        old.kill()
        name = self.servers.most_advanced()
        self.servers.promote(name)
        return "failover"


class _Member:
    def __init__(self, mode: str, dsn: str, path: pathlib.Path, seed: str) -> None:
        self.path = path
        self.stopped = False
        command = [sys.executable, "-m", "tests.histories.member_process", mode, dsn, str(path), seed]
        self.process = subprocess.Popen(command, cwd=pathlib.Path(__file__).parents[2])

    def signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, number)


class _Producer:
    """Sends numbers all the time and keeps what was acknowledged."""

    def __init__(self, dsn: str, settings: Settings) -> None:
        self._settings = settings
        self._dsn = dsn
        self.acknowledged: set[tuple[int, int]] = set()
        self.going = threading.Event()
        self.going.set()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        futures = []
        with pgq.Producer(self._dsn, linger_ms=1, delivery_timeout_ms=60_000, request_timeout_ms=5000) as producer:
            number = 0
            while self.going.is_set():
                for _ in range(self._settings.rate // 100):
                    number += 1
                    futures.append(producer.send(TOPIC, b"%d" % number, partition=number % self._settings.partitions))
                time.sleep(0.01)
        for future in futures:
            with suppress(pgq.errors.PgqError):
                metadata = future.result(60)
                self.acknowledged.add((metadata.partition, metadata.offset))

    def end(self) -> None:
        self.going.clear()
        self._thread.join()


def execute(server: Server, database: str, settings: Settings) -> Result:
    """Make a history in a fresh database and judge it."""
    with psycopg.connect(server.dsn("postgres"), autocommit=True) as conn:
        conn.execute(f"drop database if exists {database} with (force)")
        conn.execute(f"create database {database}")
    dsn = server.dsn(database)
    schema.upgrade(dsn)
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(AUDIT)
        config = '{"min.insync.replicas": 2}' if isinstance(server.servers, EmbeddedCluster) else "{}"
        conn.execute("select pgq.create_topic(%s, %s, %s)", [TOPIC, settings.partitions, config])
        conn.execute("select pgq.create_topic(%s)", [RESULTS])
        if settings.sql:
            conn.execute(settings.sql)
    result = Result()
    with tempfile.TemporaryDirectory(prefix="pgq-groups-") as folder:
        lab = _Lab(server, database, settings, pathlib.Path(folder), result)
        try:
            lab.run()
        finally:
            lab.kill_all()
        _judge(lab)
    return result


class _Lab:
    def __init__(self, server: Server, database: str, settings: Settings, folder: pathlib.Path, result: Result) -> None:
        self.server, self.database, self.settings, self.folder, self.result = server, database, settings, folder, result
        self.random = random.Random(settings.seed)
        self.members: list[_Member] = []
        self.started: list[_Member] = []
        self.paths: list[pathlib.Path] = []
        self.producer: _Producer | None = None

    @property
    def dsn(self) -> str:
        return self.server.dsn(self.database)

    def join(self) -> None:
        number = len(self.paths)
        path = self.folder / f"member-{number}"
        self.paths.append(path)
        mode = self.random.choice(EXACT_MODES if self.settings.exact else MODES)
        dsn = make_conninfo(self.dsn, application_name="member", connect_timeout=5)
        self.started.append(_Member(mode, dsn, path, f"{self.settings.seed}/{number}"))
        self.members.append(self.started[-1])

    def run(self) -> None:
        for _ in range(self.settings.fewest):
            self.join()
        self.producer = _Producer(self.dsn, self.settings)
        started = time.monotonic()
        crashes = [self.settings.seconds * (n + 1) / (self.settings.crashes + 1) for n in range(self.settings.crashes)]
        while (now := time.monotonic() - started) < self.settings.seconds:
            if self.settings.faults and crashes and now > crashes[0]:
                crashes.pop(0)
                self.result.faults[self.server.crash()] += 1
            else:
                self.disturb()
            time.sleep(self.random.uniform(0.2, 1.2))
        for member in self.members:
            member.signal(signal.SIGCONT)
        self.producer.end()
        self.wait_until_done()
        for member in self.members:
            member.signal(signal.SIGTERM)
        for member in self.members:
            with suppress(subprocess.TimeoutExpired):
                member.process.wait(10)

    def disturb(self) -> None:
        harmless = ("join", "leave")
        kinds = (*harmless, "kill", "stop", "terminate", "terminate") if self.settings.faults else harmless
        kind = self.random.choice(kinds)
        victim = self.random.choice(self.members)
        few, many = len(self.members) <= self.settings.fewest, len(self.members) >= self.settings.most
        if kind == "join" and not many:
            self.join()
        elif kind in ("leave", "kill") and not victim.stopped:
            victim.signal(signal.SIGTERM if kind == "leave" else signal.SIGKILL)
            self.members.remove(victim)
            if kind == "leave":
                with suppress(subprocess.TimeoutExpired):
                    victim.process.wait(10)
            if few:
                self.join()
        elif kind == "stop" and not any(member.stopped for member in self.members):
            victim.stopped = True
            victim.signal(signal.SIGSTOP)
            threading.Timer(self.random.uniform(0.5, 4), self.resume, [victim]).start()
        elif kind == "terminate":
            with suppress(psycopg.Error), psycopg.connect(self.dsn, autocommit=True, connect_timeout=2) as conn:
                conn.execute(
                    "select pg_terminate_backend(pid) from (select pid from pg_stat_activity"
                    " where application_name = 'member' order by random() limit 1) s"
                )
        else:
            return
        self.result.faults[kind] += 1

    @staticmethod
    def resume(member: _Member) -> None:
        member.signal(signal.SIGCONT)
        member.stopped = False

    def wait_until_done(self) -> None:
        deadline = time.monotonic() + 60
        left: list[Any] = []
        while time.monotonic() < deadline:
            with suppress(psycopg.Error), psycopg.connect(self.dsn, autocommit=True, connect_timeout=2) as conn:
                left = conn.execute(
                    'select p.partition, p.high_watermark, c."offset" from pgq.partition_status p'
                    " left join pgq.committed_offsets(%s) c on c.topic = p.topic and c.partition = p.partition"
                    ' where p.topic = %s and p.records > 0 and c."offset" is distinct from p.high_watermark',
                    [GROUP, TOPIC],
                ).fetchall()
                if not left:
                    return
            for member in list(self.members):
                if member.process.poll() is not None:
                    self.result.unexpected.append(f"a member has ended with {member.process.returncode}")
                    self.members.remove(member)
                    self.join()
            time.sleep(0.2)
        self.result.anomalies += [f"stuck: partition {p} is at {o} of {w}" for p, w, o in left]

    def kill_all(self) -> None:
        if self.producer is not None:
            self.producer.end()
        for member in self.started:
            member.process.kill()  # which also ends one that is stopped
            member.process.wait()


def _judge(lab: _Lab) -> None:
    result, settings = lab.result, lab.settings
    given: Counter[Place] = Counter()
    for path in lab.paths:
        for line in path.read_text().splitlines() if path.exists() else ():
            with suppress(json.JSONDecodeError):  # the kill cut it off
                entry = json.loads(line)
                if entry["op"] == "got":
                    given.update((p, o) for p, o in entry["records"])
                else:
                    result.errors[entry["error"]] += 1
    assert lab.producer is not None
    acknowledged = lab.producer.acknowledged
    result.acknowledged, result.given = len(acknowledged), sum(given.values())
    result.repeated = result.given - len(given)
    result.anomalies += check_deliveries(acknowledged, given, once=not settings.faults and not settings.exact)
    with psycopg.connect(lab.dsn, autocommit=True) as conn:
        commits, claims = audited(conn)
        result.commits = len(commits)
        result.anomalies += check_commits(commits) + check_claims(claims)
        if settings.exact:
            rows: Counter[Place] = Counter(conn.execute('select partition, "offset" from done').fetchall())
            found = conn.execute(f"select value from pgq_topic.{RESULTS}").fetchall()
            results: Counter[Place] = Counter((int(p), int(o)) for p, o in (str(v).split(":") for (v,) in found))
            result.anomalies += check_copies("row", acknowledged, rows) + check_copies("result", acknowledged, results)


def main() -> int:
    """Run what the command line says; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.histories.groups")
    parser.add_argument("--seconds", type=float, default=120.0, help="how long each run is disturbed")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--no-faults", action="store_true", help="members only join and leave")
    parser.add_argument("--bin-dir", help="folder of initdb and postgres")
    arguments = parser.parse_args()
    failed = 0
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        cluster = seed % 3 == 0 and not arguments.no_faults
        settings = Settings(
            seed,
            seconds=arguments.seconds,
            exact=seed % 2 == 0,
            faults=not arguments.no_faults,
            crashes=1 if cluster else 1 + int(arguments.seconds // 60),
        )
        server_settings = {"max_connections": "200"}
        with tempfile.TemporaryDirectory(prefix="pgq-groups-", ignore_cleanup_errors=True) as folder:
            path = pathlib.Path(folder)
            servers: EmbeddedServer | EmbeddedCluster = (
                EmbeddedCluster(path, synchronous=1, bin_dir=arguments.bin_dir, settings=server_settings)
                if cluster
                else EmbeddedServer(path / "data", bin_dir=arguments.bin_dir, settings=server_settings)
            )
            with servers:
                result = execute(Server(servers), "groups", settings)
        print(f"{'ok  ' if result.passed else 'FAIL'} seed {seed}: {result.summary()}", flush=True)
        if not result.passed:
            failed += 1
            for detail in (*result.anomalies[:8], *result.unexpected[:8]):
                print(f"     {detail}", flush=True)
            print(f"     {dict(result.errors)}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
