"""flowjax (Ward 2023) on jax, compiled: rows are mapped over; planar steps may have parameters of each row's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
import torch
from flowjax.bijections import (
    AbstractBijection,
    Affine,
    Chain,
    Coupling,
    Flip,
    Householder,
    Loc,
    MaskedAutoregressive,
    Permute,
    Planar,
    RationalQuadraticSpline,
    Scan,
    TriangularAffine,
)

from benchmarks.contest import HIDDEN, Contest, Contestant
from nfstudy.flows.full_covariance.flow import cholesky_factor

ACTIVATIONS = {"tanh": jnp.tanh, "ReLU": jax.nn.relu}
"""Of a step's network: ours, and the one that costs next to nothing, which is flowjax's default."""
CONTEXT = 1
"""Width of what moves each step's network: the least, for the work of a wider one is that of our head."""


def contestants(contest: Contest) -> Sequence[Contestant]:
    """Return its chains of a family.

    Planar and Householder steps and a triangular matrix are of both kinds; NICE, RealNVP, splines and IAF are moved by
    a condition.
    """
    if contest.family == "planar":
        return [_planar(contest, amortised) for amortised in (True, False)]
    if contest.family == "householder":
        return [_householder(contest, amortised) for amortised in (True, False)]
    if contest.family == "full-covariance":
        return [_full_covariance(contest, amortised) for amortised in (True, False)]
    if contest.family in ("nice-perm", "realnvp", "spline"):
        return [_conditioned(contest, _coupling, activation) for activation in ACTIVATIONS]
    if contest.family == "iaf":
        return [_conditioned(contest, _autoregressive, activation) for activation in ACTIVATIONS]
    return []


def _planar(contest: Contest, amortised: bool) -> Contestant:
    """Return planar steps with the u that make our map under its constraint, which is not the paper's.

    Rows of their own are mapped over a chain, whose steps' parameters are arrays of their own, shared ones over a scan:
    on a processor each is the faster way for its kind.
    """
    u, w, b = (x.astype(np.float64) for x in contest.planar(amortised))
    wu = (w * u).sum(-1, keepdims=True)
    # Its wᵀû is −1 + ln(1 + ln(1 + eˣ)) at x = wᵀu: the paper's −1 + ln(1 + eˣ) at x = ln(exp(exp(wᵀu)) − 1).
    u = u + (np.log(np.expm1(np.exp(wu))) - wu) * w / np.square(w).sum(-1, keepdims=True)
    params = jnp.asarray(np.concatenate([w, u, b[..., None]], axis=-1), dtype=jnp.float32)
    step = Planar(jax.random.key(0), dim=contest.latent)
    if amortised:
        steps = [eqx.tree_at(lambda step: step.params, step, params[:, k]) for k in range(contest.length)]
        return _contestant(contest, amortised, Chain(steps), eqx.if_array(0), None, True, "jit")
    flow = Scan(eqx.tree_at(lambda step: step.params, step, params))
    return _contestant(contest, amortised, flow, None, None, True, "shared parameters; jit")


def _householder(contest: Contest, amortised: bool) -> Contestant:
    """Return reflections, mapped over or scanned as planar steps are."""
    v = jnp.asarray(contest.householder(amortised)[0])
    if amortised:
        steps = Chain([_reflections(v[:, k]) for k in range(contest.length)])
        return _contestant(contest, amortised, steps, eqx.if_array(0), None, True, "jit")
    return _contestant(contest, amortised, Scan(_reflections(v)), None, None, True, "shared parameters; jit")


def _reflections(v: jax.Array) -> Householder:
    """Return reflections by vectors (n, D), of which its own, unwrapped together, would divide all by one norm."""
    unit = paramax.Parameterize(lambda v: v / jnp.linalg.norm(v, axis=-1, keepdims=True), v)
    return eqx.tree_at(lambda step: step.unit_vec, Householder(v[0]), unit)


