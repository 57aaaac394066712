"""A film as pictures: a row of panels, each with one picture a moment, drawn by Pillow; the same bytes each time."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from nfstudy.films.arrays import Film, PlaneFilm, PosteriorFilm

SIDE = 200
"""Pixels of a panel."""
FINER = 3
"""Lines are drawn so many times as large, and averaged."""
BEHIND = 0.45
"""Brightness of a density that others are drawn over."""
EVERY_LINE = 3
"""Of the grid's lines, one in so many is drawn, through all points along it."""
EVERY_WAY = 5
"""Of the samples, one in so many shows the way that it came."""
_MAGMA = (
    *((0, 0, 4), (16, 11, 45), (44, 17, 95), (81, 18, 124), (114, 31, 129), (147, 43, 128), (183, 55, 121)),
    *((216, 69, 108), (241, 96, 93), (252, 137, 97), (254, 176, 120), (254, 215, 153), (252, 253, 191)),
)
"""matplotlib's colour map of that name at thirteen places, as Figures 1 and 3 have it; workers load no matplotlib."""
SHADES = np.stack(
    [np.interp(np.linspace(0, 12, 256), range(13), [colour[i] for colour in _MAGMA]) for i in range(3)], axis=1
).round()
_HUES = 12
_ALONG = ((86, 180, 233), (230, 159, 0))
"""Colours of the grid's lines along z1 and z2; the colour-blind can tell them apart."""

Colour = tuple[int, int, int]
Window = tuple[float, float, float]
"""Centre and half side."""


@dataclass(frozen=True)
class Panel:
    """One place of a strip."""

    label: str
    alt: str
    """What is to be seen, for those who do not see it."""
    frames: Sequence[Image.Image]
    """One a moment, or one for all."""


@dataclass(frozen=True)
class Strip:
    """A film's panels side by side."""

    title: str
    steps: Sequence[int]
    """k of each moment."""
    panels: Sequence[Panel]


def strip_of(film: Film, title: str) -> Strip:
    """Draw a film.

    Arguments:
        film: its arrays.
        title: over the panels, such as `planar, K = 8`.
    """
    panels = _plane_panels(film) if isinstance(film, PlaneFilm) else _posterior_panels(film)
    return Strip(title, film.steps.tolist(), panels)


def _plane_panels(film: PlaneFilm) -> list[Panel]:
    densities = np.exp(film.log_density.astype(np.float64))
    target = np.exp(film.target.astype(np.float64))
    peak = target.max() if target.size else 1.5 * densities[0].max()
    window = _window(film.window)
    last = int(film.steps[-1])
    behind = shaded(target / peak, BEHIND) if target.size else shaded(np.zeros((1, 1)))
    colours = hues(film.samples[0])
    stills = (
        [Panel("true density", "The density that is approximated.", [shaded(target / peak)])] if target.size else []
    )
    over = " over the true density, dimmed" if target.size else ""
    return [
        *stills,
        Panel("density after k steps", f"Density after each of {last} steps.", [shaded(q / peak) for q in densities]),
        Panel(
            "warped grid",
            f"A square grid as each step warps it{over}.",
            [_grid_picture(behind, points, window) for points in film.grid.astype(np.float64)],
        ),
        Panel(
            "samples",
            f"{film.samples.shape[1]} samples after each step, with their ways{over}.",
            [_cloud(behind, film.samples[: i + 1], colours, window) for i in range(len(film.steps))],
        ),
    ]


