"""A small study, a storm over its processes, and all in which it must then equal the study that was left alone."""

import contextlib
import io
import json
import os
import random
import re
import resource
import signal
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import optuna
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from support.command_line import frame_of, launch_spawned, wait_for
from support.processes import workers_of

from chaos.kinds import Kind
from nfstudy.runs.metrics import METRICS
from nfstudy.runs.tracking.store import open_store

WORKERS = 4
CALM, HANGING = 600, 20
"""Seconds without a word after which a worker is taken to hang, in a calm study and in a storm."""
OF_TRAINING = [name for name, metric in METRICS.items() if metric.split in ("train", "valid")]
OF_RESULTS = [name for name, metric in METRICS.items() if metric.split != "time"]
LAUNCH_SECONDS = 900
SHARE = 1 / 16
"""The mean time between two strikes of a full storm, as a share of the calm study's: processes get to some work."""
KILLS = {"worker": 12, "coordinator": 2, "group": 1}
"""SIGKILL to a worker, to the coordinator alone, or to it with all its workers -> how often, in parts."""
TROUBLES = KILLS | {"pause": 4, "hang": 1, "starve": 2}
"""As well: SIGSTOP to a worker or the coordinator and SIGCONT after a while, SIGSTOP to a worker for ever, and no more
memory for a worker for a while."""


@dataclass
class Storm:
    """What was done to a study."""

    strikes: Counter = field(default_factory=Counter)
    """Of `TROUBLES` -> how often."""
    launches: int = 0

    @property
    def kills(self):
        """How many SIGKILLs struck."""
        return sum(self.strikes[victim] for victim in KILLS)


def prepare(folder, kind: Kind, updates):
    """Write a study of a kind into a new folder and return the folder."""
    folder.mkdir(parents=True)
    (folder / "tiny.yaml").write_text(kind.text(updates))
    return folder


def leave_alone(folder, workers=WORKERS, launch=launch_spawned):
    """Run the study once, undisturbed; return the seconds that its trials took, from the first's start."""
    process = launch(folder, *_arguments(workers, CALM))
    wait_for(folder, "starts", LAUNCH_SECONDS)
    begun = time.monotonic()
    wait_for(folder, r"(?m)^\d+ (finished|pruned)\b.* in ", LAUNCH_SECONDS)
    took = time.monotonic() - begun
    assert process.wait(LAUNCH_SECONDS) == 0, (folder / "out.txt").read_text()
    return took


def rage(folder, kills, seed, interval, workers=WORKERS, troubles=KILLS, launch=launch_spawned):
    """Strike at a study's processes while it runs, and launch it again whenever it is gone; return what was done.

    Arguments:
        folder: from `prepare`.
        kills: how many SIGKILLs; the study may be over before.
        seed: of the moments and victims, as far as those depend on it.
        interval: mean seconds between two strikes, at a launch's preparations as well as at its work; a share of what
            `leave_alone` returned, so that a fast machine is struck as often. The first strikes when all are at work.
        workers: how many.
        troubles: kind of strike -> how often, in parts.
        launch: what starts the study: as users do, or forked.
    """
    random_ = random.Random(seed)
    all_begun = "(?s)" + ".*".join(["starts"] * workers)
    storm, process = Storm(), None
    while True:
        if process is None:
            process = launch(folder, *_arguments(workers, HANGING))
            storm.launches += 1
            if not storm.kills:
                wait_for(folder, all_begun, LAUNCH_SECONDS)
            elif random_.random() < 0.75:  # Else the preparations are struck too often for there to be any work.
                wait_for(folder, r"starts|\b0 runs to do", LAUNCH_SECONDS)
        try:
            raging = storm.kills < kills
            pause = random_.uniform(0, 2 * interval) if storm.strikes else 0
            code = process.wait(pause if raging else LAUNCH_SECONDS)
        except subprocess.TimeoutExpired:
            assert raging, f"still running after {LAUNCH_SECONDS} s: {(folder / 'out.txt').read_text()[-2000:]}"
            struck = strike(process, random_, troubles, interval)
            storm.strikes += Counter([struck] if struck else [])
            code = process.poll()
        if code == 0:
            return storm
        if code is not None:
            assert code == -signal.SIGKILL, (folder / "out.txt").read_text()
            process = None


def strike(process, random_, troubles, interval):
    """Strike once; return how, or None where nothing was there to be struck."""
    how = random_.choices([*troubles], [*troubles.values()])[0]
    workers = workers_of(process.pid)
    victim = random_.choice(workers) if workers else None
    if how == "group":
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    elif how == "coordinator":
        process.kill()
        process.wait()
    elif how == "pause":
        victim = random_.choice([process.pid, *workers])
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGSTOP)
            time.sleep(random_.uniform(0, 2 * interval))
            os.kill(victim, signal.SIGCONT)
    elif victim is None:
        return None
    elif how == "starve":
        _starve(victim, random_.uniform(0, 2 * interval))
    else:
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGSTOP if how == "hang" else signal.SIGKILL)
    return how