def _full_covariance(contest: Contest, amortised: bool) -> Contestant:
    """Return the product with a triangular matrix, which it takes as a square one, its diagonal by a softplus."""
    factor = jnp.asarray(cholesky_factor(*map(torch.tensor, contest.full_covariance(amortised))).numpy())
    loc = jnp.zeros(contest.latent)
    if amortised:
        flow = eqx.filter_vmap(partial(TriangularAffine, loc))(factor)
        return _contestant(contest, amortised, flow, eqx.if_array(0), None, True, "jit")
    return _contestant(contest, amortised, TriangularAffine(loc, factor), None, None, True, "shared parameters; jit")


def _conditioned(contest: Contest, layer: Callable[..., AbstractBijection], activation: str) -> Contestant:
    keys = jax.random.split(jax.random.key(0), contest.length)
    flow = Scan(eqx.filter_vmap(partial(layer, contest, ACTIVATIONS[activation]))(keys))
    condition = jax.random.normal(jax.random.key(1), (contest.batch, CONTEXT))
    note = f"{activation}; {CONTEXT} feature of the image enters each network; jit"
    return _contestant(contest, True, flow, None, condition, False, note)


def _coupling(contest: Contest, activation: Callable[[jax.Array], jax.Array], key: jax.Array) -> AbstractBijection:
    transformers = {
        "nice-perm": Loc(jnp.zeros(())),
        "realnvp": Affine(),
        "spline": RationalQuadraticSpline(knots=8, interval=5.0),
    }
    coupling = Coupling(
        key,
        transformer=transformers[contest.family],
        untransformed_dim=contest.latent // 2,
        dim=contest.latent,
        cond_dim=CONTEXT,
        nn_width=HIDDEN[contest.family],
        nn_depth=1,
        nn_activation=activation,
    )
    return Chain([coupling, Permute(jax.random.permutation(key, jnp.arange(contest.latent)))])


def _autoregressive(
    contest: Contest, activation: Callable[[jax.Array], jax.Array], key: jax.Array
) -> AbstractBijection:
    step = MaskedAutoregressive(
        key,
        transformer=Affine(),
        dim=contest.latent,
        cond_dim=CONTEXT,
        nn_width=HIDDEN["iaf"],
        nn_depth=1,
        nn_activation=activation,
    )
    return Chain([step, Flip((contest.latent,))])


def _contestant(
    contest: Contest,
    amortised: bool,
    flow: AbstractBijection,
    in_axes: Callable | None,
    condition: jax.Array | None,
    same: bool,
    note: str,
) -> Contestant:
    """Return a contestant of one bijection.

    Arguments:
        contest: what it was made for.
        amortised: see `Contestant`.
        flow: of one row, or, if `in_axes` says so, with a leading axis of rows in its arrays.
        in_axes: of `flow`, as for `equinox.filter_vmap`; None where rows share it.
        condition: (B, C); None without one.
        same: see `Contestant`.
        note: see `Contestant`.
    """
    z_0 = jnp.asarray(contest.z_0())
    rows = (in_axes, 0, None if condition is None else 0)

    def outcome(flow: AbstractBijection, z: jax.Array, condition: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        def one(flow: AbstractBijection, z: jax.Array, c: jax.Array | None) -> tuple[jax.Array, jax.Array]:
            return flow.transform_and_log_det(z, c)

        return eqx.filter_vmap(one, in_axes=rows)(paramax.unwrap(flow), z, condition)

    def loss(leaves: tuple[AbstractBijection, jax.Array, jax.Array | None]) -> jax.Array:
        z_K, log_det = outcome(*leaves)
        return 0.5 * jnp.square(z_K).sum() - log_det.sum()

    # What is differentiated is divided from the rest once, and jax.jit used as it is: less to do a call than eqx's.
    numbers, rest = eqx.partition((flow, z_0, condition), eqx.is_inexact_array)
    gradients = jax.jit(jax.grad(lambda numbers: loss(eqx.combine(numbers, rest))))

    def numpy_outcome() -> tuple[np.ndarray, np.ndarray]:
        z_K, log_det = eqx.filter_jit(outcome)(flow, z_0, condition)
        return np.asarray(z_K), np.asarray(log_det)

    return Contestant(
        "flowjax", amortised, lambda: jax.block_until_ready(gradients(numbers)), numpy_outcome, same, note
    )
