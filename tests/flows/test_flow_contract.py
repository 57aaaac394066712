"""What every family owes its users, one body for all of them."""

import dataclasses
import hashlib
import math

import pytest
import torch

from nfstudy.core import registry
from nfstudy.core.errors import SpecError
from nfstudy.flows import family_settings, load_flow, make_flow
from nfstudy.flows.base import NoFlow, log_nonnegative, log_softplus, softplus
from nfstudy.flows.contract import ContractError, check_family
from nfstudy.flows.coupling import count_passing
from nfstudy.flows.full_covariance.flow import full_covariance, invert_full_covariance
from nfstudy.flows.glow.flow import glow_flow, invert_glow_flow
from nfstudy.flows.householder.flow import householder_flow, invert_householder_flow
from nfstudy.flows.iaf.flow import iaf_flow, invert_iaf_flow
from nfstudy.flows.langevin.flow import LangevinFlow
from nfstudy.flows.nice.flow import NiceOrthFlow, NicePermFlow, invert_nice_flow, nice_flow
from nfstudy.flows.planar.flow import PlanarFlow, invert_planar_flow, planar_flow
from nfstudy.flows.radial.flow import invert_radial_flow, radial_flow
from nfstudy.flows.realnvp.flow import invert_realnvp_flow, realnvp_flow
from nfstudy.flows.spline.flow import invert_spline_flow, spline_flow
from nfstudy.flows.sylvester.flow import invert_sylvester_flow, sylvester_flow
from nfstudy.study.sections import FlowSpec
from nfstudy.study.settings import Settings

FLOWS = {name: family for name, family in registry.all_of("flows").items() if not family.guided}
FAMILIES = [family for family in FLOWS if family != "none"]
CHOICES = {
    "nice-deep": {"family": "nice-perm", "coupling_layers": 2, "coupling_pass": 0.3, "coupling_scaling": True},
    "iaf-deep": {"family": "iaf", "autoregressive_layers": 2},
    "sylvester-one": {"family": "sylvester", "sylvester_columns": 1},
}
CHAINS = [*FAMILIES, *CHOICES]
"""The families at their defaults, and at other choices."""
OF_STEPS = [family for family in CHAINS if family != "full-covariance"]
"""Those whose K steps are more than one."""
MIXING = ("nice", "householder", "realnvp", "glow", "spline")
"""Families that start at the identity up to a rotation or reflection."""


def with_two_layers(function):
    """A pure function of NICE or IAF with a second hidden layer as two more tensors, as all other parameters are."""
    return lambda *arguments: function(*arguments[:-2], *((argument,) for argument in arguments[-2:]))


def bounded(function):
    """A pure function of couplings whose second argument is a bound, with that of 2."""
    return lambda z, *arguments: function(z, 2.0, *arguments)


PURE = {
    "householder": householder_flow,
    "full-covariance": full_covariance,
    "realnvp": bounded(realnvp_flow),
    "glow": bounded(glow_flow),
    "spline": bounded(spline_flow),
    "planar": planar_flow,
    "radial": radial_flow,
    "nice-perm": nice_flow,
    "nice-orth": nice_flow,
    "nice-deep": with_two_layers(nice_flow),
    "iaf": iaf_flow,
    "iaf-deep": with_two_layers(iaf_flow),
    "sylvester": sylvester_flow,
    "sylvester-one": sylvester_flow,
}
INVERSE = {
    "householder": invert_householder_flow,
    "full-covariance": invert_full_covariance,
    "realnvp": bounded(invert_realnvp_flow),
    "glow": bounded(invert_glow_flow),
    "spline": bounded(invert_spline_flow),
    "planar": invert_planar_flow,
    "radial": invert_radial_flow,
    "nice-perm": invert_nice_flow,
    "nice-orth": invert_nice_flow,
    "nice-deep": with_two_layers(invert_nice_flow),
    "iaf": invert_iaf_flow,
    "iaf-deep": with_two_layers(invert_iaf_flow),
    "sylvester": invert_sylvester_flow,
    "sylvester-one": invert_sylvester_flow,
}
FEATURES = 16


