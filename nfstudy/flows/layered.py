"""A chain for each stochastic layer of a model: the flow of a posterior that factorises over layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate

import torch
from torch import Tensor

from nfstudy.core import registry
from nfstudy.core.declarations import FlowFamily
from nfstudy.flows import FlowSettings, make_flow
from nfstudy.flows.base import Flow, Generators


def make_layered_flow(spec: FlowSettings, sizes: Sequence[int], features: int) -> Flow:
    """Return the flow of all L stochastic layers, whose weights are still to be set by `Flow.initialise`.

    One layer has a chain of its family, and so has each of several, of its own features. A guided family follows the
    gradient of ln p(x, z), which does not factorise over layers: there, one chain moves the variables of all of them.

    Arguments:
        spec: family, length K of each chain, and what the family leaves open.
        sizes: D_1, ..., D_L.
        features: F, of each layer's level of the inference network.

    Raises:
        SpecError, UserError, ValueError: as `make_flow` does.
    """
    family: FlowFamily = registry.find("flows", spec.family)
    if len(sizes) == 1 or (family.guided and spec.length):
        return make_flow(spec, sum(sizes), features * len(sizes))
    return LayeredFlow([make_flow(spec, size, features) for size in sizes])


class LayeredFlow(Flow):
    """L chains side by side, each on the variables of its own layer: z = (z_1, ..., z_L), Σ_l D_l = D.

    The Jacobian is block diagonal, so that ln|det| is the sum of those of the chains. The features are those of all
    layers side by side, (B, Σ_l F_l); the parameters, those of the first chain, then of the second, and so on.

    Arguments:
        chains: one a layer, of equal length.
    """

    def __init__(self, chains: Sequence[Flow]) -> None:
        super().__init__(
            sum(chain.latent for chain in chains), chains[0].length, sum(chain.features for chain in chains)
        )
        self.chains = torch.nn.ModuleList(chains)
        self._counts: list[int] | None = None

    def initialise(self, generator: Generators) -> None:
        """Set the weights of each chain; the first draws as it would alone, the l-th from parts `layer l ...`."""
        for layer, chain in enumerate(self._chains, start=1):
            chain.initialise(generator if layer == 1 else partial(_of_layer, generator, layer))

    def parameters_from(self, features: Tensor) -> tuple[Tensor, ...]:
        """Return the parameters of all chains, of features (B, Σ_l F_l)."""
        own = features.split([chain.features for chain in self._chains], dim=-1)
        parameters = (chain.parameters_from(each) for chain, each in zip(self._chains, own, strict=True))
        return tuple(parameter for each in parameters for parameter in each)

    def forward(self, z: Tensor, parameters: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Return z_K, (..., B, D), and the summed log-determinants in nats, (..., B)."""
        z_K, log_dets = self.by_layer(z, parameters)
        return z_K, log_dets.sum(-1)

    def by_layer(self, z: Tensor, parameters: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Return z_K, (..., B, D), and each layer's log-determinant in nats, (..., B, L)."""
        parts = [chain(own, numbers) for chain, own, numbers in self._parts(z, parameters)]
        ends, log_dets = zip(*parts, strict=True)
        return torch.cat(ends, dim=-1), torch.stack(log_dets, dim=-1)

    def for_samples(self, parameters: tuple[Tensor, ...]) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """Return what does the same by what each chain has for many samples."""
        own = zip(self._chains, self._split(parameters), strict=True)
        loops = [chain.for_samples(numbers) for chain, numbers in own]
        sizes = [chain.latent for chain in self._chains]

        def run(z: Tensor) -> tuple[Tensor, Tensor]:
            parts = [loop(part) for loop, part in zip(loops, z.split(sizes, dim=-1), strict=True)]
            ends, log_dets = zip(*parts, strict=True)
            return torch.cat(ends, dim=-1), torch.stack(log_dets, dim=-1).sum(-1)

        return run

    def inverse(self, z: Tensor, parameters: tuple[Tensor, ...]) -> Tensor:
        """Return z_0, (..., B, D), where the family has an inverse."""
        return torch.cat([chain.inverse(own, numbers) for chain, own, numbers in self._parts(z, parameters)], dim=-1)

    def nearest(self, parameters: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the parameters nearest to these that `parameters_from` may give."""
        own = zip(self._chains, self._split(parameters), strict=True)
        return tuple(parameter for chain, numbers in own for parameter in chain.nearest(numbers))

    @property
    def shows_steps(self) -> bool:
        """Whether the family has `first_steps`."""
        return all(chain.shows_steps for chain in self._chains)

    def first_steps(self, count: int, parameters: tuple[Tensor, ...]) -> tuple[Flow, tuple[Tensor, ...]]:
        """Return the first steps of every chain."""
        shorter = [
            chain.first_steps(count, own) for chain, own in zip(self._chains, self._split(parameters), strict=True)
        ]
        flow = LayeredFlow([chain for chain, _ in shorter])
        flow._counts = [len(own) for _, own in shorter]  # A family may give them in another form.
        return flow, tuple(parameter for _, own in shorter for parameter in own)

    @property
    def _chains(self) -> list[Flow]:
        return list(self.chains)  # type: ignore[arg-type]

    def _parts(self, z: Tensor, parameters: tuple[Tensor, ...]) -> list[tuple[Flow, Tensor, tuple[Tensor, ...]]]:
        """Return each chain with its variables and its parameters."""
        own = z.split([chain.latent for chain in self._chains], dim=-1)
        return list(zip(self._chains, own, self._split(parameters), strict=True))

    @torch.no_grad()
    def _split(self, parameters: tuple[Tensor, ...]) -> list[tuple[Tensor, ...]]:
        """Return the parameters of each chain; how many it has, features of no image tell."""
        if self._counts is None:
            empty = ((chain, next(chain.parameters(), torch.empty(0))) for chain in self._chains)
            self._counts = [len(chain.parameters_from(like.new_zeros(1, chain.features))) for chain, like in empty]
        ends = list(accumulate(self._counts))
        return [parameters[end - count : end] for end, count in zip(ends, self._counts, strict=True)]


def _of_layer(generator: Generators, layer: int, part: str) -> torch.Generator:
    return generator(f"layer {layer} {part}")
