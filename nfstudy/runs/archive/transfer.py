"""Export a study's logged runs to one archive, and import an archive's runs into a store."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from nfstudy.core.atomic import write_whole
from nfstudy.core.errors import StoreError, untold
from nfstudy.core.reading import free_bytes, read_regular
from nfstudy.runs.archive.manifest import MAX_FILE, ArchiveError
from nfstudy.runs.archive.reader import Archive, is_archive
from nfstudy.runs.archive.writer import write_archive
from nfstudy.runs.evaluations import EVALUATION_PREFIX
from nfstudy.runs.result import RESULTS
from nfstudy.runs.tags import Tag
from nfstudy.runs.tracking.open import SqlRuns, open_runs
from nfstudy.runs.tracking.sql_export import (
    artifact_address,
    description_of,
    insert_copies,
    known_ids,
    read_copies,
    set_tags,
)
from nfstudy.runs.tracking.sql_runs import SqlStore
from nfstudy.runs.tracking.uris import artifact_folder, database_file, is_sqlite
from nfstudy.runs.whole_run import RunCopy, RunRecord

CHECKPOINTS = (".pt",)
"""Suffixes of the files that are exported only on request: nearly all of a study's bytes, and no report reads them."""

POINT_BYTES = 500
"""Of one point in a SQLite store: its row and index entry, and both again in the journal until all is written."""

Files = Callable[[], Iterator[tuple[str, bytes]]]
"""Yields (digest, content) of each file of an archive."""


class Source(Protocol):
    """Where a study's runs are read from."""

    def description(self) -> str:
        """Return the note of the study's experiment."""

    def copies(self) -> list[RunCopy]:
        """Return the runs that have ended, without their files, sorted by id."""

    def names(self, run_id: str) -> Iterator[str]:
        """Yield the names of a run's files, relative to the run's folder."""

    def content(self, run_id: str, name: str) -> bytes:
        """Return a file's content; raises StoreError."""


class Target(Protocol):
    """Where a study's runs are imported to."""

    def records(self) -> list[RunRecord]:
        """Return the runs that have ended, without their files and perhaps without their histories."""

    def copy(self, run_id: str) -> RunCopy:
        """Return one of these with its histories."""

    def names(self, run_id: str) -> Iterator[str]:
        """Yield the names of the files of one of these, relative to the run's folder."""

    def taken(self, run_ids: Sequence[str]) -> set[str]:
        """Return those of the ids that some run of the store has, deleted and running ones included."""

    def complete(self, copies: Sequence[RunCopy], files: Files) -> None:
        """Add to runs that are there the tags and files of these copies of them; raises StoreError."""

    def insert(self, copies: Sequence[RunCopy], files: Files) -> None:
        """Write runs and their files; raises StoreError."""


@dataclass(frozen=True)
class Imported:
    """What an import did."""

    new: int
    known: int
    """Runs that were already present, under their own id or another's."""
    completed: int
    """Those of them that lacked evaluations or files which the archive has, and were given these."""
    conflicts: tuple[str, ...]
    """A line for each run that was skipped, as the store has it with different numbers. For people."""


