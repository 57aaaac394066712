"""Disks of some MiB, mounted for a test, for the weather that only a full or read-only disk makes."""

import contextlib
import subprocess

import pytest


@contextlib.contextmanager
def small_disk(folder, size):
    """Mount a disk, such as of `4m`, on a new folder; give it and what mounts it anew with other options."""
    folder.mkdir()

    def mount(options):
        command = ["mount", "-t", "tmpfs", "-o", f"{options},size={size}", "tmpfs", folder]
        done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode:
            pytest.skip(f"no right to mount a disk here: {done.stderr.decode().strip()}")

    mount("rw")
    try:
        yield folder, mount
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk):
    """Leave no room on a disk; return the file that takes it."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    return filler
