"""Strips as files: a GIF that runs by itself, and all pictures of a panel in one PNG; the same bytes each time."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from nfstudy.films.strips import SIDE, Panel, Strip

MILLISECONDS = 550
"""A step is shown for."""
PAUSE = 3
"""The last one is shown so many times as long."""
SHADES = 128
"""Colours of a PNG and of a GIF."""
GIF_SIDE = 160
"""Pixels of a panel in a GIF."""
_GAP, _LINE = 8, 20
_PAPER, _INK, _QUIET = (22, 24, 28), (230, 231, 234), (163, 168, 178)


def film_gif(strips: Sequence[Strip], title: str = "") -> bytes:
    """Return a GIF of strips, one over the other, that begins again for ever.

    Arguments:
        strips: at least one; one with fewer moments than another stays at its end.
        title: over all of them.
    """
    count = max(len(strip.steps) for strip in strips)
    pages = [_page(strips, title, place) for place in range(count)]
    # One palette for all, of the first and the last: else colours would flicker.
    sheet = Image.new("RGB", (pages[0].width, 2 * pages[0].height))
    sheet.paste(pages[0], (0, 0))
    sheet.paste(pages[-1], (0, pages[0].height))
    palette = sheet.quantize(SHADES, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    frames = [page.quantize(palette=palette, dither=Image.Dither.NONE) for page in pages]
    durations = [MILLISECONDS] * (count - 1) + [PAUSE * MILLISECONDS]
    file = io.BytesIO()
    frames[0].save(
        file, format="GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0, optimize=False
    )
    return file.getvalue()


def panel_png(panel: Panel) -> bytes:
    """Return a panel's pictures below one another, in one file of few colours."""
    sheet = Image.new("RGB", (SIDE, SIDE * len(panel.frames)))
    for place, frame in enumerate(panel.frames):
        sheet.paste(frame, (0, SIDE * place))
    file = io.BytesIO()
    sheet.quantize(SHADES, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(file, format="PNG", optimize=True)
    return file.getvalue()


def _page(strips: Sequence[Strip], title: str, place: int) -> Image.Image:
    most = max(len(strip.panels) for strip in strips)
    head = _LINE + _GAP if title else 0
    height = head + len(strips) * (GIF_SIDE + 2 * _LINE + _GAP) + _GAP
    page = Image.new("RGB", (most * (GIF_SIDE + _GAP) + _GAP, height), _PAPER)
    draw = ImageDraw.Draw(page)
    bold, small = ImageFont.load_default(size=15), ImageFont.load_default(size=12)
    if title:
        draw.text((_GAP, _GAP), title, fill=_INK, font=bold)
    for row, strip in enumerate(strips):
        top = head + _GAP + row * (GIF_SIDE + 2 * _LINE + _GAP)
        k = strip.steps[min(place, len(strip.steps) - 1)]
        draw.text((_GAP, top), f"{strip.title}: step k = {k} of {strip.steps[-1]}", fill=_INK, font=bold)
        for column, panel in enumerate(strip.panels):
            left = _GAP + column * (GIF_SIDE + _GAP)
            draw.text((left, top + _LINE), panel.label, fill=_QUIET, font=small)
            frame = panel.frames[min(place, len(panel.frames) - 1)]
            page.paste(frame.resize((GIF_SIDE, GIF_SIDE), Image.Resampling.LANCZOS), (left, top + 2 * _LINE))
    return page
