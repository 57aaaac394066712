"""Layers point one way: who may import whom, held by looking at the code and at what a process has loaded."""

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
            names.add(node.module)
    return names


def importers(package):
    found = {name_of(path): imports_of(path) for path in MODULES}
    return {module for module, names in found.items() if any(f"{name}.".startswith(f"{package}.") for name in names)}


@pytest.mark.parametrize(
    ("package", "modules"),
    [
        ("mlflow", {f"nfstudy.runs.tracking.{module}" for module in ("store", "mlflow_export", "mlflow_import")}),
        ("optuna", {"nfstudy.runner.search"}),
        ("ray", {"nfstudy.runner.ray_engine"}),
    ],
)
def test_these_modules_alone_import(package, modules):
    assert importers(package) == modules


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
