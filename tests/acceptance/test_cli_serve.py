"""`pgq serve` as an operator runs it: its HTTP port, its signals, its end, and who leads when instances come and go."""

from __future__ import annotations

import inspect
import json
import signal
import socket
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families
from psycopg import sql

import pgq
from pgq import Admin, Consumer, Producer, TopicPartition, schema
from pgq.cli.serve import serve as serve_command
from pgq.embedded import EmbeddedServer
from pgq.telemetry import SERVICE_METRICS
from tests.acceptance.test_cli import PGQ, environment, refusal, run
from tests.plugins.postgres import Server
from tests.plugins.sessions import Connection, eventually, rows, value

Labels = dict[str, str]

SLOW_JOB = """
    create table public.go (now int);
    create table public.done (at timestamptz default clock_timestamp());
    create or replace function pgq._remove_dead_members() returns int language plpgsql as $$
    begin
        while not exists (select from public.go) loop
            perform pg_sleep(0.01);
        end loop;
        insert into public.done default values;
        return 1;
    end $$;
    grant all on public.go, public.done to public;
"""
"""Makes the job `members` wait until there is a row in public.go."""


class Service:
    """A `pgq serve` that runs, on a port of its own choice."""

    def __init__(self, dsn: str | None, *arguments: str, **variables: str) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `end`
        given = () if dsn is None else ("--dsn", dsn)
        self.process = subprocess.Popen(
            [*PGQ, "serve", "--port", "0", *given, *arguments],
            env=environment(**variables),
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self.url = ""

    def start(self) -> None:
        """Wait until it says where it listens."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("pgq serves http://127.0.0.1:"), self.log()
        self.url = line.split()[2].removesuffix("/healthz")

    def log(self) -> str:
        """What it has logged."""
        self._log.seek(0)
        return self._log.read().decode()

    def request(self, path: str, method: str = "GET", time_limit_s: float = 30) -> tuple[int, str]:
        """The status and the body of an answer."""
        try:
            request = urllib.request.Request(self.url + path, method=method)
            with urllib.request.urlopen(request, timeout=time_limit_s) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def health(self) -> tuple[int, dict[str, Any]]:
        """The status of /healthz, and what it says."""
        status, text = self.request("/healthz")
        return status, json.loads(text)

    def leads(self) -> set[str]:
        """The jobs that it does."""
        return {name for name, job in self.health()[1]["jobs"].items() if job["leads"]}

    def leads_all(self) -> bool:
        """Whether it does all jobs."""
        return self.leads() == set(self.health()[1]["jobs"])

    def metrics(self, time_limit_s: float = 30) -> dict[str, list[tuple[Labels, float]]]:
        """What /metrics has: name -> labels and number of each."""
        status, text = self.request("/metrics", time_limit_s=time_limit_s)
        assert status == 200
        result: dict[str, list[tuple[Labels, float]]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                result.setdefault(sample.name, []).append((sample.labels, sample.value))
        return result

    def up(self) -> float:
        """What pgq_up is."""
        ((_, up),) = self.metrics()["pgq_up"]
        return up

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait()

    def end(self) -> None:
        """Make sure that it is gone."""
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._log.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Service]]:
    """Start `pgq serve`; whatever still runs after the test is killed."""
    started: list[Service] = []

    def serve(dsn: str | None, *arguments: str, **variables: str) -> Service:
        started.append(Service(dsn, *arguments, **variables))
        started[-1].start()
        return started[-1]

    yield serve
    for service in started:
        service.end()


Serve = Callable[..., Service]


def sessions(watcher: Connection) -> int:
    """How many sessions of pgq there are in the database."""
    found: int = value(
        watcher,
        "select count(*) from pg_stat_activity where datname = current_database() and application_name = 'pgq'",
    )
    return found


def numbers(service: Service, name: str) -> dict[tuple[str, ...], float]:
    """The numbers of a metric by the values of its labels, in the catalogue's order."""
    (labels,) = (metric.labels for metric in SERVICE_METRICS if metric.name == name)
    return {tuple(given[label] for label in labels): number for given, number in service.metrics()[name]}


def test_metrics_are_those_of_the_catalogue(dsn: str, serve: Serve) -> None:
    with Admin(dsn) as admin, Producer(dsn) as producer:
        admin.create_topic("orders", 2)
        admin.create_topic("old", config={"retention.ms": 1})
        producer.send_and_wait("old", b"x", timestamp_ms=1)  # for a job to have something to do
        producer.send_and_wait("orders", b"x", partition=0)
        admin.alter_consumer_group_offsets("billing", {TopicPartition("orders", 0): 0})
    service = serve(dsn, "--retention-interval-ms", "100")
    eventually(lambda: "pgq_job_done_total" in service.metrics())
    eventually(lambda: len(service.metrics()["pgq_job_last_success_timestamp_seconds"]) == len(service.leads()) > 0)
    _, text = service.request("/metrics")
    families = {family.name: family for family in text_string_to_metric_families(text)}
    kinds = {name + ("_total" if f.type == "counter" else ""): f for name, f in families.items()}
    assert kinds.keys() == {metric.name for metric in SERVICE_METRICS}
    for metric in SERVICE_METRICS:
        family = kinds[metric.name]
        assert (family.type, family.documentation) == (metric.kind, metric.description)
        assert family.samples, metric.name
        assert {tuple(sorted(sample.labels)) for sample in family.samples} == {tuple(sorted(metric.labels))}
        assert {sample.name for sample in family.samples} == {metric.name}


def test_what_the_numbers_say(dsn: str, serve: Serve, connect: Callable[[], Connection], watcher: Connection) -> None:
    with Admin(dsn) as admin, Producer(dsn) as producer:
        admin.create_topic("orders", 2)
        for _ in range(5):
            producer.send("orders", b"x", partition=0)
        producer.send("orders", b"x", partition=1)
        for _ in range(3):
            producer.send("orders", b"later", delay_ms=3_600_000)
        producer.flush()
        admin.delete_records({TopicPartition("orders", 0): 2})
        admin.alter_consumer_group_offsets("billing", {TopicPartition("orders", 0): 3, TopicPartition("orders", 1): 1})
    service = serve(dsn)
    found = service.metrics()
    assert ({}, 1) in found["pgq_up"]
    assert found["pgq_build_info"] == [({"version": pgq.__version__}, 1)]
    assert numbers(service, "pgq_topic_partitions") == {("orders",): 2}
    assert numbers(service, "pgq_delayed_records") == {("orders",): 3}
    assert numbers(service, "pgq_topic_partition_oldest_offset") == {("orders", "0"): 2, ("orders", "1"): 0}
    assert numbers(service, "pgq_topic_partition_current_offset") == {("orders", "0"): 5, ("orders", "1"): 1}
    assert numbers(service, "pgq_consumergroup_current_offset_sum") == {("billing", "orders"): 4}
    assert numbers(service, "pgq_consumergroup_lag") == {("billing", "orders", "0"): 2, ("billing", "orders", "1"): 0}
    assert numbers(service, "pgq_consumergroup_lag_sum") == {("billing", "orders"): 2}
    assert numbers(service, "pgq_consumergroup_lag_seconds")["billing", "orders", "0"] > 0
    assert numbers(service, "pgq_consumergroup_lag_seconds")["billing", "orders", "1"] == 0
    assert numbers(service, "pgq_consumergroup_members") == {("billing",): 0}
    assert set(numbers(service, "pgq_topic_partition_producer_age_seconds").values()) == {0}
    with connect() as session:
        session.execute("begin")
        session.execute("select pgq.produce('orders', 'x', partition => 1)")
        ages = numbers(service, "pgq_topic_partition_producer_age_seconds")
        assert ages["orders", "0"] == 0
        assert ages["orders", "1"] > 0
        assert numbers(service, "pgq_topic_partition_current_offset")["orders", "1"] == 1
        session.execute("rollback")
        with Consumer("orders", dsn=dsn, group_id="billing") as consumer:
            consumer.getmany(timeout_ms=100)
            assert numbers(service, "pgq_consumergroup_members") == {("billing",): 1}
    sizes = rows(watcher, "select topic, partition::text, bytes from pgq.partition_status")
    assert numbers(service, "pgq_topic_partition_size_bytes") == {(t, p): size for t, p, size in sizes}


def test_a_segment_that_is_locked_keeps_no_scrape(dsn: str, serve: Serve, connect: Callable[[], Connection]) -> None:
    with Admin(dsn) as admin:
        admin.create_topic("orders", 2)
    service = serve(dsn)
    session = connect()
    with session.transaction():
        session.execute("lock table pgq_log.t1_p1_s0 in access exclusive mode")
        assert service.up() == 1
        assert list(numbers(service, "pgq_topic_partition_size_bytes")) == [("orders", "0")]
    assert len(numbers(service, "pgq_topic_partition_size_bytes")) == 2


def test_many_scrapes_at_once(dsn: str, serve: Serve, watcher: Connection) -> None:
    with Admin(dsn) as admin:
        admin.create_topic("orders", 20)
    service = serve(dsn)
    eventually(service.leads_all)
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda _: service.metrics(), range(64)))
    assert all(one["pgq_up"] == [({}, 1)] for one in found)
    assert all(len(one["pgq_topic_partition_segments"]) == 20 for one in found)
    assert sessions(watcher) == 5  # four of the jobs, one of all scrapes


