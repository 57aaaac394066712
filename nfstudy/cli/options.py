"""The values that arguments may take, and what several commands share."""

from __future__ import annotations

import argparse
import math
import re
import sys
from pathlib import Path

from nfstudy.core.errors import UserError, printable
from nfstudy.core.suggest import did_you_mean


def count(text: str, least: int = 1) -> int:
    """Return a whole number from `least`; the type of an argument."""
    value = int(text)
    if value < least:
        raise argparse.ArgumentTypeError(f"got {text}; expected: a whole number from {least}")
    return value


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


def check_device(device: str) -> None:
    """Raise UserError for what is no device's name."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        hint = did_you_mean(device, ("auto", "cpu", "cuda"))
        raise UserError(f"--device {device}: expected: auto, cpu, cuda, cuda:N{hint}")


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
