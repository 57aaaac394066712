"""`import nfstudy` is light, and what it offers is there."""

from support.processes import loaded_by

import nfstudy

HEAVY = {"torch", "mlflow", "optuna", "numpy", "pandas", "pydantic", "matplotlib", "numba", "rich"}


def test_importing_the_package_loads_nothing_heavy():
    top, modules = loaded_by("import nfstudy; dir(nfstudy)")
    assert not HEAVY & top
    assert {name for name in modules if name.startswith("nfstudy")} == {"nfstudy"}


def test_reading_a_study_loads_no_torch_or_mlflow():
    top, _ = loaded_by("import nfstudy; assert nfstudy.load_study('quickstart').study == 'quickstart'")
    assert not {"torch", "mlflow", "optuna"} & top


def test_every_public_name_is_there_and_has_a_docstring():
    assert {"load_study", "run", "results", "history", "load_model", "flow"} <= set(dir(nfstudy))
    for name in nfstudy._PUBLIC:
        assert getattr(nfstudy, name) is not None
    assert all(getattr(nfstudy, name).__doc__ for name, module in nfstudy._PUBLIC.items() if module == "nfstudy.api")
