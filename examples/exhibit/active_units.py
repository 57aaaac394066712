"""How many latent variables a model uses: the active units of Burda et al. (2016), A_u = Var_x(E_q[z_u]) > 0.01."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfstudy import ExhibitDeclaration, Metric

if TYPE_CHECKING:
    import torch

    from nfstudy.inference.problems.images import ImageProblem
    from nfstudy.report.exhibits.base import Exhibit
    from nfstudy.report.statistics.estimates import Results

THRESHOLD = 0.01
SAMPLES = 50
"""Of q_K(z|x) for each test image: a flow has no closed form for its mean."""


def active_units(problem: ImageProblem, generator: torch.Generator) -> int:
    """Count the latent variables whose posterior mean varies over the test images by more than the threshold.

    With S samples an image, the variance of a mean is too large by the mean of s² / S, which is taken off.
    """
    import torch

    with torch.inference_mode():
        x = torch.tensor(problem.dataset.test, dtype=torch.float32, device=problem.device)
        posterior = problem.model.infer(x)
        noise = torch.randn(SAMPLES, *posterior.mean.shape, generator=generator).to(problem.device)
        z = problem.model.sample(posterior, noise)[0].double()  # (S, images, D)
        activity = z.mean(0).var(0) - z.var(0).mean(0) / SAMPLES
    return int((activity > THRESHOLD).sum())


def make(results: Results) -> Exhibit:
    """Draw the active units over the flow length, and list them with the free energy."""
    from nfstudy.report.exhibits.base import Drawing, Exhibit, cell_row, curves_of, drawn_groups, measured, remark
    from nfstudy.report.plots.curves import Panel, draw_curves
    from nfstudy.report.tables import Table

    metrics = (ACTIVE_UNITS, *results.bounds)
    rows = []
    for result in results.cells:
        entries = [measured(result, metric) for metric in metrics]
        rows.append(cell_row(result, [*entries, remark(entries)]))
    caption = f"Active units at a threshold of {THRESHOLD}; bounds in {results.unit}. Mean ± standard error (runs)."
    table = Table("active-units", caption, ("row", *(metric.title for metric in metrics), "note"), tuple(rows))
    groups, text = drawn_groups(results)
    if not (curves := curves_of(groups, ACTIVE_UNITS)):
        return Exhibit("active-units", "Active units", "No run has logged them.", (table,))
    panel = Panel(ACTIVE_UNITS.long_title, ACTIVE_UNITS.title, curves)
    figure = draw_curves("Active units, test set", "flow length K", [panel], results.stamp)
    return Exhibit("active-units", "Active units", text, (table,), (Drawing("active-units", figure, caption),))


ACTIVE_UNITS = Metric(
    name="test/active_units",
    label="active units",
    heading="Latent variables in use",
    meaning="latent variables u with Var_x(E_q[z_u]) > 0.01 over the test images",
    unit="1",
    decimals=1,
    needs={"data.name": ()},
    compute=active_units,
)

EXHIBIT = ExhibitDeclaration(
    name="active-units",
    needs={"data.name": ()},
    metrics=(ACTIVE_UNITS,),
    make=make,
)
