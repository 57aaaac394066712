"""Table 1, Figures 1 and 3 from runs in memory."""

import io

import numpy as np
import pytest
from support.fake_runs import FakeRuns, study

from nfstudy.papers.rezende2015.figures_1_3 import energies, figure_1, figure_3
from nfstudy.report.statistics.estimates import gather_results

ENERGIES = """
study: energies
title: Energies
energy: {name: u1}
grid:
  energy.name: [u1, u2]
  flow.family: [planar, nice-perm]
  flow.length: [2, 32]
repetitions: 2
exhibits: [energies, figure-3]
"""
DRAWN = """
study: figure-1
title: Figure 1
drawn: {density: normal}
grid:
  drawn.density: [normal, uniform]
  flow.family: [planar, radial]
  flow.length: [0, 1]
exhibits: [figure-1]
"""
F = {("u1", "planar", 2): -1.5, ("u1", "planar", 32): -1.8, ("u1", "nice-perm", 2): -1.0, ("u1", "nice-perm", 32): -1.7}


def array_file(values):
    file = io.BytesIO()
    np.save(file, np.asarray(values, dtype=np.float32))
    return file.getvalue()


def planted(spec, left_out=()):
    runs = FakeRuns()
    for cell in spec.under("default").cells:
        settings = cell.settings
        where = (getattr(settings.energy, "name", None), settings.flow.family, settings.flow.length)
        if where in left_out:
            continue
        for trial in spec.under(cell.budget).repetitions_of(cell, settings):
            f = F.get(where, -2.0) + 0.01 * trial.index
            values = {"test__elbo": -f, "test__kl": f + 1.878, "test__log_z": 1.8775, "test__elbo_table_1": 0.5 - f}
            run_id = runs.add(trial, **values, test__mass_left=0.3 + 0.2 * trial.index, test__window_mass=0.999)
            runs.files[run_id, "density.npy"] = array_file([[0.0, 0.1], [0.2, 0.3]])
            runs.files[run_id, "target.npy"] = array_file([[0.0, 0.2], [0.4, 0.5]])
    return runs


def results(text=ENERGIES, **options):
    spec = study(text)
    return gather_results(spec.under("default"), planted(spec, **options))


def lines_of(table):
    return {
        (row.name, row.entries[0].display): dict(zip(table.columns[1:], (e.display for e in row.entries), strict=True))
        for row in table.rows
    }


def test_the_cells_table_has_f_the_true_kl_and_both_modes():
    definitions, cells = energies(results()).tables
    lines = lines_of(cells)
    assert len(lines) == 8
    line = lines["NF (planar), K = 32", "U1"]
    assert line["F"] == "−1.785 ± 0.005 (2)"  # −1.79 and −1.78
    assert line["F, unconfined"] == "−2.285 ± 0.005 (2)"  # half a nat less, planted
    assert line["KL"] == "0.093 ± 0.005 (2)"  # F + 1.878, planted
    assert line["range of z1 < 0"] == "0.50 to 0.70"
    assert [row.name for row in definitions.rows] == ["U1", "U2"]
    assert definitions.rows[0].entries[1].display == "as it is"
    assert definitions.rows[1].entries[1].display == "L = 4, s = 0.25"
    assert definitions.rows[0].entries[2].display == "−1.8775 ± 0.0000 (2)"


def test_differences_to_the_longest_planar_chain_stand_beside_the_paper_s():
    (table,) = figure_3(results()).tables
    lines = lines_of(table)
    nice = lines["NICE-perm, K = 2", "U1"]
    assert nice["paper"] == "2.94 ± 0.07"
    assert nice["paper above planar"] == "+3.20"  # 2.943 − (−0.259)
    assert nice["ours above planar"] == "+0.80"  # −1.0 − (−1.8)
    assert lines["NF (planar), K = 32", "U1"]["ours above planar"] == "0.00"


def test_figure_3_moves_the_paper_s_points_by_one_constant_a_panel():
    made = figure_3(results())
    pictures, curves = (drawing.figure for drawing in made.drawings)
    assert len([axes for axes in pictures.axes if axes.images]) == 2 * 5  # true, planar and NICE at two lengths
    assert np.array_equal(pictures.axes[0].images[0].get_array(), np.float32([[0.4, 0.5], [0.0, 0.2]]))  # z2 down
    labels = {container.get_label(): container.lines[0].get_ydata() for container in curves.axes[0].containers}
    ours, paper = labels["NF (planar), ours"], labels["NF (planar), paper (moved)"]
    assert paper[-1] == pytest.approx(ours[-1])
    assert paper[0] - paper[-1] == pytest.approx(0.062 - (-0.259))
    nice = labels["NICE-perm, paper (moved)"]
    assert nice[0] - paper[-1] == pytest.approx(2.943 - (-0.259))


def test_a_missing_anchor_leaves_the_paper_out_and_a_missing_picture_is_said():
    found = results(left_out=[("u1", "planar", 2), ("u1", "planar", 32)])
    made = figure_3(found)
    lines = lines_of(made.tables[0])
    assert lines["NICE-perm, K = 2", "U1"]["ours above planar"] == "–"
    assert lines["NF (planar), K = 2", "U1"]["ours"] == "not run"
    texts = [text.get_text() for axes in made.drawings[0].figure.axes for text in axes.texts]
    assert texts.count("not run") == 2
    panel = made.drawings[1].figure.axes[0]
    assert [container.get_label() for container in panel.containers] == ["NICE-perm, ours"]


def test_figure_1_has_a_row_a_density_and_a_column_a_chain():
    made = figure_1(results(DRAWN))
    axes = made.drawings[0].figure.axes
    assert len([one for one in axes if one.images]) == 2 * 3
    assert len(made.tables[0].rows) == 6
    assert all("0.999" in row.entries[0].display for row in made.tables[0].rows)
