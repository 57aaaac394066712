"""Which CUDA devices there are, without loading torch, which takes a launcher seconds."""

from __future__ import annotations

import ctypes
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

DRIVER = "libcuda.so.1"


@cache
def count_devices() -> int:
    """Return how many devices torch could use here: 0 without a driver, or of a torch that is built for CPUs."""
    if not _torch_knows_cuda():
        return 0
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        return 0
    number = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(number)):
        return 0
    return number.value


def _torch_knows_cuda() -> bool:
    """Say whether torch is built for CUDA, which its `version.py` tells: `cuda: str | None = '13.0'`."""
    spec = find_spec("torch")
    if not spec or not spec.origin:
        return False
    try:
        text = Path(spec.origin).with_name("version.py").read_text()
    except OSError:
        return False
    return re.search(r"^cuda\b[^=\n]*=\s*['\"]", text, re.MULTILINE) is not None
