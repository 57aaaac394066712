"""exp, ln and their kin in plain arithmetic, so that a loop over lanes calls nothing and is vectorised.

All are within some units in the last place of the C library's (tested); NaN stays NaN. All are in float64 but
`tanh_alike`, which is that of the units of networks, where nothing underflows that would be missed.
"""

from __future__ import annotations

import math

import numpy as np
from numba import types
from numba.extending import overload

from nfstudy.core.kernels import ORDERED
from nfstudy.core.kernels.cache import compiled

LOG2_E = 1 / math.log(2)
LOG_2_HIGH, LOG_2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
"""ln 2 in two parts, of which n times the first is exact for every exponent n."""
C = tuple(1 / math.factorial(n) for n in range(14))
"""Taylor coefficients of exp, enough on |r| ≤ ln(2)/2."""
A = tuple(1 / (2 * n + 1) for n in range(17))
"""Taylor coefficients of atanh(s)/s in s²; eleven do on |s| ≤ 0.1716, seventeen on |s| ≤ 1/3."""
SINGLE = tuple(np.float32(c) for c in C[:8])
"""The same in float32, where seven do."""
SINGLE_LOG2_E, SINGLE_LOG_2_HIGH, SINGLE_LOG_2_LOW = map(np.float32, (LOG2_E, 355 / 512, -2.12194440e-4))
"""1/ln 2, and ln 2 in two parts, in float32."""
SINGLE_LEAST = np.float32(-60)
"""From there on, exp is nothing beside 1 in float32."""
SINGLE_FAR = np.float32(-1.1)
"""−2|x| of a tanh x of about ½."""
SINGLE_SMALLEST = np.float32(-87)
"""Least argument of which exp is a normal number in float32."""
SMALLEST = -708.0
"""Least argument of which exp is a normal number; below, that of −708 is taken."""


@compiled(**ORDERED)
def expm1(x):
    """Return eˣ − 1 for x ≤ 709, exact to rounding near 0 too."""
    x = SMALLEST if x < SMALLEST else x  # not `max`, which would lose a NaN
    n = np.rint(x * LOG2_E)
    r = (x - n * LOG_2_HIGH) - n * LOG_2_LOW
    p = C[13]
    p = p * r + C[12]
    p = p * r + C[11]
    p = p * r + C[10]
    p = p * r + C[9]
    p = p * r + C[8]
    p = p * r + C[7]
    p = p * r + C[6]
    p = p * r + C[5]
    p = p * r + C[4]
    p = p * r + C[3]
    p = p * r + 0.5
    p = (p * r) * r + r  # e^r − 1
    scale = np.int64((np.int64(n) + np.int64(1023)) << np.int64(52)).view(np.float64)  # 2ⁿ
    return p * scale + (scale - 1)


@compiled(**ORDERED)
def exp(x):
    """Return eˣ for x ≤ 709; below −708, the smallest normal number or so."""
    x = SMALLEST if x < SMALLEST else x  # not `max`, which would lose a NaN
    n = np.rint(x * LOG2_E)
    r = (x - n * LOG_2_HIGH) - n * LOG_2_LOW
    p = C[13]
    p = p * r + C[12]
    p = p * r + C[11]
    p = p * r + C[10]
    p = p * r + C[9]
    p = p * r + C[8]
    p = p * r + C[7]
    p = p * r + C[6]
    p = p * r + C[5]
    p = p * r + C[4]
    p = p * r + C[3]
    p = p * r + 0.5
    p = p * r + 1
    p = p * r + 1
    return p * np.int64((np.int64(n) + np.int64(1023)) << np.int64(52)).view(np.float64)


