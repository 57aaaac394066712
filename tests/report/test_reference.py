"""The reference runs: reports and README's results are made from them alone, and what is kept is what they make."""

import hashlib
import json
import math
import re
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest
from support.command_line import digests
from support.fake_copies import PICTURE, copy, points, small_archive
from support.fake_runs import FakeRuns, run_all, study
from support.processes import loaded_by

from nfstudy.__main__ import main
from nfstudy.core.project import Project
from nfstudy.report.pages.readme import results_text
from nfstudy.report.reference import BEGIN, END, KEPT, most_at_once, read_reference, stale_parts
from nfstudy.report.shown import placed
from nfstudy.report.statistics.estimates import gather_results
from nfstudy.runs.archive.reader import read_archive
from nfstudy.runs.archive.runs import ArchivedRuns
from nfstudy.runs.archive.transfer import export_runs, import_runs
from nfstudy.runs.result import TrialResult
from nfstudy.runs.tracking.open import open_runs
from nfstudy.runs.tracking.store import Attempt, open_store
from nfstudy.runs.whole_run import DataRecord
from nfstudy.study.reader import read_studies

pytestmark = pytest.mark.slow

CHECKOUT = Project(Path(__file__).parents[2])
MOST_BYTES = 20_000_000
"""Of all archives together."""

STUDY = """\
study: mnist
title: Two cells of MNIST
data: {name: mnist, binarisation: static}
grid: {flow.family: [planar], flow.length: [0, 10]}
repetitions: 3
budgets: {full: {}, laptop: {train.updates: 2000}}
exhibits: [table-2]
"""
OTHER = STUDY.replace("study: mnist", "study: other").replace("Two cells", "Two more cells")
README = f"# Title\n\n## Results\n\n{BEGIN}\nold\n{END}\n\n## More\n"


