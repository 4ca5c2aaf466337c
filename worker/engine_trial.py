"""Two engines of one encoder on the same labelled items: what each sees and what the judge then says.

The gallery and the score calibration are the first engine's, so that the arithmetic of the encoder is all that differs
between their verdicts. Against the ports only; measuring and telling is engines.evaluating's.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from schemas.codes import Verdict
from worker.calibrate import check_labels, collect
from worker.core.calibration import CalibrationRefused, fit
from worker.core.decision import judge
from worker.core.enrolment import build_snapshot
from worker.core.evidence import UnusableView, Vector, ViewProbe
from worker.core.gallery import GallerySnapshot, Reference, reference_of
from worker.core.labelled import LabelledEvidence
from worker.core.matching import NumpyMatcher
from worker.core.policy import CategoryProfile, Policy, ViewRequirement
from worker.enrol import BadPhotograph, Encoded, encode, find_photographs
from worker.errors import AssayError
from worker.items import Item
from worker.ports import EncodeView, PendingViews, ViewEncoder

TENANT = "evaluation"
PhotographKey = tuple[str, str]  # view, sha256


class TrialRefused(AssayError):
    """The labelled items cannot tell engines apart; the message names the counts and the fix."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Items that share no specimen: references, those the score calibration is fitted on, those that are judged."""

    references: tuple[Item, ...]
    fitted: tuple[Item, ...]
    judged: tuple[Item, ...]

    @property
    def probes(self) -> tuple[Item, ...]:
        return (*self.fitted, *self.judged)


