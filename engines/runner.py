"""The port behind which an encoder runs. A runner is warm and self-tested before anyone sees it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from engines.manifest import EngineManifest, Precision

Backend = Literal["openvino", "onnxruntime", "tensorrt"]
OUTPUT_NAMES = ("embedding", "patches", "attention")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """What ran, for provenance: `digest` is the SHA-256 of the graph's file; grids are (rows, columns)."""

    name: str
    digest: str
    backend: Backend
    precision: Precision
    embedding_space: str
    embedding_dim: int
    patch_dim: int
    patch_grid: tuple[int, int]
    attention_grid: tuple[int, int]
    input_size: int

    @classmethod
    def of(cls, manifest: EngineManifest, backend: Backend) -> EngineInfo:
        """The info of an engine described by `manifest` when it runs on `backend`."""
        return cls(
            name=manifest.name,
            digest=manifest.onnx_sha256,
            backend=backend,
            precision=manifest.precision,
            embedding_space=manifest.embedding_space,
            embedding_dim=manifest.embedding_dim,
            patch_dim=manifest.patch_dim,
            patch_grid=manifest.patch_grid,
            attention_grid=manifest.attention_grid,
            input_size=manifest.preprocessing.size,
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EncoderOutputs:
    """For n images, float32 on the host, owned by this value: `embedding` [n,D] and `patches` [n,P,d], L2-normalised,
    patches row by row on the patch grid; `attention` [n,h,w], each summing to 1."""

    embedding: NDArray[np.float32]
    patches: NDArray[np.float32]
    attention: NDArray[np.float32]


class Pending(Protocol):
    """A batch that is running."""

    def result(self, timeout_s: float | None = None) -> EncoderOutputs:
        """Wait, `timeout_s` at most, and read the outputs. Raises RunnerFailed, OutOfMemory among them."""
        ...


class Runner(Protocol):
    """One loaded encoder. `start` may wait for a free execution, never for the batch's end."""

    @property
    def info(self) -> EngineInfo: ...
    def start(self, pixels: NDArray[np.uint8]) -> Pending: ...
    def close(self) -> None: ...


def empty_outputs(info: EngineInfo, count: int) -> EncoderOutputs:
    """Unset outputs for `count` images, to be written row by row."""
    rows, columns = info.patch_grid
    return EncoderOutputs(
        embedding=np.empty((count, info.embedding_dim), np.float32),
        patches=np.empty((count, rows * columns, info.patch_dim), np.float32),
        attention=np.empty((count, *info.attention_grid), np.float32),
    )


def joined(parts: Sequence[EncoderOutputs]) -> EncoderOutputs:
    """The outputs of runs that follow one another, at least one, as one batch's."""
    if len(parts) == 1:
        return parts[0]
    return EncoderOutputs(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in OUTPUT_NAMES})
