#!/usr/bin/env bash
# Puts generated requests for every path of a running server's own OpenAPI document to it: schemathesis.sh URL PACKAGES.
# PACKAGES is a folder with schemathesis installed by `pip install --target`. The seed is fixed and the number of requests
# bounded, so that a run finds what the last one found; one worker, since several make Python 3.11 fail to parse its own
# sources at times (https://github.com/python/cpython/issues/106905). All checks are on; what is left out is said here:
#  - `/v1/jobs/{job}/events` and `/v1/events` are streams without an end of their own;
#  - `positive_data_acceptance`: a well-formed request for something that is not there is refused, as it should be.
set -euo pipefail
url=$1
packages=$(realpath "$2")
export PYTHONPATH=$packages
# It leaves what it found in the current folder.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m schemathesis.cli run "$url/openapi.json" \
    --seed 20 --max-examples "${EXAMPLES:-12}" --phases examples,coverage,fuzzing --workers 1 \
    --request-timeout 300 --max-time "${SECONDS_AT_MOST:-240}" \
    --exclude-path-regex '/events$' \
    --checks all --exclude-checks positive_data_acceptance \
    --no-color
