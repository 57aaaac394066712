import hashlib
import math

import pytest
import torch
from pydantic import ValidationError

from nfstudy.flows import make_flow
from nfstudy.flows.coupling import count_passing
from nfstudy.flows.nice.flow import (
    NiceOrthFlow,
    NicePermFlow,
    invert_nice_flow,
    nice_flow,
    scale_variables,
)
from nfstudy.study.sections import FlowSpec


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def couplings(latent, length, hidden):
    first = latent // 2
    return (
        draw(length, hidden, first, seed=1),
        draw(length, hidden, seed=2),
        draw(length, latent - first, hidden, seed=3),
        draw(length, latent - first, seed=4),
    )


def test_one_step_has_the_values_worked_by_hand():
    # π = (2, 0, 1) takes z = (1, 2, 3) to (3, 1, 2); one unit: tanh(0·3 + atanh ½) = ½; shift (4, -2)·½ + (0, 10).
    double = {"dtype": torch.float64}
    z, log_det = nice_flow(
        torch.tensor([[1.0, 2.0, 3.0]], **double),
        mixing=torch.tensor([[2, 0, 1]]),
        w_in=torch.zeros(1, 1, 1, **double),
        b_in=torch.tensor([[0.5]], **double).atanh(),
        w_out=torch.tensor([[[4.0], [-2.0]]], **double),
        b_out=torch.tensor([[0.0, 10.0]], **double),
    )
    torch.testing.assert_close(z, torch.tensor([[3.0, 3.0, 11.0]], **double))
    assert log_det.tolist() == [0.0]


@pytest.mark.parametrize("latent", [2, 5, 40])
@pytest.mark.parametrize("family", [NicePermFlow, NiceOrthFlow], ids=["perm", "orth"])
def test_undoing_the_steps_by_hand_gives_z0_back(family, latent):
    z0, first = draw(6, latent), latent // 2
    mixing = torch.stack([family.draw_mixing(latent, torch.Generator().manual_seed(k)) for k in range(4)])
    w_in, b_in, w_out, b_out = couplings(latent, 4, hidden=3)
    z, _ = nice_flow(z0, mixing, w_in, b_in, w_out, b_out)
    assert not torch.allclose(z, z0)
    for k in reversed(range(4)):
        z_a = z[:, :first]
        shift = torch.tanh(z_a @ w_in[k].T + b_in[k]) @ w_out[k].T + b_out[k]
        z = torch.cat([z_a, z[:, first:] - shift], dim=1)
        z = z[:, mixing[k].argsort()] if mixing.dim() == 2 else torch.linalg.solve(mixing[k], z.T).T
    torch.testing.assert_close(z, z0)


def test_indices_mix_as_their_permutation_matrix_does():
    permutation = NicePermFlow.draw_mixing(5, torch.Generator().manual_seed(3))
    by_index = nice_flow(draw(6, 5), permutation[None], *couplings(5, 1, hidden=3))
    by_matrix = nice_flow(draw(6, 5), torch.eye(5, dtype=torch.float64)[permutation][None], *couplings(5, 1, hidden=3))
    torch.testing.assert_close(by_index, by_matrix)


def test_mixings_are_permutations_and_orthogonal_matrices():
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        assert NicePermFlow.draw_mixing(7, generator).sort().values.tolist() == list(range(7))
        q = NiceOrthFlow.draw_mixing(7, generator)
        torch.testing.assert_close(q @ q.T, torch.eye(7, dtype=torch.float64))


def test_orthogonal_mixings_are_haar_distributed():
    # Under Haar's measure each entry has mean 0 and mean square 1/D, and the trace mean square 1; LAPACK's own signs
    # would make the first diagonal entry negative always. 4 standard errors of 2000 draws.
    generator = torch.Generator().manual_seed(0)
    q = torch.stack([NiceOrthFlow.draw_mixing(3, generator) for _ in range(2000)])
    assert q.mean(0).abs().max() < 4 * (1 / 3 / 2000) ** 0.5
    torch.testing.assert_close(q.square().mean(0), torch.full((3, 3), 1 / 3, dtype=torch.float64), atol=0.03, rtol=0)
    traces = q.diagonal(dim1=-2, dim2=-1).sum(-1)
    assert traces.square().mean().item() == pytest.approx(1, abs=4 * traces.square().std().item() / 2000**0.5)


