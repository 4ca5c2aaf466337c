"""Where engines come from, as the settings say it, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from engines.publish import write_public_key
from engines.store import FolderStore
from worker.adapters.engine_opening import open_store, place_of, trusted_keys
from worker.adapters.engine_store_s3 import S3Store
from worker.engine_settings import EngineSettings
from worker.errors import ConfigurationError
from worker.settings import load_settings

SAFE = {
    "ASSAY_MODE": "production",
    "ASSAY_KAFKA__SECURITY_PROTOCOL": "SSL",
    "ASSAY_DATABASE__URL": "postgresql+psycopg://assay_worker:s3k5-x@db/assay?sslmode=verify-full",
}


def refused(monkeypatch: pytest.MonkeyPatch, **settings: str) -> str:
    for name, value in settings.items():
        monkeypatch.setenv(f"ASSAY_ENGINES__{name}", value)
    with pytest.raises(ConfigurationError) as fault:
        trusted_keys(load_settings())
    return str(fault.value)


@pytest.mark.parametrize(
    "place", ["engines", "s3://", "s3://B", "s3://bucket?x=1", "https://bucket/x", "", "s3://a/b#c"]
)
def test_a_place_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    assert "write it as /A/FOLDER or s3://BUCKET/PREFIX" in refused(monkeypatch, REGISTRY=place, KEYS_DIR="/keys")


def test_engines_come_from_one_place_whose_keys_lie_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "engines.keys_dir" in refused(monkeypatch, REGISTRY="/srv/engines")
    told = refused(monkeypatch, REGISTRY="/srv/engines", KEYS_DIR="/keys", MODELS_DIR="/srv/models")
    assert "both set" in told


def test_production_takes_no_keys_from_within_the_registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in SAFE.items():
        monkeypatch.setenv(name, value)
    inside, apart = tmp_path / "registry" / "keys", tmp_path / "keys"
    for folder in (inside, apart):
        write_public_key(folder, "own", Ed25519PrivateKey.generate())
    registry = str(tmp_path / "registry")
    assert "set engines.keys_dir to a folder" in refused(monkeypatch, REGISTRY=registry, KEYS_DIR=str(inside))
    monkeypatch.setenv("ASSAY_ENGINES__KEYS_DIR", str(apart))
    assert len(trusted_keys(load_settings())) == 1
    monkeypatch.setenv("ASSAY_ENGINES__REGISTRY", "s3://engines/of/assay")
    assert len(trusted_keys(load_settings())) == 1


def test_production_keeps_the_registry_from_senders(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SAFE.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ASSAY_IMAGES__FILE_ROOT", "/srv/assay")
    assert "/srv/assay/engines lies in it" in refused(monkeypatch, REGISTRY="/srv/assay/engines", KEYS_DIR="/keys")


def test_the_store_is_the_place_that_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSAY_ENGINES__KEYS_DIR", "/keys")
    monkeypatch.setenv("ASSAY_ENGINES__REGISTRY", "/srv/engines")
    assert isinstance(open_store(load_settings()), FolderStore)
    assert place_of(load_settings()) == "/srv/engines"
    monkeypatch.setenv("ASSAY_ENGINES__REGISTRY", "s3://engines/of/assay")
    store = open_store(load_settings())
    assert isinstance(store, S3Store)
    store.close()
    assert EngineSettings().registry_folder is None
