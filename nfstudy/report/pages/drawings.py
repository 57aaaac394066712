"""Figures inside pages: vector drawings whose colours follow the page, so that they suit dark ones too.

A drawing stands in the page as an `svg` element, with matplotlib's own colours, for light pages and for paper. A rule
for each of its colours, by what stands in `style`, gives the one on dark pages. Pages need no script for it, and hold
each figure once.
"""

from __future__ import annotations

import colorsys
import re
from collections.abc import Iterable
from html import escape

DARK_CARD, DARK_INK = "#1e2126", "#e6e7ea"
"""Behind figures on dark pages, and of their text; those of `style.css`."""
_INK_GREY = 0x26
"""Of text in matplotlib's drawings: the darkest grey that there is a word in."""
LEAST_CONTRAST = 3.5
"""Of a line and what is behind it; WCAG 2 asks for 3."""
_FAINTER = 1.15
"""A power that keeps the lines of a grid as faint on dark as on white."""
_COLOUR = re.compile(r"(fill|stroke): (#[0-9a-f]{6})")
_GREY = 0.12
"""A colour whose channels differ by no more is a grey."""


def embed(svg: bytes, id: str, caption: str, keeps_colours: bool = False) -> str:
    """Return a drawing as an element of a page.

    Arguments:
        svg: the file.
        id: begins the ids inside it, so that no two drawings of a page have one in common.
        caption: what is read to those who cannot see it.
        keeps_colours: whether its colours are a scale, as of a map, which stands on white everywhere.
    """
    text = svg.decode()
    size = re.search(r'viewBox="([^"]+)"', text)
    body = text[text.index("<defs>") :] if size else text
    used = set(re.findall(r'(?:url\(|href=")#([^")]+)', body))
    body = re.sub(r'\s?id="([^"]+)"', lambda found: f' id="{id}-{found[1]}"' if found[1] in used else "", body)
    body = re.sub(r'(url\(|href=")#', rf"\g<1>#{id}-", body)
    # A marker has its colours where it is used; rules do not reach those of its definition.
    body = re.sub(r'(<path id="[^"]+" d="[^"]*") style="[^"]*"', r"\1", body)
    body = re.sub(r"<!--.*?-->\s*|<style.*?</style>\s*", "", body, flags=re.DOTALL)
    width, height = size[1].split()[2:] if size else ("0", "0")
    kind = "drawing plain" if keeps_colours else "drawing"
    return (
        f'<svg class="{kind}" role="img" aria-label="{escape(caption)}" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" stroke-linejoin="round" '
        f'style="width: {float(width) / 72 * 5.6:.1f}rem">{body.strip()}'
    )


def dark_rules(drawings: Iterable[str]) -> str:
    """Return the style rules that give every colour of some embedded drawings its counterpart on dark pages."""
    found = sorted({pair for drawing in drawings for pair in _COLOUR.findall(drawing)})
    rules = [
        f'.drawing:not(.plain) [style*="{kind}: {colour}"] {{ {kind}: {dark} !important; }}'
        for kind, colour in found
        if (dark := dark_colour(colour)) != colour
    ]
    return "\n".join(rules)


def dark_colour(colour: str) -> str:
    """Return what a colour such as `#0173b2` is on dark pages.

    White is the card, and black or the darkest text the ink, with greys between them; other colours keep their hue, and
    are as much lighter as the contrast asks for.
    """
    red, green, blue = _channels(colour)
    if max(red, green, blue) - min(red, green, blue) <= _GREY:
        grey = (red + green + blue) / 3
        share = min(1.0, (1 - grey) / (1 - _INK_GREY / 255)) ** _FAINTER
        ends = zip(_channels(DARK_CARD), _channels(DARK_INK), strict=True)
        return _hex(*(card + share * (ink - card) for card, ink in ends))
    hue, lightness, saturation = colorsys.rgb_to_hls(red, green, blue)
    while contrast(colour, DARK_CARD) < LEAST_CONTRAST and lightness < 1:
        lightness = min(1.0, lightness + 0.02)
        colour = _hex(*colorsys.hls_to_rgb(hue, lightness, saturation))
    return colour


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colours, 1 to 21, as WCAG 2 defines it."""
    low, high = sorted(map(_luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    linear = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in _channels(colour))
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def _channels(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    return red, green, blue


def _hex(*channels: float) -> str:
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in channels)
