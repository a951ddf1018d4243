"""What must not be in the history of a group, and the triggers that write down what the server saw of it.

Anomalies:
    unread              an acknowledged record that no member was given
    repeated            without any fault: a record that was given out twice
    two owners          commits under an epoch after one under a later epoch; or an epoch that two members have
    went back           a committed offset below the one committed before
    duplicate, missing  of members that commit in one transaction: a record whose copy is not there just once
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import Any

import psycopg

Place = tuple[int, int]
"""Partition and offset."""

AUDIT = """
create table audit_commit (serial bigint, partition_id int, "offset" bigint, epoch bigint);
create function audit_commit() returns trigger language plpgsql as $$
begin
    insert into public.audit_commit values (new.serial, new.partition_id, new."offset", new.epoch);
    return new;
end $$;
create trigger audit after insert on pgq.committed_offset for each row execute function audit_commit();
create table audit_claim (partition_id int, epoch bigint, member_id bigint);
create function audit_claim() returns trigger language plpgsql as $$
begin insert into public.audit_claim values (new.partition_id, new.epoch, new.member_id); return new; end $$;
create trigger audit after update on pgq.partition_owner for each row execute function audit_claim();
create table done (partition int, "offset" bigint);
"""


def audited(conn: psycopg.Connection[Any]) -> tuple[list[tuple[int, int, int]], list[tuple[int, int, int]]]:
    """Return the commits, in the order of their serials, and the claims, as the triggers wrote them down."""
    commits = conn.execute('select partition_id, "offset", epoch from audit_commit order by serial').fetchall()
    claims = conn.execute("select partition_id, epoch, member_id from audit_claim").fetchall()
    return commits, claims


def check_deliveries(acknowledged: AbstractSet[Place], given: Counter[Place], *, once: bool) -> list[str]:
    """See that every acknowledged record was given to a member; just once, if nothing has happened to any."""
    anomalies = [f"unread: {place}" for place in sorted(acknowledged - given.keys())]
    if once:
        anomalies += [f"repeated: {place} {count} times" for place, count in given.items() if count > 1]
    return anomalies


def check_commits(commits: Iterable[tuple[int, int, int]]) -> list[str]:
    """See that no (partition_id, offset, epoch) goes back, and that no owner commits after its successor."""
    anomalies = []
    last: dict[int, tuple[int, int]] = {}
    for partition_id, offset, epoch in commits:
        before_offset, before_epoch = last.get(partition_id, (-1, -1))
        if offset < before_offset:
            anomalies.append(f"went back: partition_id {partition_id} from {before_offset} to {offset}")
        if epoch < before_epoch:
            anomalies.append(f"two owners: partition_id {partition_id} epoch {epoch} after {before_epoch}")
        last[partition_id] = offset, max(epoch, before_epoch)
    return anomalies


def check_claims(claims: Iterable[tuple[int, int, int]]) -> list[str]:
    """See that no two claims of (partition_id, epoch, member_id) have the same epoch."""
    counts = Counter((partition_id, epoch) for partition_id, epoch, _ in claims)
    return [f"two owners: partition_id {p} epoch {e} of {count}" for (p, e), count in counts.items() if count > 1]


def check_copies(name: str, acknowledged: AbstractSet[Place], copies: Counter[Place]) -> list[str]:
    """See that there is one copy of each record, whatever has happened."""
    anomalies = [f"duplicate: {name} of {place} {count} times" for place, count in copies.items() if count > 1]
    return anomalies + [f"missing: {name} of {place}" for place in sorted(acknowledged - copies.keys())]
