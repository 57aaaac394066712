"""The most memory that a trial held: of the device on CUDA, else of this process."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import torch

_STATUS, _REFERENCES = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def reset_peak_memory(device: str) -> None:
    """Begin anew: what was held before, as by an earlier trial of the same process, does not count."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):
        _REFERENCES.write_text("5")


def peak_memory(device: str) -> float | None:
    """Return the most since then, in MB (10⁶ bytes); None where the system does not tell, as outside Linux."""
    if device.startswith("cuda"):
        return float(torch.cuda.max_memory_allocated(device)) / 1e6
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text())
    except OSError:
        return None
    return int(found.group(1)) * 1024 / 1e6 if found else None
