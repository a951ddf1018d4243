#!/bin/bash
# What the images of local-postgres-image.sh run: make the data folder if it is empty, then become the command.
#
# The server that runs the scripts of /docker-entrypoint-initdb.d listens on no address, as in the official image: whoever
# waits for the port waits for the real one.
set -Eeuo pipefail

export POSTGRES_USER=${POSTGRES_USER:-postgres}
export POSTGRES_DB=${POSTGRES_DB:-$POSTGRES_USER}

in_database() { # database, arguments of psql
    psql -v ON_ERROR_STOP=1 -h /var/run/postgresql -U "$POSTGRES_USER" --no-password -d "$@"
}

make_data_folder() {
    local method=${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256}
    if [ -z "${POSTGRES_PASSWORD:-}" ] && [ "$method" != trust ]; then
        echo 'Error: POSTGRES_PASSWORD is not set' >&2
        exit 1
    fi
    # POSTGRES_INITDB_ARGS is a list of options
    # shellcheck disable=SC2086
    initdb -U "$POSTGRES_USER" --pwfile=<(printf '%s\n' "${POSTGRES_PASSWORD:-none}") --auth-local=trust \
        --auth-host="$method" -E UTF8 --locale=C.UTF-8 ${POSTGRES_INITDB_ARGS:-}
    printf '\nhost all all all %s\n' "$method" >>"$PGDATA/pg_hba.conf"
    printf "listen_addresses = '*'\nunix_socket_directories = '/var/run/postgresql, /tmp'\n" >>"$PGDATA/postgresql.conf"
}

run_scripts() {
    pg_ctl -o "-c listen_addresses=''" -w start
    [ "$POSTGRES_DB" = postgres ] || in_database postgres -c "create database \"$POSTGRES_DB\""
    local file
    for file in /docker-entrypoint-initdb.d/*; do
        case $file in
        *.sh) if [ -x "$file" ]; then "$file"; else . "$file"; fi ;;
        *.sql) in_database "$POSTGRES_DB" -f "$file" ;;
        esac
    done
    pg_ctl -m fast -w stop
    echo
    echo 'PostgreSQL init process complete; ready for start up.'
    echo
}

case ${1:-} in -*) set -- postgres "$@" ;; esac
if [ "${1:-}" = postgres ]; then
    if [ "$(id -u)" = 0 ]; then
        mkdir -p "$PGDATA"
        chown -R postgres:postgres "$PGDATA" /var/run/postgresql
        chmod 700 "$PGDATA"
        exec gosu postgres "$0" "$@"
    fi
    if [ ! -s "$PGDATA/PG_VERSION" ]; then
        make_data_folder
        run_scripts
    fi
fi
exec "$@"
