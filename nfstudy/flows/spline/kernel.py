"""The chain of `flows.spline.spline_flow` in one loop, with its backward pass derived by hand.

Names are those of `flows.spline`. Scalars of a lane are in float64; the networks' products are in the chain's own type.
Of the J − 1 derivatives only the two at the ends of a lane's bin are made.

What a lane needs stands in one array of rows of `WIDTH` numbers, whose places are constants of the source: so LLVM sees
that its rows do not overlap, which it cannot of arrays, and which it must to vectorise a loop that writes to several.
"""

from __future__ import annotations

import math

import numpy as np

from nfstudy.core.kernels import COMPILED, PART
from nfstudy.core.kernels.cache import compiled
from nfstudy.core.kernels.elementary import exp, log, sigmoid, softplus
from nfstudy.flows.kernel_coupling import Loops, gradients_of_step, mix_and_say
from nfstudy.flows.nice.kernel import copy

LEAST = 1e-3
"""Least width and height of a bin as a share of the whole, and least derivative; Durkan et al.'s."""
AT_ONE = math.log(math.expm1(1 - LEAST))
"""What is added to what a network says of a derivative, so that 0 means 1."""
WIDTH = 128
"""Lanes that are taken at once."""
PLACE, LEVEL, TOTAL, BIN = 0, WIDTH, 2 * WIDTH, 3 * WIDTH
X_0, X_1, Y_0, Y_1 = 4 * WIDTH, 5 * WIDTH, 6 * WIDTH, 7 * WIDTH
RAW_0, RAW_1, D_0, D_1 = 8 * WIDTH, 9 * WIDTH, 10 * WIDTH, 11 * WIDTH
XI, SLOPE, BELOW, ABOVE = 12 * WIDTH, 13 * WIDTH, 14 * WIDTH, 15 * WIDTH
GRAD, GRAD_XI, GRAD_SLOPE = 16 * WIDTH, 17 * WIDTH, 18 * WIDTH
GRAD_X_0, GRAD_X_1, GRAD_Y_0, GRAD_Y_1 = 19 * WIDTH, 20 * WIDTH, 21 * WIDTH, 22 * WIDTH
GRAD_RAW_0, GRAD_RAW_1, MEAN = 23 * WIDTH, 24 * WIDTH, 25 * WIDTH
ROWS = 26


@compiled(**PART)
def place(t, z, bound, at, lanes):
    """Fill PLACE with z (B,) of these lanes, or 0 beyond the bound."""
    for i in range(lanes):
        x = np.float64(z[at + i])
        t[PLACE + i] = x if abs(x) < bound else 0.0


@compiled(**PART)
def softmax(t, logits, at, lanes):
    """Turn logits (J, B) into shares, in these lanes."""
    kind = logits.dtype.type
    for i in range(lanes):
        t[LEVEL + i] = logits[0, at + i]
        t[TOTAL + i] = 0
    for b in range(1, len(logits)):
        for i in range(lanes):
            x = np.float64(logits[b, at + i])
            level = t[LEVEL + i]
            t[LEVEL + i] = level if (x <= level) | (level != level) else x  # So that a NaN is taken, and kept.
    for b in range(len(logits)):
        for i in range(lanes):
            e = exp(np.float64(logits[b, at + i]) - t[LEVEL + i])
            t[TOTAL + i] += e
            logits[b, at + i] = kind(e)
    for i in range(lanes):
        t[TOTAL + i] = 1 / t[TOTAL + i]
    for b in range(len(logits)):
        for i in range(lanes):
            logits[b, at + i] = kind(np.float64(logits[b, at + i]) * t[TOTAL + i])