@pytest.fixture(scope="module")
def new_store(tmp_path_factory):
    """What puts an empty store into a folder, a new one unless it is given, and returns the folder."""
    made = tmp_path_factory.mktemp("empty") / "mlflow.db"
    open_store(f"sqlite:///{made}", create=True)
    with closing(sqlite3.connect(made)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def put(folder=None):
        folder = folder or tmp_path_factory.mktemp("store")
        (folder / "mlruns").mkdir(exist_ok=True)
        shutil.copy(made, folder / "mlruns")
        return folder

    return put


def log(folder, text=STUDY, budget="laptop", shift=0.0, repetitions=(1, 2, 3)):
    """Log a study's repetitions in a folder's store: −ln p(x) is 90.2 ± 0.1 at K = 0 and 87.2 ± 0.1 at K = 10."""
    spec = study(text)
    uri = f"sqlite:///{folder}/mlruns/mlflow.db"
    store = open_store(uri)
    for cell in spec.under(budget).cells:
        for trial in spec.under(cell.budget).repetitions_of(cell):
            if trial.index in repetitions:
                nll = (87.2 if cell.settings.flow.length else 90.2) + 0.1 * (trial.index - 2) + shift
                numbers = {"test/nll": nll, "test/kl": 6.0, "test/elbo": -6.0 - nll, "time/wall_seconds": 1800.0}
                data = DataRecord.of("mnist-static", "ab" * 32, "test", {"train": (50_000, 784)})
                run_id = store.start_run(store.experiment(spec.study), trial, data, Attempt("cpu", 1))
                store.finish_run(run_id, TrialResult("finished", 2000, metrics=numbers))
    return uri


@pytest.fixture(scope="module")
def archive(new_store):
    """An archive of all runs of the study."""
    folder = new_store()
    export_runs(log(folder), "mnist", folder / "mnist.tar.xz")
    return folder / "mnist.tar.xz"


@pytest.fixture(scope="module")
def part(new_store):
    """An archive of two repetitions of three."""
    folder = new_store()
    export_runs(log(folder, repetitions=(1, 2)), "mnist", folder / "mnist.tar.xz")
    return folder / "mnist.tar.xz"


@pytest.fixture
def project(tmp_path, monkeypatch, archive, new_store):
    """A checkout with the archive of all runs and an empty store; commands run in it."""
    for name in ("studies", "reports", "mlruns/reference"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "studies/mnist.yaml").write_text(STUDY)
    (tmp_path / "studies/other.yaml").write_text(OTHER)
    (tmp_path / "README.md").write_text(README)
    shutil.copy(archive, tmp_path / "mlruns/reference")
    new_store(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def test_the_runs_are_taken_in_and_all_is_made_from_them(project, capsys):
    assert main(["reference"]) == 0
    assert "\nmnist: 6 runs imported, 0 already present\n" in capsys.readouterr().out
    readme = (project / "README.md").read_text()
    assert readme.startswith(f"# Title\n\n## Results\n\n{BEGIN}\n")
    assert readme.endswith(f"{END}\n\n## More\n")
    assert "\nold\n" not in readme
    assert "### Claims of the paper" in readme
    assert "| [mnist laptop](reports/mnist/index.md#claims-of-the-paper) |" in readme
    rows = [[text.strip() for text in line.strip("|").split("|")] for line in readme.splitlines() if line[:1] == "|"]
    assert rows[0] == ["−ln p(x) of", "paper", "[mnist laptop \\*](reports/mnist/index.md)"]
    assert len(rows[2:11]) == 9
    page = (project / "reports/mnist/index.md").read_text()
    for row, name, number in (
        (rows[2], "diagonal Gaussian, K = 0", "90.20"),
        (rows[3], "NF (planar), K = 10", "87.20"),
    ):
        found = re.fullmatch(r"\[≤ (.+) ± 0\.06 \(3\)\]\(reports/mnist/index\.md#(run-\w{8})\)", row[2])
        assert (row[0], found[1]) == (name, number)
        (line,) = [line for line in page.splitlines() if f'<a id="{found[2]}"></a>' in line]
        assert f"| {name} |" in line
    first = digests(project / "reports")
    assert "mnist/index.html" in first
    assert main(["reference"]) == 0
    assert "\nmnist: 0 runs imported, 6 already present\n" in capsys.readouterr().out
    assert digests(project / "reports") == first, "made twice, other bytes"
    assert main(["report", "--all"]) == 0
    all_of_it = digests(project / "reports")
    own = {name.removeprefix("own/"): digest for name, digest in all_of_it.items() if name.startswith("own/")}
    assert {name: digest for name, digest in all_of_it.items() if not name.startswith("own/")} == first, "is written"
    assert own == {name: first[name] for name in own}, "`report --all` makes other bytes of the same runs"
    assert "mnist/index.html" in own


def test_other_runs_in_the_store_make_no_difference(project):
    log(project, OTHER)
    log(project, budget="full")
    assert main(["reference"]) == 0
    first = digests(project / "reports")
    assert not (project / "reports/other").exists()
    assert main(["reference", "--check"]) == 0
    assert main(["report", "--all"]) == 0
    assert digests(project / "reports") != first


def test_a_check_names_what_is_stale_and_writes_nothing(project, capsys):
    assert main(["reference"]) == 0
    assert main(["reference", "--check"]) == 0
    assert capsys.readouterr().out.endswith("runs of mnist: no stale parts\n")
    readme, table = project / "README.md", project / "reports/mnist/tables/table-2.csv"
    readme.write_text(readme.read_text().replace("90.20", "89.20"))
    table.write_text(table.read_text().replace("90.2", "89.2"))
    (project / "reports/mnist/index.md").unlink()
    (project / "reports/mnist/tables/table-9.csv").write_text("row\n")
    (project / "reports/mnist/index.html").write_text("not kept")
    before = digests(project)
    capsys.readouterr()
    assert main(["reference", "--check"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "stale: reports/mnist/index.md: is missing",
        "stale: reports/mnist/tables/table-2.csv: differs",
        "stale: reports/mnist/tables/table-9.csv: comes from no reference run",
        "stale: README.md: the results between its markers differ",
    ]
    assert digests(project) == before
    assert main(["reference", "--check", "--tracking-uri", "sqlite:///x.db"]) == 2


def test_other_archives_make_all_of_it_stale(project, part, capsys):
    assert main(["reference"]) == 0
    shutil.copy(part, project / "mlruns/reference")
    capsys.readouterr()
    assert main(["reference", "--check"]) == 1
    stale = capsys.readouterr().err
    for name in ("manifest.json", "mnist/manifest.json", "mnist/index.md", "mnist/tables/table-2.csv"):
        assert f"stale: reports/{name}: differs\n" in stale
    assert "README.md" in stale


def test_what_is_missing_is_said(project, part):
    shutil.copy(part, project / "mlruns/reference")
    assert main(["reference"]) == 0
    readme = (project / "README.md").read_text()
    assert "NF (planar), K = 10, mnist laptop: 1 of 3 not run" in readme
    assert main(["reference", "--check"]) == 0


def test_runs_that_the_store_has_with_other_numbers_are_left_out_and_told(project, capsys):
    log(project, shift=1.0)
    assert main(["reference"]) == 1
    output = capsys.readouterr()
    assert output.err.count("not imported: ") == 6
    assert "≤ 90.20 ± 0.06 (3)" in (project / "README.md").read_text()


def test_a_study_may_have_an_archive_for_each_budget(project, new_store, capsys):
    second = project / "mlruns/reference/second.tar.xz"
    export_runs(log(new_store(), budget="full", shift=1.0), "mnist", second)
    assert main(["reference"]) == 0
    assert capsys.readouterr().out.count("mnist: 6 runs imported, 0 already present\n") == 2
    tables = [pd.read_csv(path) for path in (project / "reports/mnist").rglob("table-2.csv")]
    means = [table.query("metric == '−ln p(x)'")["ours_mean"].dropna().round(6).tolist() for table in tables]
    assert sorted(means) == [[90.2, 87.2], [91.2, 88.2]]
    assert main(["reference", "--check"]) == 0
    assert main(["report", "studies/mnist.yaml", "--budget", "full", "--output", "again"]) == 0, (
        "imported into the store"
    )


def test_no_run_is_in_two_archives(project, archive, capsys):
    shutil.copy(archive, project / "mlruns/reference/second.tar.xz")
    assert main(["reference"]) == 2
    error = capsys.readouterr().err
    assert "second.tar.xz: has run " in error
    assert ", as mnist.tar.xz has; expected: each run once" in error


def test_an_archive_has_runs_of_one_budget(project, new_store, capsys):
    folder = new_store()
    log(folder, budget="full")
    export_runs(log(folder), "mnist", project / "mlruns/reference/mnist.tar.xz")
    assert main(["reference"]) == 2
    assert "has runs of 2 budgets (full, laptop); expected: of one" in capsys.readouterr().err


def test_a_study_of_two_archives_is_shown_under_both_budgets_and_its_claims_judged_on_each(project, new_store, capsys):
    """The archives of two studies that are budgets of one now, as those of the first edition of MNIST are."""
    folder = new_store()
    long = STUDY.replace("study: mnist", "study: mnist-long").replace("2000", "4000")
    export_runs(log(folder, long, shift=-1.0), "mnist-long", project / "mlruns/reference/mnist-long.tar.xz")
    merged = STUDY.replace(
        "laptop: {train.updates: 2000}",
        "short: {formerly: {study: mnist, budget: laptop}, train.updates: 2000}, "
        "long: {formerly: {study: mnist-long, budget: laptop}, train.updates: 4000}",
    )
    (project / "studies/mnist.yaml").write_text(merged)
    assert main(["reference"]) == 0
    assert "\nmnist-long: 6 runs imported, 0 already present\n" in capsys.readouterr().out
    readme = (project / "README.md").read_text()
    (row,) = [line for line in readme.splitlines() if line.startswith("| diagonal Gaussian, K = 0 |")]
    assert row.index("≤ 90.20 ± 0.06 (3)") < row.index("≤ 89.20 ± 0.06 (3)")
    assert "[mnist long \\*](reports/mnist/budget-long/index.md)" in readme
    assert "#run-" in row.split("|")[4]
    assert "| [mnist short](reports/mnist/index.md#claims-of-the-paper) |" in readme
    assert "[mnist long](reports/mnist/budget-long/index.md#claims-of-the-paper) |" in readme
    assert "mnist-long" not in readme
    assert main(["reference", "--check"]) == 0
    (project / "reports/mnist/budget-long/tables/table-2.csv").unlink()
    assert main(["reference", "--check"]) == 1
    assert "stale: reports/mnist/budget-long/tables/table-2.csv: is missing" in capsys.readouterr().err
    (project / "studies/mnist.yaml").write_text(merged.replace("4000", "5000"))
    assert main(["reference"]) == 2
    assert "mnist-long.tar.xz: its runs belong to no cell of study mnist; expected:" in capsys.readouterr().err
    (project / "studies/mnist.yaml").write_text(STUDY)
    assert main(["reference"]) == 2
    assert "mnist-long.tar.xz: no study file defines study mnist-long; expected:" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["reference"], ["reference", "--check"]])
@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda p: (p / "mlruns/reference/mnist.tar.xz").unlink(), "reference/*.tar.xz: no such archive; expected:"),
        (lambda p: (p / "mlruns/reference/a.tar.xz").write_bytes(b"x"), "a.tar.xz: is truncated; expected:"),
        (
            lambda p: (p / "studies/mnist.yaml").unlink(),
            "mnist.tar.xz: no study file defines study mnist; expected: other",
        ),
        (
            lambda p: (p / "studies/mnist.yaml").write_text(STUDY.replace("2000", "3000")),
            "mnist.tar.xz: its runs belong to no cell of study mnist; expected:",
        ),
        (lambda p: (p / "README.md").write_text("# Title\n"), "README.md: has no markers for the results; expected:"),
        (lambda p: (p / "README.md").write_text(f"{END}\n{BEGIN}\n"), "README.md: has no markers for the results"),
        (lambda p: (p / "README.md").write_text(README + README), "README.md: has no markers for the results"),
        (lambda p: (p / "README.md").unlink(), "README.md: cannot be read"),
    ],
)
def test_a_mistake_is_told_and_changes_nothing(project, capsys, spoil, told, arguments):
    spoil(project)
    before = digests(project)
    assert main(arguments) == 2
    assert told in capsys.readouterr().err
    assert digests(project) == before


