"""The loops' own exp, ln and kin against mpmath, in units in the last place."""

import math

import mpmath
import numpy as np
import pytest
from numba import njit

from nfstudy.core.kernels import elementary

TINY = np.finfo(np.float64).tiny


def over_lanes(function):
    """Compile a loop of a scalar function with one result over an array, as the kernels call it."""

    @njit(error_model="numpy")
    def loop(x):
        y = np.empty_like(x)
        for i in range(len(x)):
            y[i] = function(x[i])
        return y

    return loop


def pair_over_lanes(function):
    @njit(error_model="numpy")
    def loop(x):
        y, w = np.empty_like(x), np.empty_like(x)
        for i in range(len(x)):
            y[i], w[i] = function(x[i])
        return y, w

    return loop


def units_off(found, exact, x):
    """The largest |found − exact| in units in the last place of the exact value, and where."""
    with mpmath.workdps(50):
        right = [exact(mpmath.mpf(float(one))) for one in x]
        off = [abs(float((mpmath.mpf(float(y)) - z) / math.ulp(float(z)))) for y, z in zip(found, right, strict=True)]
    return max(off)


def wide(least, most, seed=0):
    """Numbers of both signs and all sizes within bounds: uniform ones, and ones whose exponents are."""
    random = np.random.default_rng(seed)
    powers = 10 ** random.uniform(-300, math.log10(max(abs(least), abs(most))), 1000) * random.choice([-1, 1], 1000)
    x = np.concatenate([random.uniform(least, most, 1000), random.uniform(-3, 3, 500), powers, [least, most, 0.0]])
    return x[(x >= least) & (x <= most)]


@pytest.mark.parametrize(
    ("name", "exact", "least", "most"),
    [
        ("exp", mpmath.exp, -708.0, 709.0),
        ("expm1", mpmath.expm1, -708.0, 709.0),
        ("log1p_unit", mpmath.log1p, 0.0, 1.0),
    ],
)
def test_one_number(name, exact, least, most):
    x = wide(least, most)
    assert units_off(over_lanes(getattr(elementary, name))(x), exact, x) < 4


def test_the_logarithm_of_every_size_and_near_one():
    random = np.random.default_rng(0)
    near_one = 1 + random.choice([-1, 1], 1000) * 10 ** random.uniform(-16, -0.5, 1000)
    x = np.concatenate([10 ** random.uniform(-307, 308, 1000), near_one, [TINY, 1.0, np.finfo(np.float64).max]])
    assert units_off(over_lanes(elementary.log)(x), mpmath.log, x) < 4
    assert over_lanes(elementary.log)(np.ones(1)).tolist() == [0.0]


@pytest.mark.parametrize(
    ("name", "exact", "exact_other", "limit"),
    [
        pytest.param(
            "softplus",
            lambda x: mpmath.log1p(mpmath.exp(x)),
            lambda x: mpmath.log1p(mpmath.exp(-x)),
            700.0,
            id="softplus",
        ),
        pytest.param(
            "sigmoid", lambda x: 1 / (1 + mpmath.exp(-x)), lambda x: 1 / (1 + mpmath.exp(x)), 700.0, id="sigmoid"
        ),
    ],
)
def test_two_numbers(name, exact, exact_other, limit):
    x = wide(-limit, limit)
    one, other = pair_over_lanes(getattr(elementary, name))(x)
    assert units_off(one, exact, x) < 8
    assert units_off(other, exact_other, x) < 8


def test_tanh_and_its_slope():
    x = wide(-30.0, 30.0)
    t, bend = pair_over_lanes(elementary.tanh)(x)
    assert units_off(t, mpmath.tanh, x) < 8
    with mpmath.workdps(50):
        right = np.array([float(mpmath.sech(float(one)) ** 2) for one in x])
    assert np.abs(bend - right).max() < 4e-16
    assert bend.min() >= 0


@pytest.mark.parametrize("x", [-1e300, -1e5, -745.0, 745.0, 1e5, 1e300])
def test_far_out_results_are_what_they_tend_to_and_never_below_the_smallest_normal_number(x):
    x = np.array([x])
    (up, down), (rise, fall), (t, bend) = (
        [float(y[0]) for y in pair_over_lanes(getattr(elementary, name))(x)] for name in ("softplus", "sigmoid", "tanh")
    )
    assert max(up, down) == pytest.approx(abs(float(x[0])), rel=1e-15)
    assert max(rise, fall) == 1
    assert TINY <= min(up, down) < 1e-300
    assert TINY <= min(rise, fall) < 1e-300
    assert t == math.copysign(1, float(x[0]))
    assert 0 <= bend < 1e-300


@pytest.mark.parametrize("name", ["softplus", "sigmoid", "tanh"])
def test_what_is_no_number_stays_so(name):
    one, other = pair_over_lanes(getattr(elementary, name))(np.array([np.nan]))
    assert np.isnan(one).all()
    assert np.isnan(other).all()


def test_tanh_in_the_type_of_its_argument():
    tanh = over_lanes(elementary.tanh_alike)
    x = wide(-12.0, 12.0)
    assert np.array_equal(tanh(x), pair_over_lanes(elementary.tanh)(x)[0])
    single = x.astype(np.float32)
    single = single[(np.abs(single) > np.finfo(np.float32).tiny) | (single == 0)]
    found = tanh(single)
    assert found.dtype == np.float32
    with mpmath.workdps(50):
        right = np.array([float(mpmath.tanh(float(one))) for one in single])
    assert (np.abs(found - right) / np.spacing(np.abs(right).astype(np.float32))).max() < 3


def test_float32_tanh_of_what_is_far_out_or_no_number():
    x = np.array([np.nan, np.inf, -np.inf, 3e38, -3e38, 100, -100, 0], np.float32)
    np.testing.assert_array_equal(over_lanes(elementary.tanh_alike)(x), [np.nan, 1, -1, 1, -1, 1, -1, 0])
