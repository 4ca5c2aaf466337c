"""Counterfeits that belong together: jobs are tied by what they share, and tied jobs of enough items are a cluster.

A tie is one of four (`AlertLink`). `serial`: one serial number. `submitter`: one sender whose jobs are counterfeit far
more often than those of all others; the label alone says nothing, since a marketplace has one for everybody.
`embedding`: departing views of one SKU that are much nearer to each other than to any genuine reference; two forgers
depart in directions of their own. `photograph`: a view that is alike in that way, with nearly the same perceptual hash.
Ties are followed from job to job (single linkage).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from schemas.codes import AlertLink
from worker.core.evidence import Vector
from worker.core.tails import more_often

SHORTEST_SERIAL = 4  # letters and digits; "n/a" and the like tie nobody together
_ORDER = {link: place for place, link in enumerate(AlertLink)}

Tie = tuple[int, int, AlertLink]  # two places in the list of suspects
Matrix = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class SuspectView:
    """A departing view of a suspect: its own p_genuine is below one half.

    `embedding` [D] is L2-normalised; `similarity` is the best cosine to a genuine reference of the SKU.
    """

    view: str
    space: str
    embedding: Vector
    phash: int  # 64-bit
    similarity: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """A job that was judged counterfeit. `item` tells physical items apart: the subject where the sender named it,
    else the photographs; an item that is sent again is one item."""

    job_id: str
    sku: str
    category: str
    judged_at: datetime
    item: str
    serial: str | None = None
    submitter: str | None = None
    views: tuple[SuspectView, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkRule:
    """When jobs are tied, and how many items make a cluster.

    Two views are alike where the distance (1 - cosine) between them is at most `alike` times that of either to its
    nearest genuine reference. `submitter_p` bounds the chance that a sender like all others is taken for unusual.
    """

    least_items: int = 3
    alike: float = 0.5
    alike_views: int = 2
    hash_bits: int = 4
    submitter_p: float = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Suspects that belong together, oldest first, and by what."""

    suspects: tuple[Suspect, ...]
    links: tuple[AlertLink, ...]

    @property
    def items(self) -> int:
        return len({suspect.item for suspect in self.suspects})


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """How a sender's decided jobs went."""

    counterfeit: int
    decided: int


def find_clusters(suspects: Sequence[Suspect], unusual: frozenset[str], rule: LinkRule) -> list[Cluster]:
    """Clusters of at least `rule.least_items` items, the oldest first. `unusual` is of `unusual_submitters`."""
    ordered = sorted(suspects, key=lambda suspect: (suspect.judged_at, suspect.job_id))
    ties = list(_ties(ordered, unusual, rule))
    groups = _joined(len(ordered), ties)
    links: dict[int, set[AlertLink]] = defaultdict(set)
    for one, _other, link in ties:
        links[groups[one]].add(link)
    members: dict[int, list[Suspect]] = defaultdict(list)
    for place, suspect in enumerate(ordered):
        members[groups[place]].append(suspect)
    found = [
        Cluster(suspects=tuple(jobs), links=tuple(sorted(links[group], key=_ORDER.__getitem__)))
        for group, jobs in members.items()
    ]
    return [cluster for cluster in found if cluster.items >= rule.least_items]


def unusual_submitters(records: Mapping[str | None, Record], rule: LinkRule) -> frozenset[str]:
    """Senders whose jobs are counterfeit more often than all others' by more than chance.

    `records` by sender, None for jobs without the label. Fisher's exact test of each against the rest, at
    `rule.submitter_p` shared among the senders: with one sender there is no rest, and none is unusual.
    """
    counterfeit = sum(record.counterfeit for record in records.values())
    decided = sum(record.decided for record in records.values())
    level = rule.submitter_p / max(1, len(records))
    return frozenset(
        name
        for name, own in records.items()
        if name is not None
        and own.counterfeit >= rule.least_items
        and more_often(own.counterfeit, own.decided, counterfeit - own.counterfeit, decided - own.decided) <= level
    )


