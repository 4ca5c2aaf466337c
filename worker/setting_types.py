"""What the groups of settings are made of: their model, and values that one variable holds as JSON."""

from __future__ import annotations

import json
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_settings import NoDecode


class Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _from_json(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise ValueError("""write it as JSON, such as '["a", "b"]' or '{"a": "b"}'""") from None


# Read here and not by pydantic-settings, whose complaint would name the group alone.
Json = (NoDecode, BeforeValidator(_from_json))
Names = Annotated[tuple[str, ...], *Json]
Table = Annotated[dict[str, str], *Json]
Delays = Annotated[tuple[Annotated[float, Field(gt=0)], ...], *Json]
