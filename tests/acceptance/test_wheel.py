"""The built wheel works where there is no checkout: it installs, migrates, produces and fetches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

import pgq
from pgq.config import SCHEMA_VERSION
from pgq.schema.files import alembic_folder, function_files, sql_folder

ROOT = Path(pgq.__file__).parents[1]

SYNC = """
import json, pgq
from pgq import Admin, Consumer, Producer

with Admin() as admin:
    admin.create_topic("orders", partitions=2)
with Producer() as producer:
    sent = [producer.send("orders", b"%d" % i, key=b"k", headers=[("h", b"x")]) for i in range(3)]
    producer.flush()
offsets = [future.result().offset for future in sent]
with Consumer("orders", group_id="g", auto_offset_reset="earliest") as consumer:
    read = [next(consumer) for _ in sent]
    consumer.commit()
print(json.dumps([pgq.__file__, offsets, [(r.offset, r.value.decode()) for r in read]]))
"""

ASYNC = """
import asyncio, json, pgq
from pgq import AsyncAdmin, AsyncConsumer, AsyncProducer

async def main():
    async with AsyncAdmin() as admin:
        await admin.create_topic("payments", partitions=2)
    async with AsyncProducer() as producer:
        sent = [await producer.send("payments", b"%d" % i, key=b"k") for i in range(3)]
        offsets = [(await future).offset for future in sent]
    async with AsyncConsumer("payments", auto_offset_reset="earliest") as consumer:
        read = [await consumer.getone() for _ in sent]
    return [pgq.__file__, offsets, [(r.offset, r.value.decode()) for r in read]]

print(json.dumps(asyncio.run(main())))
"""


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT]
    done = subprocess.run(build, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = folder.glob("pgq_log-*.whl")
    return found


@dataclass(frozen=True)
class Installation:
    """A virtual environment with the wheel, and an empty folder to use it from."""

    environment: Path
    elsewhere: Path

    def run(self, program: str, *arguments: str, dsn: str = "") -> str:
        """Run a program of the environment; return what it prints."""
        variables = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "PYTHON", "VIRTUAL_ENV"))}
        done = subprocess.run(
            [self.environment / "bin" / program, *arguments],
            cwd=self.elsewhere,
            env=variables | ({"PGQ_DSN": dsn} if dsn else {}),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """The wheel in an environment that shares the dependencies of this one, but not the checkout."""
    folder = tmp_path_factory.mktemp("installed")
    environment = folder / "environment"
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    venv.create(environment, symlinks=True, with_pip=False)
    (packages,) = environment.glob("lib/python*/site-packages")
    # as a mere path, so that the .pth file of an editable install of this checkout is not followed
    dependencies = {sysconfig.get_path(kind) for kind in ("purelib", "platlib")}
    (packages / "dependencies.pth").write_text("\n".join(dependencies) + "\n")
    pip = [sys.executable, "-m", "pip", "--python", environment / "bin" / "python", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", wheel], check=True)
    return Installation(environment, elsewhere)


def test_the_wheel_holds_what_it_needs_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {"pgq/py.typed", "pgq/_alembic/env.py", "pgq/_sql/schema.sql"} <= names
    assert {f"pgq/_sql/{f.relative_to(sql_folder())}" for f in function_files()} <= names
    assert {f"pgq/_alembic/versions/{f.name}" for f in alembic_folder().glob("versions/*.py")} <= names
    assert {name.split("/")[0] for name in names} == {"pgq", f"pgq_log-{pgq.__version__}.dist-info"}
    # a folder alembic/ or sql/ with __init__.py would shadow the library in a checkout
    assert not {"pgq/_alembic/__init__.py", "pgq/_sql/__init__.py"} & names
    assert not [name for name in names if name.endswith((".pyc", ".pyo"))]


def test_the_command_of_the_wheel_prints_its_version(installed: Installation) -> None:
    assert installed.run("pgq", "--version") == f"{pgq.__version__}\n"


def test_the_wheel_migrates_produces_and_fetches(installed: Installation, empty_dsn: str) -> None:
    assert installed.run("pgq", "db", "upgrade", dsn=empty_dsn) == f"schema pgq: none -> {SCHEMA_VERSION}\n"
    assert installed.run("pgq", "db", "check", dsn=empty_dsn) == "schema pgq is as it should be\n"
    for program in (SYNC, ASYNC):
        path, offsets, read = json.loads(installed.run("python", "-c", program, dsn=empty_dsn))
        assert Path(path).is_relative_to(installed.environment)
        assert offsets == [0, 1, 2]
        assert read == [[0, "0"], [1, "1"], [2, "2"]]


def test_the_wheel_prints_the_same_sql_as_the_checkout(installed: Installation) -> None:
    from pgq import schema

    assert installed.run("pgq", "db", "sql").rstrip() == schema.sql().rstrip()
