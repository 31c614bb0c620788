#!/usr/bin/env bash
# Trains on a TPU pod slice of Google Cloud, one process on each of its workers:
#   bash launch/tpu_pod.sh --config=classic --config.train.num_devices=16 \
#       --config.env.num_envs=16 --config.world_model.batch_size=144
# The workers get the last commit. When called again, without --overwrite, it uses the existing
# slice, and the run resumes from its last checkpoint.
# Delete the slice when you are done: gcloud compute tpus queued-resources delete NAME --force
set -euo pipefail

# Edit first. The environments of every task and the batch must split over the chips.
PROJECT="${PROJECT:-my-project}"
ZONE="${ZONE:-us-west4-a}"
NAME="${NAME:-m3po}"
ACCELERATOR="${ACCELERATOR:-v5litepod-16}"
RUNTIME="${RUNTIME:-v2-alpha-tpuv5-lite}"
# A folder that all workers share, as a Filestore export: its address, and where it is mounted.
SHARE="${SHARE:-10.0.0.2:/runs}"
WORKDIR="${WORKDIR:-/mnt/runs/m3po}"

cd "$(dirname "${BASH_SOURCE[0]}")/.."
changes="$(git status --porcelain --untracked-files=normal)"
if [ -n "$changes" ]; then
    echo "error: the workers get the last commit, which lacks the changes that git status lists; commit them first" >&2
    exit 2
fi

tpu() { gcloud compute tpus "$@" --project="$PROJECT" --zone="$ZONE"; }
on_all_workers() { tpu tpu-vm ssh "$NAME" --worker=all --command="$1"; }
state() { tpu queued-resources describe "$NAME" --format='value(state.state)'; }

if [ -z "$(state 2>/dev/null || true)" ]; then
    # Add --spot for a slice that is cheaper and can be taken away at any time.
    tpu queued-resources create "$NAME" --node-id="$NAME" \
        --accelerator-type="$ACCELERATOR" --runtime-version="$RUNTIME"
fi
while true; do
    now="$(state || true)"
    case "$now" in
    ACTIVE) break ;;
    "")
        echo "error: gcloud reports no state for the slice $NAME; fix the error it prints above and run this again" >&2
        exit 1
        ;;
    FAILED | SUSPENDED)
        echo "error: the slice $NAME is $now; delete the queued resource and run this again" >&2
        exit 1
        ;;
    esac
    echo "waiting for the slice $NAME: $now"
    sleep 30
done

archive="$(mktemp)"
trap 'rm -f "$archive"' EXIT
git archive --format=tar.gz --output="$archive" HEAD
tpu tpu-vm scp "$archive" "$NAME":m3po.tar.gz --worker=all
on_all_workers "set -e
    mkdir -p m3po && tar -xzf m3po.tar.gz -C m3po
    [ -d .venv ] || python3 -m venv .venv
    .venv/bin/pip install -q -e 'm3po[tpu]'
    sudo apt-get install -qq -y nfs-common >/dev/null
    sudo mkdir -p /mnt/runs && { mountpoint -q /mnt/runs || sudo mount '$SHARE' /mnt/runs; }"

# Every worker gets the same command; on TPU the processes find each other.
printf -v arguments '%q ' "$@"
on_all_workers "cd m3po && ../.venv/bin/python -m m3po_jax.cli.train --distributed \
    --workdir='$WORKDIR' $arguments"
