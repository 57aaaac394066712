"""The exhibits beside MCMC, of files made up by hand."""

import dataclasses
from contextlib import suppress

import numpy as np
import pytest
from support.fake_runs import run_all, study

from nfstudy.core.errors import ReportError
from nfstudy.films.fits import FITS, PlaneFits, read_fits, write_fits
from nfstudy.report.build import make_exhibit
from nfstudy.report.plots.contours import _levels
from nfstudy.report.statistics.estimates import gather_results

PLANE = """
study: small
title: Small
energy: {name: u1}
grid: {energy.name: [u1, u2], flow.family: [planar], flow.length: [2, 8]}
repetitions: 2
budgets: {full: {}}
exhibits: [mcmc-energies]
"""
IMAGES = """
study: small
title: Small
data: {name: mnist, binarisation: static}
model: {latent: 2}
grid: {flow.family: [planar], flow.length: [0, 2]}
repetitions: 1
budgets: {full: {}}
exhibits: [mcmc-posteriors]
"""


def fits(kl=0.5, r_hat=1.001, targets=1, inverse=True, images=0, mass=1.0):
    ticks = np.linspace(-2, 2, 24)
    log_p = np.tile(-0.5 * (ticks[:, None] ** 2 + ticks**2) - np.log(2 * np.pi), (targets, 1, 1))
    count = 3 if inverse else 2
    values = np.stack([np.full((targets, 2), value) for value in (0.9, 0.25, kl)[:count]], 1)
    return PlaneFits(
        windows=np.tile([0.0, 0.0, 2.0], (targets, 1)),
        log_target=log_p,
        log_flow=log_p if inverse else np.empty((0, 0, 0)),
        means=np.zeros((targets, 2, 2)),
        covariances=np.tile(np.eye(2), (targets, 2, 1, 1)),
        kl=values,
        mass=np.full((targets, count), mass),
        draws=np.random.default_rng(0).normal(size=(targets, 2, 30, 2)),
        r_hat=np.full((targets, 2), r_hat),
        accepted=np.full(targets, 0.8),
        images=np.full((images, 6, 5, 1), 90, np.uint8) if images else np.empty((0, 0, 0, 0), np.uint8),
    )


def shown(text, name, of_run):
    spec = study(text)
    runs = run_all(spec, "full")
    for record in runs.records:
        if (found := of_run(record)) is not None:
            runs.files[record["run_id"], FITS] = found if isinstance(found, bytes) else write_fits(found)
    return make_exhibit(name, gather_results(spec.under("full"), runs))


def displays(row):
    return [entry.display for entry in row.entries]


def test_energies_are_rows_of_tiles_and_their_kls_means_over_runs():
    found = shown(PLANE, "mcmc-energies", lambda run: fits(kl=run["index"]))
    assert displays(found.tables[0].rows[0])[:6] == [
        *["1.500 ± 0.500 (2)"] * 2,
        *["0.900 ± 0.000 (2)"] * 2,
        *["0.250 ± 0.000 (2)"] * 2,
    ]
    assert displays(found.tables[0].rows[0])[6:] == ["1.001 ± 0.000 (2)", "0.80 ± 0.00 (2)", ""]
    (drawing,) = found.drawings
    tiles = drawing.figure.axes
    assert len(tiles) == 2 * 5
    assert [tile.get_xlabel() for tile in tiles[:5]] == [
        "R-hat 1.001",
        "0.90 | 0.90",
        "0.25 | 0.25",
        "1.00 | 1.00",
        "1.00 | 1.00",
    ]
    assert len(found.run_ids) == 8
    assert found.text == ""


def test_chains_that_have_not_mixed_and_mass_that_is_missing_are_marked():
    found = shown(PLANE, "mcmc-energies", lambda run: fits(r_hat=1.2, mass=0.9))
    first = found.tables[0].rows[0].entries
    assert all(first[place].marked for place in (0, 2, 4, 6))
    assert "have not mixed" in found.tables[0].caption
    good = shown(PLANE, "mcmc-energies", lambda run: fits())
    assert "†" not in good.tables[0].caption


def test_runs_of_before_are_told_of():
    found = shown(PLANE, "mcmc-energies", lambda run: fits() if run["energy.name"] == "u1" else None)
    assert "2 of 4 cells have runs without draws" in found.text
    assert displays(found.tables[0].rows[2])[0] == "run without draws"
    nothing = shown(PLANE, "mcmc-energies", lambda run: None)
    assert nothing.drawings == ()


def test_posteriors_have_a_figure_a_cell_with_their_images():
    found = shown(IMAGES, "mcmc-posteriors", lambda run: fits(targets=3, images=3))
    assert [drawing.id for drawing in found.drawings] == ["mcmc-posteriors-1", "mcmc-posteriors-2"]
    axes = found.drawings[0].figure.axes
    assert len(axes) == 4 * 3
    assert sum(len(tile.child_axes) for tile in axes) == 3, "each image once"
    assert "means over those that the figures show" in found.tables[0].caption


def test_a_flow_without_an_inverse_has_no_density():
    found = shown(IMAGES, "mcmc-posteriors", lambda run: fits(targets=2, images=2, inverse=False))
    assert displays(found.tables[0].rows[0])[0] == "no inverse, so no density"
    last = found.drawings[0].figure.axes[-1]
    assert "no inverse" in last.texts[0].get_text()


def test_a_file_that_cannot_be_read_is_told_with_its_run():
    with pytest.raises(ReportError, match=r"run [0-9a-f]{32}, fits\.npz: not a file of fits"):
        shown(PLANE, "mcmc-energies", lambda run: b"PK nothing")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"covariances": np.zeros((1, 2, 2, 2))}, "covariances: got one that is not positive definite"),
        ({"covariances": np.full((1, 2, 2, 2), 1.0)}, "covariances: got one that is not positive definite"),
        ({"windows": np.zeros((1, 3))}, r"windows: half sides \[0.0\]; expected: above 0"),
        ({"draws": np.zeros((1, 2, 0, 2))}, "expected: at least one draw"),
        ({"log_target": np.zeros((1, 1, 1)), "log_flow": np.zeros((1, 1, 1))}, "two cells on each side"),
    ],
)
def test_a_file_with_numbers_that_cannot_be_drawn_is_told_with_its_run(change, words):
    content = write_fits(dataclasses.replace(fits(), **change))
    with pytest.raises(ReportError, match=rf"run [0-9a-f]{{32}}, fits\.npz: .*{words}"):
        shown(PLANE, "mcmc-energies", lambda run: content)


def test_whatever_byte_is_altered_is_told_or_harmless():
    content = write_fits(fits())
    for place in range(0, len(content), 7):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        with suppress(ValueError):  # As `zlib.error` is not.
            read_fits(bytes(damaged))


def test_contours_hold_the_shares_that_they_say():
    ticks = np.linspace(-6, 6, 400)
    log_p = -0.5 * (ticks[:, None] ** 2 + ticks**2)
    for level, share in zip(_levels(log_p), (0.99, 0.9, 0.5), strict=True):
        # Of N(0, I) on the plane, P(ln p/p(0) > l) = 1 − e^l.
        assert 1 - np.exp(level) == pytest.approx(share, abs=2e-3)
    assert np.all(np.diff(_levels(np.zeros((3, 3)))) > 0)