@pytest.mark.parametrize("family", [NicePermFlow, NiceOrthFlow], ids=["perm", "orth"])
def test_steps_start_with_mixings_and_hidden_units_of_their_own(family):
    flow = family(latent=40, length=3, features=3, coupling_hidden=50)
    flow.initialise(lambda name: torch.Generator().manual_seed(sum(name.encode())))
    for weights in (flow.mixing, flow.w_in, flow.w_out):
        assert len(weights.unique(dim=0)) == 3
    assert flow.w_in.std().item() == pytest.approx(20**-0.5, rel=4 / 6000**0.5)
    assert flow.w_out.abs().max() > 0
    assert not flow.b_out.any()


@pytest.mark.parametrize("family", [NicePermFlow, NiceOrthFlow], ids=["perm", "orth"])
def test_mixing_is_saved_but_never_learned(family):
    flow = family(latent=4, length=2, features=3, coupling_hidden=5)
    assert "mixing" in flow.state_dict()
    assert "mixing" not in dict(flow.named_parameters())


def test_one_latent_variable_cannot_be_split():
    with pytest.raises(ValueError, match=r"latent 1: .* at least 2"):
        NicePermFlow(latent=1, length=2, features=3, coupling_hidden=5)
    with pytest.raises(ValueError, match=r"latent 1: .* at least 2"):
        nice_flow(draw(6, 1), torch.zeros(1, 1, dtype=torch.long), *couplings(1, 1, hidden=3))


def test_the_inverse_of_one_step_by_hand():
    # The step of the first test: (3, 3, 11) less the shift (2, 9) is (3, 1, 2), which π took from (1, 2, 3).
    double = {"dtype": torch.float64}
    z = invert_nice_flow(
        torch.tensor([[3.0, 3.0, 11.0]], **double),
        mixing=torch.tensor([[2, 0, 1]]),
        w_in=torch.zeros(1, 1, 1, **double),
        b_in=torch.tensor([[0.5]], **double).atanh(),
        w_out=torch.tensor([[[4.0], [-2.0]]], **double),
        b_out=torch.tensor([[0.0, 10.0]], **double),
    )
    torch.testing.assert_close(z, torch.tensor([[1.0, 2.0, 3.0]], **double))


@pytest.mark.parametrize("family", ["nice-perm", "nice-orth"])
def test_a_coupling_that_is_not_amortised_is_shared_by_all_images(family):
    shared, amortised = (
        make_flow(FlowSpec(family=family, length=3, coupling_hidden=7, coupling_amortised=choice), 6, 16).double()
        for choice in (False, True)
    )
    for flow in (shared, amortised):
        flow.initialise(lambda name: torch.Generator().manual_seed(sum(name.encode())))
    features = draw(5, 16, seed=1)
    (b_in,) = shared.parameters_from(features)
    assert b_in.shape == (3, 7)
    assert len(b_in.flatten().unique()) == 21  # hidden units that bend at places of their own
    assert amortised.parameters_from(features)[0].shape == (5, 3, 7)
    assert shared.head.weight.numel() == 0
    for name in ("mixing", "w_in", "w_out"):
        assert torch.equal(getattr(shared, name), getattr(amortised, name))
    z_k, _ = shared(draw(2, 5, 6), shared.parameters_from(features))
    z_k.sin().sum().backward()
    assert shared.head.bias.grad.abs().min() > 0


def stream(name):
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big"))


def flow_of(latent, features=16, **choices):
    spec = FlowSpec(**{"family": "nice-perm", "length": 4, "coupling_hidden": 7, **choices})
    flow = make_flow(spec, latent, features).double()
    flow.initialise(stream)
    return flow


