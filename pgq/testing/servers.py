"""A PostgreSQL server to test on: which one, and its start and end. Knows nothing of pytest."""

from __future__ import annotations

import functools
import gc
import os
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, get_args
from urllib.parse import quote, urlencode

from psycopg.conninfo import conninfo_to_dict

from pgq.embedded import EmbeddedServer, EmbeddedServerError, find_binaries

if TYPE_CHECKING:
    from testcontainers.community.postgres import PostgresContainer

Kind = Literal["dsn", "embedded", "local", "container"]
KINDS: tuple[Kind, ...] = get_args(Kind)
IMAGE = "postgres:18"

_MEMORY = Path("/dev/shm")
_ENOUGH_MEMORY = 8 << 30


class NoServerError(RuntimeError):
    """There is no server to test on, or it cannot be used; the message says why and what to do."""


class Server(Protocol):
    """What tests need of a server, whoever runs it."""

    def dsn(self, database: str = ..., *, user: str = ...) -> str:
        """Return the URL of a database; by default of one to connect to while others are made, for who may do so."""


@dataclass(frozen=True)
class RemoteServer:
    """A server that somebody else runs, or a container. Its DSN names a role that may create databases."""

    admin_dsn: str

    def dsn(self, database: str = "", *, user: str = "") -> str:
        """Return the URL of a database, the DSN's own by default. Another user's password is the user's name."""
        given = {name: str(value) for name, value in conninfo_to_dict(self.admin_dsn).items()}
        if database:
            given["dbname"] = database
        if user:
            given |= {"user": user, "password": user}
        return _url(given)


def _url(given: dict[str, str]) -> str:
    """Return the notation that every driver reads: the address before the path if it is one host and port."""
    path = quote(given.pop("dbname", ""), safe="")
    address = ""
    host = given.get("host", "")
    if host and not set(host) & set("/,@") and "," not in given.get("port", ""):
        del given["host"]
        user, password, port = (given.pop(name, "") for name in ("user", "password", "port"))
        address = f"[{host}]" if ":" in host else host
        address += f":{port}" if port else ""
        if user:
            address = quote(user, safe="") + (f":{quote(password, safe='')}" if password else "") + f"@{address}"
    query = f"?{urlencode(given, quote_via=quote)}" if given else ""
    return f"postgresql://{address}/{path}{query}"


@dataclass(frozen=True)
class Choice:
    """Which server tests run on. `str` names it as it appears in a report's header."""

    kind: Kind
    dsn: str = ""
    bin_dir: Path = Path()
    image: str = IMAGE
    why: str = ""
    """Why no other was taken, where nobody asked for this one."""

    def __str__(self) -> str:
        match self.kind:
            case "dsn":
                return "the PostgreSQL that PGQ_TEST_DSN names"
            case "container":
                return f"PostgreSQL in a container of {self.image}"
        postgres = str(self.bin_dir / "postgres")
        done = subprocess.run([postgres, "--version"], capture_output=True, text=True, check=False)
        return f"{done.stdout.strip().replace('postgres (PostgreSQL)', 'PostgreSQL')} in {self.bin_dir}"


def choose(kind: Kind | None = None, *, bin_dir: Path | None = None, image: str = IMAGE) -> Choice:
    """Choose the server to test on; nothing is started or asked.

    By default the first of these that is there: the server that PGQ_TEST_DSN names, the extra `embedded`, an installed
    PostgreSQL, a container.

    Args:
        kind: this one, and no other.
        bin_dir: the folder of PostgreSQL's programs; implies "local".
        image: what a container is made of.

    Raises:
        NoServerError: there is none.
    """
    if kind is not None and kind not in KINDS:
        raise NoServerError(f"the server to test on is one of {', '.join(KINDS)}, not {kind!r}")
    if bin_dir is not None:
        if kind not in (None, "local"):
            raise NoServerError(f"a folder of PostgreSQL's programs does not go with the server {kind!r}")
        return Choice("local", bin_dir=bin_dir)
    dsn = os.environ.get("PGQ_TEST_DSN", "")
    if kind == "dsn" or (kind is None and dsn):
        if not dsn:
            raise NoServerError(
                "the environment variable PGQ_TEST_DSN is not set: let it name a server on which databases may be made"
            )
        return Choice("dsn", dsn=dsn)
    if kind == "container":
        return Choice("container", image=image)
    try:
        return Choice(kind or "embedded", bin_dir=find_binaries("local" if kind == "local" else "embedded"))
    except EmbeddedServerError as error:
        if kind is None and find_spec("testcontainers") is not None:
            return Choice("container", image=image, why=str(error))
        raise NoServerError(
            f"{error} Or let PGQ_TEST_DSN name a server on which databases may be made, or install"
            " `testcontainers` and start Docker."
        ) from error


@contextmanager
def start(choice: Choice, *, settings: Mapping[str, str] | None = None) -> Iterator[Server]:
    """Start the server, and stop it at the end; one that PGQ_TEST_DSN names is taken as it is.

    Args:
        settings: of the server, as in postgresql.conf.

    Raises:
        NoServerError: it does not start.
    """
    if choice.kind == "dsn":
        yield RemoteServer(choice.dsn)
        return
    if choice.kind == "container":
        if reason := without_container(choice.image):
            raise NoServerError(f"{choice.why} No container can run either: {reason}" if choice.why else reason)
        with start_container(choice.image, settings or {}) as container:
            yield RemoteServer(container.get_connection_url())
        return
    with reachable_folder() as folder:
        server = EmbeddedServer(folder / "data", bin_dir=choice.bin_dir, settings=settings)
        try:
            server.start()
        except EmbeddedServerError as error:
            raise NoServerError(str(error)) from error
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def reachable_folder() -> Iterator[Path]:
    """Make a temporary folder that PostgreSQL's user can pass to when the tests run as root; pytest's are closed to it.

    It lies in memory where there is room, since that makes a database in a fraction of the time.
    """
    in_memory = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free >= _ENOUGH_MEMORY
    folder = Path(tempfile.mkdtemp(prefix="pgq-test-", dir=_MEMORY if in_memory else None))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def start_container(image: str, settings: Mapping[str, str]) -> PostgresContainer:
    """Make a container of plain PostgreSQL with these settings, for a block that starts and removes it."""
    from testcontainers.community.postgres import PostgresContainer

    command = ["postgres", *(word for name, value in settings.items() for word in ("-c", f"{name}={value}"))]
    container: PostgresContainer = PostgresContainer(image, driver=None).with_command(command)
    return container


@functools.cache
def without_container(image: str) -> str | None:
    """Say why no container of the image can run here; None if one can. Pulls what is missing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            return _try_image(image)
        finally:
            gc.collect()  # a client that found no daemon leaves its socket open, and a later test would be blamed


def _try_image(image: str) -> str | None:
    try:
        import requests
        from docker.errors import DockerException, ImageNotFound
        from testcontainers.core.config import testcontainers_config
        from testcontainers.core.docker_client import DockerClient
    except ImportError as error:
        return f"Testcontainers is missing, `pip install 'pgq-log[testing]'` ({error})"
    images = [image] if testcontainers_config.ryuk_disabled else [image, testcontainers_config.ryuk_image]
    what = "no Docker daemon answers"
    try:
        # seconds without a sign of life; docker sends the progress of a pull all the time
        with closing(DockerClient(timeout=30).client) as client:
            for name in images:
                what = f"the image {name} cannot be had"
                try:
                    client.images.get(name)
                except ImageNotFound:
                    client.images.pull(name)
    except (DockerException, requests.RequestException) as error:
        return f"{what}: {error}"
    return None