@dataclass(frozen=True, slots=True, kw_only=True)
class Photo:
    """One photograph that was seen. `genuine` is of what it shows: a forger leaves most views as they were."""

    key: PhotographKey
    sku: str
    role: str  # category/view
    genuine: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What the judge said of one item whose truth is known."""

    item: str
    genuine: bool
    verdict: Verdict
    p_genuine: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One engine's part: embeddings by photograph, and verdicts in the order of the judged items."""

    embeddings: Mapping[PhotographKey, Vector]
    said: tuple[Said, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """`no_verdicts` says why there are none; `unusable` counts photographs that no engine could take."""

    references: tuple[Photo, ...]
    probes: tuple[Photo, ...]
    exact: Seen
    coarse: Seen
    no_verdicts: str | None
    unusable: int


def parted(items: Sequence[Item], references: Sequence[Item], *, per_sku: int, seed: int) -> Parts:
    """Without `references`, the first `per_sku` genuine specimens of each SKU by a hash. Of the others three of five
    fit the score calibration. Raises UnlabelledItems and TrialRefused."""
    check_labels(items)
    if not 0 < sum(item.label == "genuine" for item in items) < len(items):
        raise TrialRefused(f"all {len(items)} items are {items[0].label}: both classes are needed")
    ordered = sorted(items, key=lambda item: _hash(seed, *_specimen(item)))
    chosen = references or _first_of_each(ordered, per_sku)
    enrolled = {_specimen(item) for item in chosen}
    others = [item for item in ordered if _specimen(item) not in enrolled]
    if not 0 < sum(item.label == "genuine" for item in others) < len(others):
        genuine = sum(item.label == "genuine" for item in others)
        counts = (
            f"{genuine} genuine and {len(others) - genuine} counterfeit items are left beside {len(chosen)} references"
        )
        raise TrialRefused(f"{counts}: label more, give fewer --references-per-sku, or name --references of their own")
    fitted = [item for item in others if _hash(seed + 1, *_specimen(item)) % 5 < 3]
    judged = [item for item in others if item not in fitted]
    return Parts(references=tuple(chosen), fitted=tuple(fitted), judged=tuple(judged))


def run_trial(
    parts: Parts,
    exact: ViewEncoder,
    coarse: ViewEncoder,
    *,
    names: tuple[str, str],
    profiles: Mapping[str, CategoryProfile],
    seed: int = 0,
    batch_images: int = 32,
) -> Trial:
    """See and judge with both. The encoders must tell the same provenance, as engines of one embedding space."""
    first, second = (
        Remembering(encoder, name, batch_images) for encoder, name in zip((exact, coarse), names, strict=True)
    )
    enrolled, bad = first.enrol(parts.references)
    second.enrol(parts.references)
    gallery = build_snapshot(TENANT, 1, enrolled, Policy(profiles=profiles))
    fitting = first.collect(parts.fitted, gallery)
    second.collect(parts.fitted, gallery)
    policy, refused = _policy(fitting, profiles, seed)
    shown = [engine.collect(parts.judged, gallery) for engine in (first, second)]
    said = [_said(found, policy) if policy else () for found in shown]
    probes = tuple(photo for one in (*fitting, *shown[0]) for photo in _photos(one))
    return Trial(
        references=tuple(_reference_photo(reference) for reference in enrolled),
        probes=probes,
        exact=Seen(embeddings=first.embeddings, said=said[0]),
        coarse=Seen(embeddings=second.embeddings, said=said[1]),
        no_verdicts=refused,
        unusable=bad + sum(len(one.evidence.unusable) for one in (*fitting, *shown[0])),
    )


def profiles_of(items: Iterable[Item], *, alpha_accept: float, alpha_reject: float) -> dict[str, CategoryProfile]:
    """A profile a category where none is given: every view counts and none is required."""
    views: dict[str, set[str]] = defaultdict(set)
    for item in items:
        views[item.category] |= set(item.views)
    return {
        category: CategoryProfile(
            category=category,
            views=tuple(ViewRequirement(view=view, required=False) for view in sorted(found)),
            alpha_accept=alpha_accept,
            alpha_reject=alpha_reject,
        )
        for category, found in views.items()
    }


@dataclass(slots=True)
class Remembering:
    """A ViewEncoder that keeps every embedding it hands on."""

    encoder: ViewEncoder
    name: str
    batch_images: int
    embeddings: dict[PhotographKey, Vector] = field(default_factory=dict)

    def start(self, requests: Sequence[EncodeView]) -> Remembered:
        return Remembered(pending=self.encoder.start(requests), embeddings=self.embeddings)

    def close(self) -> None:
        self.encoder.close()

    def enrol(self, items: Sequence[Item]) -> tuple[list[Reference], int]:
        """References of genuine items, and how many photographs could not be used."""
        found = find_photographs(items, tenant=TENANT, known={})
        made = list(encode(found.photographs, self, encoder_for=self._encoder_for, batch_images=self.batch_images))
        references = [_reference(one) for one in made if isinstance(one, Encoded)]
        return references, len(found.bad) + sum(isinstance(one, BadPhotograph) for one in made)

    def collect(self, items: Sequence[Item], gallery: GallerySnapshot) -> list[LabelledEvidence]:
        given = {"encoder_for": self._encoder_for, "batch_images": self.batch_images}
        return list(collect(items, self, NumpyMatcher(), gallery, **given))  # type: ignore[arg-type]

    def _encoder_for(self, category: str, view: str) -> str:
        return self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    pending: PendingViews
    embeddings: dict[PhotographKey, Vector]

    def result(self) -> list[ViewProbe | UnusableView]:
        answers = self.pending.result()
        self.embeddings.update({(a.view, a.sha256): a.embedding for a in answers if isinstance(a, ViewProbe)})
        return answers

    def prompt(self) -> Sequence[ViewProbe | UnusableView]:
        """Nobody hurries a trial."""
        return self.result()


def _policy(
    fitting: Sequence[LabelledEvidence], profiles: Mapping[str, CategoryProfile], seed: int
) -> tuple[Policy | None, str | None]:
    try:
        calibration, _ = fit(fitting, profiles, seed=seed)
    except CalibrationRefused as refused:
        return None, str(refused)
    return Policy(profiles=profiles, calibrations=(calibration,)), None


def _said(found: Sequence[LabelledEvidence], policy: Policy) -> tuple[Said, ...]:
    judgements = judge([one.evidence for one in found], policy)
    return tuple(
        Said(item=one.evidence.job.job_id, genuine=one.genuine, verdict=said.verdict, p_genuine=said.p_genuine)
        for one, said in zip(found, judgements, strict=True)
    )


def _photos(one: LabelledEvidence) -> list[Photo]:
    job = one.evidence.job
    return [
        Photo(
            key=(match.probe.view, match.probe.sha256),
            sku=job.sku,
            role=f"{job.category}/{match.probe.view}",
            genuine=one.shows_genuine(match.probe.view),
        )
        for match in one.evidence.matches
    ]


def _reference(one: Encoded) -> Reference:
    photograph = one.loaded.photograph
    return reference_of(
        one.probe,
        reference_id=f"{photograph.item.sku}/{photograph.view}/{photograph.sha256[:16]}",
        sku=photograph.item.sku,
        category=photograph.item.category,
        genuine=photograph.genuine,
    )


def _reference_photo(reference: Reference) -> Photo:
    role = f"{reference.category}/{reference.view}"
    return Photo(key=(reference.view, reference.sha256), sku=reference.sku, role=role, genuine=reference.genuine)


def _first_of_each(items: Iterable[Item], per_sku: int) -> list[Item]:
    taken: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        if item.label == "genuine" and len(taken[item.sku]) < per_sku:
            taken[item.sku].append(item)
    return [item for found in taken.values() for item in found]


def _specimen(item: Item) -> tuple[str, str]:
    return item.sku, item.labels.get("subject") or item.name


def _hash(seed: int, *names: str) -> int:
    return int.from_bytes(hashlib.sha256("\x00".join([str(seed), *names]).encode()).digest()[:8], "big")
