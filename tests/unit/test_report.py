"""The report's pages: they say what must stand on them, and a hostile job cannot write into them."""

from __future__ import annotations

import hashlib
import io
import re
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from schemas.codes import ErrorCode, ReasonCode, Verdict, ViewCode
from schemas.verdict import EngineUse, Grid, Provenance, Reason, ReferenceMatch, Timings, VerdictEvent, ViewResult
from schemas.verdict import result_id as make_result_id
from worker.report import overlay, words
from worker.report.entry import DeadEnd, ReportEntry
from worker.report.index import render_index
from worker.report.page import render_page
from worker.report.pictures import decode

HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }}\u202egnp"


@dataclass(frozen=True)
class Kept:
    """Photographs in memory."""

    views: dict[str, bytes] = field(default_factory=dict)
    references: dict[str, bytes] = field(default_factory=dict)

    def view(self, tenant: str, sha256: str) -> bytes | None:
        return self.views.get(sha256)

    def reference(self, tenant: str, reference_id: str) -> bytes | None:
        return self.references.get(reference_id)


def jpeg(shade: int = 120, size: tuple[int, int] = (64, 48)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (shade, 90, 60)).save(buffer, "JPEG")
    return buffer.getvalue()


def event_of(text: str = "BAG-1", verdict: Verdict = Verdict.COUNTERFEIT) -> VerdictEvent:
    grid = Grid(height=4, width=4, cells=bytes([255, *([0] * 15)]))
    logo = ViewResult(
        view=text,
        sha256=hashlib.sha256(jpeg()).hexdigest(),
        usable=True,
        similarity=0.9,
        deviation=2.5,
        p_genuine=0.1,
        other_sku=text,
        other_sku_similarity=0.8,
        quality={text: 0.5},
        references=(ReferenceMatch(reference_id="ref-1", similarity=0.9),),
        attention=grid,
        deviation_map=grid,
    )
    lining = ViewResult(view="lining", sha256="0" * 64, usable=False, unusable_code=ViewCode.TRUNCATED)
    engine = EngineUse(
        name="resnet18", digest="sha256:abcd", backend="openvino", precision="int8", embedding_space="space"
    )
    return VerdictEvent(
        result_id=make_result_id("t", "j", 1),
        revision=1,
        job_id=text,
        tenant=text,
        sku=text,
        category=text,
        verdict=verdict,
        confidence=None if verdict is Verdict.INCONCLUSIVE else 0.973,
        p_genuine=0.027,
        reasons=(Reason(code=ReasonCode.DEVIATES_FROM_REFERENCES, view=text, detail=text),),
        views=(logo, lining),
        missing_views=("serial",),
        nearest_skus=(text,),
        provenance=Provenance(
            engines=(engine,), degraded=False, gallery_revision=12, calibration_id="cal-7", build="0.1.0+abc"
        ),
        timings=Timings(fetch_ms=1, embed_ms=2, judge_ms=3, queue_ms=4, total_ms=412),
        judged_at=datetime(2026, 11, 21, 12, 0, tzinfo=UTC),
        payload_digest="5a" * 32,
    )


def entry_of(event: VerdictEvent, photographs: Kept | None = None) -> ReportEntry:
    kept = photographs or Kept(views={event.views[0].sha256: jpeg()}, references={"ref-1": jpeg(200)})
    return ReportEntry(outcome=event, photographs=kept, calibration_n=312)


