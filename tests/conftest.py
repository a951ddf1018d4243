"""What all tests share. The fixtures stand in tests/plugins, one file a subject."""

from __future__ import annotations

pytest_plugins = ["tests.plugins.postgres", "tests.plugins.sessions"]
