"""SIGTERM and SIGINT end what runs, gracefully, for as long as it runs."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def stopping(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` at the first of these signals, and what the application had for it; in the main thread only.

    What was there before is put back at the first signal, so that the next one does what it always did, and at the end.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {}

    def restore() -> None:
        while before:
            number, earlier = before.popitem()
            if signal.getsignal(number) is handle:  # else the application has set its own meanwhile
                signal.signal(number, earlier)

    def handle(number: int, frame: Any) -> None:
        earlier: Any = before.get(number)
        stop()
        restore()
        if _is_applications(earlier):
            earlier(number, frame)

    for number in _SIGNALS:
        earlier = signal.getsignal(number)
        # None: not set from Python, so that it could not be put back. What is ignored, as in the background, stays so
        if earlier is not None and earlier is not signal.SIG_IGN:
            before[number] = earlier
            signal.signal(number, handle)
    try:
        yield
    finally:
        restore()


def _is_applications(handler: Any) -> bool:
    """Whether it is a handler of the application's, and not what Python or asyncio.run have set to end the program."""
    its_module = getattr(getattr(handler, "func", handler), "__module__", "")
    return callable(handler) and handler is not signal.default_int_handler and its_module != "asyncio.runners"
