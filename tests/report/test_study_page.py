"""The report: exhibits beside the paper's numbers, refusals, escaping, stable bytes, and what is left in its folder."""

import csv
import hashlib
import io
import json
import math
import re

import pytest
from support.fake_runs import FakeRuns, run_all, study

from nfstudy.core import registry
from nfstudy.core.declarations import load_function
from nfstudy.core.errors import ReportError, SpecError
from nfstudy.papers.rezende2015 import REZENDE2015
from nfstudy.papers.rezende2015.facts import FACTS
from nfstudy.papers.rezende2015.published import FIGURE_4, TABLE_2
from nfstudy.papers.rezende2015.stated import why_not_comparable
from nfstudy.report.build import build_report, make_exhibit
from nfstudy.report.exhibits.base import SHORT_ID, curve_groups
from nfstudy.report.exhibits.general import learning_curves, samples
from nfstudy.report.pages.study_page import Page
from nfstudy.report.statistics.estimates import gather_results
from nfstudy.report.tables import to_csv
from nfstudy.runs.consistency import OF_PLUGINS
from nfstudy.study.cells import Trial

SMALL = """
study: small
title: Small
data: {name: mnist, binarisation: static}
grid: {flow.family: [planar, nice-perm], flow.length: [0, 10]}
repetitions: 2
budgets: {full: {}, laptop: {train.updates: 2000}}
exhibits: [summary]
"""
ALL = "[summary, flow-length, table-2, figure-4, learning-curves, samples]"


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def lines_of(exhibit):
    return list(csv.DictReader(io.StringIO(to_csv(exhibit.tables[0]))))


def exhibit(name, spec, runs, budget="full"):
    return make_exhibit(name, gather_results(spec.under(budget), runs))


def planted(spec, value=86.2, budget="full"):
    """Runs whose −ln p(x) is the same everywhere."""
    runs = run_all(spec, budget)
    for record in runs.records:
        record["test/nll"] = value
    return runs


def with_other_ids(runs):
    """Return the same runs as another store has them: other ids, in another order, made at other times."""
    ids = sorted(record["run_id"] for record in runs.records)
    new = {old: f"{len(ids) - place:08x}" + 24 * "0" for place, old in enumerate(ids)}
    records = [
        record | {"run_id": new[record["run_id"]], "started": 1_800_000_000_000 - record["started"] % 1000}
        for record in reversed(runs.records)
    ]
    points = [(new[run_id], *rest) for run_id, *rest in reversed(runs.points)]
    return FakeRuns(records, points, {(new[run_id], name): file for (run_id, name), file in runs.files.items()}), new


def test_the_same_numbers_give_the_same_bytes_in_every_exhibit_whatever_the_runs_are_called(tmp_path):
    spec = study(SMALL, exhibits=ALL)
    runs = run_all(spec, "full")
    for number, record in enumerate(runs.records):  # Curves that cross, so that it shows which is drawn first.
        runs.add_history(record["run_id"], 90 + number % 3, 1000 * (1 + number), epochs=5)
        runs.add_pictures(record["run_id"])
    others, new = with_other_ids(runs)
    for name, store in (("a", runs), ("b", others)):
        build_report(spec.under("full"), store, tmp_path / name)
    ours, theirs = files_of(tmp_path / "a"), files_of(tmp_path / "b")
    assert ours.keys() == theirs.keys()
    shown = {name for name in ours if name.startswith(("figures/", "tables/"))}
    assert len(shown) > 15
    for name in sorted(shown):
        renamed = ours[name]
        for old, other in new.items():
            for digits in (32, SHORT_ID):
                renamed = renamed.replace(old[:digits].encode(), other[:digits].encode())
        assert renamed == theirs[name], name


def test_every_exhibit_can_be_imported():
    declared = registry.all_of("exhibits")
    assert {"summary", "flow-length", "effects", "table-2", "table-3", "figure-1", "figure-3", "figure-4"} <= set(
        declared
    )
    for found in declared.values():
        assert callable(load_function(found.make))
        assert found.readme is None or callable(load_function(found.readme))