def export_runs(
    uri: str,
    study: str,
    path: Path,
    budget: str | None = None,
    checkpoints: bool = False,
    tell: Callable[[str], None] = untold,
    budget_of: Callable[[str, str, str], str | None] = lambda study, budget, cell: budget,
    without: Sequence[str] = (),
    first_only: Sequence[str] = (),
) -> int:
    """Write an archive of a study's runs, killed and failed attempts included, and return how many there are.

    Reports tell of every attempt, so all are needed to rebuild them; runs that are still running are left out.

    Arguments:
        uri: the store's address.
        study: whose runs.
        path: the archive.
        budget: only its runs; None for all.
        checkpoints: whether to keep the files of `CHECKPOINTS`.
        tell: is told of each run that is left out, and how many have lost their files.
        budget_of: study, budget and cell key that a run is logged with -> the budget that it is of (`StudySpec`).
        without: names of files to leave out, with `*` for any letters: those that none of the study's exhibits reads.
        first_only: the same, of files to leave out but of the first finished repetition of each cell, as pictures are
            of one run.

    Raises:
        StoreError: the store cannot be read.
        ArchiveError: a name matches no file; there are no such runs, they cannot be put into an archive, or it cannot
            be written.
    """
    require_replaceable(path)
    source = _source(uri, study, tell)
    try:
        copies = [copy for copy in source.copies() if budget in (None, _budget(copy.record, budget_of))]
        if not copies:
            raise ArchiveError(
                f"{study}: no run {f'of budget {budget} ' if budget else ''}has ended; expected: ended runs"
            )
        places: dict[str, tuple[str, str]] = {}
        firsts = _first_finished([copy.record for copy in copies])
        matched = set[str]()
        whole, bare = [], []
        for copy in copies:
            run_id, files = copy.record.id, {}
            if not (names := sorted(source.names(run_id))):
                bare.append(run_id)
            for name in names:
                found = {pattern for pattern in (*without, *first_only) if fnmatchcase(name, pattern)}
                matched |= found
                if found.intersection(without) or (found and run_id not in firsts):
                    continue
                if checkpoints or not name.endswith(CHECKPOINTS):
                    files[name] = digest = hashlib.sha256(source.content(run_id, name)).hexdigest()
                    places[digest] = (run_id, name)
            record = RunRecord.model_validate(dict(copy.record) | {"files": files})
            whole.append(replace(copy, record=record))
        for option, patterns in (("--without", without), ("--first-only", first_only)):
            if idle := [pattern for pattern in patterns if pattern not in matched]:
                raise ArchiveError(
                    f"{option} {idle[0]}: no run has such a file; expected: a file of the runs, as *.png"
                )
        if bare:
            tell(
                f"{len(bare)} of {len(whole)} runs have no files in the store, not even their settings.json, and are "
                f"exported without: {', '.join(bare[:3])}{' ...' if len(bare) > 3 else ''}; hint: put the store's "
                "artifacts/ back, if it was moved or purged, and export again"
            )
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise ArchiveError(f"{uri}: a run of '{study}' cannot be exported: {reason}") from None
    write_archive(path.resolve(), study, source.description(), whole, lambda digest: source.content(*places[digest]))
    return len(whole)


def _first_finished(records: Sequence[RunRecord]) -> set[str]:
    """Return the ids of the first finished repetition of each cell under each budget."""
    first: dict[tuple[str, ...], tuple[int, str]] = {}
    for record in records:
        tags = record.tags
        if tags[Tag.STAGE] == "repetition" and tags.get(Tag.OUTCOME) == "finished":
            cell = (tags[Tag.STUDY], tags.get(Tag.BUDGET, ""), tags[Tag.CELL])
            own = (int(tags[Tag.INDEX]), record.id)
            first[cell] = min(first.get(cell, own), own)
    return {run_id for _, run_id in first.values()}


def _budget(record: RunRecord, budget_of: Callable[[str, str, str], str | None]) -> str | None:
    """Return the budget that a run is of."""
    return budget_of(record.tags[Tag.STUDY], record.tags.get(Tag.BUDGET, ""), record.tags[Tag.CELL])


