#!/usr/bin/env bash
# Trains and evaluates one agent on three real tasks on this machine: bash launch/local.sh
# Arguments go to the training command, as --config.train.total_env_steps=50000 or --overwrite.
# WORKDIR=DIR chooses the folder of all three steps (default runs/classic, in the clone):
#   WORKDIR=runs/seed1 bash launch/local.sh --config.seed=1
set -euo pipefail

WORKDIR="${WORKDIR:-runs/classic}"
for argument in "$@"; do
    case "$argument" in
    --workdir | --workdir=* | -workdir | -workdir=*)
        echo "error: give the folder as WORKDIR=DIR before the command, not by --workdir: evaluation and report need it too" >&2
        exit 2
        ;;
    esac
done

cat <<TEXT
M3PO on three tasks at once: CartpoleBalance, CartpoleSwingup, ReacherEasy (MuJoCo Playground).
  1. set up .venv with the pinned requirements      (first time only, a few minutes)
  2. train into $WORKDIR, or go on with the run there
  3. evaluate the trained agent
  4. write a report with all curves, a page for the browser
On 2 CPU cores this takes about 25 minutes. Stop it with Ctrl-C at any time; run it again,
without --overwrite, to go on.
TEXT

# shellcheck source=launch/setup_env.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"
cd "$M3PO_ROOT"

echo
echo "training; the first lines come after the program is compiled (a minute or two)"
"$M3PO_PY" -m m3po_jax.cli.train --config=experiments/configs/classic.py --workdir="$WORKDIR" "$@"

echo
echo "evaluating the trained agent with and without planning and random actions, 16 episodes each"
"$M3PO_PY" -m m3po_jax.cli.evaluate --workdir="$WORKDIR" --episodes=16 --save \
    --policy=random --policy=prior --policy=planner

echo
"$M3PO_PY" -m m3po_jax.cli.report --workdir="$WORKDIR"

folder="$WORKDIR"
[[ "$folder" = /* ]] || folder="$M3PO_ROOT/$folder"
cat <<TEXT

done. Everything is in $folder:
  config.json   the settings, library versions and commit
  metrics.csv   one row per training iteration
  eval.jsonl    one line per evaluation
  checkpoints/  the newest states; the same command, without --overwrite, goes on from there
  report/       report.html and its pictures and numbers: open $folder/report/report.html
TEXT
