"""One suite for every way to get an image: inline, file root, S3, http on loopback (tests only), and the twin."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol

import boto3
import pytest

from schemas.codec import checked_job
from schemas.codes import ViewCode
from schemas.job import JobView
from worker.adapters.image_https import HttpsOptions
from worker.adapters.image_s3 import S3Options
from worker.adapters.images import RoutedImages
from worker.adapters.memory_images import MemoryImages
from worker.core.evidence import UnusableView
from worker.errors import ConfigurationError, RetryJob, ServiceUnavailable
from worker.ports import ImageSource

LIMIT = 1000
HOST = "shop.example"
PHOTOGRAPH = b"\xff\xd8photograph"
SHA256 = hashlib.sha256(PHOTOGRAPH).hexdigest()
JOB = checked_job(
    job_id="job-1",
    tenant="maison",
    sku="BAG-001",
    category="bag",
    submitted_at=datetime(2026, 1, 31, 12, tzinfo=UTC),
    views=[JobView(view="logo", sha256=SHA256, data=PHOTOGRAPH)],
)


def view_of(uri: str, sha256: str = SHA256) -> JobView:
    return JobView(view="logo", sha256=sha256, uri=uri)


def code_of(images: ImageSource, view: JobView) -> ViewCode:
    answer = images.fetch(JOB, view)
    assert isinstance(answer, UnusableView)
    assert (answer.view, answer.sha256) == (view.view, view.sha256)
    return answer.code


class Place(Protocol):
    """A source, how an image gets there, and URIs of things that are not."""

    images: ImageSource

    def put(self, data: bytes) -> str: ...
    def absent(self) -> str: ...
    def foreign(self) -> str: ...


class FilePlace:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.images = RoutedImages(max_bytes=LIMIT, file_root=root)

    def put(self, data: bytes) -> str:
        (self.root / "a.jpg").write_bytes(data)
        return (self.root / "a.jpg").as_uri()

    def absent(self) -> str:
        return "file:none.jpg"

    def foreign(self) -> str:
        return "file:///etc/hostname"


class S3Place:
    def __init__(self, endpoint: str) -> None:
        keys = {"access_key": "test", "secret_key": "test"}
        options = S3Options(buckets=("goods",), endpoint_url=endpoint, **keys)
        self.images = RoutedImages(max_bytes=LIMIT, s3=options)
        self.client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",  # noqa: S106
        )

    def put(self, data: bytes) -> str:
        self.client.put_object(Bucket="goods", Key="bag/logo 1?.jpg", Body=data)
        return "s3://goods/bag/logo%201%3F.jpg"

    def absent(self) -> str:
        return "s3://goods/none.jpg"

    def foreign(self) -> str:
        return "s3://unlisted/a.jpg"


class Shelf(BaseHTTPRequestHandler):
    images: dict[str, bytes]

    def do_GET(self) -> None:
        data = self.images.get(self.path)
        self.send_response(404 if data is None else 200)
        self.send_header("Content-Length", str(len(data or b"")))
        self.end_headers()
        self.wfile.write(data or b"")

    def log_message(self, format: str, *args: object) -> None:
        pass


class HttpPlace:
    def __init__(self) -> None:
        self.handler = type("OneShelf", (Shelf,), {"images": {}})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self.handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), name="shelf")
        self.thread.start()
        port = self.server.server_port
        self.base = f"http://{HOST}:{port}"
        options = HttpsOptions(hosts=(HOST,), ports=(port,), allow_loopback_http_for_tests=True)
        self.images = RoutedImages(max_bytes=LIMIT, https=options, resolve=lambda host, port: ["127.0.0.1"])

    def put(self, data: bytes) -> str:
        self.handler.images["/a.jpg"] = data  # type: ignore[attr-defined]
        return f"{self.base}/a.jpg"

    def absent(self) -> str:
        return f"{self.base}/none.jpg"

    def foreign(self) -> str:
        return self.base.replace(HOST, "rival.example")

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


class MemoryPlace:
    def __init__(self) -> None:
        self.images = MemoryImages({}, max_bytes=LIMIT)

    def put(self, data: bytes) -> str:
        self.images.shelf["memory:a"] = data
        return "memory:a"

    def absent(self) -> str:
        return "memory:none"

    def foreign(self) -> str:
        return "gopher://a"


@pytest.fixture(params=["memory", "file", "s3", "http"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    made: Any = {
        "memory": MemoryPlace,
        "file": lambda: FilePlace(tmp_path),
        "s3": lambda: S3Place(request.getfixturevalue("s3_endpoint")),
        "http": HttpPlace,
    }[request.param]()
    yield made
    made.images.close()
    for part in (made, getattr(made, "client", made)):
        getattr(part, "close", lambda: None)()


def test_an_image_is_fetched_and_verified(place: Place) -> None:
    assert place.images.fetch(JOB, view_of(place.put(PHOTOGRAPH))) == PHOTOGRAPH


def test_inline_bytes_need_no_route(place: Place) -> None:
    assert place.images.fetch(JOB, JOB.views[0]) == PHOTOGRAPH


def test_an_image_of_the_largest_size_is_fetched(place: Place) -> None:
    data = b"x" * LIMIT
    assert place.images.fetch(JOB, view_of(place.put(data), hashlib.sha256(data).hexdigest())) == data


def test_a_larger_image_is_too_large(place: Place) -> None:
    data = b"x" * (LIMIT + 1)
    digest = hashlib.sha256(data).hexdigest()
    assert code_of(place.images, view_of(place.put(data), digest)) is ViewCode.TOO_LARGE
    assert code_of(place.images, JobView(view="logo", sha256=digest, data=data)) is ViewCode.TOO_LARGE


def test_other_bytes_than_the_job_names_are_a_digest_mismatch(place: Place) -> None:
    assert code_of(place.images, view_of(place.put(PHOTOGRAPH), "0" * 64)) is ViewCode.DIGEST_MISMATCH
    assert code_of(place.images, JobView(view="a", sha256="0" * 64, data=b"x")) is ViewCode.DIGEST_MISMATCH


def test_an_empty_image_is_truncated(place: Place) -> None:
    assert code_of(place.images, view_of(place.put(b""))) is ViewCode.TRUNCATED


def test_an_absent_image_is_not_found(place: Place) -> None:
    assert code_of(place.images, view_of(place.absent())) is ViewCode.NOT_FOUND


def test_a_place_that_is_not_listed_is_not_allowed(place: Place) -> None:
    assert code_of(place.images, view_of(place.foreign())) is ViewCode.URI_NOT_ALLOWED


@pytest.mark.parametrize(
    "uri",
    ["gopher://h/x", "ftp://h/x", "data:image/jpeg;base64,AAAA", "//h/x", "x.jpg", "", "https://[::1", "jar:file:x"],
)
def test_an_unknown_kind_of_uri_is_not_allowed(place: Place, uri: str) -> None:
    assert code_of(place.images, view_of(uri)) is ViewCode.URI_NOT_ALLOWED


@pytest.mark.parametrize("fault", [RetryJob("fetch", "timeout"), ServiceUnavailable("S3", "away")])
def test_the_twin_raises_what_it_is_told(fault: Exception) -> None:
    with pytest.raises(type(fault)):
        MemoryImages({"memory:a": fault}).fetch(JOB, view_of("memory:a"))


@pytest.mark.parametrize("uri", ["file:a.jpg", "s3://goods/a.jpg", f"https://{HOST}/a.jpg", f"http://{HOST}/a.jpg"])
def test_a_route_that_is_not_configured_is_not_allowed(uri: str) -> None:
    assert code_of(RoutedImages(max_bytes=LIMIT), view_of(uri)) is ViewCode.URI_NOT_ALLOWED


def test_http_is_not_allowed_beside_https() -> None:
    images = RoutedImages(max_bytes=LIMIT, https=HttpsOptions(hosts=(HOST,), ports=(80, 443)))
    assert code_of(images, view_of(f"http://{HOST}/a.jpg")) is ViewCode.URI_NOT_ALLOWED
    images.close()


def test_production_refuses_the_switch_for_tests() -> None:
    options = HttpsOptions(hosts=(HOST,), allow_loopback_http_for_tests=True)
    with pytest.raises(ConfigurationError, match="allow_loopback_http_for_tests"):
        RoutedImages(max_bytes=LIMIT, https=options, production=True)


@pytest.mark.parametrize(
    "uri", ["s3://goods/", "s3://goods", "s3://goods/a.jpg?versionId=1", "s3://goods/a#b", "s3:///a"]
)
def test_an_s3_uri_is_a_bucket_and_a_key(s3_endpoint: str, uri: str) -> None:
    place = S3Place(s3_endpoint)
    assert code_of(place.images, view_of(uri)) is ViewCode.URI_NOT_ALLOWED
    place.images.close()
    place.client.close()


def test_a_store_of_the_deployment_that_is_away_is_a_service_fault() -> None:
    place = S3Place("http://127.0.0.1:9")
    with pytest.raises(ServiceUnavailable):
        place.images.fetch(JOB, view_of("s3://goods/a.jpg"))
    place.images.close()
    place.client.close()
