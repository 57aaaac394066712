import math

import numpy as np
import pytest
import torch
from torch import nn

from nfstudy.inference.models.diagnostics import gradient_moments, summarise_posteriors
from nfstudy.inference.models.dlgm import DLGM
from nfstudy.study.sections import FlowSpec, ModelSpec


def model_of(flow=None):
    model = DLGM(6, ModelSpec(latent=3, hidden=8, layers=1, maxout=2), flow or FlowSpec())
    model.initialise(1, 1)
    with torch.no_grad():
        model.mean.weight[0].mul_(3)  # One variable tells images apart, one does not, one is the prior.
        model.mean.weight[1:].zero_()
        model.log_variance.weight.zero_()
        model.mean.bias.copy_(torch.tensor([0.0, 0.5, 0.0]))
        model.log_variance.bias.copy_(torch.tensor([-3.0, -1.0, 0.0]))
    return model


IMAGES = np.random.default_rng(0).integers(2, size=(300, 6), dtype=np.uint8)


def test_without_a_flow_the_kl_of_each_variable_is_the_closed_form():
    model = model_of()
    found = summarise_posteriors(model, IMAGES, seed=1)
    posterior = model.infer(torch.tensor(IMAGES, dtype=torch.float32))
    variance = posterior.log_variance.exp()
    exact = 0.5 * (posterior.mean.square() + variance - 1 - posterior.log_variance).mean(0).detach().numpy()
    assert found.kl == pytest.approx(exact, abs=0.03)
    assert found.active == 1
    assert not found.log_det.any()
    assert not found.displacement.any()


def test_a_shift_moves_z_by_its_length_and_changes_no_volume():
    model = model_of(FlowSpec(family="planar", length=1))
    with torch.no_grad():
        model.flow.head.weight.zero_()
        # u = (2, 0, 0), w = 0 and b so large that tanh(b) = 1: f(z) = z + u.
        model.flow.head.bias.copy_(torch.tensor([2.0, 0, 0, 0, 0, 0, 30.0]))
    found = summarise_posteriors(model, IMAGES, seed=1)
    assert found.displacement == pytest.approx(np.full(300, 2.0), rel=1e-4)
    assert found.log_det == pytest.approx(np.zeros(300), abs=1e-5)


def test_signal_to_noise_of_a_gradient_that_is_known():
    weight = nn.Parameter(torch.zeros(2))
    idle = nn.Parameter(torch.zeros(3))

    def draws(mean, count):
        noise = torch.randn(count, 2, generator=torch.Generator().manual_seed(1))
        for row in noise:
            yield (weight * (torch.tensor([mean, 0.0]) + row)).sum()

    # E[g] = (3, 0), and each component has variance 1.
    found = gradient_moments(draws(3.0, 2000), [weight, idle])
    assert found.snr == pytest.approx(3 / math.sqrt(2), rel=0.05)
    assert found.variance == pytest.approx(2, rel=0.05)
    assert gradient_moments(draws(0.0, 2000), [weight, idle]).snr < 0.1
