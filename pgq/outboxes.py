"""pgq.outbox: which outbox a connection of the application gets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

from pgq.aio.outbox import AsyncOutbox
from pgq.drivers.asyncpg import is_async
from pgq.drivers.frameworks import session_of
from pgq.sync.outbox import Outbox
from pgq.types import Serializer

if TYPE_CHECKING:
    import asyncpg
    import psycopg
    import sqlalchemy
    from sqlalchemy import orm
    from sqlalchemy.ext import asyncio as aio

    from pgq.drivers.sqlalchemy_session import SessionOutbox

    Options = Serializer | str | type | None


@overload
def outbox(
    connection: orm.Session | orm.scoped_session[Any] | aio.AsyncSession | aio.async_scoped_session[Any],
    *,
    key_serializer: Options = ...,
    value_serializer: Options = ...,
    partitioner: str = ...,
) -> SessionOutbox: ...
@overload
def outbox(
    connection: psycopg.AsyncConnection[Any] | asyncpg.Connection | aio.AsyncConnection,
    *,
    key_serializer: Options = ...,
    value_serializer: Options = ...,
    partitioner: str = ...,
) -> AsyncOutbox: ...
@overload
def outbox(
    connection: psycopg.Connection[Any] | sqlalchemy.Connection,
    *,
    key_serializer: Options = ...,
    value_serializer: Options = ...,
    partitioner: str = ...,
) -> Outbox: ...
@overload
def outbox(
    connection: Any, *, key_serializer: Options = ..., value_serializer: Options = ..., partitioner: str = ...
) -> Any: ...
def outbox(
    connection: Any,
    *,
    key_serializer: Serializer | str | type | None = None,
    value_serializer: Serializer | str | type | None = None,
    partitioner: str = "murmur2",
) -> Any:
    """Return an outbox: it collects records and appends them at the end of the application's transaction, in one call.

    Readers of a partition wait at the first record of a transaction that is still open. With an outbox a transaction
    may be slow all the same: it takes its offsets just before it ends. The records become visible with its commit,
    and are dropped with its rollback, also to a savepoint. The connection's synchronous_commit decides how durable
    they are. All records of a transaction may go to 100 partitions at most.

    - A Session, AsyncSession or scoped session of SQLAlchemy gets a SessionOutbox, which appends when it commits.
    - Any other sync connection, of psycopg, SQLAlchemy or Django, gets an Outbox: send in the block
      `with pgq.outbox(connection) as outbox:`, which is a block of a transaction as `connection.transaction()`,
      `connection.begin()` and `atomic()` make them: a savepoint if a transaction has begun. It appends at its end.
    - Any other async connection, of asyncpg, psycopg or SQLAlchemy, gets an AsyncOutbox: the same with `async with`.

    Args:
        connection: the application's own; it is not closed.
        key_serializer, value_serializer: as those of Producer. Nothing is compressed.
        partitioner: "murmur2" or "crc32"; the server chooses the partition when it appends.

    Raises:
        InvalidRequestError: the connection is of another kind, or an option is unknown.
    """
    options: dict[str, Any] = {
        "key_serializer": key_serializer,
        "value_serializer": value_serializer,
        "partitioner": partitioner,
    }
    session = session_of(connection)
    if session is not None:
        from pgq.drivers.sqlalchemy_session import SessionOutbox

        return SessionOutbox(session, **options)
    return AsyncOutbox(connection, **options) if is_async(connection) else Outbox(connection, **options)
