"""What is said of a study whose experiment somebody has renamed in the store."""

from __future__ import annotations

from collections.abc import Sequence

from nfstudy.core.errors import StoreError


def renamed_note(study: str, name: str) -> tuple[str, ...]:
    """Return a note where the experiment of a study has another name than the study."""
    if name == study:
        return ()
    return (
        f"study {study}: its experiment is named '{name}' in this store, and was found by its tag; "
        f"hint: rename it to {study} in the MLflow UI",
    )


def require_one(uri: str, study: str, names: Sequence[str]) -> None:
    """Raise StoreError where several experiments say that they are of one study, and none has its name."""
    if len(names) > 1:
        shown = ", ".join(map(repr, sorted(names)[:10]))
        raise StoreError(
            f"{uri}: no experiment is named '{study}', and {len(names)} have runs of that study: {shown}; "
            f"hint: rename the right one to {study} in the MLflow UI"
        )
