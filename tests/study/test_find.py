"""Studies by name: a local file goes before a shipped one, and what is nowhere is said to be."""

from pathlib import Path

import pytest

from nfstudy.core.errors import SpecError
from nfstudy.study.find import find_studies, find_study, shipped_studies

ROOT = Path(__file__).parents[2]
STUDY = (
    "study: {0}\ntitle: T\ndata: {{name: digits}}\ntrain: {{updates: 1, learning_rate: 1e-3}}\nexhibits: [summary]\n"
)


def write(path, name):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(STUDY.format(name))
    return path


def test_all_studies_of_the_repository_are_shipped():
    assert shipped_studies() == {path.stem: path for path in (ROOT / "studies").glob("*.yaml")}


def test_a_local_file_goes_before_the_project_s_and_that_before_a_shipped_one(tmp_path, monkeypatch):
    root, here = tmp_path, tmp_path / "inner"
    here.mkdir()
    monkeypatch.chdir(here)
    assert find_study("quickstart", root) == ROOT / "studies/quickstart.yaml"
    for place in (
        "studies/quickstart.yaml",
        "quickstart.yaml",
        "inner/studies/quickstart.yaml",
        "inner/quickstart.yaml",
    ):
        path = write(root / place, "mine")
        assert find_study("quickstart", root).resolve() == path
    (here / "quickstart").mkdir()  # A folder of that name, such as one of reports, is no study.
    assert find_study("quickstart", root).resolve() == here / "quickstart.yaml"
    plain = write(here / "plain", "plain")
    assert find_study("plain", root).resolve() == plain
    assert find_study("gone/quickstart", root) == Path("gone/quickstart")
    assert find_study("gone.yaml", root) == Path("gone.yaml")


def test_a_name_that_is_nowhere_is_told_with_the_one_that_was_meant(tmp_path):
    with pytest.raises(
        SpecError, match=r"quikstart: no such study; expected: .*annealing, .*did you mean 'quickstart'"
    ):
        find_study("quikstart", tmp_path)


def test_a_study_that_was_merged_is_told_with_what_it_is_now(tmp_path):
    with pytest.raises(SpecError, match="no such study any more; hint: it is the budget first-40000 of mnist now"):
        find_study("mnist-long", tmp_path)


def test_several_studies_are_read_from_files_folders_and_names(tmp_path):
    write(tmp_path / "some/a.yaml", "a")
    b = write(tmp_path / "b.yaml", "b")
    found = find_studies([tmp_path / "some", b, "quickstart"], tmp_path)
    assert [study.study for study in found.values()] == ["a", "b", "quickstart"]
    with pytest.raises(SpecError, match=r"got 'a' as in another file"):
        find_studies([tmp_path / "some", write(tmp_path / "c.yaml", "a")], tmp_path)


def test_of_nothing_named_the_project_s_studies_are_read_else_the_shipped_ones(tmp_path):
    assert [path.stem for path in find_studies((), tmp_path)] == [*shipped_studies()]
    write(tmp_path / "studies/a.yaml", "a")
    assert [path.stem for path in find_studies((), tmp_path)] == ["a"]
    (tmp_path / "studies/a.yaml").unlink()
    with pytest.raises(SpecError, match="contains no study files"):
        find_studies((), tmp_path)


def test_a_file_may_end_in_yml_wherever_studies_are_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "studies/mine.yml", "mine")
    assert find_study("mine", tmp_path).resolve() == path
    assert [spec.study for spec in find_studies([], tmp_path).values()] == ["mine"]
    write(tmp_path / "studies/mine.yaml", "mine")
    with pytest.raises(SpecError, match="study: got 'mine' as in another file"):
        find_studies([], tmp_path)
