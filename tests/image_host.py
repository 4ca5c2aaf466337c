"""A real image host on loopback, with TLS, that misbehaves by path; and the resolver that leads to it."""

from __future__ import annotations

import datetime as dt
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from worker.adapters.image_https import HttpsImages, HttpsOptions

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

    def _other(self) -> None:
        self._head(200, len(BODY))
        self.wfile.write(BODY[::-1])

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

    def quick(self) -> HttpsOptions:
        """Options whose deadline a test can wait for."""
        return replace(self.options, total_timeout_s=1.0)

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
