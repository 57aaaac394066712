"""Images: the posteriors of a deep latent Gaussian model, one amortised flow for all of them (Section 6.2)."""

from __future__ import annotations

import copy
import dataclasses
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from nfstudy.core import cuda
from nfstudy.core.errors import UserError
from nfstudy.core.seeds import derive_seed
from nfstudy.data import Dataset
from nfstudy.data.checks import check_sizes
from nfstudy.films.arrays import PosteriorFilm
from nfstudy.films.fits import PlaneFits
from nfstudy.flows import has_inverse
from nfstudy.inference.likelihoods import load_likelihood
from nfstudy.inference.models.ais import Annealing, ais_likelihood, bracket_likelihood
from nfstudy.inference.models.captured_bound import CapturedBound
from nfstudy.inference.models.diagnostics import summarise_posteriors
from nfstudy.inference.models.dlgm import DLGM
from nfstudy.inference.models.evaluation import evaluate_bound, evaluate_likelihood
from nfstudy.inference.models.hmc import Sampling
from nfstudy.inference.models.local import inference_gaps
from nfstudy.inference.models.minibatch import ImageMinibatch, no_dreams
from nfstudy.inference.problems.base import Diagnosis
from nfstudy.inference.problems.code_lengths import bits_per_pixel, code_lengths
from nfstudy.inference.problems.drawing import in_blocks, normal
from nfstudy.inference.problems.films import MAPPED, POSTERIOR_SAMPLES, POSTERIORS, posterior_film
from nfstudy.inference.problems.fits import CHAINS, plane_fits, study_target
from nfstudy.inference.problems.image_grid import image_grid
from nfstudy.runs.evaluations import EvaluationRequest
from nfstudy.study.sections import DataSpec
from nfstudy.study.settings import Settings

SAMPLES_GRID = 8
"""Rows and columns of `samples.png`."""
RECONSTRUCTIONS = 8
"""Images in `reconstructions.png`."""
DIAGNOSED = 100
"""Test images whose posteriors are summarised where there is no tight estimate, which says how many."""
MOST_LATENTS = 1000
"""Latent variables whose KL is logged, the largest first."""
FITTED = 4
"""Test images whose posteriors are drawn from by MCMC, at D = 2."""
FIT_SAMPLING = Sampling(burn_in=300, draws=1000, leapfrog=8)
FIT_NODES = 10
FIT_REACH = 6.0
"""Of the prior N(0, I), all but 10⁻⁸ lies within so many deviations."""
FIT_SAMPLES = 1000
"""Of q_K, to know where it reaches."""
PERCENTILES = (0, 5, 10, 25, 50, 75, 90, 95, 100)


