#!/usr/bin/env bash
# Answers from a bundle on a Vertex AI endpoint; a bundle that is there before goes on until the new one answers:
#
#   launch/serve/vertex.sh [--dry-run] BUNDLE
#
# --dry-run prints the commands and runs none. README.md beside this file says what must be there before. Set these
# here, or in the environment:
set -euo pipefail

PROJECT=${PROJECT:-my-project}
REGION=${REGION:-europe-west4}
BUCKET=${BUCKET:-gs://my-bucket}
IMAGE=${IMAGE:-$REGION-docker.pkg.dev/$PROJECT/seqrec/seqrec-serve:latest}  # built with EXTRAS=serve,gcs
ENDPOINT=${ENDPOINT:-seqrec}
MACHINE_TYPE=${MACHINE_TYPE:-n2-standard-2}
N_MACHINES=${N_MACHINES:-2}
MAX_MACHINES=${MAX_MACHINES:-4}

dry_run=0
if [[ ${1:-} == --dry-run ]]; then
  dry_run=1
  shift
fi
if (($# != 1)) || [[ ! -f $1/weights.safetensors ]]; then
  echo "usage: $0 [--dry-run] BUNDLE, a local directory that experiments/export.py wrote" >&2
  exit 2
fi
bundle=$1

# Runs a command, or prints it as one line for a shell.
run() {
  if ((dry_run)); then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

# The id of the newest thing of a kind (models, endpoints) by this name; empty where there is none.
id_of() {
  if ((dry_run)); then
    printf '%s\n' "ID-OF-$2"
  else
    gcloud ai "$1" list "${place[@]}" --filter="displayName=$2" --sort-by=~createTime --limit=1 \
      --format='value(name.basename())'
  fi
}

# By the hash of the bundle's content, so that one bundle is one model.
hash=$(sed -n 's/^ *"content_hash": "\([0-9a-f]\{12\}\).*/\1/p' "$bundle/manifest.json")
model=$ENDPOINT-$hash
place=(--project="$PROJECT" --region="$REGION")

run gcloud storage rsync --recursive "$bundle" "$BUCKET/$model"
# Vertex AI copies the bundle and names the copy, the port and the routes in variables AIP_*.
# shellcheck disable=SC2016 # the container's shell reads the variable
run gcloud ai models upload "${place[@]}" --display-name="$model" --artifact-uri="$BUCKET/$model" \
  --container-image-uri="$IMAGE" --container-ports=8080 \
  --container-health-route=/healthz --container-predict-route=/predict \
  --container-command='sh,-c,exec python experiments/serve.py "$AIP_STORAGE_URI" --host 0.0.0.0'
endpoint=$(id_of endpoints "$ENDPOINT")
if ((dry_run)) || [[ -z $endpoint ]]; then
  run gcloud ai endpoints create "${place[@]}" --display-name="$ENDPOINT"
  endpoint=$(id_of endpoints "$ENDPOINT")
fi
# The deployed model 0 is the one that this command deploys: it takes all requests once it answers.
run gcloud ai endpoints deploy-model "$endpoint" "${place[@]}" --model="$(id_of models "$model")" \
  --display-name="$model" --machine-type="$MACHINE_TYPE" --traffic-split=0=100 \
  --min-replica-count="$N_MACHINES" --max-replica-count="$MAX_MACHINES"
