"""Asymmetric numeral systems: a stack of symbols kept as one number, each taking −log2 of its probability in bits.

The range variant (Duda 2013): with masses m_s of a total 2^P, of which those before s sum to c_s, a symbol is pushed by

    state ← ⌊state / m_s⌋ 2^P + (state mod m_s) + c_s

and popped by the inverse. What is pushed last is popped first, and popping from arbitrary bits draws a symbol from the
masses: bits-back coding needs both. Words leave the state for a list when it grows, and come back when it shrinks.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

PRECISION = 48
"""P: masses are whole numbers of a total 2^P, as much as a cumulated probability in double precision can tell apart."""
TOTAL = 2**PRECISION
WORD_BITS = 32
STATE_BITS = 128
"""The state is at least 2^96, so that ⌊state / m⌋ is at least 2^48 and its rounding costs nothing. The common 64 bits
leave room for masses of some 24; whole numbers of any length are Python's own."""
LEAST_STATE = 2 ** (STATE_BITS - WORD_BITS)
_WORD = 2**WORD_BITS - 1


class CodingError(Exception):
    """A stream of bits is not one that was made by this coder, with these masses."""


class Masses(NamedTuple):
    """The probabilities of n symbols 0 ... n − 1 as whole numbers of a total 2^P, none less than 1.

    c_s = ⌊(2^P − 2n) p(before s)⌋ + 2s: so much of the uniform distribution is mixed in, 2n / 2^P, that no rounding of
    p(before s) leaves a symbol without mass. It is 2^−27 for a million symbols, and nothing for the levels of a pixel:
    a symbol drawn from it would be a latent variable far from where q is.
    """

    size: int
    """n."""
    before: Callable[[int], float]
    """s -> the probability of all symbols before s, which does not fall as s grows."""

    def start(self, symbol: int) -> int:
        """Return c_s; c_0 = 0 and c_n = 2^P."""
        if not 0 < symbol < self.size:
            return 0 if symbol <= 0 else TOTAL
        return int((TOTAL - 2 * self.size) * min(max(self.before(symbol), 0.0), 1.0)) + 2 * symbol


def mass_table(probabilities: np.ndarray) -> np.ndarray:
    """Return c_0, ..., c_n as `Masses` has them for each of N rows of probabilities (N, n): (N, n + 1), int64."""
    rows, size = probabilities.shape
    sums = probabilities.astype(np.float64).cumsum(axis=1)
    starts = np.zeros((rows, size + 1), dtype=np.int64)
    before = sums[:, :-1] / sums[:, -1:]
    starts[:, 1:-1] = ((TOTAL - 2 * size) * before).astype(np.int64) + 2 * np.arange(1, size)
    starts[:, -1] = TOTAL
    return starts


class Stack:
    """A state and the words that have left it.

    Arguments:
        state: from 2^96 to 2^128 − 1.
        words: of 32 bits each, the last one on top.
        supply: draws a word where there is none left to pop; None where that is an error.
    """

    def __init__(self, state: int, words: Sequence[int] = (), supply: Callable[[], int] | None = None) -> None:
        if not LEAST_STATE <= state < 2**STATE_BITS:
            raise CodingError(
                f"got a state of {state.bit_length()} bits; expected: {LEAST_STATE.bit_length()} to {STATE_BITS}"
            )
        self.state, self.words, self.supply = state, list(words), supply
        self.drawn: list[int] = []
        """Words that were supplied, in their order."""

    @classmethod
    def of_message(cls, message: bytes) -> Stack:
        """Return the stack that `message` wrote; raises CodingError for bytes of another length or state."""
        word = WORD_BITS // 8
        if len(message) % word or len(message) < STATE_BITS // 8:
            raise CodingError(
                f"got {len(message)} bytes; expected: words of {word}, at least {STATE_BITS // WORD_BITS}"
            )
        size = STATE_BITS // 8
        return cls(int.from_bytes(message[-size:], "little"), np.frombuffer(message[:-size], "<u4").tolist())

    def message(self) -> bytes:
        """Return all of it as bytes: the words, then the state."""
        return np.array(self.words, dtype="<u4").tobytes() + self.state.to_bytes(STATE_BITS // 8, "little")

    @property
    def bits(self) -> float:
        """What it holds: 32 bits a word, and log2 of the state."""
        return WORD_BITS * len(self.words) + math.log2(self.state)

    def push(self, start: int, end: int) -> None:
        """Push the symbol whose mass lies from c_s = `start` to c_{s+1} = `end`."""
        mass = end - start
        if mass <= 0:
            raise CodingError(f"got a mass of {mass}; expected: at least 1")
        while self.state >= mass << (STATE_BITS - PRECISION):
            self.words.append(self.state & _WORD)
            self.state >>= WORD_BITS
        quotient, rest = divmod(self.state, mass)
        self.state = (quotient << PRECISION) + rest + start

    def top(self) -> int:
        """Return the number below 2^P that tells the symbol on top: c_s ≤ it < c_{s+1}."""
        return self.state & (TOTAL - 1)

    def drop(self, start: int, end: int) -> None:
        """Take away the symbol on top, whose mass lies from `start` to `end`."""
        self.state = (end - start) * (self.state >> PRECISION) + self.top() - start
        while self.state < LEAST_STATE:
            self.state = self.state << WORD_BITS | self._next_word()

    def push_symbol(self, symbol: int, masses: Masses, mask: int = 0) -> None:
        """Undo `pop_symbol`."""
        self.push(masses.start(symbol), masses.start(symbol + 1))
        self.state ^= mask

    def pop_symbol(self, masses: Masses, mask: int = 0) -> int:
        """Return the symbol on top, and take it away.

        Arguments:
            masses: of the symbols.
            mask: below 2^P, random bits that whoever pushes it back knows too; those that tell the symbol are changed
                by them first, so that the symbol is drawn from the masses whatever was pushed before.
        """
        self.state ^= mask
        symbol = bisect_right(range(masses.size + 1), self.top(), key=masses.start) - 1
        self.drop(masses.start(symbol), masses.start(symbol + 1))
        return symbol

    def push_row(self, symbols: np.ndarray, starts: np.ndarray) -> None:
        """Push N symbols, the last one first, under the masses of `mass_table`."""
        places = np.arange(len(symbols))
        ends = zip(starts[places, symbols].tolist(), starts[places, symbols + 1].tolist(), strict=True)
        for start, end in reversed([*ends]):
            self.push(start, end)

    def pop_row(self, starts: np.ndarray) -> np.ndarray:
        """Return N symbols that `push_row` pushed, and take them away."""
        symbols = np.empty(len(starts), dtype=np.int64)
        for place, row in enumerate(starts):
            symbol = int(np.searchsorted(row, self.top(), side="right")) - 1
            self.drop(int(row[symbol]), int(row[symbol + 1]))
            symbols[place] = symbol
        return symbols

    def _next_word(self) -> int:
        if self.words:
            return self.words.pop()
        if self.supply is None:
            raise CodingError("the stream ends before its symbols do")
        self.drawn.append(self.supply())
        return self.drawn[-1]