def generator(name):
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big"))


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def flow_of(family, latent=5, length=4, features=FEATURES):
    choices = CHOICES.get(family, {"family": family})
    spec = FlowSpec(length=length, coupling_hidden=7, autoregressive_hidden=7, **choices)
    flow = make_flow(spec, latent, features).double()
    flow.initialise(generator)
    return flow


def random_arguments(family, latent, length, scale, images=()):
    """All but z of a pure function: parameters (*images, K, ...) drawn from N(0, scale²)."""
    if family == "planar":
        shapes = [(latent,), (latent,), ()]
        return [scale * draw(*images, length, *shape, seed=seed) for seed, shape in enumerate(shapes, 1)]
    if family == "householder":
        return [scale * draw(*images, length, latent, seed=1)]
    if family == "full-covariance":
        # Below its diagonal, numbers so small that L is not as ill-conditioned as rounding is coarse.
        below = scale * draw(*images, latent * (latent - 1) // 2, seed=2) / latent
        return [0.3 * scale * draw(*images, latent, seed=1), below]
    if family == "radial":
        z0, alpha, beta = (
            scale * draw(*images, length, *shape, seed=seed) for seed, shape in enumerate([(latent,), (), ()], 1)
        )
        return [z0, softplus(alpha), beta]
    if family.startswith("sylvester"):
        columns = 1 if family == "sylvester-one" else min(latent, 3)
        shapes = [(latent, columns), (columns, columns), (columns,)]
        return [scale * draw(*images, length, *shape, seed=seed) for seed, shape in enumerate(shapes, 1)]
    if family.startswith("iaf"):
        return random_autoregression(family, latent, length, scale, images)
    if family in OUTPUTS:
        return random_coupling(family, latent, length, scale, images)
    draw_mixing = (NiceOrthFlow if family == "nice-orth" else NicePermFlow).draw_mixing
    mixing = torch.stack([draw_mixing(latent, generator(f"mixing {k}")) for k in range(length)])
    first, hidden = count_passing(latent, 0.3) if family == "nice-deep" else latent // 2, 6
    shapes = [
        (length, hidden, first),
        (*images, length, hidden),
        (length, latent - first, hidden),
        (length, latent - first),
        *([(length, hidden, hidden), (length, hidden)] if family == "nice-deep" else []),
    ]
    return [mixing, *(scale * draw(*shape, seed=seed) for seed, shape in enumerate(shapes, 1))]


def random_autoregression(family, latent, length, scale, images, hidden=6):
    """Those of IAF, its W_out so small that no gate closes so far that rounding hides what it lets through."""
    order = torch.stack([torch.randperm(latent, generator=generator(f"order {k}")) for k in range(length)])
    shapes = [
        (length, hidden, latent),
        (*images, length, hidden),
        (length, 2 * latent, hidden),
        (length, 2 * latent),
        *([(length, hidden, hidden), (length, hidden)] if family == "iaf-deep" else []),
    ]
    drawn = [scale * draw(*shape, seed=seed) for seed, shape in enumerate(shapes, 1)]
    drawn[2] *= 0.2
    drawn[3] *= 0.2
    return [order, *drawn]


OUTPUTS = {"realnvp": 2, "glow": 2, "spline": 11}
"""Numbers that a coupling network says of each variable; of a spline, those of four bins."""


def random_coupling(family, latent, length, scale, images, hidden=6):
    """Those of RealNVP, Glow and splines: what would make a chain as ill-conditioned as rounding is coarse is small."""
    order = torch.stack([torch.randperm(latent, generator=generator(f"order {k}")) for k in range(length)])
    first = latent // 2
    outputs = OUTPUTS[family] * (latent - first)
    shapes = [(length, hidden, first), (*images, length, hidden), (length, outputs, hidden), (length, outputs)]
    drawn = [scale * draw(*shape, seed=seed) for seed, shape in enumerate(shapes, 1)]
    drawn[2] *= 0.1
    drawn[3] *= 0.1
    if family != "glow":
        return [order, *drawn]
    linear = [0.1 * scale * draw(length, latent, seed=seed) for seed in (5, 6)]
    triangles = 0.1 * scale * draw(length, latent, latent, seed=7) / latent**0.5
    return [order, draw(length, latent, seed=8).sign(), triangles, *linear, *drawn]


def is_possible(family, latent):
    return latent >= 2 or not family.startswith(("nice", "iaf", *MIXING))


def jacobian_log_det(step, z):
    """ln|det ∂step(z)/∂z| of each row of z (B, D), for rows that do not mix."""
    jacobian = torch.autograd.functional.jacobian(lambda rows: step(rows)[0].sum(0), z)
    return torch.linalg.slogdet(jacobian.movedim(1, 0)).logabsdet


CASES = [
    pytest.param(family, latent, id=f"{family}-D{latent}")
    for family in CHAINS
    for latent in (1, 2, 5, 40)
    if is_possible(family, latent)
]


@pytest.mark.parametrize(("family", "latent"), CASES)
@pytest.mark.parametrize("images", [(), (6,)], ids=["shared", "amortised"])
@pytest.mark.parametrize("scale", [0.1, 3.0])
def test_log_det_is_that_of_autograd(family, latent, images, scale):
    arguments = random_arguments(family, latent, length=3, scale=scale, images=images)
    z = draw(6, latent)
    _, log_det = PURE[family](z, *arguments)
    expected = jacobian_log_det(lambda rows: PURE[family](rows, *arguments), z)
    torch.testing.assert_close(log_det, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("family", "latent"), CASES)
def test_log_det_of_the_initial_module_is_that_of_autograd(family, latent):
    flow = flow_of(family, latent)
    z, parameters = draw(6, latent), flow.parameters_from(draw(6, FEATURES, seed=1).abs())
    _, log_det = flow(z, parameters)
    torch.testing.assert_close(log_det, jacobian_log_det(lambda rows: flow(rows, parameters), z), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("family", "latent"), CASES)
@pytest.mark.parametrize("images", [(), (100,)], ids=["shared", "amortised"])
@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_the_inverse_undoes_the_chain_on_both_sides(family, latent, images, scale):
    arguments = random_arguments(family, latent, length=3, scale=scale, images=images)
    z = draw(100, latent, seed=9)
    flow, inverse = PURE[family], INVERSE[family]
    torch.testing.assert_close(inverse(flow(z, *arguments)[0], *arguments), z, rtol=0, atol=1e-9)
    torch.testing.assert_close(flow(inverse(z, *arguments), *arguments)[0], z, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("family", "latent"), [("none", 5), *CASES])
def test_the_inverse_of_the_initial_module_undoes_it(family, latent):
    flow = flow_of(family, latent)
    z, parameters = draw(2, 6, latent), flow.parameters_from(draw(6, FEATURES, seed=1).abs())
    z_k, _ = flow(z, parameters)
    torch.testing.assert_close(flow.inverse(z_k, parameters), z, rtol=0, atol=1e-9)


@pytest.mark.parametrize("family", CHAINS)
def test_the_inverse_keeps_the_type_and_has_no_gradient(family):
    flow = flow_of(family).float()
    z_0 = flow.inverse(draw(6, 5, dtype=torch.float32), flow.parameters_from(draw(6, FEATURES, dtype=torch.float32)))
    assert z_0.dtype is torch.float32
    assert not z_0.requires_grad


@pytest.mark.parametrize("family", CHAINS)
def test_the_density_by_the_inverse_integrates_to_one(family):
    """ln q_K(z) = ln q0(z_0) − Σ ln|det|, with z_0 from the inverse, over the plane by the midpoint rule."""
    arguments = random_arguments(family, latent=2, length=3, scale=1.0)
    # The density of a spline has a kink at every knot, and so needs a finer grid.
    side, cells = (14, 1200) if family == "spline" else (30, 400)
    axis = (torch.arange(cells, dtype=torch.float64) + 0.5) * (side / cells) - side / 2
    z = torch.cartesian_prod(axis, axis)
    z_0 = INVERSE[family](z, *arguments)
    _, log_det = PURE[family](z_0, *arguments)
    log_q = -0.5 * z_0.square().sum(-1) - math.log(2 * math.pi) - log_det
    assert log_q.exp().sum().item() * (side / cells) ** 2 == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("family", ["planar", "radial"])
def test_without_the_constraint_there_is_no_inverse(family):
    flow = make_flow(FlowSpec(family=family, length=4, constraint=False), 5, FEATURES)
    flow.initialise(generator)
    parameters = flow.parameters_from(draw(6, FEATURES, dtype=torch.float32))
    with pytest.raises(ValueError, match=f"constraint false: a {family} chain has an inverse only with it"):
        flow.inverse(draw(6, 5, dtype=torch.float32), parameters)


@pytest.mark.parametrize("family", OF_STEPS)
@pytest.mark.parametrize("images", [(), (6,)], ids=["shared", "amortised"])
def test_a_chain_is_its_steps_one_by_one(family, images):
    arguments = random_arguments(family, latent=5, length=4, scale=1.0, images=images)
    step_axis = {id(argument): 1 if argument.shape[:1] == images else 0 for argument in arguments}
    z, total = draw(6, 5), torch.zeros(6, dtype=torch.float64)
    whole = PURE[family](z, *arguments)
    for k in range(4):
        z, log_det = PURE[family](z, *(a.narrow(step_axis[id(a)], k, 1) for a in arguments))
        total = total + log_det
    torch.testing.assert_close(whole, (z, total))


@pytest.mark.parametrize("family", CHAINS)
@pytest.mark.parametrize("images", [(), (6,)], ids=["shared", "amortised"])
def test_leading_sample_axes_are_a_loop(family, images):
    arguments = random_arguments(family, latent=5, length=4, scale=1.0, images=images)
    z = draw(2, 3, 6, 5)
    z_k, log_det = PURE[family](z, *arguments)
    assert log_det.shape == (2, 3, 6)
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close((z_k[i, j], log_det[i, j]), PURE[family](z[i, j], *arguments))


@pytest.mark.parametrize("family", CHAINS)
def test_images_have_parameters_of_their_own(family):
    arguments = random_arguments(family, latent=5, length=4, scale=1.0, images=(6,))
    z = draw(6, 5)
    z_k, log_det = PURE[family](z, *arguments)
    one = [argument[2] if argument.shape[0] == 6 else argument for argument in arguments]
    torch.testing.assert_close((z_k[2:3], log_det[2:3]), PURE[family](z[2:3], *one))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("length", [1, 2, 5])
@pytest.mark.parametrize("family", CHAINS)
def test_without_gradients_the_numbers_are_the_same_bits(family, length, dtype):
    flow = flow_of(family, latent=6, length=length).to(dtype)
    parameters = flow.parameters_from(3 * draw(37, FEATURES).to(dtype))
    z = draw(3, 37, 6, seed=1).to(dtype).requires_grad_()
    with_gradients = flow(z, parameters)
    assert with_gradients[0].requires_grad
    with torch.no_grad():
        without = flow(z, parameters)
    for kept, dropped in zip(with_gradients, without, strict=True):
        assert torch.isfinite(kept).all()
        assert torch.equal(kept, dropped)


@pytest.mark.parametrize("family", CHAINS)
def test_gradient_reaches_every_parameter(family):
    flow = flow_of(family)
    z_k, log_det = flow(draw(6, 5), flow.parameters_from(draw(6, FEATURES, seed=1)))
    (z_k.sin().sum() + log_det.sum()).backward()
    for name, parameter in flow.named_parameters():
        # Every image moves every number of a step: no row of any weight is left without gradient.
        assert parameter.grad.reshape(len(parameter), -1).abs().amax(1).min() > 0, name


@pytest.mark.parametrize("family", CHAINS)
@pytest.mark.parametrize("length", [10, 80])
def test_the_start_is_near_the_identity(family, length):
    flow, latent, features = flow_of(family, latent=40, length=length, features=400), 40, 400
    z = draw(100, latent)
    z_k, log_det = flow(z, flow.parameters_from(draw(100, features, seed=1).abs()))
    assert log_det.abs().max() < 0.2
    if not family.startswith(MIXING):
        assert (z_k - z).norm(dim=1).max() < 0.2
    else:
        torch.testing.assert_close(z_k.norm(dim=1), z.norm(dim=1), rtol=0, atol=0.2)


@pytest.mark.parametrize("family", CHAINS)
def test_a_longer_chain_begins_with_the_same_steps(family):
    short, long = flow_of(family, length=3).state_dict(), flow_of(family, length=5).state_dict()
    for name, weights in short.items():
        assert torch.equal(long[name][: len(weights)], weights), name


@pytest.mark.parametrize("family", OF_STEPS)
def test_steps_and_seeds_differ(family):
    flow, again, other = flow_of(family), flow_of(family), flow_of(family)
    other.initialise(lambda name: generator("other " + name))
    for (name, weights), same, different in zip(
        flow.head.named_parameters(), again.head.parameters(), other.head.parameters(), strict=True
    ):
        assert torch.equal(weights, same)
        if name == "weight":
            assert not torch.equal(weights, different)
            assert len(weights.unflatten(0, (4, -1)).unique(dim=0)) == 4


@pytest.mark.parametrize("family", CHAINS)
def test_initialising_leaves_the_global_generator_alone(family):
    flow = flow_of(family)
    before = torch.get_rng_state()
    flow.initialise(generator)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("family", list(FLOWS))
def test_length_zero_is_no_flow(family):
    flow = make_flow(FlowSpec(family=family, length=0), 5, FEATURES)
    assert isinstance(flow, NoFlow)
    assert list(flow.parameters()) == []
    z = draw(2, 6, 5)
    z_k, log_det = flow(z, flow.parameters_from(draw(6, FEATURES)))
    assert torch.equal(z_k, z)
    assert torch.equal(log_det, torch.zeros(2, 6, dtype=torch.float64))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_chain_without_steps_is_refused(family):
    extra = family_settings(FLOWS[family], FlowSpec(family=family, length=1))
    with pytest.raises(ValueError, match="length 0: expected: at least 1"):
        load_flow(FLOWS[family])(latent=5, length=0, features=FEATURES, **extra)


def test_an_unknown_family_is_refused():
    spec = FlowSpec.model_construct(family="spiral", length=2, coupling_hidden=7)
    with pytest.raises(
        SpecError,
        match="got 'spiral'; expected: none, full-covariance, glow, hamiltonian, householder, iaf, langevin",
    ):
        make_flow(spec, 5, FEATURES)


# ln(1 + eˣ) and its logarithm with mpmath.
@pytest.mark.parametrize(
    ("x", "value", "logarithm"),
    [
        (-1000, 0, -1000),
        (-45, 2.8625185805493937e-20, -45),
        (-15, 3.0590227371372049e-7, -15.000000152951141),
        (-5, 0.0067153484891180686, -5.0033595532399083),
        (0, 0.69314718055994531, -0.36651292058166433),
        (25, 25.000000000013888, 3.2188758248687561),
        (1000, 1000, 6.9077552789821371),
    ],
)
def test_softplus_and_its_logarithm(x, value, logarithm):
    x = torch.tensor([x], dtype=torch.float64, requires_grad=True)
    assert softplus(x).item() == pytest.approx(value, rel=1e-15)
    assert log_softplus(x).item() == pytest.approx(logarithm, rel=1e-15)
    assert torch.autograd.gradcheck(log_softplus, x)


def test_the_logarithm_of_zero_adds_nothing_and_has_gradient_zero():
    x = torch.tensor([0.0, 0.5], requires_grad=True)
    total = torch.logaddexp(log_nonnegative(x), torch.zeros(2))
    assert total.tolist() == pytest.approx([0, math.log(1.5)])
    total.sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([0.0, 1 / 1.5]))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("samples", "images"), [(0, 3), (2, 0)], ids=["no samples", "no images"])