def test_an_archive_reads_as_a_store_that_has_taken_it_in(tmp_path):
    ties = points((10, 1000, 1.0), (20, 2000, 5.0), (20, 2001, -3.0), (20, 2001, -2.5))
    histories = {
        "test/nll": points((20, 1000, math.inf)),
        "test/kl": points((20, 1000, 1.0), (20, 1000, math.nan)),
        "valid/elbo": ties,
    }
    archive = read_archive(
        small_archive(tmp_path / "s.tar.xz", [copy(1), copy(2, "diverged", histories), copy(3, "killed")])
    )
    uri = f"sqlite:///{tmp_path}/mlruns/mlflow.db"
    import_runs(archive, uri)
    ours, theirs = ArchivedRuns(archive), open_runs(uri)("s")
    ids, metrics = theirs.frame()["run_id"].tolist(), ["valid/elbo", "train/elbo", "test/nll"]
    assert theirs.frame().set_index("run_id").loc[copy(2).record.id, "valid/elbo"] == -2.5
    pd.testing.assert_frame_equal(ours.frame(), theirs.frame(), check_exact=True)
    pd.testing.assert_frame_equal(ours.frame(["test/kl"]), theirs.frame(["test/kl"]), check_exact=True)
    pd.testing.assert_frame_equal(ours.history([*ids, "?"], metrics), theirs.history([*ids, "?"], metrics))
    for run_id in (*ids, "?"):
        for name in ("samples.png", "none.png"):
            assert ours.artifact(run_id, name) == theirs.artifact(run_id, name)
    assert ours.artifact(ids[0], "samples.png") == PICTURE


