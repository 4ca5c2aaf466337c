"""Settings: read once, from the environment (ASSAY_...) and an optional TOML file, into frozen groups.

A nested setting is written with two underscores: ASSAY_KAFKA__BOOTSTRAP. ASSAY_SETTINGS_FILE names the TOML file;
ASSAY_SECRETS_DIR a folder with one file a secret, named as its variable. The environment wins over secrets, and both
over the file. docs/operations.md lists every setting from here.
"""

from __future__ import annotations

import os
import re
import socket
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    Field,
    FilePath,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    NestedSecretsSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from worker.engine_settings import EngineSettings
from worker.errors import ConfigurationError
from worker.judgement_settings import JudgementSettings
from worker.production import DATABASE_URL, of_database, of_file_root, of_kafka, of_redis, of_urls
from worker.setting_types import Group, Names, Table
from worker.topics import Topics

MIB = 1024 * 1024
REDIS_URL = re.compile(r"(rediss?|unix)://.+")


class KafkaSettings(Group):
    bootstrap: str = Field(
        "127.0.0.1:9092", pattern=r"\S", description="Kafka bootstrap servers, host:port, comma-separated"
    )
    group: str = Field("assay", description="consumer group, and ce_source of what is published")
    instance: str = Field(
        default_factory=lambda: os.environ.get("HOSTNAME") or socket.gethostname(),
        description="stable name of this pod slot; transactional.id is assay.GROUP.INSTANCE",
    )
    protocol: Literal["classic", "consumer"] = Field("classic", description="group protocol; consumer is KIP-848")
    assignor: Literal["cooperative-sticky", "range"] = Field(
        "cooperative-sticky", description="of the classic protocol; range takes all partitions away at each rebalance"
    )
    static_membership: bool = Field(False, description="join as a static member named by `instance`")
    encoding: Literal["avro", "json"] = Field("avro", description="encoding of published verdicts")
    topics: Topics = Topics()
    partitions: int = Field(12, ge=1, le=1000, description="partitions of a topic that `assay topics apply` makes")
    replication: int = Field(1, ge=1, le=7, description="replication factor of a topic that is made")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="how brokers are reached; production takes SSL and SASL_SSL alone"
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = Field(
        None, description="needed with SASL_*"
    )
    sasl_username: str | None = Field(None, description="needed with SASL_*")
    sasl_password: SecretStr | None = Field(None, description="needed with SASL_*")
    ssl_ca_location: FilePath | None = Field(None, description="file of CA certificates; unset: the system's")
    schema_registry_url: str | None = Field(
        None, description="Schema Registry of framed payloads, which are read beside plain ones; unset: plain ones only"
    )
    drain_on_revoke_s: float = Field(4.0, gt=0, description="one deadline for everything in the revoke callback")

    @model_validator(mode="after")
    def _can_log_in(self) -> KafkaSettings:
        given = (self.sasl_mechanism, self.sasl_username, self.sasl_password)
        if self.security_protocol.startswith("SASL") and not all(given):
            names = "kafka.sasl_mechanism, kafka.sasl_username and kafka.sasl_password"
            raise ValueError(f"kafka.security_protocol is {self.security_protocol}, so set {names}")
        return self

    def client_config(self) -> dict[str, Any]:
        """Connection settings for librdkafka, shared by every client."""
        config: dict[str, Any] = {
            "bootstrap.servers": self.bootstrap,
            "security.protocol": self.security_protocol,
            "sasl.mechanism": self.sasl_mechanism,
            "sasl.username": self.sasl_username,
            "sasl.password": self.sasl_password.get_secret_value() if self.sasl_password else None,
            "ssl.ca.location": str(self.ssl_ca_location) if self.ssl_ca_location else None,
        }
        return {name: value for name, value in config.items() if value is not None}


class DatabaseSettings(Group):
    url: SecretStr = Field(
        SecretStr("postgresql+psycopg://assay_worker@127.0.0.1:5432/assay"), description="SQLAlchemy URL, psycopg 3"
    )
    pool_size: int = Field(
        4, ge=2, le=64, description="connections a pool; a worker has two pools, with a registry three"
    )
    statement_timeout_ms: int = Field(
        10_000,
        ge=100,
        description="longest statement before it counts as a failure; a server that is silent 2 s longer is away",
    )
    lock_timeout_ms: int = Field(3_000, ge=10, description="longest wait for a lock before it counts as a failure")
    idle_in_transaction_ms: int = Field(
        10_000, ge=100, description="longest rest of a worker in a transaction; PostgreSQL then frees its rows"
    )

    @field_validator("url")
    @classmethod
    def _is_a_url(cls, url: SecretStr) -> SecretStr:
        if not DATABASE_URL.fullmatch(url.get_secret_value()):
            raise ValueError("write it as postgresql+psycopg://ROLE:PASSWORD@HOST:PORT/DATABASE")
        return url


