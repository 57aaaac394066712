"""Variational Inference with Normalizing Flows (Rezende & Mohamed, ICML 2015): its numbers, claims, tables and figures.

Free of torch and matplotlib: the exhibits are imported when a report is made.
"""

from nfstudy.core.declarations import ExhibitDeclaration, Paper

_HERE = "nfstudy.papers.rezende2015"

REZENDE2015 = Paper(
    name="rezende2015",
    label="Normalizing flows",
    heading="Variational inference with normalizing flows",
    citation="Rezende & Mohamed (2015), Variational Inference with Normalizing Flows, arXiv:1505.05770",
    url="https://arxiv.org/abs/1505.05770",
    claims=f"{_HERE}:claims.yaml",
    facts=f"{_HERE}.facts:FACTS",
)

TABLE_2 = ExhibitDeclaration(
    name="table-2",
    paper="rezende2015",
    needs={"data.name": ("mnist",)},
    make=f"{_HERE}.table_2_figure_4:table_2",
    readme=f"{_HERE}.readme:table_2",
    bodies=f"{_HERE}.table_2_figure_4:table_2_of_bodies",
)
TABLE_3 = ExhibitDeclaration(
    name="table-3",
    paper="rezende2015",
    needs={"data.name": ("cifar10",)},
    make=f"{_HERE}.table_3:table_3",
    readme=f"{_HERE}.readme:table_3",
)
FOLLOW_UPS = ExhibitDeclaration(
    name="follow-ups",
    paper="rezende2015",
    needs={"data.name": ("mnist",)},
    make=f"{_HERE}.follow_ups:follow_ups",
)
FIGURE_4 = ExhibitDeclaration(
    name="figure-4",
    paper="rezende2015",
    needs={"data.name": ("mnist",)},
    make=f"{_HERE}.table_2_figure_4:figure_4",
    leads=True,
)
ENERGIES = ExhibitDeclaration(
    name="energies",
    paper="rezende2015",
    needs={"energy.name": ()},
    make=f"{_HERE}.figures_1_3:energies",
    readme=f"{_HERE}.readme:true_kl",
)
FIGURE_1 = ExhibitDeclaration(
    name="figure-1", paper="rezende2015", needs={"drawn.density": ()}, make=f"{_HERE}.figures_1_3:figure_1"
)
FIGURE_3 = ExhibitDeclaration(
    name="figure-3", paper="rezende2015", needs={"energy.name": ()}, make=f"{_HERE}.figures_1_3:figure_3"
)
STOCHASTIC_LAYERS = ExhibitDeclaration(
    name="stochastic-layers", make=f"{_HERE}.stochastic_layers:stochastic_layers", needs={"model.stochastic_layers": ()}
)
READINGS = ExhibitDeclaration(name="readings", paper="rezende2015", make=f"{_HERE}.readings:readings")