@compiled(**PART)
def find_bin(t, shares, bound, at, lanes):
    """Fill BIN with the bin of PLACE among the knots along x, and X_0 and X_1 with its ends; shares are (J, B)."""
    rest = 1 - LEAST * len(shares)
    for i in range(lanes):
        t[LEVEL + i], t[BIN + i], t[X_0 + i], t[X_1 + i] = -bound, 0, -bound, bound
    for b in range(len(shares) - 1):
        for i in range(lanes):
            knot = t[LEVEL + i] + 2 * bound * (LEAST + rest * np.float64(shares[b, at + i]))
            passed, end = t[PLACE + i] >= knot, t[X_1 + i]
            t[LEVEL + i] = knot
            t[BIN + i] += 1.0 if passed else 0.0
            t[X_0 + i] = knot if passed else t[X_0 + i]
            t[X_1 + i] = end if passed | (end <= knot) else knot  # So that a NaN is taken.


@compiled(**PART)
def find_ends(t, shares, bound, at, lanes):
    """Fill Y_0 and Y_1 with the ends along y of BIN; shares are (J, B)."""
    rest = 1 - LEAST * len(shares)
    for i in range(lanes):
        t[LEVEL + i], t[Y_0 + i], t[Y_1 + i] = -bound, -bound, bound
    for b in range(len(shares) - 1):
        for i in range(lanes):
            knot = t[LEVEL + i] + 2 * bound * (LEAST + rest * np.float64(shares[b, at + i]))
            t[LEVEL + i] = knot
            t[Y_0 + i] = knot if t[BIN + i] > b else t[Y_0 + i]
            t[Y_1 + i] = knot if t[BIN + i] == b else t[Y_1 + i]


@compiled(**PART)
def find_derivatives(t, raw, at, lanes):
    """Fill RAW_0 and RAW_1 with what is said of the derivatives at the ends of BIN, and D_0 and D_1 with these.

    raw is (J − 1, B).
    """
    for i in range(lanes):
        t[RAW_0 + i], t[RAW_1 + i] = 0, 0
    for b in range(len(raw)):
        for i in range(lanes):
            x = np.float64(raw[b, at + i]) + AT_ONE
            t[RAW_0 + i] = x if t[BIN + i] == b + 1 else t[RAW_0 + i]
            t[RAW_1 + i] = x if t[BIN + i] == b else t[RAW_1 + i]
    for i in range(lanes):
        t[D_0 + i] = LEAST + softplus(t[RAW_0 + i])[0] if t[BIN + i] > 0 else 1.0
    for i in range(lanes):
        t[D_1 + i] = LEAST + softplus(t[RAW_1 + i])[0] if t[BIN + i] < len(raw) else 1.0


@compiled(**PART)
def look_up(t, said, bins, z, bound, at, lanes):
    """Fill all that says where in which bin z (B,) lies and what the bin is; said (3 J − 1, B) has shares by now."""
    place(t, z, bound, at, lanes)
    find_bin(t, said[:bins], bound, at, lanes)
    find_ends(t, said[bins : 2 * bins], bound, at, lanes)
    find_derivatives(t, said[2 * bins :], at, lanes)
    for i in range(lanes):
        width = t[X_1 + i] - t[X_0 + i]
        xi = (t[PLACE + i] - t[X_0 + i]) / width
        slope = (t[Y_1 + i] - t[Y_0 + i]) / width
        across = xi * (1 - xi)
        t[XI + i] = xi
        t[SLOPE + i] = slope
        t[BELOW + i] = slope + (t[D_1 + i] + t[D_0 + i] - 2 * slope) * across
        t[ABOVE + i] = t[D_1 + i] * xi * xi + 2 * slope * across + t[D_0 + i] * (1 - xi) * (1 - xi)


@compiled(**PART)
def bend(t, said, bins, bound, z, total):
    """Turn z (B,) into g(z), and add ln g′(z) to total (B,); of said (3 J − 1, B), logits become shares."""
    kind, images = z.dtype.type, len(z)
    for at in range(0, images, WIDTH):
        lanes = min(WIDTH, images - at)
        softmax(t, said[:bins], at, lanes)
        softmax(t, said[bins : 2 * bins], at, lanes)
        look_up(t, said, bins, z, bound, at, lanes)
        for i in range(lanes):
            xi, slope, below = t[XI + i], t[SLOPE + i], t[BELOW + i]
            part = (slope * xi * xi + t[D_0 + i] * xi * (1 - xi)) / below
            y = t[Y_0 + i] + (t[Y_1 + i] - t[Y_0 + i]) * part
            ratio = slope / below
            x = np.float64(z[at + i])
            inside = abs(x) < bound
            z[at + i] = kind(y if inside else x)
            total[at + i] += log(ratio * ratio * t[ABOVE + i]) if inside else 0.0


