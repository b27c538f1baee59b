#!/usr/bin/env bash
# Builds every kernel into OUT (default /tmp/edgewise-kernels) as one shared library each, and as another with the suffix
# _f16 those that compute with 16-bit numbers: build.sh [jobs] [name...]
set -euo pipefail
cd "$(dirname "$0")/.."
jobs=${1:-4}
shift || true
out=${OUT_DIR:-/tmp/edgewise-kernels}
nvcc=${NVCC:-$(command -v nvcc || echo /usr/local/cuda-13.0/bin/nvcc)}
mkdir -p "$out"
names=("$@")
if [ ${#names[@]} -eq 0 ]; then names=(*.cu); fi
for name in "${names[@]%.cu}"; do
  echo "$name $name"
  if grep -q EDGEWISE_LAUNCHER "$name.cu"; then echo "$name ${name}_f16 -DEDGEWISE_F16"; fi
done | xargs -P "$jobs" -I{} sh -c \
  "set -- {}; '$nvcc' -O3 -std=c++17 -lineinfo -gencode=arch=compute_90a,code=sm_90a -Xptxas -v ${NVCC_FLAGS:-} \
     \$3 -Xcompiler -fPIC,-Wall -shared -o '$out/'\$2.so \$1.cu > '$out/'\$2.log 2>&1 || { cat '$out/'\$2.log; exit 255; }"