@pytest.mark.parametrize("row", [row for row in TABLE_2 if not row.quoted_from], ids=lambda row: row.name)
def test_table_2_is_figure_4c_cut_to_one_decimal(row):
    figure = FIGURE_4[row.family, row.length, "−ln p(x)"].value
    assert row.published.value == math.floor(10 * figure) / 10
    assert row.published.display == f"≤ {row.published.value}"


def test_kl_of_figure_4_is_the_difference_of_its_bounds():
    for family, length, quantity in FIGURE_4:
        if quantity == "KL":
            f, kl, nll = (FIGURE_4[family, length, name].value for name in ("F", "KL", "−ln p(x)"))
            assert abs(f - nll - kl) < 0.0025


def test_table_2_sets_ours_beside_the_papers():
    spec = study(SMALL)
    lines = {line["row"]: line for line in lines_of(exhibit("table-2", spec, planted(spec)))}
    assert len(lines) == 14
    planar = lines["DLGM+NF (k = 10)"]
    assert (planar["flow"], planar["length"], planar["paper"], planar["n"]) == ("planar", "10", "87.5", "2")
    assert float(planar["difference"]) == pytest.approx(-1.3, abs=1e-12)
    assert len(planar["run_ids"].split()) == 2
    assert lines["DLGM+NICE (k = 80)"]["note"] == "not in this study"
    assert lines["DARN n_h = 500"]["note"] == "quoted by the paper, not run here"
    assert {line["metric"] for line in lines.values()} == {"−ln p(x)"}


def test_table_2_sets_ours_beside_what_the_paper_quotes_where_the_study_has_it():
    spec = study(SMALL.replace("[planar, nice-perm], flow.length: [0, 10]", "[hamiltonian], flow.length: [0, 4]"))
    made = exhibit("table-2", spec, planted(spec, 87.4))
    lines = {line["row"]: line for line in lines_of(made)}
    four = lines["DLGM + HVI (4 leapfrog steps)"]
    assert (four["flow"], four["length"], four["paper"], four["n"]) == ("hamiltonian", "4", "86.4", "2")
    assert float(four["difference"]) == pytest.approx(1.0, abs=1e-12)
    (row,) = [row for row in made.tables[0].rows if row.name == "DLGM + HVI (4 leapfrog steps)"]
    assert "quoted from Salimans et al. (2015); another model" in [entry.display for entry in row.entries]
    assert lines["DLGM + HVI (8 leapfrog steps)"]["note"] == "quoted by the paper, not run here"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"data": "{name: mnist, binarisation: dynamic}"}, "dynamic binarisation"),
        ({"data": "{name: mnist, binarisation: threshold}"}, "threshold binarisation"),
        ({"title": "Small\nmodel: {latent: 30}"}, "D = 30"),
        ({"title": "Small\nevaluation: {test_images: 500}"}, "500 test images"),
    ],
    ids=["dynamic", "threshold", "latent", "fewer test images"],
)
@pytest.mark.parametrize("name", ["table-2", "figure-4"])
def test_another_quantity_keeps_the_papers_column_but_has_no_difference(name, change, reason):
    spec = study(SMALL, **change)
    lines = [line for line in lines_of(exhibit(name, spec, planted(spec))) if line["run_ids"]]
    assert len(lines) == (3 if name == "table-2" else 9)
    for line in lines:
        assert line["paper"]
        assert line["difference"] == ""
        assert line["note"].startswith("not comparable: ")
        assert reason in line["note"]


def test_other_data_are_not_comparable():
    settings = study(SMALL).settings
    assert why_not_comparable(settings) == ""
    assert "data digits" in why_not_comparable(settings.replace({"data.name": "digits"}))


