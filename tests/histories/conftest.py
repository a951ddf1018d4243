"""Fixtures of the histories."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pgq.embedded import EmbeddedServer


@pytest.fixture
def own_dsn(own_server: EmbeddedServer) -> str:
    """The DSN of a database with the schema pgq on a server that may be killed."""
    from pgq import schema

    schema.upgrade(own_server.dsn())
    return own_server.dsn()
