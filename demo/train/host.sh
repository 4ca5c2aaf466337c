#!/usr/bin/env bash
# Render, then train the families side by side, within one run of a GPU host. Results go to $OUT (at most 8 files, each
# under 16 MiB). A second run on the same machine finds the renders and goes on from the checkpoints.
#   BUDGET    seconds for everything (560)
#   FAMILIES  what to train ("resnet18 vit_tiny16")
#   RENDER_S  most seconds for rendering (160)
#   SKUS      training SKUs (800)
#   INIT      a folder with FAMILY.weights.npz of an earlier run to begin with
#   SHARES    when each family's training ends, in per cent of BUDGET ("resnet18=74 vit_tiny16=82")
set -u
begun=$(date +%s)
budget=${BUDGET:-560}
families=${FAMILIES:-resnet18 vit_tiny16}
# memory, where there is room for 26 GB of pixels: faster than a disk whose speed is not known
room=$(df --output=avail -k /dev/shm 2>/dev/null | tail -1)
data=${DATA:-$([ "${room:-0}" -gt 45000000 ] && echo /dev/shm || echo /tmp)/assay-train}
out=${OUT:?set OUT to the folder for results}
work=$data/out
python=${PYTHON:-python3}
cores=$(nproc) # before the next line, which nproc heeds
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 PYTHONUNBUFFERED=1
mkdir -p "$work" "$out"
count=$(wc -w <<<"$families")
threads=$((cores > 2 * count ? (cores - count) / count : 1))

"$python" -m demo.train render --data "$data" --skus "${SKUS:-800}" --eval-skus "${EVAL_SKUS:-120}" \
  --seconds "${RENDER_S:-160}" --workers "$cores" || exit 1
echo "$data: rendered after $(($(date +%s) - begun)) s"

finish=$((begun + budget * 95 / 100))
pids=()
for family in $families; do
  # the ViT learns more slowly: it trains on while the ResNet is measured
  share=82
  for pair in ${SHARES:-resnet18=74 vit_tiny16=82}; do [ "${pair%=*}" = "$family" ] && share=${pair#*=}; done
  init=()
  [ -n "${INIT:-}" ] && init=(--init "$INIT/$family.weights.npz")
  "$python" -m demo.train fit --family "$family" --data "$data" --out "$work" --threads "$threads" \
    --until $((begun + budget * share / 100)) --finish "$finish" ${init[@]+"${init[@]}"} ${FIT_ARGS:-} 2>&1 | sed -u "s/^/[$family] /" &
  pids+=($!)
done
# what exists when the time is up is laid out, whether or not every family is done
while [ "$(date +%s)" -lt $((begun + budget)) ]; do
  running=0
  for pid in "${pids[@]}"; do kill -0 "$pid" 2>/dev/null && running=1; done
  [ "$running" = 0 ] && break
  sleep 1
done
for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null; done

cd "$work" || exit 1
for family in $families; do
  [ -f "$family.onnx" ] && cp "$family.onnx" "$out/"
  [ -f "$family.weights.npz" ] && split -b 15000000 -d -a 1 "$family.weights.npz" "$out/$family.weights.npz."
done
tar czf "$out/engines.tar.gz" ./*.manifest.json ./*.golden.npz ./*.report.json
ls -l "$out"
echo "done after $(($(date +%s) - begun)) s"
