"""What the encoders on one GPU share: the device, the folder of its plans, the decoder."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Self

from engines import golden
from engines.decode import DecodeLimits
from engines.errors import EngineRefused, RefusalCode
from engines.gpu.device import Device
from engines.gpu.device_graph import DeviceGraph
from engines.gpu.encoder import DeviceEncoder, GpuOptions
from engines.gpu.jpegs import Jpegs
from engines.gpu.tensorrt_runner import TensorRtRunner
from engines.manifest import EngineManifest
from engines.plan_files import PlanFolder, default_folder

_ANOTHER_MAY_DO = frozenset((RefusalCode.OUTPUTS_UNEXPECTED, RefusalCode.GOLDEN_MISMATCH))
_log = logging.getLogger(__name__)


class Gpu:
    """A device and what lies on it for all encoders."""

    def __init__(
        self,
        *,
        device: Device,
        plans: PlanFolder,
        options: GpuOptions | None = None,
        limits: DecodeLimits | None = None,
    ) -> None:
        self.device = device
        self._plans = plans
        self._options = options or GpuOptions()
        self._limits = limits or DecodeLimits()
        self._jpegs: Jpegs | None = None

    @classmethod
    def opened(
        cls, plans_dir: Path | None = None, options: GpuOptions | None = None, limits: DecodeLimits | None = None
    ) -> Self:
        """The first GPU; plans are kept in `plans_dir`, by default among the user's caches. Raises EngineRefused."""
        plans = PlanFolder(plans_dir or default_folder())
        return cls(device=Device(), plans=plans, options=options, limits=limits)

    def jpegs(self) -> Jpegs:
        """The device's decoder, made when first asked for. In the device's thread. Raises EngineRefused."""
        if self._jpegs is None:
            self._jpegs = Jpegs(self.device.ordinal, self._limits, self._options.decoded_bytes)
        return self._jpegs

    def decodes(self) -> bool:
        """Whether the device decodes photographs here; where it does not, the CPU does, and the log says why."""
        try:
            self.device.run(self.jpegs)
        except EngineRefused as refusal:
            _log.warning("photographs are decoded on the CPU: %s", refusal)
            return False
        return True

    def runner(self, model: bytes, manifest: EngineManifest, golden_outputs: bytes) -> TensorRtRunner:
        """The fastest rewrite of a graph that can be built here and gives the engine's golden outputs. Raises
        EngineRefused."""
        from engines.gpu.rewrite import device_graphs

        refusal: EngineRefused | None = None
        for graph in device_graphs(model):
            try:
                return self._tested(graph, manifest, golden_outputs)
            except EngineRefused as found:
                if found.code not in _ANOTHER_MAY_DO:
                    raise
                _log.warning("%s: the %s graph does not do: %s", manifest.name, graph.recipe, found)
                refusal = found
        assert refusal is not None  # noqa: S101 (the signed graph is always tried)
        raise refusal

    def encoder(self, graph: DeviceGraph, manifest: EngineManifest) -> DeviceEncoder:
        """One rewritten graph, not tested yet. Raises EngineRefused."""
        return DeviceEncoder(graph, manifest, self.device, self._plans, self._options, self.jpegs)

    def close(self) -> None:
        """After the runners."""
        self.device.run(self._let_go)
        self.device.close()

    def _let_go(self) -> None:
        if self._jpegs is not None:
            self._jpegs.close()
            self._jpegs = None

    def _tested(self, graph: DeviceGraph, manifest: EngineManifest, golden_outputs: bytes) -> TensorRtRunner:
        runner = TensorRtRunner(self.encoder(graph, manifest))
        try:
            golden.self_test(runner, golden_outputs)
        except BaseException:
            runner.close()
            raise
        return runner
