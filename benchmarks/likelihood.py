"""−ln p(x) by importance sampling against pythae's `get_nll`: the same weights, as many samples, the same answers.

pythae leaves the networks to its user. They are of torch's own layers here, with our weights; and, to see what the
estimators alone are worth, of our layers once more.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import nn

from benchmarks.peers import find_peers
from benchmarks.result import Result, Row, Verdict
from benchmarks.timing import Plan, ratio, spread, take_turns
from nfstudy.core.kernels.linear import product
from nfstudy.flows.base import StepHead
from nfstudy.inference.models.dlgm import DLGM
from nfstudy.inference.models.evaluation import IMAGES_AT_ONCE, SAMPLES_AT_ONCE, evaluate_likelihood
from nfstudy.study.sections import FlowSpec, ModelSpec

PIXELS = 784
LENGTHS = (0, 80)
RATED = (("none", 0), ("planar", 80), ("nice-perm", 80))
"""Families and lengths of which the rate is told."""
LEAST_RATE = 0.8
"""Of an evaluation, over the rate of its networks' bare products."""
TIGHT = 1000
"""Images of a run's tight estimate."""
MOST_SECONDS = 180.0
"""Processor time that it may take."""
LEAST = 20.0
"""How many times faster than pythae."""
GAIN = 0.1
"""Shrinks some initial weights, so that q_K is near p(z|x): no sample outweighs all others, and errors are known."""
STIR = 0.3
"""Standard deviation of what is added to a step's parameters, times √K."""
MANY = 10_000
"""Images of MNIST's test set."""
MOST_GROWTH = 64
"""MB by which memory may grow from some images to `MANY`."""


class Size(NamedTuple):
    """How much is computed."""

    samples: int
    """S, importance samples an image."""
    images: int
    """Of ours, which go in blocks."""
    raced_images: int
    """Of ours, beside pythae's."""
    rated_samples: int
    """Of those that the rate is told from: it is that of all but for the inference network, which runs once an image,
    and so weighs more on few."""
    rated_passes: int
    """Passes of samples that the products are told from, one being like the other."""
    their_images: int
    """Of pythae, which go one by one."""
    plan: Plan


FULL = Size(
    samples=5000,
    images=100,
    raced_images=20,
    rated_samples=2000,
    rated_passes=16,
    their_images=2,
    plan=Plan(rounds=5, turn=0),
)
QUICK = Size(
    samples=200,
    images=20,
    raced_images=20,
    rated_samples=200,
    rated_passes=4,
    their_images=2,
    plan=Plan(rounds=3, turn=0),
)


def make_model(length: int) -> DLGM:
    """Return the model of Section 6.2 with a planar chain of K steps, whose parameters are the same for all images.

    That is what pythae can do. Our head is computed nevertheless, its weights being 0 and its biases the parameters.
    """
    model = DLGM(PIXELS, ModelSpec(), FlowSpec(family="planar" if length else "none", length=length))
    model.initialise(0, 1)
    with torch.no_grad():
        for layer in (cast(nn.Linear, model.likelihood.logits), model.mean):
            layer.weight.mul_(GAIN)
        if length:
            head = cast(StepHead, model.flow.head)
            head.weight.zero_()
            # Every step begins as the identity; so many steps together then move a z by about its own length.
            head.bias.add_(
                STIR * length**-0.5 * torch.randn(head.bias.shape, generator=torch.Generator().manual_seed(0))
            )
    return model


def draw_images(count: int) -> np.ndarray:
    """Return random bits, (count, 784)."""
    return np.random.default_rng(0).integers(0, 2, size=(count, PIXELS), dtype=np.int8).astype(np.float32)


