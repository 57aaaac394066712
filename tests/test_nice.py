import pytest
import torch

from nfstudy.flows.nice import NiceOrthFlow, NicePermFlow, nice_flow


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
    flow = family(latent=40, length=3, features=3, hidden=50)
    flow.initialise(lambda name: torch.Generator().manual_seed(sum(name.encode())))
    for weights in (flow.mixing, flow.w_in, flow.w_out):
        assert len(weights.unique(dim=0)) == 3
    assert flow.w_in.std().item() == pytest.approx(20**-0.5, rel=4 / 6000**0.5)
    assert flow.w_out.abs().max() > 0
    assert not flow.b_out.any()


@pytest.mark.parametrize("family", [NicePermFlow, NiceOrthFlow], ids=["perm", "orth"])
def test_mixing_is_saved_but_never_learned(family):
    flow = family(latent=4, length=2, features=3, hidden=5)
    assert "mixing" in flow.state_dict()
    assert "mixing" not in dict(flow.named_parameters())


def test_one_latent_variable_cannot_be_split():
    with pytest.raises(ValueError, match=r"latent 1: .* at least 2"):
        NicePermFlow(latent=1, length=2, features=3, hidden=5)
    with pytest.raises(ValueError, match=r"latent 1: .* at least 2"):
        nice_flow(draw(6, 1), torch.zeros(1, 1, dtype=torch.long), *couplings(1, 1, hidden=3))
