"""The other libraries, each used through its public interface as its documentation shows; one not there is named.

A peer whose parameters cannot depend on the image is timed with shared ones, which spares it work, as does all else
in which it differs from ours; its note says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module

from benchmarks.contest import Contest, Contestant

PEERS = ("normflows", "pyro", "pythae", "flowjax")

Entry = Callable[[Contest], Sequence[Contestant]]
"""A peer's contestants for a contest; none where it lacks the family."""


@dataclass(frozen=True)
class Missing:
    """A peer that cannot be imported."""

    name: str
    reason: str


def find_peers(names: Sequence[str] = PEERS) -> tuple[dict[str, Entry], list[Missing]]:
    """Import the peers; return the entries of those that can be, and the others with the reason."""
    entries: dict[str, Entry] = {}
    missing: list[Missing] = []
    for name in names:
        try:
            entries[name] = import_module(f"benchmarks.peers.{name}").contestants
        except Exception as error:  # A library may fail in any way against versions newer than itself.
            missing.append(Missing(name, f"{type(error).__name__}: {error}"))
    return entries, missing
