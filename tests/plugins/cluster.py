"""A leader and two followers of a test's own, with a migrated database that belongs to pgq_app."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from pgq import schema
from pgq.embedded_cluster import EmbeddedCluster
from tests.plugins.postgres import APPLICATION, SETTINGS

DATABASE = "app"

MakeCluster = Callable[[int], EmbeddedCluster]


@pytest.fixture
def make_cluster(bin_dir: Path, server_folder: Path) -> Iterator[MakeCluster]:
    """Make a cluster of three in which a commit waits for so many followers."""
    with ExitStack() as stack:

        def make(synchronous: int) -> EmbeddedCluster:
            cluster = EmbeddedCluster(
                server_folder / "cluster", synchronous=synchronous, bin_dir=bin_dir, settings=SETTINGS
            )
            stack.enter_context(cluster)
            with psycopg.connect(cluster.leader.dsn(), autocommit=True) as conn:
                conn.execute(f"create role {APPLICATION} login in role pg_read_all_stats")
                conn.execute(f"create database {DATABASE} owner {APPLICATION}")
            schema.upgrade(cluster.leader.dsn(DATABASE, user=APPLICATION))
            return cluster

        yield make


@pytest.fixture
def cluster(make_cluster: MakeCluster) -> EmbeddedCluster:
    """A cluster of three in which a commit waits for one of the two followers."""
    return make_cluster(1)
