"""Whether a candidate may take traffic: what it wants that the engine it is to replace has."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from sqlalchemy import Engine

from worker.adapters.engine_index import Published
from worker.adapters.space_readiness import Missing, Newcomer, missing_for

EncoderFor = Callable[[str, str], str]  # (category, view) -> encoder


def gaps(
    database: Engine,
    candidate: Published,
    replaced: Published,
    beside: Sequence[Published],
    backends: Collection[str],
    encoder_for: EncoderFor,
) -> tuple[str, ...]:
    """Sentences, one a thing that is missing; empty where it is complete.

    An active reference must have a vector in the candidate's space, whatever else. A score calibration must be there
    for each of `backends` on which the engine that it replaces has one: where that has none, nothing is lost without.
    `beside` are the engines of the other encoders. Raises ServiceUnavailable.
    """

    def missing(engine: Published, backend: str) -> Missing:
        return missing_for(database, _newcomer(engine, beside, backend, encoder_for))

    own = {backend: missing(candidate, backend) for backend in backends}
    known = {backend: missing(replaced, backend) for backend in backends if own[backend].uncalibrated}
    found = {backend: _less(one, backend in known and known[backend].uncalibrated) for backend, one in own.items()}
    return tuple(dict.fromkeys(_said(found.values())))


def _newcomer(engine: Published, beside: Iterable[Published], backend: str, encoder_for: EncoderFor) -> Newcomer:
    name = engine.variant.name
    return Newcomer(
        name=name,
        space=engine.manifest.embedding_space,
        backend=backend,
        digests=frozenset({engine.digest, *(one.digest for one in beside)}),
        serves=lambda category, view: encoder_for(category, view) == name,
    )


def _less(missing: Missing, excused: bool) -> Missing:
    return Missing(name=missing.name, references=missing.references) if excused else missing


def _said(all_missing: Iterable[Missing]) -> Iterable[str]:
    for missing in all_missing:
        yield from missing.sentences()
