"""An energy and a drawn flow through the real command line: from the study file to the front page and the claims."""

import json
import re

import pytest
from support.command_line import digests, frame_of, nfstudy

pytestmark = pytest.mark.end_to_end

ENERGIES = """\
study: energies
title: Two energies
energy: {name: u1}
train: {updates: 40, batch: 32, optimiser: adam, learning_rate: 1e-2}
objective: {anneal_updates: 20}
evaluation: {samples: 500}
grid: {energy.name: [u1, u2], flow.family: [planar, nice-perm], flow.length: [2]}
repetitions: 2
exhibits: [figure-3, energies]
"""
DRAWN = """\
study: drawn
title: Drawn
drawn: {density: normal}
grid: {flow.family: [planar], flow.length: [0, 2]}
exhibits: [figure-1]
"""
NUMBERS = ["test/elbo", "test/kl", "test/log_z", "test/elbo_table_1", "test/mass_left", "test/window_mass"]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project with two studies, of which both have been run on two workers."""
    folder = tmp_path_factory.mktemp("plane")
    (folder / "studies").mkdir()
    for name, text in (("energies", ENERGIES), ("drawn", DRAWN)):
        (folder / "studies" / f"{name}.yaml").write_text(text)
        done = nfstudy(folder, "run", f"studies/{name}.yaml", "--workers", "2")
        assert done.returncode == 0, done.stderr
    return folder


def test_energies_are_logged_with_their_true_kl_and_no_data(project):
    frame = frame_of(project, "energies")
    assert frame["outcome"].tolist() == ["finished"] * 8
    assert frame["test/kl"].to_numpy() == pytest.approx(frame["test/log_z"] - frame["test/elbo"])
    assert set(frame["data"]) == {"none"}
    assert set(frame["energy.name"]) == {"u1", "u2"}
    assert "model.latent" not in frame
    assert "train.updates" not in frame_of(project, "drawn")


def test_one_worker_gives_the_same_numbers_and_a_second_run_has_nothing_to_do(project, tmp_path):
    (tmp_path / "energies.yaml").write_text(ENERGIES)
    assert nfstudy(tmp_path, "run", "energies.yaml", "--workers", "1").returncode == 0
    ours, theirs = (
        frame_of(folder, "energies").set_index(["cell", "index"])[NUMBERS] for folder in (project, tmp_path)
    )
    assert ours.equals(theirs)
    again = nfstudy(project, "run", "studies/energies.yaml")
    assert again.returncode == 0
    assert "0 runs to do" in again.stdout


def test_the_front_page_and_the_claims_come_from_these_runs(project):
    assert nfstudy(project, "report", "--all").returncode == 0
    before = digests(project / "reports")
    page = (project / "reports" / "index.html").read_text()
    embedded = json.loads(re.search(r'<script type="application/json" id="runs">(.*?)</script>', page, re.S)[1])
    logged = {run_id for study in ("energies", "drawn") for run_id in frame_of(project, study)["run_id"]}
    assert set(embedded["runs"]) == logged
    assert embedded["studies"]["energies"]["unit"] == "nats"
    assert {"energies/figures/figure-3.png", "drawn/figures/figure-1.png", "energies/tables/table-1.csv"} <= set(before)
    assert nfstudy(project, "report", "--all").returncode == 0
    assert digests(project / "reports") == before

    checked = nfstudy(project, "check")
    assert checked.returncode == 0, checked.stderr
    assert "energies-mixing-alike" in checked.stdout
    assert re.search(r"energies-planar-below-nice-perm/u1/K=2  −?\d+\.\d\d \[.+\] nats, n = 2", checked.stdout)
