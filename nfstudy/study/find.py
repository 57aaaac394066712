"""Which study files are meant: by path, by folder, or by the name of one that is here or comes with the package."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from nfstudy.core.errors import SpecError
from nfstudy.core.suggest import did_you_mean
from nfstudy.study.reader import read_studies, read_study, study_files
from nfstudy.study.spec import StudySpec

PACKAGE = Path(__file__).resolve().parents[1]


@cache
def shipped_studies() -> dict[str, Path]:
    """Return name -> file of the studies that come with the package: those of the wheel, or a checkout's `studies/`."""
    folders = (PACKAGE / "studies", PACKAGE.parent / "studies")
    folder = next((folder for folder in folders if (folder / "quickstart.yaml").is_file()), folders[0])
    return {path.stem: path for path in sorted(folder.glob("*.yaml"), key=lambda path: path.stem)}


def find_study(named: Path | str, root: Path) -> Path:
    """Return the file of a study that is named by its path, or by its name alone.

    A name is looked for as `NAME.yaml` (or `.yml`) and `studies/NAME.yaml` in the current folder, then in the
    project's, then among the shipped studies: a local file goes before.

    Arguments:
        named: what was asked for; a path is returned as it is.
        root: the project's folder.

    Raises:
        SpecError: a name alone that is nowhere.
    """
    path = Path(named)
    if path.is_file() or path.name != str(named) or path.suffix or not path.name:
        return path
    folders = (Path(), Path("studies"), root, root / "studies")
    places = [folder / f"{named}{end}" for folder in folders for end in (".yaml", ".yml")]
    shipped = shipped_studies()
    if path.name in shipped:
        places.append(shipped[path.name])
    for place in places:
        if place.is_file():
            return place
    if merger := _merger(path.name):
        study, budget = merger
        raise SpecError(f"{named}: no such study any more; hint: it is the budget {budget} of {study.study} now")
    hint = did_you_mean(path.name, [*shipped, *(each.stem for folder in folders for each in study_files(folder))])
    raise SpecError(f"{named}: no such study; expected: a study file, or one of {', '.join(shipped)}{hint}")


def study_now(name: str) -> str:
    """Return the study that runs logged as those of some study are of now: itself, or what it was merged into."""
    if name in shipped_studies():
        return name
    merger = _merger(name)
    return merger[0].study if merger else name


def _merger(name: str) -> tuple[StudySpec, str] | None:
    """Return the shipped study, and which budget of it was formerly a study of some name; None where none was."""
    for path in shipped_studies().values():
        if name.encode() not in path.read_bytes():
            continue
        study = read_study(path)
        for budget, changes in study.budgets.items():
            if changes.formerly and changes.formerly.study == name != study.study:
                return study, budget
    return None


def find_studies(named: Sequence[Path | str], root: Path) -> dict[Path, StudySpec]:
    """Read the studies of files, folders and names; of none, those of the project, or else the shipped ones.

    Arguments:
        named: files, folders of files, or names as `find_study` takes them.
        root: the project's folder, whose studies are in `studies/`.

    Raises:
        SpecError: one is nowhere or not valid, a folder holds none, or two have one name.
    """
    if not named:
        own = root / "studies"
        return read_studies(own if own.is_dir() else next(iter(shipped_studies().values())).parent)
    found: dict[Path, StudySpec] = {}
    for each in named:
        if Path(each).is_dir():
            found |= read_studies(Path(each))
        else:
            path = find_study(each, root)
            found[path] = read_study(path)
    counts = Counter(study.study for study in found.values())
    for path, study in found.items():
        if counts[study.study] > 1:
            raise SpecError(f"{path}: study: got '{study.study}' as in another file; expected: one file per study")
    return found