def test_nothing_comes_back_as_nothing(family, samples, images):
    flow = flow_of(family)
    features = draw(images, FEATURES, dtype=next(flow.parameters()).dtype)
    z = torch.zeros(samples, images, 5, dtype=features.dtype, requires_grad=True)
    parameters = flow.parameters_from(features)
    z_K, log_det = flow(z, parameters)
    assert (z_K.shape, log_det.shape) == (z.shape, z.shape[:-1])
    (z_K.sum() + log_det.sum()).backward()
    assert flow.inverse(z.detach(), parameters).shape == z.shape


@pytest.mark.parametrize("features", [0, 5])
@pytest.mark.parametrize(
    "family",
    ["planar", "radial", "nice-perm", "nice-orth", "iaf", "sylvester", "householder", "realnvp", "glow", "spline"],
)
def test_the_first_steps_of_a_chain_are_a_shorter_chain(family, features):
    def generator(part):
        return torch.Generator().manual_seed(sum(part.encode()))

    long, short = (
        make_flow(FlowSpec.model_validate({"family": family, "length": length}), 4, features).double()
        for length in (5, 2)
    )
    for flow in (long, short):
        flow.initialise(generator)
    stream = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for ours, theirs in zip(long.parameters(), short.parameters(), strict=True):
            ours += 0.3 * torch.randn(ours.shape, generator=stream, dtype=torch.float64)
            theirs.copy_(ours[: len(theirs)])  # Each has a row a step, or several.
    h = torch.randn((3, features) if features else 0, generator=stream, dtype=torch.float64)
    z = torch.randn(2, 3, 4, generator=stream, dtype=torch.float64)
    with torch.no_grad():
        first, parameters = long.first_steps(2, long.parameters_from(h))
        found, expected = first(z, parameters), short(z, short.parameters_from(h))
        whole, _ = long(z, long.parameters_from(h))
        back = first.inverse(found[0], parameters)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(back, z, rtol=1e-9, atol=1e-9)
    assert not torch.equal(whole, found[0])


