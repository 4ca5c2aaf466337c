"""Typed access to a decoded record, Avro or JSON. Every wrong type is an InvalidMessage that names the field."""

from __future__ import annotations

import binascii
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from schemas.canonical import parse_instant
from schemas.invalid import InvalidMessage, malformed, shown


class Fields:
    """One record. `path` is the prefix of its fields in messages, such as `views[2].`."""

    __slots__ = ("path", "record")

    def __init__(self, record: object, path: str = "") -> None:
        if not isinstance(record, Mapping):
            raise malformed(f"{path.rstrip('.') or 'the payload'} is {shown(record)}: it must be an object")
        self.record: Mapping[object, object] = record
        self.path = path

    def wrong(self, name: str, expected: str) -> InvalidMessage:
        if name not in self.record:
            return malformed(f"{self.path}{name} is missing: it must be {expected}")
        return malformed(f"{self.path}{name} is {shown(self.record[name])}: it must be {expected}")

    def absent(self, name: str) -> bool:
        return self.record.get(name) is None

    def text(self, name: str) -> str:
        value = self.record.get(name)
        if not isinstance(value, str):
            raise self.wrong(name, "a string")
        return value

    def optional_text(self, name: str) -> str | None:
        return None if self.absent(name) else self.text(name)

    def integer(self, name: str) -> int:
        value = self.record.get(name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.wrong(name, "an integer")
        return value

    def optional_integer(self, name: str) -> int | None:
        return None if self.absent(name) else self.integer(name)

    def number(self, name: str) -> float:
        return self._number(name, self.record.get(name))

    def optional_number(self, name: str) -> float | None:
        return None if self.absent(name) else self.number(name)

    def _number(self, name: str, value: object) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise self.wrong(name, "a number")
        try:
            return float(value)
        except OverflowError as error:
            raise self.wrong(name, "a number in double precision") from error

    def truth(self, name: str) -> bool:
        value = self.record.get(name)
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def optional_truth(self, name: str) -> bool | None:
        return None if self.absent(name) else self.truth(name)

    def instant(self, name: str) -> datetime:
        """An aware UTC moment: Avro's timestamp or RFC 3339 text."""
        value = self.record.get(name)
        if isinstance(value, datetime):
            return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
        return parse_instant(self.text(name), name=f"{self.path}{name}")

    def optional_instant(self, name: str) -> datetime | None:
        return None if self.absent(name) else self.instant(name)

    def binary(self, name: str) -> bytes:
        """Bytes, or base64 text of the standard alphabet with its padding."""
        value = self.record.get(name)
        if isinstance(value, bytes):
            return value
        if not isinstance(value, str):
            raise self.wrong(name, "base64 text")
        try:
            return binascii.a2b_base64(value, strict_mode=True)
        except ValueError as error:
            raise self.wrong(name, "base64 of the standard alphabet with its padding") from error

    def items(self, name: str) -> Sequence[object]:
        value = self.record.get(name)
        if not isinstance(value, list):
            raise self.wrong(name, "an array")
        return value

    def records(self, name: str) -> list[Fields]:
        return [Fields(item, f"{self.path}{name}[{index}].") for index, item in enumerate(self.items(name))]

    def record_at(self, name: str) -> Fields:
        if not isinstance(self.record.get(name), Mapping):
            raise self.wrong(name, "an object")
        return Fields(self.record[name], f"{self.path}{name}.")

    def optional_record(self, name: str) -> Fields | None:
        return None if self.absent(name) else self.record_at(name)

    def texts(self, name: str) -> tuple[str, ...]:
        values = self.items(name)
        strings = tuple(value for value in values if isinstance(value, str))
        if len(strings) != len(values):
            raise self.wrong(name, "an array of strings")
        return strings

    def text_map(self, name: str) -> dict[str, str]:
        if self.absent(name):
            return {}
        record = self.record_at(name)
        return {key: record.text(key) for key in record.keys_as_text()}

    def number_map(self, name: str) -> dict[str, float]:
        record = self.record_at(name)
        return {key: record.number(key) for key in record.keys_as_text()}

    def keys_as_text(self) -> list[str]:
        keys = [key for key in self.record if isinstance(key, str)]
        if len(keys) != len(self.record):
            raise malformed(f"{self.path.rstrip('.')} has a name that is no string")
        return keys
