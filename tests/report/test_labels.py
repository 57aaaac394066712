"""Names of cells: two that differ are never one name."""

import pytest

from nfstudy.report.labels import label_cells
from nfstudy.study.reader import parse_study


@pytest.mark.parametrize(
    "values", [(0.3, 0.1 + 0.2), (1e-3, 1.0000000001e-3), (123456.7, 123456.8), (1.0, 1.00000001), (2.0, 2.5)]
)
def test_numbers_that_differ_make_names_that_differ(values):
    listed = ", ".join(map(repr, values))
    spec = parse_study(
        "study: s\ntitle: T\nenergy: {name: u1}\nexhibits: [summary]\nflow: {family: planar, length: 2}\n"
        f"grid: {{q0.deviation: [{listed}]}}\n",
        "s.yaml",
    )
    cells = spec.under().cells
    assert len(cells) == 2
    assert len({label.row for label in label_cells(cells)}) == 2
    assert [float(cell.label.rsplit(" ", 1)[1]) for cell in cells] == list(values)
