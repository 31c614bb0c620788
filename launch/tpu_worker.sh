#!/usr/bin/env bash
# What launch/tpu_pod.sh runs on each worker, in the home folder beside the unpacked package:
#   tpu_worker.sh setup SHARE MOUNT   a Python with the pinned requirements, and the shared folder
#   tpu_worker.sh train ARGUMENTS     starts training in the background; it outlives the connection
#   tpu_worker.sh attach              shows the log until training ends, and ends with its code
#   tpu_worker.sh stop                lets it finish the iteration and save
#   tpu_worker.sh running             succeeds while it runs
set -euo pipefail
cd "$HOME"

new_enough() { "$1" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }
running() { [ -e train.pid ] && kill -0 "$(cat train.pid)" 2>/dev/null; }

# The images come with Python 3.10: one that is new enough is taken, or uv fetches one.
make_venv() {
    local name
    for name in python3.12 python3.11 python3; do
        if new_enough "$name"; then
            "$name" -m venv --clear .venv
            return
        fi
    done
    export PATH="$HOME/.local/bin:$PATH"
    command -v uv >/dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh
    uv venv --quiet --seed --clear --python 3.12 .venv
}

setup() {
    new_enough .venv/bin/python || make_venv
    .venv/bin/python -m pip install -q -c m3po/requirements.txt -e 'm3po[tpu]'
    command -v mount.nfs >/dev/null || sudo apt-get install -qq -y nfs-common >/dev/null
    sudo mkdir -p "$2"
    mountpoint -q "$2" || sudo mount "$1" "$2"
}

train() {
    if running; then
        echo "error: training runs here already; bash launch/tpu_pod.sh attach shows it, and stop stops it" >&2
        return 2
    fi
    rm -f train.code train.pid
    # nohup: a lost connection does not end it. The shell around it notes how it ended.
    # shellcheck disable=SC2016
    nohup bash -c '"$@" & echo "$!" >train.pid; code=0; wait "$!" || code=$?; echo "$code" >train.code' \
        train .venv/bin/python -m m3po_jax.cli.train --distributed "$@" >>train.log 2>&1 </dev/null &
    while [ ! -s train.pid ]; do sleep 0.1; done
}

attach() {
    if [ ! -e train.pid ]; then
        echo "error: nothing was started on this worker; give tpu_pod.sh the training flags" >&2
        return 2
    fi
    tail -n 100 --pid="$(cat train.pid)" -F train.log 2>/dev/null || true
    # The shell around it notes its code a moment later; after a restart of the machine, never.
    for _ in 1 2 3 4 5; do
        [ ! -s train.code ] || return "$(cat train.code)"
        sleep 1
    done
    echo "error: training ended without a code, as when the machine restarts; the same training command resumes it" >&2
    return 1
}

stop() { ! running || kill -TERM "$(cat train.pid)"; }

"$@"
