"""nfstudy: tracked, repeatable studies of *Variational Inference with Normalizing Flows* (Rezende & Mohamed, 2015).

From Python: `load_study`, `run`, `results`, `history`, `load_model` and `flow` (see `nfstudy.api`). What a plug-in
declares things with is imported from here too: `from nfstudy import FlowFamily, Record`. Importing the package loads
none of it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nfstudy.api import flow as flow
    from nfstudy.api import history as history
    from nfstudy.api import load_model as load_model
    from nfstudy.api import load_study as load_study
    from nfstudy.api import results as results
    from nfstudy.api import run as run
    from nfstudy.core.declarations import DataSource as DataSource
    from nfstudy.core.declarations import ExhibitDeclaration as ExhibitDeclaration
    from nfstudy.core.declarations import ExhibitOptions as ExhibitOptions
    from nfstudy.core.declarations import FlowFamily as FlowFamily
    from nfstudy.core.declarations import GradientEstimator as GradientEstimator
    from nfstudy.core.declarations import Likelihood as Likelihood
    from nfstudy.core.declarations import Metric as Metric
    from nfstudy.core.declarations import Paper as Paper
    from nfstudy.core.errors import DataError as DataError
    from nfstudy.core.errors import UserError as UserError
    from nfstudy.core.fields import Count as Count
    from nfstudy.core.fields import Fraction as Fraction
    from nfstudy.core.fields import NonNegative as NonNegative
    from nfstudy.core.fields import Positive as Positive
    from nfstudy.core.fields import Record as Record
    from nfstudy.data.dataset import Splits as Splits
    from nfstudy.data.dataset import data_generator as data_generator
    from nfstudy.data.dataset import make_dataset as make_dataset

__version__ = "0.2.0"

_PUBLIC = {
    **dict.fromkeys(("load_study", "run", "results", "history", "load_model", "flow"), "nfstudy.api"),
    "UserError": "nfstudy.core.errors",
    "FlowFamily": "nfstudy.core.declarations",
    "ExhibitDeclaration": "nfstudy.core.declarations",
    "ExhibitOptions": "nfstudy.core.declarations",
    "Metric": "nfstudy.core.declarations",
    "Paper": "nfstudy.core.declarations",
    "DataSource": "nfstudy.core.declarations",
    "Likelihood": "nfstudy.core.declarations",
    "GradientEstimator": "nfstudy.core.declarations",
    "DataError": "nfstudy.core.errors",
    "Splits": "nfstudy.data.dataset",
    "make_dataset": "nfstudy.data.dataset",
    "data_generator": "nfstudy.data.dataset",
    "Record": "nfstudy.core.fields",
    "Count": "nfstudy.core.fields",
    "Positive": "nfstudy.core.fields",
    "NonNegative": "nfstudy.core.fields",
    "Fraction": "nfstudy.core.fields",
}
"""Public name -> its module, imported when the name is first used."""


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'nfstudy' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*globals(), *_PUBLIC]
