"""The evidence store: verified photographs by (tenant, sha256), on a file root or in S3, kept for some days."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from contextlib import closing, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from schemas.job_codec import SHA256, TENANT
from worker.adapters.image_s3 import S3Options, answer_or_none, s3_client
from worker.errors import ConfigurationError, ServiceUnavailable

NAME = re.compile(r"[0-9a-f]{64}|\.[0-9a-z_]+\.part")
SERVICE = "the evidence store"


class FileEvidence:
    """Implements ports.EvidenceStore under `root`/tenant/first two digits/sha256.

    A file appears whole or not at all: it is written beside its place and renamed. It survives the end of the process;
    the loss of power within seconds of its writing it may not.
    """

    def __init__(self, root: Path) -> None:
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"evidence.root is {root}: {error.strerror}; name a writable folder") from error
        self._root = root

    def put(self, tenant: str, sha256: str, data: bytes) -> None:
        """Keep the bytes; what is kept already gets a new lease. Raises ServiceUnavailable."""
        place = self._place(tenant, sha256)
        try:
            if place.exists():
                os.utime(place)
            else:
                _write(place, data)
        except OSError as error:
            raise ServiceUnavailable(SERVICE, error.strerror or str(error)) from error

    def get(self, tenant: str, sha256: str) -> bytes | None:
        """The bytes; None where they were not kept, or are no longer what they were. Raises ServiceUnavailable."""
        try:
            data = self._place(tenant, sha256).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ServiceUnavailable(SERVICE, error.strerror or str(error)) from error
        return _intact(data, sha256)

    def holds(self, tenant: str, sha256: str) -> bool:
        """Whether anything was kept, unread. Raises ServiceUnavailable."""
        try:
            return self._place(tenant, sha256).is_file()
        except OSError as error:
            raise ServiceUnavailable(SERVICE, error.strerror or str(error)) from error

    def remove(self, tenant: str, sha256: str) -> bool:
        """Delete what was kept; whether there was anything. Raises ServiceUnavailable."""
        try:
            self._place(tenant, sha256).unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise ServiceUnavailable(SERVICE, error.strerror or str(error)) from error
        return True

    def sweep(self, now: datetime, *, retention_days: int) -> int:
        """Delete what was kept or renewed more than `retention_days` before `now` (aware); returns how many."""
        oldest_s = (now - timedelta(days=retention_days)).timestamp()
        return sum(
            _deleted_if_older(place, oldest_s) for place in self._root.glob("*/*/*") if NAME.fullmatch(place.name)
        )

    def _place(self, tenant: str, sha256: str) -> Path:
        _check_names(tenant, sha256)
        return self._root / tenant / sha256[:2] / sha256


class S3Evidence:
    """Implements ports.EvidenceStore as objects prefix/tenant/sha256 of one bucket. Needs the extra `s3`."""

    def __init__(
        self,
        bucket: str,
        *,
        endpoint_url: str | None = None,
        prefix: str = "evidence",
        region: str = "us-east-1",
        access_key: str | None = None,
        secret_key: str | None = None,
    ) -> None:
        options = S3Options(
            buckets=(bucket,), endpoint_url=endpoint_url, region=region, access_key=access_key, secret_key=secret_key
        )
        self._bucket = bucket
        self._prefix = prefix
        self._client = s3_client(options)

    def put(self, tenant: str, sha256: str, data: bytes) -> None:
        """Keep the bytes. Raises ServiceUnavailable."""
        self._call("put_object", Key=self._key(tenant, sha256), Body=data)

    def get(self, tenant: str, sha256: str) -> bytes | None:
        """The bytes; None where they were not kept, or are no longer what they were. Raises ServiceUnavailable."""
        answer = self._call("get_object", Key=self._key(tenant, sha256))
        if answer is None:
            return None
        try:
            with closing(answer["Body"]) as stream:
                return _intact(stream.read(), sha256)
        except Exception as error:  # botocore's transport errors have no common root
            raise ServiceUnavailable(SERVICE, type(error).__name__) from error

    def holds(self, tenant: str, sha256: str) -> bool:
        """Whether anything was kept, unread. Raises ServiceUnavailable."""
        return self._call("head_object", Key=self._key(tenant, sha256)) is not None

    def remove(self, tenant: str, sha256: str) -> bool:
        """Delete what was kept; whether there was anything. Raises ServiceUnavailable."""
        kept = self.holds(tenant, sha256)
        self._call("delete_object", Key=self._key(tenant, sha256))
        return kept

    def sweep(self, now: datetime, *, retention_days: int) -> int:
        """Delete what was kept more than `retention_days` before `now` (aware); returns how many."""
        oldest = now - timedelta(days=retention_days)
        deleted = 0
        token: dict[str, str] = {}
        while True:
            page = self._call("list_objects_v2", Prefix=f"{self._prefix}/", **token) or {}
            old = [item["Key"] for item in page.get("Contents", ()) if item["LastModified"] < oldest]
            if old:
                self._call("delete_objects", Delete={"Objects": [{"Key": key} for key in old], "Quiet": True})
            deleted += len(old)
            if not page.get("IsTruncated"):
                return deleted
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def close(self) -> None:
        self._client.close()

    def _key(self, tenant: str, sha256: str) -> str:
        _check_names(tenant, sha256)
        return f"{self._prefix}/{tenant}/{sha256}"

    def _call(self, operation: str, **arguments: Any) -> Any:
        """The client's answer, None where the object is absent."""
        return answer_or_none(self._client, operation, SERVICE, Bucket=self._bucket, **arguments)


def _check_names(tenant: str, sha256: str) -> None:
    if not TENANT.fullmatch(tenant) or not SHA256.fullmatch(sha256):
        raise ValueError(f"no names of a kept photograph: {tenant!r}, {sha256!r}")


def _write(place: Path, data: bytes) -> None:
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=".", suffix=".part", dir=place.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        Path(name).replace(place)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise


def _intact(data: bytes, sha256: str) -> bytes | None:
    return data if hashlib.sha256(data).hexdigest() == sha256 else None


def _deleted_if_older(place: Path, oldest_s: float) -> bool:
    try:
        if place.stat().st_mtime >= oldest_s:
            return False
        place.unlink()
    except FileNotFoundError:
        return False  # another sweep was faster
    return True
