"""`s3://bucket/key` URIs of allow-listed buckets, read with the deployment's own credentials. Needs the extra `s3`."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, unquote

from schemas.codes import ViewCode
from worker.adapters.image_faults import ImageRefused, not_allowed, too_large
from worker.errors import ConfigurationError, ServiceUnavailable

CHUNK_BYTES = 1 << 18
ABSENT = {"NoSuchKey", "NoSuchVersion", "NoSuchBucket", "404", "NotFound", "InvalidObjectState"}
DENIED = {"AccessDenied", "403", "Forbidden"}


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Options:
    """`endpoint_url` None is AWS; keys None leaves credentials to boto3's own chain."""

    buckets: tuple[str, ...]
    endpoint_url: str | None = None
    region: str = "us-east-1"
    access_key: str | None = None
    secret_key: str | None = None
    connect_timeout_s: float = 3.0
    read_timeout_s: float = 5.0
    total_timeout_s: float = 10.0


class S3Images:
    """Reads objects. Called by many threads: a boto3 client is safe to share."""

    def __init__(self, options: S3Options, *, max_bytes: int) -> None:
        self._options = options
        self._max_bytes = max_bytes
        self._client = s3_client(options)

    def read(self, uri: SplitResult) -> bytes:
        """The object's bytes. Raises ImageRefused, and ServiceUnavailable where the store is away."""
        bucket, key = self._place(uri)
        deadline_s = time.monotonic() + self._options.total_timeout_s
        try:
            answer = self._client.get_object(Bucket=bucket, Key=key)
            return self._body(answer, deadline_s)
        except (ImageRefused, ServiceUnavailable):
            raise
        except Exception as error:  # botocore's errors have no common root with its transport's
            raise store_fault(error) from error

    def close(self) -> None:
        self._client.close()

    def _place(self, uri: SplitResult) -> tuple[str, str]:
        bucket, key = uri.netloc, unquote(uri.path[1:])
        if bucket not in self._options.buckets:
            raise not_allowed(f"the bucket {bucket[:80]!a} is not in images.s3_buckets")
        if not key or uri.query or uri.fragment:
            raise not_allowed("an s3: URI is s3://bucket/key, with ? and # percent-encoded")
        return bucket, key

    def _body(self, answer: Any, deadline_s: float) -> bytes:
        length = int(answer["ContentLength"])
        with closing(answer["Body"]) as stream:  # entered, it would give the raw stream and check no length
            if length > self._max_bytes:
                raise too_large(length, self._max_bytes)
            body = bytearray()
            while chunk := stream.read(CHUNK_BYTES):
                body += chunk
                if time.monotonic() > deadline_s:
                    raise ServiceUnavailable(
                        "S3", f"{len(body)} of {length} bytes in {self._options.total_timeout_s} s"
                    )
        return bytes(body)


def s3_client(options: S3Options) -> Any:
    """A boto3 client with deadlines. Raises ConfigurationError without the extra."""
    try:
        import boto3
        from botocore.config import Config
    except ImportError as error:
        raise ConfigurationError("s3: images need their client: install assay-worker[s3]") from error
    config = Config(
        connect_timeout=options.connect_timeout_s,
        read_timeout=options.read_timeout_s,
        retries={"total_max_attempts": 2, "mode": "standard"},
        max_pool_connections=64,
        s3={"addressing_style": "path" if options.endpoint_url else "auto"},
    )
    return boto3.client(
        "s3",
        endpoint_url=options.endpoint_url,
        region_name=options.region,
        aws_access_key_id=options.access_key,
        aws_secret_access_key=options.secret_key,
        config=config,
    )


def store_fault(error: Exception) -> Exception:
    """An object that is absent or denied concerns one view; anything else is the deployment's own store."""
    code = error_code(error)
    if code in ABSENT:
        return ImageRefused(ViewCode.NOT_FOUND, f"the store has no such object ({code})")
    if code in DENIED:
        return ImageRefused(ViewCode.FORBIDDEN, f"the store denies the object ({code})")
    return ServiceUnavailable("S3", code or type(error).__name__)


def answer_or_none(client: Any, operation: str, service: str, **arguments: Any) -> Any:
    """The client's answer, None where the object is absent. Raises ServiceUnavailable, of `service`."""
    try:
        return getattr(client, operation)(**arguments)
    except Exception as error:  # botocore's errors have no common root with its transport's
        code = error_code(error)
        if code in ABSENT and code != "NoSuchBucket":
            return None
        raise ServiceUnavailable(service, code or type(error).__name__) from error


def error_code(error: Exception) -> str | None:
    """S3's code in an error of the client; None for a fault of the transport."""
    response = getattr(error, "response", None)
    return str(response["Error"].get("Code", "")) if isinstance(response, dict) and "Error" in response else None
