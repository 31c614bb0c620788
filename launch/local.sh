#!/usr/bin/env bash
# Trains and evaluates one agent on three MuJoCo tasks on this machine: bash launch/local.sh
# Arguments are passed to the training command: --config.train.total_env_steps=50000, --overwrite, ...
# WORKDIR=DIR chooses the folder of all three steps (default runs/classic, in the clone):
#   WORKDIR=runs/seed1 bash launch/local.sh --config.seed=1
set -euo pipefail

WORKDIR="${WORKDIR:-runs/classic}"
for argument in "$@"; do
    case "$argument" in
    --workdir | --workdir=* | -workdir | -workdir=*)
        echo "error: set the folder with WORKDIR=DIR before the command instead of --workdir, because evaluation and report need it too" >&2
        exit 2
        ;;
    esac
done

cat <<TEXT
M3PO on three tasks at once: CartpoleBalance, CartpoleSwingup, ReacherEasy (MuJoCo Playground).
  1. set up .venv with the pinned requirements      (first time only, a few minutes)
  2. train into $WORKDIR, or resume the run there
  3. evaluate the trained agent
  4. write a report with all curves, a page for the browser
On an idle CPU core this takes about 25 minutes and 5 GB of memory. Stop it with Ctrl-C at any
time; run it again, without --overwrite, to resume.
TEXT

# shellcheck source=launch/setup_env.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"
cd "$M3PO_ROOT"

echo
echo "training; progress appears once the program is compiled (one to three minutes)"
"$M3PO_PY" -m m3po_jax.cli.train --config=classic --workdir="$WORKDIR" "$@"

echo
echo "evaluating random actions and the trained agent with and without planning, 16 episodes each"
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
  checkpoints/  the newest states; the same command, without --overwrite, resumes from there
  report/       report.html with its pictures and numbers: open $folder/report/report.html
TEXT
