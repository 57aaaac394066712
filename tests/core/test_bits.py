"""The loop of ln p(x|z) of bits: known answers, and the plain formula."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from nfstudy.core.kernels.bits import BLOCK, log_probability


def found(logits, bias, x):
    """Return what the loop makes of logits (N, S, B), biases (N,) and bits (B, N)."""
    logits = np.ascontiguousarray(logits.transpose(0, 2, 1))
    total = np.zeros(logits.shape[1:])
    log_probability(logits, bias, x, 0, total)
    return total.T


def of_one(logits, bits, kind):
    """Return ln p of one sample of one image."""
    logits, bits = np.array(logits, kind), np.array(bits, kind)
    return found(logits.reshape(-1, 1, 1), np.zeros(len(logits), kind), bits.reshape(1, -1)).item()


KINDS = pytest.mark.parametrize("kind", [np.float32])  # Float64 goes by the plain formula.


@KINDS
@pytest.mark.parametrize("pixels", [1, 3, 4, 6, 784, BLOCK + 5])
@pytest.mark.parametrize(("samples", "images"), [(1, 1), (3, 7), (16, 100), (16, 1), (6, 16), (37, 3)])
def test_it_is_the_plain_formula(kind, pixels, samples, images):
    rng = np.random.default_rng(pixels)
    logits = (6 * rng.standard_normal((pixels, samples, images))).astype(kind)
    bias = rng.standard_normal(pixels).astype(kind)
    x = rng.integers(0, 2, (images, pixels)).astype(kind)
    signed = torch.tensor((2 * x.T[:, None] - 1) * (logits + bias[:, None, None]))
    expected = functional.logsigmoid(signed.double()).sum(0).numpy()
    np.testing.assert_allclose(found(logits, bias, x), expected, rtol=5e-7 if kind is np.float32 else 1e-13)


@KINDS
def test_logits_of_any_size(kind):
    assert of_one([1e4], [1], kind) == pytest.approx(0, abs=1e-300)
    assert of_one([-1e4], [1], kind) == -1e4
    assert of_one([1e4, -1e4], [0, 0], kind) == -1e4
    assert of_one([1e4, -1e4, 1e4, -1e4, -1e4], [0, 1, 0, 1, 1], kind) == -5e4
    assert of_one([0.0], [1], kind) == pytest.approx(-math.log(2), rel=1e-7)
    assert of_one([math.inf, -math.inf], [1, 0], kind) == pytest.approx(0, abs=1e-300)
    assert of_one([math.inf], [0], kind) == -math.inf


@KINDS
def test_what_is_left_of_large_logits_is_not_lost_beside_1(kind):
    """Π (1 + e^−40) is 1 in float64, its logarithm is not 0."""
    expected = -9 * math.exp(-40)
    assert of_one([40.0] * 9, [1] * 9, kind) == pytest.approx(expected, rel=1e-6)


@KINDS
def test_the_product_of_many_pixels_does_not_overflow(kind):
    pixels = 5 * BLOCK
    assert of_one([0.0] * pixels, [1, 0] * (pixels // 2), kind) == pytest.approx(-pixels * math.log(2), rel=1e-7)


@KINDS
@pytest.mark.parametrize("pixel", [0, 2, 8])
def test_a_nan_stays_one_and_in_its_sample(kind, pixel):
    logits = np.ones((9, 4, 5), kind)
    logits[pixel, 2, 3] = np.nan
    total = found(logits, np.zeros(9, kind), np.ones((5, 9), kind))
    wrong = np.isnan(total)
    assert wrong[2, 3]
    assert wrong.sum() == 1


def test_float32_logits_are_summed_in_float64():
    """784 pixels at logits of about ±4: torch's float32 sums are off by 1e-4 nats."""
    rng = np.random.default_rng(0)
    logits = (4 * rng.standard_normal((784, 16, 100))).astype(np.float32)
    x = rng.integers(0, 2, (100, 784)).astype(np.float32)
    exact = functional.logsigmoid(torch.tensor((2 * x.T[:, None] - 1) * logits).double()).sum(0).numpy()
    assert np.abs(found(logits, np.zeros(784, np.float32), x) - exact).max() < 5e-5
