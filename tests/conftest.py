"""What all tests share. The fixtures stand in tests/plugins, one file a subject."""

from __future__ import annotations

import signal

pytest_plugins = [
    "tests.plugins.postgres",
    "tests.plugins.sessions",
    "tests.plugins.proxy",
    "tests.plugins.pooler",
    "tests.plugins.cluster",
    "tests.plugins.compacting",
]


def pytest_configure() -> None:
    """Have Ctrl-C end the programs that tests start: background jobs, as CI's may be, inherit that it is ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
