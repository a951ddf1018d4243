#!/bin/bash
# The first start of the leader, run by the image: roles, the application's database, who may follow, whom commits wait for.
set -Eeuo pipefail

psql -v ON_ERROR_STOP=1 -U postgres -d postgres \
    -v app_password="$PGQ_APP_PASSWORD" -v replication_password="$PGQ_REPLICATION_PASSWORD" <<'SQL'
create role replicator login replication password :'replication_password';
create role app login password :'app_password';
-- to see which followers are in sync, for min.insync.replicas
grant pg_read_all_stats to app;
create database app owner app;
-- takes effect at the restart that follows: here, commits would wait for followers that are not made yet
alter system set synchronous_standby_names = 'ANY 1 (pgq2, pgq3)';
SQL
printf 'host replication replicator all scram-sha-256\n' >>"$PGDATA/pg_hba.conf"