def require_replaceable(path: Path) -> None:
    """Raise ArchiveError unless a path is an empty place, an empty file or an archive: all else would be lost."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        if not os.path.islink(path):
            return
        raise ArchiveError(f"{path}: is a link that leads nowhere; expected: a new name, or an archive") from None
    except OSError as error:
        raise ArchiveError(f"{path}: cannot be written: {error.strerror or error}") from None
    if stat.S_ISREG(found.st_mode) and (found.st_size == 0 or is_archive(path)):
        return
    raise ArchiveError(
        f"{path}: is there already, and no archive of nfstudy; expected: a new name, or an archive, which is replaced"
    )


def import_runs(archive: Archive, uri: str) -> Imported:
    """Import an archive's runs into a store; call it with the study's lock held.

    Into a SQLite store they are written by SQL, under their own ids, all or none. Elsewhere MLflow's API gives them new
    ids and creates one after the other; the original id is kept as a tag, by which everything else finds a run. A run
    of which an interrupted import wrote a part is written anew. Runs that are there already are left as they are, but
    that one with the same numbers gets the evaluations and files that it lacks: they came later, or were left out of an
    earlier archive.

    Arguments:
        archive: what was read.
        uri: the store's address; a SQLite store is made if it is not there.

    Raises:
        StoreError: the store cannot be opened, has another schema than is known, or cannot be written.
        ArchiveError: the archive was changed since it was read.
    """
    target = _target(archive, uri)
    try:
        new, known, conflicts = _compared(archive, target)
        lacking = [found for there, copy in known if (found := _lacking(there, copy, target))]
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise StoreError(f"{uri}: a run of '{archive.manifest.study}' cannot be compared: {reason}") from None
    _require_room(archive, new, lacking, uri)
    if lacking:
        target.complete(lacking, archive.files)
    target.insert(new, archive.files)
    return Imported(len(new), len(known), len(lacking), conflicts)


def _lacking(there: RunRecord, copy: RunCopy, target: Target) -> RunCopy | None:
    """Return a copy of a run of the store with what that lacks of an archive's alone; None where it lacks nothing.

    Files say which run they are of, so that of the same result of another run the evaluations alone are taken.
    """
    tags = {
        name: text
        for name, text in copy.record.tags.items()
        if name.startswith(EVALUATION_PREFIX) and name not in there.tags
    }
    own = {*target.names(there.id)} if there.id == copy.record.id and copy.record.files else copy.record.files.keys()
    files = {name: digest for name, digest in copy.record.files.items() if name not in own}
    if not tags and not files:
        return None
    return replace(copy, record=copy.record.model_copy(update={"id": there.id, "tags": tags, "files": files}))


def _require_room(archive: Archive, new: Sequence[RunCopy], lacking: Sequence[RunCopy], uri: str) -> None:
    """Raise StoreError where the disk of a SQLite store has no room for new runs, and for what others lack."""
    if not is_sqlite(uri):
        return
    points = sum(sum(run.record.points.values()) for run in new)
    needed = archive.stored_bytes([*new, *lacking]) + points * POINT_BYTES
    folder = database_file(uri).parent
    if needed > (free := free_bytes(folder)):
        raise StoreError(
            f"{folder}: the {len(new):,} new runs of {archive.path} need some {needed:,} bytes, and {free:,} are left; "
            "expected: as much room; nothing was imported"
        )


def _compared(
    archive: Archive, target: Target
) -> tuple[list[RunCopy], list[tuple[RunRecord, RunCopy]], tuple[str, ...]]:
    """Return the new runs, the known ones with what the store has of each, and a line for each that conflicts."""
    present = {record.id: record for record in target.records()}
    taken = target.taken([copy.record.id for copy in archive.runs])
    results = {record.identity: record for record in present.values() if _is_the_result(record)}
    new, known, conflicts = [], [], []
    for copy in archive.runs:
        record = copy.record
        there = present.get(record.id) or (results.get(record.identity) if _is_the_result(record) else None)
        if there and target.copy(there.id).same_numbers(copy):
            known.append((there, copy))
        elif there:
            conflicts.append(f"{record.name}: {record.id} already present as {there.id}, with different numbers")
        elif record.id in taken:
            conflicts.append(f"{record.name}: {record.id} already present, but deleted, running, or of another study")
        else:
            new.append(copy)
    return new, known, tuple(conflicts)


def _is_the_result(record: RunRecord) -> bool:
    """Say whether a run is the one result of its identity; attempts and reruns may be many."""
    return record.outcome in RESULTS and record.tags[Tag.STAGE] != "rerun"


def _target(archive: Archive, uri: str) -> Target:
    from nfstudy.runs.tracking.store import open_store

    study = archive.manifest.study
    store = open_store(uri, create=True)
    experiment = store.experiment(study, archive.manifest.description)
    if not is_sqlite(uri):
        from nfstudy.runs.tracking.mlflow_import import ApiTarget

        return ApiTarget(store, experiment, study)
    database = SqlStore(store.uri)
    if not database.is_known():
        raise StoreError(f"{uri}: unknown database schema; expected: that of the MLflow version in constraints.txt")
    return _FileTarget(database, experiment, study, store.tidy)


def _source(uri: str, study: str, tell: Callable[[str], None]) -> Source:
    """Return how a study's runs are read from a store; raises StoreError where there is none."""
    if is_sqlite(uri) and isinstance(open_runs(uri)(study), SqlRuns):
        return _FileSource(SqlStore(uri), study, tell)
    from nfstudy.runs.tracking.mlflow_export import ServedSource

    return ServedSource(uri, study, tell)


