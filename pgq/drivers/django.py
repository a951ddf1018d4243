"""An application's connection of Django behind the drivers' interface: fetch, transaction, mark."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.db import Error, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils.connection import ConnectionProxy

from pgq import errors
from pgq.core.statements import pyformat
from pgq.drivers.sqlstate import translating


def is_connection(raw: Any) -> bool:
    """Whether it is django.db.connection or one of django.db.connections."""
    return isinstance(raw, (BaseDatabaseWrapper, ConnectionProxy))


class Connection:
    """A connection of Django, which belongs to the thread that opened it."""

    def __init__(self, raw: Any) -> None:
        self._raw: Any = connections[raw.alias] if isinstance(raw, ConnectionProxy) else raw
        if self._raw.vendor != "postgresql":
            raise errors.InvalidRequestError(
                f"Django's database {self._raw.alias!r} is {self._raw.vendor}: pass connections[alias] of PostgreSQL"
            )

    @property
    def in_transaction(self) -> bool:
        """Whether what is done now is in a transaction that ends later."""
        return not self._raw.get_autocommit()

    def fetch(self, sql: str, *args: Any) -> list[Any]:
        """Run one statement and return its rows, read by position."""
        try:
            with translating(), self._raw.cursor() as cursor:
                cursor.execute(pyformat(sql), {f"p{n}": arg for n, arg in enumerate(args, 1)})
                rows: list[Any] = cursor.fetchall()
                return rows
        except Error as error:  # Django's own, such as TransactionManagementError
            raise errors.IllegalStateError(f"Django refused: {error}") from error

    def transaction(self) -> Any:
        """Return a context manager: a block of a transaction, or of a savepoint where one has begun."""
        return transaction.atomic(using=self._raw.alias)

    def mark(self) -> Callable[[], bool]:
        """Return what says whether no rollback to a savepoint has undone this moment.

        Django forgets on_commit() callbacks of a savepoint that is rolled back: one that does nothing tells of it.
        """

        def nothing() -> None: ...

        self._raw.on_commit(nothing)
        return lambda: any(entry[1] is nothing for entry in self._raw.run_on_commit)
