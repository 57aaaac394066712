"""Somebody's own data from a file to a report, in an empty folder, with the command line run for real."""

import json
import shutil

import numpy as np
import pytest
from scipy.io import savemat
from support.command_line import frame_of, nfstudy, numbers_in

from nfstudy.core.errors import DataError, SpecError
from nfstudy.data import load_dataset
from nfstudy.runs.conditions import recorded_settings
from nfstudy.runs.frame import param_text
from nfstudy.runs.tracking.store import open_store
from nfstudy.study.cells import settings_digest
from nfstudy.study.reader import parse_study, read_study

STUDY = """\
study: own
title: Own data
data: {name: file, %s}
model: {latent: 2, hidden: 8, layers: 1, maxout: 2}
objective: {anneal_updates: 20}
train: {updates: 40, batch: 20, optimiser: adam, learning_rate: 3e-3}
evaluation: {samples: 8}
grid: {flow.family: [planar], flow.length: [0, 2]}
exhibits: [summary, samples, learning-curves]
"""

RNG = np.random.default_rng(5)
LATENT = RNG.normal(size=(220, 2))
SHADES = 1 / (1 + np.exp(-2 * LATENT @ RNG.normal(size=(2, 36))))
BITS = (RNG.random(SHADES.shape) < SHADES).astype(np.uint8)
GREYS = np.rint(255 * SHADES).astype(np.uint8).reshape(-1, 6, 6)
REAL = LATENT @ RNG.normal(size=(2, 5)) + 0.3 * RNG.normal(size=(220, 5))
COLOURS = RNG.integers(256, size=(220, 3, 4, 3)).astype(np.uint8)


