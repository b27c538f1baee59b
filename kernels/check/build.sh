#!/usr/bin/env bash
# Builds every kernel into OUT (default /tmp/edgewise-kernels) as one shared library each: build.sh [jobs] [name...]
set -euo pipefail
cd "$(dirname "$0")/.."
jobs=${1:-4}
shift || true
out=${OUT_DIR:-/tmp/edgewise-kernels}
nvcc=${NVCC:-$(command -v nvcc || echo /usr/local/cuda-13.0/bin/nvcc)}
mkdir -p "$out"
names=("$@")
if [ ${#names[@]} -eq 0 ]; then names=(*.cu); fi
printf '%s\n' "${names[@]%.cu}" | xargs -P "$jobs" -I{} sh -c \
  "'$nvcc' -O3 -std=c++17 -lineinfo -gencode=arch=compute_90a,code=sm_90a -Xptxas -v ${NVCC_FLAGS:-} \
     -Xcompiler -fPIC,-Wall -shared -o '$out/{}.so' {}.cu > '$out/{}.log' 2>&1 || { cat '$out/{}.log'; exit 255; }"
