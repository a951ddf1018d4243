"""Which database: the DSN given, or the environment's; one notation, libpq's, for both drivers."""

from __future__ import annotations

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import ValidationError

from pgq import errors
from pgq.config import Settings


def direct_dsn(dsn: str | None) -> str | None:
    """Return the DSN given, else PGQ_DIRECT_DSN, else None for PGQ_DSN: for sessions of one client alone."""
    return dsn if dsn is not None else _settings().direct_dsn


def _settings() -> Settings:
    try:
        return Settings()
    except ValidationError as error:
        wrong = error.errors()[0]
        raise errors.InvalidRequestError(
            f"environment variable PGQ_{str(wrong['loc'][0]).upper()}: {wrong['msg']}"
        ) from error


def resolve_dsn(dsn: str | None) -> str:
    """Return the DSN given, else PGQ_DSN, with a connect_timeout.

    Raises:
        InvalidRequestError: there is neither, or it is no connection string.
    """
    settings = _settings()
    dsn = dsn if dsn is not None else settings.dsn
    if not dsn:
        raise errors.InvalidRequestError(
            "no DSN: pass dsn='postgresql://user@host/database', or set PGQ_DSN (`pgq dev` prints one)"
        )
    try:
        given = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError as error:
        raise errors.InvalidRequestError(f"not a connection string: {error}") from error
    given.setdefault("connect_timeout", str(max(2, settings.connect_timeout_ms // 1000)))
    given.setdefault("application_name", "pgq")
    return make_conninfo("", **given)
