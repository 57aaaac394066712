"""The exhibit `code-lengths`: numbers of evaluations by hand, and what it says where there are none."""

import json

import pytest
from support.fake_runs import run_all, study

from nfstudy.core.errors import UserError
from nfstudy.report.build import make_exhibit
from nfstudy.report.statistics.estimates import gather_results
from nfstudy.runs.evaluations import Evaluation, make_request

SMALL = """
study: small
title: Small
data: {name: digits, binarisation: categories}
grid: {flow.family: [planar], flow.length: [0, 10]}
repetitions: 2
budgets: {full: {}}
exhibits: [summary, code-lengths, evaluations]
"""
NUMBERS = {
    "elbo": -100.0,
    "nll": 98.0,
    "images": 50.0,
    "pixels": 64.0,
    "bits_per_pixel": 2.3,
    "bits_per_pixel_net": 2.222,
    "bits_per_pixel_free_energy": 2.2,
    "bits_per_pixel_drawn": 2.2215,
    "initial_bits": 224.0,
}


def evaluation(estimator, numbers, **given):
    request = make_request(estimator, 1, **given)
    return Evaluation(
        request=request, numbers=numbers, version="0", commit="a" * 40, dirty=False, device="cpu", ended="2026-01-01"
    ).model_dump_json()


def exhibits_of(runs, spec):
    results = gather_results(spec.under("full"), runs)
    return {name: make_exhibit(name, results) for name in spec.exhibits}


def test_a_row_by_hand():
    spec = study(SMALL)
    runs = run_all(spec, "full")
    for record in runs.records:
        further = 0.002 if record["index"] == 2 else 0.0
        made = {**NUMBERS, "bits_per_pixel": 2.3 + further, "elbo": -100 - further * 1000}
        others = evaluation("importance", {"nll": 98.0, "images": 50.0}, images=50)
        if record["flow.length"] == 0:
            record["evaluations"] = json.dumps([evaluation("bits-back", made, images=50), others])
        else:
            record["evaluations"] = json.dumps([others])
    shown = exhibits_of(runs, spec)["code-lengths"]
    (table,) = shown.tables
    (row,) = table.rows
    assert [entry.display for entry in row.entries] == [
        "50",
        "101.00 ± 1.00 (2)",
        "2.2000 ± 0.0000 (2)",
        "2.3010 ± 0.0010 (2)",
        "2.2220 ± 0.0000 (2)",
        "1.00 ± 0.00 (2)",  # 2.222 / 2.2
        "0.023 ± 0.000 (2)",  # 2.222 / 2.2215
        "224 ± 0 (2)",
        "200 samples, seed 1",
    ]
    assert "nats per image" in table.caption
    assert set(row.entries[1].run_ids) == {r["run_id"] for r in runs.records if r["flow.length"] == 0}


@pytest.mark.parametrize("change", [{"images": "NaN"}, {"bits_per_pixel": "Infinity"}, {"bits_per_pixel_drawn": None}])
def test_an_evaluation_that_was_edited_is_told_with_its_run(change):
    spec = study(SMALL)
    runs = run_all(spec, "full")
    edited = json.loads(evaluation("bits-back", NUMBERS))
    ((name, value),) = change.items()
    if value is None:
        del edited["numbers"][name]
    else:
        edited["numbers"][name] = float(value)
    runs.records[0]["evaluations"] = json.dumps([json.dumps(edited)])
    with pytest.raises(UserError, match=rf"run [0-9a-f]{{32}}: tag nfstudy\.evaluation\.\*: .*{name}.*; expected: as"):
        exhibits_of(runs, spec)


@pytest.mark.parametrize("length", [0.0, -0.1])
def test_no_code_is_longer_by_a_share_of_what_is_no_length(length):
    spec = study(SMALL)
    runs = run_all(spec, "full")
    made = evaluation("bits-back", {**NUMBERS, "bits_per_pixel_drawn": length, "bits_per_pixel_free_energy": length})
    for record in runs.records:
        record["evaluations"] = json.dumps([made])
    (table,) = exhibits_of(runs, spec)["code-lengths"].tables
    shares = [table.columns.index(name) - 1 for name in ("beside F (%)", "overhead (%)")]
    assert {row.entries[place].display for row in table.rows for place in shares} == {"F is no length"}


def test_without_codes_it_says_how_to_make_them():
    spec = study(SMALL)
    shown = exhibits_of(run_all(spec, "full"), spec)["code-lengths"]
    assert shown.tables == ()
    assert "`python -m nfstudy evaluate small --budget full --estimator bits-back`" in shown.text


def test_the_summary_has_bits_per_pixel_where_they_were_logged():
    spec = study(SMALL)
    runs = run_all(spec, "full")
    (before,) = exhibits_of(runs, spec)["summary"].tables
    assert "bits per pixel" not in before.columns
    for record in runs.records:
        record["test/bits_per_pixel"] = 2.25
    (after,) = exhibits_of(runs, spec)["summary"].tables
    place = after.columns.index("bits per pixel") - 1
    assert {row.entries[place].display for row in after.rows} == {"2.2500 ± 0.0000 (2)"}
    assert "F / (N ln 2)" in after.caption
