"""Looks at a study while it grows: their sizes, and how the error is spent over them, declared once for all studies.

Look 1 is at the repetitions that the study file asks for, and every look doubles them: n, 2 n, 4 n, ... Of a claim's
error α look 1 spends 0.8 α, and look k = 2, 3, ... spends 0.2 α / 2^(k − 1): 0.1 α, 0.05 α, ...; together α, however
many there are. By Bonferroni's inequality a false verdict at any of them has a probability of at most α, whatever the
tests, their dependence, and the reason to stop. (Error spending: Lan & DeMets 1983, Biometrika 70; t tests at such
levels: Pocock 1977, Biometrika 64. Here no joint distribution of the looks is used.)

Without look 1 spending less than α, the choice to go on or not would itself be a second chance.
"""

from __future__ import annotations

from collections.abc import Sequence

FIRST_SHARE = 0.8

SCHEDULE = "n, 2 n, 4 n, ... repetitions; error spent 0.8, then 0.1, 0.05, 0.025, ..."
"""As runs and reports have it."""


def look_size(first: int, look: int) -> int:
    """Return how many repetitions look 1, 2, ... is at, the first being at `first`."""
    return first << (look - 1)


def look_share(look: int) -> float:
    """Return the share of the error that look 1, 2, ... spends."""
    return FIRST_SHARE if look == 1 else (1 - FIRST_SHARE) / 2 ** (look - 1)


def look_level(level: float, look: int) -> float:
    """Return the level of the interval at one look; over all looks they hold together with probability `level`."""
    return 1 - look_share(look) * (1 - level)


def looks_up_to(first: int, repetitions: int) -> int:
    """Return how many looks so many repetitions of every cell have come to, at least 1."""
    look = 1
    while look_size(first, look + 1) <= repetitions:
        look += 1
    return look


def sequential_p(p_values: Sequence[float]) -> float:
    """Return one p-value for those of looks 1, 2, ...: min_k p_k / share_k, at most 1; valid whenever one stops."""
    return min([1.0, *(p / look_share(look) for look, p in enumerate(p_values, 1))])
