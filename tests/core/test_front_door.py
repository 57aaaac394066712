"""Licence, citation, packaging, CI and container say the same, and name what there is."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from PIL import Image
from ruamel.yaml import YAML

import nfstudy

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def yaml(name):
    return YAML(typ="safe").load(ROOT / name)


def test_version_licence_and_authors_agree_everywhere():
    citation = yaml("CITATION.cff")
    assert nfstudy.__version__ == PROJECT["version"] == citation["version"]
    assert citation["license"] == PROJECT["license"] == "MIT"
    assert (ROOT / PROJECT["license-files"][0]).read_text().startswith("MIT License")
    assert [author["name"] for author in citation["authors"]] == [author["name"] for author in PROJECT["authors"]]
    newest = re.search(r"^## (\S+) \((\S+)\)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert newest.groups() == (nfstudy.__version__, str(citation["date-released"]))


def test_ci_runs_the_script_on_every_python_of_the_metadata():
    (job,) = yaml(".github/workflows/ci.yml")["jobs"].values()
    stated = [
        found[1] for line in PROJECT["classifiers"] if (found := re.fullmatch(r"Programming.* :: (3\.\d+)", line))
    ]
    assert job["strategy"]["matrix"]["python"] == stated
    assert "bash .ci/run" in [step.get("run") for step in job["steps"]]
    assert (ROOT / ".ci/run").exists()


def test_hooks_run_tools_that_are_pinned():
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}
    hooks = [hook for repo in yaml(".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    tools = {re.match(r"\.venv/bin/(\w+)", hook["entry"])[1] for hook in hooks}
    assert tools == {"ruff", "mypy"}
    assert tools <= pinned


def test_the_container_copies_what_there_is_and_runs_as_a_user():
    text = (ROOT / "Dockerfile").read_text()
    copied = [name for line in re.findall(r"^COPY (.+)$", text, re.M) for name in line.split()[:-1]]
    assert copied
    assert [name for name in copied if not (ROOT / name).exists()] == []
    # The build sees only what .dockerignore lets through, and building the wheel needs all that pyproject.toml names.
    shown = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert shown == set(copied)
    assert {PROJECT["readme"], *PROJECT["license-files"], "nfstudy", "studies"} <= set(copied)
    assert re.findall(r"^USER (\w+)", text, re.M)[-1] != "root"
    assert [folder in text.split("VOLUME")[1] for folder in ("mlruns", "reports", "data")] == [True] * 3


@pytest.mark.parametrize("name", ["ISSUE_TEMPLATE/bug.md", "ISSUE_TEMPLATE/wish.md"])
def test_issue_templates_have_the_head_that_code_hosts_read(name):
    _, head, body = (ROOT / ".github" / name).read_text().split("---\n")
    assert {"name", "about"} <= YAML(typ="safe").load(head).keys()
    assert body.strip()


README = (ROOT / "README.md").read_text()


def test_readme_says_what_it_is_and_how_to_begin_before_anything_else():
    """One sentence, the verdict, Figure 4; Table 2 and the ledger; two commands."""
    shown = (
        "A reproduction suite for",
        "<!-- verdict: begin -->\nOf the paper's ",
        "**What stands:** ",
        "figure-4.png",
        "### Table 2",
        "| NF (planar), K = 80 |",
        "### Claims of the paper",
        "$ make quickstart",
    )
    places = [README.index(words) for words in shown]
    assert places == sorted(places)
    first, *_ = README.partition("\n## ")
    assert len(first.splitlines()) < 30
    assert re.findall(r"^## (.+)$", README, re.M) == ["Results", "How to begin", "A study of your own", "Guarantees"]
    assert len(README.encode()) < 14_000
    by_hand = re.sub(r"<!-- results: begin -->.*<!-- results: end -->", "", README, flags=re.S)
    assert len(by_hand.splitlines()) < 150


@pytest.mark.parametrize("link", sorted({*re.findall(r"\]\(([^)\s]+)\)", README)}))
def test_links_of_readme_lead_somewhere(link):
    if "://" in link or link.startswith("../../"):  # Elsewhere, or to the code host's own pages.
        return
    name, _, anchor = link.partition("#")
    assert (ROOT / name).exists()
    if anchor:
        text = (ROOT / (name or "README.md")).read_text()
        headings = re.findall(r"^#+ (.+)$", text, re.M)
        named = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert anchor in {*named, *re.findall(r'<a id="([^"]+)"></a>', text)}


def test_the_picture_of_the_front_page_is_taken_with_a_browser_and_says_of_which_page(tmp_path):
    (tmp_path / "tools").mkdir()
    (tmp_path / "docs").mkdir()
    (tmp_path / "reports").mkdir()
    shutil.copy(ROOT / "tools" / "screenshot.py", tmp_path / "tools")
    Image.new("RGB", (1280, 800), "white").save(tmp_path / "taken.png")
    browser = tmp_path / "browser"
    browser.write_text(
        "#!/bin/sh\nfor each; do case $each in --screenshot=*) "
        f'cp {tmp_path}/taken.png "${{each#--screenshot=}}";; esac; done\n'
    )
    browser.chmod(0o755)

    def take():
        command = [sys.executable, str(tmp_path / "tools" / "screenshot.py")]
        asked = {**os.environ, "CHROMIUM": str(browser), "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, env=asked, capture_output=True, text=True)

    without = take()
    assert without.returncode == 2
    assert "error: no reports/index.html; hint: make reference" in without.stderr
    (tmp_path / "reports" / "index.html").write_text("<p>front</p>")
    assert take().returncode == 0
    assert Image.open(tmp_path / "docs" / "report.png").size == (1280, 800)
    digest = hashlib.sha256(b"<p>front</p>").hexdigest()
    assert (tmp_path / "docs" / "report.png.of").read_text() == f"{digest}\n"