def test_two_hidden_layers_have_the_values_worked_by_hand():
    # z_A = 5; h_1 = tanh(0·5 + atanh(½, −½)) = (½, −½); W_2 h_1 = (½·3 − ½·1, ½·2 + ½·2) = (1, 2) and
    # b_2 = atanh(¼, ⅕) − (1, 2) make h_2 = (¼, ⅕); the shift is 4·¼ + 10·⅕ + 0.5 = 3.5.
    double = {"dtype": torch.float64}
    parameters = {
        "mixing": torch.tensor([[0, 1]]),
        "w_in": torch.zeros(1, 2, 1, **double),
        "b_in": torch.tensor([[0.5, -0.5]], **double).atanh(),
        "w_out": torch.tensor([[[4.0, 10.0]]], **double),
        "b_out": torch.tensor([[0.5]], **double),
        "w_hidden": (torch.tensor([[[3.0, 1.0], [2.0, -2.0]]], **double),),
        "b_hidden": (torch.tensor([[0.25, 0.2]], **double).atanh() - torch.tensor([[1.0, 2.0]], **double),),
    }
    z_0, z_1 = torch.tensor([[5.0, 7.0]], **double), torch.tensor([[5.0, 10.5]], **double)
    z, log_det = nice_flow(z_0, **parameters)
    torch.testing.assert_close(z, z_1)
    assert log_det.tolist() == [0.0]
    torch.testing.assert_close(invert_nice_flow(z_1, **parameters), z_0)


def test_parameters_of_different_numbers_of_steps_or_layers_are_refused():
    mixing, (w_in, b_in, w_out, b_out) = torch.stack([torch.arange(4)] * 2), couplings(4, 2, hidden=3)
    for wrong in (
        (mixing[:1], w_in, b_in, w_out, b_out),
        (mixing, w_in, b_in[:1], w_out, b_out),
        (mixing, w_in, b_in, w_out, b_out, (draw(2, 3, 3),), ()),
        (mixing, w_in, b_in, w_out, b_out, (draw(3, 3, 3),), (draw(3, 3),)),
    ):
        with pytest.raises(ValueError, match=r"zip\(\) argument"):
            nice_flow(draw(6, 4), *wrong)
        with pytest.raises(ValueError, match=r"zip\(\) argument"):
            invert_nice_flow(draw(6, 4), *wrong)


def test_the_hidden_layers_start_full_sized_and_add_to_the_chain_without_moving_it():
    shallow = flow_of(40, coupling_hidden=50)
    deep = flow_of(40, coupling_hidden=50, coupling_layers=3)
    assert [tuple(weights.shape) for weights in deep.w_hidden] == [(4, 50, 50)] * 2
    for weights in deep.w_hidden:
        assert len(weights.unique(dim=0)) == 4
        assert weights.std().item() == pytest.approx(50**-0.5, rel=4 / math.sqrt(2 * weights.numel()))
    assert not torch.equal(*deep.w_hidden)
    assert not any(bias.any() for bias in deep.b_hidden)
    for name, weights in shallow.state_dict().items():
        assert torch.equal(deep.state_dict()[name], weights), name


def test_scaling_by_hand():
    z, log_det = scale_variables(torch.tensor([[3.0, 5.0]]), torch.tensor([2.0, 0.25]).log())
    torch.testing.assert_close(z, torch.tensor([[6.0, 1.25]]))
    torch.testing.assert_close(log_det, torch.tensor([-math.log(2)]))