def _posterior_panels(film: PosteriorFilm) -> list[Panel]:
    panels = []
    for n, image in enumerate(film.images):
        behind = shaded(np.zeros((1, 1)))
        if film.posterior.size:
            log_p = film.posterior[n].astype(np.float64)
            behind = shaded(np.exp(log_p - log_p.max()), 2 * BEHIND)
        samples, window = film.samples[:, n].astype(np.float64), _window(film.windows[n])
        colours = hues(samples[0])
        frames = [_cloud(behind, samples[: i + 1], colours, window) for i in range(len(film.steps))]
        share = "" if film.posterior.size else f", {film.share[n]:.0%} of the variance"
        for frame in frames:
            frame.paste(thumbnail(image, SIDE // 5), (4, 4))
        panels.append(
            Panel(f"image {n + 1}{share}", f"Samples of the posterior of test image {n + 1} after each step.", frames)
        )
    return panels


def shaded(values: np.ndarray, brightness: float = 1.0) -> Image.Image:
    """Return numbers from 0 to 1, (C, C), as a picture in shades from black over red to light yellow."""
    smooth = Image.fromarray(np.asarray(values, np.float32), mode="F").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    levels = np.clip(np.asarray(smooth) * 255, 0, 255).round().astype(np.uint8)
    return Image.fromarray((SHADES * brightness).round().astype(np.uint8)[levels])


def thumbnail(image: np.ndarray, side: int) -> Image.Image:
    """Return an image, (height, width, channels) from 0 to 255, in colour, its longer side as given."""
    colours = Image.fromarray(np.broadcast_to(image, (*image.shape[:2], 3)).astype(np.uint8))
    scale = side / max(colours.size)
    sizes = (max(1, round(colours.width * scale)), max(1, round(colours.height * scale)))
    return colours.resize(sizes, Image.Resampling.NEAREST)


def hues(samples: np.ndarray) -> list[Colour]:
    """Return a colour for each of S points, (S, 2), by its direction from their middle."""
    offsets = samples - samples.mean(0)
    turns = np.arctan2(offsets[:, 1], offsets[:, 0]) / (2 * np.pi) % 1
    wheel = [colorsys.hls_to_rgb(place / _HUES, 0.68, 0.85) for place in range(_HUES)]
    colours = [(round(255 * r), round(255 * g), round(255 * b)) for r, g, b in wheel]
    return [colours[int(turn * _HUES) % _HUES] for turn in turns]


def _window(values: np.ndarray) -> Window:
    x, y, half = (float(value) for value in values)
    return x, y, half


def _pixels(points: np.ndarray, window: Window) -> np.ndarray:
    """Return where points (..., 2) are on the large canvas, y downwards; those far outside are cut at a distance."""
    x, y, half = window
    unit = (np.asarray(points, np.float64) - (x, y)) / (2 * half)
    return np.clip(np.stack([0.5 + unit[..., 0], 0.5 - unit[..., 1]], -1), -20, 20) * SIDE * FINER


def _large(picture: Image.Image) -> Image.Image:
    return picture.resize((SIDE * FINER, SIDE * FINER), Image.Resampling.BILINEAR)


def _grid_picture(behind: Image.Image, grid: np.ndarray, window: Window) -> Image.Image:
    canvas = _large(behind)
    draw = ImageDraw.Draw(canvas)
    pixels = _pixels(grid, window)
    for lines, colour in ((pixels, _ALONG[0]), (pixels.swapaxes(0, 1), _ALONG[1])):
        for line in lines[::EVERY_LINE]:
            draw.line([*map(tuple, line.tolist())], fill=colour, width=FINER)
    return canvas.reduce(FINER)


def _cloud(behind: Image.Image, path: np.ndarray, colours: Sequence[Colour], window: Window) -> Image.Image:
    """Draw samples where they are, path[-1], and the ways that they came, (f, S, 2)."""
    canvas = _large(behind)
    draw = ImageDraw.Draw(canvas)
    ways = _pixels(path, window).swapaxes(0, 1)
    if len(path) > 1:
        for way, colour in [*zip(ways, colours, strict=True)][::EVERY_WAY]:
            dimmed = (colour[0] * 3 // 5, colour[1] * 3 // 5, colour[2] * 3 // 5)
            draw.line([*map(tuple, way.tolist())], fill=dimmed, width=FINER - 1)
    reach = 1.7 * FINER
    for (x, y), colour in zip(ways[:, -1].tolist(), colours, strict=True):
        draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=colour)
    return canvas.reduce(FINER)
