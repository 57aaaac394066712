"""Checkpoints of a trial under way: one file a trial, written at intervals, from which a killed run goes on.

A file is one line of JSON (format, trial, seconds, what trained it, SHA-256 of the rest) and then
the state that `training` makes of itself, as bytes. It appears by a rename, after it has reached the disk, so the one
before it stands until then. Free of torch, for the coordinator looks after these files too.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from nfstudy.core.atomic import draft_of, sweep
from nfstudy.core.reading import regular
from nfstudy.inference.training.stop import StopRequest
from nfstudy.runs.code import UNKNOWN
from nfstudy.runs.result import Notice, Resumed
from nfstudy.study.cells import Identity, Trial

FORMAT = 1
"""Raised when files of before cannot be read any more."""
ENDING = ".checkpoint"
LONGEST_HEAD = 10_000
"""Bytes; what has no end of line by then is no checkpoint."""


MADE_BY = ("device", "threads", "torch")
"""What trained a trial, beside the code, and may change its last bits: the torch device, the threads of an operation,
and the version of torch; each a tag of its run."""

LARGEST = 2**30
"""Bytes; those of the paper's largest model are some 40 MB."""


class CheckpointError(Exception):
    """A checkpoint that cannot be used; the trial starts from its beginning."""


@dataclass(frozen=True)
class CheckpointPlan:
    """Where a trial's checkpoint is, and how often it is written; travels to the worker with the trial."""

    path: Path
    every: float
    """Seconds between two."""


def checkpoint_path(folder: Path, identity: Identity) -> Path:
    """Return the file of a trial in the folder of its study's checkpoints."""
    return folder / ("-".join(map(str, identity)) + ENDING)


def prune_checkpoints(folder: Path, done: Collection[Identity]) -> None:
    """Remove the checkpoints of trials that are done, and drafts that a kill has left; nobody may be writing there."""
    names = {checkpoint_path(folder, identity).name for identity in done}
    sweep(folder)
    for path in folder.glob(f"*{ENDING}") if folder.is_dir() else ():
        if path.name in names:
            path.unlink(missing_ok=True)


def checkpoint_key(trial: Trial, fingerprint: str) -> dict[str, str | int]:
    """Return what must be equal for a trial to go on from a checkpoint.

    Arguments:
        trial: the trial; its identity holds the version of the keys, which changes when numbers do.
        fingerprint: of its data set, empty where it has none.
    """
    cell, stage, index, settings = trial.identity
    return {"cell": cell, "stage": stage, "index": index, "settings": settings, "data": fingerprint}


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds."""

    seconds: float
    """Wall clock that it has taken."""
    state: bytes
    code: tuple[str, ...] = ()
    """The digests of the sources that trained it, in order; of before these were kept, `UNKNOWN`."""
    made_by: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Name of `MADE_BY` -> what trained it, in order; nothing of before that was kept."""


def write_checkpoint(path: Path, trial: Mapping[str, str | int], checkpoint: Checkpoint) -> None:
    """Put a checkpoint in the place of the one before, at once and for good; raises OSError and leaves that one."""
    digest = hashlib.sha256(checkpoint.state).hexdigest()
    head = {
        "format": FORMAT,
        "trial": trial,
        "seconds": checkpoint.seconds,
        "code": checkpoint.code,
        "made_by": checkpoint.made_by,
        "sha256": digest,
    }
    # Its folder was made with the trial; one that is gone has been moved, with the checkpoints of before.
    with draft_of(path, durable=True, make_folder=False) as draft, draft.open("wb") as file:
        file.write(json.dumps(head).encode() + b"\n")
        file.write(checkpoint.state)