def write(folder, settings, **contents):
    """Write a study and its data into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "own.npz", **contents)
    (folder / "own.yaml").write_text(STUDY % settings)
    return folder


def halves(array):
    return {"train": array[:180], "test": array[180:]}


CASES = {
    "bits": ("path: own.npz", halves(BITS), "file-bits", "nats per image"),
    "grey, dynamic": ("path: own.npz, binarisation: dynamic", halves(GREYS), "file-dynamic", "nats per image"),
    "grey from 0 to 1": ("path: own.npz, binarisation: dynamic", halves(SHADES), "file-dynamic", "nats per image"),
    "real": ("path: own.npz, kind: real", halves(REAL), "file-real", "nats per example"),
    "colour": ("path: own.npz", halves(COLOURS), "file-uniform", "nats per patch"),
}


@pytest.mark.end_to_end
@pytest.mark.parametrize("case", CASES)
def test_a_study_of_a_file_runs_to_its_report(tmp_path, case):
    settings, contents, name, unit = CASES[case]
    folder = write(tmp_path, settings, **contents)
    done = nfstudy(folder, "run", "own.yaml", "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert (folder / "reports/own/index.html").is_file()
    assert unit in (folder / "reports/own/tables/summary.md").read_text()
    frame = frame_of(folder, "own")
    assert set(frame["outcome"]) == {"finished"}
    assert set(frame["data"]) == {name}
    if case == "bits":
        assert frame["test/nll"].max() < 36 * np.log(2), "less than by coins"
    if case == "real":
        spread = np.log(REAL[:180].std(0)).sum() + 2.5 * np.log(2 * np.pi * np.e)
        assert frame["test/nll"].min() < spread + 1


@pytest.mark.end_to_end
def test_a_file_of_matlab_with_examples_in_columns(tmp_path):
    savemat(tmp_path / "letters.mat", {"data": SHADES[:180].T, "testdata": SHADES[180:].T})
    settings = "path: letters.mat, train_key: data, test_key: testdata, example_axis: last"
    (tmp_path / "own.yaml").write_text(STUDY % settings)
    done = nfstudy(tmp_path, "run", "own.yaml", "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert set(frame_of(tmp_path, "own")["data"]) == {"file-static"}
    # The same numbers from another kind of file are the same runs.
    np.savez(tmp_path / "letters.npz", **halves(SHADES))
    (tmp_path / "own.yaml").write_text(STUDY % "path: letters.npz")
    cells = read_study(tmp_path / "own.yaml").under("default").cells
    assert {cell.key for cell in cells} == set(frame_of(tmp_path, "own")["cell"])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = write(tmp_path_factory.mktemp("own"), "path: own.npz", **halves(BITS))
    done = nfstudy(folder, "run", "own.yaml", "--workers", "1")
    assert done.returncode == 0, done.stderr
    return folder


def copy_of(folder, to):
    return shutil.copytree(folder, to / "copy")


@pytest.mark.end_to_end
def test_a_run_records_the_file_and_its_numbers(finished):
    study = read_study(finished / "own.yaml")
    store = open_store(f"sqlite:///{finished}/mlruns/mlflow.db")
    run = store.client.search_runs([store.studies()["own"]])[0]
    assert run.data.params["data.sha256"] == study.settings.data.sha256
    assert run.data.params["data.sizes"] == "[150, 30, 40]"
    assert json.loads(json.dumps(run.data.params["data.path"])) == "own.npz"
    (recorded,) = run.inputs.dataset_inputs
    source = json.loads(recorded.dataset.source)["source"]
    assert source.startswith("own.npz SHA-256 ")
    assert "valid: 30 of train, drawn once" in source
    assert str(finished) not in (finished / "reports/own/index.html").read_text()


def test_a_run_names_a_file_outside_the_project_without_its_folder(tmp_path):
    path = tmp_path / "elsewhere" / "own.npz"
    path.parent.mkdir()
    np.savez(path, **halves(BITS))
    settings = parse_study(STUDY % f"path: {path}", "own.yaml").settings
    assert settings.data.path == str(path)
    recorded = settings.recorded()
    assert recorded.data.path == "own.npz"
    assert recorded_settings({name: param_text(value) for name, value in recorded.flat().items()}) == recorded
    assert settings_digest(recorded) == settings_digest(settings)
    (tmp_path / "data").mkdir()
    with pytest.raises(DataError, match=r"data/own.npz: is not there; .* hint: put it"):
        load_dataset(recorded.data.source(), [tmp_path / "data"])
    (tmp_path / "data/own.npz").symlink_to(path)
    assert load_dataset(recorded.data.source(), [tmp_path / "data"]).name == "file-bits"


@pytest.mark.end_to_end
def test_other_content_is_not_taken_for_the_same_runs(finished, tmp_path):
    folder = copy_of(finished, tmp_path)
    changed = BITS.copy()
    changed[0, 0] ^= 1
    np.savez(folder / "own.npz", **halves(changed))
    assert "0/1" in nfstudy(folder, "status", "own.yaml").stdout
    assert nfstudy(folder, "run", "own.yaml", "--workers", "1").returncode == 0
    assert len(frame_of(folder, "own")) == 2 * len(frame_of(finished, "own"))
    np.savez_compressed(folder / "own.npz", note="saved again", **halves(BITS))
    assert len(numbers_in(frame_of(folder, "own"))) == 4
    assert nfstudy(folder, "report", "own.yaml").returncode == 0


@pytest.mark.end_to_end
def test_a_run_is_trained_again_from_the_same_file_alone(finished, tmp_path):
    folder = copy_of(finished, tmp_path)
    run_id = frame_of(folder, "own")["run_id"].iloc[0]
    assert nfstudy(folder, "rerun", run_id).returncode == 0
    np.savez(folder / "own.npz", **halves(1 - BITS))
    done = nfstudy(folder, "rerun", run_id)
    assert done.returncode == 2
    assert "own.npz: holds other numbers, of SHA-256" in done.stderr
    (folder / "own.npz").unlink()
    done = nfstudy(folder, "rerun", run_id)
    assert done.returncode == 2
    assert "own.npz: is not there" in done.stderr


@pytest.mark.end_to_end
def test_an_archive_holds_no_data_and_reports_need_none(finished, tmp_path):
    archive, other = tmp_path / "own.tar.xz", tmp_path / "other"
    assert nfstudy(finished, "export", "own.yaml", str(archive)).returncode == 0
    other.mkdir()
    assert nfstudy(other, "import", str(archive)).returncode == 0
    shutil.copy(finished / "own.yaml", other)
    done = nfstudy(other, "report", "own.yaml")
    assert done.returncode == 2
    assert "own.yaml:3:26: data.path: " in done.stderr
    assert "own.npz: is not there" in done.stderr
    # With the digest and the kind stated, a report needs the runs alone.
    digest = read_study(finished / "own.yaml").settings.data.sha256
    (other / "own.yaml").write_text(STUDY % f"path: own.npz, kind: bits, sha256: {digest}")
    done = nfstudy(other, "report", "own.yaml")
    assert done.returncode == 0, done.stderr
    done = nfstudy(other, "run", "own.yaml", "--workers", "1")
    assert done.returncode == 0, done.stderr
    (other / "own.yaml").write_text(
        STUDY.replace("[0, 2]", "[0, 2, 4]") % f"path: own.npz, kind: bits, sha256: {digest}"
    )
    done = nfstudy(other, "run", "own.yaml", "--workers", "1")
    assert (done.returncode, "own.npz: is not there" in done.stderr) == (2, True)


WITH_NAN = np.where(np.arange(220)[:, None] == 7, np.nan, REAL)
PATCHES_AND_VALID = "path: own.npz, kind: patches, training_split: train+valid"
MISTAKES = {
    "nan": ("path: own.npz, kind: real", halves(WITH_NAN), ["train: row 7: got nan"]),
    "no kind": ("path: own.npz", halves(REAL), ["row 0: got", "data.kind: real"]),
    "no test": ("path: own.npz", {"train": BITS}, ["holds no array 'test'", "data.test_share"]),
    "no file": ("path: owm.npz", halves(BITS), ["owm.npz: is not there", "did you mean"]),
    "a device": ("path: /dev/zero", halves(BITS), ["/dev/zero: is neither a file nor a folder"]),
    "no path": ("kind: bits", halves(BITS), ["data.path: is missing"]),
    "objects": ("path: own.npz", {"train": np.array([[1], None], object), "test": BITS}, ["Python objects"]),
    "a large batch": ("path: own.npz, test_share: 0.95", {"train": BITS[:100]}, ["train.batch: got 20"]),
    "another key": ("path: own.npz, binarization: static", halves(BITS), ["binarization", "did you mean"]),
    "bad share": ("path: own.npz, test_share: 1.5", halves(BITS), ["data.test_share: got 1.5; expected:"]),
    "bad kind": ("path: own.npz, kind: floats", halves(BITS), ["data.kind: got 'floats'; expected: 'bits', 'levels'"]),
    "trained on valid": (PATCHES_AND_VALID, halves(GREYS), ["data.training_split"]),
}  # fmt: skip


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_named_where_it_stands(tmp_path, monkeypatch, case):
    settings, contents, words = MISTAKES[case]
    folder = write(tmp_path, settings, **contents)
    monkeypatch.chdir(folder)
    with pytest.raises(SpecError) as caught:
        read_study("own.yaml")
    assert str(caught.value).startswith("own.yaml:")
    for word in words:
        assert word in str(caught.value)


@pytest.mark.end_to_end
@pytest.mark.parametrize("case", ["nan", "no file", "objects"])
def test_a_mistake_ends_with_2_one_message_and_nothing_written(tmp_path, case):
    settings, contents, words = MISTAKES[case]
    folder = write(tmp_path, settings, **contents)
    done = nfstudy(folder, "run", "own.yaml")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: own.yaml:3:")
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["own.npz", "own.yaml"]


def test_what_is_read_is_not_varied(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "path: own.npz", **halves(GREYS))
    text = STUDY % "path: own.npz"
    for old, new, place in (
        ("flow.length: [0, 2]", "data.path: [a.npz, b.npz]", "grid.data.path"),
        ("flow.length: [0, 2]", "data.kind: [bits, levels]", "grid.data.kind"),
        ("exhibits:", "budgets: {small: {data.path: b.npz}}\nexhibits:", "budgets.small.data.path"),
    ):
        with pytest.raises(SpecError, match=rf"{place}: varies what data are read; expected: under 'data'"):
            parse_study(text.replace(old, new), "own.yaml")
    varied = text.replace("name: file, path: own.npz", "name: digits").replace(
        "[0, 2]", "[0], data.name: [digits, file]"
    )
    with pytest.raises(SpecError, match=r"grid.data.name.1: varies what data are read"):
        parse_study(varied, "own.yaml")
    study = parse_study(text.replace("flow.length: [0, 2]", "data.binarisation: [static, dynamic]"), "own.yaml")
    assert len({cell.key for cell in study.under("default").cells}) == 2