def measure(quick: bool) -> Result:
    """Time both estimators, and ours on the whole of a test set.

    Arguments:
        quick: few samples, images and rounds.
    """
    size = QUICK if quick else FULL
    peers, missing = find_peers(("pythae",))
    rows: list[Row] = []
    verdicts: list[Verdict] = []
    for length in LENGTHS if peers else ():
        for row in race(length, size):
            rows.append(row)
            what = f"K = {length}, {row['their_layers']}, {size.samples} samples: pythae's time an image over ours"
            times = row["times_as_fast"]
            verdicts.append(Verdict(what, f"{times:.1f} times", f"at least {LEAST:g} times", times >= LEAST))
            what = f"K = {length}, {row['their_layers']}: difference of −ln p(x), in standard errors"
            verdicts.append(Verdict(what, f"{row['difference_se']:.2f}", "at most 4", abs(row["difference_se"]) <= 4))
    for length in LENGTHS:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            seconds, before, after = process.submit(_whole_test_set, length, size).result()
        what = f"K = {length}: {MANY:,} images of {size.samples} samples, told from {size.images} images"
        found = f"{seconds / 60:.1f} minutes, {before:.0f} MB for {size.images} images, {after:.0f} MB for all"
        verdicts.append(Verdict(what, found, f"at most {MOST_GROWTH} MB more for all", after - before <= MOST_GROWTH))
    verdicts += [
        verdict for family, length in RATED for verdict in (rate(family, length, size), tight(family, length, size))
    ]
    title = f"−ln p(x), {PIXELS} pixels, {size.samples} importance samples, one thread"
    return Result(title, rows, verdicts, [f"{peer.name}: {peer.reason}" for peer in missing])


