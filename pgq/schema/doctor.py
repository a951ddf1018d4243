"""Examine a database for what is wrong, or soon will be, for pgq: what `pgq doctor` prints.

The checks are in pgq.schema.checks. This module connects, decides which of them can be made, and turns what keeps one
from its answer into a finding.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import ExitStack, closing, suppress
from typing import NamedTuple

import psycopg

from pgq import errors
from pgq.config import SCHEMA_VERSION
from pgq.core import statements
from pgq.drivers import psycopg as driver
from pgq.drivers.dsn import direct_dsn, resolve_dsn
from pgq.schema.checks import CHECKS, Examination, Limits, Status, Verdict, identity, sentence

__all__ = ["Finding", "examine"]

_STATEMENT_TIMEOUT_MS = 60_000
"""How long a check may take."""


class Finding(NamedTuple):
    """What a check has found and what to do about it, a sentence each; nothing is to be done where all is well."""

    check: str
    status: Status
    finding: str
    remedy: str | None


def examine(dsn: str | None = None, *, limits: Limits | None = None, skip: Collection[str] = ()) -> list[Finding]:
    """Make all checks but those to be skipped, by name, and return what they find, in their order.

    Changes nothing, and takes no lock that others wait for longer than a moment; the schema is compared with a fresh
    install that is rolled back. Checks whose ground is missing (the schema, the leader) are left out: that it is
    missing has been found before. A server that does not answer, or a DSN that is none, is a finding as well.

    Parameters:
        dsn: the database, else PGQ_DSN. Where that leads through a pooler, PGQ_DIRECT_DSN is used if it is set.
        limits: from where on something is worth a warning.
    """
    findings: list[Finding] = []
    with ExitStack() as stack:
        try:
            seen = _connect(stack, dsn, limits or Limits())
            ground = _ground(seen)
        except errors.PgqError as error:
            remedy = "start the server, or correct the DSN: --dsn, else PGQ_DSN"
            return [Finding("server", Status.PROBLEM, sentence(error), remedy)]
        for check, needs in CHECKS:
            if check.__name__ in skip or not needs <= ground:
                continue
            try:
                verdicts = check(seen)
            except errors.PgqError as error:
                verdicts = [_failure(seen, error)]
            findings += [Finding(check.__name__, *verdict) for verdict in verdicts]
            if seen.connection.closed:
                break
    return findings


def _connect(stack: ExitStack, dsn: str | None, limits: Limits) -> Examination:
    settings = (
        f"set lock_timeout = {limits.lock_timeout_ms:d}",
        f"set statement_timeout = {_STATEMENT_TIMEOUT_MS:d}",
    )
    connection = stack.enter_context(closing(driver.connect(dsn, *settings)))
    used, through_pooler, direct = resolve_dsn(dsn), connection.pooled, _direct_dsn(dsn)
    if through_pooler and direct is not None:
        with suppress(errors.PgqError):  # which one of the checks says
            past_it = stack.enter_context(closing(driver.connect(direct, *settings)))
            if not past_it.pooled and identity(past_it) == identity(connection):
                connection, used = past_it, resolve_dsn(direct)
    ((role,),) = connection.fetch("select current_user::text")
    return Examination(connection, used, through_pooler, direct, role, limits)


def _direct_dsn(dsn: str | None) -> str | None:
    """Return PGQ_DIRECT_DSN, unless it stands beside a PGQ_DSN that is not what is examined."""
    direct = direct_dsn(None)
    try:
        return direct if resolve_dsn(dsn) == resolve_dsn(None) else None
    except errors.InvalidRequestError:  # there is no PGQ_DSN
        return direct


def _ground(seen: Examination) -> set[str]:
    """Return what checks can build on here: the schema that they were written for, the leader."""
    ground = set()
    with suppress(errors.SchemaMissingError, errors.DatabaseError):
        if seen.fetch(statements.SCHEMA_VERSION) == [(SCHEMA_VERSION,)]:
            ground.add("schema")
    if seen.fetch("select pg_is_in_recovery()") == [(False,)]:
        ground.add("leader")
    return ground


def _failure(seen: Examination, error: errors.PgqError) -> Verdict:
    """Turn what kept a check from its answer into a verdict."""
    if isinstance(error.__cause__, psycopg.errors.InsufficientPrivilege):
        return Verdict(
            Status.WARNING,
            f"not visible to this role, {seen.role}: {sentence(error)}",
            f"grant pg_monitor and pgq_admin to {seen.role}, or let the owner of schema pgq look",
        )
    finding = f"this could not be looked at: {sentence(error)}"
    if isinstance(error.__cause__, psycopg.errors.OutOfMemory):
        # nearly always that of locks, whose hint a driver may not show
        remedy = "raise max_locks_per_transaction and restart the server; `select * from pg_locks` shows who fills the"
        return Verdict(Status.PROBLEM, finding, f"{remedy} lock table, and how full it is")
    if error.retriable and not seen.connection.closed:
        remedy = "look again; if it stays, `select * from pg_locks where not granted` shows what waits for what"
        return Verdict(Status.WARNING, finding, remedy)
    return Verdict(Status.PROBLEM, finding, "mend what the other findings name, and look again")
