"""The chains of `realnvp_flow` and `glow_flow` in one loop, with its backward pass derived by hand.

Names are those of `flows.realnvp`: of each variable the network says a shift t and r, s = c tanh(r/c) and the variable
becomes exp(s) z + t. Scalars of a lane are in float64.
"""

from __future__ import annotations

import numpy as np

from nfstudy.core.kernels import COMPILED, PART
from nfstudy.core.kernels.cache import compiled
from nfstudy.core.kernels.elementary import exp, tanh
from nfstudy.flows.kernel_coupling import Loops, gradients_of_step, mix_and_say


@compiled(**PART)
def scale(log_scale, said, given, z, total):
    """Fill z (D − d, B) with exp(s) given + t, said (2 (D − d), B) being t and r, and add s to total (B,)."""
    rest, images = z.shape
    for j in range(rest):
        for i in range(images):
            s = log_scale * tanh(np.float64(said[rest + j, i]) / log_scale)[0]
            total[i] += s
            z[j, i] = exp(s) * np.float64(given[j, i]) + np.float64(said[j, i])


@compiled(**PART)
def scale_backward(log_scale, said, given, grad_log_det, z, grad_said, gain):
    """Fill grad_said, and turn z (D − d, B) from the gradient of what `scale` made into that of given.

    gain is (B,), and its numbers do not matter.
    """
    rest, images = z.shape
    kind = z.dtype.type
    for j in range(rest):
        # In two loops: LLVM gives up on one with more arrays to write to, as any of them might overlap with the rest.
        for i in range(images):
            t, slope = tanh(np.float64(said[rest + j, i]) / log_scale)
            gain[i] = exp(log_scale * t)
            moved = np.float64(z[j, i]) * gain[i] * np.float64(given[j, i]) + np.float64(grad_log_det[i])
            grad_said[rest + j, i] = kind(slope * moved)
        for i in range(images):
            grad_said[j, i] = z[j, i]
            z[j, i] = kind(gain[i] * np.float64(z[j, i]))


@compiled(**COMPILED)
def chain(
    log_scale, b_in, mixing, moved, w_in, w_hidden, b_hidden, w_out, b_out, came, given, hidden, said, end, log_det
):
    """Fill what `flows.kernel_coupling.Loops` says."""
    length, _, first = w_in.shape
    samples, _, images = end.shape
    total = np.zeros((samples, images))
    for s in range(samples):
        for k in range(length):
            slot = s * length + k if len(given) > 1 else 0
            z, mixed = end[s], given[slot]
            before = came[slot] if mixing.ndim == 3 else mixed
            mix_and_say(
                k,
                b_in,
                mixing,
                moved,
                w_in,
                w_hidden,
                b_hidden,
                w_out,
                b_out,
                z,
                before,
                mixed,
                hidden[slot],
                said[slot],
            )
            for j in range(first):
                for i in range(images):
                    z[j, i] = mixed[j, i]
            scale(log_scale, said[slot], mixed[first:], z[first:], total[s])
        for i in range(images):
            log_det[s, i] = total[s, i]


@compiled(**COMPILED)
def chain_backward(
    log_scale,
    mixing,
    w_in,
    w_hidden,
    w_out,
    given,
    hidden,
    said,
    grad_log_det,
    grad_z,
    grad_given,
    grad_said,
    grad_hidden,
):
    """Fill what `flows.kernel_coupling.Loops` says."""
    length, _, first = w_in.shape
    samples, _, images = grad_z.shape
    gain = np.empty(images)
    for s in range(samples):
        z = grad_z[s]
        for k in range(length - 1, -1, -1):
            slot = s * length + k
            scale_backward(
                log_scale, said[slot], given[slot, first:], grad_log_det[s], z[first:], grad_said[slot], gain
            )
            own = grad_given[slot if len(grad_given) > 1 else 0]
            gradients_of_step(
                k, mixing, w_in, w_hidden, w_out, hidden[slot], grad_said[slot], z, own, grad_hidden[slot]
            )


LOOPS = Loops(chain, chain_backward)
