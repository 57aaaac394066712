"""Files of data sets that scikit-learn carries, found without importing it: that takes over a second."""

from __future__ import annotations

from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from nfstudy.core.errors import DataError


def packaged_file(name: str) -> tuple[Path, str]:
    """Return a file below `sklearn/datasets`, and "scikit-learn" with its version.

    Raises:
        DataError: the installed scikit-learn does not carry it.
    """
    found = find_spec("sklearn")
    folders = (found and found.submodule_search_locations) or ()
    path = next((path for folder in folders if (path := Path(folder) / "datasets" / name).is_file()), None)
    if path is None:
        raise DataError(f"sklearn/datasets/{name}: is not there; expected: scikit-learn as constraints.txt pins it")
    return path, f"scikit-learn {version('scikit-learn')}"
