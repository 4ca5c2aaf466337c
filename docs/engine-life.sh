#!/usr/bin/env bash
# The life of an engine on one machine: from an FP32 ONNX encoder to service, and back.
#
#   docs/engine-life.sh ENCODER.onnx NAME PHOTOGRAPHS LABELLED WORK
#
# PHOTOGRAPHS: 100 to 500 of your own, for the ranges. LABELLED: genuine/ and counterfeit/, for the gate. WORK: a folder
# for what is made. The registry is the one that the settings name, with its database as assay_curator:
# ASSAY_DATABASE__URL, ASSAY_ENGINES__REGISTRY, ASSAY_ENGINES__KEYS_DIR. LEVELS, JUDGED, BACKEND, BY and TRIAL below may
# be set. docs/engines.md explains each step; tests/acceptance/test_engine_life.py runs it on drawn goods.
set -euo pipefail
encoder=$1 name=$2 photographs=$3 labelled=$4 work=$5
: "${ASSAY_DATABASE__URL:?}" "${ASSAY_ENGINES__REGISTRY:?}" "${ASSAY_ENGINES__KEYS_DIR:?}"
read -ra levels <<<"${LEVELS:---mean 0.485,0.456,0.406 --std 0.229,0.224,0.225}"
read -ra judged <<<"${JUDGED:---category bag --alpha-accept 0.04 --alpha-reject 0.04}"
signed=(--by "${BY:-$(id -un)}" --why "docs/engine-life.sh")

assay() {
  echo "== assay $*" >&2
  command ${ASSAY:-assay} "$@"
}

# Make: each step refuses what it cannot vouch for, and then leaves nothing behind.
mkdir -p "$work"
assay engine import "$encoder" --name "$name" "${levels[@]}" --out "$work/fp32"
assay engine quantize "$work/fp32" "$photographs" --out "$work/int8"

# Prove: exit code 1, and so the end of this script, for an engine over its accuracy budget.
assay engine evaluate "$work/fp32" "$work/int8" "$labelled" "${judged[@]}" --out "$work/evaluation"

# Build: race what passes on this machine; the original runs beside it to compare with.
cat >"$work/recipe.toml" <<EOF
name = "$name"
fp32 = "fp32"
backend = "${BACKEND:-openvino}"
batches = [1, 8]
[[candidates]]
draft = "int8"
report = "evaluation/evaluation.json"
[[candidates]]
draft = "fp32"
EOF
assay engine build "$work/recipe.toml" --out "$work/built"

# Sign and publish: the report's bounds go under the signature.
mkdir -p "$ASSAY_ENGINES__KEYS_DIR"
assay engine keygen "$work/curator.pem" "$ASSAY_ENGINES__KEYS_DIR/curator.pub"
release() {
  assay engine publish "$work/built/engine" "$name" --key "$work/curator.pem" --report "$work/built/evaluation.json" \
    --valid-days 365 "${signed[@]}"
  assay engine verify "$name" "${signed[@]}"
}

# Serve.
release
assay engine promote "$name" "${signed[@]}"

# The next version. On a site with traffic it is tried there before it is promoted: TRIAL is a command that does so, and
# its exit code says whether to go on. `assay engine canary NAME --share 50%` (or shadow) lets it see jobs, `assay watch`
# or `assay engine judge` decides, `assay engine release NAME` tells what: docs/engines-release.md.
release
if [ -n "${TRIAL:-}" ]; then
  $TRIAL "$name"
fi
assay engine promote "$name" "${signed[@]}"

# Take it back: the first version serves again, the second is retired for good.
assay engine rollback "$name" "${signed[@]}"
assay engine list "$name"
assay engine show "$name"
