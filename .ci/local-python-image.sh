#!/usr/bin/env bash
# Make a Docker image that stands in for the official `python:3.11-slim` where no registry of images can be reached: a Debian
# with its Python. docker-compose.yml is tested with the service built on it.
#
# Needs a Docker daemon that answers, root, and Debian or Ubuntu. Keeps an image that is there. Takes about a minute.
set -Eeuo pipefail

suite=bookworm # the Debian whose Python is 3.11
image=python:3.11-slim

docker image inspect "$image" >/dev/null 2>&1 && exit 0
if ! command -v debootstrap >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        debootstrap debian-archive-keyring >/dev/null
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'tail "$work/log" >&2' ERR
debootstrap --variant=minbase --include=python3-venv,ca-certificates "$suite" "$work/root" >"$work/log" 2>&1
ln -s python3 "$work/root/usr/bin/python"
rm -rf "$work"/root/var/cache/apt/* "$work"/root/var/lib/apt/lists/*
tar -C "$work/root" -c . | docker import \
    -c 'CMD ["python3"]' -c 'ENV LANG=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
    - "$image" >/dev/null
echo "Made a local image $image."
