# For .ci/run to source: a Docker daemon and the images of PostgreSQL and Python, for the tests that use a container.
#
# Every step has a time limit. Where something cannot be had, one line says so, and those tests report as skipped.

dockerd_pid=
dockerd_log=

prepare_docker() { # major versions of PostgreSQL
    if ! docker_answers; then
        install_docker && start_docker || return 0
    fi
    install_compose
    prepare_python
    local major
    for major in "$@"; do
        docker image inspect "postgres:$major" >/dev/null 2>&1 && continue
        timeout 90 docker pull --quiet "postgres:$major" && continue
        echo "The image postgres:$major cannot be pulled: making one."
        timeout 400 .ci/local-postgres-image.sh "$@" || echo 'No image could be made: tests in a container are skipped.'
        return 0
    done
}

prepare_python() {
    local image=python:3.11-slim
    docker image inspect "$image" >/dev/null 2>&1 && return
    timeout 90 docker pull --quiet "$image" && return
    echo "The image $image cannot be pulled: making one."
    timeout 400 .ci/local-python-image.sh || echo 'No image could be made: the service is not tested in a container.'
}

install_compose() {
    command -v docker-compose >/dev/null || docker compose version >/dev/null 2>&1 && return
    [ "$(id -u)" -eq 0 ] && timeout 300 env DEBIAN_FRONTEND=noninteractive \
        sh -c 'apt-get update -qq && apt-get install -y -qq --no-install-recommends docker-compose' >/dev/null && return
    echo 'docker-compose cannot be installed: its tests are skipped.'
}

docker_answers() {
    timeout 10 docker info >/dev/null 2>&1
}

install_docker() {
    command -v dockerd >/dev/null && command -v docker >/dev/null && return
    if [ "$(id -u)" -ne 0 ]; then
        echo 'No Docker daemon answers, and only root can install one: tests in a container are skipped.'
        return 1
    fi
    local package
    for package in docker.io docker-cli; do # since Debian 13 the command is a package of its own
        command -v docker >/dev/null && command -v dockerd >/dev/null && break
        timeout 300 env DEBIAN_FRONTEND=noninteractive \
            sh -c "apt-get update -qq && apt-get install -y -qq --no-install-recommends $package" >/dev/null && continue
        echo "The package $package cannot be installed: tests in a container are skipped."
        return 1
    done
}

start_docker() {
    dockerd_log=$(mktemp)
    # in a session of its own, so that Ctrl-C leaves it to the tests to remove their containers
    setsid dockerd >"$dockerd_log" 2>&1 &
    dockerd_pid=$!
    local attempt
    for attempt in $(seq 60); do
        docker_answers && return
        kill -0 "$dockerd_pid" 2>/dev/null || break
        sleep 0.5
    done
    echo "Docker does not start here, so tests in a container are skipped: $(tail -n 1 "$dockerd_log")"
    stop_docker
    return 1
}

stop_docker() { # if this script has started it
    [ -n "$dockerd_pid" ] || return 0
    kill "$dockerd_pid" 2>/dev/null || true
    wait "$dockerd_pid" 2>/dev/null || true
    rm -f "$dockerd_log"
    dockerd_pid=
}
