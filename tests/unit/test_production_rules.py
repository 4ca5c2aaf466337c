"""Production mode: each unsafe setting is refused by name and with the fix, and what operators run is taken."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from engines.catalogue import MODELS_DIR
from engines.publish import write_public_key
from worker.adapters.engine_opening import trusted_keys
from worker.errors import ConfigurationError
from worker.settings import load_settings

KEY = "u7b1ZpQx4tRm0sYc"
SAFE = {
    "ASSAY_MODE": "production",
    "ASSAY_KAFKA__SECURITY_PROTOCOL": "SSL",
    "ASSAY_DATABASE__URL": "postgresql+psycopg://assay_worker:k3mTq9@db:5432/assay?sslmode=verify-full",
}
CACHE = {"ASSAY_REDIS__CACHE": "true", "ASSAY_REDIS__MAC_KEY": KEY}
DATABASE = "ASSAY_DATABASE__URL"


def give(monkeypatch: pytest.MonkeyPatch, **settings: str) -> None:
    for variable, value in {**SAFE, **settings}.items():
        monkeypatch.setenv(variable, value)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {DATABASE: "postgresql+psycopg://assay_worker:k3mTq9@db/assay?sslmode=require"},
        {DATABASE: "postgresql+psycopg://assay_worker@/assay?host=/run/postgresql"},
        {DATABASE: "postgresql+psycopg://assay_worker@db/assay?sslmode=verify-full&sslcert=/c.pem&sslkey=/k.pem"},
        {DATABASE: "postgresql+psycopg://assay_worker@db/assay?sslmode=verify-full&passfile=/run/pass"},
        {"ASSAY_REDIS__URL": "redis://cache:6379/0"},  # statuses and the bell alone
        {"ASSAY_REDIS__URL": "rediss://:k3mTq9@cache:6379/0", **CACHE},
        {"ASSAY_REDIS__URL": "unix:///run/redis.sock", **CACHE},
        {"ASSAY_IMAGES__FILE_ROOT": "/srv/photographs", "ASSAY_EVIDENCE__ROOT": "/srv/evidence"},
        {"ASSAY_KAFKA__SCHEMA_REGISTRY_URL": "https://registry", "ASSAY_OBSERVE__OTLP_ENDPOINT": "http://collector"},
    ],
)
def test_what_operators_run_is_taken(monkeypatch: pytest.MonkeyPatch, settings: dict[str, str]) -> None:
    give(monkeypatch, **settings)
    assert load_settings().mode == "production"


@pytest.mark.parametrize(
    ("settings", "fault", "fix"),
    [
        ({"ASSAY_KAFKA__SECURITY_PROTOCOL": "PLAINTEXT"}, "plaintext Kafka", "kafka.security_protocol to SSL"),
        ({DATABASE: "postgresql+psycopg://assay_worker:k3mTq9@db/assay"}, "plaintext PostgreSQL", "database.url"),
        ({DATABASE: "postgresql+psycopg://me:k3mTq9@db/a?sslmode=prefer"}, "plaintext PostgreSQL", "sslmode=verify"),
        ({DATABASE: "postgresql+psycopg://me:k3mTq9@/a?sslmode=prefer"}, "plaintext PostgreSQL", "sslmode=verify"),
        ({DATABASE: "postgresql+psycopg://me:k3mTq9@db/a?host=/run"}, "plaintext PostgreSQL", "sslmode=verify-full"),
        ({DATABASE: "postgresql+psycopg://me@db/a?sslmode=require"}, "without a password", "ASSAY_SECRETS_DIR"),
        ({DATABASE: "postgresql+psycopg://me:@db/a?sslmode=require"}, "without a password", "database.url"),
        (
            {DATABASE: "postgresql+psycopg://postgres:assay@db/a?sslmode=require"},
            "default database password",
            "another",
        ),
        ({DATABASE: "postgresql+psycopg://me:Passw0rd1@db/a?sslmode=require"}, "default database password", "another"),
        ({DATABASE: "postgresql+psycopg://meXYZ:meXYZ@db/a?sslmode=require"}, "default database password", "another"),
        ({DATABASE: "postgresql+psycopg://me@db/a?sslmode=require&password=assay"}, "default database", "another"),
        ({"ASSAY_REDIS__URL": "redis://cache/0", **CACHE}, "a cache over plaintext Redis", "rediss://"),
        ({"ASSAY_REDIS__URL": "rediss://cache/0?ssl_cert_reqs=none"}, "not checked", "redis.url"),
        ({"ASSAY_REDIS__URL": "rediss://:redis@cache/0"}, "a default password", "redis.url"),
        ({"ASSAY_REDIS__URL": "rediss://c/0", **CACHE, "ASSAY_REDIS__MAC_KEY": "short"}, "a weak key", "redis.mac_key"),
        ({"ASSAY_REDIS__URL": "rediss://c/0", **CACHE, "ASSAY_REDIS__MAC_KEY": "a" * 40}, "a weak key", "random"),
        ({"ASSAY_IMAGES__FILE_ROOT": "/"}, "images.file_root /", "holds photographs and nothing else"),
        ({"ASSAY_IMAGES__FILE_ROOT": "/srv/../etc"}, "images.file_root /etc", "name a folder"),
        ({"ASSAY_IMAGES__FILE_ROOT": "photographs"}, "relative images.file_root", "the whole path"),
        ({"ASSAY_IMAGES__FILE_ROOT": "/srv", "ASSAY_EVIDENCE__ROOT": "/srv/evidence"}, "/srv/evidence lies in", "part"),
        ({"ASSAY_IMAGES__FILE_ROOT": "/srv", "ASSAY_ENGINES__MODELS_DIR": "/srv/models"}, "/srv/models lies", "part"),
        ({"ASSAY_KAFKA__SCHEMA_REGISTRY_URL": "http://registry"}, "plaintext kafka.schema_registry_url", "https://"),
        ({"ASSAY_IMAGES__S3_ENDPOINT": "http://minio:9000"}, "plaintext images.s3_endpoint", "https://"),
        ({"ASSAY_FAILPOINTS__LOG": "/tmp/hits"}, "failpoints", "unset failpoints.armed"),  # noqa: S108 (never opened)
    ],
)
def test_what_is_unsafe_is_refused(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], fault: str, fix: str
) -> None:
    give(monkeypatch, **settings)
    with pytest.raises(ConfigurationError) as refused:
        load_settings()
    told = str(refused.value)
    assert "production refuses" in told
    assert fault in told
    assert fix in told
    assert "k3mTq9" not in told
    monkeypatch.setenv("ASSAY_MODE", "development")
    assert load_settings().mode == "development"


def test_all_faults_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSAY_MODE", "production")
    with pytest.raises(ConfigurationError) as refused:
        load_settings()
    assert str(refused.value).count("production refuses") == 3  # Kafka; the password and the encryption of PostgreSQL


def test_the_secrets_must_not_lie_among_the_photographs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    give(monkeypatch, ASSAY_SECRETS_DIR=str(secrets), ASSAY_IMAGES__FILE_ROOT=str(tmp_path))
    with pytest.raises(ConfigurationError, match="senders could read it"):
        load_settings()


class TestEngines:
    def refused(self) -> str:
        with pytest.raises(ConfigurationError) as refused:
            trusted_keys(load_settings())
        return str(refused.value)

    def test_the_shipped_ones_are_for_trials(self, monkeypatch: pytest.MonkeyPatch) -> None:
        give(monkeypatch)
        assert "production refuses the demo encoders" in self.refused()
        monkeypatch.setenv("ASSAY_ENGINES__ALLOW_DEMO", "true")
        assert trusted_keys(load_settings())

    def test_the_demo_key_vouches_for_nothing(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        for key in MODELS_DIR.glob("*.pub"):
            shutil.copy(key, tmp_path)
        models, keys = str(tmp_path / "models"), str(tmp_path)
        give(monkeypatch, ASSAY_ENGINES__MODELS_DIR=models, ASSAY_ENGINES__KEYS_DIR=keys)
        assert "production refuses the demo encoders and their key" in self.refused()

    def test_keys_lie_apart_from_what_they_vouch_for(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        write_public_key(tmp_path, "own", Ed25519PrivateKey.generate())
        give(monkeypatch, ASSAY_ENGINES__MODELS_DIR=str(tmp_path))
        assert "set engines.keys_dir" in self.refused()
        monkeypatch.setenv("ASSAY_ENGINES__KEYS_DIR", f"{tmp_path}/.")
        assert "set engines.keys_dir" in self.refused()
        monkeypatch.setenv("ASSAY_ENGINES__MODELS_DIR", str(tmp_path / "models"))
        assert len(trusted_keys(load_settings())) == 1
