#!/usr/bin/env bash
# Trains on a Cloud TPU slice that waits in the queue, and gives it back at the end, however that comes:
#
#   launch/queued_resource.sh [--dry-run] [flags of experiments/sasrec.py]
#
# All hosts of the slice run the image of launch/Dockerfile with the same flags. A slice that is taken away is asked for
# again, and the run goes on from its last checkpoint in the bucket. --dry-run prints the commands and runs none.
# docs/cloud_tpu.md explains each step. Set these here, or in the environment:
set -euo pipefail

PROJECT=${PROJECT:-my-project}
ZONE=${ZONE:-us-west4-a}
BUCKET=${BUCKET:-gs://my-bucket}
IMAGE=${IMAGE:-us-west4-docker.pkg.dev/$PROJECT/seqrec/seqrec:tpu}
RUN=${RUN:-run-1}                               # the run's name: its directory in the bucket, and the slice's name
ACCELERATOR_TYPE=${ACCELERATOR_TYPE:-v5litepod-16}
RUNTIME_VERSION=${RUNTIME_VERSION:-v2-alpha-tpuv5-lite}
N_PROCESSES=${N_PROCESSES:-4}                   # hosts of the slice: v5litepod-16 has 4, of 4 chips each
SPOT=${SPOT:-1}                                 # 1: cheaper, and may be taken away; 0: on demand
N_ATTEMPTS=${N_ATTEMPTS:-10}                    # how often a slice is asked for
SECONDS_BETWEEN_LOOKS=${SECONDS_BETWEEN_LOOKS:-60}

dry_run=0
if [[ ${1:-} == --dry-run ]]; then
  dry_run=1
  shift
fi

say() { printf '%s\n' "$*" >&2; }

# Runs a command, or prints it as one line for a shell.
run() {
  if ((dry_run)); then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

place=(--project="$PROJECT" --zone="$ZONE")

create() {
  local spot=()
  if [[ $SPOT == 1 ]]; then spot=(--spot); fi
  run gcloud compute tpus queued-resources create "$RUN" "${place[@]}" --node-id="$RUN" \
    --accelerator-type="$ACCELERATOR_TYPE" --runtime-version="$RUNTIME_VERSION" ${spot[@]+"${spot[@]}"}
}

state() {
  gcloud compute tpus queued-resources describe "$RUN" "${place[@]}" --format='value(state.state)'
}

# Returns once the slice is there; fails where it will not come.
wait_until_active() {
  if ((dry_run)); then
    run gcloud compute tpus queued-resources describe "$RUN" "${place[@]}" --format='value(state.state)'
    return 0
  fi
  local now before=
  while now=$(state); do
    if [[ $now != "$before" ]]; then say "$RUN: $now"; fi
    before=$now
    case $now in
      ACTIVE) return 0 ;;
      FAILED | SUSPENDING | SUSPENDED | DELETING) return 1 ;;
    esac
    sleep "$SECONDS_BETWEEN_LOOKS"
  done
  return 1
}

delete() {
  run gcloud compute tpus queued-resources delete "$RUN" "${place[@]}" --force --quiet
}

# The remote shell splits words again, so every flag is quoted for it. A host's first docker run fetches the image.
train() {
  local command
  command="sudo gcloud auth configure-docker $(printf '%q' "${IMAGE%%/*}") --quiet"
  command+=" && sudo docker run --rm --privileged --net=host $(printf '%q' "$IMAGE")"
  command+=" python experiments/sasrec.py --distributed on --n-processes $(printf '%q' "$N_PROCESSES")"
  command+=" --output $(printf '%q' "$BUCKET/runs/$RUN") --resume"
  if (($#)); then command+=$(printf ' %q' "$@"); fi
  run gcloud compute tpus tpu-vm ssh "$RUN" "${place[@]}" --worker=all --command="$command"
}

# Whatever ends this script, the slice must not go on costing.
trap 'delete || say "$RUN could not be deleted; look for it in the console"' EXIT

for ((attempt = 1; attempt <= N_ATTEMPTS; attempt++)); do
  create
  if wait_until_active; then
    if train "$@"; then exit 0; fi
    if [[ $(state) == ACTIVE ]]; then
      say "$RUN: training failed and the slice is still there, so it is not tried again"
      exit 1
    fi
  fi
  say "$RUN: the slice is gone or did not come (attempt $attempt of $N_ATTEMPTS)"
  if ((attempt < N_ATTEMPTS)); then delete; fi
done
exit 1
