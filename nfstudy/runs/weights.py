"""What a file of trained weights says of itself: which run it is of, with which settings; free of torch.

The file is the one that `torch.save` writes of a state dict, a zip archive, with one more member, `nfstudy.json`.
Whoever knows nothing of it loads the weights with `torch.load` all the same.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from typing import Any

from nfstudy.core.errors import UserError
from nfstudy.runs.frame import param_text
from nfstudy.study.cells import Trial

WEIGHTS = "checkpoint.pt"
"""The file's name among those of a run."""
MEMBER = "nfstudy.json"
"""Its place in the archive, in the folder of torch's own members."""
FORMAT, FORMAT_VERSION = "nfstudy weights", 1
LONGEST = 1_000_000
"""Bytes of a description; a longer one is none of ours."""


def describe_weights(content: bytes, trial: Trial, run_id: str, version: str) -> bytes:
    """Return a file of weights that says what it is; what is no file of `torch.save` stays as it is.

    Arguments:
        content: the file.
        trial: what was trained.
        run_id: of the run that it is a file of.
        version: nfstudy's.
    """
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return content
    settings = {path: param_text(value) for path, value in trial.settings.flat().items()}
    said = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "nfstudy": version,
        "run_id": run_id,
        "study": trial.study,
        "cell": trial.cell.key,
        "stage": trial.stage,
        "index": trial.index,
        "settings": settings,
    }
    file = io.BytesIO(content)
    with zipfile.ZipFile(file, "a") as archive:
        # Beside torch's own members, or it reads none of them; and without a date: the same run has the same bytes.
        folder = archive.namelist()[0].partition("/")[0]
        archive.writestr(zipfile.ZipInfo(f"{folder}/{MEMBER}"), json.dumps(said, indent=1, ensure_ascii=False))
    return file.getvalue()


def read_description(content: bytes) -> dict[str, Any] | None:
    """Return what a file of weights says of itself; None where it says nothing, as those of before version 0.2.

    Raises:
        UserError: it is no file of weights, or its description cannot be read.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            found = next((info for info in archive.infolist() if info.filename.partition("/")[2] == MEMBER), None)
            if not found:
                return None
            if found.file_size > LONGEST:
                raise ValueError("a description longer than any of ours")
            said = json.loads(archive.read(found))
        if not isinstance(said, dict) or not isinstance(said.get("settings"), dict):
            raise ValueError("no object with settings")
    except (zipfile.BadZipFile, ValueError, RecursionError, NotImplementedError, EOFError) as error:
        raise UserError(f"{WEIGHTS}: cannot be read: {error}; expected: weights that a run of nfstudy saved") from None
    return said


def check_description(said: Mapping[str, Any] | None, run_id: str, params: Mapping[str, str]) -> None:
    """Hold what a file says of itself to the run that it was found at.

    Arguments:
        said: from `read_description`; None is taken for the file of an old run.
        run_id: the id by which the run is known, that of where it was logged.
        params: dotted path -> text of the settings that the run logged.

    Raises:
        UserError: it is of a later format, of another run or of other settings.
    """
    if said is None:
        return
    form = (said.get("format"), said.get("format_version"))
    if form != (FORMAT, FORMAT_VERSION):
        raise UserError(
            f"{WEIGHTS}: format: got {form[0]} {form[1]}, written by nfstudy {said.get('nfstudy')}; "
            f"expected: {FORMAT} {FORMAT_VERSION}"
        )
    if said.get("run_id") != run_id:
        raise UserError(f"{WEIGHTS}: run_id: got {said.get('run_id')}; expected: {run_id}")
    for path in sorted(said["settings"].keys() & params.keys()):
        if said["settings"][path] != params[path]:
            raise UserError(f"{WEIGHTS}: {path}: got {said['settings'][path]}; expected: {params[path]}, as logged")
