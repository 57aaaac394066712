"""Figures inside pages: ids of their own, and colours that can be seen on dark pages too."""

import re

import pytest

from nfstudy.report.pages.drawings import DARK_CARD, DARK_INK, LEAST_CONTRAST, contrast, dark_colour, dark_rules, embed
from nfstudy.report.plots.curves import _PALETTE, Curve, Panel, draw_curves, render


def drawn():
    curves = [Curve("planar", (0, 10, 20), (3.0, 2.0, 1.0), (0.1, None, 0.1), "planar")]
    return render(draw_curves("Title", "K", [Panel("(a)", "F", curves)]), "svg")


def test_contrasts_are_those_of_the_standard():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005), "as WCAG's own examples have it"


def test_white_is_the_card_and_the_text_the_ink_with_greys_between():
    assert (dark_colour("#ffffff"), dark_colour("#262626"), dark_colour("#000000")) == (DARK_CARD, DARK_INK, DARK_INK)
    assert contrast(DARK_CARD, DARK_INK) > 7
    assert 1.2 < contrast(dark_colour("#cccccc"), DARK_CARD) < 3, "lines of the grid stay behind the curves"


@pytest.mark.parametrize("colour", ["#{:02x}{:02x}{:02x}".format(*(round(255 * c) for c in rgb)) for rgb in _PALETTE])
def test_every_colour_of_a_flow_can_be_seen_on_a_dark_page(colour):
    assert contrast(dark_colour(colour), DARK_CARD) >= LEAST_CONTRAST


def test_an_embedded_drawing_has_its_own_ids_no_style_sheet_and_words_for_the_blind():
    first, second = (embed(drawn(), name, 'F < 3 & "so on"') for name in ("one", "two"))
    ids = [set(re.findall(r'\bid="([^"]+)"', text)) for text in (first, second)]
    assert ids[0]
    assert not ids[0] & ids[1]
    for text, own in zip((first, second), ids, strict=True):
        assert set(re.findall(r'(?:url\(|href=")#([^")]+)', text)) == own
    assert 'aria-label="F &lt; 3 &amp; &quot;so on&quot;"' in first
    assert not re.search("<style|<metadata|<!--|<[?]xml", first)
    assert not re.search(r'<path id="[^"]+" d="[^"]*" style', first), "rules do not reach a definition inside `use`"
    assert first == embed(drawn(), "one", 'F < 3 & "so on"'), "the same bytes each time"


def test_each_colour_that_changes_has_one_rule_and_maps_have_none():
    text = embed(drawn(), "one", "")
    rules = dark_rules([text, text])
    selectors = re.findall(r'\[style\*="(\w+: #[0-9a-f]{6})"\]', rules)
    assert len(selectors) == len(set(selectors)) == rules.count("\n") + 1
    assert {"fill: #ffffff", "fill: #262626", "stroke: #cccccc"} <= set(selectors)
    assert rules.count(".drawing:not(.plain)") == len(selectors)
    assert 'class="drawing plain"' in embed(drawn(), "one", "", keeps_colours=True)
