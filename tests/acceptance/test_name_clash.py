"""Skytools' client is a distribution named `pgq` with a package `pgq`: beside pgq-log it is seen, and explained.

Their distribution is stood in for by one made here, with what matters of the real one: the name, and an `__init__.py`
that imports what may not be installed (psycopg2, which the real one does not ask for).
"""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path

import pytest

import pgq
from pgq.cli.clash import clash

from .test_wheel import Installation, build_wheel

TELL = "import runpy, sys; print(runpy.run_path(sys.argv[1])['clash']() or '')"
OURS = "from pgq import Admin, Producer, Consumer; import pgq.cli"
REINSTALL = f"`pip install --force-reinstall --no-deps pgq-log=={pgq.__version__}`"


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of pgq-log."""
    return build_wheel(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of a distribution named `pgq`."""
    files = {
        "pgq/__init__.py": b"from pgq.event import Event\nimport a_driver_that_is_not_installed\n",
        "pgq/event.py": b"class Event: pass\n",
        "pgq/py.typed": b"",
        "pgq-3.8.dist-info/METADATA": b"Metadata-Version: 2.1\nName: pgq\nVersion: 3.8\n",
        "pgq-3.8.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "pgq-3.8.dist-info/RECORD"
    lines = [f"{name},sha256={_hash(content)},{len(content)}\n" for name, content in files.items()]
    wheel = tmp_path_factory.mktemp("theirs") / "pgq-3.8-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in (files | {record: "".join([*lines, f"{record},,\n"]).encode()}).items():
            archive.writestr(name, content)
    return wheel


def _hash(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


@pytest.fixture
def environment(tmp_path: Path) -> Installation:
    """An environment that has all of pgq-log's dependencies, but not pgq-log."""
    made = Installation.make(tmp_path)
    made.borrow_dependencies()
    return made


def tell(environment: Installation) -> str:
    """What `clash` says there, run by its path as pgq-log's own command does where `import pgq` fails."""
    return environment.run("python", "-c", TELL, str(environment.packages / "pgq" / "cli" / "clash.py")).strip()


def test_nothing_to_tell_here() -> None:
    assert clash() is None


def test_nothing_to_tell_where_pgq_log_is_alone(environment: Installation, ours: Path) -> None:
    environment.install(ours)
    assert tell(environment) == ""


def test_theirs_is_installed_first(environment: Installation, ours: Path, theirs: Path) -> None:
    """pgq-log works, until the other is uninstalled."""
    environment.install(theirs)
    environment.install(ours)
    environment.run("python", "-c", OURS)
    told = tell(environment)
    assert "pgq 3.8" in told
    assert "(pgq/__init__.py, pgq/py.typed)" in told
    assert "the other does not work" in told
    assert f"Run `pip uninstall pgq`, then {REINSTALL}" in told
    done = environment.start("pgq", "db", "sql")
    assert (done.returncode, done.stderr) == (0, f"{told}\n")
    assert "create table" in done.stdout

    assert environment.pip("uninstall", "--yes", "pgq").returncode == 0
    assert environment.start("python", "-c", OURS).returncode != 0
    told = tell(environment)
    assert told.startswith("pgq/__init__.py of pgq-log is missing")
    assert REINSTALL in told


def test_theirs_is_installed_second(environment: Installation, ours: Path, theirs: Path) -> None:
    """`import pgq` is theirs; what `clash` says to do brings pgq-log back."""
    environment.install(ours)
    environment.install(theirs)
    assert environment.start("python", "-c", OURS).returncode != 0
    told = tell(environment)
    assert "pgq 3.8" in told
    assert "has overwritten files of pgq-log (pgq/__init__.py): `import pgq` is not pgq-log" in told
    assert f"Run `pip uninstall pgq`, then {REINSTALL}" in told
    done = environment.start("pgq", "db", "sql")  # instead of the traceback of their import
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"{told}\n")

    assert environment.pip("uninstall", "--yes", "pgq").returncode == 0
    done = environment.pip("install", "--force-reinstall", "--no-deps", "--no-index", ours)
    assert done.returncode == 0, done.stderr
    environment.run("python", "-c", OURS)
    assert tell(environment) == ""


def test_pgq_log_is_uninstalled_for_theirs(environment: Installation, ours: Path, theirs: Path) -> None:
    """The way back: what docs/howto/install.md says for those who keep the other."""
    environment.install(theirs)
    environment.install(ours)
    assert environment.pip("uninstall", "--yes", "pgq-log").returncode == 0
    done = environment.pip("install", "--force-reinstall", "--no-deps", "--no-index", theirs)
    assert done.returncode == 0, done.stderr
    assert "a_driver_that_is_not_installed" in environment.start("python", "-c", "import pgq").stderr


def test_theirs_is_found_before_a_checkout(environment: Installation, ours: Path, theirs: Path, tmp_path: Path) -> None:
    """An editable install puts its folder behind what is installed."""
    checkout = tmp_path / "checkout"
    with zipfile.ZipFile(ours) as archive:
        archive.extractall(checkout)
    (environment.packages / "editable.pth").write_text(f"{checkout}\n")
    clash_of_checkout = str(checkout / "pgq" / "cli" / "clash.py")
    assert environment.run("python", "-c", TELL, clash_of_checkout).strip() == ""
    environment.install(theirs)
    told = environment.run("python", "-c", TELL, clash_of_checkout)
    assert "is found before pgq-log by `import pgq`" in told
    assert "Run `pip uninstall pgq`" in told


def test_theirs_elsewhere_does_no_harm(environment: Installation, ours: Path, theirs: Path, tmp_path: Path) -> None:
    """Such as the system's packages behind those of an environment."""
    with zipfile.ZipFile(theirs) as archive:
        archive.extractall(tmp_path / "system")
    (environment.packages / "system.pth").write_text(f"{tmp_path / 'system'}\n")
    environment.install(ours)
    environment.run("python", "-c", OURS)
    assert tell(environment) == ""
