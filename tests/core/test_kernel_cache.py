"""Numba's cache holds nothing older than what is compiled into it, and nothing damaged."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

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


def test_options_of_the_compiler_are_part_of_what_an_entry_is_bound_to(monkeypatch):
    from nfstudy.core.kernels import cache

    plain = cache.sources_digest.__wrapped__()
    for name, value in (("OPT", 0), ("LOOP_VECTORIZE", 0), ("BOUNDSCHECK", 1)):
        with monkeypatch.context() as patched:
            patched.setattr(cache.config, name, value)
            assert cache.sources_digest.__wrapped__() != plain
    assert cache.sources_digest.__wrapped__() == plain


@pytest.mark.parametrize("variable", ["NUMBA_DISABLE_JIT", "NUMBA_BOUNDSCHECK"])
def test_a_worker_compiles_whatever_is_set_for_other_programs(variable, monkeypatch):
    from nfstudy.runner.worker import work_variables

    monkeypatch.setenv(variable, "1")
    say = (
        f"from numba import config; import nfstudy.core.kernels.maxout; print(config.{variable.removeprefix('NUMBA_')})"
    )
    for given, said in ((work_variables(1), "0"), ({}, "1")):
        environment = {**os.environ, **given, "PYTHONPATH": str(Path(nfstudy.__file__).parents[1])}
        done = subprocess.run([sys.executable, "-c", say], env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout.strip()) == (0, said), done.stderr


ONE_LOOP = """
import sys
import numpy as np
from nfstudy.core.kernels import cache
cache.COMPILES_WITHIN = float(sys.argv[1])
from nfstudy.core.kernels.maxout import largest
cache.on_compile = lambda loop: print("compiles", loop)
print("ready", flush=True)
sys.stdin.readline()
units = np.empty((2, 3))
largest(np.ones((4, 3)), np.zeros(4), units, np.empty((2, 3), np.int64))
assert (units == 1).all()
"""


def start(cache_folder, seconds):
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(nfstudy.__file__).parents[1]),
        "NUMBA_CACHE_DIR": str(cache_folder),
    }
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = subprocess.Popen([sys.executable, "-c", ONE_LOOP, str(seconds)], env=environment, text=True, **streams)
    assert process.stdout.readline() == "ready\n", process.stderr.read()
    return process


def go(process):
    process.stdin.write("go\n")
    process.stdin.flush()
    return process


def outcome(process):
    said, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    return said


def test_of_processes_that_need_a_loop_at_once_one_compiles_it(tmp_path):
    processes = [start(tmp_path, 100) for _ in range(3)]
    for process in processes:
        go(process)
    assert sorted(map(outcome, processes)) == ["", "", "compiles core.kernels.maxout.largest\n"]


def test_a_process_waits_for_no_other_for_ever(tmp_path):
    assert outcome(go(start(tmp_path, 100))) == "compiles core.kernels.maxout.largest\n"
    (lock,) = tmp_path.rglob("*largest*.lock")
    for entry in tmp_path.rglob("*largest*.nb[ic]"):
        entry.unlink()
    with FileLock(lock):
        assert outcome(go(start(tmp_path, 0.2))) == "compiles core.kernels.maxout.largest\n"


FAILS = """
from pathlib import Path
import sys
from filelock import FileLock
from numba.core.errors import TypingError
from nfstudy.core.kernels.maxout import largest
try:
    largest("no array", 1, 2, 3)
except TypingError:
    (lock,) = Path(sys.argv[1]).rglob("*largest*.lock")
    with FileLock(lock, timeout=0):
        print("free")
"""


def test_a_loop_that_cannot_be_compiled_keeps_no_other_process_waiting(tmp_path):
    environment = os.environ | {
        "PYTHONPATH": str(Path(nfstudy.__file__).parents[1]),
        "NUMBA_CACHE_DIR": str(tmp_path),
    }
    command = [sys.executable, "-c", FAILS, str(tmp_path)]
    done = subprocess.run(command, env=environment, text=True, capture_output=True, timeout=200, check=False)
    assert (done.returncode, done.stdout) == (0, "free\n"), done.stderr
