"""Settings: the one place where the environment is read, and only when a client asks.

Source of the environment variables' names and defaults; docs/reference/configuration.md lists them.
"""

from __future__ import annotations

from pydantic_settings import BaseSettings, SettingsConfigDict

SCHEMA_VERSION = "0006"
"""The revision of the schema pgq that this library works with: the newest in alembic/versions."""


class Settings(BaseSettings):
    """What the environment says.

    PGQ_DSN: libpq connection string or URL. PGQ_DIRECT_DSN: one that goes through no pooler.
    """

    model_config = SettingsConfigDict(env_prefix="PGQ_")

    dsn: str | None = None
    direct_dsn: str | None = None
    connect_timeout_ms: int = 10_000
