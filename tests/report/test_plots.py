"""Figures: what is drawn where, stable bytes, and no traces left in matplotlib."""

import re

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from matplotlib.backend_bases import GraphicsContextBase
from matplotlib.figure import Figure
from matplotlib.transforms import Affine2D, TransformedBbox

from nfstudy.report.plots.curves import Column, Curve, Facet, Panel, draw_curves, draw_histories, draw_tiles, render

OURS = Curve("NF (planar), ours", [0, 10], [97.0, 95.0], [0.5, None], "planar")
PAPER = Curve("NF (planar), paper", [0, 10], [96.7, 93.6], [0.05, 0.04], "planar", published=True)


def curves(stamp: str = "") -> Figure:
    panel = Panel("(a) F", "F (nats per image)", [OURS, PAPER])
    return draw_curves("Flow length", "flow length K", [panel, panel], stamp)


def histories() -> Figure:
    points = pd.DataFrame(
        [
            {"line": line, "length": length, "split": split, "update": update, "value": 500 - update + length}
            for line, length in ((0, 0), (1, 0), (2, 10))
            for split in ("training", "validation")
            for update in (0, 100, 200, 300, 400)
        ]
    )
    return draw_histories("Learning", "F (nats per image)", [Facet("NF", points), Facet("NICE", points)])


def tiles() -> Figure:
    picture = np.zeros((4, 4, 3), np.uint8)
    return draw_tiles("Samples", ["samples", "reconstructions"], [Column("K = 0", [picture, None])])


@pytest.mark.parametrize("kind", ["png", "svg"])
@pytest.mark.parametrize("draw", [curves, histories, tiles])
def test_the_same_figure_gives_the_same_bytes_without_a_date(draw, kind):
    first, second = render(draw(), kind), render(draw(), kind)
    assert first == second
    assert b"<dc:date>" not in first
    assert first.startswith(b"\x89PNG" if kind == "png" else b"<?xml")


def test_a_drawing_is_the_same_where_the_last_digit_of_a_place_is_another(monkeypatch):
    """As on a processor with other logarithms: a rectangle that clips is the same one to six decimals."""
    here = render(curves(), "svg")
    rectangle = GraphicsContextBase.get_clip_rectangle

    def nudged(self):
        return (box := rectangle(self)) and TransformedBbox(box, Affine2D().scale(1 + 2**-52))

    monkeypatch.setattr(GraphicsContextBase, "get_clip_rectangle", nudged)
    assert render(curves(), "svg") == here
    assert here.count(b'<clipPath id="clip') == 2
    assert set(re.findall(r"url\(#[^)]+\)", here.decode())) == {"url(#clip0)", "url(#clip1)"}


def test_drawing_leaves_no_global_state():
    before = dict(matplotlib.rcParams)
    render(curves(), "svg")
    assert dict(matplotlib.rcParams) == before
    assert pyplot.get_fignums() == []


def test_points_bars_and_units_are_drawn():
    axes = curves().axes[0]
    ours, paper = axes.containers
    np.testing.assert_array_equal(ours.lines[0].get_xydata(), [[0, 97], [10, 95]])
    np.testing.assert_allclose(paper.lines[2][0].get_segments()[1], [[10, 93.56], [10, 93.64]])
    drawn = [segment.tolist() for segment in ours.lines[2][0].get_segments() if len(segment)]
    assert drawn == [[[0, 96.5], [0, 97.5]]]
    assert [container.lines[0].get_markerfacecolor() == "none" for container in (ours, paper)] == [False, True]
    assert ours.lines[0].get_color() == paper.lines[0].get_color()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("flow length K", "F (nats per image)")


def test_one_legend_below_all_panels_covers_no_data():
    figure = curves()
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [OURS.label, PAPER.label]
    assert legend.get_window_extent().y1 < min(axes.get_window_extent().y0 for axes in figure.axes)


def test_a_legend_of_many_long_names_stays_inside_the_figure():
    names = [f"NICE-perm, D = 40, learning rate = 0.00{i}, ours" for i in range(9)]
    many = [Curve(name, [0, 10], [97.0, 95.0], [None, None], "nice-perm", i) for i, name in enumerate(names)]
    figure = draw_curves("Flow length", "flow length K", [Panel("F", "F (nats per image)", many)] * 3)
    figure.draw_without_rendering()
    extent = figure.legends[0].get_window_extent()
    assert extent.x0 >= 0
    assert extent.x1 <= figure.bbox.x1
    assert extent.y1 < min(axes.get_window_extent().y0 for axes in figure.axes)


@pytest.mark.parametrize("stamp", ["incomplete: 3 of 9 cells", ""])
def test_the_stamp_is_drawn_when_there_is_one(stamp):
    texts = [text.get_text() for text in curves(stamp).texts]
    assert texts == ["Flow length", *([stamp] if stamp else [])]


def test_histories_have_a_line_a_run_and_split_and_leave_out_the_start():
    figure = histories()
    axes = figure.axes[0]
    drawn = [line for line in axes.lines if len(line.get_xdata())]
    assert len(drawn) == 6
    low, high = axes.get_ylim()
    assert 410 < high < 500  # the highest value from update 100 on is 500 − 100 + 10
    assert 90 < low < 100
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["K = 0", "K = 10", "validation", "training"]


def test_a_missing_picture_is_said_to_be_missing():
    samples, reconstructions = tiles().axes
    assert (len(samples.images), len(reconstructions.images)) == (1, 0)
    assert [text.get_text() for text in reconstructions.texts] == ["no such picture"]