@pytest.mark.parametrize(
    ("spans", "most"),
    [([], 0), ([(1, 5)], 1), ([(1, 5), (5, 9)], 1), ([(1, 5), (4, 9)], 2), ([(1, 9), (2, 3), (3, 4), (2, 8)], 3)],
)
def test_how_many_runs_were_under_way_at_the_same_time(spans, most):
    assert most_at_once(spans) == most


def test_the_table_holds_every_cell_beside_the_paper():
    runs = run_all(study(), "full", lambda t: None if t.settings.flow.length == 80 else "finished")
    machine = {"processor": "A kind | of processor", "cores": "64", "package torch": "2"}
    for record in runs.records:
        runs.files[record["run_id"], "environment.json"] = json.dumps(machine).encode()
    runs.files[runs.records[0]["run_id"], "environment.json"] = b"["
    text = results_text(placed([gather_results(study().under("full"), runs)]), {"mnist full": 7})
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 9
    # 90.9 − 89.9, ± 0.1/√3; the numbers of `fake_runs.plausible_metrics`.
    assert "| ≤ 90.90 ± 0.06 (3) |" in rows[0]
    assert "missed by 1.00" in rows[0]
    assert [row.count("not run") for row in rows] == [0, 0, 0, 0, 2, 0, 0, 0, 2]
    assert "> **Incomplete: 7 of 9 cells.**" in text
    # 3 · (100 + 2 · (200 + 300 + 500)) s.
    assert "1.75 hours of training and evaluation, added up over 21 runs; at most 7 at once" in text
    assert "A kind \\| of processor, 64 cores; a machine that was not recorded." in text
    assert re.search(r"of \d+ claims of the paper that these runs bear on, \d+ \w+", text)
    assert "Not as the paper states: " in text


