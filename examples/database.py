"""Where the examples run: in the database that PGQ_DSN names, or on a PostgreSQL server that lives as long as they do.

The database of PGQ_DSN must have pgq's schema (`pgq db upgrade`), and none of the example's topics and tables. They are
left there, so that you can look at them; on the server of its own an example leaves nothing.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pgq import schema
from pgq.embedded import EmbeddedServer

TIME_LIMIT_S = 60.0


@contextmanager
def database() -> Iterator[str]:
    """Give the DSN of a database with pgq's schema. PGQ_DSN names it, so clients need none."""
    if dsn := os.environ.get("PGQ_DSN"):
        yield dsn
        return
    with tempfile.TemporaryDirectory(prefix="pgq-example-") as folder, EmbeddedServer(Path(folder) / "data") as server:
        os.environ["PGQ_DSN"] = server.dsn()
        schema.upgrade(server.dsn())
        yield server.dsn()


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    """Ask until it is so; raise TimeoutError if that takes too long."""
    deadline = time.monotonic() + TIME_LIMIT_S
    while not is_so():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not after {TIME_LIMIT_S:.0f} s")
        time.sleep(0.05)
