"""Functions of float32 numbers that Triton has none of, or none exact where a chain needs it.

Its exp and ln are those of the chip, within some units in the last place; NaN stays NaN.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def tanh(x):
    """Return tanh x, exact to rounding near 0 too, where 1 − e^(−2|x|) cancels."""
    e = tl.exp(-2.0 * tl.abs(x))
    far = (1.0 - e) / (1.0 + e)
    y = x * x
    near = x + x * y * (-1.0 / 3 + y * (2.0 / 15 + y * (-17.0 / 315 + y * (62.0 / 2835))))
    return tl.where(tl.abs(x) < 0.25, near, tl.where(x < 0, -far, far))


@triton.jit
def log1p_unit(y):
    """Return ln(1 + y) for 0 ≤ y ≤ 1, as 2 atanh(y / (2 + y))."""
    s = y / (2.0 + y)
    t = s * s
    p = 1.0 / 13 + t * (1.0 / 15)
    p = 1.0 / 11 + t * p
    p = 1.0 / 9 + t * p
    p = 1.0 / 7 + t * p
    p = 1.0 / 5 + t * p
    p = 1.0 / 3 + t * p
    return 2.0 * s + 2.0 * s * t * p


@triton.jit
def softplus(x):
    """Return ln(1 + eˣ); below −87, where eˣ is no normal number, 0."""
    return tl.maximum(x, 0.0) + log1p_unit(tl.exp(-tl.abs(x)))


@triton.jit
def log_softplus(x, value):
    """Return ln ln(1 + eˣ), of x and of `softplus` there: x − eˣ/2 + … and so finite where eˣ underflows."""
    low = x < -10.0
    return tl.where(low, x - 0.5 * tl.exp(tl.minimum(x, 0.0)), tl.log(tl.where(low, 1.0, value)))


@triton.jit
def sigmoid(x):
    """Return 1 / (1 + e⁻ˣ), with as many digits far below 0 as anywhere."""
    e = tl.exp(-tl.abs(x))
    return tl.where(x < 0, e, 1.0) / (1.0 + e)


@triton.jit
def log_softplus_slope(x, value):
    """Return d ln ln(1 + eˣ) / dx, of x and of `softplus` there: 1 − eˣ/2 + … where eˣ underflows."""
    low = x < -10.0
    return tl.where(low, 1.0 - 0.5 * tl.exp(tl.minimum(x, 0.0)), sigmoid(x) / tl.where(low, 1.0, value))


@triton.jit
def log_or_nothing(x):
    """Return ln x for x ≥ 0; of 0, what is far less than any other logarithm, so that its exponential is nothing."""
    zero = x == 0
    return tl.where(zero, -1e30, tl.log(tl.where(zero, 1.0, x)))
