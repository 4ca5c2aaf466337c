"""What the stages hand to the judge: probes, unusable views, matches and the evidence of a whole job.

Arrays are NumPy, float32 on the host, owned by the object that names them and never written after it is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from schemas.codes import ViewCode
from schemas.job import AuthenticationJob
from schemas.verdict import EngineUse, ReferenceMatch

Vector = NDArray[np.float32]
Map = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewProbe:
    """One usable view of a job after its encoder ran.

    `embedding` [D] and the rows of `patches` [h*w, d] are L2-normalised; `attention` [ah, aw] sums to 1.
    `quality` holds the measures of engines.decode (sharpness, brightness, ...) by name.
    """

    view: str
    sha256: str
    engine: EngineUse
    embedding: Vector
    patches: Vector
    patch_grid: tuple[int, int]
    attention: Map
    quality: Mapping[str, float]
    phash: int  # 64-bit perceptual hash
    source_size: tuple[int, int]  # width, height in pixels
    encode_ms: float = 0.0  # what its batch took on this engine; 0 where it comes from a cache


@dataclass(frozen=True, slots=True, kw_only=True)
class UnusableView:
    view: str
    sha256: str
    code: ViewCode
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewMatch:
    """A probe compared with the claimed SKU's references of the same view and embedding space.

    `deviation_map` [h, w] is the distance of each patch over the references' own spread: 1 is typical of genuine.
    `placing`: `placed` and `off_frame` of core.alignment, and `hash_bits`, in how many bits of 64 its perceptual hash
    differs from the nearest reference's; empty where nobody looked. All comparison fields are None where the SKU has
    no reference for the view in this space.
    """

    probe: ViewProbe
    references: tuple[ReferenceMatch, ...] = ()
    similarity: float | None = None
    counterfeit_similarity: float | None = None
    other_sku: str | None = None
    other_sku_similarity: float | None = None
    deviation: float | None = None
    deviation_map: Map | None = None
    aligned: bool | None = None
    role_similarity: Mapping[str, float] = field(default_factory=dict)  # best cosine to the SKU's references by role
    placing: Mapping[str, float] = field(default_factory=dict)
    nearness: float | None = None  # mean patch distance over that among the references; a copy of one is far below 1
    reference_count: int = 0  # active genuine references of the SKU in this view and space, before the medoids


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredView:
    """A view of a verdict as its rows hold it. `probe` has no patches, so the deviation stays what it was found to be
    then; `deviation_map` is as ViewMatch's. `copied`: it was found to be a copy of a reference."""

    probe: ViewProbe
    deviation: float | None
    deviation_map: Map | None
    aligned: bool | None
    copied: bool
    degraded: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ReuseHit:
    """A photograph of this job that is a reference, or was seen in another job under another SKU or subject."""

    view: str
    kind: str  # "reference" | "job"
    other: str  # reference id, or job id
    exact: bool  # same bytes, else perceptual hash


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTimes:
    """Milliseconds spent by one job, measured with a monotonic clock."""

    queue_ms: float = 0.0
    fetch_ms: float = 0.0
    embed_ms: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvidence:
    """All that the judge needs of one job. `matches` and `unusable` together name each view of the job once."""

    job: AuthenticationJob
    matches: tuple[ViewMatch, ...]
    unusable: tuple[UnusableView, ...]
    nearest_skus: tuple[str, ...]
    gallery_revision: int
    reuse: tuple[ReuseHit, ...] = ()
    degraded: bool = False
    times: StageTimes = StageTimes()