def test_departures_from_the_paper_are_listed():
    settings = study(SMALL).settings
    assert FACTS.departures(settings) == []
    assert FACTS.departures(settings.replace({"train.updates": 2000, "train.optimiser": "adam"})) == [
        "updates 2,000 (paper: 500,000)",
        "optimiser adam (paper: rmsprop)",
    ]
    refined = {"train.schedule": {"name": "CosineAnnealingLR"}, "train.optimiser": "adam", "train.weight_decay": 0.05}
    assert FACTS.departures(settings.replace(refined))[1:] == [
        "schedule CosineAnnealingLR (paper: not mentioned)",
        "weight decay 0.05 (paper: not mentioned)",
    ]
    spec = study(SMALL)
    text = exhibit("table-2", spec, run_all(spec, "laptop"), "laptop").text
    assert text == "Not as the paper states: updates 2,000 (paper: 500,000); repetitions 2 (paper: 100)."


def test_each_further_axis_has_its_own_line():
    spec = study(SMALL, grid="{flow.family: [planar], flow.length: [10], model.latent: [2, 40]}")
    lines = [line for line in lines_of(exhibit("table-2", spec, planted(spec))) if line["length"] == "10"]
    assert [(line["row"], bool(line["difference"])) for line in lines if line["run_ids"]] == [
        ("DLGM+NF (k = 10), D = 2", False),
        ("DLGM+NF (k = 10), D = 40", True),
    ]


def test_figure_4_gives_all_three_quantities_and_the_points_that_are_not_run():
    spec = study(SMALL)
    runs = run_all(spec, "full")
    for record in runs.records:
        record.update({"test/elbo": -95.0, "test/kl": 6.0, "test/nll": 89.0})
    shown = exhibit("figure-4", spec, runs)
    lines = {(line["row"], line["metric"]): line for line in lines_of(shown)}
    assert len(lines) == 27
    differences = [float(lines["NICE-perm, K = 10", name]["difference"]) for name in ("F", "KL", "−ln p(x)")]
    assert differences == pytest.approx([95 - 94.889, 6 - 6.266, 89 - 88.624], abs=1e-12)
    assert lines["NF (planar), K = 80", "F"]["note"] == "not in this study"
    assert [axes.get_title() for axes in shown.drawings[0].figure.axes] == [
        "(a) Free energy F = −ELBO",
        "(b) KL(q‖p(z|x)) = F + ln p(x)",
        "(c) −ln p(x), upper bound",
    ]


def test_length_zero_starts_every_curve():
    spec = study(SMALL)
    groups = curve_groups(gather_results(spec.under("full"), run_all(spec, "full")))
    assert [(g.label.curve, [c.label.length for c in g.cells]) for g in groups] == [
        ("NF (planar)", [0, 10]),
        ("NICE-perm", [0, 10]),
    ]
    axes = exhibit("flow-length", spec, run_all(spec, "full")).drawings[0].figure.axes[0]
    ends = [container.lines[0].get_xydata()[0].tolist() for container in axes.containers]
    assert ends[0] == ends[1]
    assert ends[0][0] == 0


def test_summary_shows_diverged_failed_and_missing_cells():
    spec = study(SMALL)
    outcomes = {("none", 1): "diverged", ("planar", 1): "failed", ("planar", 2): "failed"}
    runs = run_all(
        spec,
        "full",
        lambda t: (
            None
            if t.settings.flow.family == "nice-perm"
            else outcomes.get((t.settings.flow.family, t.index), "finished")
        ),
    )
    rows = exhibit("summary", spec, runs).tables[0].rows
    assert [(row.name, row.entries[2].display, row.entries[-2].display, row.entries[-1].display) for row in rows] == [
        ("diagonal Gaussian, K = 0", "≤ 90.90 (n = 1)", "1 of 2", "diverged"),
        ("NF (planar), K = 10", "2 of 2 failed", "0 of 2", "failed"),
        ("NICE-perm, K = 10", "not run", "0 of 2", "to do"),
    ]
    assert rows[0].entries[2].note == "1 of 2 diverged"


