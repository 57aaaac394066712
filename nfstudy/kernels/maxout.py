"""The largest of each `window` consecutive numbers, and where it stood: the loops of `layers.maxout`."""

from __future__ import annotations

from numba import njit

from nfstudy.kernels import COMPILED


@njit(**COMPILED)
def largest(pieces, window, units, winner):
    """Fill units (B, U) with the largest of each window of pieces (B, U · window), winner (B, U) with its index."""
    for row in range(units.shape[0]):
        for unit in range(units.shape[1]):
            best, at = pieces[row, unit * window], 0
            for i in range(1, window):
                piece = pieces[row, unit * window + i]
                at = i if piece > best else at
                best = piece if piece > best else best
            units[row, unit] = best
            winner[row, unit] = at


@njit(**COMPILED)
def scatter(grad, winner, window, pieces):
    """Fill pieces (B, U · window) with the gradient (B, U) where the largest stood, and 0 elsewhere."""
    for row in range(grad.shape[0]):
        for unit in range(grad.shape[1]):
            for i in range(window):
                pieces[row, unit * window + i] = grad[row, unit] if winner[row, unit] == i else 0
