"""The families of forgeries that no encoder was trained on and no calibration or threshold was fitted to.

Chosen by kind before the training, one each: of text, of material and of relief. What is measured on them tells of
forgeries that nobody has thought of.
"""

from __future__ import annotations

from demo.goods import FAMILIES

UNSEEN_FAMILIES: tuple[str, ...] = ("engraving_depth", "grain_scale", "serial_format")
SEEN_FAMILIES: tuple[str, ...] = tuple(sorted(set(FAMILIES) - set(UNSEEN_FAMILIES)))
