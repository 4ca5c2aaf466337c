#!/usr/bin/env bash
# Train the families side by side within one run of a GPU host, while their photographs are still being rendered.
# What the run says goes to $LOGS/train.log, which ends with `done`; what it made to $RESULTS, at most 8 files, each under
# 16 MiB, laid out again as each family is finished. A second run on the same machine finds the renders and goes on from
# the checkpoints; on another machine INIT goes on from the weights.
#   RESULTS    folder for what comes of it (/tmp/assay-trained)
#   LOGS       folder for the log (/tmp/assay-train-logs)
#   BUDGET     seconds for everything (560)
#   FAMILIES   what to train ("resnet18 vit_tiny16")
#   RENDER_S   most seconds for rendering the training SKUs (230)
#   SKUS       most training SKUs (1100; fewer where there is no room: 29 MB each)
#   SHARES     when each family's training ends, in per cent of BUDGET ("resnet18=78 vit_tiny16=84")
#   COMPILE_S  most seconds for compiling a family's step (90; 0: do not)
#   INIT       a folder with FAMILY.weights.npz of an earlier run to begin with
set -u
begun=$(date +%s)
budget=${BUDGET:-560}
families=${FAMILIES:-resnet18 vit_tiny16}
out=${RESULTS:-/tmp/assay-trained}
logs=${LOGS:-/tmp/assay-train-logs}
mkdir -p "$out" "$logs"
rm -f "$logs/done"
exec >"$logs/train.log" 2>&1
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1

# memory, where there is room for the pixels: faster than a disk whose speed is not known
sku_kb=29600
room_of() { df --output=avail -k "$1" 2>/dev/null | tail -1; }
place=/dev/shm
[ "$(room_of /dev/shm)" -gt $((1100 * sku_kb + 8000000)) ] 2>/dev/null || place=/tmp
data=${DATA:-$place/assay-train}
mkdir -p "$data"
skus=${SKUS:-1100}
room=$(room_of "$data")
[ -n "$room" ] && [ "$skus" -gt $(((room - 6000000) / sku_kb)) ] && skus=$(((room - 6000000) / sku_kb))
work=$data/out
mkdir -p "$work"
python=${PYTHON:-python3}
cores=$(nproc) # before the next line, which nproc heeds
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 PYTHONUNBUFFERED=1 TORCHINDUCTOR_COMPILE_THREADS=6
count=$(wc -w <<<"$families")
threads=$((cores > 2 * count ? (cores - count) / count : 1))
echo "$cores cores, $skus SKUs in $data, $(free -g | awk '/Mem/{print $2 " GB of memory, " $7 " available"}')"
nvidia-smi --query-gpu=name,memory.total,memory.used --format=csv,noheader 2>/dev/null

nice -n 10 "$python" -m demo.train render --data "$data" --skus "$skus" --eval-skus "${EVAL_SKUS:-120}" \
  --seconds "${RENDER_S:-230}" --workers "$((cores > 6 ? cores - 4 : cores))" > >(sed -u "s/^/[render] /") 2>&1 &
renderer=$!

finish=$((begun + budget * 96 / 100))
pids=()
for family in $families; do
  # the ViT learns more slowly: it trains on while the ResNet is measured
  share=84
  for pair in ${SHARES:-resnet18=78 vit_tiny16=84}; do [ "${pair%=*}" = "$family" ] && share=${pair#*=}; done
  init=()
  [ -n "${INIT:-}" ] && init=(--init "$INIT/$family.weights.npz")
  "$python" -m demo.train fit --family "$family" --data "$data" --out "$work" --threads "$threads" \
    --compile-s "${COMPILE_S:-90}" --until $((begun + budget * share / 100)) --finish "$finish" \
    ${init[@]+"${init[@]}"} ${FIT_ARGS:-} > >(sed -u "s/^/[$family] /") 2>&1 &
  pids+=($!)
done

lay_out() {
  for family in $families; do
    [ -f "$work/$family.onnx" ] && cp "$work/$family.onnx" "$out/"
    [ -f "$work/$family.weights.npz" ] && split -b 15000000 -d -a 1 "$work/$family.weights.npz" "$out/$family.weights.npz."
  done
  (cd "$work" && compgen -G "*.manifest.json" >/dev/null && tar czf "$out/engines.tar.gz" ./*.manifest.json ./*.golden.npz ./*.report.json)
  cp "$logs/train.log" "$out/train.log"
}

# what exists when the time is up is laid out, whether or not every family is done
laid=""
while [ "$(date +%s)" -lt $((begun + budget)) ]; do
  running=0
  for pid in "${pids[@]}"; do kill -0 "$pid" 2>/dev/null && running=1; done
  [ "$running" = 0 ] && break
  made=$(cd "$work" && ls -l --time-style=full-iso ./*.weights.npz ./*.report.json 2>/dev/null)
  [ "$made" != "$laid" ] && laid=$made && lay_out
  sleep 1
done
for pid in "${pids[@]}" "$renderer"; do kill "$pid" 2>/dev/null; done
ls -l "$out"
echo "done after $(($(date +%s) - begun)) s"
lay_out
touch "$logs/done"
