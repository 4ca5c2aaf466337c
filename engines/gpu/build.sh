#!/usr/bin/env bash
# Compile kernels.cu ahead of time: machine code for compute capability 7.5 to 10.0, and PTX for what comes after.
# Needs nvcc of CUDA 12.9 or newer. The result is committed, so that a worker needs no compiler.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
targets=()
for capability in 75 80 86 89 90 100; do targets+=(-gencode "arch=compute_$capability,code=sm_$capability"); done
nvcc -O3 -fmad=false -fatbin -compress-mode=size "${targets[@]}" -gencode arch=compute_100,code=compute_100 \
  -o kernels.fatbin kernels.cu
sha256sum kernels.cu kernels.fatbin
