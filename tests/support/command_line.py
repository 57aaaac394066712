"""The command line run for real, for the tests that do: a tiny study, and what came of it in its store."""

import hashlib
import os
import re
import subprocess
import sys
import tempfile
import time

from nfstudy.runs.tracking.store import open_store
from support.fork_server import Command

TINY = """\
study: tiny
title: Tiny
data: {name: digits}
model: {latent: 3, hidden: 8, layers: 1, maxout: 2}
objective: {anneal_updates: 20}
train: {updates: 60, batch: 50, optimiser: adam, learning_rate: 3e-3}
evaluation: {samples: 8, test_images: 50, tight_images: 5, tight_samples: 50}
grid: {flow.family: [planar, nice-perm], flow.length: [0, 2]}
repetitions: 2
exhibits: [summary, flow-length]
"""
NUMBERS = ("test/elbo", "test/nll", "test/nll_mc_se", "test/kl", "valid/elbo", "train/objective")


def nfstudy(folder, *arguments):
    """Run a command in a folder, forked from a process that has imported all; return the finished process."""
    return _finished(folder, arguments, environment=_environment())


def python(folder, code, *arguments, environment=None):
    """Run `python -c code *arguments` in a folder, forked likewise; return the finished process."""
    return _finished(folder, arguments, code=code, environment=environment)


def spawned(folder, *arguments):
    """Run a command as users do, in a new interpreter that spawns its workers; return the finished process."""
    command = [sys.executable, "-m", "nfstudy", *arguments]
    return subprocess.run(command, cwd=folder, env=_environment(), capture_output=True, text=True, check=False)


def launch(folder, *arguments):
    """Start a command in a folder, forked, in a process group of its own, its output in `out.txt`."""
    with open(folder / "out.txt", "w") as output:
        return Command(arguments, folder, output, output, own_session=True)


def launch_spawned(folder, *arguments):
    """Start a command likewise, but as users do, in a new interpreter that spawns its workers."""
    with open(folder / "out.txt", "w") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "nfstudy", *arguments],
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _environment():
    return {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}


def _finished(folder, arguments, **options):
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        code = Command(arguments, folder, stdout, stderr, **options).wait()
        texts = []
        for file in (stdout, stderr):
            file.seek(0)
            texts.append(file.read())
    return subprocess.CompletedProcess(arguments, code, *texts)


def wait_for(folder, pattern, seconds=90):
    """Wait until a launched command has printed something."""
    for _ in range(int(seconds / 0.05)):
        text = (folder / "out.txt").read_text()
        if re.search(pattern, text):
            return text
        time.sleep(0.05)
    raise AssertionError(f"no '{pattern}' in: {text}")


def write_study(folder, text=TINY):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tiny.yaml").write_text(text)
    return folder


def frame_of(folder, study="tiny"):
    return open_store(f"sqlite:///{folder}/mlruns/mlflow.db").runs(study).frame()


def numbers_of(folder):
    """Return `numbers_in` a folder's own store."""
    return numbers_in(frame_of(folder))


def numbers_in(frame):
    """Return (cell, stage, index) -> the exact numbers of every finished run, and that each has one."""
    finished = frame[frame["outcome"] == "finished"]
    keys = [tuple(key) for key in finished[["cell", "stage", "index"]].itertuples(index=False)]
    assert len(set(keys)) == len(keys), "a run that was done was done again"
    assert not (frame["outcome"] == "running").any()
    return dict(zip(keys, finished[list(NUMBERS)].itertuples(index=False, name=None), strict=True))


def digests(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def exhibit_digests(folder):
    """Return those of a report's tables and figures; its pages say whether runs were imported, too."""
    return {name: digest for name, digest in digests(folder).items() if name.startswith(("tables/", "figures/"))}
