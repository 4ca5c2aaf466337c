"""Whether a candidate may take traffic: what it wants that the engine it is to replace has."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace

from sqlalchemy import Engine

from worker.adapters.engine_index import Published
from worker.adapters.space_readiness import Missing, Newcomer, is_calibrated, missing_for

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

    def missing(backend: str) -> Missing:
        own = missing_for(database, _newcomer(candidate, beside, backend, encoder_for))
        if own.uncalibrated and not is_calibrated(database, _newcomer(replaced, beside, backend, encoder_for)):
            return replace(own, uncalibrated=False)
        return own

    return tuple(dict.fromkeys(told for backend in backends for told in missing(backend).sentences()))


def _newcomer(engine: Published, beside: Iterable[Published], backend: str, encoder_for: EncoderFor) -> Newcomer:
    name = engine.variant.name
    return Newcomer(
        name=name,
        space=engine.manifest.embedding_space,
        backend=backend,
        digests=frozenset({engine.digest, *(one.digest for one in beside)}),
        serves=lambda category, view: encoder_for(category, view) == name,
    )
