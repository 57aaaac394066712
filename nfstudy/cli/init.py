"""`init`: a folder of one's own, with a study to begin with."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from nfstudy.cli.options import nearby, program
from nfstudy.core.atomic import write_whole
from nfstudy.core.errors import UserError

STUDY = "studies/first.yaml"
FILES = {
    STUDY: """\
# A study: which models are trained, how, how often, and what the report shows. Every key can be changed; a mistake is
# reported with its line before anything is trained. All settings: nfstudy's docs/reference.md.
study: first # the name of the study, and of its MLflow experiment
title: "Planar flows on 8x8 digits"
paper: none # no published numbers stand beside these; `rezende2015` would set the paper's there

data:
  name: digits # scikit-learn's, no download; or mnist, cifar10, photos; arrays of your own: {name: file, path: my.npz}
  binarisation: static # grey levels become bits once

model:
  latent: 4 # D, the number of latent variables
  hidden: 32 # units of each layer of both networks
  layers: 1

objective:
  anneal_updates: 300 # β rises from 0.01 to 1 over so many updates; eq. (20)

train:
  updates: 600
  batch: 50
  optimiser: adam # or rmsprop
  learning_rate: 3e-3

grid: # every combination is a cell, trained `repetitions` times; K = 0 under any family is one cell
  flow.family: [planar] # or radial, nice-perm, iaf, sylvester, realnvp, spline, ...; see docs/reference.md
  flow.length: [0, 4, 8] # K

repetitions: 2 # from different seeds; the report gives means and standard errors over them

budgets: # named changes of the above: `run first --budget smoke`
  full: {}
  smoke: {train.updates: 60, repetitions: 1}

exhibits: [summary, flow-length, learning-curves, samples]
""",
    ".gitignore": """\
# Made by nfstudy: runs, reports and downloaded data. Keep a study's runs with `nfstudy export`.
/mlruns/
/reports/
/data/
""",
}


def init(options: argparse.Namespace) -> int:
    """Write a project's files into a folder; what is there already is kept."""
    folder = Path(options.folder)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; expected: a folder, or a name that is free")
    if (folder / STUDY).exists():
        raise UserError(f"{folder / STUDY}: is there already; expected: a folder without it; nothing has been written")
    try:
        (folder / "mlruns").mkdir(parents=True, exist_ok=True)  # By which commands know the project's folder.
        (folder / STUDY).parent.mkdir(exist_ok=True)
        for name, text in sorted(FILES.items(), key=lambda file: file[0] == STUDY):  # Last what says that all is there.
            if not (folder / name).exists():
                write_whole(folder / name, text.encode())
                print(f"wrote {nearby(folder / name)}")
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror or error}") from None
    there = "" if folder.resolve() == Path.cwd() else f"cd {shlex.quote(options.folder)} && "
    print(f"next: {there}{program()} run first")
    return 0
