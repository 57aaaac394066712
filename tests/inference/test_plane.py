"""Problems on the plane: energies and drawn flows, through `run_trial` where it can be."""

import io
import math

import numpy as np
import pytest
import torch
from support.families import FAMILIES

from nfstudy.inference.problems import make_problem
from nfstudy.inference.problems.density_grid import CELLS
from nfstudy.inference.problems.energies import WINDOW
from nfstudy.inference.problems.plane import PlaneFlow
from nfstudy.inference.training.trial import run_trial
from nfstudy.runs.metrics import METRICS
from nfstudy.study.cells import Cell, Trial
from nfstudy.study.sections import FlowSpec, Q0Spec
from nfstudy.study.settings import Settings

SETTINGS = Settings.model_validate(
    {
        "energy": {"name": "u1"},
        "flow": {"family": "planar", "length": 8, "coupling_hidden": 16},
        "train": {"updates": 500, "batch": 128, "optimiser": "adam", "learning_rate": 1e-2},
        "objective": {"anneal_updates": 200},
        "evaluation": {"samples": 5000},
    }
)
DRAWN = Settings.model_validate({"drawn": {"density": "normal"}, "flow": {"family": "radial", "length": 2}, "seed": 3})


def run(settings, stage="repetition", index=1):
    records = []
    trial = Trial("plane", Cell(settings.normalized(), "full"), settings, stage, index)
    result = run_trial(trial, None, "cpu", lambda record: not records.append(record))
    return result, records


def array(result, name):
    return np.load(io.BytesIO(result.files[name]), allow_pickle=False)


@pytest.fixture(scope="module")
def trained():
    return run(SETTINGS)


def test_a_trained_energy_has_the_true_kl(trained):
    result, records = trained
    assert (result.outcome, result.update) == ("finished", 500)
    metrics = result.metrics
    assert set(metrics) <= set(METRICS)
    assert metrics["test/kl"] == metrics["test/log_z"] - metrics["test/elbo"]
    assert metrics["test/log_z"] == pytest.approx(1.8775, abs=5e-5)
    assert metrics["test/elbo_table_1"] == pytest.approx(metrics["test/elbo"], abs=1e-9)  # U1 is not confined
    assert 0 < metrics["test/kl"] < 0.5
    assert 0.2 < metrics["test/mass_left"] < 0.8
    assert [record.update for record in records] == [250, 500]
    assert records[-1].metrics["valid/log_prior"] == 0.0


