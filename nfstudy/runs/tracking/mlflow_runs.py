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

from nfstudy.core.errors import StoreError, StudyDeletedError, without_secrets
from nfstudy.runs.frame import make_frame, make_history, make_row, with_notes
from nfstudy.runs.original import IMPORTING, ORIGINAL_RUN_ID
from nfstudy.runs.tags import Tag
from nfstudy.runs.tracking.renamed import renamed_note, require_one
from nfstudy.runs.tracking.uris import is_served

if TYPE_CHECKING:
    from mlflow.entities import Experiment, Metric, Run
    from mlflow.tracking import MlflowClient

_ACTIVE, _DELETED = 1, 2
"""MLflow's ViewType, which it takes as numbers."""
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
            for run in self.entities()
        ]
        frame = make_frame(rows, metrics)
        return with_notes(frame, renamed_note(self.study, self._name)) if self._name else frame

    def entities(self) -> list[Run]:
        """Return the runs as MLflow has them, without those whose import has not ended."""
        return [run for run in self._search() if IMPORTING not in run.data.tags]

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
    def _name(self) -> str:
        """The name that the study's experiment has in the store; empty where there is none."""
        with self.asked():
            experiment = self._experiment()
        return experiment.name if experiment else ""

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
        return find_experiment(self.client, self.uri, self.study)


def find_experiment(client: MlflowClient, uri: str, study: str) -> Experiment | None:
    """Return the experiment of a study: of that name, or else the one that its tags, or its runs', say is the study's.

    Raises:
        StudyDeletedError: it has been deleted.
        StoreError: it has another name, and so has a second one.
    """
    named = client.get_experiment_by_name(study)
    if named is not None and named.lifecycle_stage == "active":
        return named
    ours = f"tags.`{Tag.STUDY}` = '{study}'"
    if tagged := [*client.search_experiments(_ACTIVE, PAGE, filter_string=ours)]:
        return _the_one(tagged, uri, study)
    active = {each.experiment_id: each for each in client.search_experiments(_ACTIVE, PAGE)}
    runs = client.search_runs([*active], filter_string=ours, max_results=PAGE) if active else []
    if ids := {run.info.experiment_id for run in runs}:
        return _the_one([active[each] for each in sorted(ids)], uri, study)
    deleted = [*([named] if named else []), *client.search_experiments(_DELETED, PAGE, filter_string=ours)]
    if deleted:
        raise StudyDeletedError.of(uri, study, str(deleted[0].experiment_id))
    return None


def _the_one(found: Sequence[Experiment], uri: str, study: str) -> Experiment:
    require_one(uri, study, [each.name for each in found])
    return found[0]


def _place(point: Metric) -> tuple[int, int, bool, float]:
    """Return where a point stands in its history: as in an archive, by update, time and value, nan last."""
    return point.step, point.timestamp, math.isnan(point.value), point.value
