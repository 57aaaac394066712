"""The values that arguments may take, and what several commands share."""

from __future__ import annotations

import argparse
import math
import re
import shlex
import sys
from contextlib import suppress
from pathlib import Path

from nfstudy.core.devices import count_devices
from nfstudy.core.errors import UserError, printable, without_secrets
from nfstudy.core.project import Project, variable
from nfstudy.core.sqlite_uri import SQLITE, sqlite_path, sqlite_uri
from nfstudy.core.suggest import did_you_mean


def program() -> str:
    """Return the command as it was typed: `nfstudy` of the installed script, else `python -m nfstudy`."""
    return "nfstudy" if Path(sys.argv[0]).stem == "nfstudy" else "python -m nfstudy"


def retyped(options: argparse.Namespace) -> str:
    """Return the command that goes on with what was stopped: the same one, but that nothing is taken over any more."""
    words = (without_secrets(word) for word in options.typed if word != "--take-over")
    return f"{program()} {shlex.join(words)}"


def count(text: str, least: int = 1) -> int:
    """Return a whole number from `least`; the type of an argument."""
    with suppress(ValueError):
        if (value := int(text)) >= least:
            return value
    raise argparse.ArgumentTypeError(f"got {text}; expected: a whole number from {least}")


def count_from_0(text: str) -> int:
    """Return a whole number from 0."""
    return count(text, 0)


def share(text: str) -> float:
    """Return a share of one GPU, from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"got {text}; expected: a share of one GPU, from 0 to 1")
    return value


def seconds(text: str) -> float:
    """Return a number of seconds from 0."""
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"got {text}; expected: a number of seconds from 0")
    return value


def hours(text: str) -> float:
    """Return a number of hours above 0."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"got {text}; expected: a number of hours above 0")
    return value


def positive_seconds(text: str) -> float:
    """Return a number of seconds above 0."""
    if not (value := seconds(text)):
        raise argparse.ArgumentTypeError(f"got {text}; expected: a number of seconds above 0")
    return value


def port(text: str) -> int:
    """Return the number of a port that can be listened on."""
    value = int(text)
    if not 1 <= value <= 65535:
        raise argparse.ArgumentTypeError(f"got {text}; expected: a port, from 1 to 65535")
    return value


def hosts(text: str) -> tuple[str, ...]:
    """Return the names of hosts, separated by commas."""
    found = tuple(name.strip() for name in text.split(",") if name.strip())
    if not found or any(re.search(r"[\s/@]", name) for name in found):
        raise argparse.ArgumentTypeError(f"got '{text}'; expected: host names, separated by commas, such as a.org,b:*")
    return found


WORKERS_OF_DEVICE = 4
"""Trials that a CUDA device trains side by side. On an H200, four planar chains did 3,900 updates a second in all,
their start included, nine models 2,900 and eighteen 2,800: their threads wait for one another, not for the device."""


def check_device(device: str, engine: str = "local") -> None:
    """Raise UserError for what is no device's name, or for one that is not here; those of a cluster are elsewhere."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        hint = did_you_mean(device, ("auto", "cpu", "cuda"))
        raise UserError(f"--device {device}: expected: auto, cpu, cuda, cuda:N{hint}")
    if engine == "local" and device.startswith("cuda") and not int(device[5:] or 0) < (count := count_devices()):
        here = ", ".join(("auto", "cpu", *(["cuda"] if count else []), *(f"cuda:{n}" for n in range(count))))
        raise UserError(f"--device {device}: torch finds no such device; expected one that is here: {here}")


def device_here(device: str) -> str:
    """Return a device of this machine: what `auto` stands for, else the one that is named."""
    return ("cuda" if count_devices() else "cpu") if device == "auto" else device


def count_workers(asked: int | None, threads: int, device: str) -> int:
    """Return how many workers there are to be: as asked for, as a CUDA device has use for, or as fit the cores."""
    from nfstudy.runs.provenance import usable_cores

    return asked or (WORKERS_OF_DEVICE if device.startswith("cuda") else max(usable_cores() // threads, 1))


def check_engine(engine: str, device: str, gpus: float) -> None:
    """Raise UserError for a device or a share of one that the engine cannot give."""
    if engine == "local" and gpus:
        raise UserError(f"--gpus {gpus:g}: expected: with --engine ray, which hands GPUs out")
    if engine == "ray" and device.startswith("cuda") and (not gpus or device != "cuda"):
        raise UserError(f"--device {device}: expected with --engine ray: auto, cpu, or cuda with --gpus")


def tell(line: str) -> None:
    """Print what people should know beside what was asked for, such as the runs that are left out."""
    print(f"note: {printable(line)}", file=sys.stderr, flush=True)


def nearby(path: Path) -> str:
    """Return a path as seen from the current folder, where it is below it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_absolute() and path.is_relative_to(here) else str(path)


def find_store(asked: str | None, always: bool = False) -> tuple[Project, str]:
    """Return the project of the current folder and the address of its store, and say on stderr which store that is.

    Arguments:
        asked: the address that the user gave, if any.
        always: say so also of the store in the current folder's own `mlruns/`.

    Raises:
        StoreError: `mlruns` is no folder, or the address is none that can be opened.
    """
    from nfstudy.runs.tracking.reach import require_address

    project = Project.find()
    uri = project.tracking_uri(asked)
    require_address(uri)
    own = uri == Project(Path.cwd().resolve()).tracking_uri(asked)
    adopted = not own and uri == sqlite_uri(project.store / "mlflow.db")
    if always or not own or variable("MLFLOW_TRACKING_URI"):
        why = f" (of the nearest folder above that holds mlruns: {project.root})" if adopted else ""
        print(f"store: {shown_store(uri)}{why}", file=sys.stderr, flush=True)
    return project, uri


def shown_store(uri: str) -> str:
    """Return a store's address for people: a file as a path, another without user name and password."""
    return printable(nearby(sqlite_path(uri)) if uri.startswith(SQLITE) else uri)


def warn_of_unknown_code() -> None:
    """Say on stderr if the code that runs are logged with is not known."""
    from nfstudy.runs.code import code_state

    if problem := code_state().problem:
        print(
            f"warning: the commit of nfstudy, or what was changed since, is not known: {printable(problem)}; "
            "runs and reports will say so",
            file=sys.stderr,
            flush=True,
        )
