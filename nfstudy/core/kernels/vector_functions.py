"""exp, tanh and 1 − tanh² of vectors in float32: exact to some units, in fewer instructions than `elementary` has."""

from __future__ import annotations

import numpy as np

from nfstudy.core.kernels import ORDERED
from nfstudy.core.kernels.cache import compiled
from nfstudy.core.kernels.elementary import (
    SINGLE,
    SINGLE_LOG2_E,
    SINGLE_LOG_2_HIGH,
    SINGLE_LOG_2_LOW,
    SINGLE_SMALLEST,
)
from nfstudy.core.kernels.vectors import below, choose, every, fused, minus_size, two_to

TO_WHOLE = np.float32(1.5 * 2**23)
"""What is added to this is rounded to a whole number, which is then in the lowest bits."""
ONE, TWO, MINUS_TWO, FOUR, ZERO = map(np.float32, (1, 2, -2, 4, 0))
FARTHEST = np.float32(-40)
"""−2|x| from which on 1 − tanh² x is nothing beside 1, nor times any M of a planar step."""
MOST = np.float32(9)
"""|x| from which on tanh x is 1 in float32."""
P = tuple(
    map(
        np.float32,
        (
            4.89352455891786e-03,
            6.37261928875436e-04,
            1.48572235717979e-05,
            5.12229709037114e-08,
            -8.60467152213735e-11,
            2.00018790482477e-13,
            -2.76076847742355e-16,
        ),
    )
)
Q = tuple(map(np.float32, (4.89352518554385e-03, 2.26843463243900e-03, 1.18534705686654e-04, 1.19825839466702e-06)))
"""tanh x = x P(x²) / Q(x²) for |x| ≤ 9 within three units in the last place: the rational function that Eigen has."""


@compiled(**ORDERED)
def exp_below(x, least):
    """Return eʳ − 1 and 2ⁿ, eˣ = 2ⁿ eʳ, of x ≤ 0, or of `least`, which is at least −87, where x is below that."""
    x = choose(below(x, least), least, x)  # A NaN stays.
    raised = fused(x, every(SINGLE_LOG2_E), every(TO_WHOLE))
    n = raised - every(TO_WHOLE)
    r = fused(n, every(-SINGLE_LOG_2_LOW), fused(n, every(-SINGLE_LOG_2_HIGH), x))
    p = fused(every(SINGLE[7]), r, every(SINGLE[6]))
    p = fused(p, r, every(SINGLE[5]))
    p = fused(p, r, every(SINGLE[4]))
    p = fused(p, r, every(SINGLE[3]))
    p = fused(p, r, every(SINGLE[2]))
    return fused(p * r, r, r), two_to(raised)


@compiled(**ORDERED)
def exp(x):
    """Return eˣ for x ≤ 0; 0 where it is no normal number."""
    least = every(SINGLE_SMALLEST)
    p, scale = exp_below(x, least)
    return choose(below(x, least), every(ZERO), fused(p, scale, scale))


@compiled(**ORDERED)
def tanh_and_bend(x):
    """Return tanh x, and 1 − tanh² x, whose relative error is some units in the last place too."""
    p, scale = exp_below(every(TWO) * minus_size(x), every(FARTHEST))
    less = fused(p, scale, scale - every(ONE))  # e − 1, e = exp(−2|x|)
    inverse = every(ONE) / (every(TWO) + less)
    t = less * inverse
    t = choose(below(every(ZERO), x), every(ZERO) - t, t)
    return t, every(FOUR) * fused(p, scale, scale) * inverse * inverse


@compiled(**ORDERED)
def tanh(x):
    """Return tanh x."""
    x = choose(below(x, every(-MOST)), every(-MOST), x)
    x = choose(below(every(MOST), x), every(MOST), x)
    s = x * x
    p = fused(every(P[6]), s, every(P[5]))
    p = fused(p, s, every(P[4]))
    p = fused(p, s, every(P[3]))
    p = fused(p, s, every(P[2]))
    p = fused(p, s, every(P[1]))
    p = fused(p, s, every(P[0]))
    q = fused(every(Q[3]), s, every(Q[2]))
    q = fused(q, s, every(Q[1]))
    q = fused(q, s, every(Q[0]))
    return x * p / q
