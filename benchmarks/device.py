"""Training on a CUDA device: each family's update, held to the processor's numbers, and the paper's nine cells."""

from __future__ import annotations

import time
from collections.abc import Sequence
from threading import Thread

import torch

from benchmarks.result import Result, Row, Verdict
from benchmarks.step import make_images
from nfstudy.core import registry
from nfstudy.inference.objectives import make_estimator
from nfstudy.inference.problems.images import ImageProblem
from nfstudy.inference.training.fit import fit
from nfstudy.runs.result import EpochRecord
from nfstudy.study.settings import Settings

UPDATES = 1500
"""Of each timing, in epochs of 500: the first captures the graph, and does not count."""
MOST_OFF = 0.01
"""Between a minibatch's gradient and the processor's in float64, the norm of their difference over its own, the largest
of all weights. Room for a Maxout unit or two of which rounding has another piece be the largest."""
TOGETHER = 4000
"""Updates of each of nine cells that are trained at once."""
GUIDED_LENGTH = 4
"""K of families that follow the gradient of ln p(x, z): each step is a pass through the generative network."""
PAPER_UPDATES = 500_000
MOST_MINUTES = 30.0
CELLS = (("none", 0), *((family, length) for family in ("planar", "nice-perm") for length in (10, 20, 40, 80)))


def measure(quick: bool) -> Result:
    """Time updates on the first CUDA device; without one, say so.

    Arguments:
        quick: K = 10 and few updates.
    """
    title = "updates on a CUDA device, batch 100, D = 40, Adam"
    if not torch.cuda.is_available():
        return Result(title, [], missing=["a CUDA device: torch finds none here"])
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    cells = [("none", 0)]
    for name, family in registry.all_of("flows").items():
        lengths = (GUIDED_LENGTH,) if family.guided else (10,) if quick else (10, 80)
        cells += [(name, length) for length in lengths if name != "none"]
    rows: list[Row] = [
        {
            "family": family,
            "K": length,
            "update_us": _microseconds(family, length, 500 if quick else UPDATES),
            "gradient_off": _gradient_off(family, length),
        }
        for family, length in cells
    ]
    worst = max(row["gradient_off"] for row in rows)
    rates = _together(200 if quick else TOGETHER)
    minutes = PAPER_UPDATES / min(rates) / 60
    rows += [
        {"family": f"{family}, nine cells at once", "K": length, "update_us": 1e6 / rate, "gradient_off": float("nan")}
        for (family, length), rate in zip(CELLS, rates, strict=True)
    ]
    name = torch.cuda.get_device_name()
    return Result(
        f"{title}; {name}, torch {torch.__version__}",
        rows,
        [
            Verdict(
                "a minibatch's gradient, all families, against the processor's in float64",
                f"{worst:.1e} off at most",
                f"at most {MOST_OFF}",
                worst <= MOST_OFF,
            ),
            Verdict(
                "the slowest of the paper's nine cells, trained at once, for 500,000 updates",
                f"{minutes:.1f} minutes",
                f"at most {MOST_MINUTES:g} minutes",
                minutes <= MOST_MINUTES,
            ),
        ],
    )


def _problem(family: str, length: int, updates: int, device: str) -> tuple[ImageProblem, Settings]:
    settings = Settings.model_validate(
        {
            "data": {"name": "mnist"},
            "flow": {"family": family, "length": length},
            "objective": {"anneal_updates": 100},
            "train": {"updates": updates, "optimiser": "adam", "learning_rate": 1e-3},
        }
    )
    return ImageProblem(settings, make_images(500), 1, device), settings


def _gradient_off(family: str, length: int) -> float:
    """Return how far the first minibatch's gradient is from the processor's in float64; see `MOST_OFF`."""
    here, settings = _problem(family, length, 1, "cuda")
    there, _ = _problem(family, length, 1, "cpu")
    there.model.double()
    places, noise = next(here.draws(1, 1))
    exact = there.minibatch((places, noise.double()))
    exact.x = exact.x.double()
    gradients = []
    for problem, batch in ((here, here.minibatch((places.cuda(), noise.cuda()))), (there, exact)):
        estimator = make_estimator(settings.objective, problem.inputs, problem.device)
        estimator(batch, 0.5).objective.mean().backward()
        gradients.append([weight.grad.cpu().double() for weight in problem.parameters() if weight.grad is not None])
    pairs = zip(*gradients, strict=True)
    return max(((own - other).norm() / other.norm().clamp(min=1e-12)).item() for own, other in pairs)


def _microseconds(family: str, length: int, updates: int) -> float:
    """Return what an update takes by the wall, once captured, with its share of a look at ten validation images."""
    problem, settings = _problem(family, length, updates + 500, "cuda")
    marks: list[float] = []

    def on_epoch(record: EpochRecord) -> bool:
        marks.append(time.perf_counter())
        return True

    fit(problem, settings, on_epoch)
    return 1e6 * (marks[-1] - marks[0]) / updates


def _together(updates: int) -> list[float]:
    """Return each cell's updates a second while all nine are at work."""
    marks: list[list[tuple[float, int]]] = [[] for _ in CELLS]

    def train(number: int) -> None:
        with torch.cuda.stream(torch.cuda.Stream()):
            problem, settings = _problem(*CELLS[number], updates + 500, "cuda")

            def on_epoch(record: EpochRecord) -> bool:
                marks[number].append((time.perf_counter(), record.update))
                return True

            fit(problem, settings, on_epoch)

    threads = [Thread(target=train, args=(number,)) for number in range(len(CELLS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    begin, end = max(own[0][0] for own in marks), min(own[-1][0] for own in marks)
    return [_rate(own, begin, end) for own in marks]


def _rate(marks: Sequence[tuple[float, int]], begin: float, end: float) -> float:
    """Return updates a second between the first and the last epoch's end within a time."""
    within = [mark for mark in marks if begin <= mark[0] <= end]
    if len(within) < 2:  # The time was too short: that of all of it, which others no longer crowd.
        within = list(marks)
    (first, of_first), (last, of_last) = within[0], within[-1]
    return (of_last - of_first) / (last - first)
