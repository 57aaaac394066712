"""A trained model is asked about examples that it has a probability of, and refuses others."""

import numpy as np
import pytest
import torch

from nfstudy.core.errors import UserError
from nfstudy.inference.models.dlgm import DLGM
from nfstudy.inference.problems.images import load_likelihood
from nfstudy.inference.problems.trained import ImageModel
from nfstudy.study.settings import Settings


def model_of(data):
    tree = {"data": data, "model": {"latent": 2, "hidden": 8, "layers": 1, "maxout": 2}, "evaluation": {"samples": 4}}
    settings = Settings.model_validate(tree)
    module = DLGM(12, settings.model, settings.flow, load_likelihood(settings.data, settings.model.likelihood))
    module.initialise(settings.seed, 1)
    return ImageModel("r", settings, module, 12)


BITS = {"name": "digits"}
LEVELS = {"name": "digits", "binarisation": "dynamic"}
PATCHES = {"name": "photos"}
REAL = {"name": "file", "kind": "real"}


@pytest.mark.parametrize(
    ("data", "value", "words"),
    [
        (BITS, 16, "got 16; expected: 0 or 1"),
        (BITS, 0.5, "got 0.5; expected: 0 or 1"),
        (LEVELS, 16, "got 16; expected: 0 or 1"),
        (LEVELS, -1, "got -1; expected: 0 or 1"),
        (PATCHES, 200, "got 200; expected: numbers within 0 and 1"),
        (PATCHES, 1, "got 1; expected: numbers within 0 and 1"),
        (PATCHES, 0, "got 0; expected: numbers within 0 and 1"),
        *((data, bad, "not finite") for data in (BITS, PATCHES, REAL) for bad in (np.nan, np.inf)),
    ],
)
def test_numbers_without_a_probability_are_refused(data, value, words):
    model, x = model_of(data), np.full((3, 12), 0.5 if data is PATCHES else 1.0)
    assert torch.isfinite(model.log_likelihood(x)).all()
    x[2, 5] = value
    for ask in (model.log_likelihood, model.posterior):
        with pytest.raises(UserError, match=words if words == "not finite" else f"x: row 2: {words}"):
            ask(x)


def test_real_numbers_are_any():
    assert torch.isfinite(model_of(REAL).log_likelihood(np.linspace(-300, 300, 24).reshape(2, 12))).all()
