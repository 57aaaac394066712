"""The coder: what is pushed comes back, at the length of its information; streams that are none of it are told of."""

import math

import numpy as np
import pytest
from scipy import stats

from nfstudy.inference.models.ans import LEAST_STATE, STATE_BITS, TOTAL, CodingError, Masses, Stack, mass_table


def words(seed=0):
    generator = np.random.default_rng(seed)
    return lambda: int(generator.integers(2**32))


def test_two_symbols_by_hand():
    # Of masses 2^47 each, symbol 1: state ← ⌊state / 2^47⌋ 2^48 + (state mod 2^47) + 2^47.
    state = LEAST_STATE + 5
    stack = Stack(state)
    half = TOTAL // 2
    stack.push(half, TOTAL)
    assert stack.state == (state // half) * TOTAL + state % half + half
    assert stack.top() >= half
    stack.drop(half, TOTAL)
    assert (stack.state, stack.words) == (state, [])


def test_rows_come_back_in_their_order_at_the_length_of_their_information():
    generator = np.random.default_rng(1)
    probabilities = generator.dirichlet(np.full(17, 0.3), size=5000)
    symbols = np.array([generator.choice(17, p=row) for row in probabilities])
    starts = mass_table(probabilities)
    assert (starts[:, 0] == 0).all()
    assert (starts[:, -1] == TOTAL).all()
    assert (np.diff(starts) >= 1).all(), "no symbol is without mass"
    stack = Stack(LEAST_STATE)
    stack.push_row(symbols, starts)
    information = -np.log2(probabilities[np.arange(5000), symbols]).sum()
    assert stack.bits - math.log2(LEAST_STATE) == pytest.approx(information, abs=0.01)
    message = stack.message()
    assert 8 * len(message) == pytest.approx(information + STATE_BITS, abs=32)
    other = Stack.of_message(message)
    assert (other.pop_row(starts) == symbols).all()
    assert (other.state, other.words) == (LEAST_STATE, [])


def test_a_symbol_that_is_all_but_impossible_still_comes_back():
    starts = mass_table(np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [1e-300, 1.0, 1e-300]]))
    for symbols in ([2, 1, 0], [1, 0, 2]):
        stack = Stack(LEAST_STATE)
        stack.push_row(np.array(symbols), starts)
        assert stack.pop_row(starts).tolist() == symbols


@pytest.mark.parametrize("mask", [0, 0xABCD_EF01_2345])
def test_pops_from_random_bits_draw_from_the_masses_and_pushes_give_the_bits_back(mask):
    expected = np.array([0.5, 0.3, 0.15, 0.05])
    masses = Masses(4, lambda symbol: float(expected[:symbol].sum()))
    stack = Stack(LEAST_STATE + 12345, supply=words())
    before = stack.state
    drawn = [stack.pop_symbol(masses, mask) for _ in range(5000)]
    assert stats.chisquare(np.bincount(drawn, minlength=4), 5000 * expected).pvalue > 1e-3
    entropy = -(expected * np.log2(expected)).sum()
    assert 32 * len(stack.drawn) == pytest.approx(5000 * entropy, rel=0.05)
    for symbol in reversed(drawn):
        stack.push_symbol(symbol, masses, mask)
    assert (stack.state, stack.words) == (before, stack.drawn[::-1])


def test_masks_make_symbols_of_bits_that_are_not_random_draws():
    masses = Masses(4, lambda symbol: symbol / 4)
    mask = np.random.default_rng(3)
    stack = Stack(LEAST_STATE, [0] * 2000)
    drawn = [stack.pop_symbol(masses, int(mask.integers(TOTAL))) for _ in range(4000)]
    assert stats.chisquare(np.bincount(drawn, minlength=4)).pvalue > 1e-3
    zeros = Stack(LEAST_STATE, [0] * 2000)
    assert {zeros.pop_symbol(masses) for _ in range(4000)} == {0}


def test_what_is_no_stream_is_told_of():
    with pytest.raises(CodingError, match="17 bytes"):
        Stack.of_message(bytes(17))
    with pytest.raises(CodingError, match="8 bytes"):
        Stack.of_message(bytes(8))
    with pytest.raises(CodingError, match="got a state of 0 bits; expected: 97 to 128"):
        Stack.of_message(bytes(16))
    starts = mass_table(np.full((100, 4), 0.25))
    with pytest.raises(CodingError, match="ends before its symbols do"):
        Stack(LEAST_STATE).pop_row(starts)
    with pytest.raises(CodingError, match="got a mass of 0"):
        Stack(LEAST_STATE).push(3, 3)