def test_paths_and_methods(dsn: str, serve: Serve) -> None:
    service = serve(dsn)
    eventually(service.leads_all)
    status, health = service.health()
    assert (status, health["status"], health["problems"]) == (200, "ok", [])
    assert all(job["error"] is None and job["failures"] == 0 for job in health["jobs"].values())
    assert service.request("/healthz", "HEAD") == (200, "")
    assert service.request("/healthz", "POST")[0] == 405
    assert service.request("/metrics", "DELETE")[0] == 405
    assert service.request("/else") == (404, "/healthz\n/metrics\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_nothing_is_left(
    dsn: str, serve: Serve, watcher: Connection, number: signal.Signals
) -> None:
    service = serve(dsn)
    eventually(service.leads_all)
    assert service.up() == 1
    assert service.stop(number) == 0
    eventually(lambda: sessions(watcher) == 0)
    lines = service.log().splitlines()
    assert all(" INFO " in line and line[:2] == "20" and line.split()[0].endswith("Z") for line in lines)
    assert f"{number.name}: stopping" in lines[-2]
    assert lines[-1].endswith("stopped")


def working(watcher: Connection) -> bool:
    return bool(
        rows(
            watcher,
            "select from pg_stat_activity where state = 'active' and query ~ '_remove_dead_members'"
            " and datname = current_database() and pid <> pg_backend_pid()",
        )
    )