def test_learning_curves_and_samples_say_when_there_is_nothing_to_show():
    results = gather_results(study(SMALL).under("full"), FakeRuns())
    assert (learning_curves(results).drawings, learning_curves(results).text) == ((), "No run has logged an epoch.")
    assert samples(results).drawings == ()


@pytest.mark.parametrize(("split", "told"), [("train", False), ("train+valid", True)])
def test_learning_curves_say_that_validation_images_were_trained_on(split, told):
    spec = study(SMALL.replace("binarisation: static", f"binarisation: static, training_split: {split}"))
    (drawing,) = exhibit("learning-curves", spec, run_all(spec, "full")).drawings
    assert ("also train on the validation images" in drawing.caption) is told


def test_samples_take_the_first_repetition_and_name_its_runs():
    spec = study(SMALL)
    runs = run_all(spec, "full")
    first = [record["run_id"] for record in runs.records if record["index"] == 1]
    del runs.files[first[0], "samples.png"]
    shown = exhibit("samples", spec, runs)
    assert shown.run_ids == tuple(first)
    runs.files[first[0], "samples.png"] = b"not a picture"
    with pytest.raises(ReportError, match=rf"{first[0]}, samples.png: not a readable picture"):
        exhibit("samples", spec, runs)


def test_two_builds_from_the_same_runs_give_the_same_bytes(tmp_path):
    spec = study(SMALL, exhibits=ALL)
    for name, reverse in (("first", False), ("second", True)):
        build_report(spec.under("laptop"), run_all(spec, "laptop", reverse=reverse), tmp_path / name)
    first, second = files_of(tmp_path / "first"), files_of(tmp_path / "second")
    assert {name for name in first if first[name] != second.get(name)} == set()
    assert set(first) == set(second)

    manifest = json.loads(first.pop("manifest.json"))
    assert manifest["files"] == {name: hashlib.sha256(content).hexdigest() for name, content in first.items()}
    listed = [name for parts in manifest["exhibits"].values() for name in parts["files"]]
    assert sorted([*listed, "index.html", "index.md"]) == sorted(first)
    assert all(len(parts["runs"]) in (3, 6) for parts in manifest["exhibits"].values())
    assert manifest["exhibits"]["table-2"]["data"] == {"mnist static": ["ab" * 32]}

    page = first["index.html"].decode()
    assert "incomplete" not in page
    assert "<script" not in page
    assert set(re.findall(r'<a href="([^"#]+)', page)) == {"../index.html", REZENDE2015.url}
    assert set(re.findall(r'(?:src|href)="([^"#]+?)[,"]', re.sub("<a .*?>", "", page))) == {"data:image/png;base64"}
    anchors = set(re.findall(r'href="#([^"]+)"', page))
    assert anchors <= set(re.findall(r'id="([^"]+)"', page))
    assert len([anchor for anchor in anchors if anchor.startswith("run-")]) == 6, "every run behind a number"


def test_an_unfinished_study_is_refused_with_all_its_cells(tmp_path):
    spec = study(SMALL)
    runs = run_all(spec, "full", lambda t: {"none": "diverged", "planar": "failed"}.get(t.settings.flow.family))
    with pytest.raises(ReportError) as refusal:
        build_report(spec.under("full"), runs, tmp_path / "report")
    assert str(refusal.value).splitlines()[1:] == [
        "  NF (planar), K = 10: failed (failed: failed at update 1,200)",
        "  NICE-perm, K = 10: to do (not run)",
    ]
    assert list(tmp_path.iterdir()) == []


def test_a_partial_report_says_so_everywhere(tmp_path):
    spec = study(SMALL, exhibits="[summary, flow-length]")
    runs = run_all(spec, "full", lambda t: "finished" if t.settings.flow.length == 0 else None)
    build_report(spec.under("full"), runs, tmp_path, partial=True)
    files = files_of(tmp_path)
    stamp = "incomplete: 1 of 3 cells"
    for name in ("index.html", "index.md", "tables/summary.md", "tables/summary.tex", "tables/flow-length.md"):
        assert stamp in files[name].decode(), name
    assert "Incomplete: 1 of 3 cells." in files["index.html"].decode()
    figure = exhibit("flow-length", spec, runs).drawings[0].figure
    assert stamp in [text.get_text() for text in figure.texts]
    assert json.loads(files["manifest.json"])["cells"] == {"finished": 1, "of": 3}


