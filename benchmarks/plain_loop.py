"""The rival of G21: what most would write first. Pillow decodes in full, ONNX Runtime runs the FP32 graphs with two
threads, one job after another, the same three outputs, nothing kept."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import monotonic, process_time

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from PIL import Image, ImageOps

SIZE = 448
OUTPUTS = ["embedding", "patches", "attention"]
MEAN = np.array((123.675, 116.28, 103.53), np.float32)
STD = np.array((58.395, 57.12, 57.375), np.float32)
Views = Mapping[str, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopRun:
    """`cpu_ms` is processor time a job."""

    jobs_per_second: float
    cpu_ms: float


class PlainLoop:
    """`graphs` are float ONNX models by encoder name; `encoder_of` maps a view's role to one of them."""

    def __init__(self, graphs: Mapping[str, bytes], encoder_of: Mapping[str, str], threads: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        self._sessions = {
            name: ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
            for name, graph in graphs.items()
        }
        self._encoder_of = encoder_of

    def run_all(self, jobs: Sequence[Views]) -> LoopRun:
        """Run the jobs once; each maps a view to its JPEG bytes."""
        started_s, used_s = monotonic(), process_time()
        for views in jobs:
            self.run(views)
        took_s, used_s = monotonic() - started_s, process_time() - used_s
        return LoopRun(jobs_per_second=len(jobs) / took_s, cpu_ms=used_s / len(jobs) * 1e3)

    def run(self, views: Views) -> None:
        """One job: its views of each encoder as one batch."""
        for name, session in self._sessions.items():
            blobs = [blob for view, blob in views.items() if self._encoder_of[view] == name]
            if blobs:
                session.run(OUTPUTS, {session.get_inputs()[0].name: np.stack([prepare(blob) for blob in blobs])})


def prepare(blob: bytes) -> NDArray[np.float32]:
    """Full decode, orientation, centre crop and resize, normalisation: float32 [3, 448, 448]."""
    with Image.open(io.BytesIO(blob)) as opened:
        image = ImageOps.exif_transpose(opened.convert("RGB"))
    square = ImageOps.fit(image, (SIZE, SIZE), Image.Resampling.BILINEAR)
    return ((np.asarray(square, np.float32) - MEAN) / STD).transpose(2, 0, 1)
