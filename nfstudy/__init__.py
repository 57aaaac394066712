"""nfstudy: tracked, repeatable studies of *Variational Inference with Normalizing Flows* (Rezende & Mohamed, 2015).

What a plug-in declares things with is imported from here: `from nfstudy import FlowFamily, Record`.
"""

from importlib import import_module
from typing import Any

__version__ = "0.2.0"

_PUBLIC = {
    "FlowFamily": "nfstudy.core.declarations",
    "ExhibitDeclaration": "nfstudy.core.declarations",
    "Metric": "nfstudy.core.declarations",
    "Paper": "nfstudy.core.declarations",
    "DataSource": "nfstudy.core.declarations",
    "Likelihood": "nfstudy.core.declarations",
    "DataError": "nfstudy.core.errors",
    "Splits": "nfstudy.data.dataset",
    "make_dataset": "nfstudy.data.dataset",
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
