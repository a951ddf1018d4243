"""The checks of `pgq doctor`, each a function of its own: what it finds, a verdict a thing, at least one.

They change nothing, and judge only what their role may see: what it may not is a verdict, too, never a guess. From
where on something is worth a warning stands in `Limits`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from typing import Any, NamedTuple

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgq import errors
from pgq.config import SCHEMA_VERSION
from pgq.core import statements
from pgq.drivers import psycopg as driver
from pgq.drivers.sqlstate import translating
from pgq.schema import _check_free, _locked, _raw, sql
from pgq.schema.compare import differences

__all__ = ["CHECKS", "Examination", "Limits", "Status", "Verdict", "identity", "sentence"]

_OLDEST, _NEWEST = 15, 18
"""Major versions of PostgreSQL that pgq is tested with."""

_CHURNED = ("pg_attribute", "pg_class", "pg_constraint", "pg_depend", "pg_index", "pg_inherits", "pg_type")
"""Tables of the catalog whose rows come and go with segments."""

_MOST_XIDS = 1_800_000_000
"""Age of a database that is a problem; at some 2.1 thousand million the server refuses to write."""


class Status(StrEnum):
    """How bad it is: nothing to do; it will go wrong, or cannot be seen; it is wrong now."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


class Verdict(NamedTuple):
    """What a check has found, and what to do about it, a sentence each."""

    status: Status
    finding: str
    remedy: str | None = None


@dataclass(frozen=True, kw_only=True)
class Limits:
    """From where on something is worth a warning."""

    transaction_s: float = 300.0
    """Age of a transaction. Vacuum removes nothing that was deleted since, and a segment that it has read stays."""
    producer_s: float = 60.0
    """Age of a transaction that has appended. Readers of its partitions stop before its records until it ends."""
    slot_xids: int = 1_000_000
    """Transactions since the oldest one whose rows a replication slot, or a follower, keeps."""
    slot_bytes: int = 1 << 30
    """WAL that a slot keeps although nobody reads from it."""
    dead_rows: int = 100_000
    """Dead rows of a table of schema pgq or the catalog, if the living ones are fewer. Autovacuum begins far below."""
    freeze: float = 1.5
    """Age of a database, in autovacuum_freeze_max_age. Autovacuum begins at 1, so beyond it does not get on."""
    locks: float = 0.5
    """Part of the lock table that is taken, or that one query of a topic's view, or one group, takes."""
    flushes: int = 5
    """Producers for which the lock table shall suffice at once, each with all partitions of the largest topic."""
    connections: float = 0.8
    """Part of the connections that are taken."""
    overdue_s: float = 600.0
    """How long ago the service should have done it."""
    lock_timeout_ms: int = 5_000
    """How long a check waits for a lock: who asks what is wrong must not wait for what is."""


@dataclass(frozen=True)
class Examination:
    """What all checks are given."""

    connection: driver.Connection
    """Past a pooler, where PGQ_DIRECT_DSN leads."""
    dsn: str
    """That of the connection."""
    through_pooler: bool
    """Whether the DSN that is examined leads through a pooler."""
    direct: str | None
    """PGQ_DIRECT_DSN, if it belongs to the DSN that is examined."""
    role: str
    limits: Limits

    def fetch(self, statement: str, *args: Any) -> list[Any]:
        """Return the rows of one statement."""
        return self.connection.fetch(statement, *args)


def sentence(error: errors.PgqError) -> str:
    """Return an error's message on one line; libpq's have several."""
    return " ".join(str(error).split())


def identity(connection: driver.Connection) -> Any:
    """Return what tells a database from those of other servers, as far as everybody may see it."""
    return connection.fetch("select current_database()::text, pg_postmaster_start_time()")[0]


# How the server is reached


