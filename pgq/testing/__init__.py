"""What applications import in their own tests: `pytest_plugins = ["pgq.testing.plugin"]`, or these functions alone.

Nothing in pgq imports this package. pytest is needed by its module `plugin` only, Testcontainers by `containers` only.
"""

from pgq.testing.reading import async_drain, async_wait_until_consumed, drain, wait_until_consumed

__all__ = ["async_drain", "async_wait_until_consumed", "drain", "wait_until_consumed"]
