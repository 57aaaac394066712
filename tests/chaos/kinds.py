"""The kinds of study that a storm goes over: a plain grid, one that a sampler draws and a pruner cuts, a search."""

from dataclasses import dataclass

COMMON = """\
study: tiny
title: Chaos
data: {{name: digits, binarisation: dynamic}}
model: {{latent: 3, hidden: 8, layers: 1, maxout: 2}}
objective: {{anneal_updates: 200}}
train: {{updates: {updates}, batch: 50, optimiser: adam, averaging: 0.99, keep: best,
  schedule: {{name: CosineAnnealingLR}}}}
evaluation: {{samples: 8, test_images: 50}}
exhibits: [{exhibits}]
"""


@dataclass(frozen=True)
class Kind:
    """A kind of study."""

    name: str
    space: str
    """Its grid, sampler and search."""
    exhibits: str = "learning-curves, samples"
    """None that shows how long something took."""

    def text(self, updates):
        """Return the study file, with so many updates of each trial."""
        return COMMON.format(updates=updates, exhibits=self.exhibits) + self.space


def grid(rates=(1e-3, 2e-3, 3e-3, 4e-3)):
    """Return a grid of six cells for each learning rate."""
    axes = "flow.family: [planar, radial, nice-perm], flow.length: [1, 2]"
    return Kind(
        "grid", f"grid: {{train.learning_rate: {list(rates)}, {axes}}}\n", "flow-length, learning-curves, samples"
    )


SAMPLER = Kind(
    "sampler",
    """\
grid:
  flow.family: [planar, nice-perm]
  flow.length: [1, 2, 4]
  train.learning_rate: {low: 1e-4, high: 1e-2, log: true}
sampler: {name: tpe, trials: 16, batch: 4, pruner: {name: median, n_startup_trials: 4, n_warmup_steps: 1}}
""",
)
SEARCH = Kind(
    "search",
    """\
grid: {flow.family: [planar, nice-perm], flow.length: [1, 2]}
repetitions: 2
search:
  sampler: {name: tpe, trials: 4, batch: 2, pruner: {name: median, n_startup_trials: 2, n_warmup_steps: 1}}
  space: {train.learning_rate: {low: 1e-4, high: 1e-2, log: true}}
""",
)
KINDS = (grid(), SAMPLER, SEARCH)
