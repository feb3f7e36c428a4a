#!/usr/bin/env bash
# Refreshes a model with the events of a day: append, train from the model in use, gate, export, reload.
#
#   launch/daily.sh                          # the MovieLens demo, whose last events are the new day, in minutes
#   LOG=plays.parquet launch/daily.sh        # prepares a log, trains the first model on it and exports it
#   launch/daily.sh 2026-01-31.parquet       # each day after that
#
# Leaves in $WORK: store, a run for each day, current (the run in use), bundle (what is served), gate.md and gate.xml.
# Given again after a stop it goes on. Ends with the gate's status where a model does not pass: 3 if its users cannot
# tell, 4 if it fails; then the model in use stays. docs/daily.md explains it. Set these in the environment:
set -euo pipefail

WORK=${WORK:-runs/daily}
LOG=${LOG:-}                                       # events before the first day; of the demo where nothing is given
COLUMNS_OF_EVENTS=${COLUMNS_OF_EVENTS:-user_id item_id timestamp_us}
SCRIPT=${SCRIPT:-sasrec}                           # the training script
MODEL=${MODEL:---d-model 32 --n-blocks 1 --max-length 50}   # its flags, the same on each day
EPOCHS=${EPOCHS:-10}                               # of the first model
REFRESH=${REFRESH:---max-epochs 3 --warmup-steps 10 --average-decay 0.9}   # flags of a warm start
MARGINS=${MARGINS:-ndcg@10=0.02 recall@20=0.03}    # the largest drops that the gate lets pass
SLICES=${SLICES:-}                                 # such as: cold warm
RELOAD_URL=${RELOAD_URL:-}                         # such as http://127.0.0.1:8080/reload; nothing is asked if empty

scripts=$(dirname "$0")/../experiments
read -ra columns <<<"$COLUMNS_OF_EVENTS"
read -ra model <<<"$MODEL"
read -ra refresh <<<"$REFRESH"
read -ra margins <<<"$MARGINS"
read -ra slices <<<"$SLICES"
mkdir -p "$WORK"

step() { printf '\n== %s\n' "$*" >&2; }

prepare() { # FILE [--append]
  python "$scripts/prepare_data.py" --dataset events --data-path "$1" --columns "${columns[@]}" "${@:2}" \
    --output "$WORK/store"
}

train() { # RUN FLAGS…
  python "$scripts/$SCRIPT.py" --dataset store --data-path "$WORK/store" "${model[@]}" "${@:2}" \
    --output "$1" --resume
}

serve() { # RUN
  step "export $1"
  python "$scripts/export.py" "$1" --output "$WORK/bundle"
  ln -sfn "$(basename "$1")" "$WORK/current"
  if [[ -n $RELOAD_URL ]]; then
    step "reload $RELOAD_URL"
    curl -fsS -X POST "$RELOAD_URL"
  fi
}

day=${1:-}
if [[ -z $day && -z $LOG ]]; then
  step "the demo's events, cut in two"
  LOG=$WORK/demo-before.parquet day=$WORK/demo-day.parquet
  python - "$LOG" "$day" <<'CUT'
import sys

import pyarrow.compute as pc
import pyarrow.parquet as pq

from seqrec.data.engines import collect
from seqrec.data.sources import read_source

events = collect(read_source("movielens-demo").events.select("user_id", "item_id", "timestamp_us"))
is_new = pc.greater_equal(events["timestamp_us"], pc.quantile(events["timestamp_us"], 0.95)[0])
pq.write_table(events.filter(pc.invert(is_new)), sys.argv[1])
pq.write_table(events.filter(is_new), sys.argv[2])
CUT
fi

if [[ ! -e $WORK/current ]]; then
  [[ -n $LOG ]] || { echo "launch/daily.sh: $WORK has no model in use; give LOG, the events before the day" >&2; exit 2; }
  if [[ ! -e $WORK/store ]]; then
    step "prepare $LOG"
    prepare "$LOG"
  fi
  step "train the first model"
  train "$WORK/first" --max-epochs "$EPOCHS"
  serve "$WORK/first"
fi
[[ -n $day ]] || exit 0

name=$(basename "$day")
run=$WORK/${name%%.*}
current=$WORK/$(readlink "$WORK/current")
if [[ $run == "$current" ]]; then
  step "$run is in use already"
  exit 0
fi
step "append $day"
prepare "$day" --append
step "train $run from $current"
train "$run" --start-from "$current" "${refresh[@]}"
step "gate"
python "$scripts/gate.py" "$run" --against "$run/start" --max-drop "${margins[@]}" \
  ${slices[0]:+--slice "${slices[@]}"} --json "$WORK/gate.json" --junit "$WORK/gate.xml" --markdown "$WORK/gate.md"
serve "$run"
