"""A study of 24 small cells, a storm of SIGKILLs over it, and all in which it must then equal the calm one."""

import contextlib
import io
import json
import os
import random
import re
import signal
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field

import optuna
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from support.command_line import frame_of, launch_spawned, wait_for
from support.processes import workers_of

from nfstudy.runs.metrics import METRICS
from nfstudy.runs.tracking.store import open_store

RATES = (1e-3, 2e-3, 3e-3, 4e-3)
CELLS_A_RATE = 6
WORKERS = 4
STUDY = """\
study: tiny
title: Chaos
data: {{name: digits, binarisation: dynamic}}
model: {{latent: 3, hidden: 8, layers: 1, maxout: 2}}
objective: {{anneal_updates: 200}}
train: {{updates: {updates}, batch: 50, optimiser: adam, averaging: 0.99, keep: best,
  schedule: {{name: CosineAnnealingLR}}}}
evaluation: {{samples: 8, test_images: 50}}
grid: {{train.learning_rate: {rates}, flow.family: [planar, radial, nice-perm], flow.length: [1, 2]}}
exhibits: [flow-length, learning-curves, samples]
"""
ARGUMENTS = ("run", "tiny.yaml", "--checkpoint-every", "0.2", "--workers")
OF_TRAINING = [name for name, metric in METRICS.items() if metric.split in ("train", "valid")]
OF_RESULTS = [name for name, metric in METRICS.items() if metric.split != "time"]
LAUNCH_SECONDS = 900
SHARE = 1 / 16
"""The mean time between two kills of a full storm, as a share of the calm study's: processes get to some work."""


@dataclass
class Storm:
    """What was done to a study."""

    kills: Counter = field(default_factory=Counter)
    """Victim (worker, coordinator, group) -> how often."""
    launches: int = 0


def prepare(folder, updates, rates=RATES):
    """Write the study into a new folder and return it; each learning rate is worth `CELLS_A_RATE` cells."""
    folder.mkdir(parents=True)
    (folder / "tiny.yaml").write_text(STUDY.format(updates=updates, rates=list(rates)))
    return folder


def leave_alone(folder, workers=WORKERS, launch=launch_spawned):
    """Run the study once, undisturbed; return the seconds that its trials took, from the first's start."""
    process = launch(folder, *ARGUMENTS, str(workers))
    wait_for(folder, "starts", LAUNCH_SECONDS)
    begun = time.monotonic()
    wait_for(folder, r"(?m)^\d+ finished in", LAUNCH_SECONDS)
    took = time.monotonic() - begun
    assert process.wait(LAUNCH_SECONDS) == 0, (folder / "out.txt").read_text()
    return took


def rage(folder, kills, seed, interval, workers=WORKERS, launch=launch_spawned):
    """Run the study while SIGKILLs strike its processes, and launch it again whenever it is gone; return what was done.

    Arguments:
        folder: from `prepare`.
        kills: how many; the study may be over before.
        seed: of the moments and victims, as far as those depend on it.
        interval: mean seconds between two kills, of a launch's preparations as well as of its work; a share of what
            `leave_alone` returned, so that a fast machine is struck as often. The first strikes when all are at work.
        workers: how many.
        launch: what starts the study: as users do, or forked.
    """
    random_ = random.Random(seed)
    all_begun = "(?s)" + ".*".join(["starts"] * workers)
    storm, process = Storm(), None
    while True:
        if process is None:
            process = launch(folder, *ARGUMENTS, str(workers))
            storm.launches += 1
            if not storm.kills:
                wait_for(folder, all_begun, LAUNCH_SECONDS)
            elif random_.random() < 0.75:  # Else the preparations are struck too often for there to be any work.
                wait_for(folder, r"starts|\b0 runs to do", LAUNCH_SECONDS)
        try:
            raging = storm.kills.total() < kills
            pause = random_.uniform(0, 2 * interval) if storm.kills else 0
            code = process.wait(pause if raging else LAUNCH_SECONDS)
        except subprocess.TimeoutExpired:
            assert raging, f"still running after {LAUNCH_SECONDS} s"
            victim = strike(process, random_)
            storm.kills += Counter([victim] if victim else [])
            code = process.poll()
        if code == 0:
            return storm
        if code is not None:
            assert code == -signal.SIGKILL, (folder / "out.txt").read_text()
            process = None


