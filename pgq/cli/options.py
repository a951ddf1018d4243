"""What several commands take: the database, names that complete themselves, partitions, text with escapes."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from pgq.cli.db import Dsn
from pgq.types import TopicPartition

__all__ = [
    "DirectDsn",
    "Dsn",
    "GroupId",
    "GroupIds",
    "TopicName",
    "fetch",
    "parse_partitions",
    "parse_time",
    "unescape",
]

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


def _complete_group(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the groups that begin so."""
    from pgq import Admin
    from pgq.errors import PgqError

    try:
        with Admin(ctx.params.get("dsn")) as admin:
            return [group.group_id for group in admin.list_consumer_groups() if group.group_id.startswith(incomplete)]
    except PgqError:
        return []


DirectDsn = Annotated[
    str | None,
    # without envvar: a given DSN wins over PGQ_DIRECT_DSN, and PGQ_DSN does not
    typer.Option("--dsn", help="libpq connection string or URL. Default: PGQ_DIRECT_DSN, else PGQ_DSN."),
]
TopicName = Annotated[str, typer.Argument(help="Name of the topic.", autocompletion=_complete_topic)]
GroupId = Annotated[str, typer.Argument(metavar="GROUP", help="Id of the group.", autocompletion=_complete_group)]
GroupIds = Annotated[
    list[str] | None, typer.Argument(metavar="GROUP", help="Ids of groups.", autocompletion=_complete_group)
]


def fetch(dsn: str | None, statement: str, *args: Any) -> list[Any]:
    """Return the rows of one statement, on a connection of its own."""
    from pgq.sync.client import READ_COMMITTED, connect

    connection = connect(dsn, READ_COMMITTED)
    try:
        rows: list[Any] = connection.fetch(statement, *args)
    finally:
        connection.close()
    return rows


def parse_partitions(texts: list[str]) -> dict[str, Any]:
    """Return the topics, and the partitions, that options of the form TOPIC or TOPIC:0,1,2 name.

    A colon cannot be part of a topic's name.
    """
    topics: list[str] = []
    partitions: list[TopicPartition] = []
    for text in texts:
        topic, found, numbers = text.partition(":")
        if not found:
            topics.append(topic)
            continue
        for number in numbers.split(","):
            if not (number.isascii() and number.isdecimal()):
                raise typer.BadParameter(f"{text!r} is no TOPIC or TOPIC:0,1,2", param_hint="--topic")
            partitions.append(TopicPartition(topic, int(number)))
    return {"topics": topics, "partitions": partitions}


def parse_time(text: str, option: str) -> datetime:
    """Return the time that ISO-8601 text names, in UTC if it names no zone."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is no time: give ISO-8601, such as 2026-05-31T12:00:00Z", param_hint=option
        ) from None
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


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
