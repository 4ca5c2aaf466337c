#!/usr/bin/env bash
# Everything that only a GPU host can tell, in order of value, within a time:
#
#   scripts/gpu/everything.sh [-m MINUTES] [STEP or GROUP ...]     without one: all; `list` prints them
#
# Every step has a limit of its own and a log; one that fails or ends late costs no other, and one that does not fit into
# what is left of MINUTES (default 60) is left out and said to be. A summary comes last. PYTHON is the interpreter (python3),
# WORK keeps plans, photographs and records from one run to the next (/tmp/assay-gpu), OUT gets what is to be kept:
# logs.tgz, records.tgz, gpu.json and first_contact.json. Two at a time do on a host with two GPUs, each with a WORK, an
# OUT, a CUDA_VISIBLE_DEVICES and cores (taskset) of its own.
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root"
python=${PYTHON:-python3} work=${WORK:-/tmp/assay-gpu}
out=${OUT:-$work/out}
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} PLANS=$work/plans PYTHONUNBUFFERED=1 PYNVIMGCODEC_VERBOSITY=0

# name, seconds expected on an H200 with 16 cores, limit, command
steps="
contact     20   60 $python scripts/gpu/first_contact.py imports device kernels
probe       80  140 $python scripts/gpu/decode_probe.py
tests      250  330 $python -m pytest -m gpu tests/gpu tests/contract/test_runners.py -q -rfEs -p no:cacheprovider
session     60   90 $python scripts/gpu/first_contact.py session
decode     100  130 bench decode 110
resnet     300  330 bench engines-resnet50 310
vit        220  270 bench engines-vit 250
e2e        550  580 bench e2e 555
latency    130  190 bench latency 170
gallery     50   90 bench gallery 70
e2e-vit    240  300 bench e2e-vit 280
transact    80  130 bench transactions 110
drill      120  200 env ASSAY_ENGINES__BACKEND=tensorrt ASSAY_ENGINES__PLANS_DIR=$work/drill-plans $python -m worker.cli.main engine drill --name resnet18
faults     120  200 $python -m pytest -m gpu tests/acceptance/test_engine_faults.py -q -rfE -p no:cacheprovider
recal      500  900 $python -m demo.recalibrate --backend tensorrt
demo       150  240 make demo OFFLINE=1 PYTHON=$python
accuracy   440  480 bench accuracy 460
e2e-demo   110  160 bench e2e-demo 140
life       560  585 bench engine-life 565
gpus       150  260 bench gpus 240
"
declare -A groups=(
  [path]="contact probe tests session decode"   # 510 s: is it right, and where does decoding lose
  [engines]="resnet vit"                        # 520 s: G2, G3, G4, G9, G10, G19, G23
  [serving]="e2e"                               # 550 s: G1, G13, G14, G16, G18, G19, G22
  [rest]="latency gallery e2e-vit transact"     # 500 s: G7, G8, G11, G15, G17, G20, G22
  [planted]="drill faults e2e-demo"             # 350 s: engines that must not serve, the device's faults
  [goods]="recal"                               # 500 s: the demo's score calibration for a GPU, which its demo asks for
  [long]="accuracy demo"                        # 590 s: G5, and the demo on the GPU
  [plans]="life"                                # 560 s: a release of plans from import to rollback, G20's swap
  [several]="gpus"                              # 150 s, two GPUs or four: G12
)

if [ "${1:-}" = list ]; then
  echo "$steps" | awk 'NF { printf "%-10s %4d s, at most %4d s\n", $1, $2, $3 }'
  for group in path engines serving rest planted goods long plans several; do echo "$group: ${groups[$group]}"; done
  exit 0
fi
minutes=60
if [ "${1:-}" = -m ]; then minutes=$2; shift 2; fi
wanted=()
for word in "$@"; do read -ra some <<<"${groups[$word]:-$word}"; wanted+=("${some[@]}"); done
[ ${#wanted[@]} -gt 0 ] || mapfile -t wanted < <(echo "$steps" | awk 'NF { print $1 }')

mkdir -p "$work/logs" "$work/bench" "$out"
until=$((SECONDS + minutes * 60))
summary=()

keep() { # what was found so far, so that nothing is lost when this is ended from outside
  tar czf "$out/logs.tgz" -C "$work" logs
  (cd "$work/bench" && tar czf "$out/records.tgz" --ignore-failed-read ./*.json ./*.svg ./*.log 2>/dev/null)
  cp -f "$work/bench/gpu.json" "$out/" 2>/dev/null
  return 0
}

run() { # run NAME LIMIT_S COMMAND...
  local name=$1 limit=$2 began=$SECONDS code log; shift 2
  log=$work/logs/$name.log
  if [ $((until - SECONDS)) -lt $((limit / 2)) ]; then
    summary+=("$(printf '%-10s left out: %d s left' "$name" $((until - SECONDS)))")
    return
  fi
  [ "$limit" -le $((until - SECONDS)) ] || limit=$((until - SECONDS))
  echo "#### $name: $limit s at most"
  if [ "$1" = bench ]; then
    set -- "$python" -m benchmarks.gpu "$2" --budget "$((limit < $3 + 20 ? limit - 20 : $3))" --out "$work/bench" --brief
  fi
  OUT=$out timeout -k 20 "$limit" "$@" >"$log" 2>&1
  code=$?
  grep -a -v -E 'not run$|nvjpeg2k|nvtiff|^Note: If using' "$log" | tail -n 45 | cut -c1-220
  summary+=("$(printf '%-10s %4d s, ended with %d' "$name" $((SECONDS - began)) $code)")
  keep
}

graphs=
if [[ " ${wanted[*]} " == *" resnet "*" vit "* ]]; then # a minute and a half of the CPU, while the GPU races another network
  CUDA_VISIBLE_DEVICES='' nice -n 19 "$python" -m benchmarks.gpu.networks vit_b16 "$work/bench/vit_b16" \
    >"$work/logs/vit-graphs.log" 2>&1 &
  graphs=$!
fi

for name in "${wanted[@]}"; do
  read -ra step < <(echo "$steps" | awk -v name="$name" '$1 == name')
  if [ ${#step[@]} -eq 0 ]; then summary+=("$name: no such step"); continue; fi
  if [ "$name" = vit ] && [ -n "$graphs" ]; then wait "$graphs"; fi
  run "$name" "${step[2]}" "${step[@]:3}"
done
echo "#### summary"
"$python" -m benchmarks.gpu --merge --brief --out "$work/bench" 2>/dev/null | grep -v 'not run$'
keep
printf '%s\n' "${summary[@]}"