def strike(process, random_):
    """Kill a worker, or now and then the coordinator alone or with all its workers; return which, if any was there."""
    victim = random_.choices(["worker", "coordinator", "group"], [12, 2, 1])[0]
    if victim == "worker":
        workers = workers_of(process.pid)
        with contextlib.suppress(ProcessLookupError):
            if workers:
                os.kill(random_.choice(workers), signal.SIGKILL)
                return victim
        return None
    if victim == "group":
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
    return victim


def assert_whole(folder, cells):
    """Hold that every cell is there exactly once, and that nothing is left over."""
    frame = frame_of(folder)
    assert set(frame["outcome"]) <= {"finished", "killed"}
    finished = frame[frame["outcome"] == "finished"]
    assert len(finished) == finished["cell"].nunique() == cells
    runs = open_store(f"sqlite:///{folder}/mlruns/mlflow.db")
    for run_id, cell in finished[["run_id", "cell"]].itertuples(index=False):
        attempt = runs.client.get_run(run_id).data.tags["nfstudy.attempt"]
        assert int(attempt) == (frame["cell"] == cell).sum()
    storage = JournalStorage(JournalFileBackend(str(folder / "mlruns" / "optuna" / "tiny.journal")))
    (study,) = optuna.get_all_study_summaries(storage)
    trials = optuna.load_study(study_name=study.study_name, storage=storage).trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * cells
    assert not list((folder / "mlruns" / "checkpoints").rglob("*.*")), "a checkpoint was left"


def results_of(folder):
    """Return cell -> its exact numbers, every point of its curves, its weights."""
    runs = open_store(f"sqlite:///{folder}/mlruns/mlflow.db").runs("tiny")
    frame = runs.frame()
    finished = frame[frame["outcome"] == "finished"].set_index("run_id")
    history = runs.history(list(finished.index), OF_TRAINING)
    found = {}
    for run_id, points in history.groupby("run_id"):
        row = finished.loc[run_id]
        weights = torch.load(io.BytesIO(runs.artifact(run_id, "checkpoint.pt")), weights_only=True)
        found[row["cell"]] = {
            "numbers": [float(row[name]).hex() for name in OF_RESULTS],
            "curves": [
                (m, u, float(v).hex()) for m, u, v in points[["metric", "update", "value"]].itertuples(index=False)
            ],
            "weights": {name: value.numpy().tobytes() for name, value in weights.items()},
            "pictures": [runs.artifact(run_id, name) for name in ("samples.png", "reconstructions.png")],
        }
    return found


def report_of(folder):
    """Return name -> bytes of the report, but for what must differ: run ids stand as their cells, attempts as N."""
    frame = frame_of(folder)
    names = {run_id: f"run of {cell}" for run_id, cell in frame[["run_id", "cell"]].itertuples(index=False)}
    ids = re.compile("|".join(names).encode())
    files, root = {}, folder / "reports" / "tiny"
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        content = ids.sub(lambda found: names[found[0].decode()].encode(), path.read_bytes())
        content = re.sub(
            rb'<td class="number">\d+</td><td class="id">', b'<td class="number">N</td><td class="id">', content
        )
        content = re.sub(rb"\| finished \| \d+ \|", b"| finished | N |", content)
        files[str(path.relative_to(root))] = content
    manifest = json.loads(files.pop("manifest.json"))
    manifest["files"] = sorted(manifest["files"])  # Their digests are those of bytes with run ids.
    for exhibit in manifest["exhibits"].values():
        exhibit["runs"].sort()
    return files | {"manifest.json": json.dumps(manifest).encode()}


def differences(calm, disturbed):
    """Return in words where a disturbed study differs from the calm one; nothing is the promise."""
    found = []
    first, second = results_of(calm), results_of(disturbed)
    for cell in sorted(first.keys() | second.keys()):
        a, b = first.get(cell, {}), second.get(cell, {})
        found += [f"cell {cell}: {what}" for what in a.keys() | b.keys() if a.get(what) != b.get(what)]
    first, second = report_of(calm), report_of(disturbed)
    return found + [f"report: {name}" for name in first.keys() | second.keys() if first.get(name) != second.get(name)]