@compiled(**ORDERED)
def log(x):
    """Return ln x for x ≥ 0 that is 0 or normal."""
    bits = np.float64(x).view(np.int64)
    # With m on [√½, √2), ln x = e ln 2 + ln m, and the two terms never cancel.
    exponent = (bits - np.int64(0x3FE6A09E667F3BCD)) >> np.int64(52)
    m = np.int64(bits - (exponent << np.int64(52))).view(np.float64)
    s = (m - 1) / (m + 1)
    t = s * s
    p = A[10]
    p = p * t + A[9]
    p = p * t + A[8]
    p = p * t + A[7]
    p = p * t + A[6]
    p = p * t + A[5]
    p = p * t + A[4]
    p = p * t + A[3]
    p = p * t + A[2]
    p = p * t + A[1]
    e = np.float64(exponent)
    result = e * LOG_2_HIGH + (2 * s + (2 * s * t * p + e * LOG_2_LOW))
    return (result if x > 0 else -math.inf) if x < math.inf else x


@compiled(**ORDERED)
def log1p_unit(y):
    """Return ln(1 + y) for 0 ≤ y ≤ 1, as 2 atanh(y / (2 + y))."""
    s = y / (2 + y)
    t = s * s
    p = A[16]
    p = p * t + A[15]
    p = p * t + A[14]
    p = p * t + A[13]
    p = p * t + A[12]
    p = p * t + A[11]
    p = p * t + A[10]
    p = p * t + A[9]
    p = p * t + A[8]
    p = p * t + A[7]
    p = p * t + A[6]
    p = p * t + A[5]
    p = p * t + A[4]
    p = p * t + A[3]
    p = p * t + A[2]
    p = p * t + A[1]
    return 2 * s + 2 * s * t * p


@compiled(**ORDERED)
def softplus(x):
    """Return ln(1 + eˣ) and ln(1 + e⁻ˣ), each at least the smallest normal number or so."""
    tail = log1p_unit(exp(-abs(x)))
    return max(x, 0.0) + tail, max(-x, 0.0) + tail


@compiled(**ORDERED)
def sigmoid(x):
    """Return 1 / (1 + e⁻ˣ) and 1 / (1 + eˣ), each at least the smallest normal number or so."""
    e = exp(-abs(x))
    larger = 1 / (1 + e)
    smaller = e * larger
    return (larger, smaller) if x > 0 else (smaller, larger)


@compiled(**ORDERED)
def tanh(x):
    """Return tanh x and 1 − tanh² x; the second within 4e-16, and never negative."""
    e = expm1(-2 * abs(x))
    inverse = 1 / (2 + e)
    t = -e * inverse
    return (t if x > 0 else -t), 4 * (1 + e) * inverse * inverse


@compiled(**ORDERED)
def tanh_single(x):
    """Return tanh x of a float32, in float32."""
    y = -abs(x + x)
    y = SINGLE_LEAST if y < SINGLE_LEAST else y  # not `max`, which would lose a NaN
    n = np.rint(y * SINGLE_LOG2_E)
    r = (y - n * SINGLE_LOG_2_HIGH) - n * SINGLE_LOG_2_LOW
    p = SINGLE[7]
    p = p * r + SINGLE[6]
    p = p * r + SINGLE[5]
    p = p * r + SINGLE[4]
    p = p * r + SINGLE[3]
    p = p * r + SINGLE[2]
    p = (p * r) * r + r  # e^r − 1
    # A plain 1 would turn the whole into float64.
    one = np.float32(1)
    scale = np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)  # 2ⁿ
    e = p * scale + scale
    # Further out than ½, t is 1 less something small, whose rounding is nothing: so 1 − t² is as exact as t can hold.
    far = y < SINGLE_FAR
    whole, part = (one, -e - e) if far else (np.float32(0), -(p * scale + (scale - one)))
    t = whole + part / (one + e)
    return t if x > np.float32(0) else -t


def tanh_alike(x):
    """Return tanh x in the type of x, float32 or float64; for compiled code alone."""
    raise NotImplementedError("Numba compiles `_tanh_alike` in its place; Python itself never calls it")


@overload(tanh_alike, jit_options=ORDERED)  # type: ignore[arg-type]  # Of a type that Numba keeps to itself.
def _tanh_alike(x):
    if x == types.float32:
        return lambda x: tanh_single(x)
    return lambda x: tanh(x)[0]
