"""The exhibit `inference-gaps`: what q loses by its family and by amortisation, from evaluations of kept weights."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

from nfstudy.core.declarations import Metric
from nfstudy.report.exhibits.base import CurveGroup, Drawing, Exhibit, cell_row, drawn_groups, remark, stamped
from nfstudy.report.plots.gaps import GapBars, draw_gaps
from nfstudy.report.statistics.estimates import CellResult, Estimate, Results, estimate
from nfstudy.report.tables import Entry, Row, Table, format_number
from nfstudy.runs.evaluations import Evaluation, EvaluationRequest, make_request, read_evaluations
from nfstudy.runs.metrics import KL

MAX_PANELS = 6
ENOUGH = 0.95
"""Of the images, so many must have converged, or the gaps of a cell are marked."""
NOT_EVALUATED = "not evaluated"
NAMES = ("approximation gap", "amortisation gap", "inference gap")
GAPS = ("approximation_gap", "amortisation_gap", "inference_gap")
CAPTION = (
    "Of {images} held-out images, in {unit}: the bounds L[q] of the amortised posterior and L[q*] of the best member "
    "of its family for each image alone, by fresh samples that the search has not seen. The search is over the "
    "image's mean, log-variance and flow parameters λ, from the amortised ones, by Adam until four rounds of {round} "
    "updates at falling rates each gained less than {tolerance} nats; weights of a flow that all images share, as in "
    "NICE, stay as they are. ln p(x) is by importance samples of q* (IS) or annealing from q* (AIS): the larger mean "
    "where their errors tell the two apart, else that with the smaller error. Approximation gap ln p(x) − L[q*], "
    "amortisation gap L[q*] − L[q], inference gap their sum (Cremer et al. 2018). Mean ± standard error over runs "
    "(number of runs). Asked for: {request}."
)
TRUST_CAPTION = (
    "How far the gaps can be trusted: which estimate of ln p(x) was taken, and by how many nats the two differ; "
    "standard errors of each gap over the images of one run, and over seeds, if its noise were drawn anew; the share "
    "of images whose search had ended by itself, and the mean number of its updates. Means over runs; in {unit}, but "
    "for the last two."
)
ROUND, TOLERANCE = 50, 0.003
"""As in `nfstudy.inference.models.local`, of which a test holds this."""
MARKED = f"† of fewer than {ENOUGH:.0%} of the images the posterior had converged: the approximation gap is too large."

Found = Mapping[str, Mapping[str, Evaluation]]
"""Cell's key -> run id -> its evaluation."""


def inference_gaps(results: Results) -> Exhibit:
    """List and draw the gaps that `evaluate --estimator local` has found; name the cells that have none."""
    title = "Inference gaps: approximation and amortisation"
    by_request = _read(results)
    finished = [cell for cell in results.cells if cell.state.finished]
    if not by_request:
        text = (
            f"No run has been evaluated for its inference gaps: `{_command(results, None)}` does."
            if finished
            else "No repetition has finished, so there is nothing to evaluate."
        )
        return Exhibit("inference-gaps", title, text)
    # Of several requests, such as with other numbers of samples, the one that most runs have.
    shown = max(by_request, key=lambda request: (_runs(by_request[request]), request.label))
    found = by_request[shown]
    rows = tuple(_row(cell, found.get(cell.cell.key, {}), results) for cell in results.cells)
    trust = tuple(_trust_row(cell, found.get(cell.cell.key, {})) for cell in results.cells)
    caption = CAPTION.format(
        images=_images(found), unit=results.unit, round=ROUND, tolerance=TOLERANCE, request=shown.label
    )
    if any(entry.marked for row in rows for entry in row.entries):
        caption += f" {MARKED}"
    headers = ("row", "L[q]", "L[q*]", "ln p(x)", *NAMES, "share amortised", "note")
    table = Table("inference-gaps", stamped(caption, results), headers, rows)
    errors = [f"{name.removesuffix(' gap')}, ± {of}" for name in NAMES for of in ("images", "seeds")]
    caption = stamped(TRUST_CAPTION.format(unit=results.unit), results)
    tables = (
        table,
        Table("inference-gaps-trust", caption, ("row", "ln p(x) by", *errors, "converged", "updates"), trust),
    )
    groups, more = drawn_groups(results)
    panels = [bars for group in groups if (bars := _bars(group, found))]
    drawings = []
    if panels:
        figure = draw_gaps(title, f"gap ({results.unit})", panels[:MAX_PANELS], results.stamp)
        note = "The two gaps of each flow length, and their sum: means and standard errors over repetitions."
        drawings.append(Drawing("inference-gaps", figure, stamped(note, results)))
    texts = [_missing(results, found, shown), more if len(groups) > MAX_PANELS else ""]
    others = [request.label for request in by_request if request != shown]
    if others:
        texts.append(f"Runs have other evaluations as well, which `evaluations` lists: {'; '.join(sorted(others))}.")
    run_ids = tuple(run_id for cell in found.values() for run_id in cell)
    return Exhibit("inference-gaps", title, " ".join(filter(None, texts)), tables, tuple(drawings), run_ids)


