"""The built wheel works where there is no checkout: it installs, migrates, produces and fetches.

Once in an environment that borrows the dependencies of this one, which takes no network; and once for each supported
Python that this machine has, in an empty environment, with the dependencies that the package index offers.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Iterator
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


PYTHONS = ("3.11", "3.12", "3.13", "3.14")
"""The versions that pyproject.toml promises."""


@dataclass(frozen=True)
class Installation:
    """A virtual environment outside of the checkout, and an empty folder to use it from."""

    environment: Path
    elsewhere: Path

    @classmethod
    def make(cls, folder: Path, python: str | Path = sys.executable) -> Installation:
        """Make an environment with nothing in it, not even pip."""
        made = cls(folder / "environment", folder / "elsewhere")
        made.elsewhere.mkdir(parents=True)
        subprocess.run([python, "-m", "venv", "--without-pip", made.environment], env=environment(), check=True)
        return made

    @property
    def packages(self) -> Path:
        """The folder of what is installed."""
        (found,) = self.environment.glob("lib/python*/site-packages")
        return found

    def borrow_dependencies(self) -> None:
        """Let it see what the tests' own environment has, but for the checkout.

        As a mere path, so that the .pth file of an editable install is not followed.
        """
        folders = {sysconfig.get_path(kind) for kind in ("purelib", "platlib")}
        (self.packages / "dependencies.pth").write_text("\n".join(folders) + "\n")

    def pip(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run pip for it."""
        pip = [sys.executable, "-m", "pip", "--python", self.environment / "bin" / "python"]
        command = [*pip, "--disable-pip-version-check", "--quiet", *arguments]
        return subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)

    def install(self, *wheels: Path) -> None:
        """Install wheels without their dependencies; no network is used."""
        done = self.pip("install", "--no-deps", "--no-index", *wheels)
        assert done.returncode == 0, done.stderr

    def start(self, program: str, *arguments: str, dsn: str = "") -> subprocess.CompletedProcess[str]:
        """Run a program of the environment."""
        return subprocess.run(
            [self.environment / "bin" / program, *arguments],
            cwd=self.elsewhere,
            env=environment() | ({"PGQ_DSN": dsn} if dsn else {}),
            capture_output=True,
            text=True,
            check=False,
        )

    def run(self, program: str, *arguments: str, dsn: str = "") -> str:
        """Run a program of the environment, which succeeds and has nothing to complain of; return what it prints."""
        done = self.start(program, *arguments, dsn=dsn)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
        return done.stdout


def environment() -> dict[str, str]:
    """The variables of this process but for those that name a database or another environment."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("PG", "PYTHON", "VIRTUAL_ENV"))}


def build_wheel(folder: Path) -> Path:
    """Build the wheel of this checkout in a folder."""
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT]
    done = subprocess.run(build, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = folder.glob("pgq_log-*.whl")
    return found


@functools.cache
def interpreter(version: str) -> Path | None:
    """A Python of this version on this machine that can make environments: on PATH, or one of pyenv's."""
    name = f"python{version}"
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    places = [Path(folder) / name for folder in os.get_exec_path()]
    places += sorted(pyenv.glob(f"versions/{version}*/bin/{name}"), reverse=True)
    report = "import sys, venv; print('%d.%d' % sys.version_info[:2])"
    for place in filter(Path.exists, [Path(sys.executable), *places]):
        # pyenv has a file for every version on PATH, and refuses to run those that are not selected
        done = subprocess.run([place, "-c", report], env=environment(), capture_output=True, text=True, check=False)
        if done.stdout.strip() == version:
            return place
    return None


def migrate_produce_and_fetch(installed: Installation, dsn: str) -> None:
    """Go through what an application does first, with the installed command and both kinds of clients."""
    assert installed.run("pgq", "--version") == f"{pgq.__version__}\n"
    assert installed.run("pgq", "db", "upgrade", dsn=dsn) == f"schema pgq: none -> {SCHEMA_VERSION}\n"
    assert installed.run("pgq", "db", "check", dsn=dsn) == "schema pgq is as it should be\n"
    for program in (SYNC, ASYNC):
        path, offsets, read = json.loads(installed.run("python", "-c", program, dsn=dsn))
        assert Path(path).is_relative_to(installed.environment)
        assert offsets == [0, 1, 2]
        assert read == [[0, "0"], [1, "1"], [2, "2"]]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """The wheel in an environment that borrows its dependencies."""
    installed = Installation.make(tmp_path_factory.mktemp("installed"))
    installed.borrow_dependencies()
    installed.install(wheel)
    return installed


@pytest.fixture
def alone(request: pytest.FixtureRequest, wheel: Path, tmp_path: Path) -> Iterator[Installation]:
    """The wheel and what it asks for, in an empty environment of the Python that the test names."""
    python = interpreter(request.param)
    if python is None:
        pytest.skip(f"this machine has no Python {request.param}")
    installed = Installation.make(tmp_path, python)
    # compiled when imported; most of the dependencies never are
    done = installed.pip("install", "--no-compile", "--retries", "1", "--timeout", "20", wheel)
    if done.returncode and "connection broken" in done.stderr:
        pytest.skip("the package index is not reached, and the wheel's dependencies come from there")
    assert done.returncode == 0, done.stderr
    yield installed
    shutil.rmtree(installed.environment)  # 90 MB, which pytest would keep


def test_the_wheel_holds_what_it_needs_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {"pgq/py.typed", "pgq/_alembic/env.py", "pgq/_sql/schema.sql"} <= names
    assert {f"pgq/_sql/{f.relative_to(sql_folder())}" for f in function_files()} <= names
    assert {f"pgq/_alembic/versions/{f.name}" for f in alembic_folder().glob("versions/*.py")} <= names
    assert {name.split("/")[0] for name in names} == {"pgq", "pgq_log.py", f"pgq_log-{pgq.__version__}.dist-info"}
    # a folder alembic/ or sql/ with __init__.py would shadow the library in a checkout
    assert not {"pgq/_alembic/__init__.py", "pgq/_sql/__init__.py"} & names
    assert not [name for name in names if name.endswith((".pyc", ".pyo"))]


def test_the_wheel_migrates_produces_and_fetches(installed: Installation, empty_dsn: str) -> None:
    migrate_produce_and_fetch(installed, empty_dsn)


@pytest.mark.slow
@pytest.mark.timeout(600)  # of the package index
@pytest.mark.parametrize("alone", PYTHONS, indirect=True)
def test_the_wheel_and_its_dependencies_on_every_python(alone: Installation, empty_dsn: str) -> None:
    migrate_produce_and_fetch(alone, empty_dsn)


def test_the_versions_tried_are_the_ones_promised() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["requires-python"] == f">={PYTHONS[0]}"
    classifier = "Programming Language :: Python :: 3."
    assert [c.rpartition(" ")[2] for c in project["classifiers"] if c.startswith(classifier)] == list(PYTHONS)


def test_the_wheel_prints_the_same_sql_as_the_checkout(installed: Installation) -> None:
    from pgq import schema

    assert installed.run("pgq", "db", "sql").rstrip() == schema.sql().rstrip()
