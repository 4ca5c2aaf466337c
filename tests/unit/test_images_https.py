"""The https route against a real TLS server on loopback: pinned addresses, no redirects, one deadline, typed faults.

A canary listener counts connections: nothing that is refused may have connected anywhere.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from image_host import BODY, HOST, LIMIT, Server, Shop, run, serving

from schemas.codes import ViewCode
from worker.adapters.image_faults import ImageRefused
from worker.adapters.image_https import HttpsImages, HttpsOptions
from worker.errors import RetryJob


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Server]:
    yield from run(*serving(tmp_path))


@pytest.fixture
def plain_shop() -> Iterator[Server]:
    yield from run(*serving(None))


@pytest.fixture
def other_shop(tmp_path: Path) -> Iterator[Server]:
    """Its certificate is trusted and names another host."""
    yield from run(*serving(tmp_path, "other.example"))


def read(images: HttpsImages, url: str) -> bytes:
    try:
        return images.read(urlsplit(url))
    finally:
        images.close()


def refused(images: HttpsImages, url: str) -> ImageRefused:
    with pytest.raises(ImageRefused) as caught:
        read(images, url)
    assert "sig=" not in caught.value.detail
    return caught.value


def transient(images: HttpsImages, url: str) -> RetryJob:
    with pytest.raises(RetryJob) as caught:
        read(images, url)
    assert "sig=" not in str(caught.value)
    return caught.value


def test_an_image_is_read_over_tls_with_the_hosts_own_name(shop: Server) -> None:
    assert read(shop.images(), shop.url("/ok?sig=s3cret&x=%20")) == BODY
    assert Shop.seen == [(f"{HOST}:{shop.port}", "/ok?sig=s3cret&x=%20")]
    assert shop.asked == [HOST]


def test_a_chunked_answer_is_read(shop: Server) -> None:
    assert read(shop.images(), shop.url("/chunked")) == BODY


def test_the_next_address_is_tried_where_one_does_not_answer(shop: Server) -> None:
    shop.answers = [["127.0.0.2", "127.0.0.1"]]  # the shop listens on the second alone
    assert read(shop.images(), shop.url()) == BODY


def test_a_proxy_of_the_environment_is_not_used(shop: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert read(shop.images(), shop.url()) == BODY


def test_a_name_that_is_rebound_is_judged_and_reached_by_its_one_answer(shop: Server) -> None:
    shop.answers = [["127.0.0.1"], ["10.0.0.1"]]
    images = shop.images()
    assert images.read(urlsplit(shop.url())) == BODY
    assert refused(images, shop.url()).code is ViewCode.URI_NOT_ALLOWED
    assert len(shop.asked) == 2


@pytest.mark.parametrize(
    "status, code",
    [
        (404, ViewCode.NOT_FOUND),
        (410, ViewCode.NOT_FOUND),
        (400, ViewCode.NOT_FOUND),
        (204, ViewCode.NOT_FOUND),
        (401, ViewCode.FORBIDDEN),
        (403, ViewCode.FORBIDDEN),
        (301, ViewCode.URI_NOT_ALLOWED),
        (308, ViewCode.URI_NOT_ALLOWED),
    ],
)
def test_a_permanent_answer_has_its_code(shop: Server, status: int, code: ViewCode) -> None:
    assert refused(shop.images(), shop.url(f"/status/{status}?sig=s3cret")).code is code


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_passing_fault_is_tried_again(shop: Server, status: int) -> None:
    assert str(status) in transient(shop.images(), shop.url(f"/status/{status}?sig=s3cret")).detail


def test_a_redirect_is_not_followed(shop: Server) -> None:
    assert refused(shop.images(), shop.url("/redirect")).code is ViewCode.URI_NOT_ALLOWED
    assert len(Shop.seen) == 1


@pytest.mark.parametrize("path", ["/announced", "/endless"])
def test_an_image_over_the_limit_is_refused_as_it_arrives(shop: Server, path: str) -> None:
    assert refused(shop.images(), shop.url(path)).code is ViewCode.TOO_LARGE


@pytest.mark.parametrize("path", ["/short", "/cutheaders", "/cutchunk", "/garbage"])
def test_a_broken_answer_is_tried_again(shop: Server, path: str) -> None:
    transient(shop.images(), shop.url(path))


@pytest.mark.parametrize("path", ["/short", "/cutchunk", "/garbage"])
def test_a_broken_answer_is_seen_without_tls_too(plain_shop: Server, path: str) -> None:
    transient(plain_shop.images(), plain_shop.url(path, scheme="http"))


@pytest.mark.timeout(20)
@pytest.mark.parametrize("path", ["/drip", "/dripheaders"])
def test_a_dripping_answer_ends_at_the_deadline(shop: Server, path: str) -> None:
    transient(shop.images(total_timeout_s=0.3), shop.url(path))


@pytest.mark.timeout(20)
@pytest.mark.parametrize("path", ["/drip", "/dripheaders"])
def test_the_end_that_the_deadline_makes_is_no_answer(plain_shop: Server, path: str) -> None:
    transient(plain_shop.images(total_timeout_s=0.3), plain_shop.url(path, scheme="http"))


def test_a_certificate_of_another_host_is_not_accepted(other_shop: Server) -> None:
    assert "SSLCertVerificationError" in transient(other_shop.images(), other_shop.url()).detail


def test_an_unknown_authority_is_not_accepted(shop: Server) -> None:
    transient(shop.images(ca_file=None), shop.url())


def test_http_is_for_tests_alone(plain_shop: Server) -> None:
    assert read(plain_shop.images(), plain_shop.url(scheme="http")) == BODY


@dataclass
class Canary:
    port: int
    stop: Callable[[], int]


@pytest.fixture
def canary() -> Iterator[Canary]:
    """Listens on every address of loopback; `stop` tells how many connected."""
    listener = socket.create_server(("0.0.0.0", 0))  # noqa: S104 - every address of loopback is the point
    listener.setblocking(False)

    def stop() -> int:
        count = 0
        while True:
            try:
                listener.accept()[0].close()
            except BlockingIOError:
                return count
            count += 1

    yield Canary(port=listener.getsockname()[1], stop=stop)
    listener.close()


LOCAL = ["127.0.0.1", "127.0.0.2", "0.0.0.0", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "::", "10.0.0.1", "fe80::1"]  # noqa: S104
MIXED = [["8.8.8.8", "127.0.0.1"], ["127.0.0.1", "8.8.8.8"], ["2606:4700::1111", "::1"], []]


@pytest.mark.parametrize("answers", [[a] for a in LOCAL] + MIXED, ids=str)
def test_a_host_with_a_private_address_is_never_connected_to(canary: Canary, answers: list[str]) -> None:
    options = HttpsOptions(hosts=(HOST,), ports=(canary.port,))
    images = HttpsImages(options, max_bytes=LIMIT, resolve=lambda host, port: answers)
    assert refused(images, f"https://{HOST}:{canary.port}/x").code is ViewCode.URI_NOT_ALLOWED
    assert canary.stop() == 0


@pytest.mark.parametrize(
    "template",
    [
        "https://localhost:{port}/",
        "https://127.0.0.1:{port}/",
        "https://[::1]:{port}/",
        "https://2130706433:{port}/",
        "https://0x7f000001:{port}/",
        "https://shop.example.:1/",
        "https://user@shop.example:{port}/",
        "https://shop.example@127.0.0.1:{port}/",
        "https://shop.example%00@127.0.0.1:{port}/",
        "https://shop.example\\@127.0.0.1:{port}/",
        "https://shop.example:{port}@127.0.0.1/",
        "https://127.0.0.1:{port}#@shop.example/",
        "https://shop.example.evil.test:{port}/",
        "https://evil-shop.example:{port}/",
        "https://shop.example:22/",
        "https://shop.example:99999/",
        "https://shop.example:x/",
        "https:///x",
        "https:x",
        "https://",
    ],
)
def test_a_uri_that_is_not_the_allowed_host_and_port_is_refused_unresolved(canary: Canary, template: str) -> None:
    def never(host: str, port: int) -> list[str]:
        raise AssertionError(f"{host} was resolved")

    images = HttpsImages(HttpsOptions(hosts=(HOST,), ports=(canary.port,)), max_bytes=LIMIT, resolve=never)
    assert refused(images, template.format(port=canary.port)).code is ViewCode.URI_NOT_ALLOWED
    assert canary.stop() == 0


def test_a_name_that_does_not_resolve_is_tried_again() -> None:
    def unknown(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    transient(HttpsImages(HttpsOptions(hosts=(HOST,)), max_bytes=LIMIT, resolve=unknown), f"https://{HOST}/")


def test_a_slow_name_server_ends_at_the_deadline() -> None:
    released = threading.Event()

    def slow(host: str, port: int) -> list[str]:
        released.wait(10)
        return []

    images = HttpsImages(HttpsOptions(hosts=(HOST,), total_timeout_s=0.1), max_bytes=LIMIT, resolve=slow)
    assert "timeout" in transient(images, f"https://{HOST}/").detail
    released.set()


def test_a_closed_port_is_tried_again(shop: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    transient(shop.images(ports=(port,)), f"https://{HOST}:{port}/")
