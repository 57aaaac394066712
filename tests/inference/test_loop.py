import inspect
import math

import numpy as np
import pytest
import torch
from support.families import FAMILIES, GUIDED
from torch.optim import lr_scheduler

from nfstudy.data.dataset import Splits, make_dataset
from nfstudy.inference.models.dlgm import DLGM
from nfstudy.inference.models.objective import bound_terms
from nfstudy.inference.problems.images import ImageProblem
from nfstudy.inference.training.fit import fit
from nfstudy.inference.training.gradient_norm import LARGE, GradientNorm
from nfstudy.inference.training.loop import make_schedule
from nfstudy.inference.training.optimisers import make_optimiser
from nfstudy.runs.metrics import METRICS
from nfstudy.study import lr_schedules as schedules
from nfstudy.study.settings import Settings

PIXELS = 16
BASE = Settings.model_validate(
    {
        "data": {"name": "digits"},
        "model": {"latent": 2, "hidden": 8, "layers": 1, "maxout": 2},
        "train": {"updates": 12, "batch": 4, "optimiser": "adam", "learning_rate": 0.01},
        "objective": {"anneal_updates": 20},
    }
)


def tiny_dataset(train=10, levels=1):
    rng = np.random.default_rng(0)
    images = [rng.integers(top + 1, size=(n, PIXELS), dtype=np.uint8) for n, top in ((train, levels), (6, 1), (6, 1))]
    return make_dataset("tiny-static", (4, 4), levels, Splits(*images), "made here")


