#!/usr/bin/env bash
# Trains on a TPU pod slice of Google Cloud, one process on each of its workers:
#   bash launch/tpu_pod.sh --config=tpu --config.train.num_devices=16
# The workers get the last commit. Training continues in the background when the connection is lost or
# Ctrl-C ends this command; what else can be asked for:
#   bash launch/tpu_pod.sh attach               shows the log of a run until it ends
#   bash launch/tpu_pod.sh stop                 lets it save; the same training command resumes it
#   bash launch/tpu_pod.sh recreate --config... deletes the slice, as one that was preempted, makes
#                                               another and resumes from the last checkpoint
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

action=start
case "${1:-}" in
attach | stop | recreate)
    action="$1"
    shift
    ;;
esac

cd "$(dirname "${BASH_SOURCE[0]}")/.."
tpu() { gcloud compute tpus "$@" --project="$PROJECT" --zone="$ZONE"; }
worker() { tpu tpu-vm ssh "$NAME" --worker="$1" --command="bash m3po/launch/tpu_worker.sh $2"; }
attach() {
    echo "following worker 0 (Ctrl-C leaves it running; bash launch/tpu_pod.sh attach comes back)"
    worker 0 attach
}
case "$action" in
attach)
    attach
    exit
    ;;
stop)
    worker all stop
    exit
    ;;
esac

changes="$(git status --porcelain --untracked-files=normal)"
if [ -n "$changes" ]; then
    echo "error: the workers get the last commit, which lacks the changes that git status lists; commit them first" >&2
    exit 2
fi

state() { tpu queued-resources describe "$NAME" --format='value(state.state)'; }

if [ "$action" = recreate ]; then
    tpu queued-resources delete "$NAME" --force --quiet
fi
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
        echo "error: the slice $NAME is $now; bash launch/tpu_pod.sh recreate, with the same arguments, makes another and resumes" >&2
        exit 1
        ;;
    esac
    echo "waiting for the slice $NAME: $now"
    sleep 30
done

# The code of a run is not replaced under it.
if worker 0 running >/dev/null 2>&1; then
    echo "error: training runs on $NAME already; attach shows it, stop stops it" >&2
    exit 2
fi
archive="$(mktemp)"
trap 'rm -f "$archive"' EXIT
git archive --format=tar.gz --output="$archive" HEAD
tpu tpu-vm scp "$archive" "$NAME":m3po.tar.gz --worker=all
tpu tpu-vm ssh "$NAME" --worker=all \
    --command="rm -rf m3po && mkdir m3po && tar -xzf m3po.tar.gz -C m3po"
worker all "setup '$SHARE' /mnt/runs"

# Every worker gets the same command; on TPU the processes find each other.
printf -v arguments '%q ' --workdir="$WORKDIR" "$@"
worker all "train $arguments"
attach
