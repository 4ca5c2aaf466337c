#!/usr/bin/env bash
# The life of engines beside running workers: one is made and serves, a better one is promoted, a worse and a wrong one
# are taken back, one of another embedding space is promoted, and the one before it comes back.
#
#   docs/engine-life.sh NAME GOODS WORK
#
# GOODS is yours:
#   encoder.onnx, other.onnx    FP32 encoders: what is to serve, and the same trained otherwise
#   photographs/, unlike/       100 to 500 for the ranges; and as many that are not like what jobs bring
#   references/, profiles.toml  what jobs are compared with, and what a category may get wrong
#   labelled.jsonl              labelled items, for the gate and for score calibrations
#   golden.jsonl                labelled items that are sent as golden jobs
# WORK is a folder for what is made. The registry and the services are those that the settings name, the database as
# assay_curator. Workers and jobs are not this script's: start them once the first engine serves, for candidates are
# judged on jobs. docs/engines.md explains the commands, docs/engines-release.md judgement and embedding spaces.
set -euo pipefail
name=$1 goods=$2 work=$(mkdir -p "$3" && cd "$3" && pwd)
: "${ASSAY_DATABASE__URL:?}" "${ASSAY_ENGINES__REGISTRY:?}" "${ASSAY_ENGINES__KEYS_DIR:?}"
read -ra levels <<<"${LEVELS:---mean 0.485,0.456,0.406 --std 0.229,0.224,0.225}"
read -ra judged <<<"${JUDGED:---category bag --alpha-accept 0.02 --alpha-reject 0.02}"
backend=${BACKEND:-openvino} tenant=${TENANT:-demo} share=${SHARE:-50%} patience_s=${PATIENCE_S:-3600}
by=(--by "${BY:-$(id -un)}")
signed=("${by[@]}" --why "docs/engine-life.sh")

assay() {
  echo "== assay $*" >&2
  command ${ASSAY:-assay} "$@"
}

refused() { # COMMAND...
  if "$@"; then
    echo "was to be refused, and was not: $*" >&2
    exit 1
  fi
}

# An INT8 engine: made, held to the accuracy budget (exit code 1 ends this script), raced and proven on this machine.
made() { # FOLDER FP32 [OPTIONS of quantize]
  assay engine quantize "$2" "$goods/photographs" --out "$1/int8" "${@:3}"
  assay engine evaluate "$2" "$1/int8" "$goods/labelled.jsonl" "${judged[@]}" --out "$1/evaluation"
  cat >"$1/recipe.toml" <<EOF
name = "$name"
fp32 = "$2"
backend = "$backend"
batches = [${BATCHES:-1, 8}]
[[candidates]]
draft = "int8"
report = "evaluation/evaluation.json"
[[candidates]]
draft = "$2"
EOF
  assay engine build "$1/recipe.toml" --out "$1/built"
}

published() { # FOLDER OPTIONS of publish
  assay engine publish "$1" "$name" --key "$work/curator.pem" --valid-days 365 "${signed[@]}" "${@:2}"
  assay engine verify "$name" --backend "$backend" "${signed[@]}"
}

proven() { # FOLDER: what `made` made; the report's bounds go under the signature
  published "$1/built/engine" --report "$1/built/evaluation.json"
}

calibrated() { # OPTIONS of calibrate
  assay calibrate "$goods/labelled.jsonl" --tenant "$tenant" --publish "${by[@]}" "$@"
}

# The newest verified engine on a share of the jobs, golden ones among them, until it is decided. `assay watch`, where it
# runs, decides by itself.
tried() { # WHAT IS EXPECTED: promoted, or taken_back
  assay engine canary "$name" --share "$share" "${signed[@]}"
  assay engine golden "$goods/golden.jsonl" --tenant "$tenant" "${signed[@]}"
  assay engine judge --wait "$patience_s"
  assay engine release "$name" --json | tee "$work/release.json"
  grep -q "^  \"state\": \"$1\"" "$work/release.json" || {
    echo "it was to be $1" >&2
    exit 1
  }
}

# The first engine, and what it is served with.
assay engine import "$goods/encoder.onnx" --name "$name" "${levels[@]}" --out "$work/fp32"
made "$work/first" "$work/fp32"
mkdir -p "$ASSAY_ENGINES__KEYS_DIR"
assay engine keygen "$work/curator.pem" "$ASSAY_ENGINES__KEYS_DIR/curator.pub"
proven "$work/first"
assay engine promote "$name" "${signed[@]}"
assay enroll "$goods/references" --tenant "$tenant" --profiles "$goods/profiles.toml" "${by[@]}"
calibrated

# A better one, of the same weights.
made "$work/second" "$work/fp32" --method percentile
proven "$work/second"
calibrated --candidate "$name"
tried promoted

# A worse one: its ranges were learnt from the wrong photographs. The gate holds it up; somebody overrules the gate.
assay engine quantize "$work/fp32" "$goods/unlike" --out "$work/worse"
refused assay engine evaluate "$work/fp32" "$work/worse" "$goods/labelled.jsonl" "${judged[@]}"
published "$work/worse" --without-report "to see what the canary says of it"
calibrated --candidate "$name"
tried taken_back

# The wrong one: weights of another training, under a manifest that gives them out for this one's.
assay engine import "$goods/other.onnx" --name "$name" "${levels[@]}" --out "$work/other"
space() { sed -n 's/.*"embedding_space":"\([0-9a-f]*\)".*/\1/p' "$1/$name.manifest.json"; }
cp -r "$work/other" "$work/wrong"
sed -i "s/$(space "$work/other")/$(space "$work/fp32")/" "$work/wrong/$name.manifest.json"
published "$work/wrong" --without-report "to see what the canary says of it"
calibrated --candidate "$name"
tried taken_back

# The same weights as what they are, another embedding space: no traffic before its references and its calibration.
made "$work/third" "$work/other"
proven "$work/third"
refused assay engine canary "$name" "${signed[@]}"
assay engine embed "$name" "${by[@]}"
refused assay engine canary "$name" "${signed[@]}"
calibrated --candidate "$name"
tried promoted

# Back to the one before; what it replaces is retired for good.
assay engine rollback "$name" "${signed[@]}"
assay engine list "$name"
assay engine show "$name"
