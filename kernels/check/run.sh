#!/usr/bin/env bash
# Builds, checks, sanitizes and times every CUDA kernel. Needs an NVIDIA Hopper GPU, nvcc 13 and python3 with torch.
#   run.sh [check.py's arguments]   SANITIZE=0 leaves compute-sanitizer out
set -uo pipefail
cd "$(dirname "$0")"
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
./build.sh "$(nproc)" || exit 1
status=0
if [ "${SANITIZE:-1}" = 1 ]; then
  # Without torch's allocator every tensor is an allocation of its own, whose bounds memcheck knows.
  sanitize() { PYTORCH_NO_CUDA_MEMORY_CACHING=1 timeout 120 compute-sanitizer --kernel-name kns=edgewise \
    --error-exitcode 9 --print-limit 3 "$@"; }
  planted=$(sanitize --tool memcheck python3 check.py --plant 2>&1)
  if ! grep -q 'Invalid __global__ write' <<<"$planted"; then
    echo "FAIL memcheck misses a planted error"
    status=1
  fi
  # All at once, as each mostly waits for its one processor: bf16, and half precision.
  logs=$(mktemp -d)
  for tool in memcheck racecheck synccheck; do
    for part in rows decode prefill products fp8; do
      for f16 in 0 1; do
        name="$tool $part f16=$f16"
        (EDGEWISE_F16=$f16 sanitize --tool "$tool" python3 check.py --small --no-time $part >"$logs/$name" 2>&1 ||
          echo "FAIL: exit code $?" >>"$logs/$name") &
      done
    done
    wait
  done
  for log in "$logs"/*; do
    echo "# ${log##*/}: $(grep -v '^FAIL: exit' "$log" | tail -1)"
    grep -E '^FAIL|Invalid|hazard detected|Error:' "$log" | head -5 && status=1
  done
  rm -r "$logs"
fi
EDGEWISE_F16=1 timeout 200 python3 check.py --no-time || status=1
timeout 420 python3 check.py "$@" || status=1
exit $status