class RedisSettings(Group):
    url: SecretStr | None = Field(None, description="redis://...; unset: no cache, no job status")
    cache: bool = Field(False, description="cache encoder outputs; pays on a CPU, not on a GPU")
    cache_ttl_s: int = Field(86_400, ge=1, description="how long encoder outputs are cached")
    mac_key: SecretStr | None = Field(None, description="key of the cache's MAC; required when the cache is on")
    status_ttl_s: int = Field(86_400, ge=1, description="how long a job's status is kept")

    @field_validator("url")
    @classmethod
    def _is_a_url(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not REDIS_URL.fullmatch(url.get_secret_value()):
            raise ValueError("write it as redis://HOST:PORT/NUMBER, rediss://... or unix://PATH")
        return url


class ImageSettings(Group):
    file_root: Path | None = Field(None, description="folder that file: URIs are served from; unset: not allowed")
    https_hosts: Names = Field((), description="hosts that https: URIs may name; empty: not allowed")
    s3_endpoint: str | None = Field(
        None, description="S3 endpoint URL, of kept photographs and the engine registry too; unset: AWS's own"
    )
    s3_buckets: Names = Field((), description="buckets that s3: URIs may name; empty: not allowed")
    max_bytes: int = Field(16 * MIB, ge=1024, description="largest image")
    max_pixels: int = Field(64_000_000, ge=1, description="largest image, width x height")
    fetch_threads: int = Field(8, ge=1, le=256, description="views fetched at a time")
    timeout_s: float = Field(10.0, gt=0, description="whole of one fetch")
    attempts: int = Field(3, ge=1, le=20, description="processing attempts before a view is unreachable")
    slow_after_s: float = Field(
        2.0,
        gt=0,
        description="a job whose images take longer goes to jobs.slow, so that it does not hold its partition",
    )
    slow_jobs: int = Field(4, ge=1, le=256, description="jobs of jobs.slow in flight: threads they may keep waiting")


class IntakeSettings(Group):
    max_message_bytes: int = Field(8 * MIB, ge=1024, description="largest record that is read as a job")
    held_bytes: int = Field(256 * MIB, ge=MIB, description="image bytes in flight before intake pauses")
    window_records: int = Field(256, ge=1, description="unpublished records a partition before that one pauses")
    queue_jobs: int = Field(64, ge=1, description="jobs a hand-off holds")


class BatchSettings(Group):
    max_images: int = Field(32, ge=1, description="images a batch, over all jobs")
    max_bytes: int = Field(32 * MIB, ge=1024, description="encoded bytes a batch")
    window_ms: float = Field(5.0, ge=0, description="longest wait for a batch to fill, from its first image")
    eager: bool = Field(True, description="an encoder without a batch does not wait: it is given what is there")
    depth: int = Field(2, ge=1, le=8, description="batches in flight: one decodes while the other infers")


class GallerySettings(Group):
    max_medoids: int = Field(5, ge=1, le=64, description="references a SKU and view that scores are made of")
    poll_s: float = Field(2.0, gt=0, description="how often the gallery revision is read")


class SettleSettings(Group):
    max_jobs: int = Field(500, ge=1, description="outcomes a database transaction")
    floor_ms: float = Field(10.0, ge=0, description="shortest time from one Kafka transaction to the next")
    max_transaction_records: int = Field(1000, ge=1, description="outputs a Kafka transaction")
    max_transaction_bytes: int = Field(8 * 2**20, ge=1, description="their bytes; one output above it goes alone")


class EvidenceSettings(Group):
    keep: Literal["off", "inconclusive", "all"] = Field("off", description="jobs whose photographs are kept")
    root: Path | None = Field(None, description="folder of kept photographs; made where missing")
    s3_bucket: str | None = Field(None, description="bucket of kept photographs, where `root` is unset")
    retention_days: int = Field(90, ge=1, description="days that a photograph is to be kept; see Retention")

    @model_validator(mode="after")
    def _has_a_place(self) -> EvidenceSettings:
        if self.keep != "off" and self.root is None and self.s3_bucket is None:
            raise ValueError(f"evidence.keep is {self.keep}, so set evidence.root or evidence.s3_bucket")
        return self


class AuditSettings(Group):
    key_file: Path | None = Field(None, description="private key that seals, as PEM; for `assay audit seal` alone")
    public_keys: Names = Field((), description="files of the public keys that are trusted to have sealed, as PEM")
    interval_s: float = Field(1.0, gt=0, le=5, description="longest time that a verdict waits to be sealed")
    block_entries: int = Field(1000, ge=1, le=10_000, description="most entries of a block")
    grace_s: float = Field(
        60.0, ge=0, description="how long something may wait to be sealed before `assay audit verify` finds it wrong"
    )


class WatchSettings(Group):
    interval_s: float = Field(60.0, gt=0, le=3600, description="how often `assay watch` looks")
    window_days: float = Field(7.0, gt=0, le=90, description="how far counterfeits that belong together may lie apart")
    least_items: int = Field(3, ge=2, description="items, not jobs, that make a repeated counterfeit")
    submitter_label: str = Field("submitter", min_length=1, description="label of a job that names its sender")
    submitter_p: float = Field(
        1e-6, gt=0, lt=1, description="chance that one of a tenant's senders counts as unusual while all are alike"
    )
    alike: float = Field(
        0.5, gt=0, le=1, description="views are alike at this share of their distance to genuine references, or less"
    )
    alike_views: int = Field(2, ge=1, description="views of two jobs that must be alike")
    hash_bits: int = Field(4, ge=0, le=16, description="bits in which hashes of nearly the same photograph may differ")
    drift_false_alarms_a_year: float = Field(
        0.05, gt=0, lt=1, description="chance that a category without drift is called stale within a year"
    )
    drift_tolerance: float = Field(0.15, ge=0, lt=1, description="smallest distance of distributions that counts")
    drift_least_jobs: int = Field(50, ge=10, description="jobs to compare; days with fewer are taken together")
    drift_longest_days: int = Field(14, ge=1, le=60, description="most days that are taken together")
    drift_settles_s: float = Field(900.0, ge=0, le=43_200, description="after midnight (UTC), before a day is compared")


class ObserveSettings(Group):
    host: str = Field("127.0.0.1", description="address that the health pages listen on")
    port: int = Field(0, ge=0, le=65535, description="/metrics, /livez and /readyz; 0: a free port, written to the log")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe line logged")
    log_format: Literal["json", "console"] = Field("json", description="one JSON object a line, or text for people")
    otlp_endpoint: str | None = Field(None, description="OpenTelemetry HTTP endpoint; unset: no traces")


class FailpointSettings(Group):
    armed: Table = Field(
        {},
        description='points at which the worker kills or stops itself, JSON such as {"after_poll": "kill@3"}; '
        "for tests alone",
    )
    log: Path | None = Field(None, description="file that gets a line for each point that acted")


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix="ASSAY_", env_nested_delimiter="__", frozen=True, extra="forbid", allow_inf_nan=False
    )

    mode: Literal["development", "production"] = Field("development", description="production refuses what is unsafe")
    drain_deadline_s: float = Field(25.0, gt=0, description="longest drain after SIGTERM")
    build: str = Field("dev", description="what built this worker, for provenance")
    kafka: KafkaSettings = KafkaSettings()
    database: DatabaseSettings = DatabaseSettings()
    redis: RedisSettings = RedisSettings()
    images: ImageSettings = ImageSettings()
    intake: IntakeSettings = IntakeSettings()
    batch: BatchSettings = BatchSettings()
    engines: EngineSettings = EngineSettings()
    gallery: GallerySettings = GallerySettings()
    settle: SettleSettings = SettleSettings()
    evidence: EvidenceSettings = EvidenceSettings()
    audit: AuditSettings = AuditSettings()
    watch: WatchSettings = WatchSettings()
    judgement: JudgementSettings = JudgementSettings()
    observe: ObserveSettings = ObserveSettings()
    failpoints: FailpointSettings = FailpointSettings()

    @field_validator("kafka")
    @classmethod
    def _instance_is_a_name(cls, kafka: KafkaSettings) -> KafkaSettings:
        if not kafka.instance or any(c.isspace() for c in kafka.instance + kafka.group):
            raise ValueError("kafka.group and kafka.instance must be names without spaces")
        return kafka

    @model_validator(mode="after")
    def _safe(self) -> Settings:
        if self.redis.cache and (self.redis.url is None or self.redis.mac_key is None):
            raise ValueError("redis.cache needs redis.url and redis.mac_key; set both or turn the cache off")
        return self

    @model_validator(mode="after")
    def _fit_for_production(self) -> Settings:
        if self.mode == "production" and (found := list(self._unsafe())):
            raise ValueError("; ".join(f"production refuses {fault}" for fault in found))
        return self

    def _unsafe(self) -> Iterator[str]:
        kafka, redis, images = self.kafka, self.redis, self.images
        yield from of_kafka(kafka.security_protocol, password=_said(kafka.sasl_password))
        yield from of_database(self.database.url.get_secret_value())
        yield from of_redis(_said(redis.url), cache=redis.cache, mac_key=_said(redis.mac_key))
        engines = self.engines
        private = (self.evidence.root, engines.models_dir, engines.registry_folder, engines.keys_dir, *_private())
        yield from of_file_root(images.file_root, private=private)
        plain = {"kafka.schema_registry_url": kafka.schema_registry_url, "images.s3_endpoint": images.s3_endpoint}
        yield from of_urls(plain)
        if self.failpoints != FailpointSettings():
            yield "failpoints: unset failpoints.armed and failpoints.log"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        secrets = NestedSecretsSettingsSource(file_secret_settings)
        toml_file = os.environ.get("ASSAY_SETTINGS_FILE")
        toml = (TomlConfigSettingsSource(settings_cls, toml_file),) if toml_file else ()
        return (init_settings, env_settings, secrets, *toml)


