"""Make a storm over a group of workers that call `run` and whose handlers fail, and judge what came of it.

    python -m tests.histories.workers --seconds 30 --seeds 20 [--blocking] [--bin-dir …/bin]

Workers are killed, stopped and resumed, told to stop and started again; sessions are ended, the server is killed. Then
all is calm for a while, and at last nothing more is sent. The anomalies stand in worker_checker.py; beside them
    stuck                   what was not committed, or still waited for its time, a minute later
    went back, two owners   as in group_checker.py
"""

from __future__ import annotations

import argparse
import contextlib
import logging
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
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import psycopg
from psycopg.conninfo import make_conninfo

import pgq
from pgq import schema
from pgq.embedded import EmbeddedServer
from pgq.testing.reading import drain

from . import group_checker
from .worker_checker import (
    AUDIT,
    Commit,
    Copy,
    History,
    Log,
    Place,
    Sent,
    check,
    delays_s,
    read_log,
    repetitions,
    share,
)
from .worker_process import GROUP, TOPIC, Options, content, origin

RETRY_TOPIC, DEAD_LETTER_TOPIC = f"{TOPIC}.{GROUP}.retry", f"{TOPIC}.{GROUP}.dlq"
KEYS = 50
_SETTLE_S = 1.5
"""How long members that have just joined may take to get their partitions."""


@dataclass(frozen=True)
class Settings:
    """One run."""

    seed: int
    seconds: float = 30.0
    blocking: bool = False
    faults: bool = True
    crashes: int = 1
    maintenance: bool = True
    """Whether the service runs; otherwise the workers deliver what is due."""
    partitions: int = 6
    fewest: int = 3
    most: int = 5
    calm_s: float = 4.0
    patience_s: float = 60.0
    """How long it may take until all is done."""
    late_s: float = 1.0
    """How long after it was due a record may be begun, while all is calm."""

    @property
    def policy(self) -> pgq.RetryPolicy:
        """What the workers go by."""
        initial = 0.12 if self.blocking else 0.1
        return pgq.RetryPolicy(max_attempts=4, initial=initial, multiplier=2, maximum=0.5, blocking=self.blocking)

    @property
    def rate(self) -> int:
        """Records a second: a partition that waits for a retry in place stands still."""
        return 120 if self.blocking else 300

    @property
    def fails(self) -> float:
        """Which share of calls fails."""
        return 0.08 if self.blocking else 0.3


@dataclass
class Result:
    """What a run gave."""

    anomalies: list[str] = field(default_factory=list)
    acknowledged: int = 0
    calls: int = 0
    failed: int = 0
    repeated: int = 0
    retried: int = 0
    dead: int = 0
    commits: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    unexpected: list[str] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)
    """How long after they were due records were begun, in seconds, sorted: in calm times."""
    all_delays: list[float] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.anomalies and not self.unexpected

    def summary(self) -> str:
        """Say it in one line."""
        kinds = Counter(anomaly.split(":")[0] for anomaly in self.anomalies)
        wrong = ", ".join(f"{name} {count}" for name, count in kinds.items()) or "no anomaly"
        faults = " ".join(f"{name}={count}" for name, count in self.faults.items())
        late = [
            f"{name} {len(delays)} begun {share(delays, 50) * 1000:.0f}/{share(delays, 99) * 1000:.0f} ms after due"
            for name, delays in (("calm", self.delays), ("all", self.all_delays))
            if delays
        ]
        counts = (
            f"{self.acknowledged} acknowledged, {self.calls} calls, {self.failed} failed, {self.repeated} again,"
            f" {self.retried} retried, {self.dead} dead letters, {self.commits} commits"
        )
        unexpected = [f"unexpected: {what}" for what in self.unexpected[:1]]
        return "; ".join([wrong, counts, *late, *([faults] if faults else []), *unexpected])


class _Group(NamedTuple):
    is_whole: bool
    """Whether it has as many members as there are workers."""
    behind: int
    """How far its offsets are behind the ends of the topic and the retry topic."""
    waiting: int
    """How many records wait for their time."""


class KillableServer(Protocol):
    """A server that may be killed."""

    def kill(self) -> None: ...
    def start(self) -> None: ...


