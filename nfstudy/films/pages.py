"""Strips as HTML with a slider: a figure for a report's page, or a page of its own, which needs no other file."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from importlib import resources

from nfstudy.films.pictures import panel_png
from nfstudy.films.strips import Panel, Strip


def player_style() -> str:
    """Return the style of players, once a page; their colours are those of the page, if it names any."""
    return _file("player.css")


def player_script() -> str:
    """Return the script of players, once a page and after them; without it, they show the last step."""
    return _file("player.js")


def film_player(strips: Sequence[Strip], caption: str) -> str:
    """Return strips with one slider for all, as a `<figure>`."""
    count = max(len(strip.steps) for strip in strips)
    rows = "\n".join(_row(strip) for strip in strips)
    longest = max(strips, key=lambda strip: len(strip.steps))
    last = longest.steps[-1]
    steps = " ".join(map(str, longest.steps))
    return f"""<figure class="film" data-steps="{steps}">
<div class="film-controls" hidden>
<button type="button">Play</button>
<input type="range" min="0" max="{count - 1}" value="{count - 1}" step="1" aria-label="step k" \
aria-valuetext="step {last} of {last}">
<output>k = {last} of {last}</output>
</div>
{rows}
<figcaption>{html.escape(caption)}</figcaption>
</figure>"""


def film_page(strips: Sequence[Strip], caption: str) -> str:
    """Return a page with a player, and nothing else."""
    title = html.escape("; ".join(strip.title for strip in strips))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
{_file("page.css")}{player_style()}</style>
</head>
<body>
<main>
{film_player(strips, caption)}
</main>
<script>
{player_script()}</script>
</body>
</html>
"""


def _row(strip: Strip) -> str:
    panels = "\n".join(_panel(panel) for panel in strip.panels)
    moments = len(strip.steps)
    return f"""<div class="film-strip" style="--last: {moments - 1}; --at: {moments - 1}">
<p class="film-title">{html.escape(strip.title)}</p>
<div class="film-panels">
{panels}
</div>
</div>"""


def _panel(panel: Panel) -> str:
    address = base64.b64encode(panel_png(panel)).decode()
    still = " film-still" if len(panel.frames) == 1 else ""
    return (
        f'<div class="film-panel"><span>{html.escape(panel.label)}</span>'
        f'<div class="film-picture{still}" role="img" aria-label="{html.escape(panel.alt)}" '
        f'style="background-image: url(data:image/png;base64,{address})"></div></div>'
    )


def _file(name: str) -> str:
    return (resources.files("nfstudy.films") / name).read_text(encoding="utf-8")
