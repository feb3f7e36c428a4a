#!/bin/sh
# What the image is started by where SageMaker runs it: `docker run IMAGE serve`, with the bundle in /opt/ml/model.
set -eu

exec python /home/seqrec/app/experiments/serve.py /opt/ml/model --host 0.0.0.0 --port 8080
