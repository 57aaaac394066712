"""The entry point by which MLflow finds our artifact store.

MLflow loads entry points while it is itself being imported, so this module must import nothing: a module that imports
mlflow would be met half-made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nfstudy.runs.tracking.store import ArtifactRepository


def artifact_repository(
    artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None
) -> ArtifactRepository:
    """Resolve an `mlflow-artifacts:` address; see `nfstudy.runs.tracking.store.resolve_artifacts`."""
    from nfstudy.runs.tracking.store import resolve_artifacts

    return resolve_artifacts(artifact_uri, tracking_uri, registry_uri)
