"""What `assay doctor` looks at in the engines: keys, signatures, digests, the machine they are for, and how long."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from engines import gate
from engines.catalogue import VerifiedEngine, chosen_backend, open_session
from engines.errors import EngineRefused
from engines.machine import this_machine
from engines.manifest import EngineManifest
from engines.matrix import misfits, versions_line
from engines.signing import TrustedKeys
from worker.adapters.engine_opening import chosen_engines, place_of, trusted_keys
from worker.app import open_database
from worker.cli.findings import Finding, fail, ok, warn
from worker.errors import AssayError
from worker.settings import Settings

SOON: Final = timedelta(days=30)


def engine_findings(settings: Settings, *, load: bool) -> tuple[list[Finding], Sequence[VerifiedEngine]]:
    """The findings, and the engines whose bytes verify; `load` runs them on their golden images as well."""
    try:
        keys = trusted_keys(settings)
        engines = chosen_engines(settings, open_database)
    except (EngineRefused, AssayError) as refusal:
        told, _, fix = str(refusal).partition(". Fix: ")
        return [fail("engines", place_of(settings), told, fix or "mend what the line names")], ()
    now = datetime.now(UTC)
    findings = [of_keys(keys, now), *(of_engine(settings, engine.manifest, now) for engine in engines)]
    if load and all(finding.state != "fail" for finding in findings):
        findings.append(_loaded(settings, engines))
    return findings, engines


def of_keys(keys: TrustedKeys, now: datetime) -> Finding:
    """At least one key must be able to sign what comes next."""
    told = ", ".join(f"{name} {key.state}" + _until(key.expires_at) for name, key in sorted(keys.items())) or "none"
    active = [key for key in keys.values() if key.state == "active" and not _over(key.expires_at, now)]
    if not active:
        return warn("engines", "keys", told, "add a public key to engines.keys_dir: no new engine can be signed")
    if any(_over(key.expires_at, now + SOON) for key in active):
        return warn("engines", "keys", told, "a key expires within 30 days: add the next one and sign engines anew")
    return ok("engines", "keys", told)


def of_engine(settings: Settings, manifest: EngineManifest, now: datetime) -> Finding:
    """A verified engine against this machine."""
    backend = chosen_backend(settings.engines.backend)
    release = manifest.release
    version = f"version {release.version} for {release.target}, " if release is not None else ""
    made = f", made with {versions_line(release.made_with)}" if release is not None and release.made_with else ""
    proven = f"proven: {gate.told(release.proof)['proven']}, " if release is not None else ""
    told = f"{version}{manifest.precision}, opset {manifest.opset}, {proven}key {manifest.key_id}{made}"
    for fault in misfits(manifest, this_machine(), backend):
        return fail("engines", manifest.name, fault.message, fault.fix)
    if release is not None and _over(release.expires_at, now + SOON):
        return warn("engines", manifest.name, told + _until(release.expires_at), "publish a version that lasts longer")
    return ok("engines", manifest.name, f"verified: {told}")


def _loaded(settings: Settings, engines: Sequence[VerifiedEngine]) -> Finding:
    backend = chosen_backend(settings.engines.backend)
    try:
        open_session(engines, backend).close()
    except EngineRefused as refusal:
        told, _, fix = str(refusal).partition(". Fix: ")
        return fail("engines", "self-test", told, fix)
    return ok("engines", "self-test", f"{len(engines)} engines give their golden outputs on {backend}")


def _over(moment: datetime | None, now: datetime) -> bool:
    return moment is not None and moment <= now


def _until(moment: datetime | None) -> str:
    return f" until {moment:%Y-%m-%d}" if moment is not None else ""
