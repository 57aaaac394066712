"""What a trained flow does step by step, as the arrays of a film."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from nfstudy.films.arrays import FLOOR, PlaneFilm, PosteriorFilm, moments
from nfstudy.flows.base import Flow, NoFlow
from nfstudy.flows.guided import GuidedFlow
from nfstudy.inference.models.dlgm import DLGM
from nfstudy.inference.problems.energies import WINDOW, window_grid

CELLS = 64
"""Of a film's densities, on each side."""
FINER = 2
"""A cell's density is the mean over so many points on each side: what is narrower than a cell would come out dotted."""
LINES = 49
"""Points of the warped grid on each side; every third line is drawn."""
REACH = 2.5
"""The grid covers so many standard deviations of q0 on each side of its mean."""
FARTHEST = 1000.0
"""Of a point that is kept: float16 holds it, and it is far outside of every picture."""
SAMPLES = 300
"""Of a density on the plane."""
POSTERIOR_SAMPLES = 200
"""Of each posterior."""
POSTERIORS = 6
"""Images whose posteriors are shown."""
POSTERIOR_CELLS = 48
DECODED = 13
"""Points on each side at which the latent map has an image, at D = 2."""
MAP_REACH = 3.0
MAPPED = 120
"""Test images in the latent map."""

Chain = tuple[int, Flow, tuple[Tensor, ...]]
"""k, and the first k steps with their parameters."""


def beginnings(flow: Flow, parameters: tuple[Tensor, ...]) -> Iterator[Chain]:
    """Yield the beginnings of a chain that a film shows: start and end alone where the family shows no step."""
    shown = moments(flow.length)
    inner = [(k, *flow.first_steps(k, parameters)) for k in shown[1:-1]] if flow.shows_steps else []
    yield 0, NoFlow(flow.latent, 0, 0), ()
    yield from inner
    if flow.length:
        yield flow.length, flow, parameters


@torch.no_grad()
def plane_film(
    flow: Flow,
    parameters: tuple[Tensor, ...],
    log_q0: Callable[[Tensor], Tensor],
    start: Callable[[Tensor], Tensor],
    samples: Tensor,
    log_target: Tensor | None,
) -> PlaneFilm:
    """Return the film of a flow on the plane; all in the types of its weights, on their device.

    The density is q_k(z) = q0(z_0) / |det ∂z_k/∂z_0| with z_0 the inverse of z under the first k steps, eq. (7).

    Arguments:
        flow: with an inverse.
        parameters: of all K steps, without the axis of images.
        log_q0: z_0 (..., 2) -> ln q0(z_0) in nats, (...).
        start: points of N(0, I)'s plane, (..., 2) -> z_0, (..., 2): where the grid begins.
        samples: z_0 of S samples, (S, 2).
        log_target: ln p in nats at `window_grid(CELLS)`, (CELLS, CELLS).
    """
    z = window_grid(CELLS * FINER).to(samples).reshape(-1, 2)
    ticks = torch.linspace(-REACH, REACH, LINES, dtype=torch.float64)
    z2, z1 = torch.meshgrid(ticks, ticks, indexing="ij")
    grid = start(torch.stack([z1, z2], -1).to(samples)).reshape(-1, 2)
    steps, log_densities, grids, paths = [], [], [], []
    for k, first, own in beginnings(flow, parameters):
        z_0 = first.inverse(z, own)
        steps.append(k)
        log_densities.append(_cell_means(log_q0(z_0) - first(z_0, own)[1]))
        grids.append(first(grid, own)[0].reshape(LINES, LINES, 2))
        paths.append(first(samples, own)[0])
    log_q = torch.stack(log_densities).cpu()
    return PlaneFilm(
        steps=np.array(steps, np.int32),
        window=np.array([0.0, 0.0, WINDOW]),
        log_density=log_q.clamp(min=FLOOR).numpy(),
        target=np.empty((0, 0)) if log_target is None else log_target.cpu().numpy(),
        grid=torch.stack(grids).cpu().numpy().clip(-FARTHEST, FARTHEST),
        samples=torch.stack(paths).cpu().numpy().clip(-FARTHEST, FARTHEST),
    )


def _cell_means(log_q: Tensor) -> Tensor:
    """Return the logarithm of the mean of exp(log_q) over each cell's points, (CELLS, CELLS)."""
    parts = log_q.reshape(CELLS, FINER, CELLS, FINER).transpose(1, 2).flatten(2)
    return torch.logsumexp(parts, -1) - math.log(parts.shape[-1])