class ImageProblem:
    """A `Problem`: a `DLGM` and the images it is trained on.

    An epoch is N // batch updates over the training images in a new order,
    its remainder left out. Orders, posterior noise, new bits and dequantisation noise come from CPU generators seeded
    by the repetition and the epoch, so neither the device nor other trials change them.
    """

    def __init__(
        self, settings: Settings, dataset: Dataset, repetition: int, device: str, model: DLGM | None = None
    ) -> None:
        """Take the images that the settings name, whole, and a model in place of a newly initialised one.

        Raises:
            UserError: the settings ask for more images than there are.
        """
        self.settings = settings
        assert settings.data is not None
        check_sizes(dataset, settings)
        self.dataset = _used_images(dataset, settings.data)
        self.repetition = repetition
        self.device = device
        if model is None:
            likelihood = load_likelihood(settings.data, settings.model.likelihood)
            rounds = settings.train.precision != "float32"
            precision = torch.bfloat16 if rounds else torch.float32
            model = DLGM(dataset.train.shape[1], settings.model, settings.flow, likelihood, precision)
            if settings.train.precision == "bfloat16-all":
                model.round_heads(precision)
            model.initialise(settings.seed, repetition)
        self.model = model.to(device)
        self.images = torch.tensor(self.dataset.train, device=device)
        self.epoch_updates = len(self.images) // settings.train.batch
        self._captured_bound: CapturedBound | None = None

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """Return the model's parameters."""
        return dict(self.model.named_parameters())

    def parameters(self) -> list[nn.Parameter]:
        """Return the model's parameters."""
        return list(self.model.parameters())

    @property
    def inputs(self) -> int:
        """N, how many numbers an image has."""
        return self.images[0].numel()

    def minibatches(self, epoch: int, updates: int, start: int = 0) -> Iterator[ImageMinibatch]:
        """Yield the minibatches of an epoch; see `Problem`."""
        for update, drawn in enumerate(self.draws(epoch, updates)):
            if update >= start:
                yield self._dreaming(tuple(each.to(self.device) for each in drawn), epoch, update)

    def draws(self, epoch: int, updates: int) -> Iterator[tuple[Tensor, ...]]:
        """Yield each update's places in the training images (B,), noise (S, B, n), and pixels' noise (B, N) if any."""
        for block in self.blocks(epoch, updates, 1):
            yield tuple(each[0] for each in block)

    def blocks(self, epoch: int, updates: int, at_once: int) -> Iterator[tuple[Tensor, ...]]:
        """Yield what `draws` does of many updates, on a first axis; see `Problem`."""
        size, shape = self.settings.train.batch, self.images.shape[1:]
        noise_shape = (self.settings.objective.samples, size, self.model.noise_size)
        order = torch.randperm(len(self.images), generator=self._generator("data order", epoch))
        places = order[: updates * size].view(updates, size)
        stream, bits = self._generator("posterior noise", epoch), self._generator("training bits", epoch)
        numbers = math.prod(noise_shape) + size * math.prod(shape)
        for own in places.split([*in_blocks(updates, at_once, numbers)]):
            noise = normal(len(own), noise_shape, stream)
            real = self.images.is_floating_point()
            of_pixels = pixel_noise((len(own), size, *shape), real, self.dataset, bits)
            yield (own, noise) if of_pixels is None else (own, noise, of_pixels)

    def minibatch(self, drawn: tuple[Tensor, ...]) -> ImageMinibatch:
        """Return the minibatch of what `draws` yielded, on the problem's device; see `Problem`."""
        self.model.train()
        places, noise, *of_pixels = drawn
        of_pixel = of_pixels[0] if of_pixels else None
        if self._are_bytes(of_pixel) and cuda.runs_here(noise):
            from nfstudy.core.cuda.gather import gather  # It imports Triton, which few machines have.

            x = gather(self.images, places, of_pixel)
        else:
            x = pixels(self.images.index_select(0, places), self.dataset, of_pixel)
        return ImageMinibatch(self.model, x, noise, no_dreams)

    def _are_bytes(self, noise: Tensor | None) -> bool:
        """Say whether images and what they are compared with, if anything, are bytes, one row an image."""
        if self.dataset.dequantisation or self.images.dim() != 2 or not self.images.is_contiguous():
            return False
        return self.images.dtype == torch.uint8 and (noise is None or noise.dtype == torch.uint8)

    def repeated_minibatch(self, count: int, samples: int) -> Iterator[ImageMinibatch]:
        """Yield a minibatch of an epoch which no training has, by new noise each time; see `Problem`."""
        ((places, _, *of_pixels),) = self.draws(0, 1)
        same = [each.to(self.device) for each in (places, *of_pixels)]
        stream = self._generator("posterior noise", 0)
        for number in range(count):
            noise = torch.randn(samples, len(places), self.model.noise_size, generator=stream)
            yield self._dreaming((same[0], noise.to(self.device), *same[1:]), 0, number)

    def _dreaming(self, drawn: tuple[Tensor, ...], epoch: int, number: int) -> ImageMinibatch:
        """Return `minibatch` with a stream for dreams: one an update, as likelihoods take more or less of it."""
        seed = derive_seed(self.settings.seed, "dreams", self.repetition, epoch, number)
        batch = self.minibatch(drawn)
        batch.generator = lambda: torch.Generator().manual_seed(seed)
        return batch

    def validate(self) -> dict[str, float]:
        """Return the bound on the validation images."""
        self.model.eval()
        seed = derive_seed(self.settings.seed, "evaluation", "valid")
        if not self.device.startswith("cuda"):
            return evaluate_bound(self.model, self._valid_images(), seed)
        if self._captured_bound is None:
            self._captured_bound = CapturedBound(self.model, self._valid_images(), seed, self.device)
        return self._captured_bound()

    def held_out(self) -> dict[str, float]:
        """Return −ln p(x) of the validation images, `nll`, by `evaluation.valid_samples`; nothing where that is 0."""
        if not (samples := self.settings.evaluation.valid_samples):
            return {}
        self.model.eval()
        seed = derive_seed(self.settings.seed, "evaluation", "valid likelihood")
        return {"nll": evaluate_likelihood(self.model, self._valid_images(), samples, seed).nll}

    def test(self) -> dict[str, float]:
        """Return `evaluation.LikelihoodEstimates.numbers` on the test images; of whole numbers, bits per pixel too."""
        self.model.eval()
        seed = derive_seed(self.settings.seed, "evaluation", "test")
        found = evaluate_likelihood(self.model, self._test_images(), self.settings.evaluation.samples, seed).numbers()
        if self.model.likelihood.levels:
            found["bits_per_pixel"] = bits_per_pixel(-found["elbo"], self.dataset.train.shape[1])
        return found

    def diagnose(self) -> Diagnosis:
        """Return the tight estimate with its convergence curve, and `diagnostics.PosteriorSummary` of the same images.

        The tight estimate's noise is drawn anew for each repetition. The file `images.csv` has a line an image,
        under its place in the test set.
        """
        self.model.eval()
        spec = self.settings.evaluation
        metrics, curves, columns = dict[str, float](), dict[str, Mapping[int, float]](), dict[str, np.ndarray]()
        places = spread_over(len(self._test_images()), spec.tight_images or DIAGNOSED)
        images = self._test_images()[places]
        if spec.tight_images:
            seed = derive_seed(self.settings.seed, "evaluation", "tight", self.repetition)
            tight = evaluate_likelihood(self.model, images, spec.tight_samples, seed)
            metrics = {f"test/{_tight_name(name)}": value for name, value in tight.numbers().items()}
            metrics |= {"test/tight_samples": float(spec.tight_samples), "test/tight_images": float(len(images))}
            curves["test/nll_curve"] = tight.curve
            of_each = tight.images
            columns = {"nll_tight": of_each.nll, "ess": of_each.effective_size, "pareto_k": of_each.pareto_k}
        seed = derive_seed(self.settings.seed, "diagnostics", self.repetition)
        posteriors = summarise_posteriors(self.model, images, seed)
        metrics |= {
            "test/active_latents": float(posteriors.active),
            "test/log_det": float(posteriors.log_det.mean()),
            "test/displacement": float(posteriors.displacement.mean()),
        }
        curves["test/kl_latent"] = dict(enumerate(np.sort(posteriors.kl)[::-1][:MOST_LATENTS].tolist(), start=1))
        by_layer = {"active_layer": posteriors.active_by_layer, "kl_layer": posteriors.kl_by_layer}
        curves |= {f"test/{name}": dict(enumerate(map(float, own), start=1)) for name, own in by_layer.items() if own}
        columns |= {"log_det": posteriors.log_det, "displacement": posteriors.displacement}
        for name in ("log_det", "displacement"):
            quantiles = np.percentile(columns[name], PERCENTILES)
            curves[f"test/{name}_quantile"] = dict(zip(PERCENTILES, quantiles.tolist(), strict=True))
        return Diagnosis(metrics, curves, {"images.csv": _csv(places, columns)})

    def evaluate(self, request: EvaluationRequest) -> dict[str, float]:
        """Return what an estimator says of −ln p(x) of test images, or of images that the model draws; or code lengths.

        Of `local`, the inference gaps of test images as well: `models.local.InferenceGaps.numbers`.

        Where there are fewer test images than asked for, it is of all; `images` says of how many it is.

        Raises:
            UserError: images are to be drawn, which the model's likelihood does not do; or there is no such code.
        """
        self.model.eval()
        images = self._test_images()[spread_over(len(self._test_images()), request.images)]
        seed = derive_seed(self.settings.seed, "evaluation again", request.seed, self.repetition)
        if request.estimator == "importance":
            return evaluate_likelihood(self.model, images, request.samples, seed).numbers() | {"images": len(images)}
        if request.estimator == "local":
            most = (request.samples, request.temperatures or 1, request.updates or 0)
            found = inference_gaps(self.model, images, *most, seed, self.model.nearest)
            return found.numbers() | {"images": len(images)}
        if request.estimator == "bits-back":
            return code_lengths(self.model, self.settings.flow, images, request.samples, seed)
        annealing = Annealing(request.temperatures or 1, request.samples)
        if request.estimator == "ais":
            return ais_likelihood(self.model, images, annealing, seed).numbers() | {"images": len(images)}
        try:
            bracket, _ = bracket_likelihood(self.model, request.images, annealing, seed)
        except NotImplementedError as error:
            raise UserError(str(error)) from None
        return bracket.numbers() | {"images": request.images}

    def _valid_images(self) -> np.ndarray:
        images, wanted = self.dataset.valid, self.settings.evaluation.valid_images
        return images if wanted is None else images[spread_over(len(images), wanted)]

    def _test_images(self) -> np.ndarray:
        return self.dataset.test[: self.settings.evaluation.test_images]

    def files(self) -> dict[str, bytes]:
        """Return the weights, and pictures of samples and reconstructions."""
        self.model.eval()
        checkpoint = io.BytesIO()
        torch.save(self.model.state_dict(), checkpoint)
        return {
            "checkpoint.pt": checkpoint.getvalue(),
            "samples.png": self._grid(self._samples(), SAMPLES_GRID),
            "reconstructions.png": self._grid(self._reconstructions(), min(RECONSTRUCTIONS, len(self.dataset.test))),
        }

    @torch.inference_mode()
    def film(self) -> PosteriorFilm:
        """Return what the flow does step by step to the posteriors of some test images; at D = 2, a latent map too."""
        self.model.eval()
        images = self._test_images().astype(np.float32)
        filmed, mapped = (
            torch.tensor(images[spread_over(len(images), count)], device=self.device) for count in (POSTERIORS, MAPPED)
        )
        noise = self._noise(POSTERIOR_SAMPLES * len(filmed), self.model.noise_size, "film")
        noise = noise.reshape(POSTERIOR_SAMPLES, len(filmed), -1)
        return posterior_film(self.model, filmed, mapped, noise, self._levels)

    def fits(self) -> PlaneFits | None:
        """Return the posteriors of some test images beside draws by MCMC, the best Gaussians, and q_K; in float64.

        None where D is not 2. The chains start at draws from the prior that are twice as wide.
        """
        if self.model.latent != 2:
            return None
        model = copy.deepcopy(self.model).cpu().double().eval().requires_grad_(False)
        images = self._test_images()[spread_over(len(self._test_images()), FITTED)]
        x = torch.tensor(images, dtype=torch.float64)
        stream = torch.Generator().manual_seed(derive_seed(self.settings.seed, "mcmc", self.repetition))
        starts = 2 * torch.randn(CHAINS, len(x), 2, generator=stream, dtype=torch.float64)
        reach = (FIT_REACH, FIT_REACH)
        target = study_target(partial(model.log_joint, x), starts, reach, FIT_SAMPLING, FIT_NODES, stream)
        posterior = model.infer(x)
        noise = torch.randn(FIT_SAMPLES, len(x), model.noise_size, generator=stream, dtype=torch.float64)
        samples = model.sample(posterior, noise)[0].detach()
        log_flow = partial(model.log_density, posterior) if has_inverse(self.settings.flow) else None
        return plane_fits(target, log_flow, samples, images=self._levels(x))

    def _levels(self, images: Tensor) -> np.ndarray:
        """Return images (n, pixels) as levels from 0 to 255, (n, height, width, channels)."""
        height, width, *colours = self.dataset.shape
        unit = self._unit(images.cpu().numpy()).clip(0, 1)
        return np.rint(255 * unit).astype(np.uint8).reshape(-1, height, width, *(colours or [1]))

    def _generator(self, purpose: str, epoch: int) -> torch.Generator:
        return torch.Generator().manual_seed(derive_seed(self.settings.seed, purpose, self.repetition, epoch))

    @torch.inference_mode()
    def _samples(self) -> np.ndarray:
        """Return the model's images at draws from the prior, (64, height, width) or (64, height, width, 3)."""
        z = self._noise(SAMPLES_GRID**2, self.model.latent, "samples")
        return self.model.decode(z).cpu().numpy().reshape(-1, *self.dataset.shape)

    @torch.inference_mode()
    def _reconstructions(self) -> np.ndarray:
        """Return the first test images, then the model's images at one posterior sample of each."""
        images = self.dataset.test[:RECONSTRUCTIONS].astype(np.float32)
        noise = self._noise(len(images), self.model.noise_size, "reconstructions")
        z_K, _, _ = self.model.sample(self.model.infer(torch.tensor(images, device=self.device)), noise)
        return np.concatenate([images, self.model.decode(z_K).cpu().numpy()]).reshape(-1, *self.dataset.shape)

    def _grid(self, images: np.ndarray, columns: int) -> bytes:
        """Return a PNG."""
        return image_grid(self._unit(images), columns)

    def _unit(self, images: np.ndarray) -> np.ndarray:
        """Return images from 0 to 1: real numbers from the least in the training images to the greatest."""
        assert self.settings.data is not None
        if count := self.settings.data.categories:
            return images / (count - 1)
        if self.settings.data.values != "real":
            return images
        least, greatest = float(self.dataset.train.min()), float(self.dataset.train.max())
        return (images - least) / (greatest - least)

    def _noise(self, count: int, size: int, picture: str) -> Tensor:
        generator = torch.Generator().manual_seed(derive_seed(self.settings.seed, "pictures", picture))
        return torch.randn(count, size, generator=generator).to(self.device)


