#!/usr/bin/env bash
# Trains on a slice of a GKE cluster that xpk made:
#
#   launch/xpk.sh [--dry-run] [flags of experiments/sasrec.py]
#
# All hosts of the slice run the image of launch/Dockerfile. --dry-run prints the command and runs nothing.
# docs/cloud_tpu.md explains it. Set these here, or in the environment:
set -euo pipefail

PROJECT=${PROJECT:-my-project}
ZONE=${ZONE:-us-west4-a}
BUCKET=${BUCKET:-gs://my-bucket}
IMAGE=${IMAGE:-us-west4-docker.pkg.dev/$PROJECT/seqrec/seqrec:tpu}
CLUSTER=${CLUSTER:-my-cluster}
RUN=${RUN:-run-1}                               # the run's name: its directory in the bucket, and the workload's name
TPU_TYPE=${TPU_TYPE:-v5litepod-16}
N_PROCESSES=${N_PROCESSES:-4}                   # hosts of the slice: v5litepod-16 has 4, of 4 chips each
N_RESTARTS=${N_RESTARTS:-10}                    # how often a workload whose hosts were taken away starts again

dry_run=0
if [[ ${1:-} == --dry-run ]]; then
  dry_run=1
  shift
fi

command="python experiments/sasrec.py --distributed on --n-processes $(printf '%q' "$N_PROCESSES")"
command+=" --output $(printf '%q' "$BUCKET/runs/$RUN") --resume"
if (($#)); then command+=$(printf ' %q' "$@"); fi

call=(xpk workload create --project="$PROJECT" --zone="$ZONE" --cluster="$CLUSTER" --workload="$RUN"
  --tpu-type="$TPU_TYPE" --num-slices=1 --max-restarts="$N_RESTARTS" --docker-image="$IMAGE" --command="$command")

if ((dry_run)); then
  printf '%q ' "${call[@]}"
  echo
else
  exec "${call[@]}"
fi
