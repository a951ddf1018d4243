"""The one place where an exception of a driver becomes an error of pgq: by SQLSTATE, never by message text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
import psycopg

from pgq import errors

_GONE = ("57P01", "57P02", "57P03", "57P05")  # the server, or an administrator, ended the connection
_TRY_AGAIN = ("40001", "40P01", "53000", "53100", "53200", "53300", "55P03", "57014")


def translate(error: BaseException, *, connecting: bool = False) -> errors.PgqError | None:
    """Return the error of pgq that an exception of a driver means, or None if it is none of a driver's."""
    if (
        isinstance(error, (psycopg.ProgrammingError, psycopg.DataError, psycopg.NotSupportedError))
        and not error.sqlstate
    ):
        return errors.InvalidRequestError(str(error))  # a mistake on this side of the wire
    if isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError):
        return errors.InvalidRequestError(str(error))
    if isinstance(error, UnicodeEncodeError):
        return errors.InvalidRequestError(f"text that the connection's encoding cannot hold: {error}")
    if isinstance(error, psycopg.Error):
        state = error.sqlstate
        message = error.diag.message_primary or str(error).strip()
        hint = error.diag.message_hint
    elif hasattr(error, "pgcode") and hasattr(error, "diag"):  # psycopg2, which only an application may bring
        state = error.pgcode
        message = error.diag.message_primary or str(error).strip()
        hint = error.diag.message_hint
    elif isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate
        message = str(error.args[0]) if error.args else str(error)
        hint = getattr(error, "hint", None)
    elif isinstance(error, (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)):
        state, message, hint = None, str(error) or type(error).__name__, None
    else:
        return None
    text = f"{message}. {hint}" if hint else message
    if state in errors.BY_SQLSTATE:
        return errors.BY_SQLSTATE[state](text)
    if state == "3F000" and '"pgq' in message:
        return errors.SchemaMissingError("this database has no schema pgq: install it with `pgq db upgrade`")
    if state == "42883" and "pgq.schema_version" in message:
        return errors.SchemaMissingError("this database's schema pgq is not pgq-log's: see `pgq db upgrade`")
    if state == "42P01":
        return errors.UnknownTopicError(f"{text}. The topic was deleted, perhaps made again: try once more")
    if state == "25006":
        return errors.NotLeaderError(f"{text}. Connect to the primary, in a transaction that may write")
    if connecting or state is None or state[:2] == "08" or state in _GONE:
        return errors.BrokerNotAvailableError(f"the PostgreSQL server is not available: {text}")
    result = errors.DatabaseError(f"PostgreSQL says {state}: {text}")
    result.retriable = state in _TRY_AGAIN
    return result


def _of_driver(error: BaseException) -> BaseException:
    """Return the driver's exception within one of SQLAlchemy or Django; else the exception itself."""
    inner = getattr(error, "orig", None)
    if inner is None and type(error).__module__ in ("django.db.utils", "sqlalchemy.dialects.postgresql.asyncpg"):
        inner = error.__cause__
    return error if inner is None else _of_driver(inner)


@contextmanager
def translating() -> Iterator[None]:
    """Turn what drivers raise inside the block into errors of pgq, the original as their cause."""
    try:
        yield
    except Exception as error:
        meant = translate(_of_driver(error))
        if meant is None:
            raise
        raise meant from error


@contextmanager
def connecting() -> Iterator[None]:
    """As translating, around an attempt to connect: whatever the driver says, the server is not available."""
    try:
        yield
    except Exception as error:
        meant = translate(error, connecting=True)
        if meant is None:
            raise
        raise meant from error