def test_a_study_without_a_table_for_readme_has_a_line():
    spec = study(
        "study: effects\ntitle: T\ndata: {name: mnist}\ngrid: {train.precision: [float32, bfloat16]}\nrepetitions: 2\n"
        "budgets: {full: {}}\nexhibits: [effects]\n"
    )
    text = results_text(placed([gather_results(spec.under("full"), run_all(spec, "full"))]), {"effects full": 1})
    assert (
        "### Further studies\n\n- [T](reports/effects/index.md): 4 finished, budget full: 2 of 2 cells, 2 repet" in text
    )
    assert not [line for line in text.splitlines() if line.startswith("|")]


def test_the_energies_are_shown_by_their_true_kl():
    spec = study(
        "study: energies\ntitle: T\nenergy: {name: u1}\ngrid: {energy.name: [u1, u2], flow.family: [planar, radial], "
        "flow.length: [2, 8]}\nrepetitions: 2\nbudgets: {full: {}}\nexhibits: [energies]\n"
    )
    runs = FakeRuns()
    for cell in spec.under("full").cells:
        for trial in spec.under(cell.budget).repetitions_of(cell):
            kl = 1.0 + 0.2 * (trial.index - 1) + (cell.settings.energy.name == "u2")
            runs.add(trial, test__kl=kl, data="none", data_fingerprint="")
    text = results_text(placed([gather_results(spec.under("full"), runs)]), {"energies full": 2})
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert [text.strip() for text in rows[0].strip("|").split("|")] == ["flow", "K = 2", "K = 8"]
    assert len(rows) == 5
    assert all(row.count("1.100 ± 0.100 (2)" if "u1" in row else "2.100 ± 0.100 (2)") == 2 for row in rows[1:])
    assert "paper states" not in text


def test_what_is_kept_is_checked_without_torch_mlflow_and_optuna():
    top, _ = loaded_by("import nfstudy.report.reference")
    assert not {"torch", "mlflow", "optuna"} & top


@pytest.fixture
def shipped():
    """The checkout's own archives; one that has none is not whole, and fails."""
    return read_reference(CHECKOUT)


def every(shipped):
    return [archive for some in shipped.values() for archive in some]


def test_the_committed_reports_can_be_read_on_a_code_host():
    pages = sorted((CHECKOUT.root / "reports").glob("*/index.md"))
    assert pages
    assert {page.parent.name: size for page in pages if (size := page.stat().st_size) >= 60_000} == {}


def test_the_verdict_in_brief_stands_where_readme_has_a_place_for_it(project, capsys):
    readme = project / "README.md"
    readme.write_text("# T\n<!-- verdict: begin -->\nold\n<!-- verdict: end -->\n" + readme.read_text())
    assert main(["reference"]) == 0
    head, _, rest = readme.read_text().partition("<!-- verdict: end -->")
    assert head.startswith("# T\n<!-- verdict: begin -->\nOf the paper's 18 claims, none stands, ")
    assert "old" not in head
    assert BEGIN in rest
    assert "Of the paper's" not in rest
    readme.write_text(readme.read_text().replace("none stands", "all stand"))
    assert main(["reference", "--check"]) == 1
    assert "README.md" in capsys.readouterr().err


def test_without_a_place_for_the_verdict_the_results_begin_with_it(project):
    assert main(["reference"]) == 0
    _, _, made = (project / "README.md").read_text().partition(BEGIN)
    places = [made.index(words) for words in ("Of the paper's 18 claims, ", "### Table 2", "### Claims of the paper")]
    assert places == sorted(places)