def test_the_step_at_hand_is_ended_first(dsn: str, conn: Connection, serve: Serve, watcher: Connection) -> None:
    watcher.execute(SLOW_JOB)
    service = serve(dsn)
    eventually(lambda: working(watcher))
    service.process.send_signal(signal.SIGTERM)
    eventually(lambda: "stopping" in service.log())
    assert working(watcher)
    assert service.process.poll() is None
    watcher.execute("insert into public.go values (1)")
    assert service.process.wait() == 0
    assert value(watcher, "select count(*) from public.done") == 1
    eventually(lambda: sessions(watcher) == 0)


def test_a_second_signal_ends_it_at_once(dsn: str, serve: Serve, watcher: Connection) -> None:
    watcher.execute(SLOW_JOB)
    service = serve(dsn)
    eventually(lambda: working(watcher))
    service.process.send_signal(signal.SIGTERM)
    service.process.send_signal(signal.SIGTERM)  # the same, to its group
    eventually(lambda: "stopping" in service.log())

    def ended() -> bool:
        service.process.send_signal(signal.SIGTERM)
        return service.process.poll() is not None

    eventually(ended)
    assert service.process.returncode == 128 + signal.SIGTERM
    assert value(watcher, "select count(*) from public.done") == 0
    watcher.execute("insert into public.go values (1)")


def test_another_instance_takes_over_when_the_leader_is_killed(dsn: str, serve: Serve) -> None:
    first = serve(dsn)
    eventually(first.leads_all)
    second = serve(dsn)
    eventually(lambda: second.health()[0] == 200)
    assert second.leads() == set()
    first.stop(signal.SIGKILL)
    eventually(second.leads_all, 5)


@pytest.mark.slow
def test_a_stopped_leader_loses_its_lead(dsn: str, serve: Serve) -> None:
    first = serve(dsn)
    eventually(first.leads_all)
    second = serve(dsn)
    first.process.send_signal(signal.SIGSTOP)
    # the session timeout is 15 s; that of compaction, which may be busy with one step for long, is 10 minutes
    eventually(lambda: second.leads() == set(second.health()[1]["jobs"]) - {"compaction"}, 40)
    first.process.send_signal(signal.SIGCONT)
    eventually(lambda: first.leads() == {"compaction"})
    assert "retention" in second.leads()
    assert first.health()[0] == 200


@pytest.fixture
def own_dsn(own_server: EmbeddedServer) -> str:
    schema.upgrade(own_server.dsn())
    return own_server.dsn()


