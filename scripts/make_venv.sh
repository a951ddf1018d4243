#!/bin/sh
# Make the virtual environment $1 with Python 3.11 or later: $2 if given, else the newest one found.
# Keeps an environment that works. Says what to install if there is no such Python.
set -eu

venv=$1
wanted=${2:-}
is_recent='import sys; sys.exit(sys.version_info < (3, 11))'

if "$venv/bin/python" -c "$is_recent; import pip" 2>/dev/null; then
    exit 0
fi

without_venv=
for python in ${wanted:-python3.14 python3.13 python3.12 python3.11 python3 python}; do
    "$python" -c "$is_recent" 2>/dev/null || continue
    if "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        echo "Making $venv with $("$python" --version)"
        exec "$python" -m venv --clear "$venv"
    fi
    without_venv=${without_venv:-$python}
done

if [ -n "$without_venv" ]; then
    version=$("$without_venv" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    echo "$without_venv cannot make virtual environments. On Debian and Ubuntu: apt-get install python$version-venv" >&2
elif [ -n "$wanted" ]; then
    echo "$wanted is not a Python 3.11 or later." >&2
else
    echo "Python 3.11 or later was not found. On Debian: apt-get install python3 python3-venv;" \
        "on macOS: brew install python. Or name it: make PYTHON=/path/to/python3" >&2
fi
exit 1
