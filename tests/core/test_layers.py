"""Layers point one way: who may import whom, held by looking at the code and at what a process has loaded.

A room is a package, or modules that belong together. `ROOMS` lists them from the bottom up, each with those that it
imports; an import that is not in the table fails, and so does one of the table that is not there any more.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from support.processes import loaded_by

PACKAGE = Path(__file__).parents[2] / "nfstudy"
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))


def name_of(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path) for path in MODULES}


def imports_of(path):
    """Return the dotted names that a module imports anywhere in it, its type-checking blocks left out."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for child in ast.walk(node)
    }
    names = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            modules = [name for name in inside if name in NAMES]
            names |= {*modules, *([node.module] if len(modules) < len(inside) else [])}
    return names


def importers(package):
    found = {name_of(path): imports_of(path) for path in MODULES}
    return {module for module, names in found.items() if any(f"{name}.".startswith(f"{package}.") for name in names)}


@pytest.mark.parametrize(
    ("package", "modules"),
    [
        ("mlflow", {f"nfstudy.runs.tracking.{module}" for module in ("store", "mlflow_export", "mlflow_import")}),
        ("optuna", {"nfstudy.runner.proposals", "nfstudy.runner.dashboard"}),
        ("ray", {"nfstudy.runner.ray_engine"}),
    ],
)
def test_these_modules_alone_import(package, modules):
    assert importers(package) == modules


_REPORT_BASE = ("core", "study", "runs")

ROOMS = {
    "nfstudy": (),
    "core": (),
    "films": (),
    "flows": ("core",),
    "data": ("core",),
    "study": ("core", "data"),
    "runs": ("core", "study"),
    "runs.tracking": ("nfstudy", "core", "study", "runs"),
    "runs.archive": ("nfstudy", "core", "runs", "runs.tracking"),
    "inference.weights": ("study",),
    "inference.likelihoods": ("core", "study", "inference.weights"),
    "inference.models": ("core", "flows", "study", "inference.weights", "inference.likelihoods"),
    "inference.objectives": ("core", "study", "inference.models"),
    "inference.problems": (
        *("core", "films", "flows", "data", "study", "runs"),
        *("inference.models", "inference.objectives", "inference.likelihoods"),
    ),
    "inference.training": (
        *("core", "films", "data", "study", "runs"),
        *("inference.models", "inference.objectives", "inference.problems"),
    ),
    "runner": ("nfstudy", "core", "data", "study", "runs", "runs.tracking", "inference.training"),
    "report.labels": ("core", "study"),
    "report.paper": ("core", "study", "report.labels"),
    "report.statistics": (*_REPORT_BASE, "report.labels", "report.paper"),
    "report.tables": ("core", "report.paper", "report.statistics"),
    "report.plots": ("core",),
    "report.exhibits": (
        *_REPORT_BASE,
        "films",
        *(f"report.{part}" for part in ("labels", "paper", "statistics", "tables", "plots")),
    ),
    "report.claims": (
        *("core", "study", "runs", "runs.tracking"),
        *(f"report.{part}" for part in ("labels", "paper", "statistics", "tables", "exhibits")),
    ),
    "report": (
        *(*_REPORT_BASE, "films", "runs.archive"),
        *(f"report.{part}" for part in ("labels", "paper", "statistics", "tables", "plots", "exhibits", "claims")),
    ),
    "papers": (
        *(*_REPORT_BASE, "data"),
        *(f"report.{part}" for part in ("labels", "paper", "statistics", "tables", "plots", "exhibits")),
        "report",
    ),
    "cli": (
        *(
            "nfstudy",
            "core",
            "flows",
            "data",
            "study",
            "runs",
            "runs.archive",
            "runs.tracking",
            "inference.problems",
            "runner",
        ),
        *("report.claims", "report"),
    ),
    "api": ("core", "flows", "study", "runs", "runs.tracking", "inference.problems", "runner", "cli"),
    "__main__": ("core", "cli"),
}
"""Room -> the rooms that it imports. What a name of `ROOMS` begins with belongs to it, unless a longer name has it:
`report` is what is left of it, the pages and what builds them."""


