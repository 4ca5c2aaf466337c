"""A job between its photographs and its evidence: views come back from batches in any order, from one set of engines or
from two, and each set's make an evidence of their own."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from schemas.job import AuthenticationJob, JobView
from worker.core.courses import Answering, JobEngines
from worker.core.evidence import JobEvidence, StageTimes, UnusableView, ViewMatch, ViewProbe
from worker.core.gallery import GallerySnapshot
from worker.core.matching import MatchRequest, with_stored
from worker.errors import AssayError
from worker.fetching import no_usable_view
from worker.internal_error import internal_error
from worker.ports import Matcher
from worker.work import Embedded, Fetched, Received, Rival, Settleable

EncoderName = Callable[[str, str], str]  # (category, view) -> encoder
Galleries = Callable[[str], GallerySnapshot]  # of a tenant; waits while Postgres is away


@dataclass(slots=True, kw_only=True)
class Assembly:
    """A job whose views come back from different batches. Owned by the embed thread. `results` by view and by the key
    of what encoded it, `waiting` how many are still to come, or to be dropped."""

    fetched: Fetched
    engines: JobEngines
    encoders: tuple[str, ...]  # of each image
    started_s: float
    waiting: int = 0
    moved: bool = False  # to the slow lane; what still comes of it is dropped
    results: dict[tuple[str, str], ViewProbe | UnusableView] = field(default_factory=dict)
    infinite: list[ViewProbe] = field(default_factory=list)  # of the results

    @property
    def received(self) -> Received:
        return self.fetched.received

    def take(self, request: ViewToEncode, result: ViewProbe | UnusableView) -> None:
        """A view has come. Its numbers are looked at here, once."""
        self.results[request.view.view, request.encoder] = result
        if isinstance(result, ViewProbe) and not is_finite(result):
            self.infinite.append(result)

    def believes(self, probe: ViewProbe) -> bool:
        """False for a result whose numbers are not finite."""
        return not any(probe is bad for bad in self.infinite)

    def answers(self, answering: Answering) -> list[ViewProbe | UnusableView]:
        """One a view, all of one set of engines, or of the one that made the stored evidence of a view."""
        views = zip(self.fetched.images, self.encoders, strict=True)
        known: dict[str, ViewProbe | UnusableView] = {stored.probe.view: stored.probe for stored in self.fetched.stored}
        known.update({view.view: self.results[view.view, answering.key(encoder)] for (view, _), encoder in views})
        return [known[view.view] for view in self.received.job.views if view.view in known]


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewToEncode:
    """An image on its way to an encoder, with the job that waits for it. `encoder` is the key of a set's engine."""

    tenant: str
    view: JobView
    data: bytes = field(repr=False)
    encoder: str
    assembly: Assembly = field(repr=False)


def assembly_of(fetched: Fetched, engines: JobEngines, encoders: Sequence[str]) -> tuple[Assembly, list[ViewToEncode]]:
    """A job that begins, and what is to be encoded for it."""
    assembly = Assembly(fetched=fetched, engines=engines, encoders=tuple(encoders), started_s=time.monotonic())
    tenant = fetched.received.job.tenant
    requests = [
        ViewToEncode(tenant=tenant, view=view, data=data, encoder=key, assembly=assembly)
        for (view, data), encoder in zip(fetched.images, encoders, strict=True)
        for key in engines.keys(encoder)
    ]
    assembly.waiting = len(requests)
    return assembly, requests


def completed(assembly: Assembly, galleries: Galleries, matcher: Matcher, *, keep_images: bool) -> Settleable:
    """The evidence of a job whose views are all there; where a candidate looked as well, of both.

    What the candidate fails at is told beside the current engines' evidence, and costs the job nothing.
    """
    serving = assembly.engines.serving
    answers = assembly.answers(serving)
    faults = tuple(answer for answer in answers if isinstance(answer, UnusableView))
    if len(faults) == len(answers):
        return no_usable_view(assembly.received, (*assembly.fetched.unusable, *faults), stage="embed")
    snapshot = galleries(assembly.received.job.tenant)
    started_s = time.monotonic()
    try:
        evidence = evidence_of(assembly, serving, snapshot, matcher)
    except (AssayError, MemoryError):
        raise
    except Exception as error:
        return internal_error(assembly.received, "embed", error)
    rival = _rival(assembly, snapshot, matcher, time.monotonic() - started_s)
    embedded = Embedded(
        received=assembly.received,
        evidence=evidence,
        policy=snapshot.policy,
        images=assembly.fetched.images if keep_images else (),
        rival=rival,
    )
    return published_by_candidate(embedded) if rival and rival.published == "candidate" else embedded


def completed_together(
    assemblies: Sequence[Assembly], galleries: Galleries, matcher: Matcher, *, keep_images: bool
) -> list[Settleable]:
    """`completed` of each, but compared with the gallery in one call, for which a device takes little more than for one
    job. Where that fails each is compared alone, so that a job's neighbours do not pay for it."""
    ready = _Compared(matcher, [one for assembly in assemblies for one in _requests(assembly, galleries)])
    return [completed(assembly, galleries, ready, keep_images=keep_images) for assembly in assemblies]


