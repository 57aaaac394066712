"""Grids of grey or colour images as PNG files."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

IMAGE_PIXELS = 56
"""Images smaller than this are enlarged by a whole factor, so that 8 × 8 digits can be seen."""
GAP_PIXELS = 2
GAP_GREY = 128


def image_grid(images: np.ndarray, columns: int) -> bytes:
    """Return a PNG of images laid out row by row; the same images always give the same bytes.

    Arguments:
        images: (N, height, width), from 0 (black) to 1 (white), or (N, height, width, 3), of red, green and blue; N a
            multiple of `columns`.
        columns: images in a row.

    Raises:
        ValueError: the images do not fill the rows.
    """
    count, height, width, *colours = images.shape
    if count == 0 or count % columns:
        raise ValueError(f"{count} images in {columns} columns: expected: a multiple of the columns, at least one row")
    factor = max(1, IMAGE_PIXELS // max(height, width))
    levels = np.rint(255 * np.clip(images, 0, 1)).astype(np.uint8)
    enlarged = levels.repeat(factor, axis=1).repeat(factor, axis=2)
    gaps = ((0, 0), (0, GAP_PIXELS), (0, GAP_PIXELS), *((0, 0) for _ in colours))
    framed = np.pad(enlarged, gaps, constant_values=GAP_GREY)
    rows = framed.reshape(-1, columns, *framed.shape[1:]).swapaxes(1, 2)
    page = rows.reshape(rows.shape[0] * rows.shape[1], -1, *colours)
    file = io.BytesIO()
    Image.fromarray(page[:-GAP_PIXELS, :-GAP_PIXELS]).save(file, format="PNG")
    return file.getvalue()
