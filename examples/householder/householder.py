"""A flow family from outside: K Householder reflections (Tomczak & Welling 2016), each z ← z − 2 v (vᵀz) / ‖v‖²."""

from nfstudy import FlowFamily, Record


class HouseholderSettings(Record):
    """What a study may set of it."""

    householder_amortised: bool = True
    """Whether the image chooses the vectors, as in the paper, or all images share them."""


def implementation() -> type:
    """Import torch, which studies and reports do without, and return the class."""
    import torch
    from torch import Tensor

    from nfstudy.flows.base import Flow, Generators, StepHead

    class HouseholderFlow(Flow):
        """K reflections whose vectors v come from one linear head: K D numbers an image. They keep volumes."""

        def __init__(self, latent: int, length: int, features: int, householder_amortised: bool) -> None:
            super().__init__(latent, length, features)
            self.head = StepHead(features if householder_amortised else 0, length, latent)

        def initialise(self, generator: Generators) -> None:
            """Start each step at a reflection in a random direction."""
            for step in range(1, self.length + 1):
                stream = generator(f"step {step}")
                v = torch.randn(self.latent, generator=stream, dtype=torch.float64)
                self.head.initialise_step(step, v / v.norm(), 1e-3, stream)

        def parameters_from(self, features: Tensor) -> tuple[Tensor, ...]:
            """Return the vectors v of all steps, (B, K, D), of features (B, F)."""
            return (self.head(features if self.head.in_features else features.new_empty(0)),)

        def forward(self, z: Tensor, parameters: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
            """Return z_K (..., B, D) and ln|det| = 0 (..., B)."""
            (v,) = parameters
            for step in range(self.length):
                z = reflect(z, v[..., step, :])
            return z, z.new_zeros(z.shape[:-1])

        def inverse(self, z: Tensor, parameters: tuple[Tensor, ...]) -> Tensor:
            """Return z_0: each reflection undoes itself."""
            (v,) = parameters
            for step in reversed(range(self.length)):
                z = reflect(z, v[..., step, :])
            return z

    def reflect(z: Tensor, v: Tensor) -> Tensor:
        return z - 2 * v * ((v * z).sum(-1, keepdim=True) / v.square().sum(-1, keepdim=True))

    return HouseholderFlow


HOUSEHOLDER = FlowFamily(
    name="householder",
    label="Householder",
    implementation=implementation,
    settings=HouseholderSettings,
    least_latent=2,
    why_least="turns space, and a line has no room for that",
    examples=({}, {"householder_amortised": False}),
)