def test_a_partial_report_of_no_runs_is_all_not_run(tmp_path):
    spec = study(SMALL, exhibits=ALL)
    build_report(spec.under("full"), FakeRuns(), tmp_path, partial=True)
    assert "incomplete: 0 of 3 cells" in (tmp_path / "index.html").read_text()


def test_diverged_is_a_result(tmp_path):
    spec = study(SMALL)
    build_report(spec.under("full"), run_all(spec, "full", lambda _: "diverged"), tmp_path)
    assert "2 of 2 diverged" in (tmp_path / "tables/summary.csv").read_text()


def test_text_from_outside_is_escaped(tmp_path):
    nasty = "<script>alert(1)</script>"
    spec = study(SMALL, title=f'"{nasty}"', description=f'"{nasty}"')
    runs = run_all(spec, "full", lambda t: "diverged" if t.index == 1 else "finished")
    for record in runs.records:
        record["reason"] = record["commit"] = record["device"] = nasty
        record["run_id"] = f'"><b>{record["run_id"]}'
    build_report(spec.under("full"), runs, tmp_path)
    page = (tmp_path / "index.html").read_text()
    assert "<script" not in page
    assert "<b>" not in page
    assert "&lt;script&gt;" in page
    assert not re.search(r"(?<!\\)<script", (tmp_path / "index.md").read_text())


@pytest.mark.parametrize(
    ("server", "linked"),
    [("http://tracking.example", True), ("javascript:alert(1)", False), (None, False)],
    ids=["server", "no web address", "none"],
)
def test_runs_link_to_a_server_only(tmp_path, server, linked):
    spec = study(SMALL)
    runs = run_all(spec, "full")
    runs.server = server
    build_report(spec.under("full"), runs, tmp_path)
    page = (tmp_path / "index.html").read_text()
    assert (f'href="{server}/#/runs/{runs.records[0]["run_id"]}"' in page) is linked
    assert "javascript:" not in page


@pytest.mark.parametrize(
    ("changed", "warning"),
    [
        ({"commit": "fedcba"}, "The runs come from 2 commits."),
        ({"dirty": True}, "1 of 6 runs were made with uncommitted changes."),
        ({"data_fingerprint": "cd" * 32}, "The runs on mnist static saw 2 different files of that name."),
        ({"commit": "unknown", "code_known": False}, "1 of 6 runs are of code that is not known"),
        ({"commit": "unknown", "code_known": False}, "not known"),
        ({"code_known": False}, "0123456789 (changes not known)"),
        ({"earlier_code": "ab" * 32}, "1 of 6 runs went on from checkpoints of other code."),
        ({"earlier_code": "ab" * 32}, "0123456789, resumed from other code"),
        ({"imported": "checked"}, "1 of 6 runs were imported from an archive"),
        ({"imported": "checked"}, "0123456789, imported"),
        ({"imported": OF_PLUGINS}, "1 of 6 runs were imported without a check of settings, which are of plug-ins."),
    ],
)
def test_mixed_sources_are_warned_of(tmp_path, changed, warning):
    spec = study(SMALL)
    runs = run_all(spec, "full")
    runs.records[0].update(changed)
    build_report(spec.under("full"), runs, tmp_path)
    assert warning in (tmp_path / "index.html").read_text()
    assert warning in (tmp_path / "index.md").read_text()


