#!/usr/bin/env bash
# Answers from a bundle on a SageMaker endpoint; one that is there takes the new bundle without an interruption:
#
#   launch/serve/sagemaker.sh [--dry-run] BUNDLE
#
# --dry-run prints the commands and runs none. README.md beside this file says what must be there before. Set these
# here, or in the environment:
set -euo pipefail

IMAGE=${IMAGE:-123456789012.dkr.ecr.eu-west-1.amazonaws.com/seqrec-serve:latest}
BUCKET=${BUCKET:-s3://my-bucket}
ROLE=${ROLE:-arn:aws:iam::123456789012:role/seqrec-serve}
ENDPOINT=${ENDPOINT:-seqrec}
INSTANCE_TYPE=${INSTANCE_TYPE:-ml.c7i.large}
N_INSTANCES=${N_INSTANCES:-2}

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

# By the hash of the bundle's content, so that one bundle is one model.
hash=$(sed -n 's/^ *"content_hash": "\([0-9a-f]\{12\}\).*/\1/p' "$bundle/manifest.json")
model=$ENDPOINT-$hash
data=$BUCKET/$model/model.tar.gz
archive=$(mktemp)
trap 'rm -f "$archive"' EXIT

# A bundle that was sent before is there still.
if ((dry_run)) || ! aws sagemaker describe-endpoint-config --endpoint-config-name "$model" > /dev/null 2>&1; then
  run tar --create --gzip --file "$archive" --directory "$bundle" .
  run aws s3 cp "$archive" "$data"
  run aws sagemaker create-model --model-name "$model" --execution-role-arn "$ROLE" \
    --primary-container "Image=$IMAGE,ModelDataUrl=$data"
  run aws sagemaker create-endpoint-config --endpoint-config-name "$model" --production-variants \
    "VariantName=all,ModelName=$model,InstanceType=$INSTANCE_TYPE,InitialInstanceCount=$N_INSTANCES"
fi
if ((!dry_run)) && aws sagemaker describe-endpoint --endpoint-name "$ENDPOINT" > /dev/null 2>&1; then
  run aws sagemaker update-endpoint --endpoint-name "$ENDPOINT" --endpoint-config-name "$model"
else
  run aws sagemaker create-endpoint --endpoint-name "$ENDPOINT" --endpoint-config-name "$model"
fi
run aws sagemaker wait endpoint-in-service --endpoint-name "$ENDPOINT"
