"""Senders' schemas from a Confluent Schema Registry, by id. Needs the extra `registry`."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from worker.errors import ConfigurationError, ServiceUnavailable

UNKNOWN_SCHEMA = 40403
MAX_UNKNOWN = 1000


class RegistryLookup:
    """Implements schemas.framing.SchemaLookup. Known schemas are kept for ever: an id never changes its meaning.

    Unknown ids are remembered too, up to a bound, so that a sender of made-up ids does not stall intake. An id that is
    registered later is found after `forget_unknown`.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._unknown: OrderedDict[int, None] = OrderedDict()

    def schema(self, schema_id: int) -> str | None:
        """The schema as JSON text; None where the registry has none, or not Avro. Raises ServiceUnavailable."""
        if schema_id in self._unknown:
            return None
        text = self._asked(schema_id)
        if text is None:
            self._unknown[schema_id] = None
            if len(self._unknown) > MAX_UNKNOWN:
                self._unknown.popitem(last=False)
        return text

    def forget_unknown(self) -> None:
        self._unknown.clear()

    def _asked(self, schema_id: int) -> str | None:
        try:
            schema = self._client.get_schema(schema_id)  # the client caches what it found
        except Exception as error:  # the client's transport errors have no common root
            if getattr(error, "error_code", None) == UNKNOWN_SCHEMA:
                return None
            raise ServiceUnavailable("the Schema Registry", f"{type(error).__name__} for schema {schema_id}") from error
        return str(schema.schema_str) if schema.schema_type == "AVRO" else None


def registry_lookup(url: str, *, user_info: str | None = None, timeout_s: float = 2.0) -> RegistryLookup:
    """A lookup at `url`; `user_info` is `user:password`. Raises ConfigurationError without the extra."""
    try:
        from confluent_kafka.schema_registry import SchemaRegistryClient
    except ImportError as error:
        raise ConfigurationError("a Schema Registry needs its client: install assay-worker[registry]") from error
    settings: dict[str, object] = {"url": url, "timeout": timeout_s, "max.retries": 1}
    if user_info:
        settings["basic.auth.user.info"] = user_info
    return RegistryLookup(SchemaRegistryClient(settings))
