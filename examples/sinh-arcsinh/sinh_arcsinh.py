"""A flow family from outside: sinh-arcsinh steps (Jones & Pewsey 2009), which skew each variable and bend its tails."""

from nfstudy import FlowFamily, Record


class SinhArcsinhSettings(Record):
    """What a study may set of it."""

    sinh_amortised: bool = True
    """Whether the image chooses skew and tails, or all images share them."""


def implementation() -> type:
    """Import torch, which studies and reports do without, and return the class."""
    import torch
    from torch import Tensor

    from nfstudy.flows.base import Flow, Generators, StepHead, require_steps

    class SinhArcsinhFlow(Flow):
        """K steps z_i ← sinh(exp(t_i) asinh(z_i) + e_i), t within ±1: 2 K D numbers an image, from one linear head."""

        def __init__(self, latent: int, length: int, features: int, sinh_amortised: bool) -> None:
            require_steps(length)
            super().__init__(latent, length, features)
            self.head = StepHead(features if sinh_amortised else 0, length, 2 * latent)

        def initialise(self, generator: Generators) -> None:
            """Start each step near the identity, t = e = 0."""
            for step in range(1, self.length + 1):
                self.head.initialise_step(step, torch.zeros(2 * self.latent), 1e-3, generator(f"step {step}"))

        def parameters_from(self, features: Tensor) -> tuple[Tensor, ...]:
            """Return t and e of all steps, each (B, K, D), of features (B, F)."""
            tails, skew = self.head(features if self.head.in_features else features.new_empty(0)).chunk(2, dim=-1)
            return tails.tanh(), skew

        def forward(self, z: Tensor, parameters: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
            """Return z_K (..., B, D) and the summed ln|det| (..., B), with ∂z'/∂z = exp(t) cosh(·)/√(1 + z²)."""
            tails, skew = parameters
            log_det = z.new_zeros(z.shape[:-1])
            for step in range(self.length):
                t, e = tails[..., step, :], skew[..., step, :]
                x = t.exp() * z.asinh() + e
                log_det = log_det + (t + x.cosh().log() - 0.5 * z.square().log1p()).sum(-1)
                z = x.sinh()
            return z, log_det

        def inverse(self, z: Tensor, parameters: tuple[Tensor, ...]) -> Tensor:
            """Return z_0, from the last step to the first."""
            tails, skew = parameters
            for step in reversed(range(self.length)):
                z = ((z.asinh() - skew[..., step, :]) * (-tails[..., step, :]).exp()).sinh()
            return z

    return SinhArcsinhFlow


SINH_ARCSINH = FlowFamily(
    name="sinh-arcsinh",
    label="sinh-arcsinh",
    implementation=implementation,
    settings=SinhArcsinhSettings,
    matrix_biases=False,
    examples=({}, {"sinh_amortised": False}),
)
