"""Connections of SQLAlchemy and Django behind the drivers' interface, as far as an application's own needs it.

Neither library is imported before the application has: what is not imported has made no object.
"""

from __future__ import annotations

import sys
from typing import Any

from pgq import errors


def wrap_sync(raw: Any) -> Any:
    """Return a Session or Connection of SQLAlchemy or a connection of Django behind the drivers' interface.

    Raises:
        InvalidRequestError: it is none of these.
    """
    if "sqlalchemy" in sys.modules:
        from pgq.drivers import sqlalchemy

        if sqlalchemy.is_sync(raw):
            return sqlalchemy.Connection(raw)
    if "django.db" in sys.modules:
        from pgq.drivers import django

        if django.is_connection(raw):
            return django.Connection(raw)
    raise _refusal(raw)


def wrap_async(raw: Any) -> Any:
    """Return an AsyncSession or AsyncConnection of SQLAlchemy behind the drivers' interface.

    Raises:
        InvalidRequestError: it is neither.
    """
    if is_async(raw):
        from pgq.drivers import sqlalchemy

        return sqlalchemy.AsyncConnection(raw)
    raise _refusal(raw)


def is_async(raw: Any) -> bool:
    """Whether it is an AsyncSession or AsyncConnection of SQLAlchemy."""
    if "sqlalchemy" not in sys.modules:
        return False
    from pgq.drivers import sqlalchemy

    return sqlalchemy.is_async(raw)


def session_of(raw: Any) -> Any:
    """Return the Session of SQLAlchemy behind a Session, an AsyncSession or a scoped one; None behind anything else."""
    if "sqlalchemy" not in sys.modules:
        return None
    from pgq.drivers import sqlalchemy

    return sqlalchemy.session_of(raw)


def _refusal(raw: Any) -> errors.InvalidRequestError:
    return errors.InvalidRequestError(
        f"connection is a {type(raw).__name__}: sync clients take a psycopg.Connection, a Session or Connection of"
        " SQLAlchemy, or Django's connection; async clients an asyncpg.Connection, a psycopg.AsyncConnection, or an"
        " AsyncSession or AsyncConnection of SQLAlchemy"
    )