@pytest.mark.parametrize("features", [0, 16])
@pytest.mark.parametrize("family", ["nice-perm", "nice-orth"])
def test_the_log_det_of_a_scaled_chain_is_that_of_autograd_and_the_inverse_undoes_it(family, features):
    flow = flow_of(5, features, family=family, coupling_layers=2, coupling_scaling=True)
    assert not flow.log_scale.any()
    with torch.no_grad():
        flow.log_scale.copy_(torch.tensor([0.7, -1.2, 0.1, 2.0, -0.3]))
        flow.w_out.mul_(1000)
    z, parameters = draw(3, 6, 5), flow.parameters_from(draw(6, features, seed=1) if features else draw(0))
    z_k, log_det = flow(z, parameters)
    torch.testing.assert_close(log_det, torch.full((3, 6), 1.3, dtype=torch.float64))
    jacobian = torch.autograd.functional.jacobian(lambda rows: flow(rows, parameters)[0].sum((0, 1)), z)
    torch.testing.assert_close(log_det, torch.linalg.slogdet(jacobian.permute(1, 2, 0, 3)).logabsdet)
    torch.testing.assert_close(flow.inverse(z_k, parameters), z)


def test_scaling_comes_last():
    plain, scaled = flow_of(5), flow_of(5, coupling_scaling=True)
    with torch.no_grad():
        scaled.log_scale.copy_(draw(5, seed=3))
    z, parameters = draw(6, 5), plain.parameters_from(draw(6, 16, seed=1))
    torch.testing.assert_close(scaled(z, parameters)[0], plain(z, parameters)[0] * draw(5, seed=3).exp())


def test_initialising_again_undoes_what_was_learned():
    flow = flow_of(5, coupling_layers=2, coupling_scaling=True)
    before = {name: weights.clone() for name, weights in flow.state_dict().items()}
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(1)
    flow.initialise(stream)
    for name, weights in flow.state_dict().items():
        assert torch.equal(weights, before[name]), name


@pytest.mark.parametrize(
    ("latent", "share", "first"),
    [
        (2, 0.5, 1),
        (5, 0.5, 2),
        (40, 0.5, 20),
        (40, 0.33, 13),
        (100, 0.29, 29),  # 28.999999999999996 in floating point
        (2, 0.01, 1),
        (2, 0.99, 1),
        (40, 1e-9, 1),
        (40, 0.999, 39),
    ],
)
def test_the_split_has_the_rounded_share_and_a_variable_on_each_side(latent, share, first):
    assert count_passing(latent, share) == first
    flow = flow_of(latent, length=1, coupling_pass=share)
    assert flow.w_in.shape == (1, 7, first)
    assert flow.w_out.shape == (1, latent - first, 7)
    z, parameters = draw(6, latent), flow.parameters_from(draw(6, 16, seed=1))
    unchanged = (flow(z, parameters)[0] == z[:, flow.mixing[0]]).all(0)
    assert unchanged.tolist() == [True] * first + [False] * (latent - first)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, math.nan])
def test_a_share_that_leaves_a_side_empty_is_refused(share):
    with pytest.raises(ValidationError, match="coupling_pass"):
        FlowSpec(family="nice-perm", length=1, coupling_pass=share)


@pytest.mark.parametrize(
    ("family", "features", "total"),
    [
        ("nice-perm", 0, -5.13963932171464),
        ("nice-perm", 16, 15.033213051036),
        ("nice-orth", 0, -5.594649440608919),
        ("nice-orth", 16, 15.176243372261524),
    ],
)
def test_the_defaults_give_the_numbers_of_one_hidden_layer_half_split_and_no_scaling(family, features, total):
    """Recorded before depth, split and scaling had settings; whoever moves them raises KEY_VERSION."""
    spec = FlowSpec(family=family, length=4, coupling_hidden=7)
    flow = make_flow(spec, 5, features)
    flow.initialise(stream)
    assert set(flow.state_dict()) == {"w_in", "w_out", "b_out", "mixing", "head.weight", "head.bias"}
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(6, features, generator=generator) if features else torch.empty(0)
    z_k, log_det = flow(torch.randn(3, 6, 5, generator=generator), flow.parameters_from(images))
    # Other processors may round otherwise, by far less than this.
    assert z_k.double().sum().item() == pytest.approx(total, abs=1e-4)
    assert not log_det.any()
