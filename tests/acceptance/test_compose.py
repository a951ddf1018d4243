"""docker-compose.yml as it stands: a leader, two followers, the service; what acks=all promises with and without."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import psycopg
import pytest

import pgq
from pgq import Admin, Consumer, Producer, errors, schema
from tests.plugins.postgres import without_container
from tests.plugins.sessions import eventually, value

ROOT = Path(pgq.__file__).parents[1]
PASSWORD = "only for this test"
BOTH = {"pgq2": "quorum", "pgq3": "quorum"}
SERVERS = ("pgq1", "pgq2", "pgq3")
PYTHON = "3.11"
"""Of the image that .ci makes where the official one cannot be had."""

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(autouse=True)
def no_connection_is_left() -> None:
    """Not looked at here: the servers are the test's own."""


@dataclass(frozen=True)
class Composed:
    """The servers of a project that is up."""

    compose: Callable[..., str]
    ports: list[int]
    service_port: int

    def ask(self, path: str) -> str:
        """What the service answers; nothing if it does not."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.service_port}{path}", timeout=30) as answer:
                return str(answer.read().decode())
        except (OSError, HTTPException):
            return ""

    def service_leads(self) -> bool:
        """Whether the service does all jobs, and sees the database."""
        jobs = json.loads(self.ask("/healthz") or '{"jobs": {}}')["jobs"]
        return bool(jobs) and all(job["leads"] for job in jobs.values()) and "\npgq_up 1.0\n" in self.ask("/metrics")

    def dsn(self, *servers: int) -> str:
        """The application's DSN of these servers, or of whichever leads."""
        hosts = ",".join(f"127.0.0.1:{self.ports[number - 1]}" for number in servers or (1, 2, 3))
        attributes = "any" if servers else "read-write"
        return f"postgresql://app:{PASSWORD.replace(' ', '%20')}@{hosts}/app?target_session_attrs={attributes}"


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """What is added to docker-compose.yml so that the service is built of wheels, without an index of packages."""
    if reason := without_container(f"python:{PYTHON}-slim"):
        pytest.skip(reason)
    context = tmp_path / "context"
    context.mkdir()
    for name in (".dockerignore", "Dockerfile", "LICENSE", "README.md", "pgq_log.py", "pyproject.toml"):
        shutil.copy(ROOT / name, context)
    for name in ("alembic", "pgq", "sql"):
        shutil.copytree(ROOT / name, context / name, ignore=shutil.ignore_patterns("__pycache__"))
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", f"--python-version={PYTHON}"]
    done = subprocess.run(
        [*pip, "-d", context / "wheels", "hatchling", *needed], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"packages cannot be had: {done.stderr}")
    arguments = {"PYTHON_VERSION": PYTHON, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/src/wheels"}
    service = {"build": {"context": str(context), "args": arguments}}
    file = tmp_path / "build.json"
    file.write_text(json.dumps({"services": {"maintenance": service}}))
    return file


@pytest.fixture
def composed(pytestconfig: pytest.Config) -> Iterator[Composed]:
    image: str = pytestconfig.getoption("image")
    if reason := without_container(image):
        pytest.skip(reason)
    if not image.startswith("postgres:"):
        pytest.skip(f"docker-compose.yml takes the image postgres, not {image}")
    command = next((c for c in (["docker", "compose"], ["docker-compose"]) if _answers([*c, "version"])), None)
    if command is None:
        pytest.skip("neither docker compose nor docker-compose is installed")
    with ExitStack() as stack:
        free = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(4)]
        *ports, service_port = [one.getsockname()[1] for one in free]
    environment = {
        **os.environ,
        **{f"PGQ_PORT_{number}": str(port) for number, port in enumerate(ports, 1)},
        "PGQ_PORT_SERVICE": str(service_port),
        "PGQ_POSTGRES": image.partition(":")[2],
        "PGQ_APP_PASSWORD": PASSWORD,
        "PGQ_REPLICATION_PASSWORD": "another '\"\\ one",
        "COMPOSE_PROJECT_NAME": f"pgq_test_{secrets.token_hex(4)}",
    }

    def compose(*arguments: str) -> str:
        done = subprocess.run(
            [*command, "-f", ROOT / "docker-compose.yml", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    try:
        compose("up", "-d", *SERVERS)
        yield Composed(compose, ports, service_port)
    except AssertionError:
        print(compose("logs", "--no-color"))
        raise
    finally:
        compose("down", "--volumes", "--rmi", "local", "--timeout", "1")


def _answers(command: list[str]) -> bool:
    return (
        shutil.which(command[0]) is not None
        and subprocess.run(command, capture_output=True, check=False).returncode == 0
    )


def in_sync(admin: Admin) -> int | None:
    return admin.describe_cluster().in_sync_replicas


def accepts(dsn: str) -> bool:
    try:
        psycopg.connect(dsn).close()
    except psycopg.OperationalError:  # it replays what it has before it does
        return False
    return True


def followers(admin: Admin) -> dict[str, str | None]:
    return {s.server: s.sync_state for s in admin.describe_cluster().servers if s.role == "follower"}


def test_replication_factor_3(composed: Composed) -> None:
    dsn = composed.dsn()

    schema.upgrade(dsn)
    with Admin(dsn) as admin, Producer(dsn, request_timeout_ms=5000, retries=0) as producer:
        eventually(lambda: followers(admin) == BOTH, 60)
        assert admin.describe_cluster().warnings == []
        admin.create_topic("orders", 2, {"min.insync.replicas": 2})
        producer.send_and_wait("orders", b"both")

        composed.compose("stop", "--timeout", "1", "pgq2")
        eventually(lambda: followers(admin) == {"pgq2": None, "pgq3": "quorum"}, 60)
        producer.send_and_wait("orders", b"one", partition=0)

        composed.compose("pause", "pgq3")  # as a machine that hangs: the leader does not see it
        producer.send("orders", b"unsure", partition=1)
        with pytest.raises(errors.NotEnoughReplicasAfterAppendError):
            producer.flush()
        composed.compose("unpause", "pgq3")
        composed.compose("stop", "--timeout", "1", "pgq3")
        eventually(lambda: in_sync(admin) == 1, 60)
        producer.send("orders", b"refused")
        with pytest.raises(errors.NotEnoughReplicasError):
            producer.flush()
        assert any("refused" in warning for warning in admin.describe_cluster().warnings)

        composed.compose("start", "pgq2", "pgq3")
        eventually(lambda: followers(admin) == BOTH, 60)
        producer.send_and_wait("orders", b"again")
    with Consumer("orders", dsn=dsn, auto_offset_reset="earliest") as consumer:
        read: list[bytes] = []
        while len(read) < 4:
            read += [record.value for records in consumer.getmany(timeout_ms=1000).values() for record in records]
    assert sorted(read) == [b"again", b"both", b"one", b"unsure"]
    for number in (2, 3):
        eventually(lambda number=number: accepts(composed.dsn(number)), 60)
        with psycopg.connect(composed.dsn(number), autocommit=True) as follower:
            eventually(lambda follower=follower: value(follower, "select count(*) from pgq_topic.orders") == 4, 60)


def test_a_restart_keeps_everything(composed: Composed) -> None:
    """Of containers that are made anew on their volumes; followers that have data are not copied again."""
    dsn = composed.dsn()
    schema.upgrade(dsn)
    with Admin(dsn) as admin, Producer(dsn) as producer:
        eventually(lambda: followers(admin) == BOTH, 60)
        admin.create_topic("orders")
        producer.send_and_wait("orders", b"kept")
    # a copy that is made anew has other files
    file = ("exec", "-T", "pgq2", "stat", "-c", "%i", "/var/lib/postgresql/pgq/PG_VERSION")
    before = composed.compose(*file)
    composed.compose("down", "--timeout", "5")
    composed.compose("up", "-d", *SERVERS)
    with Consumer("orders", dsn=dsn, auto_offset_reset="earliest") as consumer:
        assert consumer.getone().value == b"kept"
    with Admin(dsn) as admin:
        eventually(lambda: followers(admin) == BOTH, 60)
    assert composed.compose(*file) == before


def test_the_service_follows_the_leader(composed: Composed, build: Path) -> None:
    """It comes with the schema, and goes on with another leader when the first is lost."""
    composed.compose("-f", str(build), "up", "-d", "--build", "maintenance")
    eventually(composed.service_leads, 120)
    with Admin(composed.dsn()) as admin:
        eventually(lambda: followers(admin) == BOTH, 60)
        admin.create_topic("orders", 2)
    assert 'pgq_topic_partitions{topic="orders"} 2.0' in composed.ask("/metrics")

    composed.compose("stop", "--timeout", "1", "pgq1")
    eventually(lambda: not composed.service_leads(), 60)
    composed.compose("exec", "-T", "pgq2", "psql", "-U", "postgres", "-c", "select pg_promote()")
    eventually(composed.service_leads, 120)
    assert 'pgq_topic_partitions{topic="orders"} 2.0' in composed.ask("/metrics")
    with psycopg.connect(composed.dsn(2), autocommit=True) as conn:
        now = value(conn, "select clock_timestamp()")
        late = "select count(*) > 0 from pgq.job_status where succeeded_at > %s"
        eventually(lambda: value(conn, late, now), 60)
