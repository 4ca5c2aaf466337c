"""The accuracy gate: what a report must say of an engine, and what a release keeps of it."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from engines.errors import EngineRefused, RefusalCode
from engines.evaluating import default_budget, limits
from engines.export import ExportedEngine
from engines.gate import proof_of, refuse_unproven, told
from engines.machine import this_machine
from engines.manifest import EngineManifest, Precision, sha256_hex
from engines.proof import Bound, Proof
from engines.publish import released, seeded_engine


@pytest.fixture(scope="module")
def made() -> ExportedEngine:
    return seeded_engine("resnet18", 1, image_size=64)


Changes = dict[str, dict[str, Any]]


def report(manifest: EngineManifest, changes: Changes | None = None) -> bytes:
    """As `assay engine evaluate` writes it, every bound just held; `changes` by a bound's name."""
    checks = [
        {"name": one.name, "found": one.value, "limit": one.value, "at_most": one.at_most, "told": "n", "holds": True}
        | (changes or {}).get(one.name, {})
        for one in limits(default_budget(manifest.family, manifest.precision))
    ]
    graphs = {"candidate": {"onnx_sha256": manifest.onnx_sha256}, "fp32": {"onnx_sha256": "f" * 64}}
    return json.dumps({**graphs, "checks": checks, "within_budget": True}).encode()


def of(manifest: EngineManifest, proof: Proof | None) -> EngineManifest:
    return released(manifest, version=1, machine=this_machine(), proof=proof)


def refusal(manifest: EngineManifest, proof: Proof | None) -> EngineRefused:
    with pytest.raises(EngineRefused) as refused:
        refuse_unproven(of(manifest, proof))
    return refused.value


@pytest.mark.parametrize("precision", ["int8", "fp32"])
@pytest.mark.parametrize("family", ["resnet18", "vit_tiny16"])
def test_a_report_at_its_bounds_is_enough_and_goes_under_the_signature(
    made: ExportedEngine, family: str, precision: Precision
) -> None:
    manifest = dataclasses.replace(made.manifest, family=family, precision=precision)
    raw = report(manifest)
    release = of(manifest, proof_of(raw, manifest))
    refuse_unproven(release)
    again = EngineManifest.from_json(release.to_json(), "x")
    assert again == release
    assert again.signed_bytes() == release.signed_bytes()
    assert again.release is not None and again.release.proof is not None
    assert again.release.proof.report_sha256 == sha256_hex(raw)
    assert told(again.release.proof)["proven"] == "yes"


def test_without_a_report_it_is_refused_and_a_reason_is_kept(made: ExportedEngine) -> None:
    assert refusal(made.manifest, None).code is RefusalCode.UNPROVEN
    assert "--without-report" in refusal(made.manifest, None).fix
    kept = of(made.manifest, Proof(without="a trial"))
    refuse_unproven(kept)
    parsed = EngineManifest.from_json(kept.to_json(), "x").release
    assert parsed is not None and told(parsed.proof) == {"proven": "without a report: a trial", "bounds": []}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"verdict flips": {"found": 0.001}}, "verdict flips 0.00100"),
        ({"verdict flips": {"found": 0.001, "limit": 0.01}}, "usual is 0.0005"),
        ({"verdict flips": {"found": None}}, "verdict flips not measured"),
        ({"verdict flips": {"at_most": False}}, "verdict flips"),
        ({"recall@1 lost": {"found": 0.0031}}, "recall@1 lost"),
        ({"embedding cosine, mean": {"found": 0.99}}, "embedding cosine, mean"),
        ({"embedding cosine, mean": {"found": 0.99, "limit": 0.5}}, "usual is 0.995"),
        ({"embedding cosine, P1": {"found": 0.5}}, "embedding cosine, P1"),
        ({"changes to or from inconclusive": {"found": 0.03}}, "changes to or from inconclusive"),
        ({"file over FP32's": {"name": "something else"}}, "file over FP32's is not in the report"),
    ],
)
def test_a_bound_that_does_not_hold_or_was_loosened_or_left_out_is_refused(
    made: ExportedEngine, changes: Changes, told: str
) -> None:
    raw = report(made.manifest, changes)
    found = refusal(made.manifest, proof_of(raw, made.manifest))
    assert found.code is RefusalCode.OVER_BUDGET
    assert told in str(found)
    refuse_unproven(of(made.manifest, proof_of(raw, made.manifest, without="known")))


def test_a_budget_that_was_loosened_in_vain_is_the_usual_one(made: ExportedEngine) -> None:
    raw = report(made.manifest, {"verdict flips": {"found": 0.0, "limit": 0.5}})
    refuse_unproven(of(made.manifest, proof_of(raw, made.manifest)))


def test_a_report_of_another_engine_or_none_at_all_is_refused(made: ExportedEngine) -> None:
    other = dataclasses.replace(made.manifest, onnx_sha256="0" * 64)
    good = json.loads(report(made.manifest))
    damaged: list[Any] = [
        b"", b"{", b"[]", b"null", json.dumps({**good, "checks": [1]}).encode(),
        json.dumps({**good, "fp32": {}}).encode(),
        report(made.manifest, {"verdict flips": {"found": float("nan")}}),
        report(made.manifest, {"verdict flips": {"limit": float("inf")}}),
        report(made.manifest, {"verdict flips": {"at_most": 1}}),
        report(other),
    ]  # fmt: skip
    for raw in damaged:
        with pytest.raises(EngineRefused) as refused:
            proof_of(raw, made.manifest)
        assert refused.value.code is RefusalCode.REPORT_INVALID, raw


def test_a_release_from_before_the_gate_still_parses_with_the_same_bytes(made: ExportedEngine) -> None:
    old = of(made.manifest, None)
    assert b"proof" not in old.to_json()
    assert EngineManifest.from_json(old.to_json(), "x") == old
    for wrong in ({"proof": None}, {"proof": {}}, {"proof": {"without": "x"}}):
        fields = json.loads(of(made.manifest, Proof(without="x")).to_json())
        fields["release"] |= wrong
        with pytest.raises(EngineRefused, match="manifest_invalid"):
            EngineManifest.from_json(json.dumps(fields).encode(), "x")


def test_what_is_no_number_is_no_bound() -> None:
    with pytest.raises(ValueError, match="no numbers"):
        Bound(name="x", found=float("nan"), limit=1.0, at_most=True)
    with pytest.raises(ValueError, match="neither"):
        Proof()
