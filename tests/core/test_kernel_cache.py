"""Numba's cache holds nothing older than what is compiled into it, and nothing damaged."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import nfstudy

pytestmark = pytest.mark.slow

ONE_STEP = """
import torch
from nfstudy.flows.radial.kernel import RadialChain
generator = torch.Generator().manual_seed(0)
z, steps = (torch.randn(*shape, generator=generator) for shape in ((2, 5, 40), (3, 7, 40)))
print(*(x.double().sum().item() for x in RadialChain.apply(z, steps, True)))
"""


def run_in(folder):
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    environment["PYTHONPATH"] = str(folder)
    done = subprocess.run(
        [sys.executable, "-c", ONE_STEP], env=environment, cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_loop_is_never_older_than_the_parts_that_other_files_hold(tmp_path):
    ignored = shutil.ignore_patterns("__pycache__")
    package = shutil.copytree(Path(nfstudy.__file__).parent, tmp_path / "nfstudy", ignore=ignored)
    part = package / "core" / "kernels" / "elementary.py"
    text = part.read_text()
    before = run_in(tmp_path)
    assert [*package.rglob("*.nbc")], "nothing was cached"
    part.write_text(text.replace("6.93147180369123816490e-01", "6.8e-01"))
    assert part.read_text() != text
    stamp = part.stat()
    changed = run_in(tmp_path)
    assert changed != before
    part.write_text(text)
    os.utime(part, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # A checkout may give any time.
    assert run_in(tmp_path) == before
    for number, path in enumerate(sorted(package.rglob("*.nb[ci]"))):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if number % 2 else b"")
    assert run_in(tmp_path) == before
