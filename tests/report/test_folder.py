"""A folder that is no report of the study is never written into, and two study files of one name are refused."""

import json

import pytest

from nfstudy.core.errors import ReportError, SpecError
from nfstudy.core.project import Project
from nfstudy.report.build import write_files
from nfstudy.report.folder import require_report_folder
from nfstudy.study.reader import require_sole


def report(study, **files):
    content = {"index.html": b"<p>" + study.encode(), **files}
    manifest = {"study": study, "files": dict.fromkeys(content, "")}
    return {**content, "manifest.json": json.dumps(manifest).encode()}


def front(text=b"all"):
    return {"index.html": text, "manifest.json": json.dumps({"studies": [], "files": {"index.html": ""}}).encode()}


FOREIGN = {
    "a page of somebody": ({"index.html": b"mine"}, "holds index.html, and no report of study 's'"),
    "benchmarks": ({"step.csv": b"1", "step.json": b"{}"}, "holds step.csv, step.json, and no report of study 's'"),
    "the report of another study": (report("other"), "holds the report of study 'other'"),
    "the page over all studies": (front(), "holds a page over several studies"),
    "another manifest": ({"manifest.json": b'{"short_name": "an app"}'}, "not the manifest of a report"),
    "a manifest of garbage": ({"manifest.json": b"\xff["}, "not the manifest of a report"),
    "a manifest that leads out": (
        {"manifest.json": json.dumps({"study": "s", "files": {"../x": ""}}).encode()},
        "lists '../x'; expected: files inside",
    ),
}


def put(folder, files):
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("what", FOREIGN)
def test_what_is_no_report_of_the_study_is_refused_and_left_as_it_is(what, tmp_path):
    files, words = FOREIGN[what]
    put(tmp_path / "s", files)
    with pytest.raises(ReportError) as caught:
        write_files(tmp_path / "s", report("s"), "s")
    assert words in str(caught.value)
    assert {path.name: path.read_bytes() for path in (tmp_path / "s").iterdir()} == files


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "s").write_text("mine")
    with pytest.raises(ReportError, match="is a file; expected: a folder for a report"):
        write_files(tmp_path / "s", report("s"), "s")


def test_a_link_that_leads_nowhere_is_refused_and_nothing_is_made_there(tmp_path):
    (tmp_path / "s").symlink_to(tmp_path / "gone")
    with pytest.raises(ReportError, match=r"is a link to .*gone, which is not there; expected: a folder"):
        write_files(tmp_path / "s", report("s"), "s")
    assert not (tmp_path / "gone").exists()


def test_a_new_an_empty_and_an_earlier_reports_folder_are_written(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".gitkeep").write_text("")
    for name in ("new", "empty"):
        write_files(tmp_path / name, report("s", **{"old.csv": b"1"}), "s")
        assert require_report_folder(tmp_path / name, "s") == {"index.html", "old.csv"}
        write_files(tmp_path / name, report("s"), "s")
        assert not (tmp_path / name / "old.csv").exists()
    assert (tmp_path / "empty" / ".gitkeep").exists()


def test_the_page_over_all_studies_takes_no_foreign_pages_place(tmp_path):
    put(tmp_path / "a", {"index.html": b"mine", "claims-baseline.json": b"{}"})
    with pytest.raises(ReportError, match=r"holds index\.html, and no report of all studies"):
        write_files(tmp_path / "a", front(), None)
    put(tmp_path / "b", report("s"))
    with pytest.raises(ReportError, match="holds another report"):
        write_files(tmp_path / "b", front(), None)
    put(tmp_path / "c", {"claims-baseline.json": b"{}"})
    for text in (b"first", b"second"):
        write_files(tmp_path / "c", front(text), None)
    assert (tmp_path / "c" / "index.html").read_bytes() == b"second"


def test_two_files_of_one_study_are_refused_wherever_in_the_project(tmp_path):
    (tmp_path / "studies").mkdir()
    (tmp_path / "aaa.yaml").symlink_to("nowhere")  # One that cannot be read hides no other.
    mine = tmp_path / "copy.yaml"
    mine.write_text("study: s\ntitle: Copy\n")
    require_sole(mine, "s", tmp_path)
    for name, text, clash in (
        ("studies/a.yaml", "study: s\ntitle: First\n", True),
        ("studies/a.yaml", "{title: First, study: 's'}\n", True),
        ("b.yml", "study: s  # ours\ntitle: First\n", True),
        ("b.yml", "study: s\ntitle: Copy\n", False),
        ("b.yml", "study: st\ntitle: About s\n", False),
        ("b.yml", "study: s: [\n", False),
    ):
        other = tmp_path / name
        other.write_text(text)
        if clash:
            with pytest.raises(SpecError, match=r"copy\.yaml: study: got 's' as in .*; expected: a name of its own"):
                require_sole(mine, "s", tmp_path)
        else:
            require_sole(mine, "s", tmp_path)
        other.unlink()


def test_a_project_that_ships_reference_runs_keeps_ones_own_reports_apart(tmp_path):
    project = Project(tmp_path)
    assert project.report("s") == tmp_path / "reports" / "s"
    put(tmp_path / "mlruns" / "reference", {"mnist.tar.xz": b""})
    assert project.report("s") == tmp_path / "reports" / "own" / "s"
    assert project.kept_reports == tmp_path / "reports"
