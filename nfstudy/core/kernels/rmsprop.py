"""One update of RMSprop with momentum in one pass over memory: the loop of `optimisers.FusedRMSprop`."""

from __future__ import annotations

import math

from nfstudy.core.kernels import COMPILED
from nfstudy.core.kernels.cache import compiled


@compiled(**COMPILED)
def update(weights, gradients, squares, velocities, learning_rate, decay, epsilon, momentum):
    """Update weights, the running mean of squared gradients and the velocities in place, each (n,)."""
    kind = weights.dtype.type
    alpha, rest, mu, eps, eta = kind(decay), kind(1 - decay), kind(momentum), kind(epsilon), kind(learning_rate)
    for i in range(len(weights)):
        g = gradients[i]
        squares[i] = alpha * squares[i] + rest * (g * g)
        velocities[i] = mu * velocities[i] + g / (kind(math.sqrt(squares[i])) + eps)
        weights[i] -= eta * velocities[i]
