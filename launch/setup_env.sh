# shellcheck shell=bash
# Sourced by launch/local.sh, tests/run.sh and .ci/run. Makes .venv in the clone with the pinned
# requirements and this package (editable), once: a second call installs nothing until
# requirements.txt or setup.py change. Sets M3PO_ROOT, M3PO_PY (the environment's Python) and JAX's
# compile cache for the commands that follow.
#
# M3PO_PYTHON=/path/to/python chooses the Python to build on. M3PO_COMPILE_CACHE=DIR moves the
# compile cache (default ~/.cache/m3po_jax/xla), M3PO_COMPILE_CACHE=off switches it off.

M3PO_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
M3PO_VENV="$M3PO_ROOT/.venv"
M3PO_PY="$M3PO_VENV/bin/python"

# Succeeds where $1 runs and is new enough. A name on PATH can be a shim that does not run.
m3po_new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

# Prints the Python to build on, or says what is wrong and what to do.
m3po_find_python() {
    local name found=""
    for name in ${M3PO_PYTHON:+"$M3PO_PYTHON"} python3.12 python3.11 python3 python; do
        if m3po_new_enough "$name"; then
            printf '%s\n' "$name"
            return 0
        fi
        if [ -n "${M3PO_PYTHON:-}" ]; then
            echo "error: M3PO_PYTHON=$M3PO_PYTHON does not run or is older than Python 3.11" >&2
            return 2
        fi
        if "$name" -c '' >/dev/null 2>&1; then
            found="$found $name is $("$name" -c 'import platform; print(platform.python_version())');"
        fi
    done
    {
        echo "error: m3po_jax needs Python 3.11 or newer; found:${found:- no Python at all;}"
        echo "  Install one and run this again:"
        echo "    Debian, Ubuntu:  sudo apt-get install python3.12 python3.12-venv"
        echo "    macOS:           brew install python@3.12"
        echo "    anywhere:        https://www.python.org/downloads"
        echo "  or choose one: M3PO_PYTHON=/path/to/python3.12 bash $0"
    } >&2
    return 2
}

# Prints what the environment must have been made from. A moved clone gets a new environment.
m3po_stamp() {
    "$1" - "$M3PO_ROOT" <<'PY'
import hashlib, pathlib, sys
root = pathlib.Path(sys.argv[1])
digest = hashlib.sha256()
for name in ("requirements.txt", "setup.py"):
    digest.update((root / name).read_bytes())
print(digest.hexdigest(), "%d.%d" % sys.version_info[:2], root)
PY
}

m3po_install() {
    local python started=$SECONDS
    if [ -n "${M3PO_PYTHON:-}" ] || ! m3po_new_enough "$M3PO_PY" ||
        [ "$(cat "$M3PO_VENV/.m3po-root" 2>/dev/null)" != "$M3PO_ROOT" ]; then
        python="$(m3po_find_python)" || return 2
        echo "making $M3PO_VENV with $("$python" --version)"
        if ! "$python" -m venv --clear "$M3PO_VENV"; then
            echo "error: '$python -m venv' failed; on Debian and Ubuntu: sudo apt-get install python3-venv" >&2
            return 2
        fi
        printf '%s\n' "$M3PO_ROOT" >"$M3PO_VENV/.m3po-root"
    fi
    rm -f "$M3PO_VENV/.m3po-stamp"
    echo "installing the pinned requirements and m3po_jax (a few minutes, about 1.5 GB on disk)"
    if ! "$M3PO_PY" -m pip install -q --disable-pip-version-check -r "$M3PO_ROOT/requirements.txt" ||
        ! "$M3PO_PY" -m pip install -q --disable-pip-version-check --no-deps -e "$M3PO_ROOT"; then
        echo "error: pip could not install requirements.txt; see its message above, fix the cause (network, disk space) and run this again" >&2
        return 2
    fi
    m3po_stamp "$M3PO_PY" >"$M3PO_VENV/.m3po-stamp"
    echo "installed in $((SECONDS - started)) s"
}

m3po_setup() {
    local wanted
    if [ -x "$M3PO_PY" ] && wanted="$(m3po_stamp "${M3PO_PYTHON:-$M3PO_PY}" 2>/dev/null)" &&
        [ "$(cat "$M3PO_VENV/.m3po-stamp" 2>/dev/null)" = "$wanted" ]; then
        return 0
    fi
    m3po_install
}

m3po_setup || exit 2

if [ "${M3PO_COMPILE_CACHE:-}" != off ] && [ -z "${JAX_COMPILATION_CACHE_DIR:-}" ]; then
    export JAX_COMPILATION_CACHE_DIR="${M3PO_COMPILE_CACHE:-${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/m3po_jax/xla}"
fi