def test_stale_files_go_and_foreign_ones_stay(tmp_path):
    runs = run_all(study(SMALL), "full")
    build_report(study(SMALL, exhibits="[summary, table-2]").under("full"), runs, tmp_path / "report")
    (tmp_path / "report/notes.txt").write_text("mine")
    (tmp_path / "report/tables/mine.csv").write_text("mine")
    build_report(study(SMALL).under("full"), runs, tmp_path / "report")
    assert set(files_of(tmp_path / "report")) == {
        "index.html",
        "index.md",
        "manifest.json",
        "notes.txt",
        "tables/mine.csv",
        *(f"tables/{table}.{ending}" for table in ("summary", "claims") for ending in ("csv", "md", "tex")),
    }
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ("{}", "not the manifest of a report"),
        ("no JSON", "not the manifest of a report"),
        ('{"study": "small", "files": {"../victim": ""}}', "lists '../victim'"),
        ('{"study": "small", "files": {"/victim": ""}}', "lists '/victim'"),
    ],
    ids=["other JSON", "no JSON", "upwards", "absolute"],
)
def test_a_manifest_that_is_not_ours_stops_the_build(tmp_path, manifest, message):
    (tmp_path / "victim").write_text("mine")
    folder = tmp_path / "report"
    folder.mkdir()
    (folder / "manifest.json").write_text(manifest)
    with pytest.raises(ReportError, match=message):
        build_report(study(SMALL).under("full"), run_all(study(SMALL), "full"), folder)
    assert (tmp_path / "victim").exists()
    assert set(files_of(folder)) == {"manifest.json"}


def test_an_unknown_budget_is_refused(tmp_path):
    with pytest.raises(SpecError, match="no budget 'huge'; expected: full, laptop"):
        build_report(study(SMALL).under("huge"), FakeRuns(), tmp_path)


def test_a_sampled_study_shows_what_it_visited_and_draws_only_so_many_curves():
    grid = "{flow.length: [0, 10], train.learning_rate: {low: 0.001, high: 1.0, log: true}}"
    spec = study(SMALL, grid=grid, repetitions="1\nflow: {family: planar}\nsampler: {name: random, trials: 40}")
    runs = FakeRuns()
    for trial in range(30):
        point = {"flow.length": 10, "train.learning_rate": round(0.001 * (trial + 1), 3)}
        cell = spec.under("full").cell_at(point)
        runs.add(Trial(spec.study, cell, cell.settings, "repetition", 1), point=json.dumps(point))
    shown = exhibit("flow-length", spec, runs)
    assert shown.text == "The figure shows the first 24 of 30 curves; the table, all cells."
    assert len(shown.drawings[0].figure.axes[0].containers) == 24
    assert [row.name for row in shown.tables[0].rows][::29] == [
        "NF (planar), K = 10, learning rate = 0.001",
        "NF (planar), K = 10, learning rate = 0.03",
    ]
    facts = dict(Page(gather_results(spec.under("full"), runs), [], "1").facts)
    assert facts["Complete"].endswith("1 repetition each; the cells are those visited by random in up to 40 trials")


def test_a_sampled_study_without_runs_is_refused(tmp_path):
    spec = study(SMALL, repetitions="1\nsampler: {name: random, trials: 4}")
    assert spec.under("full").cells == ()
    with pytest.raises(ReportError, match="no runs yet"):
        build_report(spec.under("full"), FakeRuns(), tmp_path, partial=True)


@pytest.mark.parametrize(("size", "shown"), [(6e153, "−1.00e+153 ± 3.61e+153 (3)"), (6e300, "−1.00e+300 ± ∞ (3)")])
def test_numbers_whose_squares_are_infinite_are_shown_and_decide_nothing(size, shown, tmp_path):
    spec = study(exhibits="[summary, figure-4, effects]")
    runs = run_all(spec, "laptop")
    for place, record in enumerate(runs.records):
        record["test/elbo"] = (-size, size, size / 2)[place % 3]  # F: size, −size, −size / 2.
    text = build_report(spec.under("laptop"), runs, tmp_path / "report").with_suffix(".md").read_text()
    assert f"| diagonal Gaussian, K = 0 | {shown} | ≥ 6.80" in text
    assert "claims about these cells: 6 undecided, 4 not run." in text
