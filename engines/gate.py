"""The accuracy gate: an engine is published, verified and promoted only with a report of `assay engine evaluate` on its
very graph that holds the usual budget of its family, or with a reason that is written down for good."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from engines.errors import EngineRefused, RefusalCode
from engines.evaluating import Limit, default_budget, limits
from engines.manifest import EngineManifest, sha256_hex
from engines.proof import Bound, Proof, bound_from

_EXEMPT: Final = 'or give --without-report "WHY", which is recorded'
_EVALUATE: Final = "run assay engine evaluate FP32 CANDIDATE LABELLED --out FOLDER"


def proof_of(report: bytes, manifest: EngineManifest, *, without: str = "") -> Proof:
    """What a report's file proves of an engine; whether that is enough, refuse_unproven says. Raises EngineRefused
    (report_invalid) where it is of another graph, or no report."""
    try:
        told = json.loads(report)
        candidate, exact = told["candidate"]["onnx_sha256"], told["fp32"]["onnx_sha256"]
        bounds = tuple(bound_from(check) for check in told["checks"])
        proof = Proof(report_sha256=sha256_hex(report), fp32_sha256=exact, bounds=bounds, without=without)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        message = f"{manifest.name}'s report is no evaluation.json of this version: {error!r}"
        raise EngineRefused(RefusalCode.REPORT_INVALID, message, _EVALUATE) from error
    if candidate != manifest.onnx_sha256:
        message = f"the report is of graph {candidate[:12]}, {manifest.name} is {manifest.onnx_sha256[:12]}"
        raise EngineRefused(RefusalCode.REPORT_INVALID, message, f"{_EVALUATE} for this very engine")
    return proof


def refuse_unproven(manifest: EngineManifest) -> None:
    """Raises EngineRefused: unproven without a report, over_budget where a bound of the usual budget does not hold or
    was loosened. A reason of its own that the release carries is enough."""
    if manifest.release is None:
        raise EngineRefused(RefusalCode.MANIFEST_INVALID, f"{manifest.name} has no version", "sign it as a release")
    proof = manifest.release.proof
    if proof is None:
        message = f"{manifest.name} has no report that proves its accuracy"
        raise EngineRefused(RefusalCode.UNPROVEN, message, f"{_EVALUATE} and publish with --report, {_EXEMPT}")
    if proof.without:
        return
    faults = faults_of(manifest, proof)
    if faults:
        message = f"{manifest.name} is over its accuracy budget: {'; '.join(faults)}"
        fix = f"quantize anew under a tighter budget, or evaluate on more items, {_EXEMPT}"
        raise EngineRefused(RefusalCode.OVER_BUDGET, message, fix)


def faults_of(manifest: EngineManifest, proof: Proof) -> list[str]:
    """Bounds of the usual budget that a proof does not hold."""
    return list(_faults(manifest, proof))


def told(proof: Proof | None) -> dict[str, Any]:
    """The proof for people and machines."""
    if proof is None:
        return {"proven": "no"}
    bounds = [f"{bound}{': ' + bound.told if bound.told else ''}" for bound in proof.bounds]
    return {"proven": "without a report: " + proof.without if proof.without else "yes", "bounds": bounds}


def _faults(manifest: EngineManifest, proof: Proof) -> Iterator[str]:
    found = {bound.name: bound for bound in proof.bounds}
    for limit in limits(default_budget(manifest.family, manifest.precision)):
        bound = found.get(limit.name)
        if bound is None:
            yield f"{limit.name} is not in the report"
        elif not bound.holds:
            yield str(bound)
        elif _looser(bound, limit):
            yield f"{bound}, and usual is {limit.value:g}"


def _looser(bound: Bound, limit: Limit) -> bool:
    """A bound that was loosened may still hold the usual one."""
    usual = Bound(name=limit.name, found=bound.found, limit=limit.value, at_most=limit.at_most)
    return bound.at_most != limit.at_most or not usual.holds
