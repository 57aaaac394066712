"""normflows (Stimper et al. 2023): parameters are shared by all rows."""

from __future__ import annotations

from collections.abc import Sequence

import normflows as nf
import torch

from benchmarks.contest import HIDDEN, Contest, Contestant, torch_contestant


def contestants(contest: Contest) -> Sequence[Contestant]:
    """Return its planar, radial, NICE, IAF, RealNVP, Glow or spline chain."""
    torch.manual_seed(0)
    note = "shared parameters"
    if contest.family == "planar":
        numbers = zip(*map(torch.tensor, contest.planar(amortised=False)), strict=True)
        flows = [nf.flows.Planar((contest.latent,), u=u[None], w=w[None], b=b[None]) for u, w, b in numbers]
    elif contest.family == "radial":
        flows = []
        for z0, alpha, beta in zip(*map(torch.tensor, contest.radial(amortised=False)), strict=True):
            flow = nf.flows.Radial((contest.latent,), z_0=z0[None])
            flow.load_state_dict({**flow.state_dict(), "alpha": alpha[None], "beta": beta[None]})
            flows.append(flow)
    elif contest.family == "nice-perm":
        half = contest.latent // 2
        sizes = [half, HIDDEN["nice-perm"], contest.latent - half]
        flows = []
        for _ in range(contest.length):
            flows += [
                nf.flows.Permute(contest.latent, mode="shuffle"),
                nf.flows.AffineCouplingBlock(nf.nets.MLP(sizes), scale=False),
            ]
        note = "shared parameters; ReLU"
    elif contest.family == "iaf":
        flows = []
        for _ in range(contest.length):
            # Its feedforward MADE of one block has one nonlinearity, but one matrix more than ours.
            flows += [
                nf.flows.Permute(contest.latent, mode="shuffle"),
                nf.flows.MaskedAffineAutoregressive(
                    contest.latent, HIDDEN["iaf"], num_blocks=1, use_residual_blocks=False
                ),
            ]
        note = "shared parameters; ReLU; one matrix more a step"
    elif contest.family in ("realnvp", "glow"):
        flows, note = _affine(contest), "shared parameters; ReLU; scales by a sigmoid"
    elif contest.family == "spline":
        flows = []
        for _ in range(contest.length):
            # Its residual network of one block has two matrices more than ours.
            block = nf.flows.CoupledRationalQuadraticSpline(contest.latent, 1, HIDDEN["spline"], tail_bound=5.0)
            flows += [nf.flows.Permute(contest.latent, mode="shuffle"), block]
        note = "shared parameters; ReLU; two matrices more a step"
    else:
        return []
    model = nf.NormalizingFlow(nf.distributions.DiagGaussian(contest.latent, trainable=False), flows)
    same = contest.family in ("planar", "radial")
    return [
        torch_contestant(
            "normflows", False, model.forward_and_log_det, list(model.flows.parameters()), contest, same, note
        )
    ]


def _affine(contest: Contest) -> list[nf.flows.Flow]:
    """Return affine couplings with permutations between them, or with Glow's actnorm and LU-parametrised matrix.

    Its matrix is applied by triangular solves in this direction, as `forward_and_log_det` has it.
    """
    half = contest.latent // 2
    sizes = [half, HIDDEN[contest.family], 2 * (contest.latent - half)]
    flows: list[nf.flows.Flow] = []
    for _ in range(contest.length):
        if contest.family == "glow":
            flows += [nf.flows.ActNorm(contest.latent), nf.flows.LULinearPermute(contest.latent)]
        else:
            flows.append(nf.flows.Permute(contest.latent, mode="shuffle"))
        flows.append(nf.flows.AffineCouplingBlock(nf.nets.MLP(sizes), scale_map="sigmoid"))
    return flows