def pixel_noise(shape: Sequence[int], real: bool, dataset: Dataset, stream: torch.Generator) -> Tensor | None:
    """Return what `pixels` takes beside values of the training split; None where these are what the model sees.

    Arguments:
        shape: of the values, with the updates that they are of in front: these may be drawn one by one.
        real: whether the values are floats.
        dataset: whose they are.
        stream: a CPU generator, from which it is drawn.
    """
    if dataset.dequantisation:
        return torch.rand(shape, generator=stream) if dataset.dequantisation.noise else None
    if real and dataset.levels:
        return torch.rand(shape, generator=stream)
    if dataset.levels > 1:
        return torch.randint(dataset.levels, shape, generator=stream, dtype=torch.uint8)
    return None


def pixels(values: Tensor, dataset: Dataset, noise: Tensor | None) -> Tensor:
    """Return images as the model sees them, floats of the same shape, from values of the training split.

    Bits and real numbers stay as they are; levels become bits, or numbers within (0, 1) (`Dequantisation`), by
    `pixel_noise`.
    """
    if dataset.dequantisation:
        return dataset.dequantisation.apply(values.float(), lambda: noise)
    # With u uniform on 0 ... levels − 1, P(u < v) is v / levels exactly.
    return (values if noise is None else noise < values).float()


