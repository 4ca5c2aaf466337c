"""What PostgreSQL is given as jsonb."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from worker.adapters.bulk import document


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, np.float32("nan"), np.float64("inf")])
def test_what_json_lacks_becomes_null(bad: float) -> None:
    written = document({"a": [1.5, bad], "b": {"c": bad}, "d": np.float32(0.5), "e": None})
    assert json.loads(written.dumps(written.obj)) == {"a": [1.5, None], "b": {"c": None}, "d": 0.5, "e": None}


def test_the_rest_is_written_as_it_is() -> None:
    value = {"text": "é", "whole": 3, "truth": True, "list": [], "number": np.float32(0.25)}
    written = document(value)
    assert json.loads(written.dumps(written.obj)) == value
