"""The exhibits that any study may ask for; a paper's own stand in its folder. Free of matplotlib."""

from nfstudy.core.declarations import ExhibitDeclaration, ExhibitOptions

_HERE = "nfstudy.report.exhibits"


class CurveOptions(ExhibitOptions):
    """What a curve shows."""

    x: str
    """Dotted path of the setting on the x axis."""
    colour: str | None = None
    """Of the one that tells curves apart by colour."""

    def axes(self) -> dict[str, str]:
        """Return both, where they are given."""
        return {"x": self.x} | ({"colour": self.colour} if self.colour else {})


class MapOptions(ExhibitOptions):
    """The axes of a heat map: dotted paths of settings."""

    x: str
    y: str

    def axes(self) -> dict[str, str]:
        """Return both."""
        return {"x": self.x, "y": self.y}


class ExpectedBestOptions(ExhibitOptions):
    """What expected bests are compared of."""

    by: str = "flow.family"
    """Dotted path of a setting: one curve for each of its values."""

    def axes(self) -> dict[str, str]:
        """Return it."""
        return {"by": self.by}


SUMMARY = ExhibitDeclaration(name="summary", make=f"{_HERE}.general:summary")
FLOW_LENGTH = ExhibitDeclaration(name="flow-length", make=f"{_HERE}.general:flow_length")
EFFECTS = ExhibitDeclaration(name="effects", make=f"{_HERE}.effects:effects")
CONVERGENCE = ExhibitDeclaration(name="convergence", make=f"{_HERE}.convergence:convergence", needs={"data.name": ()})
DIAGNOSTICS = ExhibitDeclaration(name="diagnostics", make=f"{_HERE}.diagnostics:diagnostics")
COST = ExhibitDeclaration(name="cost", make=f"{_HERE}.cost:cost")
EVALUATIONS = ExhibitDeclaration(name="evaluations", make=f"{_HERE}.cost:evaluations", needs={"data.name": ()})
CODE_LENGTHS = ExhibitDeclaration(
    name="code-lengths",
    make=f"{_HERE}.code_lengths:code_lengths",
    needs={"data.name": ()},
    not_of=("patches", "real"),
)
LEARNING_CURVES = ExhibitDeclaration(name="learning-curves", make=f"{_HERE}.general:learning_curves")
SAMPLES = ExhibitDeclaration(name="samples", make=f"{_HERE}.general:samples")
FILMS = ExhibitDeclaration(name="films", make=f"{_HERE}.films:films", films=True)
LATENT_MAP = ExhibitDeclaration(
    name="latent-map",
    make=f"{_HERE}.films:latent_map",
    needs={"model.latent": (2,), "model.stochastic_layers": (1,)},
    films=True,
)
BEYOND_TABLE_2 = ExhibitDeclaration(
    name="beyond-table-2", make=f"{_HERE}.equal:beyond_table_2", needs={"data.name": ()}
)
MCMC_ENERGIES = ExhibitDeclaration(
    name="mcmc-energies", make=f"{_HERE}.mcmc:mcmc_energies", needs={"energy.name": ()}, fits=True
)
MCMC_POSTERIORS = ExhibitDeclaration(
    name="mcmc-posteriors",
    make=f"{_HERE}.mcmc:mcmc_posteriors",
    needs={"model.latent": (2,), "model.stochastic_layers": (1,)},
    fits=True,
)
INFERENCE_GAPS = ExhibitDeclaration(name="inference-gaps", make=f"{_HERE}.gaps:inference_gaps", needs={"data.name": ()})
ESTIMATORS = ExhibitDeclaration(
    name="estimators",
    make=f"{_HERE}.estimators:estimators",
    needs={"objective.estimator": ()},
    gradients=True,
)
CURVE = ExhibitDeclaration(name="curve", make=f"{_HERE}.varied:curve", options=CurveOptions)
MAP = ExhibitDeclaration(name="map", make=f"{_HERE}.varied:heat_map", options=MapOptions)
SEARCH = ExhibitDeclaration(name="search", make=f"{_HERE}.searches:search", of_search=True)
EXPECTED_BEST = ExhibitDeclaration(
    name="expected-best", make=f"{_HERE}.searches:best_of_trials", of_search=True, options=ExpectedBestOptions
)
IMPORTANCES = ExhibitDeclaration(name="importances", make=f"{_HERE}.searches:importances", of_search=True)
PARALLEL = ExhibitDeclaration(name="parallel", make=f"{_HERE}.searches:parallel", of_search=True)
SLICES = ExhibitDeclaration(name="slices", make=f"{_HERE}.searches:slices", of_search=True)