class _Worker:
    def __init__(self, number: int, options: Options) -> None:
        self.number = number
        self.path = pathlib.Path(options.log)
        self.stopped = self.told = False
        command = [sys.executable, "-m", "tests.histories.worker_process", options.to_json()]
        self.process = subprocess.Popen(command, cwd=pathlib.Path(__file__).parents[2])

    def signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, number)

    def read(self) -> Log:
        return read_log(self.number, self.path.read_text().splitlines() if self.path.exists() else ())


class _Producer:
    """Sends records all the time and keeps what was acknowledged."""

    def __init__(self, dsn: str, settings: Settings) -> None:
        self._settings = settings
        self._dsn = dsn
        self._random = random.Random(settings.seed)
        self.acknowledged: dict[Place, Sent] = {}
        self.going = threading.Event()
        self.going.set()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        sent: list[tuple[Any, Sent]] = []
        with pgq.Producer(
            self._dsn, linger_ms=1, delivery_timeout_ms=60_000, request_timeout_ms=5000, compression_type="gzip"
        ) as producer:
            begun, number = time.monotonic(), 0
            while self.going.is_set():
                while number < (time.monotonic() - begun) * self._settings.rate:
                    number += 1
                    key = f"k{self._random.randrange(KEYS)}" if self._random.random() < 0.98 else None
                    value = f"{number} " + "x" * (400 if number % 10 == 0 else 0)  # some are compressed
                    headers = [("trace", b"%d" % number)] if number % 3 == 0 else []
                    future = producer.send(
                        TOPIC, value.encode(), key=None if key is None else key.encode(), headers=headers
                    )
                    trace = {name: value.decode() for name, value in headers}
                    sent.append((future, Sent(key, content(value.encode(), trace))))
                time.sleep(0.01)
        for future, what in sent:
            with suppress(pgq.errors.PgqError):
                metadata = future.result(60)
                self.acknowledged[Place(TOPIC, metadata.partition, metadata.offset)] = what

    def end(self) -> None:
        self.going.clear()
        self._thread.join()


def execute(server: EmbeddedServer, database: str, settings: Settings) -> Result:
    """Make a storm in a fresh database and judge it."""
    with psycopg.connect(server.dsn("postgres"), autocommit=True) as conn:
        conn.execute(f"drop database if exists {database} with (force)")
        conn.execute(f"create database {database}")
    schema.upgrade(server.dsn(database))
    return storm(server.dsn(database), settings, server)


