"""The https route against a real TLS server on loopback: pinned addresses, no redirects, one deadline, typed faults.

A canary listener counts connections: nothing that is refused may have connected anywhere.
"""

from __future__ import annotations

import datetime as dt
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from schemas.codes import ViewCode
from worker.adapters.image_faults import ImageRefused
from worker.adapters.image_https import HttpsImages, HttpsOptions
from worker.errors import RetryJob

LIMIT = 100_000
HOST = "shop.example"
BODY = b"\xff\xd8photograph"


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    built = (
        x509.CertificateBuilder(subject_name=subject, issuer_name=subject, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / f"{name}.pem", folder / f"{name}.key"
    cert_file.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    pkcs8, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, pkcs8, plain))
    return cert_file, key_file


class Shop(BaseHTTPRequestHandler):
    """Answers by path: /ok, /status/N, /redirect, and the misbehaviours by name."""

    seen: ClassVar[list[tuple[str, str]]] = []
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.close_connection = True
        self.seen.append((self.headers["Host"], self.path))
        _, kind, *rest = urlsplit(self.path).path.split("/")
        if kind == "status":
            self._head(int(rest[0]), 0)
        elif kind == "redirect":
            self._head(302, 0, Location="http://169.254.169.254/latest/meta-data/")
        else:
            getattr(self, f"_{kind}")()

    def _head(self, status: int, length: int | None, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def _ok(self) -> None:
        self._head(200, len(BODY))
        self.wfile.write(BODY)

    def _short(self) -> None:
        self._head(200, len(BODY) + 10)
        self.wfile.write(BODY)

    def _announced(self) -> None:
        self._head(200, LIMIT + 1)

    def _endless(self) -> None:
        self._head(200, None)
        self._write_until_closed(b"x" * 65536, 0.0)

    def _cutheaders(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-A: b\r\n")

    def _drip(self) -> None:
        self._head(200, LIMIT)
        self._write_until_closed(b"x", 0.05)

    def _dripheaders(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        self._write_until_closed(b"X-A: b\r\n", 0.05)

    def _chunked(self) -> None:
        self._head(200, None, Transfer_Encoding="chunked")
        self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY))

    def _cutchunk(self) -> None:
        self._head(200, None, Transfer_Encoding="chunked")
        self.wfile.write(b"ffff\r\nabc")

    def _garbage(self) -> None:
        self.wfile.write(b"\x00\x01\x02 no HTTP at all\r\n\r\n")

    def _write_until_closed(self, data: bytes, pause_s: float) -> None:
        try:
            while True:
                self.wfile.write(data)
                time.sleep(pause_s)
        except OSError:
            return

    def log_message(self, format: str, *args: object) -> None:
        pass


@dataclass
class Server:
    port: int
    options: HttpsOptions
    asked: list[str] = field(default_factory=list)
    answers: list[list[str]] = field(default_factory=lambda: [["127.0.0.1"]])

    def resolve(self, host: str, port: int) -> list[str]:
        """The first answers once, the last for ever: a rebinding name server."""
        self.asked.append(host)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def images(self, **changes: object) -> HttpsImages:
        return HttpsImages(replace(self.options, **changes), max_bytes=LIMIT, resolve=self.resolve)  # type: ignore[arg-type]

    def url(self, path: str = "/ok", scheme: str = "https") -> str:
        return f"{scheme}://{HOST}:{self.port}{path}"


class QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        pass


def serving(folder: Path | None, name: str = HOST) -> tuple[QuietServer, Path | None]:
    server = QuietServer(("127.0.0.1", 0), Shop)
    if folder is None:
        return server, None
    cert_file, key_file = certificate(folder, name)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert_file, key_file)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    return server, cert_file


def run(server: QuietServer, ca_file: Path | None) -> Iterator[Server]:
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), name="shop")
    thread.start()
    Shop.seen.clear()
    options = HttpsOptions(
        hosts=(HOST,),
        ports=(server.server_port,),
        connect_timeout_s=1.0,
        read_timeout_s=1.0,
        total_timeout_s=2.0,
        ca_file=ca_file,
        allow_loopback_http_for_tests=True,
    )
    yield Server(port=server.server_port, options=options)
    server.shutdown()
    thread.join()
    server.server_close()


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