DETAILS = f"# Results\n\n{BEGIN}\nold\n{END}\n"


def test_the_numbers_of_each_study_stand_in_the_document_of_results_if_there_is_one(project, capsys):
    assert main(["reference"]) == 0
    assert not (project / "docs").exists()
    (project / "docs").mkdir()
    details = project / "docs/results.md"
    details.write_text(DETAILS)
    assert main(["reference"]) == 0
    text = details.read_text()
    assert "\nold\n" not in text
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    assert rows[2] == [
        "diagonal Gaussian", "0", "≤ 89.9", "≤ 90.20 ± 0.06 (3)", "+0.30", "missed by 0.30", "96.20 ± 0.06 (3)",
    ]  # fmt: skip
    assert rows[3][:1] + rows[3][3:6] == ["NF (planar)", "≤ 87.20 ± 0.06 (3)", "−0.30", "reached"]
    assert "3 hours of training and evaluation, added up over 6 runs; at most 1 at once, threads of each: 1" in text
    assert "Joules were not measured. At this pace, one run of each of these 2 cells with the paper's 500,000" in text
    assert "updates would take 250 hours, one after another." in text  # 2 of 0.5 hours, of 2,000 updates
    assert "[reports/mnist](../reports/mnist/index.md)" in text
    assert main(["reference", "--check"]) == 0
    details.write_text(text.replace("90.20", "89.20"))
    capsys.readouterr()
    assert main(["reference", "--check"]) == 1
    assert capsys.readouterr().err == "stale: docs/results.md: the results between its markers differ\n"
    details.write_text(DETAILS.replace(END, ""))
    assert main(["reference"]) == 2
    assert "docs/results.md: has no markers for the results; expected:" in capsys.readouterr().err
    details.write_text("# Results, by hand\n")
    assert main(["reference"]) == 0
    assert details.read_text() == "# Results, by hand\n"


def test_a_picture_of_an_earlier_front_page_is_named(project, capsys):
    assert main(["reference"]) == 0
    (project / "docs").mkdir()
    (project / "docs" / "report.png").write_bytes(b"picture")
    digest = hashlib.sha256((project / "reports" / "index.html").read_bytes()).hexdigest()
    (project / "docs" / "report.png.of").write_text(f"{digest}\n")
    assert main(["reference", "--check"]) == 0
    (project / "docs" / "report.png.of").write_text("0" * 64)
    assert main(["reference", "--check"]) == 1
    told = "stale: docs/report.png: shows an earlier front page; take it again with: make screenshot\n"
    assert told in capsys.readouterr().err


def test_the_committed_reports_and_readme_are_what_the_reference_runs_make(shipped):
    assert stale_parts(CHECKOUT, shipped) == [], "make them again with: make reference"


def test_the_archives_are_small(shipped):
    assert sum(archive.path.stat().st_size for archive in every(shipped)) < MOST_BYTES


def archive_of(archive, spec):
    """Say whether an archive is of a study, by its name of now or of before."""
    return archive.manifest.study in spec.logged_names


def test_git_keeps_of_the_reports_what_the_check_looks_at(shipped):
    studies = read_studies(CHECKOUT.root / "studies").values()
    all_kept = {path for pattern in KEPT for path in CHECKOUT.kept_reports.glob(pattern)}
    assert kept_by_git(archive.path for archive in every(shipped)) == {archive.path for archive in every(shipped)}
    for archive in every(shipped):
        study = next(spec for spec in studies if archive_of(archive, spec))
        folder = CHECKOUT.kept_reports / study.study
        assert kept_by_git(path for path in folder.rglob("*") if path.is_file()) == {
            path for path in all_kept if folder in path.parents
        }


def kept_by_git(paths):
    """Return those of some files that git does not ignore."""
    names = [str(path.relative_to(CHECKOUT.root)) for path in paths]
    asked = ["git", "check-ignore", "--no-index", "-z", "--stdin"]
    done = subprocess.run(asked, input="\0".join(names), cwd=CHECKOUT.root, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    return {CHECKOUT.root / name for name in {*names} - {*done.stdout.split("\0")}}