@dataclass(frozen=True)
class _FileSource:
    """A SQLite store whose schema is known."""

    store: SqlStore
    study: str
    tell: Callable[[str], None]

    def description(self) -> str:
        return description_of(self.store, self.study)

    def copies(self) -> list[RunCopy]:
        return read_copies(self.store, self.study, self.tell)

    def names(self, run_id: str) -> Iterator[str]:
        return _names_below(self._folder(run_id))

    def content(self, run_id: str, name: str) -> bytes:
        path = self._folder(run_id) / name
        try:
            return read_regular(path, MAX_FILE)
        except OSError as error:
            raise StoreError(f"{path}: cannot be read: {error.strerror or error}") from None

    def _folder(self, run_id: str) -> Path:
        return artifact_folder(self.store.artifact_address(self._own_ids.get(run_id, run_id)) or "", self.store.uri)

    @cached_property
    def _own_ids(self) -> dict[str, str]:
        return self.store.own_ids(self.study)


def _names_below(folder: Path) -> Iterator[str]:
    yield from (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@dataclass(frozen=True)
class _FileTarget:
    """A SQLite store whose schema is known."""

    store: SqlStore
    experiment: str
    study: str
    tidy: Callable[[], None]

    def records(self) -> list[RunRecord]:
        return [copy.record for copy in self._copies.values()]

    def copy(self, run_id: str) -> RunCopy:
        return self._copies[run_id]

    def names(self, run_id: str) -> Iterator[str]:
        return _names_below(self._folder(run_id))

    def taken(self, run_ids: Sequence[str]) -> set[str]:
        return known_ids(self.store, run_ids)

    def complete(self, copies: Sequence[RunCopy], files: Files) -> None:
        """Put files in place before the one transaction that sets the tags."""
        self._place([(copy, self._folder(copy.record.id)) for copy in copies], files)
        set_tags(self.store.uri, {self._own(copy.record.id): copy.record.tags for copy in copies})
        self.tidy()

    def insert(self, copies: Sequence[RunCopy], files: Files) -> None:
        """Put files in place before the one transaction that makes the runs: a kill leaves nothing or everything."""
        addresses = {copy.record.id: artifact_address(self.study, copy.record.id) for copy in copies}
        folders = [(copy, artifact_folder(addresses[copy.record.id], self.store.uri)) for copy in copies]
        self._place(folders, files)
        insert_copies(self.store.uri, self.experiment, self.study, copies)
        self.tidy()

    def _place(self, folders: Sequence[tuple[RunCopy, Path]], files: Files) -> None:
        """Put the files of runs into their folders."""
        places: dict[str, list[Path]] = {}
        for copy, folder in folders:
            for name, digest in copy.record.files.items():
                places.setdefault(digest, []).append(folder / name)
        for digest, content in files() if places else ():
            for place in places.get(digest, ()):
                try:
                    write_whole(place, content)
                except OSError as error:
                    raise StoreError(f"{place}: cannot be written: {error.strerror or error}") from None

    def _folder(self, run_id: str) -> Path:
        return artifact_folder(self.store.artifact_address(self._own(run_id)) or "", self.store.uri)

    def _own(self, run_id: str) -> str:
        return self._own_ids.get(run_id, run_id)

    @cached_property
    def _own_ids(self) -> dict[str, str]:
        return self.store.own_ids(self.study)

    @cached_property
    def _copies(self) -> dict[str, RunCopy]:
        return {copy.record.id: copy for copy in read_copies(self.store, self.study)}
