"""What several commands take: the database, a topic's name that completes itself, text with escapes."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from pgq.cli.db import Dsn

__all__ = ["Dsn", "TopicName", "unescape"]

_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|.)", re.DOTALL)
_CHARACTERS = {"n": b"\n", "t": b"\t", "r": b"\r", "0": b"\0", "\\": b"\\"}


def _complete_topic(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the topics that begin so. A shell that waits for completion is told nothing of errors."""
    from pgq import Admin
    from pgq.errors import PgqError

    try:
        with Admin(ctx.params.get("dsn")) as admin:
            return [topic.name for topic in admin.list_topics() if topic.name.startswith(incomplete)]
    except PgqError:
        return []


TopicName = Annotated[str, typer.Argument(help="Name of the topic.", autocompletion=_complete_topic)]


def unescape(text: str) -> bytes:
    r"""Return the bytes of a text in which \n, \t, \r, \0, \\ and \xNN stand for characters, as kcat reads them.

    Any other backslash stands for itself.
    """
    result: list[bytes] = []
    end = 0
    for found in _ESCAPE.finditer(text):
        name: Any = found[1]
        result.append(text[end : found.start()].encode())
        if len(name) == 3:
            result.append(bytes.fromhex(name[1:]))
        else:
            result.append(_CHARACTERS.get(name) or found[0].encode())
        end = found.end()
    result.append(text[end:].encode())
    return b"".join(result)
