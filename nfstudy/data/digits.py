"""The handwritten digits that scikit-learn carries: 1,797 images that need no download."""

from __future__ import annotations

import numpy as np

from nfstudy.data.dataset import Splits, data_generator
from nfstudy.study.sections import IMAGES

SHAPE = (8, 8)
LEVELS = 16


def read_grey() -> tuple[Splits, str]:
    """Return the grey splits, values 0 ... 16, and their source.

    The images (UCI "Optical Recognition of Handwritten Digits", test part) have no training and test split of their
    own; they are dealt out by one fixed permutation, seeded by `DATA_SEED` and "digits split".
    """
    # Not at the top: scikit-learn takes over a second to import, and MNIST does not need it.
    import sklearn
    from sklearn.datasets import load_digits

    images = load_digits().data.astype(np.uint8)
    order = data_generator("digits split").permutation(len(images))
    train, valid, _ = IMAGES["digits"]
    return Splits(*np.split(images[order], [train, train + valid])), f"scikit-learn {sklearn.__version__}, load_digits"