def read_checkpoint(path: Path, trial: Mapping[str, str | int]) -> Checkpoint | None:
    """Return what a trial's checkpoint holds; None where there is no file.

    Raises:
        CheckpointError: it cannot be read, is truncated, altered, of another format or another trial.
    """
    try:
        with regular(path, LARGEST) as file:
            line = file.readline(LONGEST_HEAD)
            state = file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None
    try:
        head = json.loads(line)
        found = head["format"]
        if found != FORMAT:
            raise CheckpointError(
                f"{path}: a checkpoint of format {found}; expected: {FORMAT}, which this nfstudy writes"
            )
        if hashlib.sha256(state).hexdigest() != head["sha256"]:
            raise CheckpointError(f"{path}: is truncated or altered: its SHA-256 does not match")
        if head["trial"] != trial:
            differing = ", ".join(key for key in trial if head["trial"].get(key) != trial[key])
            raise CheckpointError(f"{path}: belongs to another trial: it differs in {differing}")
        seconds = float(head["seconds"])
        if not 0 <= seconds < math.inf:
            raise CheckpointError(f"{path}: has taken {seconds} seconds; expected: a time")
        code = head.get("code", [UNKNOWN])
        made_by = head.get("made_by", {"device": head.get("devices", [])})
        for name, found in {"code": code, **made_by}.items():
            if not isinstance(found, list):
                raise CheckpointError(f"{path}: its {name} is no list; expected: what trained it, in order")
        histories = {name: tuple(map(str, made_by[name])) for name in MADE_BY if made_by.get(name)}
        return Checkpoint(seconds, state, tuple(map(str, code)), histories)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        raise CheckpointError(f"{path}: is truncated, or not a checkpoint") from None


class Checkpoints:
    """The checkpoints of one trial, as its training sees them."""

    def __init__(
        self,
        plan: CheckpointPlan,
        trial: Mapping[str, str | int],
        tell: Callable[[Notice | Resumed], None],
        stop: StopRequest,
        code: str = "",
        made_by: Mapping[str, str] | None = None,
    ) -> None:
        """Begin the trial's clock.

        Arguments:
            plan: where and how often.
            trial: from `checkpoint_key`.
            tell: told of what people should know.
            stop: what may ask to stop.
            code: the digest of the sources that train it.
            made_by: name of `MADE_BY` -> what else trains it.
        """
        self.earlier = 0.0
        """Wall-clock seconds that earlier attempts spent up to the checkpoint that was resumed."""
        self._plan, self._trial, self._tell, self._stop = plan, trial, tell, stop
        self._code: tuple[str, ...] = (code,)
        """Of all that trained it, in order."""
        self._made_by: dict[str, tuple[str, ...]] = {name: (own,) for name, own in (made_by or {}).items()}
        """Likewise."""
        self._began = self._last = time.monotonic()
        self._failing = False
        with suppress(OSError):  # `save` will tell.
            plan.path.parent.mkdir(parents=True, exist_ok=True)

    @property
    def due(self) -> bool:
        """Whether it is time to save, or somebody waits for it."""
        return self._stop.asked or time.monotonic() - self._last >= self._plan.every

    def load(self, restore: Callable[[bytes], int]) -> None:
        """Go on from the trial's checkpoint if there is one that can be used, and tell of it either way.

        Arguments:
            restore: takes over a state and returns how many updates it had done; raises CheckpointError.
        """
        try:
            if found := read_checkpoint(self._plan.path, self._trial):
                update = restore(found.state)
                self.earlier = found.seconds
                own = self._code[-1]
                others = tuple(code for code in found.code if code != own)
                self._code = (*others, own)
                for name, present in self._made_by.items():
                    before = found.made_by.get(name, ())
                    self._made_by[name] = before if before[-1:] == present else before + present
                several = {name: history for name, history in self._made_by.items() if len(history) > 1}
                self._tell(Resumed(update, others, several))
        except CheckpointError as error:
            self._tell(Notice(f"{error}; starting over"))

    def save(self, state: bytes) -> None:
        """Write a checkpoint; where that fails the one before stands, and the training goes on.

        Raises:
            Stopped: the worker has been asked to stop.
        """
        seconds = self.earlier + time.monotonic() - self._began
        try:
            write_checkpoint(self._plan.path, self._trial, Checkpoint(seconds, state, self._code, self._made_by))
            self._failing = False
        except OSError as error:
            if not self._failing:  # Once, not at every interval.
                words = f"{self._plan.path}: cannot write a checkpoint: {error.strerror or error}"
                self._tell(Notice(f"{words}; continuing without checkpoints"))
            self._failing = True
        self._last = time.monotonic()
        self._stop.check()

    def holding(self) -> AbstractContextManager[None]:
        """Let a request to stop wait, within this context, for the next `save`."""
        return self._stop.held()
