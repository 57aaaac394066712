"""The notebooks of the documents run as they are, in an empty folder."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs" / "notebooks").glob("*.ipynb"))


@pytest.fixture
def run_notebook(tmp_path, monkeypatch):
    """Return a function that runs a notebook in an empty folder and returns its names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def run(path):
        space = {"__name__": "notebook"}
        for cell in json.loads(path.read_text())["cells"]:
            if cell["cell_type"] == "code":
                exec(compile("".join(cell["source"]), f"{path.name}, {cell['id']}", "exec"), space)
        return space

    yield run
    plt.close("all")


@pytest.mark.end_to_end
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, run_notebook, tmp_path):
    """They assert what they show; of the first, what it leaves behind is looked at too."""
    space = run_notebook(path)
    if path.stem == "first-steps":
        assert (tmp_path / "reports/first/index.html").exists()
        assert space["model"].run_id in [*space["results"]["run_id"]]
        # A second run has nothing to do, and says the same.
        assert space["nfstudy"].run("first.yaml", workers=1).equals(space["results"])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path):
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert cells
    assert [cell["id"] for cell in cells if cell["outputs"] or cell["execution_count"]] == []
    assert any("assert " in "".join(cell["source"]) for cell in cells)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_in_the_navigation(path):
    site = (Path(__file__).parents[1] / "mkdocs.yml").read_text()
    assert f"notebooks/{path.stem}.md" in site
