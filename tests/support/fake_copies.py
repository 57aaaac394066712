"""Runs as archives hold them, made without any store, and archives that are not as `export` writes them."""

import hashlib
import json
import lzma
import math

import numpy as np

from nfstudy.runs.archive.writer import END, FILES, MANIFEST, POINTS, RUNS, pack_points, packed_member, write_archive
from nfstudy.runs.frame import param_text
from nfstudy.runs.whole_run import POINT, DataRecord, RunCopy, RunRecord
from nfstudy.study.cells import Cell, settings_digest
from nfstudy.study.settings import Settings

STUDY = "s"
FITTED = {
    "data": {"name": "digits"},
    "flow": {"family": "planar", "length": 2},
    "train": {"updates": 20, "batch": 200},
}
DATA = DataRecord.of("digits", "ab" * 32, "", {"train": (1000, 64)})
"""Of which an epoch is 5 updates."""
PICTURE, PACKAGES = b"\x89PNG picture", b'{"python": "3.11"}'
CONTENTS = {hashlib.sha256(content).hexdigest(): content for content in (PICTURE, PACKAGES)}


def points(*rows):
    return np.array([*rows], dtype=POINT)


def copy(number, outcome="finished", histories=None, of=None, **tags):
    """Return a run, of the cell of another if it is to be; tags are given without `nfstudy.`."""
    picture, packages = CONTENTS
    histories = histories or {
        "test/nll": points((20, 1_790_000_000_300, 90.25 + number)),
        "train/elbo": points(
            (5, 1_790_000_000_000, -100.5),
            (10, 1_790_000_000_100, math.nan),
            (15, 1_790_000_000_200, -math.inf),
            (20, 1_790_000_000_300, -1e-300),
        ),
    }
    settings = Settings.model_validate({**FITTED, "seed": of or number})
    own = {
        "study": STUDY,
        "budget": "default",
        "cell": Cell(settings.normalized(), "default").key,
        "settings": settings_digest(settings),
        "stage": "repetition",
        "index": "1",
        "point": '{"flow.length": 2}',
        "outcome": outcome,
        "reason": "",
        "update": "20",
        **tags,
    }
    record = RunRecord(
        id=f"{number:032x}",
        name=f"planar K=2 #{number}",
        status={"killed": "KILLED", "failed": "FAILED"}.get(outcome, "FINISHED"),
        started=1_790_000_000_000,
        ended=1_790_000_000_400,
        tags={f"nfstudy.{name}": text for name, text in own.items() if name != "outcome" or outcome != "killed"},
        params={path: param_text(value) for path, value in settings.flat().items()},
        datasets=(DATA,),
        points={metric: len(history) for metric, history in histories.items()},
        files={"environment.json": packages, "samples.png": picture},
    )
    return RunCopy(record, histories)


def small_archive(path, copies=None):
    copies = [copy(1), copy(2, "diverged"), copy(3, "killed")] if copies is None else copies
    write_archive(path, STUDY, "What it is about.", copies, CONTENTS.__getitem__)
    return path


def rebuilt(path, members):
    """Write an archive of named contents, whatever they are."""
    path.write_bytes(lzma.compress(b"".join(part for item in members for part in packed_member(*item)) + END))
    return path


def consistent(path, lines, histories, files, **changes):
    """Write an archive whose sizes, digests and counts agree, whatever its runs and points say."""
    runs = b"".join(line + b"\n" for line in lines)
    packed = pack_points(histories)
    parts = [(RUNS, runs), (POINTS, packed), *((FILES + digest, files[digest]) for digest in sorted(files))]
    manifest = {
        "format": 1,
        "nfstudy": "0.1.0",
        "study": STUDY,
        "description": "",
        "runs": len(lines),
        "points": len(packed) // POINT.itemsize,
        "members": [
            {"name": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in parts
        ],
        **changes,
    }
    return rebuilt(path, [(MANIFEST, json.dumps(manifest).encode()), *parts])
