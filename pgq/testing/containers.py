"""PostgreSQL with pgq's schema in a container, by Testcontainers."""

from __future__ import annotations

from typing import Any, Self

from pgq import schema

try:
    from testcontainers.community.postgres import PostgresContainer
except ImportError as error:
    raise ImportError(
        "Testcontainers is not installed, or is older than 4.15: pip install 'pgq-log[testing]'"
    ) from error

__all__ = ["PgqContainer"]


class PgqContainer(PostgresContainer):
    """
    PostgreSQL container whose database holds pgq's schema.

    To get a URL for SQLAlchemy, pass in the name of its :code:`driver`.

    Example:

        .. doctest::

            >>> from pgq import Admin
            >>> from pgq.testing.containers import PgqContainer

            >>> with PgqContainer("postgres:18") as container:
            ...     with Admin(container.dsn) as admin:
            ...         admin.create_topic("orders", partitions=3).partitions
            3
    """

    def __init__(
        self,
        image: str = "postgres:18",
        port: int = 5432,
        username: str | None = None,
        password: str | None = None,
        dbname: str | None = None,
        driver: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(image, port, username, password, dbname, driver, **kwargs)

    @property
    def dsn(self) -> str:
        """The URL of the database as libpq, psycopg, asyncpg and pgq's clients read it."""
        return str(self.get_connection_url(driver=None))

    def start(self) -> Self:
        """Start the container, wait until PostgreSQL answers, and install the schema.

        Raises:
            UnsupportedVersionError: the image's PostgreSQL is older than 15. The container is removed.
        """
        super().start()
        try:
            schema.upgrade(self.dsn)
        except BaseException:
            self.stop()
            raise
        return self
