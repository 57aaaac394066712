"""The runs that the repository ships: archives -> reports and README's results, made from these runs alone.

Kept in git are the archives `mlruns/reference/*.tar.xz` and, of what is made from them, the files of `KEPT` and the
part of README between its markers. These are made from the archives themselves, so that what else the project's store
holds makes no difference.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import accumulate, chain
from pathlib import Path
from typing import NamedTuple

from nfstudy.core.atomic import write_whole
from nfstudy.core.errors import ReportError
from nfstudy.core.project import Project
from nfstudy.core.reading import TEXT_BYTES, read_regular
from nfstudy.report.build import MANIFEST
from nfstudy.report.claims.judge import bodies_of
from nfstudy.report.pages.front_markdown import FrontMarkdown
from nfstudy.report.pages.overview import write_front
from nfstudy.report.pages.readme import results_text
from nfstudy.report.shown import repeated_bodies
from nfstudy.report.statistics.estimates import Results
from nfstudy.runs.archive.manifest import ArchiveError
from nfstudy.runs.archive.reader import Archive, read_archive
from nfstudy.runs.archive.runs import ArchivedRuns
from nfstudy.runs.former import runs_of_study
from nfstudy.runs.result import RESULTS
from nfstudy.runs.tags import Tag
from nfstudy.study.reader import read_studies
from nfstudy.study.spec import StudySpec

ARCHIVES = "reference/*.tar.xz"
"""Below the folder of the project's store."""

KEPT = (
    MANIFEST,
    *(f"{folder}/{name}" for folder in ("*", "*/budget-*") for name in (MANIFEST, "index.md")),
    *(f"{folder}/{name}" for folder in ("*", "*/budget-*") for name in ("figures/*.png", "tables/*.csv")),
)
"""The files of reports that are kept in git, as `reports/.gitignore` has it: what a code host shows, and all digits.

The manifests tell the digests of the others, so that these too are held to what they were.
"""

README = "README.md"
DETAILS = "docs/results.md"
"""Where a project tells each study's numbers, runs and cost, between markers as README's; it need not."""
DETAILS_TO_REPORTS = "../reports/"
FRONT = "index.html"
"""The front page, in the folder of reports."""
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
VERDICT = re.compile("(<!-- verdict: begin -->\n).*?(<!-- verdict: end -->)", re.DOTALL)
"""Where README has the verdict in brief, if it has."""
PICTURE, PICTURED = "docs/report.png", "docs/report.png.of"
"""A picture of the front page, and the SHA-256 of the page that it shows; `tools/screenshot.py` takes it."""
NOTICE = "<!-- Made by `make reference` from the runs in mlruns/reference/; what is changed by hand is lost. -->"


def read_reference(project: Project) -> dict[str, tuple[Archive, ...]]:
    """Read and check the project's archives; return study -> its archives, by their names.

    Raises:
        ArchiveError: there are none, one is not intact, two hold the same run, or one has runs of several budgets, of
            which a report can show one.
    """
    found: dict[str, tuple[Archive, ...]] = {}
    places: dict[str, Path] = {}
    for path in sorted(project.store.glob(ARCHIVES)):
        archive = read_archive(path)
        budgets = sorted({run.record.tags.get(Tag.BUDGET, "") for run in archive.runs})
        if len(budgets) != 1:
            raise ArchiveError(
                f"{path}: has runs of {len(budgets)} budgets ({', '.join(budgets)}); "
                "expected: of one, as `export STUDY FILE --budget NAME` writes them"
            )
        for run in archive.runs:
            if run.record.id in places:
                raise ArchiveError(
                    f"{path}: has run {run.record.id}, as {places[run.record.id].name} has; expected: each run once"
                )
        places |= {run.record.id: path for run in archive.runs}
        study = archive.manifest.study
        found[study] = (*found.get(study, ()), archive)
    if not found:
        raise ArchiveError(f"{project.store / ARCHIVES}: no such archive; expected: files written by `export`")
    return found


def write_reference(project: Project, archives: Mapping[str, Sequence[Archive]]) -> tuple[Path, Path]:
    """Make the reports and README's results; return the paths of the front page and of README.

    Raises:
        ReportError: archives and studies do not fit together, README has no place for the results or cannot be
            written, or a folder of reports holds a manifest that is not a report's.
    """
    before = _documents(project)
    texts = _make(project, archives, project.kept_reports)
    for path, text in _documents_of(before, texts).items():
        try:
            write_whole(path, text.encode())
        except OSError as error:
            raise ReportError(f"{path}: cannot be written: {error.strerror or error}") from None
    return project.kept_reports / FRONT, project.root / README


def stale_parts(project: Project, archives: Mapping[str, Sequence[Archive]]) -> list[str]:
    """Make everything in a temporary folder, and return a line for each kept part that is not as it was made there.

    Raises:
        ReportError: archives and studies do not fit together, or README has no place for the results.
    """
    before = _documents(project)
    with tempfile.TemporaryDirectory() as folder:
        texts = _make(project, archives, Path(folder))
        own = [path.name for path in Path(folder).iterdir() if path.is_dir()]
        made, kept = _kept_files(Path(folder), own), _kept_files(project.kept_reports, own)
        front = (Path(folder) / FRONT).read_bytes()
    differing = sorted(name for name in made.keys() | kept.keys() if made.get(name) != kept.get(name))
    lines = [f"{project.kept_reports.name}/{name}: {_how(name, made, kept)}" for name in differing]
    lines += [
        f"{path.relative_to(project.root).as_posix()}: the results between its markers differ"
        for path, text in _documents_of(before, texts).items()
        if text != before[path]
    ]
    return lines + _stale_picture(project.root, front)


