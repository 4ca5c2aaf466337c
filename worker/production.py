"""What production refuses: settings that are right on one's own machine and dangerous anywhere else.

Pure but for resolving paths. Each fault names the setting and the fix, and never a secret's value.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

DATABASE_URL = re.compile(r"postgresql\+psycopg://(.*@)?(\[[^]]+\]|[^:/?@]*)(:\d+)?(/[^?]*)?(\?.*)?")
ENCRYPTED = ("require", "verify-ca", "verify-full")
KEY_CHARACTERS = 16
# What the compose file, examples and people begin with. The devstack's own are random and live on loopback alone.
WELL_KNOWN = re.compile(
    r"|assay(_\w+)?|admin|change-?me|default|demo|example|guest|pass|passw[o0]rd\d*|postgres|redis|root|secret|test|1234\d*"
)
SYSTEM_FOLDERS = frozenset(
    ["/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/opt", "/proc", "/root", "/run", "/sys", "/usr", "/var"]
)


def of_kafka(protocol: str, *, password: str | None) -> Iterator[str]:
    if protocol in ("PLAINTEXT", "SASL_PLAINTEXT"):
        yield "plaintext Kafka: set kafka.security_protocol to SSL or SASL_SSL"
    if password is not None and _is_well_known(password):
        yield "a default password: set kafka.sasl_password to one that nobody can guess"


def of_database(url: str) -> Iterator[str]:
    """`url` is a DATABASE_URL. A Unix socket needs neither password nor encryption."""
    found = DATABASE_URL.fullmatch(url)
    user, host, query = (found[1] or "", found[2], found[5] or "") if found else ("", "", "")
    asked = {name: values[-1] for name, values in parse_qs(query.removeprefix("?")).items()}
    role, _, given = unquote(user.removesuffix("@")).partition(":")
    password = asked.get("password") or given
    socket = not host and all(part.startswith("/") for part in asked.get("host", "").split(","))
    if password and (_is_well_known(password) or password == role):
        yield "a default database password: give the role another, and database.url with it"
    elif not password and not socket and not {"passfile", "sslcert"} & asked.keys():
        yield "a database without a password: put it into database.url (a file in ASSAY_SECRETS_DIR), or a passfile"
    if not socket and asked.get("sslmode") not in ENCRYPTED:
        yield "plaintext PostgreSQL: add ?sslmode=verify-full to database.url, or require"


def of_redis(url: str | None, *, cache: bool, mac_key: str | None) -> Iterator[str]:
    parts = urlsplit(url or "")
    if cache and parts.scheme == "redis":
        yield "a cache over plaintext Redis: write redis.url as rediss:// or unix://, or turn redis.cache off"
    if "ssl_cert_reqs=none" in parts.query.lower():
        yield "Redis whose certificate is not checked: take ssl_cert_reqs out of redis.url"
    if parts.password is not None and _is_well_known(unquote(parts.password)):
        yield "a default password: set one in redis.url that nobody can guess"
    key = mac_key or ""
    if cache and (len(key) < KEY_CHARACTERS or len(set(key)) < KEY_CHARACTERS // 4):
        yield f"a weak key: set redis.mac_key to {KEY_CHARACTERS} random characters or more"


def of_file_root(root: Path | None, *, private: Iterable[Path | None]) -> Iterator[str]:
    """Senders can read what lies in `root`: none of `private` may."""
    if root is None:
        return
    if not root.is_absolute():
        yield "a relative images.file_root: write the whole path"
    real = Path(os.path.realpath(root))
    if str(real) in SYSTEM_FOLDERS:
        yield f"images.file_root {real}: name a folder that holds photographs and nothing else"
    for path in private:
        if path is not None and Path(os.path.realpath(path)).is_relative_to(real):
            yield f"images.file_root {real}, for {path} lies in it and senders could read it: part the two"


def of_urls(urls: Mapping[str, str | None]) -> Iterator[str]:
    """`urls` by the name of their setting."""
    for name, url in urls.items():
        if url is not None and urlsplit(url).scheme != "https":
            yield f"plaintext {name}: write it as https://"


def _is_well_known(password: str) -> bool:
    return WELL_KNOWN.fullmatch(password.lower()) is not None
