#!/usr/bin/env bash
# Adapts a model on Hugging Face Jobs. The run is published to a storage bucket of the Hub while it trains, and goes on from
# its last checkpoint if the job is tried again.
#
#     HF_NAMESPACE=you ./hf_jobs.sh              # --dry-run as an argument only prints the job
#
# To change: the wheel, the bucket, the data set, the model, the hardware, the time.
# Once: `hf auth login`; `hf buckets create "$HF_NAMESPACE/runs"`; S3 credentials of a write token (https://hf.co/settings/tokens,
# "Generate S3 credentials") in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, from where --secrets takes them.
set -euo pipefail
: "${HF_NAMESPACE:?your user name or organization on the Hub}"

# The wheel that `make dist` builds, where the job can fetch it: hf upload you/wheels dist --type dataset
UNMASK='unmask[storage] @ https://huggingface.co/datasets/you/wheels/resolve/main/unmask-0.1.0-py3-none-any.whl'
TEXT=hf://you/notes                      # a data set of the Hub
MODEL=bert-base-uncased
RUN=s3://runs/notes                      # the bucket "runs" of the namespace
FLAVOR=l4x1                              # `hf jobs hardware` lists them with prices
TIMEOUT=6h                               # the job is killed then; the default is 30 minutes

# The last four variables are what the S3 gateway of the Hub needs (https://huggingface.co/docs/hub/storage-buckets-s3).
exec hf jobs run --flavor "$FLAVOR" --timeout "$TIMEOUT" --attempts 3 --name unmask-notes "$@" \
  --secrets HF_TOKEN --secrets AWS_ACCESS_KEY_ID --secrets AWS_SECRET_ACCESS_KEY \
  --env AWS_ENDPOINT_URL="https://s3.hf.co/$HF_NAMESPACE" \
  --env AWS_DEFAULT_REGION=us-east-1 \
  --env AWS_REQUEST_CHECKSUM_CALCULATION=when_required \
  --env AWS_RESPONSE_CHECKSUM_VALIDATION=when_required \
  python:3.12 -- \
  bash -c "pip install --quiet '$UNMASK' && unmask train '$TEXT' --model '$MODEL' -o '$RUN' --resume"
# On a flavor with several GPUs: torchrun --nproc-per-node gpu -m unmask train … instead of unmask train ….
