"""The evaluation's figures as a page of plots: from verdicts.json alone, so that the page never says more than that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from demo.evaluate.plan import HEADLINE
from worker.report.charts import Interval, interval, plot
from worker.report.measures import Grid, Intervals, Section, render_measures
from worker.report.words import humanised

Node = Mapping[str, Any]  # a piece of the JSON document, whose keys are those of demo.evaluate.measure


def render(figures: Node) -> str:
    """The page as HTML."""
    goods, head = figures["goods"], figures["roc"][f"{HEADLINE:g}"]
    errors = figures["coverage"][1]
    title = "What the verdicts are worth on held-out rendered goods"
    if goods["plan"] != "full" or goods["skus"] < 200:
        title = f"A trial on {goods['skus']} SKUs: too few to say how good the verdicts are"
    summary = [
        ("SKUs, none seen before", str(goods["skus"])),
        ("genuine and forged jobs", f"{goods['genuine_jobs']} and {goods['forged_jobs']}"),
        ("ROC area at strength 1, seen families", _told(head["seen_families"])),
        ("families kept from training", _told(head["unseen_families"]) if head["unseen_families"] else "none"),
        ("forgeries called authentic, seen families", _rate(errors["forged_called_authentic"])),
        ("genuine called counterfeit", _rate(errors["genuine_called_counterfeit"])),
        ("genuine inconclusive", _rate(errors["genuine_inconclusive"])),
    ]
    made = (_goods, _roc, _budgets, _families, _reliability, _pointing, _gate, _controls)
    return render_measures(title, summary, [section(figures) for section in made])


def _goods(figures: Node) -> Section:
    goods, ran = figures["goods"], figures["ran_on"]
    engines = "; ".join(f"{name} {told}" for name, told in sorted(ran["engines"].items()))
    return Section(
        title="What was judged",
        text=(
            "Everything here is rendered. The figures tell how far the demo and its encoders can be believed; real "
            "goods need encoders and a calibration of their own.",
            f"Seeds {goods['seeds'][0]} to {goods['seeds'][1]} are used for nothing else. {_unseen(goods)}",
            f"{goods['jobs_as_taken']} jobs as taken, {goods['jobs_with_a_bad_photograph']} with one bad photograph, "
            f"{goods['references_a_sku']} references a SKU and view. Engines: {engines}. "
            f"Calibration {ran['calibration']}.",
        ),
    )


def _unseen(goods: Node) -> str:
    kept = goods["families_kept_from_training"]
    if kept:
        return f"Kept from training and calibration: {', '.join(map(humanised, kept))}."
    return (
        "Every family of forgeries was in the encoders' training and in the calibration: no figure here tells of a "
        "kind of forgery that they have not seen."
    )


def _roc(figures: Node) -> Section:
    strengths = figures["roc"]
    curves = [(f"strength {name}", [tuple(point) for point in found["curve"]]) for name, found in strengths.items()]
    marks = [
        (float(name), found["seen_families"]["value"], found["seen_families"]["low"], found["seen_families"]["high"],
         f"strength {name}: {_told(found['seen_families'])}")
        for name, found in strengths.items()
    ]  # fmt: skip
    head = strengths[f"{HEADLINE:g}"]
    unseen = head["unseen_families"]
    if unseen:
        curves.append(("strength 1, families not seen", [tuple(p) for p in head["curve_of_unseen_families"]]))
    return Section(
        title="Telling genuine from forged jobs",
        text=(
            "Fused score of a job, its claimed SKU known. Curves are of the seen families unless they say otherwise. "
            "Intervals: 2,000 resamples of SKUs.",
        ),
        plots=(
            plot("ROC by strength", x_title="forged above the threshold", y_title="genuine above it", curves=curves,
                 diagonal=True),
            plot("Area over strength", x_title="strength of the forgery", y_title="ROC area",
                 curves=[("", [(x, y) for x, y, *_ in sorted(marks)])], marks=marks, bottom=0.5),
        ),
        intervals=(
            Intervals(title="ROC area at strength 1", what="area", beside="the target of 0.95", rows=(
                _area("all seen families", head["seen_families"], 0.95),
                *((_area("all families kept from training", unseen, 0.95),) if unseen else ()),
                *(_area(humanised(name), found, 0.95) for name, found in head["families"].items()),
                *(_area(f"category {name}", found, 0.95) for name, found in head["categories"].items()),
            )),
        ),
    )  # fmt: skip


def _budgets(figures: Node) -> Section:
    tables = []
    for found in figures["coverage"]:
        accept, reject = found["alpha_accept"], found["alpha_reject"]
        tables.append(
            Intervals(
                title=f"Budgets: forged called authentic {accept:.0%}, genuine called counterfeit {reject:.0%} "
                "(axis to 10 %)",
                beside="the budget",
                rows=tuple(
                    _share(f"{what}{where}", own[key], budget, of=0.1)
                    for what, key, budget in (
                        ("forged called authentic", "forged_called_authentic", accept),
                        ("genuine called counterfeit", "genuine_called_counterfeit", reject),
                    )
                    for where, own in [
                        ("", found),
                        *((f", {name}", part) for name, part in found["categories"].items()),
                    ]
                ),
            )
        )
        tables.append(
            Intervals(
                title="Abstention at these budgets",
                rows=(
                    _share("genuine inconclusive", found["genuine_inconclusive"]),
                    _share("forged inconclusive", found["forged_inconclusive"]),
                ),
            )
        )
        if found["unseen_families"]:
            tables.append(_without_a_promise(found["unseen_families"]))
    same = figures["replayed_verdicts"]
    return Section(
        title="Error rates beside their budgets",
        text=(
            "At strength 1, families that the calibration has seen. The worker ran with 5 % and 2 %; the other pairs "
            "are the same scores against the same calibration items. "
            f"The replay repeats {same['same']} of {same['n']} of the worker's verdicts.",
            "Intervals are Wilson's.",
        ),
        intervals=tuple(tables),
    )


def _without_a_promise(unseen: Node) -> Intervals:
    rows = (
        _share("called authentic", unseen["forged_called_authentic"]),
        _share("inconclusive", unseen["forged_inconclusive"]),
    )
    return Intervals(title="Families kept from training: no budget speaks of them", rows=rows)


def _families(figures: Node) -> Section:
    rows = tuple(
        (
            humanised(found["kind"]),
            "—" if found["strength"] is None else f"{found['strength']:g}",
            str(found["n"]),
            str(found["authentic"]),
            str(found["counterfeit"]),
            str(found["inconclusive"]),
            _rate(found["wrong"]),
            ", ".join(f"{humanised(code)} {count}" for code, count in found["inconclusive_because"].items()) or "—",
        )
        for found in figures["confusion"]
    )
    columns = ("truth", "strength", "jobs", "authentic", "counterfeit", "inconclusive", "wrong", "inconclusive because")
    return Section(title="What was said of each family", grids=(Grid(title="Verdicts", columns=columns, rows=rows),))


def _reliability(figures: Node) -> Section:
    marks = [
        (found["stated"], found["rate"], found["low"], found["high"], f"{found['hits']} of {found['n']}")
        for found in figures["reliability"]
    ]
    shown = plot("Reliability", x_title="stated probability of genuine", y_title="share that is genuine",
                 curves=[("", [(x, y) for x, y, *_ in marks])], marks=marks, diagonal=True)  # fmt: skip
    text = "As many genuine jobs as forged ones of seen families, as the declared prior says. Ideal is the dotted line."
    return Section(title="Whether the stated probabilities hold", text=(text,), plots=(shown,))


def _pointing(figures: Node) -> Section:
    found = figures["pointing"]
    groups = [("all local families", found["all"])]
    groups += [(humanised(name), own) for name, own in found["families"].items()]
    groups += [(f"view {name}", own) for name, own in found["views"].items()]
    groups += [(f"strength {name}", own) for name, own in found["strengths"].items()]
    rows = tuple(
        interval(label, own["value"], own["low"] or 0.0, own["high"] or 0.0, own["n"], beside=own["chance"])
        for label, own in groups
    )
    return Section(
        title="Where the deviation maps point",
        text=(
            "A hit is a peak in a cell that the forgery changed, or next to one. Where several cells share the peak, "
            "the share of them that lies there. Local families, the views that they show in.",
        ),
        intervals=(Intervals(title="Peak in the mask", beside="a random cell's chance", rows=rows),),
    )


def _gate(figures: Node) -> Section:
    found = figures["gate"]
    rows = tuple(
        (
            name,
            own["code"] or "none is made for it",
            "—" if own["noticed"] is None else _rate(own["noticed"]),
            _rate(own["inconclusive"]),
            _rate(own["genuine_called_counterfeit"]),
            _rate(own["forged_called_authentic"]),
        )
        for name, own in found["degraded"].items()
    )
    columns = ("one view", "reason that should say so", "says so", "inconclusive", "genuine called counterfeit",
               "forged called authentic")  # fmt: skip
    alarms = tuple(_share(humanised(code), own, of=0.1) for code, own in found["as_taken"]["photographs"].items())
    alarms += (_share("jobs that anything stopped", found["as_taken"]["jobs"], of=0.1),)
    return Section(
        title="Bad photographs",
        intervals=(Intervals(title="False alarms on genuine jobs as taken (axis to 10 %)", rows=alarms),),
        grids=(Grid(title="One required view of a job made bad", columns=columns, rows=rows),),
    )


def _controls(figures: Node) -> Section:
    found = figures["controls"]
    rows = (
        _area("logistic regression", found["logistic"], 0.55),
        _area("random forest", found["forest"], 0.55),
        _area("random forest, labels shuffled", found["forest_on_shuffled_labels"], 0.55),
        _area("an untrained encoder, similarity alone", found["untrained_encoder"], 0.55),
        _area("the worker's score, labels shuffled 1,000 times", found["labels_shuffled"], 0.55),
    )
    return Section(
        title="Controls",
        text=(
            f"The classifiers see {found['features']}, and no reference; five folds of SKUs. The untrained encoder's "
            f"score is a job's mean best cosine to its references, on {found['untrained_encoder']['skus']} SKUs.",
        ),
        intervals=(Intervals(title="ROC area", what="area", beside="the bound of 0.55", rows=rows),),
    )


def _area(label: str, found: Node, beside: float) -> Interval:
    return interval(label, found["value"], found["low"] or 0.0, found["high"] or 0.0, found["n"], beside=beside)


def _share(label: str, found: Node, beside: float | None = None, *, of: float = 1.0) -> Interval:
    return interval(label, found["rate"], found["low"], found["high"], found["n"], beside=beside, of=of)


def _told(found: Node) -> str:
    if found["value"] is None:
        return "unknown"
    return f"{found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f})"


def _rate(found: Node) -> str:
    if found["rate"] is None:
        return "—"
    return f"{found['rate']:.1%} ({found['low']:.1%} to {found['high']:.1%} of {found['n']})"
