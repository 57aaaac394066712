"""The command `check` on a real store, and the baseline that it holds claims against."""

import json
import re
import shutil
from pathlib import Path

import pytest
from support.fake_runs import study

from nfstudy.__main__ import main
from nfstudy.core.errors import ReportError
from nfstudy.report.claims.baseline import changes, read_baseline, reversals, updated, write_baseline
from nfstudy.report.claims.judge import all_claims
from nfstudy.runs.result import TrialResult
from nfstudy.runs.tracking.store import Attempt, open_store
from nfstudy.runs.whole_run import DataRecord

STUDY = """\
study: mnist
title: Two cells of MNIST
data: {name: mnist, binarisation: static}
grid: {flow.family: [planar], flow.length: [0, 10]}
repetitions: 3
budgets: {full: {}, laptop: {train.updates: 2000}}
exhibits: [summary]
"""
CLAIM, PART = "mnist-planar-f-falls", "mnist-planar-f-falls/K=0..10"
BODY = "mnist laptop"
BASELINE = "reports/claims-baseline.json"


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Folders, each with a store: F falls by 5, 4 and 6 nats from K = 0 to 10, or rises by 25, 24 and 26."""
    folders = {}
    spec = study(STUDY)
    for name, changed in (("falling", (-5.0, -4.0, -6.0)), ("rising", (25.0, 24.0, 26.0))):
        folders[name] = tmp_path_factory.mktemp(name)
        store = open_store(f"sqlite:///{folders[name]}/mlruns/mlflow.db", create=True)
        for cell in spec.under("laptop").cells:
            for trial in spec.under(cell.budget).repetitions_of(cell):
                shift = changed[trial.index - 1] if cell.settings.flow.length else 0.0
                free_energy = 97.0 + trial.index + shift
                data = DataRecord.of("mnist-static", "ab" * 32, "test", {"train": (50_000, 784)})
                run_id = store.start_run(store.experiment("mnist"), trial, data, Attempt("cpu", 1))
                store.finish_run(run_id, TrialResult("finished", 2000, metrics={"test/elbo": -free_energy}))
    return folders


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with a study file and a baseline in which nothing has been run; commands run in it."""
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies/mnist.yaml").write_text(STUDY)
    (tmp_path / "reports").mkdir()
    (tmp_path / BASELINE).write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def at(folder):
    return f"--tracking-uri=sqlite:///{folder}/mlruns/mlflow.db"


def test_without_a_store_nothing_is_run_and_nothing_is_made(project, capsys):
    assert main(["check"]) == 0
    lines = capsys.readouterr().out.splitlines()
    claims = all_claims()
    told = [line for line in lines if line.startswith("not run")]
    assert sorted(told) == sorted(
        f"not run      {claim.id}  (evidence: run studies/{claim.study}.yaml)" for claim in claims
    )
    assert lines[-2:] == [f"{len(claims)} claims, {len(claims)} of them not run", f"no changes against {BASELINE}"]
    assert not (project / "mlruns").exists()


def test_verdicts_are_printed_with_interval_and_n_and_what_changed(project, stores, capsys):
    assert main(["check", at(stores["falling"])]) == 0
    text = capsys.readouterr().out
    # −5 ± 4.848732/√3 over 3 pairs; F = 98, 99, 100 at K = 0 lies 2.25 above the paper, whose tolerance is 2.4.
    assert f"\n  supported    {PART}  −5.00 [−7.80, −2.20] nats, n = 3\n" in text
    assert "\n  undecided    mnist-level-f/none,K=0  99.00 [96.20, 101.80] nats, n = 3  (80 % power takes " in text
    assert f"\n  {BODY}: {PART}: not run -> supported\n" in text
    assert re.search(rf"\n {{8,}}{BODY}\n", text), "the bodies side by side"
    assert re.search(rf"\n{CLAIM} +undecided\n", text)
    assert json.loads((project / BASELINE).read_text()) == {}


