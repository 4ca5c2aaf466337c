"""Plain words for the contract's codes, and for numbers. Nothing here is stronger than "consistent with"."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from schemas.codes import ReasonCode, Verdict, ViewCode

STANDING = "consistent with the enrolled references; never proof."
LONGEST_TEXT = 400
# Characters that reorder or hide text: a job's fields must not be able to rewrite the page around them.
_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def plain(text: object) -> str:
    """`text` without control, bidirectional or unassigned characters, cut to a length that a page can hold."""
    seen = "".join(_visible(c) for c in str(text)[: LONGEST_TEXT + 1])
    return seen if len(seen) <= LONGEST_TEXT else seen[:LONGEST_TEXT] + "…"


def _visible(character: str) -> str:
    if character.isspace():
        return " "
    return "\ufffd" if unicodedata.category(character) in _UNSEEN else character


def humanised(name: str) -> str:
    """`min_sharpness` to `min sharpness`."""
    return plain(name).replace("_", " ")


def percent(value: float | None, digits: int = 1) -> str:
    """A probability for a reader: 97.3 %. Never rounded up to certainty."""
    if value is None:
        return "not stated"
    shown = f"{100 * value:.{digits}f}"
    if float(shown) >= 100:
        return f"> {100 - 10**-digits:.{digits}f} %"
    if float(shown) <= 0:
        return f"< {10**-digits:.{digits}f} %"
    return f"{shown} %"


def number(value: float | None, digits: int = 3) -> str:
    return "—" if value is None else f"{value:.{digits}f}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A verdict in words."""

    headline: str
    meaning: str


FINDINGS = {
    Verdict.AUTHENTIC: Finding(
        headline="Consistent with the enrolled references",
        meaning="The photographs look like the genuine references of this SKU, within the spread those show.",
    ),
    Verdict.COUNTERFEIT: Finding(
        headline="Not consistent with the enrolled references",
        meaning="The photographs depart from the genuine references of this SKU by more than those vary.",
    ),
    Verdict.INCONCLUSIVE: Finding(
        headline="Inconclusive",
        meaning="The photographs do not settle it either way. The reasons below say why, and what would help.",
    ),
}

REASONS = {
    ReasonCode.CONSISTENT_WITH_REFERENCES: "Looks like the genuine references",
    ReasonCode.DEVIATES_FROM_REFERENCES: "Departs from the genuine references",
    ReasonCode.MATCHES_KNOWN_COUNTERFEIT: "Close to a known counterfeit",
    ReasonCode.RESEMBLES_OTHER_SKU: "Closer to another SKU than to the claimed one",
    ReasonCode.VIEWS_DISAGREE: "The views disagree with each other",
    ReasonCode.CRITICAL_VIEW_VETO: "A view that must fit does not",
    ReasonCode.AMBIGUOUS: "Could be either: the score lies where genuine and counterfeit items overlap",
    ReasonCode.UNLIKE_ANYTHING_KNOWN: "Unlike the genuine and the counterfeit items seen so far",
    ReasonCode.NO_REFERENCES: "No references of this SKU are enrolled",
    ReasonCode.TOO_FEW_REFERENCES: "Too few references of this SKU are enrolled",
    ReasonCode.NO_CALIBRATION: "No score calibration exists for the engines that ran",
    ReasonCode.TOO_FEW_CALIBRATION_SAMPLES: "The score calibration rests on too few items",
    ReasonCode.NO_CATEGORY_PROFILE: "The category has no profile",
    ReasonCode.MISSING_REQUIRED_VIEW: "A required view is missing",
    ReasonCode.SCORE_NEAR_THRESHOLD: "The score is too near a threshold to rely on",
    ReasonCode.UNUSABLE_SCORE: "No score could be computed",
    ReasonCode.VIEW_UNUSABLE: "A photograph could not be used",
    ReasonCode.VIEW_BLURRED: "A photograph is blurred",
    ReasonCode.VIEW_BADLY_EXPOSED: "A photograph is too dark or too bright",
    ReasonCode.VIEW_GLARE: "A photograph has glare",
    ReasonCode.VIEW_WRONG_ROLE: "A photograph does not show what its view asks for",
    ReasonCode.VIEW_MISFRAMED: "A photograph shows another section than the references do",
    ReasonCode.VIEW_OF_OTHER_ITEM: "A photograph shows another item than the one that is claimed",
    ReasonCode.DUPLICATE_PHOTOGRAPH: "One photograph was sent for two views",
    ReasonCode.IMAGE_REUSED: "A photograph was seen before, as a reference or with another item",
}

ADVICE = {
    ReasonCode.AMBIGUOUS: "Have a person look at it; more references and labelled items narrow this gap.",
    ReasonCode.UNLIKE_ANYTHING_KNOWN: "Have a person look at it; it may be a variant that is not enrolled.",
    ReasonCode.NO_REFERENCES: "Enrol genuine references of this SKU, or correct the SKU.",
    ReasonCode.TOO_FEW_REFERENCES: "Enrol more genuine references of this SKU.",
    ReasonCode.NO_CALIBRATION: "Run assay calibrate with labelled items for these engines.",
    ReasonCode.TOO_FEW_CALIBRATION_SAMPLES: "Add labelled items and run assay calibrate again.",
    ReasonCode.NO_CATEGORY_PROFILE: "Put a profile for this category with assay enroll --profiles.",
    ReasonCode.MISSING_REQUIRED_VIEW: "Take this view and submit the item again.",
    ReasonCode.VIEW_UNUSABLE: "Send this photograph again.",
    ReasonCode.VIEW_BLURRED: "Take it again, sharp and without motion.",
    ReasonCode.VIEW_BADLY_EXPOSED: "Take it again in even light.",
    ReasonCode.VIEW_GLARE: "Take it again without direct light or flash.",
    ReasonCode.VIEW_WRONG_ROLE: "Take the view again, or correct its name.",
    ReasonCode.VIEW_OF_OTHER_ITEM: "Take this view of the item itself, look for exchanged parts, or correct the SKU.",
    ReasonCode.VIEW_MISFRAMED: "Take all of the part, from as near as the references were, or correct the view's name.",
    ReasonCode.DUPLICATE_PHOTOGRAPH: "Take a photograph of its own for each view.",
    ReasonCode.IMAGE_REUSED: "Ask for new photographs of the item itself.",
}

UNUSABLE = {
    ViewCode.UNDECODABLE: "The file is not an image that can be decoded.",
    ViewCode.TRUNCATED: "The file ends before the image does.",
    ViewCode.DIGEST_MISMATCH: "The bytes are not those whose digest the job states.",
    ViewCode.TOO_LARGE: "The file is larger than the limit.",
    ViewCode.TOO_MANY_PIXELS: "The image has more pixels than the limit.",
    ViewCode.TYPE_NOT_ALLOWED: "The file is of a type that is not accepted.",
    ViewCode.URI_NOT_ALLOWED: "Its address is not among the allowed ones.",
    ViewCode.NOT_FOUND: "Nothing was found at its address.",
    ViewCode.FORBIDDEN: "Its store refused to give it out.",
    ViewCode.UNREACHABLE: "Its store could not be reached.",
    ViewCode.DECODER_CRASHED: "The image decoder failed on it.",
    ViewCode.ENCODER_FAILED: "The encoder could not describe it.",
    ViewCode.UNKNOWN_VIEW: "The category has no view of this name.",
    ViewCode.TOO_SMALL: "The image is too small to show the detail that is compared.",
}
