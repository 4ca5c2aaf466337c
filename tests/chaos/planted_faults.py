"""All faults to plant in a clean observation."""

from __future__ import annotations

from tests.chaos.planted_answers import ANSWERS
from tests.chaos.planted_streams import STREAMS

PLANTED = (*ANSWERS, *STREAMS)
