"""Settings: read once, from the environment (ASSAY_...) and an optional TOML file, into frozen groups.

A nested setting is written with two underscores: ASSAY_KAFKA__BOOTSTRAP. ASSAY_SETTINGS_FILE names the TOML file;
ASSAY_SECRETS_DIR a folder with one file a secret. The environment wins over secrets, and both over the file.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from worker.errors import ConfigurationError

MIB = 1024 * 1024


class Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Topics(Group):
    """All topic names; the defaults share one prefix."""

    prefix: str = "assay."

    @property
    def jobs(self) -> str:
        return f"{self.prefix}jobs"

    @property
    def jobs_high(self) -> str:
        return f"{self.prefix}jobs.high"

    @property
    def jobs_bulk(self) -> str:
        return f"{self.prefix}jobs.bulk"

    @property
    def jobs_slow(self) -> str:
        return f"{self.prefix}jobs.slow"

    @property
    def retry(self) -> tuple[str, ...]:
        return (f"{self.prefix}jobs.retry.1",)

    @property
    def results(self) -> str:
        return f"{self.prefix}results"

    @property
    def dlq(self) -> str:
        return f"{self.prefix}jobs.dlq"

    @property
    def alerts(self) -> str:
        return f"{self.prefix}alerts"

    @property
    def audit(self) -> str:
        return f"{self.prefix}audit"

    @property
    def control(self) -> str:
        return f"{self.prefix}control"

    @property
    def consumed(self) -> tuple[str, ...]:
        """What a worker subscribes to."""
        return (self.jobs_high, self.jobs, self.jobs_bulk, self.jobs_slow, *self.retry)


class KafkaSettings(Group):
    bootstrap: str = Field("127.0.0.1:9092", description="Kafka bootstrap servers, host:port, comma-separated")
    group: str = Field("assay", description="consumer group, and ce_source of what is published")
    instance: str = Field(
        default_factory=lambda: os.environ.get("HOSTNAME") or socket.gethostname(),
        description="stable name of this pod slot; transactional.id is assay.GROUP.INSTANCE",
    )
    protocol: Literal["classic", "consumer"] = Field("classic", description="group protocol; consumer is KIP-848")
    static_membership: bool = Field(False, description="join as a static member named by `instance`")
    encoding: Literal["avro", "json"] = Field("avro", description="encoding of published verdicts")
    topics: Topics = Topics()
    partitions: int = Field(12, ge=1, le=1000, description="partitions of a topic that `assay topics apply` makes")
    replication: int = Field(1, ge=1, le=7, description="replication factor of a topic that is made")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: str | None = None
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    ssl_ca_location: Path | None = None
    schema_registry_url: str | None = Field(None, description="frame Avro payloads with ids of this Schema Registry")
    drain_on_revoke_s: float = Field(4.0, gt=0, description="one deadline for everything in the revoke callback")

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
    pool_size: int = Field(4, ge=2, le=64)
    statement_timeout_ms: int = Field(10_000, ge=100)


class RedisSettings(Group):
    url: SecretStr | None = Field(None, description="redis://...; unset: no cache, no job status")
    cache: bool = Field(False, description="cache encoder outputs; pays on a CPU, not on a GPU")
    cache_ttl_s: int = Field(86_400, ge=1)
    mac_key: SecretStr | None = Field(None, description="key of the cache's MAC; required when the cache is on")
    status_ttl_s: int = Field(86_400, ge=1)


class ImageSettings(Group):
    file_root: Path | None = Field(None, description="folder that file: URIs are served from; unset: not allowed")
    https_hosts: tuple[str, ...] = Field((), description="hosts that https: URIs may name; empty: not allowed")
    s3_endpoint: str | None = Field(None, description="S3 endpoint URL; unset: AWS's own")
    s3_buckets: tuple[str, ...] = Field((), description="buckets that s3: URIs may name; empty: not allowed")
    max_bytes: int = Field(16 * MIB, ge=1024, description="largest image")
    max_pixels: int = Field(64_000_000, ge=1, description="largest image, width x height")
    fetch_threads: int = Field(8, ge=1, le=256)
    timeout_s: float = Field(10.0, gt=0, description="whole of one fetch")
    attempts: int = Field(3, ge=1, le=20, description="processing attempts before a view is unreachable")
    retry_delay_s: float = Field(5.0, gt=0, description="due time of the retry lane")


class IntakeSettings(Group):
    max_message_bytes: int = Field(10 * MIB, ge=1024)
    held_bytes: int = Field(256 * MIB, ge=MIB, description="image bytes in flight before intake pauses")
    window_records: int = Field(256, ge=1, description="unpublished records a partition before that one pauses")
    queue_jobs: int = Field(64, ge=1, description="jobs a hand-off holds")


class BatchSettings(Group):
    max_images: int = Field(32, ge=1, description="images a batch, over all jobs")
    max_bytes: int = Field(32 * MIB, ge=1024, description="encoded bytes a batch")
    window_ms: float = Field(5.0, ge=0, description="longest wait for a batch to fill, from its first image")
    depth: int = Field(2, ge=1, le=8, description="batches in flight: one decodes while the other infers")


class EngineSettings(Group):
    models_dir: Path | None = Field(None, description="folder of signed engines; unset: the shipped demo encoders")
    backend: Literal["auto", "openvino", "onnxruntime", "tensorrt"] = "auto"
    default_encoder: str = "resnet18"
    encoders: dict[str, str] = Field(
        {"bag/overview": "vit_tiny16", "watch/overview": "vit_tiny16", "sneaker/overview": "vit_tiny16"},
        description="encoder of a category/view where it is not the default one",
    )
    decode_threads: int = Field(0, ge=0, description="0: one a core")
    inference_threads: int = Field(0, ge=0, description="0: one a core")
    full_decode: bool = Field(False, description="decode JPEGs in full instead of at a reduced scale")

    def encoder_for(self, category: str, view: str) -> str:
        return self.encoders.get(f"{category}/{view}", self.default_encoder)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.default_encoder, *self.encoders.values())))


class GallerySettings(Group):
    max_medoids: int = Field(5, ge=1, le=64, description="references a SKU and view that scores are made of")
    poll_s: float = Field(2.0, gt=0, description="how often the gallery revision is read")


class SettleSettings(Group):
    max_jobs: int = Field(500, ge=1, description="outcomes a database transaction")
    floor_ms: float = Field(10.0, ge=0, description="shortest time from one Kafka transaction to the next")
    max_transaction_records: int = Field(1000, ge=1)


class EvidenceSettings(Group):
    keep: Literal["off", "inconclusive", "all"] = "off"
    root: Path | None = Field(None, description="folder of kept view bytes")
    s3_bucket: str | None = None
    retention_days: int = Field(90, ge=1)

    @model_validator(mode="after")
    def _has_a_place(self) -> EvidenceSettings:
        if self.keep != "off" and self.root is None and self.s3_bucket is None:
            raise ValueError(f"evidence.keep is {self.keep}, so set evidence.root or evidence.s3_bucket")
        return self


class ObserveSettings(Group):
    host: str = "127.0.0.1"
    port: int = Field(0, ge=0, le=65535, description="/metrics, /livez and /readyz; 0: a free port, written to the log")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"
    otlp_endpoint: str | None = Field(None, description="OpenTelemetry HTTP endpoint; unset: no traces")


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="ASSAY_", env_nested_delimiter="__", frozen=True, extra="ignore")

    mode: Literal["development", "production"] = Field("development", description="production refuses plaintext Kafka")
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
    observe: ObserveSettings = ObserveSettings()

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
        if self.mode == "production" and self.kafka.security_protocol in ("PLAINTEXT", "SASL_PLAINTEXT"):
            raise ValueError("production refuses plaintext Kafka; set kafka.security_protocol to SSL or SASL_SSL")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        toml_file = os.environ.get("ASSAY_SETTINGS_FILE")
        toml = (TomlConfigSettingsSource(settings_cls, toml_file),) if toml_file else ()
        return (init_settings, env_settings, file_secret_settings, *toml)


def load_settings(**overrides: Any) -> Settings:
    """Read the settings. Raises ConfigurationError that names each wrong setting, without any secret's value."""
    toml_file = os.environ.get("ASSAY_SETTINGS_FILE")
    if toml_file and not Path(toml_file).is_file():
        raise ConfigurationError(f"ASSAY_SETTINGS_FILE names {toml_file}, which is no file; correct it or unset it")
    _refuse_unknown(os.environ)
    try:
        return Settings(_secrets_dir=os.environ.get("ASSAY_SECRETS_DIR"), **overrides)
    except ValidationError as error:
        raise ConfigurationError("; ".join(_explain(error))) from None


def _explain(error: ValidationError) -> list[str]:
    return [
        f"setting {_variable(e['loc'])}: {e['msg'].removeprefix('Value error, ')}"
        for e in error.errors(include_input=False, include_url=False, include_context=False)
    ]


def _variable(location: tuple[int | str, ...]) -> str:
    return "ASSAY_" + "__".join(str(part) for part in location).upper() if location else "ASSAY_*"


def _refuse_unknown(environment: os._Environ[str]) -> None:
    """A misspelt variable must not be ignored silently. Raises ConfigurationError."""
    known = set(Settings.model_fields) | {"settings_file", "secrets_dir", "devstack"}
    for variable in environment:
        name = variable.removeprefix("ASSAY_").lower().split("__")[0]
        if variable.startswith("ASSAY_") and name not in known:
            raise ConfigurationError(f"{variable} is no setting; the groups are {', '.join(sorted(known))}")
