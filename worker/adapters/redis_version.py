"""Asks a Redis what it is, for `assay doctor`."""

from __future__ import annotations

from typing import Any

import redis

from worker.errors import ServiceUnavailable


def redis_version(url: str, *, timeout_s: float) -> str:
    """The server's version. Raises ServiceUnavailable."""
    try:
        with redis.Redis.from_url(url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s) as client:
            told: Any = client.info("server")
            return str(told["redis_version"])
    except (redis.RedisError, OSError, ValueError, KeyError) as error:
        raise ServiceUnavailable("redis", f"{type(error).__name__}: {error}") from error
