"""The largest of each `window` consecutive numbers, and where it stood: the loops of `models.maxout`."""

from __future__ import annotations

from nfstudy.core.kernels import COMPILED
from nfstudy.core.kernels.cache import compiled


@compiled(**COMPILED)
def largest(pieces, bias, units, winner):
    """Fill units (U, B) with the largest of each window of pieces + bias, winner (U, B) with its first index.

    pieces are (U · window, B), bias is (U · window,).
    """
    window = len(pieces) // len(units)
    for unit in range(units.shape[0]):
        start = unit * window
        for image in range(units.shape[1]):
            units[unit, image] = pieces[start, image] + bias[start]
            winner[unit, image] = 0
        for i in range(1, window):
            for image in range(units.shape[1]):
                piece = pieces[start + i, image] + bias[start + i]
                # Written so that a NaN is taken, and kept.
                best = units[unit, image]
                kept = (piece <= best) | (best != best)
                units[unit, image] = best if kept else piece
                winner[unit, image] = winner[unit, image] if kept else i


@compiled(**COMPILED)
def largest_alone(pieces, bias, units):
    """Fill units (U, B) as `largest` does, where nobody asks where the largest stood."""
    window = len(pieces) // len(units)
    for unit in range(units.shape[0]):
        start = unit * window
        for image in range(units.shape[1]):
            units[unit, image] = pieces[start, image] + bias[start]
        for i in range(1, window):
            for image in range(units.shape[1]):
                piece = pieces[start + i, image] + bias[start + i]
                best = units[unit, image]
                kept = (piece <= best) | (best != best)
                units[unit, image] = best if kept else piece


@compiled(**COMPILED)
def scatter(grad, winner, pieces):
    """Fill pieces (U · window, B) with the gradient (U, B) where the largest stood, and 0 elsewhere."""
    window = len(pieces) // len(grad)
    for unit in range(grad.shape[0]):
        for i in range(window):
            for image in range(grad.shape[1]):
                pieces[unit * window + i, image] = grad[unit, image] if winner[unit, image] == i else 0
