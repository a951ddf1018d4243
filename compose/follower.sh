#!/bin/bash
# A follower of pgq1: copy it at the first start, then follow it. The argument is the name that the leader knows it by.
set -Eeuo pipefail
name=$1

if [ "$(id -u)" = 0 ]; then
    chown postgres:postgres "${PGDATA%/*}"
    exec gosu postgres bash "$0" "$@"
fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    rm -rf "$PGDATA.part" # what was cut short
    PGPASSWORD=$PGQ_REPLICATION_PASSWORD pg_basebackup --no-password -R -X stream -c fast -D "$PGDATA.part" \
        -d "host=pgq1 user=replicator application_name=$name"
    chmod 700 "$PGDATA.part"
    mv "$PGDATA.part" "$PGDATA"
fi
exec postgres -c cluster_name="$name" -c hot_standby_feedback=on