def rate(family: str, length: int, size: Size) -> Verdict:
    """Hold the rate of an evaluation against that of the products of its encoder and decoder, and nothing else.

    Those of a chain's own networks are not among the products. The products are taken as fast as they are found to be:
    by torch.matmul or oneDNN, of x Wᵀ or of W xᵀ, whose operands lie as they would have to.
    """
    model, images = _untrained(family, length), draw_images(size.images)
    blocks = -(-size.images // IMAGES_AT_ONCE)
    rows = min(size.images, IMAGES_AT_ONCE)
    encoder = [weight for weight in model.encoder.parameters() if weight.dim() == 2]
    decoder: list[torch.Tensor] = [weight for weight in model.decoder.parameters() if weight.dim() == 2]
    decoder.append(cast(nn.Linear, model.likelihood.logits).weight)
    passes = -(-size.rated_samples // SAMPLES_AT_ONCE)
    products: dict[tuple[str, str], Callable[[], object]] = {}
    for library, multiply in (("oneDNN", product), ("torch.matmul", lambda a, b: a @ b.T)):
        for batch_last in (False, True):
            sides = (encoder, rows), (decoder, rows * SAMPLES_AT_ONCE)
            up, down = (_operands(weights, count, batch_last) for weights, count in sides)
            name = f"{library}, batch {'last' if batch_last else 'first'}"
            products[name, "up"] = partial(_multiply, multiply, up, 1)
            products[name, "down"] = partial(_multiply, multiply, down, size.rated_passes)
    evaluation = partial(evaluate_likelihood, model, images, size.rated_samples, 0)
    seconds = take_turns(products | {("ours", ""): evaluation}, size.plan)
    medians = {name: spread(turns).median for name, turns in seconds.items()}
    ours = medians.pop(("ours", ""))
    # A block's products are the encoder's, once, and the decoder's, in each pass.
    times = {
        name: blocks * (medians[name, "up"] + passes / size.rated_passes * medians[name, "down"])
        for name in sorted({name for name, _ in medians})
    }
    fastest = min(times, key=lambda name: times[name])
    found = times[fastest] / ours
    what = f"K = {length}, {family}: rate of the evaluation over that of its networks' bare products"
    each = 1e3 / len(images) * size.samples / size.rated_samples
    told = f"{found:.2f}: {each * ours:.1f} ms an image, products {each * times[fastest]:.1f} ms ({fastest})"
    return Verdict(what, told, f"at least {LEAST_RATE:g}", found >= LEAST_RATE)


def tight(family: str, length: int, size: Size) -> Verdict:
    """Hold the processor time of the tight estimate of one run, of `TIGHT` images, against its limit."""
    model, images = _untrained(family, length), draw_images(size.images)
    evaluate_likelihood(model, images[:2], SAMPLES_AT_ONCE, 0)
    start = time.process_time()
    evaluate_likelihood(model, images, size.samples, 0)
    seconds = (time.process_time() - start) * TIGHT / len(images)
    what = f"K = {length}, {family}: {TIGHT:,} images of {size.samples} samples, told from {len(images)} images"
    found, asked = f"{seconds:.0f} processor seconds", f"at most {MOST_SECONDS:g}"
    return Verdict(what, found, asked, seconds <= MOST_SECONDS)


def _untrained(family: str, length: int) -> DLGM:
    model = DLGM(PIXELS, ModelSpec(), FlowSpec(family=family, length=length))
    model.initialise(0, 1)
    return model


Pairs = list[tuple[torch.Tensor, torch.Tensor]]


def _operands(weights: Sequence[torch.Tensor], rows: int, batch_last: bool) -> Pairs:
    """Return what is multiplied in each layer: x and W for x Wᵀ, or W and x, its images side by side, for W xᵀ."""
    pairs: Pairs = []
    for weight in weights:
        x, w = torch.randn(rows, weight.shape[1]), weight.detach()
        pairs.append((w, x.T.contiguous().T) if batch_last else (x, w))
    return pairs


@torch.inference_mode()
def _multiply(multiply: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], pairs: Pairs, passes: int) -> None:
    """Do a network's products in so many passes."""
    for _ in range(passes):
        for a, b in pairs:
            multiply(a, b)


def race(length: int, size: Size) -> list[Row]:
    """Time an image of ours and of pythae's by turns, and compare what both say of the same images.

    Returns:
        A row with pythae's networks of torch's layers, and one with those of ours.
    """
    from benchmarks.peers.pythae import log_likelihood, wrap_model  # It may be missing.

    model, images = make_model(length), draw_images(size.raced_images)
    few = images[: size.their_images]
    theirs = {f"{whose} layers": wrap_model(model, whose == "our") for whose in ("torch's", "our")}
    steps = {name: partial(log_likelihood, peer, few, size.samples) for name, peer in theirs.items()}
    seconds = take_turns(steps | {"ours": partial(evaluate_likelihood, model, images, size.samples, 0)}, size.plan)
    our_time = [second / len(images) for second in seconds["ours"]]
    answer = evaluate_likelihood(model, few, size.samples, 0)
    rows: list[Row] = []
    for name, peer in theirs.items():
        their_time = [second / len(few) for second in seconds[name]]
        times = ratio(their_time, our_time)
        torch.manual_seed(0)
        their_nll = -log_likelihood(peer, few, size.samples)
        rows.append(
            {
                "K": length,
                "their_layers": name,
                "our_ms": 1e3 * spread(our_time).median,
                "their_ms": 1e3 * spread(their_time).median,
                "times_as_fast": times.median,
                "times_lower": times.lower,
                "times_upper": times.upper,
                "our_nats": answer.nll,
                "their_nats": their_nll,
                "error_nats": answer.nll_mc_se,
                "difference_se": (answer.nll - their_nll) / (math.sqrt(2) * answer.nll_mc_se),
            }
        )
    return rows


def _whole_test_set(length: int, size: Size) -> tuple[float, float, float]:
    """Return seconds for `MANY` images, told from fewer, and the process's largest memory in MB with few and with all.

    Images go in blocks of one size, so that time grows with their number; all of them are met with 2 samples each.
    """
    torch.set_num_threads(1)
    model, images = make_model(length), draw_images(MANY)
    few = images[: size.images]
    evaluate_likelihood(model, few, 2, 0)
    start = time.perf_counter()
    evaluate_likelihood(model, few, size.samples, 0)
    seconds = time.perf_counter() - start
    before = _peak_megabytes()
    evaluate_likelihood(model, images, 2, 0)
    return seconds * MANY / len(few), before, _peak_megabytes()


def _peak_megabytes() -> float:
    """Return the most memory that this process has held, from Linux; NaN elsewhere.

    `getrusage` would also count what the parent held when it started this process.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return math.nan
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024