def _read(results: Results) -> dict[EvaluationRequest, dict[str, dict[str, Evaluation]]]:
    """Return request -> cell's key -> run id -> evaluation, of finished repetitions."""
    found: dict[EvaluationRequest, dict[str, dict[str, Evaluation]]] = {}
    for result in results.cells:
        finished = result.repetitions[result.repetitions["outcome"] == "finished"]
        texts = finished["evaluations"].fillna("") if "evaluations" in finished else [""] * len(finished)
        for run_id, text in zip(finished["run_id"], texts, strict=True):
            for each in read_evaluations(text, run_id):
                if each.request.estimator == "local" and all(name in each.numbers for name in GAPS):
                    found.setdefault(each.request, {}).setdefault(result.cell.key, {})[run_id] = each
    return found


def _runs(found: Found) -> int:
    return sum(map(len, found.values()))


def _images(found: Found) -> str:
    """Return of how many images the evaluations are."""
    counts = sorted({int(each.numbers.get("images", 0)) for cell in found.values() for each in cell.values()})
    return " or ".join(f"{count:,}" for count in counts)


def _command(results: Results, request: EvaluationRequest | None) -> str:
    """Return the command that evaluates what is missing, with what is not its default."""
    parts = [f"python -m nfstudy evaluate {results.study.study} --budget {results.budget} --estimator local"]
    if request:
        own = {name: getattr(request, name) for name in ("samples", "images", "temperatures", "updates", "seed")}
        usual = make_request("local", 1)
        parts += [f"--{name} {value}" for name, value in own.items() if value != getattr(usual, name)]
    return " ".join(parts)


def _missing(results: Results, found: Found, request: EvaluationRequest) -> str:
    """Say which finished runs have no such evaluation, and what makes it; empty where all have."""
    counts = Counter[str]()
    for cell in results.cells:
        counts["finished"] += len(cell.state.finished)
        counts["evaluated"] += len(found.get(cell.cell.key, {}))
    missing = counts["finished"] - counts["evaluated"]
    if missing <= 0:
        return ""
    return (
        f"{missing} of {counts['finished']} finished runs have not been evaluated: `{_command(results, request)}` does."
    )


def _row(result: CellResult, runs: Mapping[str, Evaluation], results: Results) -> Row:
    def number(label: str, name: str, marked: bool = False, decimals: int = 2, sign: int = 1) -> Entry:
        values = {run_id: sign * each.numbers[name] for run_id, each in runs.items() if name in each.numbers}
        found = estimate(values)
        quantity: Metric = replace(KL, label=label, unit=results.unit, mark="", decimals=decimals)
        why = result.note if not result.state.finished else NOT_EVALUATED
        note = "" if found.n else why or NOT_EVALUATED
        return Entry(quantity=quantity, estimate=found, note=note, run_ids=found.run_ids, marked=marked)

    shares = [each.numbers.get("converged", math.nan) for each in runs.values()]
    unsure = any(share < ENOUGH for share in shares)
    entries = [
        number("L[q]", "elbo"),
        number("L[q*]", "elbo_local", unsure),
        number("ln p(x)", "nll", sign=-1),
        *(number(label, name, unsure and name == GAPS[0]) for label, name in zip(NAMES, GAPS, strict=True)),
        _amortised(runs),
    ]
    return cell_row(result, [*entries, remark(entries)])


def _trust_row(result: CellResult, runs: Mapping[str, Evaluation]) -> Row:
    def text(name: str, decimals: int, scale: float = 1.0, unit: str = "") -> Entry:
        values = [each.numbers[name] for each in runs.values() if name in each.numbers]
        return Entry(f"{format_number(scale * sum(values) / len(values), decimals)}{unit}" if values else "–")

    errors = [text(f"{name}_{of}_se", decimals) for name in GAPS for of, decimals in (("image", 2), ("seed", 3))]
    shown = (Entry(_chosen(runs.values())), *errors, text("converged", 0, 100, " %"), text("updates", 0))
    return cell_row(result, shown)


def _chosen(evaluations: Iterable[Evaluation]) -> str:
    """Return which estimator of ln p(x) was taken, with how many nats lie between the two means."""
    shown = []
    for each in evaluations:
        numbers = each.numbers
        if {"annealed", "log_p_importance", "log_p_ais"} <= numbers.keys():
            shown.append((numbers["annealed"], numbers["log_p_ais"] - numbers["log_p_importance"]))
    if not shown:
        return "–"
    annealed = sum(chosen > 0 for chosen, _ in shown)
    name = "AIS" if annealed == len(shown) else "IS" if not annealed else f"AIS in {annealed} of {len(shown)}"
    return f"{name}; AIS − IS {format_number(sum(difference for _, difference in shown) / len(shown), 3, signed=True)}"


def _amortised(runs: Mapping[str, Evaluation]) -> Entry:
    """Return the share of the inference gap that amortisation makes."""
    total = sum(each.numbers["inference_gap"] for each in runs.values())
    part = sum(each.numbers["amortisation_gap"] for each in runs.values())
    return Entry(f"{100 * part / total:.0f} %" if total > 0 else "–", run_ids=())


def _bars(group: CurveGroup, found: Found) -> GapBars | None:
    """Return the bars of the cells on a curve that have been evaluated; None where none has."""
    columns: list[tuple[int, list[Estimate]]] = []
    for cell in group.cells:
        if runs := found.get(cell.cell.key):
            own = [estimate({run_id: each.numbers[name] for run_id, each in runs.items()}) for name in GAPS]
            columns.append((cell.label.length, own))
    if not columns:
        return None
    parts = [[(own[place].mean or 0.0, own[place].se) for _, own in columns] for place in range(len(GAPS))]
    return GapBars(group.label.curve, [length for length, _ in columns], *parts)