def test_one_budget_alone_may_count(project, stores, capsys):
    assert main(["check", at(stores["falling"]), "--budget", "full"]) == 0
    assert f"not run      {CLAIM}  (evidence" in capsys.readouterr().out
    assert main(["check", at(stores["falling"]), "--budget", "huge"]) == 2
    assert "--budget huge: no study has it; expected: full, laptop" in capsys.readouterr().err


def test_what_was_not_asked_for_has_not_changed(project, stores, capsys):
    others = {"energies laptop": {"energies-x": "supported"}, "mnist full": {PART: "supported"}}
    (project / BASELINE).write_text(json.dumps(others))
    for asked in (["mnist"], ["--budget", "laptop"]):
        assert main(["check", at(stores["falling"]), *asked]) == 0
        told = capsys.readouterr().out
        assert f"\n  {BODY}: {PART}: not run -> supported\n" in told
        assert "energies laptop: " not in told
    assert "mnist full: " not in told
    assert main(["check", at(stores["falling"]), "mnist", "--update-baseline"]) == 0
    assert json.loads((project / BASELINE).read_text())["mnist full"] == {PART: "supported"}


def test_a_claim_that_turns_from_supported_to_contradicted_fails_the_check(project, stores, capsys):
    assert main(["check", at(stores["falling"]), "--update-baseline"]) == 0
    kept = (project / BASELINE).read_bytes()
    assert json.loads(kept)[BODY][PART] == "supported"
    assert list(json.loads(kept)[BODY]) == sorted(json.loads(kept)[BODY])
    assert {path.name for path in (project / "reports").iterdir()} == {"claims-baseline.json"}

    capsys.readouterr()
    assert main(["check", at(stores["rising"])]) == 1
    output = capsys.readouterr()
    assert output.err == f"was supported, is now contradicted: {PART}, on {BODY}\n"
    assert f"  {BODY}: {PART}: supported -> contradicted\n" in output.out
    assert f"  {BODY}: {CLAIM}: undecided -> contradicted\n" in output.out
    assert (project / BASELINE).read_bytes() == kept

    assert main(["check"]) == 0, "no runs speak neither for nor against"
    assert main(["check", at(stores["rising"]), "--update-baseline"]) == 0
    assert f"  {BODY}: {PART}: supported -> contradicted\n" in capsys.readouterr().out
    assert main(["check", at(stores["rising"])]) == 0
    assert main(["check", at(stores["falling"])]) == 0, "from contradicted to supported is no failure"


def test_without_a_baseline_nothing_was_said_before(project, stores, capsys):
    (project / BASELINE).unlink()
    assert main(["check", at(stores["rising"])]) == 0
    text = capsys.readouterr().out
    assert text.endswith(f"no baseline at {BASELINE} yet: check --update-baseline saves these verdicts\n")
    assert f"  contradicted {PART}" in text
    assert not (project / BASELINE).exists()


def test_a_baseline_may_stand_elsewhere_and_is_made_by_an_update_only(project, stores, capsys):
    assert main(["check", "--baseline", "elsewhere.json"]) == 2
    assert "elsewhere.json: no such baseline; expected: a file written" in capsys.readouterr().err
    assert main(["check", at(stores["falling"]), "--baseline", "elsewhere.json", "--update-baseline"]) == 0
    assert read_baseline(project / "elsewhere.json")[BODY][PART] == "supported"
    assert main(["check", "--baseline", "elsewhere.json", "--update-baseline"]) == 0
    assert read_baseline(project / "elsewhere.json")[BODY][PART] == "supported", (
        "what is not run here keeps its verdict"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "claims-baseline.json: cannot be read: "),
        ("[]", "claims-baseline.json: is not a JSON object; expected: a JSON object, body of evidence -> id -> "),
        (
            '{"mnist laptop": {"a": "maybe"}}',
            "claims-baseline.json: mnist laptop: a: got 'maybe'; expected: supported, contradicted, undecided, not run",
        ),
        ('{"b": {"a": ["supported"]}}', "claims-baseline.json: b: a: got ['supported']; expected: supported, "),
        ('{"a": "supported"}', "claims-baseline.json: a: got 'supported', as an earlier version wrote it"),
        ('{"a": 3}', "claims-baseline.json: a: got 3; expected: a JSON object, body"),
    ],
    ids=["no JSON", "a list", "an unknown verdict", "no verdict", "of an earlier version", "a number"],
)
def test_a_baseline_that_cannot_be_understood_is_a_mistake(project, capsys, content, message):
    (project / BASELINE).write_text(content)
    for arguments in (["check"], ["check", "--update-baseline"]):
        assert main(arguments) == 2
        assert message in capsys.readouterr().err
    assert (project / BASELINE).read_text() == content


