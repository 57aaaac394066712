"""Vectors as values of compiled code: their arithmetic, and exp and tanh against the C library's in float64."""

import numpy as np
import pytest
from numba import njit

from nfstudy.core.kernels import vector_functions
from nfstudy.core.kernels.vectors import LANES, below, choose, doubled, every, fused, load, minus_size, store, two_to


def over_vectors(function):
    @njit(error_model="numpy")
    def loop(x, y):
        for i in range(0, x.shape[1], LANES):
            store(y, (0, i), function(load(x, (0, i))))

    def run(x):
        x = np.asarray(x, np.float32)
        padded = np.zeros((1, -(-len(x) // LANES) * LANES), np.float32)
        padded[0, : len(x)] = x
        y = np.empty_like(padded)
        loop(padded, y)
        return y[0, : len(x)]

    return run


@njit
def tanh_of_both(x):
    return vector_functions.tanh_and_bend(x)[0]


@njit
def bend_of_both(x):
    return vector_functions.tanh_and_bend(x)[1]


def worst(found, exact):
    """The largest error in units in the last place of the exact value."""
    return (np.abs(found - exact) / np.spacing(np.abs(exact).astype(np.float32))).max()


WIDE = np.concatenate([np.linspace(-12, 12, 200_001), np.geomspace(1e-30, 1, 10_000), -np.geomspace(1e-30, 1, 10_000)])
WIDE = WIDE.astype(np.float32)


@pytest.mark.parametrize("function", [vector_functions.tanh, tanh_of_both], ids=["rational", "by exp"])
def test_tanh_is_within_some_units(function):
    assert worst(over_vectors(function)(WIDE), np.tanh(WIDE.astype(float))) <= 6
    np.testing.assert_allclose(over_vectors(function)([np.inf, -np.inf, 1e30, 0]), [1, -1, 1, 0], rtol=4e-7)
    assert np.isnan(over_vectors(function)([np.nan, 0])).tolist() == [True, False]


def test_bend_is_within_some_units_where_tanh_is_nearly_1():
    exact = 1 / np.cosh(WIDE.astype(float)) ** 2
    assert worst(over_vectors(bend_of_both)(WIDE), exact) <= 16
    assert over_vectors(bend_of_both)([1e30, -np.inf]).max() < 1e-16


def test_exp_of_what_is_not_positive():
    x = -np.concatenate([np.linspace(0, 86.9, 100_001), np.geomspace(1e-30, 1, 1000)]).astype(np.float32)
    exp = over_vectors(vector_functions.exp)
    assert worst(exp(x), np.exp(x.astype(float))) <= 4
    assert exp([-87.5, -1e30, -np.inf]).tolist() == [0, 0, 0]
    assert np.isnan(exp([np.nan, 0])).tolist() == [True, False]


@njit
def all_of_them(x, out, wide):
    a, b = load(x, (0, 0)), load(x, (1, 0))
    store(out, (0, 0), fused(a, b, every(x[0, 3])) - a / b)
    store(out, (1, 0), choose(below(a, b), minus_size(a), b))
    store(out, (2, 0), two_to(a + every(np.float32(1.5 * 2**23))))
    store(wide, (0, 0), doubled(a) * doubled(b))


def test_arithmetic_is_that_of_numbers():
    x = 3 * np.random.default_rng(0).standard_normal((2, LANES)).astype(np.float32)
    out, wide = np.zeros((3, LANES), np.float32), np.zeros((1, LANES))
    all_of_them(x, out, wide)
    a, b = x.astype(float)
    np.testing.assert_allclose(out[0], a * b + a[3] - a / b, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(out[1], np.where(x[0] < x[1], -np.abs(x[0]), x[1]))
    np.testing.assert_array_equal(out[2], 2.0 ** np.rint(a))
    np.testing.assert_array_equal(wide[0], a * b)
