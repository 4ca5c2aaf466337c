"""The same goods through the float twins of the INT8 encoders: what quantization changes in the verdicts.

The twin is generated from the shipped file (activation Q/DQ removed, weights dequantised). It meets the same INT8
gallery and the INT8 engines' score calibration, so that the arithmetic of the encoder is all that differs.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from engines.catalogue import MODELS_DIR, read_engine, shipped_keys
from engines.decoder import PillowDecoder
from engines.onnxruntime_runner import OnnxRuntimeRunner
from engines.quantize import float_twin
from engines.session import EncoderSession
from schemas.codes import Verdict
from worker.adapters.encoder import SessionEncoder
from worker.calibrate import collect
from worker.core.decision import judge
from worker.core.gallery import GallerySnapshot
from worker.core.matching import NumpyMatcher
from worker.engine_settings import EngineSettings
from worker.items import Item

THREADS = 2


class TwinEncoder(SessionEncoder):
    """Float twins that answer to the names and provenance of the INT8 engines they were made from."""

    def __init__(self, int8: SessionEncoder) -> None:
        keys = shipped_keys()
        shipped = {name: read_engine(MODELS_DIR, name, keys) for name in int8.engines}
        runners = {
            name: OnnxRuntimeRunner(twin_bytes(engine.model), engine.manifest, THREADS)
            for name, engine in shipped.items()
        }
        size = next(iter(shipped.values())).manifest.preprocessing.size
        super().__init__(EncoderSession(runners, PillowDecoder(size, THREADS)))
        self.engines = dict(int8.engines)


def twin_bytes(model: bytes) -> bytes:
    twin: bytes = float_twin(onnx.load_from_string(model)).SerializeToString()
    return twin


def twin_verdicts(items: Sequence[Item], int8: SessionEncoder, gallery: GallerySnapshot) -> list[Verdict]:
    """What the judge says of each item when the float twins look at it."""
    settings = EngineSettings()
    twin = TwinEncoder(int8)
    try:
        found = collect(items, twin, NumpyMatcher(), gallery, encoder_for=settings.encoder_for, batch_images=32)
        evidence = [labelled.evidence for labelled in found]
    finally:
        twin.close()
    return [judgement.verdict for judgement in judge(evidence, gallery.policy)]