def storm(dsn: str, settings: Settings, server: KillableServer | None = None) -> Result:
    """Make a storm in an empty database that has the schema; without a server to kill there is no crash."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(AUDIT.encode())
        conn.execute("select pgq.create_topic(%s, %s)", [TOPIC, settings.partitions])
    result = Result()
    with tempfile.TemporaryDirectory(prefix="pgq-workers-") as folder:
        lab = _Lab(dsn, settings, server, pathlib.Path(folder), result)
        service = pgq.Maintenance(dsn) if settings.maintenance else contextlib.nullcontext()
        with service:
            try:
                lab.run()
            finally:
                lab.kill_all()
        _judge(lab)
    return result


class _Lab:
    def __init__(
        self, dsn: str, settings: Settings, server: KillableServer | None, folder: pathlib.Path, result: Result
    ) -> None:
        self.dsn, self.settings, self.server, self.folder, self.result = dsn, settings, server, folder, result
        self.random = random.Random(settings.seed)
        self.workers: list[_Worker] = []
        self.started: list[_Worker] = []
        self.producer: _Producer | None = None
        self.calm = (0.0, 0.0)

    def join(self) -> None:
        number = len(self.started)
        settings, policy = self.settings, self.settings.policy
        options = Options(
            client=self.random.choice(("sync", "async")),
            dsn=make_conninfo(self.dsn, application_name="worker", connect_timeout=5),
            log=str(self.folder / f"worker-{number}"),
            seed=f"{settings.seed}/{number}",
            policy={name: getattr(policy, name) for name in policy.__dataclass_fields__},
            strategy=("range", "sticky", "roundrobin")[settings.seed % 3],
            fails=settings.fails,
        )
        self.started.append(_Worker(number, options))
        self.workers.append(self.started[-1])

    def run(self) -> None:
        for _ in range(self.settings.fewest):
            self.join()
        self.producer = _Producer(self.dsn, self.settings)
        self.wait_for(lambda group: group.is_whole, 60)
        started = time.monotonic()
        crashes = [self.settings.seconds * (n + 1) / (self.settings.crashes + 1) for n in range(self.settings.crashes)]
        while (now := time.monotonic() - started) < self.settings.seconds:
            if self.server is not None and self.settings.faults and crashes and now > crashes[0]:
                crashes.pop(0)
                self.server.kill()
                time.sleep(0.5)
                self.server.start()
                self.result.faults["crash"] += 1
            else:
                self.disturb()
            time.sleep(self.random.uniform(0.2, 1.2))
        for worker in self.workers:
            worker.signal(signal.SIGCONT)
        calm_from = 0.0
        if self.settings.calm_s and self.wait_for(lambda group: group.is_whole and group.behind < 100):
            time.sleep(_SETTLE_S)
            calm_from = time.time()
            time.sleep(self.settings.calm_s)
        self.producer.end()
        if self.wait_for(lambda group: group.behind == group.waiting == 0) and calm_from:
            self.calm = calm_from, time.time()
        for worker in self.workers:
            worker.signal(signal.SIGTERM)
        for worker in self.workers:
            self.see_it_end(worker)

    def disturb(self) -> None:
        harmless = ("join", "leave")
        kinds = (*harmless, "kill", "kill", "stop", "terminate", "terminate") if self.settings.faults else harmless
        kind = self.random.choice(kinds)
        victim = self.random.choice(self.workers)
        few, many = len(self.workers) <= self.settings.fewest, len(self.workers) >= self.settings.most
        if kind == "join" and not many:
            self.join()
        elif kind in ("leave", "kill") and not victim.stopped:
            victim.signal(signal.SIGTERM if kind == "leave" else signal.SIGKILL)
            self.workers.remove(victim)
            if kind == "leave":
                self.see_it_end(victim)
            if few:
                self.join()
        elif kind == "stop" and not any(worker.stopped for worker in self.workers):
            victim.stopped = True
            victim.signal(signal.SIGSTOP)
            threading.Timer(self.random.uniform(0.5, 4), self.resume, [victim]).start()
        elif kind == "terminate":
            with suppress(psycopg.Error), psycopg.connect(self.dsn, autocommit=True, connect_timeout=2) as conn:
                conn.execute(
                    "select pg_terminate_backend(pid) from (select pid from pg_stat_activity"
                    " where datname = current_database() and backend_type = 'client backend'"
                    " and usename = current_user and pid <> pg_backend_pid() order by random() limit 1) s"
                )
        else:
            return
        self.result.faults[kind] += 1

    @staticmethod
    def resume(worker: _Worker) -> None:
        worker.signal(signal.SIGCONT)
        worker.stopped = False

    def see_it_end(self, worker: _Worker) -> None:
        """Wait for the end of a worker that was told to stop."""
        try:
            worker.process.wait(20)
        except subprocess.TimeoutExpired:
            self.result.anomalies.append(f"cut off: worker {worker.number} has not ended within 20 s")
        else:
            # a signal that comes while Python starts ends it at once
            if worker.process.returncode == 0 or (
                worker.process.returncode == -signal.SIGTERM and not worker.read().runs
            ):
                worker.told = True
            else:
                self.result.unexpected.append(f"worker {worker.number} ended with {worker.process.returncode}")

    def wait_for(self, condition: Callable[[_Group], bool], patience_s: float | None = None) -> bool:
        """Wait until the group is as it should be; if it does not become so, note what is left."""
        deadline = time.monotonic() + (self.settings.patience_s if patience_s is None else patience_s)
        left: dict[str, int] = {}
        waiting = 0
        while time.monotonic() < deadline:
            with suppress(psycopg.Error), psycopg.connect(self.dsn, autocommit=True, connect_timeout=2) as conn:
                rows = conn.execute(
                    "select (select count(*) from pgq.group_member), (select count(*) from pgq.delayed_records),"
                    " concat(p.topic, '-', p.partition), p.high_watermark - coalesce(c.\"offset\", 0)"
                    " from pgq.partition_status p left join pgq.committed_offsets(%s) c"
                    " on c.topic = p.topic and c.partition = p.partition where p.topic = any(%s) and p.records > 0",
                    [GROUP, [TOPIC, RETRY_TOPIC]],
                ).fetchall()
                left = {name: behind for *_, name, behind in rows if behind}
                members, waiting = rows[0][:2] if rows else (0, 0)
                if rows and condition(_Group(members == len(self.workers), sum(left.values()), waiting)):
                    return True
            for worker in list(self.workers):
                if worker.process.poll() is not None:
                    self.result.unexpected.append(f"worker {worker.number} has ended with {worker.process.returncode}")
                    self.workers.remove(worker)
                    self.join()
            time.sleep(0.1)
        self.result.anomalies += [f"stuck: {name} is {behind} behind" for name, behind in left.items()]
        if waiting:
            self.result.anomalies.append(f"stuck: {waiting} delayed records")
        return False

    def kill_all(self) -> None:
        if self.producer is not None:
            self.producer.end()
        for worker in self.started:
            worker.process.kill()  # which also ends one that is stopped
            worker.process.wait()


def _judge(lab: _Lab) -> None:
    result, settings = lab.result, lab.settings
    assert lab.producer is not None
    logs = [worker.read() for worker in lab.started]
    with psycopg.connect(lab.dsn, autocommit=True) as conn:
        rows, claims = group_checker.audited(conn)
        commits = [
            Commit(*row)
            for row in conn.execute(
                'select t.name, p.partition, c."offset", extract(epoch from c.committed_at)::float8'
                " from audit_commit c join pgq.partition p using (partition_id) join pgq.topic t using (topic_id)"
                " order by c.serial"
            )
        ]
    history = History(
        settings.policy,
        Options.concurrency,
        lab.producer.acknowledged,
        logs,
        [*_copies(lab.dsn, RETRY_TOPIC, dead=False), *_copies(lab.dsn, DEAD_LETTER_TOPIC, dead=True)],
        commits,
        [worker.number for worker in lab.started if worker.told],
        lab.calm,
        settings.late_s,
    )
    result.anomalies += check(history) + group_checker.check_commits(rows) + group_checker.check_claims(claims)
    calls = history.calls
    result.acknowledged, result.calls, result.commits = len(history.acknowledged), len(calls), len(commits)
    result.failed = sum(call.has_failed for call in calls)
    result.repeated = repetitions(calls, settings.policy)
    result.dead = sum(copy.dead for copy in history.copies)
    result.retried = len(history.copies) - result.dead
    result.delays, result.all_delays = delays_s(calls, lab.calm), delays_s(calls)
    for log in logs:
        result.errors += log.errors


def _copies(dsn: str, topic: str, *, dead: bool) -> list[Copy]:
    """Read what was put into a retry topic or a dead letter topic."""
    copies = []
    for record in drain(topic, dsn=dsn, timeout_s=30):
        headers = {name: (value or b"").decode() for name, value in record.headers}
        place = Place(record.topic, record.partition, record.offset)
        copies.append(
            Copy(
                dead,
                place,
                Place(*origin(*place, headers)),
                Sent(None if record.key is None else record.key.decode(), content(record.value, headers)),
                int(headers["pgq.attempt"]),
                int(headers["pgq.due"]) if "pgq.due" in headers else None,
                int(headers["pgq.failed"]),
                record.timestamp,
                headers["pgq.last_error"],
            )
        )
    return copies


def main() -> int:
    """Run what the command line says; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.histories.workers")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long each run is disturbed")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--blocking", action="store_true", help="records that fail are tried again in place")
    parser.add_argument("--no-faults", action="store_true", help="workers only join and leave")
    parser.add_argument("--bin-dir", help="folder of initdb and postgres")
    arguments = parser.parse_args()
    logging.getLogger("pgq").setLevel(logging.CRITICAL)  # producer and service log what the faults cost them
    failed = 0
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        settings = Settings(
            seed,
            seconds=arguments.seconds,
            blocking=arguments.blocking,
            faults=not arguments.no_faults,
            crashes=1 + int(arguments.seconds // 30),
            maintenance=seed % 2 == 0,
        )
        with (
            tempfile.TemporaryDirectory(prefix="pgq-workers-", ignore_cleanup_errors=True) as folder,
            EmbeddedServer(
                pathlib.Path(folder) / "data", bin_dir=arguments.bin_dir, settings={"max_connections": "200"}
            ) as server,
        ):
            result = execute(server, "workers", settings)
        print(f"{'ok  ' if result.passed else 'FAIL'} seed {seed}: {result.summary()}", flush=True)
        if not result.passed:
            failed += 1
            for detail in (*result.anomalies[:8], *result.unexpected[:8]):
                print(f"     {detail}", flush=True)
            print(f"     {dict(result.errors)}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
