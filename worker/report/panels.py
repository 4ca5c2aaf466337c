"""One view of a job as the page shows it: photograph, maps, nearest reference, measures and reasons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from schemas.verdict import Reason, ViewResult
from worker.report.entry import Photographs
from worker.report.overlay import Overlay, attention_overlay, deviation_overlay
from worker.report.pictures import Picture, Pixels, centre_square, decode, is_square, picture
from worker.report.words import REASONS, UNUSABLE, humanised, number, percent, plain

PLATE_PX = 480
NOT_KEPT = "This photograph was not kept."
CROPPED = "The maps cover its centred square, which is what was compared."
NOT_SHOWABLE = "This photograph was kept, but it cannot be decoded."


@dataclass(frozen=True, slots=True, kw_only=True)
class Plate:
    """One frame of the page: a picture, or the words that stand in its place."""

    label: str
    picture: Picture | None = None
    overlay: Overlay | None = None
    caption: str = ""
    absent: str = ""
    alt: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    label: str
    value: str
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewPanel:
    name: str
    usable: bool
    trouble: str
    plates: tuple[Plate, ...]
    measures: tuple[Measure, ...]
    quality: tuple[Measure, ...]
    reasons: tuple[str, ...]
    sha256: str
    encoder: str


def view_panel(view: ViewResult, tenant: str, photographs: Photographs, reasons: Sequence[Reason]) -> ViewPanel:
    return ViewPanel(
        name=humanised(view.view),
        usable=view.usable,
        trouble=_trouble(view),
        plates=_plates(view, tenant, photographs),
        measures=_measures(view) if view.usable else (),
        quality=tuple(Measure(label=humanised(k), value=number(v)) for k, v in view.quality.items()),
        reasons=tuple(_sentence(reason) for reason in reasons),
        sha256=plain(view.sha256),
        encoder=plain(view.encoder or ""),
    )


def _trouble(view: ViewResult) -> str:
    if view.usable:
        return ""
    return UNUSABLE[view.unusable_code] if view.unusable_code else "This photograph could not be used."


def _sentence(reason: Reason) -> str:
    title = REASONS[reason.code]
    return f"{title}: {plain(reason.detail)}" if reason.detail else f"{title}."


def _plates(view: ViewResult, tenant: str, photographs: Photographs) -> tuple[Plate, ...]:
    data = photographs.view(tenant, view.sha256)
    pixels = decode(data, PLATE_PX) if data is not None else None
    shown = _photograph(view, data is not None, pixels)
    if not view.usable:
        return (shown,)
    return (shown, _reference(view, tenant, photographs), _attention(view, pixels), _deviation(view, pixels))


def _photograph(view: ViewResult, kept: bool, pixels: Pixels | None) -> Plate:
    name = humanised(view.view)
    if pixels is None:
        return Plate(label="Photograph", absent=NOT_SHOWABLE if kept else NOT_KEPT)
    caption = (
        "As sent." if is_square(pixels) else "As sent. The maps cover its centred square, which is what was compared."
    )
    return Plate(label="Photograph", picture=picture(pixels), caption=caption, alt=f"The {name} view, as sent")


def _reference(view: ViewResult, tenant: str, photographs: Photographs) -> Plate:
    label = "Nearest reference"
    if not view.references:
        return Plate(label=label, absent="No genuine reference of this SKU is enrolled for this view.")
    nearest = view.references[0]
    caption = f"Reference {plain(nearest.reference_id)}, similarity {number(nearest.similarity)}."
    data = photographs.reference(tenant, nearest.reference_id)
    pixels = decode(data, PLATE_PX) if data is not None else None
    if pixels is None:
        return Plate(label=label, absent="The photograph of this reference was not kept.", caption=caption)
    return Plate(label=label, picture=picture(pixels), caption=caption, alt="The nearest genuine reference")


def _attention(view: ViewResult, pixels: Pixels | None) -> Plate:
    label = "Attention map"
    if view.attention is None or pixels is None:
        return Plate(label=label, absent=_absent_map(view.attention is None, "The encoder gave no attention map."))
    overlay = attention_overlay(centre_square(pixels), view.attention)
    caption = f"What the encoder looked at. Outlined: half of all attention, {overlay.place}."
    return Plate(label=label, overlay=overlay, caption=caption, alt=f"Attention {overlay.place} of the view")


def _deviation(view: ViewResult, pixels: Pixels | None) -> Plate:
    label = "Deviation map"
    if view.deviation_map is None or pixels is None:
        return Plate(label=label, absent=_absent_map(view.deviation_map is None, "There was nothing to compare with."))
    overlay = deviation_overlay(centre_square(pixels), view.deviation_map)
    if not overlay.outline:
        return Plate(label=label, overlay=overlay, caption="Where it departs from its references: nothing stands out.")
    caption = f"Where it departs from its references. Outlined: four times their own spread or more, {overlay.place}."
    return Plate(label=label, overlay=overlay, caption=caption, alt=f"Deviation {overlay.place} of the view")


def _absent_map(no_map: bool, why: str) -> str:
    return why if no_map else "A map exists, but there is no photograph to lay it over."


def _measures(view: ViewResult) -> tuple[Measure, ...]:
    rows = [
        ("Similarity", number(view.similarity), "to the nearest genuine reference; 1 is identical"),
        ("Deviation", number(view.deviation, 2), "worst 5 % of places, in the references' own spread"),
        ("Genuine, by this view", percent(view.p_genuine), "calibrated probability of this view alone"),
        ("References compared", str(len(view.references)), "genuine, of this SKU and view"),
    ]
    if view.counterfeit_similarity is not None:
        close = number(view.counterfeit_similarity)
        rows.append(("Counterfeit similarity", close, "to the nearest known counterfeit of this SKU"))
    if view.other_sku is not None:
        rows.append(
            ("Other SKU", number(view.other_sku_similarity), f"to the nearest other SKU, {plain(view.other_sku)}")
        )
    if view.aligned is False:
        rows.append(("Alignment", "not found", "compared without lining it up with the references"))
    return tuple(Measure(label=label, value=value, hint=hint) for label, value, hint in rows)