def _ties(suspects: Sequence[Suspect], unusual: frozenset[str], rule: LinkRule) -> Iterator[Tie]:
    serials = [_serial(suspect) for suspect in suspects]
    yield from _chained(serials, AlertLink.SERIAL)
    senders = [suspect.submitter if suspect.submitter in unusual else None for suspect in suspects]
    yield from _chained(senders, AlertLink.SUBMITTER)
    for places in _by_sku(suspects):
        if len(places) > 1:
            yield from _alike([suspects[place] for place in places], places, rule)


def _serial(suspect: Suspect) -> tuple[str, str] | None:
    """The serial number within its category; None where it is none."""
    plain = "".join(c for c in (suspect.serial or "").upper() if c.isalnum())
    is_one = len(plain) >= SHORTEST_SERIAL and any(c.isdigit() for c in plain)
    return (suspect.category, plain) if is_one else None


def _chained(keys: Sequence[object | None], link: AlertLink) -> Iterator[Tie]:
    """A tie from each to the one before it with the same key."""
    last: dict[object, int] = {}
    for place, key in enumerate(keys):
        if key is None:
            continue
        if key in last:
            yield last[key], place, link
        last[key] = place


def _by_sku(suspects: Sequence[Suspect]) -> Iterable[list[int]]:
    groups: dict[str, list[int]] = defaultdict(list)
    for place, suspect in enumerate(suspects):
        groups[suspect.sku].append(place)
    return groups.values()


def _alike(suspects: Sequence[Suspect], places: Sequence[int], rule: LinkRule) -> Iterator[Tie]:
    """Ties among the suspects of one SKU."""
    count = len(suspects)
    views, copies = np.zeros((count, count), np.int64), np.zeros((count, count), np.bool_)
    for at, shown in _same_views(suspects):
        near = _much_nearer(shown, rule.alike)
        block = np.ix_(at, at)
        views[block] += near
        copies[block] |= near & _same_hash(shown, rule.hash_bits)
    for link, tied in ((AlertLink.EMBEDDING, views >= rule.alike_views), (AlertLink.PHOTOGRAPH, copies)):
        for one, other in zip(*np.nonzero(np.triu(tied, 1)), strict=True):
            yield places[one], places[other], link


def _same_views(suspects: Sequence[Suspect]) -> Iterator[tuple[list[int], list[SuspectView]]]:
    """By role and embedding space: which suspects show it, and what they show."""
    groups: dict[tuple[str, str], list[tuple[int, SuspectView]]] = defaultdict(list)
    for place, suspect in enumerate(suspects):
        for view in suspect.views:
            groups[view.view, view.space].append((place, view))
    return (([at for at, _ in found], [view for _, view in found]) for found in groups.values() if len(found) > 1)


def _much_nearer(views: Sequence[SuspectView], alike: float) -> Matrix:
    """[n, n]: pairs that are nearer to each other than `alike` times the way of either to its nearest reference."""
    embeddings = np.array([view.embedding for view in views], np.float64)
    to_genuine = 1 - np.array([view.similarity for view in views])
    between = 1 - embeddings @ embeddings.T
    return np.asarray(between <= alike * np.minimum(to_genuine[:, None], to_genuine[None, :]))


def _same_hash(views: Sequence[SuspectView], bits: int) -> Matrix:
    hashes = np.array([view.phash for view in views], np.uint64)
    return np.asarray(np.bitwise_count(hashes[:, None] ^ hashes[None, :]) <= bits)


def _joined(count: int, ties: Iterable[Tie]) -> list[int]:
    """For each place, the first place of its group."""
    first = list(range(count))

    def root(place: int) -> int:
        while first[place] != place:
            first[place] = first[first[place]]
            place = first[place]
        return place

    for one, other, _link in ties:
        low, high = sorted((root(one), root(other)))
        first[high] = low
    return [root(place) for place in range(count)]