def load_settings(**overrides: Any) -> Settings:
    """Read the settings. Raises ConfigurationError that names each wrong setting, without any secret's value."""
    toml_file, secrets_dir = os.environ.get("ASSAY_SETTINGS_FILE"), os.environ.get("ASSAY_SECRETS_DIR")
    if toml_file and not Path(toml_file).is_file():
        raise ConfigurationError(f"ASSAY_SETTINGS_FILE names {toml_file}, which is no file; correct it or unset it")
    if secrets_dir and not Path(secrets_dir).is_dir():
        raise ConfigurationError(f"ASSAY_SECRETS_DIR names {secrets_dir}, which is no folder; correct it or unset it")
    _refuse_unknown(os.environ)
    if secrets_dir:
        _refuse_unknown(file.name for file in Path(secrets_dir).iterdir())
    try:
        return Settings(_secrets_dir=secrets_dir, **overrides)
    except ValidationError as error:
        raise ConfigurationError("; ".join(_explain(error))) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"ASSAY_SETTINGS_FILE names {toml_file}, which is no TOML: {error}") from None
    except SettingsError as error:  # names the group, never the value
        raise ConfigurationError(f"{error}; write each setting of the group in a variable of its own") from None


def _said(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret is not None else None


def _private() -> list[Path]:
    """What nobody but this deployment may read."""
    return [Path(place) for name in ("ASSAY_SETTINGS_FILE", "ASSAY_SECRETS_DIR") if (place := os.environ.get(name))]


def _explain(error: ValidationError) -> list[str]:
    return [
        f"{_variable(e['loc'])}{_fault(e['type'], e['msg'])}"
        for e in error.errors(include_input=False, include_url=False, include_context=False)
    ]


def _fault(kind: str, message: str) -> str:
    told = "is no setting; see docs/operations.md" if kind == "extra_forbidden" else message
    return told.removeprefix("Value error, ")


def _variable(location: tuple[int | str, ...]) -> str:
    """Rules about several settings name them in their message."""
    return "setting ASSAY_" + "__".join(str(part) for part in location).upper() + ": " if location else ""


def _refuse_unknown(names: Iterable[str]) -> None:
    """A misspelt variable must not be ignored silently. Raises ConfigurationError."""
    known = set(Settings.model_fields) | {"settings_file", "secrets_dir", "devstack"}
    for variable in names:
        prefix, group = variable[:6].upper(), variable[6:].lower().split("__")[0]
        if prefix == "ASSAY_" and group not in known:
            raise ConfigurationError(f"{variable} is no setting; the groups are {', '.join(sorted(known))}")
