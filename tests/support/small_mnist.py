"""MNIST of some hundred drawn images, whose files coordinator and workers take for the authors' own."""

import hashlib
from dataclasses import replace

import numpy as np

from nfstudy.data import mnist
from nfstudy.runner import local_engine as workers

IMAGES = 200
FOLDER = "binarized_mnist"
_work = workers._work


def contents():
    """Return name -> bytes of the three files of the fixed binarisation, the same in every process."""
    generator = np.random.default_rng(0)
    drawn = {}
    for file in mnist.AMAT_FILES:
        rows = generator.integers(2, size=(IMAGES, mnist.PIXELS))
        drawn[file.name] = b"".join(" ".join(map(str, row)).encode() + b"\n" for row in rows)
    return drawn


def files():
    """Return what stands in the place of `mnist.AMAT_FILES`."""
    drawn = contents()
    return tuple(
        replace(file, size=len(drawn[file.name]), sha256=hashlib.sha256(drawn[file.name]).hexdigest(), mirrors=())
        for file in mnist.AMAT_FILES
    )


def work(*arguments):
    """Be a worker, with these files."""
    mnist.AMAT_FILES = files()
    _work(*arguments)
