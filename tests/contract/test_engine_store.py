"""One suite for both places of published engines: a folder, and a bucket of S3."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import boto3
import pytest

from engines import store as store_module
from engines.catalogue import EngineFiles
from engines.errors import EngineRefused, RefusalCode
from engines.store import GOLDEN, MANIFEST, MODEL, EngineStore, FolderStore, engine_id
from worker.adapters.engine_store_s3 import S3Store
from worker.adapters.image_s3 import S3Options
from worker.errors import ServiceUnavailable

FILES = EngineFiles(manifest=b'{"name":"a"}', model=b"graph" * 1000, golden=b"golden")
BUCKET = "kept"
# What a publisher does until it dies, step by step: `step` is 0 before the first file.
DYING = """
import os, sys
from pathlib import Path
from engines import store
from engines.catalogue import EngineFiles
step = int(sys.argv[2])
def counted(call):
    def wrapped(*arguments):
        global step
        if step == 0:
            os._exit(9)
        step -= 1
        return call(*arguments)
    return wrapped
store._write_synced = counted(store._write_synced)
store._sync = counted(store._sync)
files = EngineFiles(manifest=b'{"name":"a"}', model=b"graph" * 1000, golden=b"golden")
store.FolderStore(Path(sys.argv[1])).put(files)
"""


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, s3_endpoint: str) -> Iterator[EngineStore]:
    if request.param == "folder":
        yield FolderStore(tmp_path / "registry")
        return
    options = S3Options(buckets=(BUCKET,), endpoint_url=s3_endpoint, access_key="test", secret_key="test")  # noqa: S106
    opened = S3Store(BUCKET, "engines/", options=options)
    yield opened
    opened.close()


def test_what_is_put_is_found_under_the_manifests_digest(store: EngineStore) -> None:
    name = store.put(FILES)
    assert name == engine_id(FILES)
    assert store.get(name) == FILES
    assert store.put(FILES) == name


def test_what_is_not_there_is_refused(store: EngineStore) -> None:
    with pytest.raises(EngineRefused, match="publish the engine again") as refused:
        store.get("0" * 64)
    assert refused.value.code is RefusalCode.MODEL_MISSING


@pytest.mark.parametrize("name", ["", "..", "../" + "0" * 61, "A" * 64, "0" * 63, "0" * 64 + "\n"])
def test_what_is_no_id_becomes_no_path(store: EngineStore, name: str) -> None:
    with pytest.raises(ValueError, match="no engine's id"):
        store.get(name)


def test_a_bucket_without_its_manifest_or_with_another_one(s3_endpoint: str) -> None:
    options = S3Options(buckets=(BUCKET,), endpoint_url=s3_endpoint, access_key="test", secret_key="test")  # noqa: S106
    opened = S3Store(BUCKET, "", options=options)
    name = opened.put(FILES)
    client = boto3.client(
        "s3",
        endpoint_url=s3_endpoint,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",  # noqa: S106 - moto takes any
    )
    client.delete_object(Bucket=BUCKET, Key=f"{name}/{MANIFEST}")
    with pytest.raises(EngineRefused):
        opened.get(name)
    client.close()
    away = S3Store("unmade", "", options=options)
    with pytest.raises(ServiceUnavailable, match="NoSuchBucket"):
        away.put(FILES)
    for one in (opened, away):
        one.close()


def test_changed_files_are_not_published_over(tmp_path: Path) -> None:
    opened = FolderStore(tmp_path)
    name = opened.put(FILES)
    (tmp_path / name / MODEL).write_bytes(b"other")
    with pytest.raises(EngineRefused) as refused:
        opened.put(FILES)
    assert refused.value.code is RefusalCode.NOT_THE_PUBLISHED


@pytest.mark.parametrize("step", range(4))
def test_a_publisher_that_dies_leaves_nothing_that_is_served(tmp_path: Path, step: int) -> None:
    """Killed before each file is written, and before the folder takes its name."""
    done = subprocess.run([sys.executable, "-c", DYING, str(tmp_path), str(step)], timeout=240)
    assert done.returncode == 9
    assert not (tmp_path / engine_id(FILES)).exists()
    (left,) = tmp_path.iterdir()
    opened = FolderStore(tmp_path)
    with pytest.raises(EngineRefused):
        opened.get(engine_id(FILES))
    opened.put(FILES)
    assert left.exists(), "another publisher may still be at work there"
    os.utime(left, (time.time() - 4000,) * 2)
    opened.put(FILES)
    opened.put(replace(FILES, golden=b"other", manifest=b"other"))
    assert not left.exists()
    assert opened.get(engine_id(FILES)) == FILES


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(store_module, "_write_synced", full)
    with pytest.raises(OSError, match="No space left"):
        FolderStore(tmp_path).put(FILES)
    assert list(tmp_path.iterdir()) == []


def test_files_of_an_engine_can_be_read_by_the_workers_user(tmp_path: Path) -> None:
    name = FolderStore(tmp_path).put(FILES)
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o755
    assert {path.name for path in (tmp_path / name).iterdir()} == {MANIFEST, MODEL, GOLDEN}