def test_a_nice_chain_is_scaled_at_its_end_alone():
    spec = FlowSpec.model_validate({"family": "nice-perm", "length": 3, "coupling_scaling": True})
    flow = make_flow(spec, 2, 0).double()
    flow.initialise(lambda part: torch.Generator().manual_seed(1))
    with torch.no_grad():
        flow.log_scale.fill_(1.0)
        first, parameters = flow.first_steps(2, flow.parameters_from(torch.empty(0, dtype=torch.float64)))
        assert first(torch.ones(4, 2, dtype=torch.float64), parameters)[1].tolist() == [0.0] * 4
    assert flow.log_scale is not None
    assert flow.w_in.shape[0] == 3


def test_first_steps_that_are_others_are_told():
    class Wrong(PlanarFlow):
        def forward(self, z, parameters):
            z, log_det = super().forward(z, parameters)
            return z, log_det + (parameters[0].shape[-2] < self.length)

    with pytest.raises(ContractError, match="first_steps: log-determinant"):
        check_family(dataclasses.replace(registry.find("flows", "planar"), implementation=lambda: Wrong))


MIXED = {
    "standardised": lambda features: (features - features.mean(0)) / (0.1 + features.std(0, correction=0)),
    "of those before": lambda features: features.cumsum(0),
    "of the number of images": lambda features: features * len(features),
}


