"""Composes what a worker with a registry serves with: the follower, its encoder, and what wakes it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

import sqlalchemy
import structlog

from engines.catalogue import SessionOptions, VerifiedEngine, chosen_backend, open_session
from engines.compiling_apart import compile_apart
from engines.cpu_plans import open_cpu_plans
from engines.errors import EngineRefused, RefusalCode
from engines.gpu.device import Device
from engines.gpu.memory import FREE_SHARE
from engines.gpu.opened import Gpu
from engines.machine import this_machine
from engines.runner import Backend
from engines.shared_runners import SharedRunners, runner_key
from worker.adapters.alarm_outbox import Outbox
from worker.adapters.encoder import SessionEncoder
from worker.adapters.engine_control import ControlBell
from worker.adapters.engine_failures import EngineFailures
from worker.adapters.engine_follower import EngineFollower, FollowerOptions, Registry
from worker.adapters.engine_opening import open_registry, place_of, session_options
from worker.adapters.engine_registry import EngineRegistry
from worker.adapters.engine_wanted import Wanted, WantedTrial, read_wanted
from worker.adapters.release_gaps import EncoderFor, gaps
from worker.adapters.switching import OpenSet
from worker.core.fallback import BarRule, Budget, Step
from worker.errors import ConfigurationError, ServiceUnavailable
from worker.observe import Meter
from worker.settings import Settings

_log = structlog.get_logger()


def open_following(
    settings: Settings,
    open_database: Callable[[Settings], sqlalchemy.Engine],
    meter: Meter,
    closing: ExitStack,
    process: UUID,
) -> EngineFollower:
    """A follower whose encoder is open and warm; its threads run until `closing` ends them. `process` as
    worker.adapters.attempts has it. Raises ConfigurationError where no engine can be opened, and ServiceUnavailable
    where the registry is away."""
    database = open_database(settings)
    closing.callback(database.dispose)
    stopped = threading.Event()
    try:
        follower = EngineFollower(
            _registry(settings, database, closing, stopped),
            _failures(settings, database, process),
            meter,
            _options(settings),
        )
    except EngineRefused as refusal:
        raise ConfigurationError(f"engines in {place_of(settings)}: {refusal}") from refusal
    closing.callback(follower.encoder.close)
    kafka = settings.kafka
    bell = ControlBell(kafka.client_config(), kafka.topics.control, follower.wake)
    closing.callback(follower.start().close)
    closing.callback(bell.start().close)
    closing.callback(stopped.set)  # before all others: the follower is waited for
    return follower


def _registry(
    settings: Settings, database: sqlalchemy.Engine, closing: ExitStack, stopped: threading.Event
) -> Registry:
    engines, machine = settings.engines, this_machine()
    registry, backend = open_registry(settings, database), chosen_backend(engines.backend)
    # A stack of its own, entered now: whenever the GPU is opened, it is closed after the sessions that run on it.
    opening = Opening(settings=settings, registry=registry, closing=closing.enter_context(ExitStack()), stopped=stopped)
    return Registry(
        read=lambda: read_wanted(registry.index, engines.names, machine, backend),
        opened=opening.opened,
        lacks=lambda trial, wanted: lacking(database, trial, wanted, engines.encoder_for),
    )


def _failures(settings: Settings, database: sqlalchemy.Engine, process: UUID) -> EngineFailures:
    kafka = settings.kafka
    return EngineFailures(database=database, instance=kafka.instance, process=process, outbox=Outbox.of(kafka))


def _options(settings: Settings) -> FollowerOptions:
    engines = settings.engines
    return FollowerOptions(
        poll_s=engines.poll_s,
        golden_every=engines.golden_every_batches,
        rule=BarRule(first_rest=timedelta(seconds=engines.retry_better_s)),
        budget=Budget(errors=engines.error_budget, photograph_ms=engines.latency_budget_ms),
    )


@dataclass(slots=True, kw_only=True)
class Opening:
    """Opens steps. All sessions of the process share one GPU, and while two are open some of its memory stays free. On
    a CPU they share the engines that they have in common."""

    settings: Settings
    registry: EngineRegistry
    closing: ExitStack
    stopped: threading.Event
    _gpu: Gpu | None = field(default=None)
    _serves: bool = field(default=False)
    _shared: SharedRunners = field(default_factory=SharedRunners)

    def opened(self, step: Step, wanted: Wanted) -> OpenSet:
        """Read once, verify, load, warm, test. Raises EngineRefused and ServiceUnavailable."""
        published = [wanted.published[engine] for _, engine in step.engines]
        verified = [self.registry.read(one) for one in published]
        backend: Backend = chosen_backend(step.backend)  # type: ignore[arg-type]
        gpu = self._shared_gpu() if backend == "tensorrt" else None
        options = session_options(self.settings)
        if backend == "openvino" and self._serves:
            self._compile_beside_jobs(verified, options)
        session = SessionEncoder(open_session(verified, backend, options, gpu=gpu, shared=self._shared))
        if gpu is not None and (free := _free_share(gpu.device)) < FREE_SHARE:
            session.close()
            message = f"with {step.key} {free:.0%} of the GPU's memory is free, {FREE_SHARE:.0%} must be"
            raise EngineRefused(RefusalCode.MEMORY_SHORT, message, "retire what is not needed, or use a larger GPU")
        for one in published:
            chosen = one.variant
            _log.info("engine_chosen", name=chosen.name, version=chosen.version, target=chosen.slot, engine=chosen.id)
        self._serves = True
        return OpenSet(step=step, session=session, goldens={one.manifest.name: one.golden for one in verified})

    def _compile_beside_jobs(self, verified: Sequence[VerifiedEngine], options: SessionOptions) -> None:
        """What is not open yet. The first engines are waited for, and compiled where they are used."""
        plans = open_cpu_plans(options.plans_dir)
        threads = options.threads or len(os.sched_getaffinity(0))
        for one in verified:
            if plans is not None and not self._shared.has(runner_key(one.manifest, "openvino")):
                compile_apart(one.model, one.manifest, threads, plans, self.stopped.wait)
        if self.stopped.is_set():
            raise ServiceUnavailable("engines", "the worker stops")

    def _shared_gpu(self) -> Gpu:
        if self._gpu is None:
            options = session_options(self.settings)
            self._gpu = Gpu.opened(options.plans_dir, options.gpu, options.limits)
            self.closing.callback(self._gpu.close)
        return self._gpu


def _free_share(device: Device) -> float:
    free, total = device.run(device.memory_bytes)
    return free / total


def lacking(database: sqlalchemy.Engine, trial: WantedTrial, wanted: Wanted, encoder_for: EncoderFor) -> Sequence[str]:
    """What keeps a candidate from taking traffic on this worker."""
    best = wanted.steps[0]
    beside = [wanted.published[engine] for name, engine in best.engines if name != trial.encoder]
    replaced = wanted.published[trial.replaces]
    return gaps(database, trial.candidate, replaced, beside, (best.backend,), encoder_for)