class RecordingModel(DLGM):
    """Keeps every minibatch it is trained on."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.batches = []

    def infer(self, x):
        if not torch.is_inference_mode_enabled():
            self.batches.append(x.clone())
        return super().infer(x)


def train(settings=BASE, dataset=None, repetition=1, on_epoch=lambda record: True, model_class=DLGM):
    records = []
    precision = getattr(torch, settings.train.precision)
    model = model_class(PIXELS, settings.model, settings.flow, precision=precision)
    model.initialise(settings.seed, repetition)
    problem = ImageProblem(settings, dataset or tiny_dataset(), repetition, "cpu", model)

    def record_epoch(record):
        records.append(record)
        return on_epoch(record)

    end = fit(problem, settings, record_epoch)
    return model, records, end


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_epochs_are_whole_batches_and_the_last_is_cut():
    model, records, end = train(BASE.replace({"train.updates": 5}), model_class=RecordingModel)
    assert [(record.epoch, record.update, record.updates) for record in records] == [(1, 2, 5), (2, 4, 5), (3, 5, 5)]
    assert (end.outcome, end.update, end.reason) == ("finished", 5, "")
    assert end.seconds > 0
    assert [tuple(batch.shape) for batch in model.batches] == [(4, PIXELS)] * 5


def test_an_epoch_shows_each_image_once_in_a_new_order():
    dataset = tiny_dataset(train=12)
    model, _, _ = train(BASE.replace({"train.updates": 6}), dataset, model_class=RecordingModel)
    first, second = (torch.cat(model.batches[i : i + 3]).numpy().astype(np.uint8) for i in (0, 3))
    for epoch in (first, second):
        assert sorted(map(bytes, epoch)) == sorted(map(bytes, dataset.train))
    assert not np.array_equal(first, second)


def test_validation_images_are_trained_on_where_the_training_split_holds_them():
    dataset = tiny_dataset(train=10)
    settings = BASE.replace({"data.training_split": "train+valid", "train.updates": 4})
    model, _, _ = train(settings, dataset, model_class=RecordingModel)
    seen = torch.cat(model.batches).numpy().astype(np.uint8)
    assert sorted(map(bytes, seen)) == sorted(map(bytes, [*dataset.train, *dataset.valid]))


def test_each_epoch_tells_every_train_and_validation_metric():
    _, records, _ = train()
    at_the_end = {"train/parameters", "train/gradient_snr", "valid/nll"}
    expected = {name for name, metric in METRICS.items() if metric.split in ("train", "valid")} - at_the_end
    for record in records:
        assert set(record.metrics) == expected
        assert all(type(value) is float and math.isfinite(value) for value in record.metrics.values())
        for split in ("train", "valid"):
            terms = {name: record.metrics[f"{split}/{name}"] for name in ("log_likelihood", "log_prior", "log_q0")}
            elbo = terms["log_likelihood"] + terms["log_prior"] - terms["log_q0"] + record.metrics[f"{split}/log_det"]
            assert record.metrics[f"{split}/elbo"] == pytest.approx(elbo)


def test_objective_is_annealed_and_the_train_bound_is_not():
    _, (record,), _ = train(BASE.replace({"train.updates": 1, "objective.beta_start": 0.25}))
    metrics = record.metrics
    log_joint = metrics["train/log_likelihood"] + metrics["train/log_prior"]
    assert metrics["train/objective"] == pytest.approx(
        metrics["train/log_q0"] - metrics["train/log_det"] - 0.25 * log_joint
    )
    assert metrics["train/beta"] == 0.25 + 1 / 20


@pytest.mark.parametrize("flow", [*FAMILIES, *GUIDED])
def test_training_is_the_same_bit_for_bit_and_another_repetition_is_not(flow):
    settings = BASE.replace({"flow.family": flow, "flow.length": 2})
    (first, first_records, _), (second, second_records, _) = train(settings), train(settings)
    other, other_records, _ = train(settings, repetition=2)
    assert torch.equal(weights(first), weights(second))
    assert first_records == second_records
    assert not torch.equal(weights(first), weights(other))
    assert other_records[0].metrics != first_records[0].metrics


def test_global_random_state_does_not_matter():
    torch.manual_seed(1)
    first, _, _ = train(dataset=tiny_dataset(levels=16))
    torch.manual_seed(2)
    second, _, _ = train(dataset=tiny_dataset(levels=16))
    assert torch.equal(weights(first), weights(second))


def test_longer_training_repeats_the_shorter_one():
    _, short, _ = train(BASE.replace({"train.updates": 4}))
    _, long, _ = train(BASE.replace({"train.updates": 8}))
    assert [record.metrics for record in short] == [record.metrics for record in long[:2]]


@pytest.mark.parametrize("optimiser", ["adam", "rmsprop"])
@pytest.mark.parametrize("annealing", ["energy", "kl", "none"])
def test_free_energy_falls_on_a_tiny_data_set(optimiser, annealing):
    settings = BASE.replace(
        {
            "train.optimiser": optimiser,
            "train.updates": 400,
            "train.learning_rate": 0.01 if optimiser == "adam" else 0.001,
            "objective.annealing": annealing,
            "flow.family": "planar",
            "flow.length": 2,
        }
    )
    _, records, _ = train(settings)
    first, last = records[0].metrics["train/elbo"], np.mean([r.metrics["train/elbo"] for r in records[-20:]])
    assert first < -PIXELS * math.log(2)
    assert last > first + 2


def test_dynamic_bits_are_drawn_anew_with_the_grey_levels_probability():
    greys = np.tile(np.array([0, 1, 4, 8, 12, 15, 16, 16] * 2, dtype=np.uint8), (4, 1))
    images = tiny_dataset()
    dataset = make_dataset("tiny-dynamic", (4, 4), 16, Splits(greys, images.valid, images.test), "made here")
    model, _, _ = train(BASE.replace({"train.updates": 500}), dataset, model_class=RecordingModel)
    bits = torch.stack(model.batches)
    assert set(bits.unique().tolist()) == {0.0, 1.0}
    probabilities = greys[0] / 16
    means = bits.mean((0, 1)).numpy()
    errors = np.sqrt(probabilities * (1 - probabilities) / (500 * 4))
    assert (np.abs(means - probabilities) <= 4 * errors).all()
    assert not torch.equal(bits[0], bits[1])


@pytest.mark.parametrize("optimiser", ["adam", "rmsprop"])
def test_a_huge_learning_rate_diverges_and_says_where(optimiser):
    settings = BASE.replace({"train.optimiser": optimiser, "train.learning_rate": 1e6, "train.updates": 200})
    model, records, end = train(settings)
    assert end.outcome == "diverged"
    assert 1 < end.update < 200
    assert str(end.update) in end.reason
    assert "nan" in end.reason or "inf" in end.reason
    assert torch.isfinite(weights(model)).all()
    assert all(math.isfinite(value) for record in records for value in record.metrics.values())


def test_a_validation_bound_that_is_not_finite_diverges():
    class InvalidAfterTraining(DLGM):
        def log_likelihood(self, x, z):
            return super().log_likelihood(x, z) - (torch.inf if torch.is_inference_mode_enabled() else 0)

    _, records, end = train(model_class=InvalidAfterTraining)
    assert (end.outcome, end.update, end.reason) == ("diverged", 2, "valid/elbo is -inf after update 2")
    assert records == []


def test_training_ends_where_it_is_pruned():
    _, records, end = train(on_epoch=lambda record: record.epoch < 2)
    assert (end.outcome, end.update) == ("pruned", 4)
    assert len(records) == 2


def test_clipping_scales_the_step_but_not_the_reported_norm():
    # With an epsilon this large RMSprop's step is the gradient times learning_rate / epsilon = 1.
    common = {
        "train.optimiser": "rmsprop",
        "train.momentum": 0.0,
        "train.epsilon": 1e6,
        "train.learning_rate": 1e6,
        "train.updates": 1,
    }
    start = DLGM(PIXELS, BASE.model, BASE.flow)
    start.initialise(BASE.seed, 1)
    norms, steps = [], []
    for clip in (None, 1e3, 0.05):
        model, (record,), _ = train(BASE.replace({**common, "train.clip_norm": clip}))
        norms.append(record.metrics["train/gradient_norm"])
        steps.append((weights(model) - weights(start)).norm().item())
    assert norms[0] == norms[1] == norms[2] > 0.1
    assert steps == pytest.approx([norms[0], norms[0], 0.05], rel=1e-3)


def test_norm_of_a_gradient_is_the_same_where_that_of_large_weights_is_found_early():
    generator = torch.Generator().manual_seed(1)
    large, small, unused, overflowing = (
        torch.nn.Parameter(torch.randn(size, generator=generator)) for size in (LARGE, 3, LARGE, LARGE + 1)
    )
    weights = [unused, large, small]
    norm = GradientNorm(weights)
    seen = []
    with norm.found_early():
        for scale in (1.0, 1e-3, 1e12):
            for weight in weights:
                weight.grad = None
            # Used twice, so that its gradient comes in two parts.
            (scale * (large.pow(3).sum() + large.sin().sum() + small.exp().sum())).backward()
            assert norm._found.keys() == {1}
            seen.append(norm.total())
            assert torch.equal(seen[-1], torch.nn.utils.get_total_norm([large.grad, small.grad]))
            by_hand = np.sqrt(sum((weight.grad.double().numpy() ** 2).sum() for weight in (large, small)))
            assert seen[-1].item() == pytest.approx(by_hand, rel=1e-5)
    large.grad = None
    large.sum().backward()
    assert not norm._found  # It listens no longer.
    one = GradientNorm([overflowing])
    with one.found_early():
        (1e30 * overflowing.sum()).backward()
        assert math.isinf(one.total().item())


def optimised_once(**train_values):
    parameter = torch.nn.Parameter(torch.tensor([1.0]))
    settings = BASE.replace({f"train.{key}": value for key, value in train_values.items()})
    optimiser = make_optimiser({"weight": parameter}, settings.train)
    trace = []
    for gradient in (2.0, -1.0):
        parameter.grad = torch.tensor([gradient])
        optimiser.step()
        trace.append(parameter.item())
    return trace


def test_rmsprop_by_hand():
    trace = optimised_once(optimiser="rmsprop", learning_rate=0.1, momentum=0.5, decay=0.75, epsilon=1.0)
    first = 2 / (math.sqrt(0.25 * 4) + 1)
    second = 0.5 * first - 1 / (math.sqrt(0.75 * 1 + 0.25 * 1) + 1)
    assert trace == pytest.approx([1 - 0.1 * first, 1 - 0.1 * first - 0.1 * second])


def test_adam_by_hand():
    trace = optimised_once(optimiser="adam", learning_rate=0.1, beta1=0.5, beta2=0.75, epsilon=1.0)
    first = 2 / (2 + 1)
    mean = (0.5 * 1 + 0.5 * -1) / (1 - 0.25)
    square = (0.75 * 1 + 0.25 * 1) / (1 - 0.75**2)
    assert trace == pytest.approx([1 - 0.1 * first, 1 - 0.1 * first - 0.1 * mean / (math.sqrt(square) + 1)])


SCHEDULES = {
    "constant": ({"name": "constant"}, lambda t: 1.0),
    "step": ({"name": "StepLR", "step_size": 3, "gamma": 0.5}, lambda t: 0.5 ** (t // 3)),
    "milestones": ({"name": "MultiStepLR", "milestones": (2, 5)}, lambda t: 0.1 ** ((t >= 2) + (t >= 5))),
    "exponential": ({"name": "ExponentialLR", "gamma": 0.9}, lambda t: 0.9**t),
    "linear": (
        {"name": "LinearLR", "start_factor": 0.5, "total_iters": 4},
        lambda t: 0.5 + 0.5 * min(t, 4) / 4,
    ),
    "polynomial": ({"name": "PolynomialLR", "power": 2.0}, lambda t: (1 - t / 12) ** 2),
    "polynomial-short": ({"name": "PolynomialLR", "total_iters": 6}, lambda t: 1 - min(t, 6) / 6),
    "cosine": ({"name": "CosineAnnealingLR"}, lambda t: (1 + math.cos(math.pi * t / 12)) / 2),
    "cosine-short": ({"name": "CosineAnnealingLR", "T_max": 6}, lambda t: (1 + math.cos(math.pi * t / 6)) / 2),
    "restarts": (
        {"name": "CosineAnnealingWarmRestarts", "T_0": 5},
        lambda t: (1 + math.cos(math.pi * (t % 5) / 5)) / 2,
    ),
    "one-cycle": (
        {"name": "OneCycleLR", "max_lr": 0.01, "pct_start": 0.5, "div_factor": 4.0, "final_div_factor": 10.0},
        lambda t: (
            0.25 + 0.75 * (1 - math.cos(math.pi * t / 5)) / 2
            if t <= 5
            else 0.025 + 0.975 * (1 + math.cos(math.pi * (t - 5) / 6)) / 2
        ),
    ),
    # Its highest rate is then `train.learning_rate`, 0.01; a warm-up of 0.5 of 12 updates ends at the sixth.
    "one-cycle-of-the-rate": (
        {"name": "OneCycleLR", "pct_start": 0.5, "div_factor": 2.0, "final_div_factor": 5.0},
        lambda t: (
            0.5 + 0.5 * (1 - math.cos(math.pi * t / 5)) / 2
            if t <= 5
            else 0.1 + 0.9 * (1 + math.cos(math.pi * (t - 5) / 6)) / 2
        ),
    ),
}


@pytest.mark.parametrize(("schedule", "factor"), SCHEDULES.values(), ids=SCHEDULES.keys())
def test_learning_rate_follows_the_schedule(schedule, factor):
    # A batch that is the whole data set makes every update an epoch, whose last learning rate is told.
    settings = BASE.replace({"train.schedule": schedule, "train.batch": 10})
    _, records, _ = train(settings)
    rates = [record.metrics["train/learning_rate"] for record in records]
    assert rates == pytest.approx([0.01 * factor(t) for t in range(12)], abs=1e-9)


SCHEDULE_RECORDS = [
    record
    for record in vars(schedules).values()
    if isinstance(record, type) and record.__name__ in vars(lr_scheduler) and issubclass(record, schedules.Record)
]


@pytest.mark.parametrize("record", SCHEDULE_RECORDS, ids=lambda record: record.__name__)
def test_schedule_records_name_torchs_parameters(record):
    torch_class = getattr(lr_scheduler, record.__name__)
    assert record.model_fields["name"].annotation.__args__ == (record.__name__,)
    assert set(record.model_fields) - {"name"} <= set(inspect.signature(torch_class).parameters)


def test_every_schedule_but_constant_is_torchs():
    assert len(SCHEDULE_RECORDS) == 8
    names = {schedule["name"] for schedule, _ in SCHEDULES.values()}
    assert names == {record.__name__ for record in SCHEDULE_RECORDS} | {"constant"}


def test_one_cycle_leaves_the_momentum_alone():
    settings = BASE.replace(
        {"train.optimiser": "rmsprop", "train.momentum": 0.6, "train.schedule": {"name": "OneCycleLR", "max_lr": 0.1}}
    )
    optimiser = make_optimiser({"weight": torch.nn.Parameter(torch.zeros(1))}, settings.train)
    make_schedule(optimiser, settings.train)
    assert optimiser.param_groups[0]["momentum"] == 0.6


def test_averaged_weights_are_the_running_mean_of_all_updates():
    decay, settings = 0.8, BASE.replace({"train.updates": 7})
    after = [weights(train(settings.replace({"train.updates": n}))[0]).double() for n in range(1, 8)]
    model = DLGM(PIXELS, BASE.model, BASE.flow)
    model.initialise(BASE.seed, 1)
    mean = weights(model).double()
    for update, live in enumerate(after, start=1):
        d = min(decay, (1 + update) / (10 + update))
        mean = d * mean + (1 - d) * live
    averaged, records, _ = train(settings.replace({"train.averaging": decay}))
    torch.testing.assert_close(weights(averaged).double(), mean, rtol=1e-6, atol=1e-7)
    # Averages are looked at, not trained on: the training metrics are those of the plain run.
    plain_records = train(settings)[1]
    of_training = [{k: v for k, v in r.metrics.items() if k.startswith("train/")} for r in records]
    assert of_training == [{k: v for k, v in r.metrics.items() if k.startswith("train/")} for r in plain_records]
    assert records[-1].metrics["valid/elbo"] != plain_records[-1].metrics["valid/elbo"]


@pytest.mark.parametrize("averaging", [None, 0.5])
def test_the_best_weights_by_the_validation_bound_are_kept(averaging):
    # So high a learning rate makes the bound fall and rise again.
    settings = BASE.replace({"train.learning_rate": 0.3, "train.updates": 40, "train.averaging": averaging})
    _, records, _ = train(settings)
    bounds = [record.metrics["valid/elbo"] for record in records]
    best = max(range(len(bounds)), key=bounds.__getitem__)
    assert best < len(bounds) - 1
    until_best, _, _ = train(settings.replace({"train.updates": records[best].update}))
    kept, _, end = train(settings.replace({"train.keep": "best"}))
    assert torch.equal(weights(kept), weights(until_best))
    assert end.outcome == "finished"


def test_bfloat16_rounds_what_maxout_layers_multiply_in_training_and_nothing_after():
    settings = BASE.replace({"flow.family": "planar", "flow.length": 2, "train.precision": "bfloat16"})
    model, records, _ = train(settings)
    plain, plain_records, _ = train(settings.replace({"train.precision": "float32"}))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    rounded, exact = (r[-1].metrics["train/elbo"] for r in (records, plain_records))
    assert rounded != exact
    assert rounded == pytest.approx(exact, rel=0.01)
    x = torch.tensor(tiny_dataset().test, dtype=torch.float32)
    model.eval()
    evaluated = model.infer(x)
    model.train()
    while_training = model.infer(x)
    assert not torch.equal(evaluated.mean, while_training.mean)
    assert {part.dtype for part in (*while_training[:2], *while_training.flow_parameters)} == {torch.float32}
    terms = bound_terms(model, x, torch.zeros(len(x), 2))
    assert {term.dtype for term in terms} == {torch.float32}
    # Evaluation is that of the same weights in a model of float32.
    plain.load_state_dict(model.state_dict())
    assert torch.equal(plain.infer(x).mean, evaluated.mean)
