#!/usr/bin/env bash
# Trains the same settings with several seeds on this machine, one process per core:
#   SEEDS="0 1 2" bash launch/seeds.sh --config=classic
# Arguments are passed to the training command. The same command, without --overwrite, resumes all
# of them; a run that is done stays as it is. FOLDER=DIR chooses where (default runs/seeds): each
# seed gets a workdir, DIR/s0, DIR/s1, ..., and what it printed is in DIR/s0.log. Seed 3 here is
# --config.seed=3 alone. JOBS=N runs at most N at a time: each needs a few GB.
set -euo pipefail

SEEDS="${SEEDS:-0 1 2 3 4}"
FOLDER="${FOLDER:-runs/seeds}"

for argument in "$@"; do
    case "$argument" in
    --workdir | --workdir=* | -workdir | -workdir=* | --config.seed | --config.seed=*)
        echo "error: $argument is not for all runs; set FOLDER=DIR and SEEDS=\"0 1 2\" before the command instead" >&2
        exit 2
        ;;
    esac
done
for seed in $SEEDS; do
    if [[ ! "$seed" =~ ^[0-9]+$ ]]; then
        echo "error: SEEDS=\"$SEEDS\" must be whole numbers with spaces between them; $seed is none" >&2
        exit 2
    fi
done

# shellcheck source=launch/setup_env.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"
cd "$M3PO_ROOT"
mkdir -p "$FOLDER"

# The cores that this process may use; where they cannot be chosen, as on macOS, only their number.
read -ra cores <<<"$("$M3PO_PY" -c '
import os
print(*(sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count())))')"
JOBS="${JOBS:-${#cores[@]}}"
if [[ ! "$JOBS" =~ ^[1-9][0-9]*$ ]]; then
    echo "error: JOBS=$JOBS must be a whole number of processes, at least 1" >&2
    exit 2
fi
pids=() running=() # of each slot: its process, 0 for none, and the seed it trains
for ((slot = 0; slot < JOBS; slot++)); do pids+=(0) running+=(""); done
failed="" code=0 stopping=""

# A signal goes to every run once: each saves, and the same command resumes.
stop() {
    stopping=yes
    for pid in "${pids[@]}"; do
        [ "$pid" -eq 0 ] || kill -TERM "$pid" 2>/dev/null || true
    done
}
trap stop INT TERM

start() { # SLOT SEED
    local pin=()
    if command -v taskset >/dev/null; then
        pin=(taskset -c "${cores[$(($1 % ${#cores[@]}))]}")
    fi
    set -m # a process group of its own: Ctrl-C would reach the run too, as a second signal
    ${pin[@]+"${pin[@]}"} "$M3PO_PY" -m m3po_jax.cli.train ${arguments[@]+"${arguments[@]}"} --config.seed="$2" \
        --workdir="$FOLDER/s$2" >>"$FOLDER/s$2.log" 2>&1 &
    pids[$1]=$! running[$1]=$2
    set +m
    echo "seed $2: started, see $FOLDER/s$2.log"
}

collect() { # notes which runs have ended
    local slot result
    for ((slot = 0; slot < JOBS; slot++)); do
        if [ "${pids[$slot]}" -ne 0 ] && ! kill -0 "${pids[$slot]}" 2>/dev/null; then
            result=0
            wait "${pids[$slot]}" || result=$?
            echo "seed ${running[$slot]}: ended with code $result"
            if [ "$result" -ne 0 ]; then
                failed="$failed ${running[$slot]}" code=$result
            fi
            pids[slot]=0
        fi
    done
}

free_slot() { # prints the first slot without a process, if any
    local slot
    for ((slot = 0; slot < JOBS; slot++)); do
        [ "${pids[$slot]}" -ne 0 ] || { echo "$slot" && return; }
    done
}

busy() { [[ "${pids[*]}" =~ [1-9] ]]; }

arguments=("$@")
first=yes
for seed in $SEEDS; do
    while [ -z "$stopping" ] && [ -z "$(free_slot)" ]; do
        sleep 1
        collect
    done
    [ -z "$stopping" ] || break
    start "$(free_slot)" "$seed"
    # All seeds share the compiled programs: the first one puts them into the compile cache.
    while [ -n "$first" ] && busy && [ -z "$stopping" ] && [ ! -e "$FOLDER/s$seed/metrics.csv" ]; do
        sleep 1
        collect
    done
    first=""
done
while busy; do
    sleep 1
    collect
done

if [ -n "$failed" ]; then
    echo "not done: seed$failed (code 75: stopped and saved); the same command, without --overwrite, resumes" >&2
    exit "$code"
fi
[ -z "$stopping" ] || exit 75
echo "all done; a report with intervals over the seeds: m3po-report $FOLDER/s*/"
