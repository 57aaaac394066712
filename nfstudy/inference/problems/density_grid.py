"""Densities on the plane as arrays over the window that Figure 3 shows."""

from __future__ import annotations

import io

import numpy as np
from torch import Tensor

from nfstudy.inference.problems.energies import WINDOW

CELLS = 100
"""Cells of the window on each side."""


def window_mass(density: Tensor) -> float:
    """Return ∫ q(z) dz over the window by the midpoint rule, from q at `window_grid`, (cells, cells)."""
    return (density.mean() * (2 * WINDOW) ** 2).item()


def array_file(values: Tensor) -> bytes:
    """Return a .npy file of float32 numbers."""
    file = io.BytesIO()
    np.save(file, values.float().numpy(), allow_pickle=False)
    return file.getvalue()