def test_the_database_is_restarted_under_it(own_server: EmbeddedServer, own_dsn: str, serve: Serve) -> None:
    with Admin(own_dsn) as admin:
        admin.create_topic("orders")
    service = serve(own_dsn)
    eventually(service.leads_all)
    assert service.up() == 1
    own_server.stop()
    found = service.metrics()
    assert found["pgq_up"] == [({}, 0)]
    assert "pgq_topic_partitions" not in found
    assert len(found["pgq_job_leads"]) >= 4
    eventually(lambda: service.leads() == set())
    own_server.start()
    eventually(service.leads_all)
    eventually(lambda: service.up() == 1)
    assert numbers(service, "pgq_topic_partitions") == {("orders",): 1}
    assert service.stop() == 0


def test_a_database_that_hangs_keeps_no_scrape(own_server: EmbeddedServer, own_dsn: str, serve: Serve) -> None:
    service = serve(own_dsn)
    assert service.up() == 1
    own_server.pause()
    try:
        # Prometheus waits for ten seconds; so does this, and then fails
        found = service.metrics(time_limit_s=10)
        again = service.metrics(time_limit_s=10)
    finally:
        own_server.resume()
    assert found["pgq_up"] == again["pgq_up"] == [({}, 0)]
    assert found["pgq_job_leads"]
    eventually(lambda: service.up() == 1, 60)


def test_a_server_that_is_not_there_yet_is_waited_for(own_server: EmbeddedServer, own_dsn: str, serve: Serve) -> None:
    own_server.stop()
    service = serve(own_dsn)
    assert service.leads() == set()
    assert service.up() == 0
    own_server.start()
    eventually(service.leads_all)
    assert "waiting for the leader" in service.log()


def test_a_signal_does_not_wait_for_a_server_that_is_silent(server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, tempfile.TemporaryFile() as log:
        port = silent.getsockname()[1]
        command = [*PGQ, "serve", "--port", "0", "--dsn", f"host=127.0.0.1 port={port} connect_timeout=600"]
        with subprocess.Popen(command, env=environment(), stderr=log, stdout=subprocess.DEVNULL) as process:
            accepted, _ = silent.accept()  # it tries to connect
            process.terminate()
            assert process.wait() == 0
            accepted.close()


def test_wrong_settings_are_one_sentence(
    dsn: str, empty_dsn: str, server: Server, database: str, admin: psycopg.Connection[Any]
) -> None:
    assert "PGQ_DSN" in refusal("serve", "--port", "0")
    assert "not a connection string" in refusal("serve", "--port", "0", "--dsn", "nonsense=1")
    assert "pgq db upgrade" in refusal("serve", "--port", "0", "--dsn", empty_dsn)
    admin.execute("drop role if exists pgq_stranger")
    admin.execute("create role pgq_stranger login password 'pgq_stranger'")
    try:
        with psycopg.connect(server.dsn(database), autocommit=True) as conn:
            conn.execute("grant usage on schema pgq to pgq_stranger")
            conn.execute("grant execute on function pgq.schema_version() to pgq_stranger")
            stranger = psycopg.conninfo.make_conninfo(
                server.dsn(database), user="pgq_stranger", password="pgq_stranger"
            )
            message = refusal("serve", "--port", "0", "--dsn", stranger)
            assert "pgq_stranger" in message
            assert "grant" in message
            conn.execute(sql.SQL("drop owned by pgq_stranger"))
    finally:
        admin.execute("drop role pgq_stranger")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port}" in refusal("serve", "--port", str(port), "--dsn", dsn)
    assert "nowhere.invalid" in refusal("serve", "--host", "nowhere.invalid", "--dsn", dsn)


@pytest.mark.parametrize(
    "arguments", [["--port", "65536"], ["--retention-interval-ms", "0"], ["--log-level", "loud"]], ids=" ".join
)
def test_usage_errors(arguments: list[str]) -> None:
    done = run("serve", *arguments, PGQ_DSN="host=nowhere.invalid")
    assert (done.returncode, done.stdout) == (2, "")


def test_settings_of_the_environment(dsn: str, serve: Serve) -> None:
    service = serve(
        None,
        PGQ_DSN="host=nowhere.invalid",
        PGQ_DIRECT_DSN=dsn,
        PGQ_SERVE_LOG_LEVEL="warning",
        PGQ_SERVE_MARKERS_INTERVAL_MS="20",
    )
    eventually(lambda: service.health()[1]["jobs"]["markers"]["runs"] > 3)
    assert service.stop() == 0
    assert service.log() == ""


def test_intervals_are_those_of_maintenance() -> None:
    options = inspect.signature(serve_command).parameters
    wanted = inspect.signature(pgq.Maintenance).parameters
    assert {name: p.default for name, p in wanted.items()} == {
        name: p.default for name, p in options.items() if name not in ("host", "port", "log_level")
    }
