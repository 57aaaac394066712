"""A study's runs in a tracking store, as they are read back through MLflow's client; `tracking.Store` gives them."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from nfstudy.core.errors import StoreError, without_secrets
from nfstudy.runs.frame import make_frame, make_history, make_row
from nfstudy.runs.original import IMPORTING, ORIGINAL_RUN_ID
from nfstudy.runs.tags import Tag
from nfstudy.runs.tracking.uris import is_served

if TYPE_CHECKING:
    from mlflow.entities import Experiment, Metric, Run
    from mlflow.tracking import MlflowClient

PAGE = 1000
"""Runs that a store is asked for at once."""


@dataclass(frozen=True)
class StudyRuns:
    """A study's runs in a store; what `nfstudy.runs.frame.LoggedRuns` asks for."""

    client: MlflowClient
    uri: str
    """The store's address."""
    study: str
    asked: Callable[[], AbstractContextManager[None]]
    """Gives a context in which what goes wrong is told of as an error of the store."""

    def frame(self, metrics: Collection[str] | None = None) -> pd.DataFrame:
        """Return one row a run; see `nfstudy.runs.frame.LoggedRuns`."""
        rows = [
            make_row(run.info.run_id, run.info.status, run.info.start_time, run.data.to_dictionary())
            for run in self._search()
            if IMPORTING not in run.data.tags
        ]
        return make_frame(rows, metrics)

    def history(self, run_ids: Sequence[str], metrics: Sequence[str]) -> pd.DataFrame:
        """Return the logged points: columns run_id, metric, update, value; sorted by these."""
        with self.asked():
            return make_history(
                (run_id, name, point.step, point.value)
                for run_id in run_ids
                for name in metrics
                for point in sorted(self.client.get_metric_history(self.own_id(run_id), name), key=_place)
            )

    def artifact(self, run_id: str, name: str) -> bytes | None:
        """Return a file of a run, or None where it has no such file."""
        with suppress(StoreError), tempfile.TemporaryDirectory() as folder, self.asked():
            return Path(self.client.download_artifacts(self.own_id(run_id), name, folder)).read_bytes()
        return None

    def link(self, run_id: str) -> str | None:
        """Return the address of the run's page, without user information, where a tracking server is set, else None."""
        if not is_served(self.uri):
            return None
        with self.asked():
            experiment = self._experiment()
        return (
            f"{without_secrets(self.uri).rstrip('/')}/#/experiments/{experiment.experiment_id}/runs/{self.own_id(run_id)}"
            if experiment
            else None
        )

    def own_id(self, run_id: str) -> str:
        """Return the store's id of a run of the study."""
        return self._own_ids.get(run_id, run_id)

    @cached_property
    def _own_ids(self) -> dict[str, str]:
        """Original id -> the store's, of the runs that were imported."""
        imported = self._search(f" and tags.`{ORIGINAL_RUN_ID}` LIKE '%'")
        return {run.data.tags[ORIGINAL_RUN_ID]: run.info.run_id for run in imported if IMPORTING not in run.data.tags}

    def _search(self, condition: str = "") -> Iterator[Run]:
        with self.asked():
            if not (experiment := self._experiment()):
                return
            token: str | None = ""
            while token is not None:
                page = self.client.search_runs(
                    [experiment.experiment_id],
                    filter_string=f"tags.`{Tag.STUDY}` = '{self.study}'{condition}",
                    max_results=PAGE,
                    page_token=token or None,
                )
                yield from page
                token = page.token or None

    def _experiment(self) -> Experiment | None:
        return self.client.get_experiment_by_name(self.study)


def _place(point: Metric) -> tuple[int, int, bool, float]:
    """Return where a point stands in its history: as in an archive, by update, time and value, nan last."""
    return point.step, point.timestamp, math.isnan(point.value), point.value