def test_the_kl_of_the_samples_is_that_of_the_density_on_the_window(trained):
    """Two ways to one number: E_q over samples of the forward flow, and Σ q ln(q/p) on the grid of its inverse."""
    result, _ = trained
    q, p = (array(result, name).astype(float) for name in ("density.npy", "target.npy"))
    area = (2 * WINDOW / CELLS) ** 2
    assert q.shape == (CELLS, CELLS)
    assert q.sum() * area == pytest.approx(1, abs=2e-3)
    assert p.sum() * area == pytest.approx(1, abs=2e-3)
    kl = (q * np.log(np.maximum(q, 1e-30) / np.maximum(p, 1e-30))).sum() * area
    assert kl == pytest.approx(result.metrics["test/kl"], abs=5 * result.metrics["test/elbo_mc_se"] + 2e-3)
    left = q[:, : CELLS // 2].sum() * area
    assert left == pytest.approx(result.metrics["test/mass_left"], abs=0.03)
    assert result.metrics["test/window_mass"] == pytest.approx(q.sum() * area, abs=1e-5)


def test_the_same_trial_gives_the_same_bits_and_another_repetition_does_not(trained):
    result, records = trained
    again, again_records = run(SETTINGS)
    other, _ = run(SETTINGS, index=2)
    assert records == again_records
    for name in ("test/elbo", "test/kl", "test/mass_left"):
        assert result.metrics[name] == again.metrics[name] != other.metrics[name]
    for name in ("density.npy", "target.npy", "density.png"):
        assert result.files[name] == again.files[name]
    assert other.files["density.npy"] != result.files["density.npy"]
    assert other.files["target.npy"] == result.files["target.npy"]


def test_a_search_trial_is_not_tested():
    result, _ = run(SETTINGS, stage="search", index=0)
    assert not [name for name in result.metrics if name.startswith("test/")]
    assert result.files == {}


def test_without_a_flow_the_density_is_the_gaussian_s_own():
    model = PlaneFlow(FlowSpec(), Q0Spec(deviation=0.5)).double()
    with torch.no_grad():
        model.mean.copy_(torch.tensor([1.0, -2.0]))
    z = torch.tensor([[1.0, -2.0], [1.5, -2.0]], dtype=torch.float64)
    peak = -math.log(2 * math.pi * 0.25)
    assert model.log_density(z).tolist() == pytest.approx([peak, peak - 0.5])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_density_at_a_sample_is_that_of_the_forward_pass(family):
    problem = make_problem(SETTINGS.replace({"flow.family": family, "flow.length": 5}), None, 1, "cpu")
    model = problem.model.double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)).double()
    noise = torch.randn(200, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    z, log_q0, log_det = model.sample(noise)
    assert torch.allclose(model.log_density(z.detach()), log_q0 - log_det, atol=1e-7)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_trains_and_learns(family):
    result, records = run(SETTINGS.replace({"flow.family": family, "energy.name": "u2"}))
    assert result.outcome == "finished"
    assert records[-1].metrics["valid/elbo"] > records[0].metrics["valid/elbo"] - 0.05
    assert result.metrics["test/kl"] > -5 * result.metrics["test/elbo_mc_se"]
    # ln σ σ is negative: without the factor, the same samples have a larger bound.
    assert result.metrics["test/elbo_table_1"] > result.metrics["test/elbo"]


def test_parameters_without_features_are_shared_and_all_are_trained():
    problem = make_problem(SETTINGS, None, 1, "cpu")
    assert all(parameter.numel() for parameter in problem.parameters())
    (terms,) = (batch.terms() for batch in problem.minibatches(1, 1))
    (-terms.elbo.mean()).backward()
    assert all(parameter.grad is not None for parameter in problem.parameters())
    assert sum(parameter.numel() for parameter in problem.parameters()) == 2 + 2 + 8 * (2 + 2 + 1)


def test_a_drawn_flow_trains_nothing_and_its_density_has_mass_one():
    result, records = run(DRAWN)
    assert (result.outcome, result.update, records) == ("finished", 0, [])
    assert result.metrics["test/window_mass"] == pytest.approx(1, abs=0.02)
    assert set(result.files) == {"density.npy", "density.png"}


def test_a_drawn_start_is_the_named_density():
    normal, _ = run(DRAWN.replace({"flow.length": 0}))
    assert array(normal, "density.npy").max() == pytest.approx(1 / (2 * math.pi), rel=2e-3)
    uniform, _ = run(DRAWN.replace({"flow.length": 0, "drawn.density": "uniform"}))
    assert set(array(uniform, "density.npy").ravel().tolist()) == {0.0, 1 / 16}


def test_a_longer_drawn_chain_begins_with_the_shorter_one():
    short, long = (make_problem(DRAWN.replace({"flow.length": k}), None, 1, "cpu").flow.head.bias for k in (2, 10))
    assert torch.equal(short, long[: len(short)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"flow.constraint": False}, "flow.constraint: got False"),
        ({"objective.annealing": "kl"}, "objective.annealing: got kl"),
        ({"data.name": "digits"}, "data: got data and energy"),
    ],
)
def test_what_the_plane_cannot_have_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        SETTINGS.replace(changes)


@pytest.mark.parametrize("family", sorted({*FAMILIES} - {"none", "planar", "radial"}))
def test_a_drawn_flow_is_one_of_figure_1(family):
    with pytest.raises(ValueError, match="none, planar or radial with drawn"):
        DRAWN.replace({"flow.family": family})
