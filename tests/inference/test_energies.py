import math

import pytest
import torch
from scipy.integrate import dblquad

from nfstudy.inference.problems.energies import WINDOW, energy, log_density, log_normaliser, window_grid
from nfstudy.study.sections import EnergySpec

WIDTHS = {"u2": 0.4, "u3": 0.35 + 0.35, "u4": 0.4 + 0.35}


def at(name, z1, z2):
    return energy(name, torch.tensor([z1, z2], dtype=torch.float64)).item()


def test_u1_by_hand():
    # On the ring at z = (2, 0): ½·0² − ln(1 + exp(−½ (4/0.6)²)).
    assert at("u1", 2.0, 0.0) == pytest.approx(-math.log1p(math.exp(-0.5 * (4 / 0.6) ** 2)), abs=1e-15)
    # At the top of the ring: both bumps are exp(−½ (2/0.6)²).
    assert at("u1", 0.0, 2.0) == pytest.approx(0.5 * (2 / 0.6) ** 2 - math.log(2))
    assert at("u1", 0.0, 3.0) == pytest.approx(0.5 * (1 / 0.4) ** 2 + 0.5 * (2 / 0.6) ** 2 - math.log(2))


def test_u2_by_hand():
    assert at("u2", 1.0, 1.0) == 0.0  # w1(1) = sin(π/2) = 1
    assert at("u2", 3.0, 0.2) == pytest.approx(0.5 * (1.2 / 0.4) ** 2)  # w1(3) = −1


def test_u3_by_hand():
    # At z1 = 1, w1 = 1 and w2 = 3: the branches are at z2 = 1 and at z2 = −2.
    other = math.exp(-0.5 * (3 / 0.35) ** 2)
    assert at("u3", 1.0, 1.0) == pytest.approx(-math.log1p(other), abs=1e-12)
    assert at("u3", 1.0, -2.0) == pytest.approx(-math.log1p(other), abs=1e-12)
    assert at("u3", -2.0, 0.35) == pytest.approx(
        -math.log(math.exp(-0.5) + math.exp(-0.5 * ((0.35 + 3 * math.exp(-12.5)) / 0.35) ** 2))
    )


def test_u4_by_hand_has_w3_to_the_power_one():
    # At z1 = 1, w1 = 1 and w3 = 3 σ(0) = 1.5 (to the fourth power, it would be 0.19): branches at 1 and at −0.5.
    far = 1.5
    assert at("u4", 1.0, -0.5) == pytest.approx(-math.log(math.exp(-0.5 * (far / 0.4) ** 2) + 1))
    assert at("u4", 1.0, 1.0) == pytest.approx(-math.log(1 + math.exp(-0.5 * (far / 0.35) ** 2)))
    # The branch of width 0.35 is the moved one.
    assert at("u4", 1.0, -0.5 - 0.35) == pytest.approx(0.5, abs=1e-3)


def test_an_unknown_energy_is_refused():
    with pytest.raises(ValueError, match="energy u5: expected: u1"):
        energy("u5", torch.zeros(2))


@pytest.mark.parametrize("name", ["u1", "u2", "u3", "u4"])
def test_energies_are_finite_with_finite_gradients_far_out_in_float32(name):
    z = (torch.randn(500, 2, generator=torch.Generator().manual_seed(0)) * 50).requires_grad_()
    found = log_density(EnergySpec(name=name), z)
    found.sum().backward()
    assert found.isfinite().all()
    assert z.grad.isfinite().all()
    assert (found < 0.7).all()


@pytest.mark.parametrize(("half_width", "edge"), [(4.0, 0.25), (6.0, 0.1), (2.0, 1.0)])
@pytest.mark.parametrize("name", WIDTHS)
def test_ln_z_of_the_confined_energies_is_the_closed_form(name, half_width, edge):
    """Integrate z2 first: √(2π) times the widths, whatever z1; the factor's integral is 2L / (1 − exp(−2L/s))."""
    expected = math.sqrt(2 * math.pi) * WIDTHS[name] * 2 * half_width / -math.expm1(-2 * half_width / edge)
    found = log_normaliser(EnergySpec(name=name, half_width=half_width, edge=edge))
    assert found == pytest.approx(math.log(expected), abs=1e-10)


def test_ln_z_of_u1_is_the_published_one_and_another_integrator_s():
    found = log_normaliser(EnergySpec(name="u1"))
    assert found == pytest.approx(1.8775, abs=5e-5)

    def in_polar_coordinates(angle, r):
        z = torch.tensor([r * math.cos(angle), r * math.sin(angle)], dtype=torch.float64)
        return r * math.exp(-energy("u1", z).item())

    integral, _ = dblquad(in_polar_coordinates, 0.0, 6.0, 0.0, 2 * math.pi, epsabs=1e-6, epsrel=1e-6)
    assert found == pytest.approx(math.log(integral), abs=1e-5)


def test_u1_is_not_confined_and_the_others_are():
    far = torch.tensor([7.0, 0.0])
    for name in ("u1", "u2", "u3", "u4"):
        by_default = log_density(EnergySpec(name=name), far).item()
        wider = log_density(EnergySpec(name=name, half_width=8.0), far).item()
        assert (by_default == wider) == (name == "u1")


def test_the_window_s_rows_run_down_and_its_columns_to_the_right():
    grid = window_grid(4)
    assert grid.shape == (4, 4, 2)
    assert grid[0, 0].tolist() == [-3.0, 3.0]
    assert grid[-1, -1].tolist() == [3.0, -3.0]
    assert WINDOW == 4.0
