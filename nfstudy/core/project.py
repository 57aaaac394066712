"""Where a project keeps its things: store, artifacts, reports, data, locks."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from nfstudy.core.atomic import write_whole
from nfstudy.core.errors import StoreError, keep_secret
from nfstudy.core.launcher import Launcher
from nfstudy.core.reading import TEXT_BYTES, read_regular
from nfstudy.core.sqlite_uri import SQLITE, sqlite_uri


def variable(name: str) -> str | None:
    """Return an environment variable without blanks around it; None where it is not set or nothing is left."""
    return os.environ.get(name, "").strip() or None


@dataclass(frozen=True)
class Project:
    """A folder that holds `mlruns/`, `reports/` and perhaps `data/`."""

    root: Path

    @classmethod
    def find(cls, start: Path | None = None) -> Project:
        """Return the project of a folder: the nearest one, going up, that holds `mlruns`; else the folder itself.

        Raises:
            StoreError: what is called `mlruns` there is no folder, such as a link that leads nowhere: to go further up
                would be to take another project's.
        """
        here = (start or Path.cwd()).resolve()
        for folder in (here, *here.parents):
            store = folder / "mlruns"
            if store.is_dir():
                return cls(folder)
            if store.is_symlink():
                raise StoreError(
                    f"{store}: is a link to {os.readlink(store)}, which is no folder; expected: a folder, or nothing; "
                    "hint: put back what it leads to, or remove the link"
                )
            if store.exists() and folder == here:
                raise StoreError(f"{store}: is no folder; expected: a folder, or nothing")
        return cls(here)

    @property
    def store(self) -> Path:
        """The folder of the default store."""
        return self.root / "mlruns"

    @property
    def data_folders(self) -> tuple[Path, ...]:
        """Where data files are looked for, in order; downloads go into the last."""
        named = variable("NFSTUDY_DATA")
        return (*((Path(os.path.expanduser(named)),) if named else ()), self.root / "data")

    @property
    def kept_reports(self) -> Path:
        """The folder of what is kept in git: reports of the reference runs, which `reference` alone writes."""
        return self.root / "reports"

    @property
    def reports(self) -> Path:
        """The folder of the front page of one's own runs, with one for each study's report.

        In a project that ships reference runs it is another than theirs, so that no run of one's own changes what is
        kept.
        """
        ships = any((self.store / "reference").glob("*.tar.xz"))
        return self.kept_reports / "own" if ships else self.kept_reports

    def report(self, study: str) -> Path:
        """Return the folder of a study's report."""
        return self.reports / study

    def page(self, folder: Path) -> str:
        """Return the page of the report in a folder as seen from the project's: no path of this machine."""
        return (folder.relative_to(self.root) / "index.html").as_posix()

    def tracking_uri(self, asked: str | None = None) -> str:
        """Return `asked`, else $MLFLOW_TRACKING_URI, else the SQLite store under `mlruns/`.

        Blanks around it do not count, and `~` begins a file's name as in a shell. Whatever is printed or written from
        then on holds no secret of it.
        """
        uri = (asked or "").strip() or variable("MLFLOW_TRACKING_URI")
        if not uri:
            return sqlite_uri(self.store / "mlflow.db")
        if not uri.startswith(SQLITE):
            keep_secret(uri)
        path = uri.removeprefix(SQLITE)
        return f"{SQLITE}{os.path.expanduser(path)}" if path != uri and path.startswith("~") else uri

    @contextmanager
    def study_lock(self, study: str, wait: float = 1.0) -> Iterator[None]:
        """Hold the study for one launcher; the lock goes with the process, however that ends.

        Arguments:
            study: its name.
            wait: seconds, for another process to leave.

        Raises:
            StoreError: another process holds it.
        """
        path = self._lock_path(study)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path)
            lock.acquire(timeout=wait)
        except Timeout:
            holder = self.holder(study)
            raise StoreError(
                f"{self.store}: study '{study}' is being run by another process{f' ({holder})' if holder else ''}; "
                "hint: wait for it, stop it, or insist with `run --take-over`"
            ) from None
        except OSError as error:
            raise StoreError(f"{self.store}: cannot be written: {error.strerror or error}") from None
        try:
            with suppress(OSError):  # It is only told to a second launcher.
                path.with_suffix(".pid").write_text(Launcher.here(self.root).text())
            yield
        finally:
            path.with_suffix(".pid").unlink(missing_ok=True)
            lock.release()

    def holder(self, study: str) -> Launcher | None:
        """Return the launcher that holds the study's lock; None where none does, or it has left no name."""
        return Launcher.read(_read(self._lock_path(study).with_suffix(".pid"))) if self.is_running(study) else None

    def is_running(self, study: str) -> bool:
        """Say whether a launcher is at work on the study now."""
        path = self._lock_path(study)
        if not path.exists():
            return False
        try:
            with FileLock(path, timeout=0):
                return False
        except (Timeout, OSError):
            return True

    def read_costs(self, study: str) -> dict[str, float]:
        """Return what `write_costs` kept, nothing if that cannot be read."""
        try:
            found = json.loads(read_regular(self._costs_path(study), TEXT_BYTES))
            return {str(key): float(seconds) for key, seconds in found.items()}
        except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError):
            return {}

    def write_costs(self, study: str, costs: Mapping[str, float]) -> None:
        """Keep cell key -> expected seconds of one run, so that `status` can tell the time left before any run ends.

        Where that cannot be written, as on a full disk, those from before stand: no result depends on them.
        """
        with suppress(OSError):
            write_whole(self._costs_path(study), json.dumps({**self.read_costs(study), **costs}, indent=1).encode())

    def _costs_path(self, study: str) -> Path:
        return self.store / "costs" / f"{study}.json"

    def _lock_path(self, study: str) -> Path:
        return self.store / "locks" / f"{study}.lock"


def _read(path: Path) -> str:
    try:
        return read_regular(path, TEXT_BYTES).decode().strip()
    except (OSError, ValueError):
        return ""
