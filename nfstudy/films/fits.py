"""Densities on the plane, draws of each by MCMC, and what was fitted to them: the arrays of the file `fits.npz`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from nfstudy.films.arrays import read_arrays, write_arrays

FITS = "fits.npz"
"""The file of a run that holds them."""
GAUSSIANS = ("the Gaussian of least KL(q‖p)", "the Gaussian of least KL(p‖q)")
"""The fits that every target has, in their order; the run's own q_K comes after them."""


@dataclass(frozen=True)
class PlaneFits:
    """T densities p on the plane, with C chains of draws from each, and F fits: two Gaussians, then q_K."""

    KIND: ClassVar = "fits"
    SMALL: ClassVar = frozenset({"log_target", "log_flow", "draws"})
    LOGARITHMS: ClassVar = frozenset({"log_target", "log_flow"})
    windows: np.ndarray
    """Centre and half side of the square that a target's pictures show, (T, 3)."""
    log_target: np.ndarray
    """ln p in nats at the centres of G × G cells of the window, rows from the top, (T, G, G); p integrates to 1."""
    log_flow: np.ndarray
    """ln q_K there, (T, G, G); (0, 0, 0) where the flow has no inverse."""
    means: np.ndarray
    """Of the Gaussians, (T, 2, 2): of each target the reverse KL's, then the forward KL's."""
    covariances: np.ndarray
    """Of the Gaussians, (T, 2, 2, 2)."""
    kl: np.ndarray
    """KL(q‖p) and KL(p‖q) in nats of each fit, by quadrature, (T, F, 2); F is 3, or 2 without an inverse."""
    mass: np.ndarray
    """∫ q of each fit over the quadrature's grid, (T, F), which is 1 where the grid is wide and fine enough."""
    draws: np.ndarray
    """Draws by Hamiltonian Monte Carlo, thinned, (T, C, N, 2)."""
    r_hat: np.ndarray
    """R-hat of both coordinates over all draws, (T, 2)."""
    accepted: np.ndarray
    """Mean probability of acceptance, (T,)."""
    images: np.ndarray
    """The images whose posteriors the targets are, from 0 to 255, (T, height, width, channels); of energies
    (0, 0, 0, 0)."""

    def shapes(self) -> dict[str, tuple[int | str, ...]]:
        """Return the shape of each array; letters stand for sizes."""
        fits = 3 if self.log_flow.size else 2
        return {
            "windows": ("T", 3),
            "log_target": ("T", "G", "G"),
            "log_flow": ("T", "G", "G") if self.log_flow.size else (0, 0, 0),
            "means": ("T", 2, 2),
            "covariances": ("T", 2, 2, 2),
            "kl": ("T", fits, 2),
            "mass": ("T", fits),
            "draws": ("T", "C", "N", 2),
            "r_hat": ("T", 2),
            "accepted": ("T",),
            "images": ("T", "height", "width", "channels") if self.images.size else (0, 0, 0, 0),
        }


def write_fits(fits: PlaneFits) -> bytes:
    """Return the file: draws and logarithms of densities in float16, all else in float32, images in bytes."""
    return write_arrays(fits)


def read_fits(content: bytes) -> PlaneFits:
    """Return what a file holds; raises ValueError where it is none, or too large."""
    found = read_arrays(content, {PlaneFits.KIND: PlaneFits}, "file of fits")
    assert isinstance(found, PlaneFits)
    if not len(found.windows) or not len(found.draws[0]):
        raise ValueError("windows, draws: expected: at least one target, with draws")
    if not found.draws.size or found.log_target.shape[1] < 2:
        raise ValueError(
            f"draws of shape {found.draws.shape}, log_target of {found.log_target.shape}; expected: at least one draw, "
            "and two cells on each side"
        )
    if not (found.windows[:, 2] > 0).all():
        raise ValueError(f"windows: half sides {found.windows[:, 2].tolist()}; expected: above 0")
    covariances = found.covariances.astype(np.float64)
    if not ((covariances[..., 0, 0] > 0) & (np.linalg.det(covariances) > 0)).all():
        raise ValueError("covariances: got one that is not positive definite; expected: those of Gaussians")
    return found
