"""The names of the tags that runs and experiments carry in a store: ours, and those of MLflow that we set."""

from __future__ import annotations

from typing import Final

PREFIX = "nfstudy."
THEN = ", then "
"""Between the devices of a run that went on from a checkpoint of another; and its threads, and versions of torch."""


class Tag:
    """Ours; each is a column of the runs frame as well, by the name that follows `PREFIX`, if `RUN_COLUMNS` has it."""

    STUDY: Final = "nfstudy.study"
    """Of a run and of an experiment, which is found by it where somebody has renamed it."""
    BUDGET: Final = "nfstudy.budget"
    CELL: Final = "nfstudy.cell"
    SETTINGS: Final = "nfstudy.settings"
    """Digest of the resolved settings."""
    STAGE: Final = "nfstudy.stage"
    INDEX: Final = "nfstudy.index"
    REPETITION: Final = "nfstudy.repetition"
    """The axis of the seeds."""
    ATTEMPT: Final = "nfstudy.attempt"
    POINT: Final = "nfstudy.point"
    """The cell's place in the grid, as JSON."""
    CELL_NAME: Final = "nfstudy.cell_name"
    """The cell's short name, by which MLflow's pages group the runs; each store's own, as it follows from the run's."""
    OUTCOME: Final = "nfstudy.outcome"
    REASON: Final = "nfstudy.reason"
    UPDATE: Final = "nfstudy.update"
    RERUN_OF: Final = "nfstudy.rerun_of"
    RERUN: Final = "nfstudy.rerun"
    """What came of a rerun."""
    SEARCH: Final = "nfstudy.search"
    """Of a repetition whose settings a search has chosen: the trial, and how much each setting matters, as JSON."""
    LOOK: Final = "nfstudy.look"
    """Of a repetition beyond the study's number, which `decide` has run: for which look, as JSON."""
    LOOKED: Final = "nfstudy.looked"
    """Of such a run: what the claims were after that look, as JSON."""
    NOTICE: Final = "nfstudy.notice"
    RESUMED_AT: Final = "nfstudy.resumed_at"
    COMMIT: Final = "nfstudy.commit"
    DIRTY: Final = "nfstudy.dirty"
    """`true`, `false`, or `unknown` where git could not be asked."""
    CODE: Final = "nfstudy.code"
    """Digest of nfstudy's sources, which is known without git too; runs of before have none."""
    EARLIER_CODE: Final = "nfstudy.earlier_code"
    """Of a run that went on from a checkpoint of other sources: their digests, in order."""
    DATA: Final = "nfstudy.data"
    DATA_FINGERPRINT: Final = "nfstudy.data_fingerprint"
    DEVICE: Final = "nfstudy.device"
    """Of a run that went on from a checkpoint of another device: both, `cuda:0, then cpu`."""
    THREADS: Final = "nfstudy.threads"
    VERSION: Final = "nfstudy.version"
    PYTHON: Final = "nfstudy.python"
    PLUGINS: Final = "nfstudy.plugins"
    """What the run was made with beside nfstudy, as JSON; absent where that is nothing."""
    ORIGINAL_RUN_ID: Final = "nfstudy.original_run_id"
    """Of an imported run: its id in the store where it was logged."""
    IMPORTING: Final = "nfstudy.importing"
    """Of a run whose import has not ended, or was cut off."""
    IMPORTED: Final = "nfstudy.imported"
    """Of an imported run: `checked`, or what of it could not be checked."""
    LAUNCHER: Final = "nfstudy.launcher"
    """Of an experiment: who is at work on its study, and when there was last a sign of life."""


class MlflowTag:
    """Those of MLflow's own that we set or read."""

    NOTE: Final = "mlflow.note.content"
    """The description of an experiment, or of a run (`nfstudy.runs.description`)."""
    USER: Final = "mlflow.user"
    """Who has made a run in its store; no archive names anybody."""
    KIND: Final = "mlflow.experimentKind"
    """Of an experiment: for which kind of work MLflow opens its pages."""
    VIEW: Final = "mlflow.sharedViewState."
    """Of an experiment: begins the name of each of its saved views (`nfstudy.runs.views`)."""
    RUN_NAME: Final = "mlflow.runName"
    SOURCE_NAME: Final = "mlflow.source.name"
    SOURCE_TYPE: Final = "mlflow.source.type"
    COMMIT: Final = "mlflow.source.git.commit"
    CONTEXT: Final = "mlflow.data.context"
    """What of a data set a run used it for."""


IDENTITY = (Tag.CELL, Tag.STAGE, Tag.INDEX, Tag.SETTINGS)
"""Together, what is run exactly once: `nfstudy.study.cells.Identity`, as texts."""


def tag_of(column: str) -> str:
    """Return the tag that a column of the runs frame is read from."""
    return PREFIX + column