@pytest.mark.parametrize("mixed", MIXED)
@pytest.mark.parametrize(("name", "family"), [("planar", PlanarFlow), ("langevin", LangevinFlow)])
def test_parameters_that_depend_on_the_other_images_are_told(name, family, mixed):
    class Wrong(family):
        def parameters_from(self, features):
            return super().parameters_from(MIXED[mixed](features) if features.dim() == 2 else features)

    with pytest.raises(ContractError, match=r"F = 5, .*: image \d: got other numbers without the other images of its"):
        check_family(dataclasses.replace(registry.find("flows", name), implementation=lambda: Wrong))


def turned(run):
    """Return what gives z_K and log-determinants as `run` does, with other signs of these in float32 alone."""

    def other(z, *arguments):
        z_K, log_det = run(z, *arguments)
        return z_K, -log_det if z.dtype == torch.float32 else log_det

    return other


class TurnedForward(PlanarFlow):
    def forward(self, z, parameters):
        return turned(super().forward)(z, parameters)


class TurnedForSamples(PlanarFlow):
    def for_samples(self, parameters):
        return turned(super().for_samples(parameters))


class TurnedGuided(LangevinFlow):
    def guided(self, z, *arguments):
        return turned(super().guided)(z, *arguments)


@pytest.mark.parametrize(
    ("name", "family", "way"),
    [
        ("planar", TurnedForward, ""),
        ("planar", TurnedForSamples, "for_samples: "),
        ("langevin", TurnedGuided, ""),
    ],
)
def test_a_wrong_way_that_only_float32_takes_is_told(name, family, way):
    words = rf"float32: {way}got numbers \d\S* from those in float64; expected: within 0.001"
    with pytest.raises(ContractError, match=words):
        check_family(dataclasses.replace(registry.find("flows", name), implementation=lambda: family))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (lambda log_det: log_det.double(), r"got torch.float64 of float32 z_0; expected: torch.float32"),
        (lambda log_det: log_det / 0, "non-finite numbers; expected: finite ones"),
    ],
)
def test_numbers_of_many_samples_are_finite_and_of_float32(changed, words):
    class Wrong(PlanarFlow):
        def for_samples(self, parameters):
            run = super().for_samples(parameters)

            def other(z):
                z_K, log_det = run(z)
                return z_K, changed(log_det) if z.dtype == torch.float32 else log_det

            return other

    with pytest.raises(ContractError, match=f"float32: for_samples: {words}"):
        check_family(dataclasses.replace(registry.find("flows", "planar"), implementation=lambda: Wrong))


