"""What may have been meant by a word that is none of those that could be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(word: object, names: Iterable[str]) -> str:
    """Return `; did you mean 'NAME'?` for the name most like a word, whatever its case; empty where none is like it."""
    by_folded = {name.casefold(): name for name in names}
    close = difflib.get_close_matches(str(word).strip().casefold(), by_folded, n=1)
    return f"; did you mean '{by_folded[close[0]]}'?" if close else ""
