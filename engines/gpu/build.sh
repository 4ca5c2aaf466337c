#!/usr/bin/env bash
# Compile the kernels ahead of time: machine code for compute capability 7.5 to 10.0 and PTX for what comes after; of the
# gallery's, which are large, code for 7.5 (comparing alone), 8.0 and 9.0, and PTX that newer GPUs compile when it is loaded.
# Needs nvcc of CUDA 12.9 or newer. The results are committed, so that a worker needs no compiler.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
compile() { # FILE.cu, an option, the capability of the PTX, capabilities
    local file=$1 option=$2 newest=$3 targets=()
    shift 3
    for capability in "$@"; do targets+=(-gencode "arch=compute_$capability,code=sm_$capability"); done
    nvcc -O3 -std=c++17 "$option" --compress-mode=size -fatbin "${targets[@]}" -gencode "arch=compute_$newest,code=compute_$newest" \
        -o "${file%.cu}.fatbin" "$file"
    sha256sum "$file" "${file%.cu}.fatbin"
}
compile kernels.cu -fmad=false 100 75 80 86 89 90 100
compile compare.cu -fmad=true 90 75 80 90 # code for 8.0 runs on 8.6 and 8.9
compile search.cu -fmad=true 90 80 90 # asynchronous copies and this shape of product came with 8.0
sha256sum compare.cu search.cu compare.fatbin search.fatbin > gallery.sha256