class Tags(HTMLParser):
    """Every tag with its attributes, and the text between."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data + " "


def test_a_hostile_job_writes_nothing_but_text() -> None:
    friendly, hostile = Tags(render_page(entry_of(event_of()))), Tags(render_page(entry_of(event_of(HOSTILE))))
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in friendly.tags]
    assert not any(name.startswith("on") for _, attributes in hostile.tags for name in attributes)
    assert "<script>alert(1)</script>" in hostile.text
    assert "{{ 7*7 }}" in hostile.text
    assert "\u202e" not in hostile.text


def test_the_page_names_no_address_outside_itself() -> None:
    page = render_page(entry_of(event_of()))
    around = re.sub(r"data:image/jpeg;base64,[A-Za-z0-9+/=]+", "", page)
    assert re.search(r"(?i)//[a-z]|@import|url\(", around) is None
    sources = [a["src"] or "" for tag, a in Tags(page).tags if tag == "img"]
    assert len(sources) == 4
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert "default-src 'none'" in page


def test_the_page_says_what_it_must() -> None:
    event = event_of()
    text = " ".join(Tags(render_page(entry_of(event))).text.split())
    for stated in (
        words.STANDING,
        "97.3 %",
        "1 of 3 views judged",
        "missing: serial",
        "unusable: lining",
        "Departs from the genuine references",
        words.UNUSABLE[ViewCode.TRUNCATED],
        "similarity 0.900",
        str(event.result_id),
        event.views[0].sha256,
        "sha256:abcd",
        "int8",
        "openvino",
        "cal-7 (n = 312)",
        "2026-11-21 12:00:00 UTC",
        "0.1.0+abc",
        "Gallery revision 12",
    ):
        assert stated in text


def test_an_inconclusive_verdict_states_no_confidence() -> None:
    text = " ".join(Tags(render_page(entry_of(event_of(verdict=Verdict.INCONCLUSIVE)))).text.split())
    assert "Confidence none stated" in text


def test_a_photograph_that_was_not_kept_says_so() -> None:
    page = render_page(entry_of(event_of(), Kept()))
    assert "This photograph was not kept." in page
    assert "The photograph of this reference was not kept." in page
    assert "<img" not in page


def test_kept_bytes_that_do_not_decode_are_said_to_be_so() -> None:
    event = event_of()
    page = render_page(entry_of(event, Kept(views={event.views[0].sha256: b"\xff\xd8 not an image"})))
    assert "cannot be decoded" in page
    assert decode(jpeg()[:200], 64) is None


def test_a_dead_letter_has_no_page() -> None:
    dead = DeadEnd(job_id="j", tenant="t", sku="s", code=ErrorCode.NO_USABLE_VIEW, detail="")
    with pytest.raises(ValueError, match="no_usable_view"):
        render_page(ReportEntry(outcome=dead))


def test_the_index_holds_every_job_beside_its_truth(tmp_path: Path) -> None:
    dead = DeadEnd(job_id="d", tenant="t", sku=HOSTILE, code=ErrorCode.NO_USABLE_VIEW, detail=HOSTILE)
    entries = [
        replace(entry_of(event_of(verdict=Verdict.AUTHENTIC)), truth="genuine", note=HOSTILE),
        replace(entry_of(event_of(HOSTILE, Verdict.AUTHENTIC)), truth="counterfeit"),
        replace(entry_of(event_of(verdict=Verdict.INCONCLUSIVE)), truth="counterfeit"),
        ReportEntry(outcome=dead),
    ]
    index = render_index(entries, tmp_path / "demo-report", summary=[("Accuracy", "1 of 2")])
    page = index.read_text()
    tags = Tags(page)
    links = [a["href"] or "" for tag, a in tags.tags if tag == "a"]
    assert links == ["jobs/0001.html", "jobs/0002.html", "jobs/0003.html"]
    assert all((index.parent / link).is_file() for link in links)
    assert [mark for mark in ("right", "wrong", "abstained") if f'class="mark {mark}"' in page] == [
        "right",
        "wrong",
        "abstained",
    ]
    assert "script" not in {tag for tag, _ in tags.tags}
    assert "no usable view" in tags.text
    assert "1 of 2" in tags.text


def test_half_of_all_is_the_fewest_cells_that_hold_half() -> None:
    values = np.array([[10, 1], [6, 3]], np.uint8)
    assert overlay.half_of_all(values).tolist() == [[True, False], [False, False]]
    assert not overlay.half_of_all(np.zeros((2, 2), np.uint8)).any()


def test_the_outline_goes_once_around_a_cell() -> None:
    mask = np.zeros((3, 3), np.bool_)
    mask[1, 2] = True
    assert sorted(re.findall(r"M[^M]+", overlay.outline(mask))) == ["M2 1h1", "M2 1v1", "M2 2h1", "M3 1v1"]
    assert overlay.place(mask) == "at the middle right"
    assert overlay.place(np.zeros((3, 3), np.bool_)) == "nowhere in particular"


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "EPS"])
def test_a_report_decodes_no_kind_that_a_worker_would_not(kind: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, kind)
    assert decode(buffer.getvalue(), 64) is None


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "not stated"), (0.5, "50.0 %"), (0.99999, "> 99.9 %"), (0.00001, "< 0.1 %")]
)
def test_no_probability_is_rounded_to_certainty(value: float | None, shown: str) -> None:
    assert words.percent(value) == shown


def test_every_code_has_words() -> None:
    assert set(words.REASONS) == set(ReasonCode)
    assert set(words.UNUSABLE) == set(ViewCode)
    assert set(words.FINDINGS) == set(Verdict)