@compiled(**PART)
def bend_backward(t, said, bins, bound, z, grad_log_det, grad_z, grad_said):
    """Turn grad_z (B,) from the gradient of g(z) into that of z (B,), and fill grad_said (3 J − 1, B)."""
    kind, images = z.dtype.type, len(z)
    for at in range(0, images, WIDTH):
        lanes = min(WIDTH, images - at)
        look_up(t, said, bins, z, bound, at, lanes)
        for i in range(lanes):
            t[GRAD + i] = grad_z[at + i]
        gradients_in_bin(t, grad_log_det, at, lanes)
        for i in range(lanes):
            inside = abs(np.float64(z[at + i])) < bound
            width = t[X_1 + i] - t[X_0 + i]
            g = t[GRAD_XI + i] / width if inside else t[GRAD + i]
            grad_z[at + i] = kind(g)
            # Beyond the bound nothing depends on the network.
            t[GRAD_X_0 + i] = t[GRAD_X_0 + i] if inside else 0.0
            t[GRAD_X_1 + i] = t[GRAD_X_1 + i] if inside else 0.0
            t[GRAD_Y_0 + i] = t[GRAD_Y_0 + i] if inside else 0.0
            t[GRAD_Y_1 + i] = t[GRAD_Y_1 + i] if inside else 0.0
            t[GRAD_RAW_0 + i] = t[GRAD_RAW_0 + i] if inside else 0.0
            t[GRAD_RAW_1 + i] = t[GRAD_RAW_1 + i] if inside else 0.0
        gradients_of_shares(t, GRAD_X_0, GRAD_X_1, said[:bins], bound, grad_said[:bins], at, lanes)
        heights = said[bins : 2 * bins]
        gradients_of_shares(t, GRAD_Y_0, GRAD_Y_1, heights, bound, grad_said[bins : 2 * bins], at, lanes)
        for b in range(bins - 1):
            for i in range(lanes):
                left = t[GRAD_RAW_0 + i] if t[BIN + i] == b + 1 else 0.0
                grad_said[2 * bins + b, at + i] = kind(t[GRAD_RAW_1 + i] if t[BIN + i] == b else left)


@compiled(**PART)
def gradients_in_bin(t, grad_log_det, at, lanes):
    """Fill the gradients of ξ, and those of the ends of the bin and of what is said of the derivatives there.

    GRAD is that of g, and grad_log_det (B,) that of ln g′.
    """
    for i in range(lanes):
        g, total = t[GRAD + i], np.float64(grad_log_det[at + i])
        xi, slope, below, above = t[XI + i], t[SLOPE + i], t[BELOW + i], t[ABOVE + i]
        left, right = t[D_0 + i], t[D_1 + i]
        width, height = t[X_1 + i] - t[X_0 + i], t[Y_1 + i] - t[Y_0 + i]
        other, across = 1 - xi, xi * (1 - xi)
        part = (slope * xi * xi + left * across) / below
        # g = y_0 + h part, part = numerator / below, and ln g′ = 2 ln(slope / below) + ln above.
        by_numerator = g * height / below
        by_below = -by_numerator * part - 2 * total / below
        by_above = total / above
        by_slope = by_below * (1 - 2 * across) + by_numerator * xi * xi + by_above * 2 * across + 2 * total / slope
        by_xi = (
            by_below * (left + right - 2 * slope) * (1 - 2 * xi)
            + by_numerator * (2 * slope * xi + left * (1 - 2 * xi))
            + by_above * 2 * (right * xi + slope * (1 - 2 * xi) - left * other)
        )
        t[GRAD_XI + i] = by_xi
        t[GRAD_RAW_0 + i] = (by_below + by_numerator) * across + by_above * other * other
        t[GRAD_RAW_1 + i] = by_below * across + by_above * xi * xi
        by_width = -(by_slope * slope + by_xi * xi) / width
        t[GRAD_X_0 + i] = -by_xi / width - by_width
        t[GRAD_X_1 + i] = by_width
        by_height = g * part + by_slope / width
        t[GRAD_Y_0 + i] = g - by_height
        t[GRAD_Y_1 + i] = by_height
    for i in range(lanes):
        t[GRAD_RAW_0 + i] *= sigmoid(t[RAW_0 + i])[0]
    for i in range(lanes):
        t[GRAD_RAW_1 + i] *= sigmoid(t[RAW_1 + i])[0]