def _documents(project: Project) -> dict[Path, str]:
    """Return README, and the document of results where there is one, each with its text; checks their markers."""
    paths = [project.root / README, *(path for path in [project.root / DETAILS] if path.exists())]
    found = {path: _read(path) for path in paths}
    _documents_of(found, _Texts("", "", ""))
    return found


def _documents_of(before: Mapping[Path, str], texts: _Texts) -> dict[Path, str]:
    """Return the documents with their texts in their places."""
    return {path: (_filled if path.name == README else _detailed)(text, texts) for path, text in before.items()}


def most_at_once(spans: Iterable[tuple[int, int]]) -> int:
    """Return how many spans (begin, end) have a time in common, at most; where one ends and another begins, none."""
    steps = sorted((time, step) for begin, end in spans for time, step in ((begin, 1), (end, -1)))
    return max(accumulate(step for _, step in steps), default=0)


class _Texts(NamedTuple):
    """What is told of the results outside of reports."""

    verdict: str
    """With its figure."""
    evidence: str
    """The table of all bodies of evidence, and the ledger."""
    details: str
    """Each study's numbers, runs and cost."""


def _make(project: Project, archives: Mapping[str, Sequence[Archive]], folder: Path) -> _Texts:
    """Write the studies' reports and the front page into a folder; return what is told of them elsewhere."""
    files = read_studies(project.root / "studies")
    studies = {study.study: study for study in files.values()}
    named = {path.relative_to(project.root).as_posix(): study for path, study in files.items()}
    runs = {name: ArchivedRuns(*archives.get(name, ())) for study in studies.values() for name in study.logged_names}
    _require_owners(studies, archives, runs)
    front = write_front(named, runs.__getitem__, folder)
    found = [shown for own in front.made.values() for shown in repeated_bodies([made.shown for made in own])]
    at_once = {shown.results.name: _at_once(shown.results, chain(*archives.values())) for shown in found}
    text = FrontMarkdown(front)
    return _Texts(text.verdict, text.evidence, results_text(found, at_once, DETAILS_TO_REPORTS))


def _require_owners(
    studies: Mapping[str, StudySpec], archives: Mapping[str, Sequence[Archive]], runs: Mapping[str, ArchivedRuns]
) -> None:
    """Refuse an archive that no study file is of, or of whose runs none belongs to a cell of its study."""
    told = set[str]()
    for study in studies.values():
        own = runs_of_study(study, runs.__getitem__)
        told |= {run_id for body in bodies_of(study, own) for run_id in body.runs["run_id"]}
    for name, archive in ((name, archive) for name, some in archives.items() for archive in some):
        owners = [study.study for study in studies.values() if name in study.logged_names]
        if not owners:
            raise ReportError(
                f"{archive.path}: no study file defines study {name}; expected: {', '.join(sorted(studies))}"
            )
        if not any(run.record.id in told for run in archive.runs):
            raise ReportError(
                f"{archive.path}: its runs belong to no cell of study {owners[0]}; expected: runs of the study "
                "file as it is, and of this version's keys"
            )


def _filled(readme: str, texts: _Texts) -> str:
    """Return README with its texts in their places; the verdict begins the results where it has no place of its own."""
    head, tail = _around_results(readme, README)
    apart = VERDICT.search(head)
    if apart:
        head = VERDICT.sub(lambda found: f"{found[1]}{texts.verdict}\n{found[2]}", head)
    return head + _marked("" if apart else texts.verdict, texts.evidence) + tail


def _detailed(details: str, texts: _Texts) -> str:
    """Return the document of results with its text in its place; as it is where it has none."""
    if BEGIN not in details and END not in details:
        return details
    head, tail = _around_results(details, DETAILS)
    return head + _marked(texts.details) + tail


def _marked(*parts: str) -> str:
    """Return what stands between the markers of results, with them."""
    return "\n\n".join((f"{BEGIN}\n{NOTICE}", *(part.rstrip("\n") for part in parts if part), END))


def _stale_picture(root: Path, front: bytes) -> list[str]:
    """Return a line if the project's picture of the front page shows an earlier one; of no picture, none."""
    if not (root / PICTURE).exists() or _read(root / PICTURED).strip() == hashlib.sha256(front).hexdigest():
        return []
    return [f"{PICTURE}: shows an earlier front page; take it again with: make screenshot"]


def _at_once(results: Results, archives: Iterable[Archive]) -> int:
    """Return how many of a study's runs were under way at the same time, at most; earlier attempts do not count."""
    ids = set(results.runs["run_id"])
    runs = (run.record for archive in archives for run in archive.runs)
    records = [record for record in runs if record.id in ids and record.outcome in RESULTS]
    return most_at_once((record.started, record.ended) for record in records if record.ended is not None)


def _kept_files(folder: Path, studies: Collection[str]) -> dict[str, bytes]:
    """Return name relative to the folder -> content, of the files of `KEPT` of these studies and the front page."""
    paths = (path for pattern in KEPT for path in folder.glob(pattern))
    named = {path.relative_to(folder): path for path in paths}
    return {name.as_posix(): path.read_bytes() for name, path in named.items() if name.parts[0] in (MANIFEST, *studies)}


def _how(name: str, made: Collection[str], kept: Collection[str]) -> str:
    if name not in kept:
        return "is missing"
    return "differs" if name in made else "comes from no reference run"


def _around_results(text: str, name: str) -> tuple[str, str]:
    """Return what stands in a document before and after the results and their markers."""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end) or BEGIN in rest or END in head + tail:
        raise ReportError(
            f"{name}: has no markers for the results; expected: one line {BEGIN} and, below it, one {END}"
        )
    return head, tail


def _read(path: Path) -> str:
    try:
        return read_regular(path, TEXT_BYTES).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ReportError(f"{path}: cannot be read: {error}; expected: text in UTF-8") from None
