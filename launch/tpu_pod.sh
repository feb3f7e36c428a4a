#!/usr/bin/env bash
# Starts experiments/sasrec.py on every host of a TPU pod slice, with the same flags on each:
#
#   launch/tpu_pod.sh TPU_NAME ZONE [flags of experiments/sasrec.py]
#
# SEQREC_DIR is the checkout on the hosts (default: seqrec, in the home directory), SEQREC_VENV its virtual
# environment (default: .venv inside the checkout). README.md beside this file says how to make both.
set -euo pipefail

if (($# < 2)); then
  echo "usage: $0 TPU_NAME ZONE [flags of experiments/sasrec.py]" >&2
  exit 2
fi
tpu_name=$1
zone=$2
shift 2

# The remote shell splits words again, so every flag is quoted for it.
command="cd $(printf '%q' "${SEQREC_DIR:-seqrec}") && . $(printf '%q' "${SEQREC_VENV:-.venv}")/bin/activate"
command+=" && exec python experiments/sasrec.py"
if (($#)); then command+=$(printf ' %q' "$@"); fi

exec gcloud compute tpus tpu-vm ssh "$tpu_name" --zone="$zone" --worker=all --command="$command"
