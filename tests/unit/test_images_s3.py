"""What S3's errors mean: one object's fault makes its view unusable, the store's fault is the deployment's."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError, ReadTimeoutError
from botocore.response import StreamingBody
from botocore.stub import Stubber

from schemas.codes import ViewCode
from worker.adapters import image_s3
from worker.adapters.image_faults import ImageRefused
from worker.adapters.image_s3 import S3Images, S3Options, store_fault
from worker.errors import ServiceUnavailable

URI = urlsplit("s3://goods/a.jpg")
OPTIONS = S3Options(buckets=("goods",), endpoint_url="http://127.0.0.1:9", access_key="a", secret_key="b")  # noqa: S106


def client_error(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "sig=s3cret"}}, "GetObject")


@pytest.mark.parametrize(
    "code, expected",
    [
        ("NoSuchKey", ViewCode.NOT_FOUND),
        ("NoSuchBucket", ViewCode.NOT_FOUND),
        ("404", ViewCode.NOT_FOUND),
        ("AccessDenied", ViewCode.FORBIDDEN),
        ("403", ViewCode.FORBIDDEN),
    ],
)
def test_an_objects_fault_makes_the_view_unusable(code: str, expected: ViewCode) -> None:
    fault = store_fault(client_error(code))
    assert isinstance(fault, ImageRefused)
    assert fault.code is expected
    assert "s3cret" not in fault.detail


@pytest.mark.parametrize(
    "error",
    [
        *map(client_error, ["SlowDown", "InternalError", "503", "ExpiredToken", "InvalidAccessKeyId"]),
        EndpointConnectionError(endpoint_url="http://s3"),
        ReadTimeoutError(endpoint_url="http://s3"),
        NoCredentialsError(),
        OSError("reset"),
    ],
)
def test_the_stores_fault_is_the_deployments(error: Exception) -> None:
    fault = store_fault(error)
    assert isinstance(fault, ServiceUnavailable)
    assert "s3cret" not in str(fault)


@pytest.fixture
def stubbed(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[S3Images, Stubber]]:
    client = image_s3.s3_client(OPTIONS)
    monkeypatch.setattr(image_s3, "s3_client", lambda options: client)
    images = S3Images(OPTIONS, max_bytes=10)
    with Stubber(client) as stubber:
        yield images, stubber
    images.close()


def answer(data: bytes, length: int) -> dict[str, Any]:
    return {"ContentLength": length, "Body": StreamingBody(io.BytesIO(data), length)}


def test_a_large_object_is_refused_unread(stubbed: tuple[S3Images, Stubber]) -> None:
    images, stubber = stubbed
    stubber.add_response("get_object", answer(b"", 11), {"Bucket": "goods", "Key": "a.jpg"})
    with pytest.raises(ImageRefused) as caught:
        images.read(URI)
    assert caught.value.code is ViewCode.TOO_LARGE


def test_a_cut_answer_is_the_stores_fault(stubbed: tuple[S3Images, Stubber]) -> None:
    images, stubber = stubbed
    stubber.add_response("get_object", answer(b"abc", 9), {"Bucket": "goods", "Key": "a.jpg"})
    with pytest.raises(ServiceUnavailable):
        images.read(URI)