def test_mistakes_about_the_studies_are_told(project, capsys):
    (project / "studies/twin.yaml").write_text(STUDY)
    assert main(["check"]) == 2
    assert "yaml: study: got 'mnist' as in another file; expected: one file per study" in capsys.readouterr().err
    (project / "studies/twin.yaml").write_text(STUDY.replace("repetitions: 3", "repetitions: 0"))
    assert main(["check"]) == 2
    assert "twin.yaml:5:14: repetitions: got 0" in capsys.readouterr().err
    for path in (project / "studies").iterdir():
        path.unlink()
    assert main(["check"]) == 2
    assert "studies: contains no study files; expected: a folder with STUDY.yaml files" in capsys.readouterr().err


def test_studies_may_be_named_by_file_folder_or_name_and_a_project_without_any_takes_the_shipped_ones(project, capsys):
    shutil.move(project / "studies", project / "mine")
    verdicts = []
    for named in (["mine"], ["mine/mnist.yaml"], ["mine", "energies"]):
        assert main(["check", *named]) == 0
        verdicts.append(capsys.readouterr().out)
    assert verdicts[0] == verdicts[1]
    assert main(["check", "mine", "mnist"]) == 2
    assert "study: got 'mnist' as in another file" in capsys.readouterr().err
    assert main(["check"]) == 0
    assert "studies: taking the studies that come with nfstudy" in capsys.readouterr().err


def test_a_store_that_is_none_is_a_mistake(project, capsys):
    (project / "broken.db").write_text("no database")
    assert main(["check", f"--tracking-uri=sqlite:///{project}/broken.db"]) == 2
    assert "broken.db" in capsys.readouterr().err


def test_changes_reversals_and_updates_by_hand():
    before = {
        "one": {"a": "supported", "b": "supported", "c": "undecided", "gone": "supported"},
        "idle": {"a": "supported", "gone": "supported"},
    }
    now = {
        "one": {"a": "contradicted", "b": "not run", "c": "contradicted"},
        "two": {"a": "supported", "b": "not run"},
    }
    known = {"a", "b", "c"}
    assert changes(before, now, known) == {
        ("one", "a"): ("supported", "contradicted"),
        ("one", "b"): ("supported", "not run"),
        ("one", "c"): ("undecided", "contradicted"),
        ("one", "gone"): ("supported", "removed"),
        ("two", "a"): ("not run", "supported"),
        ("idle", "a"): ("supported", "not run"),
        ("idle", "gone"): ("supported", "removed"),
    }
    assert reversals(before, now) == [("one", "a")]
    assert updated(before, now, known) == {
        "one": {"a": "contradicted", "b": "supported", "c": "contradicted"},
        "two": {"a": "supported", "b": "not run"},
        "idle": {"a": "supported"},
    }


def test_a_baseline_that_cannot_be_written_is_a_mistake(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ReportError, match="cannot be written"):
        write_baseline(tmp_path / "file/baseline.json", {})


def test_the_baseline_in_the_repository_is_of_this_ledger():
    ids = {key for claim in all_claims() for key in (claim.id, *(part.id for part in claim.parts()))}
    path = Path(__file__).parents[2] / BASELINE
    found = read_baseline(path)
    assert found
    assert all(verdicts.keys() <= ids for verdicts in found.values())