@torch.no_grad()
def posterior_film(
    model: DLGM, filmed: Tensor, mapped: Tensor, noise: Tensor, picture: Callable[[Tensor], np.ndarray]
) -> PosteriorFilm:
    """Return the film of some images' posteriors; at D = 2 with the true posteriors, and with the latent map.

    At D > 2, samples are projected on the two main directions of an image's z_K, the same for all k.

    Arguments:
        model: a trained one, in evaluation mode.
        filmed: images as the model sees them, (N, pixels).
        mapped: more of them, (T, pixels), for the map.
        noise: draws from N(0, I), (S, N, n), n as `DLGM.noise_size` says, of the filmed images; the first of these are
            those of the map.
        picture: images (n, pixels) -> levels from 0 to 255, (n, height, width, channels).
    """
    posterior = model.infer(filmed)
    z_0 = posterior.mean + (0.5 * posterior.log_variance).exp() * noise[..., : model.latent]
    if isinstance(model.flow, GuidedFlow):  # Its steps are one trajectory with noise of its own.
        moves = [(0, z_0), (model.flow.length, model.sample(posterior, noise)[0])]
    else:
        moves = [(k, first(z_0, own)[0]) for k, first, own in beginnings(model.flow, posterior.flow_parameters)]
    path = torch.stack([z_k for _, z_k in moves]).cpu().double()
    plane = model.latent == 2
    if plane:
        points, share = path, torch.ones(len(filmed), dtype=torch.float64)
    else:
        points, share = _main_directions(path)
    windows = _windows(points)
    levels = picture(filmed)
    empty = levels[:0]
    log_p, places, thumbnails = np.empty((0, 0, 0)), np.empty((0, 2)), empty
    decoded = np.empty((0, *empty.shape), np.uint8)
    if plane:
        log_p = _log_joint(model, filmed, windows)
        side = torch.linspace(-MAP_REACH, MAP_REACH, DECODED)
        z2, z1 = torch.meshgrid(side.flip(0), side, indexing="ij")
        z = torch.stack([z1, z2], -1).reshape(-1, 2).to(noise)
        decoded = picture(model.decode(z)).reshape(DECODED, DECODED, *levels.shape[1:])
        own_noise = noise.flatten(0, 1)[torch.arange(len(mapped)) % noise[..., 0].numel()]
        places = model.sample(model.infer(mapped), own_noise)[0].cpu().numpy()
        thumbnails = picture(mapped)
    return PosteriorFilm(
        steps=np.array([k for k, _ in moves], np.int32),
        images=levels,
        samples=points.permute(0, 2, 1, 3).numpy(),
        windows=windows.numpy(),
        share=share.numpy(),
        posterior=log_p,
        decoded=decoded,
        places=places,
        thumbnails=thumbnails,
    )


def _main_directions(path: Tensor) -> tuple[Tensor, Tensor]:
    """Return samples (F, S, N, D) in the main two directions of the last, (F, S, N, 2), and their share, (N,)."""
    end = path[-1].transpose(0, 1)
    middle = end.mean(1, keepdim=True)
    _, sizes, directions = torch.linalg.svd(end - middle, full_matrices=False)
    main = directions[:, :2]
    main = main * main.gather(-1, main.abs().argmax(-1, keepdim=True)).sign()  # Signs of an SVD are a matter of taste.
    if main.shape[1] < 2:  # D = 1
        main = torch.cat([main, torch.zeros_like(main)], 1)
    variances = sizes.square()
    share = variances[:, :2].sum(-1) / variances.sum(-1).clamp(min=torch.finfo(variances.dtype).tiny)
    return torch.einsum("fsnd,nad->fsna", path - middle.transpose(0, 1), main), share


def _windows(points: Tensor) -> Tensor:
    """Return centre and half side of the square that holds all but the farthest of an image's samples, (N, 3)."""
    flat = points.permute(2, 0, 1, 3).flatten(1, 2)
    low, high = flat.quantile(0.003, 1), flat.quantile(0.997, 1)
    half = 0.65 * (high - low).amax(-1, keepdim=True).clamp(min=1e-3)
    return torch.cat([(low + high) / 2, half], -1)


def _log_joint(model: DLGM, images: Tensor, windows: Tensor) -> np.ndarray:
    """Return ln p(x|z) + ln p(z) in nats less its greatest, on a grid of each image's window, (N, C, C); rows down."""
    centres = (torch.arange(POSTERIOR_CELLS, dtype=torch.float64) + 0.5) * (2 / POSTERIOR_CELLS) - 1
    z2, z1 = torch.meshgrid(centres.flip(0), centres, indexing="ij")
    z = windows[:, :2] + windows[:, 2:] * torch.stack([z1, z2], -1).reshape(-1, 1, 2)
    rows = []
    for part in z.to(images).split(256):
        rows.append((model.log_likelihood(images, part) - 0.5 * part.square().sum(-1)).cpu())
    log_p = torch.cat(rows).double().mT.reshape(-1, POSTERIOR_CELLS, POSTERIOR_CELLS)
    return (log_p - log_p.amax((1, 2), keepdim=True)).numpy()