def server(seen: Examination) -> list[Verdict]:
    """Check the version, and whether the server can be written to."""
    ((version, number, is_standby, is_read_only),) = seen.fetch(
        "select current_setting('server_version'), current_setting('server_version_num')::int, pg_is_in_recovery(),"
        " current_setting('transaction_read_only')::boolean"
    )
    if found := judge_version(version, number // 10_000):
        return [found]
    if is_standby:
        return [
            Verdict(
                Status.WARNING,
                "this server is a standby: nothing can be appended or consumed here, and little be checked",
                "examine the leader, by a DSN that names all servers and has target_session_attrs=read-write",
            )
        ]
    if is_read_only:
        return [
            Verdict(
                Status.PROBLEM,
                "transactions are read-only here unless they ask for more: nothing can be appended",
                "find out why default_transaction_read_only is on, and set it off",
            )
        ]
    return [Verdict(Status.OK, f"PostgreSQL {version}")]


def judge_version(version: str, major: int) -> Verdict | None:
    """Say what is wrong with a version of PostgreSQL, if anything is."""
    supported = f"{_OLDEST} to {_NEWEST}"
    if major < _OLDEST:
        return Verdict(Status.PROBLEM, f"PostgreSQL {version} is too old: pgq needs {supported}", "upgrade the server")
    if major > _NEWEST:
        finding = f"PostgreSQL {version} is newer than those that this pgq was tested with, {supported}"
        return Verdict(Status.WARNING, finding, "see whether there is a newer pgq-log")
    return None


def pooler(seen: Examination) -> list[Verdict]:
    """Check that members of groups and the service have a way to sessions of their own."""
    if seen.direct is None:
        if not seen.through_pooler:
            return [Verdict(Status.OK, "there is no pooler between")]
        return [
            Verdict(
                Status.WARNING,
                "the DSN leads through a pooler: producers may take it, members of groups and the service may not",
                "set PGQ_DIRECT_DSN to the server's own address where those run",
            )
        ]
    try:
        with closing(driver.connect(seen.direct)) as direct:
            is_pooled, is_same = direct.pooled, identity(direct) == identity(seen.connection)
    except errors.PgqError as error:
        return [Verdict(Status.PROBLEM, f"PGQ_DIRECT_DSN does not work: {sentence(error)}", "correct PGQ_DIRECT_DSN")]
    if is_pooled:
        finding = "PGQ_DIRECT_DSN leads through a pooler: members of groups and the service are refused"
        return [Verdict(Status.PROBLEM, finding, "set PGQ_DIRECT_DSN to the server's own address")]
    if not is_same:
        finding = "PGQ_DIRECT_DSN leads to another server or database than PGQ_DSN"
        return [Verdict(Status.PROBLEM, finding, "let both lead to the same database of the leader")]
    if seen.through_pooler:
        return [Verdict(Status.OK, "PGQ_DSN leads through a pooler, PGQ_DIRECT_DSN past it")]
    return [Verdict(Status.OK, "there is no pooler between")]


def connections(seen: Examination) -> list[Verdict]:
    """Check that there are connections left for those who are not superusers."""
    ((taken, most),) = seen.fetch(
        "select (select count(*) from pg_stat_activity where datid is not null and usesysid is not null),"
        " current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int"
        " - coalesce(current_setting('reserved_connections', true)::int, 0)"  # since 16
    )
    finding = f"{taken} of {most} connections are taken"
    if taken < seen.limits.connections * most:
        return [Verdict(Status.OK, finding)]
    remedy = "end what is idle, let producers go through a pooler, or raise max_connections and restart the server"
    return [Verdict(Status.WARNING, finding, remedy)]


def role(seen: Examination) -> list[Verdict]:
    """Check that the sessions of others can be seen at all."""
    ((sees_all,),) = seen.fetch("select pg_has_role(current_user, 'pg_read_all_stats', 'usage')")
    if sees_all:
        return [Verdict(Status.OK, f"role {seen.role} sees the sessions of all roles")]
    return [
        Verdict(
            Status.WARNING,
            f"sessions of other roles are not visible to this role, {seen.role}: they are left out of what follows",
            f"grant pg_monitor to {seen.role}",
        )
    ]


# The schema and the log


def schema(seen: Examination) -> list[Verdict]:
    """Check that schema pgq is there, is ours, and is as this library makes it."""
    remedy = "run `pgq db upgrade`"
    try:
        ((installed,),) = seen.fetch(statements.SCHEMA_VERSION)
    except errors.SchemaMissingError:
        try:
            with translating():
                _check_free(seen.connection.raw)
        except errors.ForeignSchemaError as error:
            finding, _, remedy = sentence(error).rpartition(": ")
            return [Verdict(Status.PROBLEM, finding, remedy)]
        return [Verdict(Status.PROBLEM, "this database has no schema pgq", f"install it: {remedy}")]
    if installed is None or installed < SCHEMA_VERSION:
        finding = f"schema pgq is at revision {installed}, and this library at {SCHEMA_VERSION}"
        return [Verdict(Status.PROBLEM, finding, remedy)]
    if installed > SCHEMA_VERSION:
        finding = f"schema pgq is at revision {installed}, newer than this library's {SCHEMA_VERSION}"
        return [Verdict(Status.PROBLEM, finding, "upgrade pgq-log")]
    ((is_standby, may_compare),) = seen.fetch(
        "select pg_is_in_recovery(), has_database_privilege(current_database(), 'create')"
    )
    if is_standby:
        return [Verdict(Status.OK, f"revision {installed}; what is in it can be compared on the leader only")]
    if not may_compare:
        finding = f"revision {installed}; whether what is in it was changed is not visible to this role, {seen.role}"
        remedy = f"let the owner of schema pgq look, or grant {seen.role} to create schemas in this database"
        return [Verdict(Status.WARNING, finding, remedy)]
    with _locked(_patient(seen), keep=False) as connection:
        found = [text.rpartition(": ") for text in differences(_raw(connection), sql())]
    ok = Verdict(Status.OK, f"revision {installed}, as this library makes it")
    return [Verdict(Status.PROBLEM, finding, remedy) for finding, _, remedy in found] or [ok]


def _patient(seen: Examination) -> str:
    """Return the DSN with a lock_timeout; poolers refuse options."""
    if seen.connection.pooled:
        return seen.dsn
    options = conninfo_to_dict(seen.dsn).get("options") or ""
    return make_conninfo(seen.dsn, options=f"{options} -c lock_timeout={seen.limits.lock_timeout_ms:d}")


def log(seen: Examination) -> list[Verdict]:
    """Check that the log is as the catalog says: what pgq.check_log finds."""
    found = seen.fetch(
        "select concat('topic ' || topic || ', ', 'partition ' || partition || ': ', problem), remedy"
        " from pgq.check_log()"
    )
    ok = Verdict(Status.OK, "the log is as the catalog says")
    return [Verdict(Status.PROBLEM, finding, remedy) for finding, remedy in found] or [ok]


def maintenance(seen: Examination) -> list[Verdict]:
    """Check that somebody does the work of the service, and that others let it."""
    rows = seen.fetch(
        "select job, concat(finding, ' (topic ' || topic || coalesce(', partition ' || partition, '') || ')'),"
        " extract(epoch from since)::float8 from pgq.maintenance_due(make_interval(secs => $1::float8))",
        seen.limits.overdue_s,
    )
    verdicts = []
    for job, overdue in groupby(rows, lambda row: row[0]):
        (_, first, since), *more = overdue
        if job == "retention" and since is not None and since <= seen.limits.overdue_s:
            remedy = "end these transactions, or the sessions by `select pg_terminate_backend(…)`"
            verdicts.append(Verdict(Status.WARNING, f"the job {job} is held up: {first}{_more(more)}", remedy))
            continue
        when = "has never been done" if since is None else f"was done {_age(since)} ago for the last time"
        finding = f"the job {job} {when}: {first}{_more(more)}"
        remedy = "run `pgq serve`; `pgq maintain --once` does it now"
        verdicts.append(Verdict(Status.WARNING, finding, remedy))
    return verdicts or [Verdict(Status.OK, "nothing is overdue")]


# Durability

_SAID_BY_ACKS_STATUS = (
    ("synchronous_standby_names", Status.OK, None),  # is empty: a choice, and no fault
    ("min.insync.replicas", Status.PROBLEM, "bring followers back, or lower the topic's min.insync.replicas"),
    ("The owner of schema pgq", Status.WARNING, "grant pg_read_all_stats to that owner"),
    ("Only", Status.PROBLEM, "bring followers back (`pgq cluster describe`), or correct synchronous_standby_names"),
    ("fsync", Status.PROBLEM, "set fsync = on and reload the server's settings"),
    ("full_page_writes", Status.PROBLEM, "set full_page_writes = on and reload the server's settings"),
)
"""How warnings of pgq.acks_status begin, how bad they are and what to do. Any other is a warning as well."""


def durability(seen: Examination) -> list[Verdict]:
    """Check what an acknowledged record has behind it: what pgq.acks_status warns of, and synchronous_commit."""
    ((acks_all, warnings),) = seen.fetch("select acks_all, warnings from pgq.acks_status()")
    verdicts = []
    for warning in warnings:
        text = str(warning).rstrip(".")
        known = [(status, remedy) for start, status, remedy in _SAID_BY_ACKS_STATUS if text.startswith(start)]
        ((status, remedy),) = known or [(Status.WARNING, "see `pgq cluster describe`")]
        if status is not Status.OK:
            verdicts.append(Verdict(status, text, remedy))
    rows = seen.fetch("select source from pg_settings where name = 'synchronous_commit' and reset_val = 'off'")
    for (source,) in rows:
        finding = f"synchronous_commit is off by default (set by: {source}): a crash loses what was committed last"
        remedy = "set it on, and send with acks=0 what may be lost; Producer sets it by itself, SQL does not"
        verdicts.append(Verdict(Status.WARNING, finding, remedy))
    return verdicts or [Verdict(Status.OK, acks_all.rstrip("."))]


# What holds others up


def transactions(seen: Examination) -> list[Verdict]:
    """Check for transactions that vacuum and the drop of segments wait for."""
    limit = seen.limits.transaction_s
    verdicts = []
    # a snapshot of vacuum itself holds nothing up
    rows = seen.fetch(
        "select a.pid, a.application_name, a.usename::text, a.state,"
        " a.backend_xid is not null or a.backend_xmin is not null,"
        " extract(epoch from clock_timestamp() - a.xact_start)::float8 as age from pg_stat_activity a"
        " where a.datname = current_database() and a.pid <> pg_backend_pid()"
        " and a.backend_type not in ('autovacuum worker', 'parallel worker', 'walsender')"
        " and a.xact_start < clock_timestamp() - make_interval(secs => $1::float8)"
        " and not exists (select from pg_stat_progress_vacuum v where v.pid = a.pid) order by a.xact_start",
        limit,
    )
    if rows:
        (pid, application, user, state, is_seen_by_vacuum, age), *more = rows
        holds = "vacuum" if is_seen_by_vacuum else "whoever waits for its locks, such as retention"
        finding = f"a transaction of session {pid} ({application or 'no name'}, role {user}; {state}) has been open for"
        finding += f" {_age(age)} and holds up {holds}{_more(more)}"
        remedy = f"end it, or the session by `select pg_terminate_backend({pid})`"
        if state and state.startswith("idle"):
            remedy += "; idle_in_transaction_session_timeout ends such sessions"
        verdicts.append(Verdict(Status.WARNING, finding, remedy))
    rows = seen.fetch(
        "select gid, owner::text, extract(epoch from clock_timestamp() - prepared)::float8 from pg_prepared_xacts"
        " where database = current_database() and prepared < clock_timestamp() - make_interval(secs => $1::float8)"
        " order by prepared",
        limit,
    )
    if rows:
        (gid, owner, age), *more = rows
        finding = (
            f"the prepared transaction '{gid}' of role {owner} is {_age(age)} old and holds up vacuum{_more(more)}"
        )
        remedy = f"`commit prepared '{gid}'` or `rollback prepared '{gid}'`, as whoever prepared it would"
        verdicts.append(Verdict(Status.WARNING, finding, remedy))
    return verdicts or [Verdict(Status.OK, f"none is older than {_age(limit)}")]


def slots(seen: Examination) -> list[Verdict]:
    """Check for replication slots, and followers without one, that make the server keep what it need not."""
    limits = seen.limits
    rows = seen.fetch(
        "select slot_name::text, active, coalesce(greatest(age(xmin), age(catalog_xmin)), 0),"
        " coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::int8 from pg_replication_slots order by 1"
    )
    verdicts = []
    for name, is_active, xids, size in rows:
        remedy = f"let its reader catch up, or drop it: `select pg_drop_replication_slot('{name}')`"
        if xids > limits.slot_xids:
            finding = f"replication slot {name} keeps deleted rows of the last {xids:,} transactions from vacuum"
            verdicts.append(Verdict(Status.WARNING, finding, remedy))
        if not is_active and size > limits.slot_bytes:
            finding = f"replication slot {name} has no reader and keeps {size / (1 << 20):,.0f} MiB of WAL"
            verdicts.append(Verdict(Status.WARNING, finding, remedy))
    rows = seen.fetch(
        "select application_name, age(backend_xmin) from pg_stat_activity"
        " where backend_type = 'walsender' and age(backend_xmin) > $1::int order by 1",
        limits.slot_xids,
    )
    for name, xids in rows:
        finding = f"follower {name} keeps deleted rows of the last {xids:,} transactions from vacuum"
        remedy = "end the long query that runs there, or set hot_standby_feedback = off there"
        verdicts.append(Verdict(Status.WARNING, finding, remedy))
    return verdicts or [Verdict(Status.OK, "none holds up vacuum or fills the disk with WAL")]


def producers(seen: Examination) -> list[Verdict]:
    """Check for transactions that have appended and keep readers from going on."""
    rows = seen.fetch(
        "select producer_pid, producer_application, producer_prepared, extract(epoch from max(producer_age))::float8,"
        " min(format('topic %s, partition %s', topic, partition)), count(*)"
        " from pgq.partition_status where producers > 0 group by 1, 2, 3"
        " having coalesce(max(producer_age) > make_interval(secs => $1::float8), true) order by 4 desc nulls last",
        seen.limits.producer_s,
    )
    verdicts = []
    for pid, application, gid, age, place, count in rows:
        who = (
            f"the prepared transaction '{gid}'"
            if gid
            else f"a transaction of session {pid} ({application or 'no name'})"
        )
        where = place + (f" and {count - 1} more" if count > 1 else "")
        if age is None:
            finding = f"{who} has appended to {where}; since when is not visible to the owner of schema pgq"
            verdicts.append(Verdict(Status.WARNING, finding, "grant pg_read_all_stats to that owner"))
            continue
        finding = f"{who} has held up the readers of {where} for {_age(age)}"
        remedy = f"commit it or roll it back{'' if gid else f'; `select pg_terminate_backend({pid})` rolls it back'}"
        verdicts.append(Verdict(Status.WARNING, finding, remedy))
    return verdicts or [Verdict(Status.OK, f"none has held up readers for {_age(seen.limits.producer_s)}")]


# What wears out


def vacuum(seen: Examination) -> list[Verdict]:
    """Check that autovacuum runs, and for tables that it does not get to."""
    verdicts = [
        Verdict(
            Status.PROBLEM,
            f"{name} is off: dead rows stay, and commits and joins of groups become slower and slower",
            f"set {name} = on and reload the server's settings",
        )
        for (name,) in seen.fetch(
            "select name from unnest(array['autovacuum', 'track_counts']) name where not current_setting(name)::boolean"
        )
    ]
    rows = seen.fetch(
        "select c.oid::regclass::text from pg_class c, pg_options_to_table(c.reloptions) o"
        " where c.relnamespace in ('pgq'::regnamespace, 'pgq_log'::regnamespace)"
        " and o.option_name = 'autovacuum_enabled' and not o.option_value::boolean order by 1"
    )
    if rows:
        (name,), *more = rows
        finding = f"autovacuum is off for table {name}{_more(more)}"
        verdicts.append(Verdict(Status.WARNING, finding, f"alter table {name} reset (autovacuum_enabled)"))
    # making and dropping segments changes the catalog; a clone has its rows, and not what statistics know of them
    rows = seen.fetch(
        "select s.relid::regclass::text, s.schemaname = 'pgq', s.n_dead_tup, x.living"
        " from pg_stat_all_tables s join pg_class c on c.oid = s.relid"
        " cross join lateral (select greatest(s.n_live_tup, c.reltuples)::int8) x (living)"
        " where (s.schemaname = 'pgq' or s.schemaname = 'pg_catalog' and s.relname = any ($2::text[]))"
        " and s.n_dead_tup > $1::int8 and s.n_dead_tup > x.living order by s.n_dead_tup desc",
        seen.limits.dead_rows,
        list(_CHURNED),
    )
    for name, is_ours, dead, live in rows:
        finding = f"table {name} has {dead:,} dead rows and {live:,} living ones: autovacuum is held up or too slow"
        remedy = f"end old transactions first, if there are any above; then `vacuum (verbose) {name}`"
        remedy += "" if is_ours else " as the database's owner"
        verdicts.append(Verdict(Status.WARNING, finding, remedy))
    return verdicts or [
        Verdict(Status.OK, "autovacuum is on, and no table of schema pgq or the catalog has many dead rows")
    ]


def wraparound(seen: Examination) -> list[Verdict]:
    """Check that transaction ids, of which PostgreSQL has 2^31, are given back in time in all databases."""
    rows = seen.fetch(
        "select distinct on (kind) kind, name, age, most from ("
        " select 'transaction ids', datname::text, age(datfrozenxid), current_setting('autovacuum_freeze_max_age')::int"
        "   from pg_database"
        " union all"
        " select 'multixact ids', datname::text, mxid_age(datminmxid),"
        "        current_setting('autovacuum_multixact_freeze_max_age')::int"
        "   from pg_database) x (kind, name, age, most)"
        " order by kind desc, age desc"
    )
    verdicts = []
    for kind, name, age, freeze in rows:
        if age > min(seen.limits.freeze * freeze, _MOST_XIDS):
            status = Status.PROBLEM if age > _MOST_XIDS else Status.WARNING
            finding = (
                f"database {name} has kept {age:,} {kind}, and autovacuum should have frozen them from {freeze:,} on"
            )
            remedy = (
                f"end old transactions first, if there are any above; then `vacuum (freeze)` as superuser in {name}"
            )
            verdicts.append(Verdict(status, finding, remedy))
    return verdicts or [
        Verdict(Status.OK, f"the oldest database has kept {rows[0][2]:,} transaction ids of 2,147,483,647")
    ]


def locks(seen: Examination) -> list[Verdict]:
    """Check that the lock table, which all sessions share, suffices for the largest topics, and for all partitions."""
    limits = seen.limits
    ((places, sessions, taken),) = seen.fetch(
        "select l.a * l.b, l.b, (select count(*) from pg_locks where not fastpath and mode <> 'SIReadLock')"
        " from (select current_setting('max_locks_per_transaction')::int8,"
        " current_setting('max_connections')::int8 + current_setting('max_prepared_transactions')::int8) l (a, b)"
    )
    verdicts = []

    def raise_to(wanted: float) -> str:
        each = 64
        while each * sessions < wanted:
            each *= 2
        return f"set max_locks_per_transaction = {each} and restart the server"

    if taken > limits.locks * places:
        finding = f"{taken:,} locks are taken, and the lock table has room for about {places:,}"
        remedy = f"see in pg_locks whose they are, or {raise_to(2 * places)}"
        verdicts.append(Verdict(Status.WARNING, finding, remedy))
    topics = seen.fetch("select topic, partitions::int8, segments from pgq.topic_status where state = 'ready'")
    # each segment is a table with a primary key and an index on time
    name, _, segments = max(topics, key=lambda row: row[2], default=("", 0, 0))
    if 3 * segments > limits.locks * places:
        finding = (
            f"a query of pgq_topic.{name} without a condition takes some {3 * segments:,} locks of about {places:,}"
        )
        remedy = f"{raise_to(3 * segments / limits.locks)}, or ask for a partition and a range of offsets"
        verdicts.append(Verdict(Status.WARNING, finding, remedy))
    # of each partition that it appends to a producer locks the base, the table and the segment
    name, partitions, _ = max(topics, key=lambda row: row[1], default=("", 0, 0))
    if 3 * partitions * limits.flushes > places:
        finding = f"{places // (3 * partitions)} producers that append to all {partitions} partitions of topic {name}"
        finding += f" at the same time fill the lock table of about {places:,}: then all sessions get errors"
        verdicts.append(Verdict(Status.WARNING, finding, raise_to(3 * partitions * limits.flushes)))
    # for each partition that it holds a group has the claim, and looks at the sequence
    partitions = sum(row[1] for row in topics)
    if 2 * partitions > limits.locks * places:
        finding = f"a group that reads all {partitions:,} partitions takes some {2 * partitions:,} locks"
        finding += f" of about {places:,}"
        verdicts.append(Verdict(Status.WARNING, finding, raise_to(2 * partitions / limits.locks)))
    ok = Verdict(Status.OK, f"taken: {taken:,} of about {places:,}, enough for the largest topics")
    return verdicts or [ok]


Check = Callable[[Examination], list[Verdict]]

CHECKS: tuple[tuple[Check, frozenset[str]], ...] = (
    (server, frozenset()),
    (pooler, frozenset()),
    (connections, frozenset()),
    (role, frozenset()),
    (schema, frozenset()),
    (log, frozenset({"schema", "leader"})),
    (maintenance, frozenset({"schema", "leader"})),
    (durability, frozenset({"schema", "leader"})),
    (transactions, frozenset({"leader"})),
    (slots, frozenset({"leader"})),
    (producers, frozenset({"schema", "leader"})),
    (vacuum, frozenset({"schema", "leader"})),
    (wraparound, frozenset({"leader"})),
    (locks, frozenset({"schema", "leader"})),
)
"""All checks, in the order in which they are made, and what each of them needs: the schema, the leader."""


def _age(seconds: float) -> str:
    for unit, name in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} s"


def _more(more: list[Any]) -> str:
    return f"; and {len(more)} more" if more else ""
