"""Fixtures that more than one test module uses."""

import os
import secrets
import shutil
from pathlib import Path

# Before torch is imported: one thread, as workers have, so that tests do not crowd the cores.
os.environ["OMP_NUM_THREADS"] = "1"
# Before Ray is: a token for the tests' clusters, else it writes one into the home folder.
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)

import pytest
import torch
from support.template_store import make_stores_from_a_template

from nfstudy.core import plugins, registry
from nfstudy.core.project import Project
from nfstudy.data.cifar10 import BATCHES
from nfstudy.data.files import locate
from nfstudy.data.mnist import AMAT_FILES, IMAGE_FILES, LABEL_FILES
from nfstudy.runs.tracking.store import open_store

CHECKOUT = Path(__file__).parents[1]

make_stores_from_a_template()


def pytest_collection_modifyitems(items):
    """Begin with the modules that start processes: the last of what is shared out should not be the longest."""
    slow = {item.path for item in items if item.get_closest_marker("end_to_end")}
    items.sort(key=lambda item: item.path not in slow)


def skip_without(files, folders):
    """Skip the test where one of the data files is in none of the folders, saying which and where they belong."""
    missing = [file.name for file in files if locate(file, folders) is None]
    if missing:
        where = "docs/reference.md, Data sets, says where to get them"
        pytest.skip(f"no {', '.join(missing)} under $NFSTUDY_DATA or data/ ({where})")


@pytest.fixture(autouse=True)
def _same_draws_each_time():
    """Seed the generator that a test uses which names none: it fails each time or never."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_plug_in_stays():
    """Forget the plug-ins that a test installs in its own process: later runs of others would record them."""
    installed, declared = dict(plugins._installed), {kind: dict(found) for kind, found in registry._declared.items()}
    yield
    if plugins._installed.keys() - installed.keys():
        plugins._installed.clear()
        plugins._installed.update(installed)
        registry._declared.clear()
        registry._declared.update(declared)
        registry._version += 1


@pytest.fixture(scope="session")
def mnist_folders():
    """Return folders that hold all of MNIST: both the IDX files, with labels, and the fixed binarisation."""
    folders = Project(CHECKOUT).data_folders
    skip_without((*AMAT_FILES, *IMAGE_FILES, *LABEL_FILES), folders)
    return folders


@pytest.fixture(scope="session")
def cifar10_folders():
    """Return folders that hold the binary version of CIFAR-10, unpacked."""
    folders = Project(CHECKOUT).data_folders
    skip_without(BATCHES, folders)
    return folders


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """A folder with a store, made once: making the schema takes seconds."""
    folder = tmp_path_factory.mktemp("template") / "mlruns"
    open_store(f"sqlite:///{folder}/mlflow.db", create=True)
    return folder


@pytest.fixture
def store(empty_store, tmp_path):
    """An empty store in `tmp_path / "mlruns"`."""
    shutil.copytree(empty_store, tmp_path / "mlruns")
    return open_store(f"sqlite:///{tmp_path}/mlruns/mlflow.db")