def room_of(module):
    """Return the room with the longest name that a module's name begins with."""
    inside = module.removeprefix("nfstudy.")
    fitting = [room for room in ROOMS if f"{inside}.".startswith(f"{room}.")]
    return max(fitting, key=len)


def arrows():
    """Return (room, room that it imports) -> the modules that do so."""
    found = {}
    for path in MODULES:
        importer = name_of(path)
        for name in imports_of(path):
            if name in NAMES and room_of(name) != room_of(importer):
                found.setdefault((room_of(importer), room_of(name)), set()).add(importer)
    return found


def test_every_room_imports_only_those_below_it():
    order = list(ROOMS)
    for room, below in ROOMS.items():
        assert all(order.index(name) < order.index(room) for name in below), room


def test_every_arrow_is_one_of_the_table_and_every_one_of_the_table_is_there():
    allowed = {(room, below) for room, names in ROOMS.items() for below in names}
    found = arrows()
    assert {arrow: found[arrow] for arrow in found.keys() - allowed} == {}
    assert allowed - found.keys() == set(), "imported no longer: take it out of the table"


def test_no_paper_is_imported_but_through_the_registry():
    assert importers("nfstudy.papers") == {name_of(path) for path in MODULES if "papers" in path.parts} - {
        "nfstudy.papers",
        "nfstudy.papers.rezende2015",
        "nfstudy.papers.rezende2015.follow_ups",
        "nfstudy.papers.rezende2015.stated",
    }


def test_declarations_load_nothing_heavy():
    top, _ = loaded_by(
        "from nfstudy.core import registry\n"
        "for kind in ('flows', 'data', 'likelihoods', 'exhibits', 'metrics', 'papers'):\n"
        "    assert registry.all_of(kind), kind"
    )
    assert not {"torch", "matplotlib", "seaborn", "pandas", "scipy", "mlflow", "optuna", "sklearn"} & top


REPORT_MODULES = [name_of(path) for path in MODULES if "report" in path.parts]


def test_reports_load_no_torch_mlflow_or_optuna():
    top, _ = loaded_by("\n".join(f"import {module}" for module in REPORT_MODULES))
    assert not {"torch", "mlflow", "optuna"} & top


def test_tracking_and_data_load_no_torch():
    top, _ = loaded_by(
        "import nfstudy.runs.tracking.store, nfstudy.data, nfstudy.cli.run, nfstudy.cli.status, nfstudy.runner.launch"
    )
    assert "torch" not in top


def test_archives_and_sqlite_files_are_read_without_torch_mlflow_and_optuna():
    archive = ("writer", "reader", "transfer")
    top, _ = loaded_by("\n".join(f"import nfstudy.runs.archive.{module}" for module in archive))
    assert not {"torch", "mlflow", "optuna"} & top


def test_what_a_worker_runs_knows_of_no_search_and_no_store():
    top, modules = loaded_by(
        "import nfstudy.runner.local_engine, nfstudy.inference.training.trial, nfstudy.inference.training.cost"
    )
    assert not {"mlflow", "optuna"} & top
    assert (
        not {"nfstudy.runs.tracking.store", "nfstudy.runner.search", "nfstudy.runner.launch", "nfstudy.report"}
        & modules
    )


def test_flows_know_nothing_of_studies():
    _, modules = loaded_by("import nfstudy.flows")
    ours = {name for name in modules if name.startswith("nfstudy.")}
    assert {name for name in ours if not name.startswith(("nfstudy.flows", "nfstudy.core"))} == set()


def test_help_loads_nothing_heavy():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "nfstudy", "--help"], capture_output=True, text=True, check=True
    )
    loaded = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "usage: python -m nfstudy" in done.stdout
    assert not {"torch", "mlflow", "optuna", "numpy", "pandas", "pydantic", "matplotlib", "rich"} & loaded


def test_stores_know_nothing_of_archives():
    stores = [name_of(path) for path in MODULES if "tracking" in path.parts]
    _, modules = loaded_by("\n".join(f"import {module}" for module in stores))
    assert not {name for name in modules if name.startswith("nfstudy.runs.archive")}