@compiled(**PART)
def gradients_of_shares(t, lower, upper, shares, bound, grad_logits, at, lanes):
    """Fill grad_logits (J, B) from the gradients of the two ends of BIN, which stand at `lower` and `upper` in t.

    An end at ±R is a constant. The knot after share a lies at 2 R (the sum of the first a + 1 shares) − R.
    """
    bins, kind = len(shares), shares.dtype.type
    factor = 2 * bound * (1 - LEAST * bins)
    for i in range(lanes):
        t[MEAN + i] = 0
        t[upper + i] = factor * t[upper + i] if t[BIN + i] < bins - 1 else 0.0
        t[lower + i] = factor * t[lower + i]
    for b in range(bins):
        for i in range(lanes):
            by_share = (t[lower + i] if t[BIN + i] > b else 0.0) + (t[upper + i] if t[BIN + i] >= b else 0.0)
            t[MEAN + i] += np.float64(shares[b, at + i]) * by_share
    for b in range(bins):
        for i in range(lanes):
            by_share = (t[lower + i] if t[BIN + i] > b else 0.0) + (t[upper + i] if t[BIN + i] >= b else 0.0)
            grad_logits[b, at + i] = kind(np.float64(shares[b, at + i]) * (by_share - t[MEAN + i]))


@compiled(**COMPILED)
def chain(bound, b_in, mixing, moved, w_in, w_hidden, b_hidden, w_out, b_out, came, given, hidden, said, end, log_det):
    """Fill what `flows.kernel_coupling.Loops` says; in said, logits of widths and heights become shares."""
    length, _, first = w_in.shape
    samples, latent, images = end.shape
    numbers = w_out.shape[1] // (latent - first)
    t, total = np.empty(ROWS * WIDTH), np.zeros((samples, images))
    for s in range(samples):
        for k in range(length):
            slot = s * length + k if len(given) > 1 else 0
            z, mixed, out = end[s], given[slot], said[slot]
            mix_and_say(
                k, b_in, mixing, moved, w_in, w_hidden, b_hidden, w_out, b_out, z, mixed, mixed, hidden[slot], out
            )
            copy(z, mixed)
            for j in range(latent - first):
                bend(t, out[j * numbers : (j + 1) * numbers], (numbers + 1) // 3, bound, z[first + j], total[s])
        for i in range(images):
            log_det[s, i] = total[s, i]


@compiled(**COMPILED)
def chain_backward(
    bound, mixing, w_in, w_hidden, w_out, given, hidden, said, grad_log_det, grad_z, grad_given, grad_said, grad_hidden
):
    """Fill what `flows.kernel_coupling.Loops` says."""
    length, _, first = w_in.shape
    samples, latent, _ = grad_z.shape
    numbers = w_out.shape[1] // (latent - first)
    t = np.empty(ROWS * WIDTH)
    for s in range(samples):
        z = grad_z[s]
        for k in range(length - 1, -1, -1):
            slot = s * length + k
            out, grad_out = said[slot], grad_said[slot]
            for j in range(latent - first):
                rows = slice(j * numbers, (j + 1) * numbers)
                bins, d = (numbers + 1) // 3, first + j
                bend_backward(t, out[rows], bins, bound, given[slot, d], grad_log_det[s], z[d], grad_out[rows])
            own = grad_given[0]
            gradients_of_step(k, mixing, w_in, w_hidden, w_out, hidden[slot], grad_out, z, own, grad_hidden[slot])


LOOPS = Loops(chain, chain_backward)