def _starve(pid, seconds):
    """Let a process have no more memory for a while: what it asks for is refused."""
    with contextlib.suppress(OSError):
        limits = resource.prlimit(pid, resource.RLIMIT_AS)
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
        resource.prlimit(pid, resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGE_SIZE"), limits[1]))
        time.sleep(seconds)
        resource.prlimit(pid, resource.RLIMIT_AS, limits)


def _arguments(workers, hanging):
    options = ["--checkpoint-every", "0.2", "--retries", "1000", "--worker-timeout", str(hanging)]
    return ["run", "tiny.yaml", *options, "--workers", str(workers)]


def assert_whole(folder, calm=None):
    """Hold that every trial is there exactly once, that nothing is left over, and that a calm study has the same."""
    frame = frame_of(folder)
    assert set(frame["outcome"]) <= {"finished", "pruned", "killed", "failed"}
    names = ["cell", "stage", "index", "settings"]
    ended = frame[frame["outcome"].isin(["finished", "pruned"])]
    assert not ended.duplicated(names).any(), "a trial was done twice"
    runs = open_store(f"sqlite:///{folder}/mlruns/mlflow.db")
    attempts = frame.groupby(names).size()
    for run_id, *trial in ended[["run_id", *names]].itertuples(index=False):
        assert int(runs.client.get_run(run_id).data.tags["nfstudy.attempt"]) == attempts[tuple(trial)]
    checkpoints = folder / "mlruns" / "checkpoints"
    left = sorted(str(path.relative_to(checkpoints)) for path in checkpoints.glob("tiny/**/*"))
    assert not left, f"a checkpoint was left: {left}"
    if calm:
        assert trials_of(folder) == trials_of(calm)


def trials_of(folder):
    """Return Optuna study -> how each of its trials ended, and with which values."""
    storage = JournalStorage(JournalFileBackend(str(folder / "mlruns" / "optuna" / "tiny.journal")))
    found = {}
    for name in sorted(optuna.get_all_study_names(storage)):
        trials = optuna.load_study(study_name=name, storage=storage).trials
        assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
        found[name] = [(trial.state.name, trial.params, trial.value) for trial in trials]
    return found


def results_of(folder):
    """Return trial -> its outcome, exact numbers, every point of its curves, its weights and pictures."""
    runs = open_store(f"sqlite:///{folder}/mlruns/mlflow.db").runs("tiny")
    frame = runs.frame()
    ended = frame[frame["outcome"].isin(["finished", "pruned"])].set_index("run_id")
    history = runs.history(list(ended.index), OF_TRAINING)
    found = {}
    for run_id, points in history.groupby("run_id"):
        row = ended.loc[run_id]
        files = ()
        weights = {}
        if row["outcome"] == "finished" and row["stage"] == "repetition":
            files = ("samples.png", "reconstructions.png")
            weights = torch.load(io.BytesIO(runs.artifact(run_id, "checkpoint.pt")), weights_only=True)
        found[tuple(row[["cell", "stage", "index", "settings"]])] = {
            "outcome": row["outcome"],
            "numbers": [float(row.get(name, "nan")).hex() for name in OF_RESULTS],
            "curves": [
                (m, u, float(v).hex()) for m, u, v in points[["metric", "update", "value"]].itertuples(index=False)
            ],
            "weights": {name: value.numpy().tobytes() for name, value in tensors(weights).items()},
            "pictures": [runs.artifact(run_id, name) for name in files],
        }
    return found


def tensors(tree, prefix=""):
    """Return dotted name -> tensor of what may be nested."""
    found = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            found |= tensors(value, f"{prefix}{name}.")
        elif isinstance(value, torch.Tensor):
            found[f"{prefix}{name}"] = value
    return found


def report_of(folder):
    """Return name -> bytes of the report, but for what must differ: run ids stand as their trials, and no attempts."""
    frame = frame_of(folder)
    trials = frame[["run_id", "cell", "stage", "index"]].itertuples(index=False)
    names = {run_id: f"run of {cell} {stage} {index}" for run_id, cell, stage, index in trials}
    ids = re.compile("|".join(names).encode())
    files, root = {}, folder / "reports" / "tiny"
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        content = ids.sub(lambda found: names[found[0].decode()].encode(), path.read_bytes())
        # Its runs with their attempts: `results_of` and `assert_whole` hold those.
        content = re.sub(rb'<section id="runs">.*?</section>', b"", content, flags=re.DOTALL)
        content = re.sub(rb"\n## Runs\n.*?(?=\n## )", b"", content, flags=re.DOTALL)
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
    for trial in sorted(first.keys() | second.keys()):
        a, b = first.get(trial, {}), second.get(trial, {})
        found += [f"{trial}: {what}" for what in a.keys() | b.keys() if a.get(what) != b.get(what)]
    first, second = report_of(calm), report_of(disturbed)
    return found + [f"report: {name}" for name in first.keys() | second.keys() if first.get(name) != second.get(name)]
