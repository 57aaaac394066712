"""The plane of two latent variables as a picture."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nfstudy.report.plots.curves import figure_style, finish

REACH = 3.0
"""The map is of (−3, 3)²: 99.5% of the prior N(0, I)."""
MARGIN = 0.35
GAP_GREY = 110
"""Between the model's images."""
SIZE = 0.36
"""Of a test image, in units of the latent variables."""


def draw_latent_map(
    title: str, decoded: np.ndarray, thumbnails: np.ndarray, places: np.ndarray, stamp: str = ""
) -> Figure:
    """Draw the model's images over the plane, and test images where they lie in it.

    Arguments:
        title: of the figure.
        decoded: images at M × M points of (−3, 3)², rows from the top, (M, M, height, width, channels), 0 to 255.
        thumbnails: test images, (T, height, width, channels).
        places: their latent variables, (T, 2).
        stamp: printed in a corner when not empty.
    """
    with figure_style():
        figure = Figure(figsize=(10.6, 5.7))
        figure.set_layout_engine("constrained")
        left, right = figure.subplots(1, 2)
        gap = -(-decoded.shape[2] // 8)
        framed = np.pad(decoded, ((0, 0), (0, 0), (0, gap), (0, gap), (0, 0)), constant_values=GAP_GREY)
        sheet = np.concatenate([np.concatenate([*row], axis=1) for row in framed])[:-gap, :-gap]
        step = REACH / (len(decoded) - 1) if len(decoded) > 1 else 0.0  # Half of a tile.
        edge = REACH + step
        left.imshow(_shown(sheet), extent=(-edge, edge, -edge, edge), cmap="gray", vmin=0, vmax=255)
        left.set_title("p(x|z): the model's images")
        reach = max(REACH, float(np.quantile(np.abs(places), 0.99)) if len(places) else REACH) + MARGIN
        for image, (x, y) in zip(thumbnails, places.tolist(), strict=True):
            if max(abs(x), abs(y)) < reach - SIZE / 2:
                half = SIZE / 2 * reach / (REACH + MARGIN)
                right.imshow(_inverted(image), extent=(x - half, x + half, y - half, y + half), interpolation="nearest")
        right.set_title("q_K(z|x): test images at a sample of their posterior")
        for axes, limit in ((left, edge), (right, reach)):
            _plane(axes, limit)
        finish(figure, title, stamp)
    return figure


def _plane(axes: Axes, limit: float) -> None:
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), xlabel="z1", ylabel="z2", aspect="equal")
    axes.grid(visible=False)


def _shown(image: np.ndarray) -> np.ndarray:
    return image[..., 0] if image.shape[-1] == 1 else image


def _inverted(image: np.ndarray) -> np.ndarray:
    """Return a grey image as dark ink on paper that lets through a little; colours stay as they are."""
    if image.shape[-1] != 1:
        return image
    ink = image[..., 0]
    paper = np.array([255, 255, 255, 190.0])
    shades: np.ndarray = (paper + (np.array([20, 30, 110, 255.0]) - paper) * (ink[..., None] / 255)).astype(np.uint8)
    return shades