class _Compared:
    """Implements ports.Matcher: what was compared together, and through `matcher` what was not."""

    def __init__(self, matcher: Matcher, requests: Sequence[MatchRequest]) -> None:
        self._matcher = matcher
        self.match_many = matcher.match_many
        self.nearest_skus = matcher.nearest_skus
        self._kept = requests  # what is found goes by their parts' ids, which another gallery could take over
        self._found = self._together(requests) if len(requests) > 1 else {}

    def match(self, job: AuthenticationJob, probes: Sequence[ViewProbe], gallery: GallerySnapshot) -> list[ViewMatch]:
        found = self._found.get(_identity(job, probes, gallery))
        return self._matcher.match(job, probes, gallery) if found is None else found

    def _together(self, requests: Sequence[MatchRequest]) -> dict[tuple[int, ...], list[ViewMatch]]:
        try:
            found = self._matcher.match_many(requests)
        except (AssayError, MemoryError):
            raise
        except Exception:
            return {}
        return {_identity(r.job, r.probes, r.gallery): one for r, one in zip(requests, found, strict=True)}


def _identity(job: AuthenticationJob, probes: Sequence[ViewProbe], gallery: GallerySnapshot) -> tuple[int, ...]:
    return id(job), id(gallery), *map(id, probes)


def _requests(assembly: Assembly, galleries: Galleries) -> list[MatchRequest]:
    """Of each set of engines whose probes can be compared."""
    beside = assembly.engines.beside
    seen = [assembly.answers(assembly.engines.serving), assembly.answers(beside.answering) if beside else []]
    probes = [[answer for answer in answers if isinstance(answer, ViewProbe)] for answers in seen]
    job = assembly.received.job
    return [
        MatchRequest(job=job, probes=of_one, gallery=galleries(job.tenant))
        for of_one in probes
        if of_one and all(map(assembly.believes, of_one))
    ]


def published_by_candidate(item: Embedded) -> Embedded:
    """The two evidences change places: the candidate's is judged and published."""
    rival = item.rival
    if rival is None or rival.evidence is None:
        return item
    return replace(item, evidence=rival.evidence, rival=replace(rival, evidence=item.evidence))


def published_by_current(item: Embedded, error: str) -> Embedded:
    """Back again, for the candidate's evidence led to no verdict: `error` says at what it failed."""
    rival = item.rival
    if rival is None or rival.evidence is None:
        return item
    failed = replace(rival, published="current", evidence=None, error=error, candidate_ms=None)
    return replace(item, evidence=rival.evidence, rival=failed)


def evidence_of(assembly: Assembly, answering: Answering, snapshot: GallerySnapshot, matcher: Matcher) -> JobEvidence:
    """What one set of engines saw, compared with the gallery."""
    job = assembly.received.job
    answers = assembly.answers(answering)
    probes = [answer for answer in answers if isinstance(answer, ViewProbe)]
    unusable = [answer for answer in answers if isinstance(answer, UnusableView)]
    _refuse_infinite(probes, assembly)
    stored = assembly.fetched.stored
    matches = with_stored(matcher.match(job, probes, snapshot), stored)
    times = StageTimes(
        queue_ms=assembly.fetched.queue_ms,
        fetch_ms=assembly.fetched.fetch_ms,
        embed_ms=(time.monotonic() - assembly.started_s) * 1e3,
    )
    return JobEvidence(
        job=job,
        matches=matches,
        unusable=(*assembly.fetched.unusable, *unusable),
        nearest_skus=matcher.nearest_skus(matches, snapshot, category=job.category),
        gallery_revision=snapshot.revision,
        degraded=any(view.degraded for view in stored) or (bool(assembly.fetched.images) and answering.degraded),
        times=times,
    )


def is_finite(probe: ViewProbe) -> bool:
    """Whether all of its embedding's numbers are: else neither is their sum of squares."""
    return math.isfinite(np.dot(probe.embedding, probe.embedding))


def _rival(assembly: Assembly, snapshot: GallerySnapshot, matcher: Matcher, match_s: float) -> Rival | None:
    beside = assembly.engines.beside
    if beside is None:
        return None
    current_ms = _encode_ms(assembly, assembly.engines.serving) + match_s * 1e3
    started_s = time.monotonic()
    error, evidence = _failure(assembly, beside.answering), None
    if error is None:
        try:
            evidence = evidence_of(assembly, beside.answering, snapshot, matcher)
        except (AssayError, MemoryError):
            raise
        except Exception as raised:
            error = f"matching: {type(raised).__name__}"
    candidate_ms = _encode_ms(assembly, beside.answering) + (time.monotonic() - started_s) * 1e3
    return Rival(
        release=beside.release,
        published="candidate" if beside.publishes and evidence is not None else "current",
        evidence=evidence,
        error=error,
        current_ms=current_ms,
        candidate_ms=candidate_ms if evidence is not None else None,
    )


def _failure(assembly: Assembly, candidate: Answering) -> str | None:
    """Why a candidate has no answer where the current engines have one. Its photographs are the same, so what is wrong
    with a photograph is not its failure."""
    for current, own in zip(assembly.answers(assembly.engines.serving), assembly.answers(candidate), strict=True):
        if isinstance(current, ViewProbe) and isinstance(own, UnusableView):
            return f"{own.code.value}: {own.view}"
    return None


def _encode_ms(assembly: Assembly, answering: Answering) -> float:
    """The longest that one of its views took; 0 where all came from the cache."""
    probes = (answer for answer in assembly.answers(answering) if isinstance(answer, ViewProbe))
    return max((probe.encode_ms for probe in probes), default=0.0)


def _refuse_infinite(probes: Sequence[ViewProbe], assembly: Assembly) -> None:
    """Nothing could be said of such a photograph, and PostgreSQL keeps no vector with a NaN: it would fail for ever."""
    for probe in probes:
        if not assembly.believes(probe):
            raise ValueError(f"encoder {probe.engine.name} gave {probe.view} an embedding that is not finite")
