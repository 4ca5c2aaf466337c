"""Opens the engines that the settings name: from a folder, or from the registry what is current for this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import sqlalchemy

from engines.catalogue import (
    MODELS_DIR,
    SessionOptions,
    VerifiedEngine,
    chosen_backend,
    open_session,
    read_engine,
    shipped_keys,
)
from engines.decode import DecodeLimits
from engines.errors import EngineRefused
from engines.gpu.encoder import GpuOptions
from engines.keyring import read_keys
from engines.machine import this_machine
from engines.signing import TrustedKeys
from engines.store import EngineStore, FolderStore
from worker.adapters.encoder import SessionEncoder
from worker.adapters.engine_index import EngineIndex
from worker.adapters.engine_registry import EngineRegistry
from worker.adapters.engine_store_s3 import READ_TIMEOUT_S, S3Store
from worker.adapters.image_s3 import S3Options
from worker.errors import ConfigurationError
from worker.settings import Settings

S3: Final = "s3://"
OpenDatabase = Callable[[Settings], sqlalchemy.Engine]


def open_encoder(settings: Settings, open_database: OpenDatabase, candidate: str = "") -> SessionEncoder:
    """Verify, load, warm and self-test the engines that the settings name; the database is asked only where there is a
    registry. Raises ConfigurationError, and ServiceUnavailable where the registry is away."""
    options = session_options(settings)
    try:
        chosen = chosen_engines(settings, open_database, candidate)
        return SessionEncoder(open_session(chosen, settings.engines.backend, options))
    except EngineRefused as refusal:
        raise ConfigurationError(f"engines in {place_of(settings)}: {refusal}") from refusal


def session_options(settings: Settings) -> SessionOptions:
    """How a session works, as the settings have it."""
    engines = settings.engines
    return SessionOptions(
        threads=engines.inference_threads or None,
        decode_threads=engines.decode_threads or None,
        decode_helpers=engines.decode_helpers,
        plans_dir=engines.plans_dir,
        cpu_plans=True,
        limits=DecodeLimits(max_bytes=settings.images.max_bytes, max_pixels=settings.images.max_pixels),
        reduced_decode=not engines.full_decode,
        deadline_s=engines.deadline_s or None,
        gpu=GpuOptions(
            slots=engines.gpu_slots, decoded_bytes=engines.gpu_decode_mib << 20, effort=engines.gpu_build_effort
        ),
    )


def chosen_engines(settings: Settings, open_database: OpenDatabase, candidate: str = "") -> list[VerifiedEngine]:
    """Each engine that the settings name, read once and verified; of the encoder `candidate` the newest that is
    verified or canary. Raises EngineRefused, ConfigurationError."""
    engines = settings.engines
    if candidate and (engines.registry is None or candidate not in engines.names):
        fix = f"set engines.registry, and name one of {', '.join(engines.names)}"
        raise ConfigurationError(f"there is no candidate {candidate} beside what serves: {fix}")
    if engines.registry is None:
        keys = trusted_keys(settings)
        return [read_engine(engines.models_dir or MODELS_DIR, name, keys) for name in engines.names]
    database = open_database(settings)
    try:
        registry = open_registry(settings, database)
        machine, backend = this_machine(), chosen_backend(engines.backend)
        found = registry.current([name for name in engines.names if name != candidate], machine, backend)
        if candidate:
            found.append(registry.candidate(candidate, machine, backend))
    finally:
        database.dispose()
    return [engine for _, engine in found]


def open_registry(settings: Settings, database: sqlalchemy.Engine) -> EngineRegistry:
    """Raises ConfigurationError, and EngineRefused for keys that cannot be read."""
    return EngineRegistry(index=EngineIndex(database), store=open_store(settings), keys=trusted_keys(settings))


def open_store(settings: Settings) -> EngineStore:
    """Where the registry's files lie. Raises ConfigurationError."""
    place = settings.engines.registry
    if place is None:
        raise ConfigurationError(
            "engines.registry is unset: name /A/FOLDER or s3://BUCKET/PREFIX, and engines.keys_dir"
        )
    if not place.startswith(S3):
        return FolderStore(Path(place))
    bucket, _, prefix = place.removeprefix(S3).partition("/")
    options = S3Options(buckets=(bucket,), endpoint_url=settings.images.s3_endpoint, read_timeout_s=READ_TIMEOUT_S)
    return S3Store(bucket, prefix, options=options)


def place_of(settings: Settings) -> str:
    """Where engines come from, for messages."""
    return settings.engines.registry or str(settings.engines.models_dir or MODELS_DIR)


def trusted_keys(settings: Settings) -> TrustedKeys:
    """The keys that engines must be signed with. Raises ConfigurationError for what production does not trust, and
    EngineRefused for a file that holds no key."""
    engines = settings.engines
    keys = read_keys(engines.keys_dir or engines.models_dir or MODELS_DIR)
    if settings.mode == "production" and not engines.allow_demo:
        own = engines.registry is not None or engines.models_dir is not None
        if not own or keys.keys() & shipped_keys().keys():
            fix = "set engines.models_dir or engines.registry, and engines.keys_dir, to your own, or engines.allow_demo"
            raise ConfigurationError(f"production refuses the demo encoders and their key: {fix} for a trial")
        if _beside(engines.keys_dir, engines.registry or engines.models_dir):
            fix = "set engines.keys_dir to a folder that only administrators write"
            raise ConfigurationError(f"production refuses keys that lie beside the engines they vouch for: {fix}")
    return keys


def _beside(keys_dir: Path | None, engines: Path | str | None) -> bool:
    """Whether who writes engines could write keys as well."""
    if keys_dir is None:
        return True
    if engines is None or str(engines).startswith(S3):
        return False
    return keys_dir.resolve().is_relative_to(Path(engines).resolve())