@pytest.mark.parametrize("name", ["planar", "langevin"])
def test_families_that_are_right_keep_the_contract(name):
    assert check_family(registry.find("flows", name)) == 16


class ListOfParameters(PlanarFlow):
    def parameters_from(self, features):
        return list(super().parameters_from(features))

    def forward(self, z, parameters):
        return super().forward(z, tuple(parameters))


class ThreeAxes(PlanarFlow):
    def forward(self, z, parameters):
        _, _, _ = z.shape
        return super().forward(z, parameters)


class OneSample(PlanarFlow):
    def forward(self, z, parameters):
        z_K, log_det = super().forward(z, parameters)
        return z_K, log_det + (z.dim() == 2)


@pytest.mark.parametrize(
    ("family", "words"),
    [
        (ListOfParameters, "parameters_from: got list; expected: a tuple of tensors"),
        (ThreeAxes, "ValueError: not enough values to unpack"),
        (OneSample, r"of z_0 \(B, D\): gives other numbers; expected: those of \(S, B, D\)"),
    ],
)
def test_what_training_and_exhibits_ask_beyond_the_formula_is_told(family, words):
    with pytest.raises(ContractError, match=words):
        check_family(dataclasses.replace(registry.find("flows", "planar"), implementation=lambda: family))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"inverse_needs": {"constriant": True}},
            "flows x: inverse_needs: got 'constriant'; expected: of its settings",
        ),
        ({"guided": True}, "flows x: inverse: got True with guided; expected: False"),
    ],
)
def test_a_declaration_that_contradicts_itself_is_none(changes, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(registry.find("flows", "planar"), name="x", **changes)


def test_a_family_of_three_variables_is_not_for_the_plane(monkeypatch):
    planar = registry.find("flows", "planar")
    declared = registry._declared["flows"]
    monkeypatch.setitem(
        declared,
        "wide",
        (dataclasses.replace(planar, name="wide", least_latent=3, inverse_needs={}), registry.BUILT_IN),
    )
    with pytest.raises(ValueError, match=r"flow\.family: got wide; expected: one of two variables"):
        Settings.model_validate({"energy": {"name": "u1"}, "flow": {"family": "wide", "length": 2}})
    with pytest.raises(ValueError, match=r"flow\.family: got wide; expected: one of two variables"):
        Settings.model_validate({"drawn": {"density": "normal"}, "flow": {"family": "wide", "length": 2}})
