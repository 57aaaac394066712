"""The views that MLflow's pages offer of a study, as its pages read them."""

import json
import zlib
from base64 import b64decode

from nfstudy.runs.views import MAX_TAG, budgets_of, may_replace, numeric_axes, runs_page, view, view_tag

METRICS = {"test/free_energy", "test/elbo", "test/kl", "test/nll", "valid/elbo"}


def state_of(text):
    """Return a view's state as MLflow's pages unpack it."""
    found = json.loads(text)
    assert isinstance(found["name"], str)
    assert isinstance(found["createdAt"], int)
    head, _, packed = found["state"].partition(";")
    assert head == "deflate"
    return json.loads(zlib.decompress(b64decode(packed)))


def test_the_table_shows_family_k_d_and_the_three_numbers_grouped_by_cell():
    state = state_of(view("laptop", {"planar K=8 D=4", "none K=0 D=4"}, ["flow.length"], METRICS, 5))
    assert state["selectedColumns"] == [
        "params.`flow.family`",
        "params.`flow.length`",
        "params.`model.latent`",
        "metrics.`test/free_energy`",
        "metrics.`test/kl`",
        "metrics.`test/nll`",
    ]
    assert state["groupBy"]["groupByKeys"] == [{"mode": "tag", "groupByData": "nfstudy.cell_name"}]
    assert state["groupsExpanded"] == {
        "tag.nfstudy.cell_name.none K=0 D=4": False,
        "tag.nfstudy.cell_name.planar K=8 D=4": False,
    }
    assert "tags.`nfstudy.budget` = 'laptop'" in state["searchFilter"]


def test_the_charts_are_over_k_and_of_runs_of_before_show_the_bound():
    state = state_of(view("laptop", {"a"}, ["flow.length"], METRICS - {"test/free_energy", "test/nll"}, 5))
    assert [(chart["xaxis"]["key"], chart["yaxis"]["key"]) for chart in state["compareRunCharts"]] == [
        ("flow.length", "test/elbo"),
        ("flow.length", "test/kl"),
    ]
    assert [section["name"] for section in state["compareRunSections"]] == ["Over K"]


def test_a_study_without_a_numeric_axis_has_no_charts_of_ours():
    assert "compareRunCharts" not in state_of(view("default", {"a"}, [], METRICS, 5))


def test_axes_are_numbers_that_differ_k_first():
    points = [
        {"flow.family": "planar", "flow.length": 8, "data.batch": 50, "model.latent": 2, "flow.constraint": True},
        {"flow.family": "radial", "flow.length": 0, "data.batch": 50, "model.latent": 4, "flow.constraint": False},
        {"data.mixed": 1},
        {"data.mixed": "all", "train.betas": [1, 2]},
    ]
    assert numeric_axes(points) == ["flow.length", "model.latent"]


def test_of_thousands_of_cells_the_view_still_fits_a_tag():
    text = view("laptop", {f"planar K={n * n} train.learning_rate {n / 7}" for n in range(5000)}, [], METRICS, 5)
    assert len(text) <= MAX_TAG
    assert state_of(text)["groupsExpanded"] == {}


def test_a_view_that_somebody_saved_in_its_place_stays():
    old, new = view("laptop", {"a"}, [], METRICS, 5), view("laptop", {"a", "b"}, [], METRICS, 6)
    assert may_replace("", new)
    assert may_replace(old, new)
    assert not may_replace(old, view("laptop", {"a"}, [], METRICS, 9)), "it shows the same"
    saved = {name: value for name, value in json.loads(old).items() if name != "madeBy"}  # As MLflow writes it.
    assert not may_replace(json.dumps(saved), new)
    assert not may_replace("deflate;of an earlier version", new)


def test_addresses_and_budgets():
    page = runs_page("http://lab:5000/", "3", "laptop")
    assert page == "http://lab:5000/#/experiments/3/runs?workflowType=machine_learning&viewStateShareKey=nfstudy-laptop"
    assert runs_page("http://lab:5000", "3").endswith("/#/experiments/3/runs?workflowType=machine_learning")
    tags = {view_tag("laptop"): "", view_tag("a b"): "", "mlflow.sharedViewState.mine": ""}
    assert budgets_of(tags) == ["a b", "laptop"]