def _tight_name(name: str) -> str:
    """Return the tight estimate's name of a number: `kl` -> `kl_tight`, `nll_seed_se` -> `nll_tight_seed_se`."""
    quantity, _, rest = name.partition("_")
    return f"{quantity}_tight_{rest}" if quantity == "nll" and rest else f"{name}_tight"


def spread_over(total: int, count: int) -> np.ndarray:
    """Return `count` of the places 0 ... total − 1, evenly spread: ⌊i · total / count⌋; all where there are fewer.

    Not the first ones: data sets are often sorted, as the fixed binarisation of MNIST is by digit.
    """
    count = min(count, total)
    return np.arange(count) * total // max(count, 1)


def _csv(places: np.ndarray, columns: Mapping[str, np.ndarray]) -> bytes:
    """Return a table with a line an image, numbers to six digits."""
    rows = zip(places.tolist(), *columns.values(), strict=True)
    lines = (",".join((str(place), *(f"{v:.6g}" for v in row))) for place, *row in rows)
    return "\n".join((",".join(("image", *columns)), *lines, "")).encode()


def _used_images(dataset: Dataset, spec: DataSpec) -> Dataset:
    train = dataset.train
    if spec.training_split == "train+valid":
        train = np.concatenate([train, dataset.valid])
    return dataclasses.replace(dataset, train=train[: spec.train_images])
