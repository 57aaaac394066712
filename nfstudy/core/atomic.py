"""Files and folders that appear whole or not at all, whatever happens while they are written.

Drafts are made beside what they will replace, each in a hidden folder of its own with a lock that its process holds. A
kill leaves such a folder with a lock that nobody holds; whoever next writes there, or opens the store, sweeps it away.
"""

from __future__ import annotations

import ctypes
import errno
import importlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

LOCK = ".nfstudy-draft"
"""In a draft's folder; its process holds it."""
SUFFIX = ".draft"
EMPTY_SECONDS = 3600.0
"""A folder of ours without a lock is one between two instants of its making, or was left there by a kill: by then, the
latter."""
AT_CURRENT_FOLDER, EXCHANGE = -100, 2
"""Of Linux's renameat2."""


@contextmanager
def draft_of(path: Path, durable: bool = False, make_folder: bool = True) -> Iterator[Path]:
    """Yield where to write a file; it takes the place of `path` once the block is left, and is gone if that fails.

    Arguments:
        path: the file.
        durable: have it on the disk before it takes that place, and the place too, so that a power failure leaves
            either file whole.
        make_folder: make its folder where there is none.

    Raises:
        OSError: the folder cannot be written, or has no room.
    """
    if make_folder:
        path.parent.mkdir(parents=True, exist_ok=True)
    with _draft_folder(path) as folder:
        draft = folder / path.name
        yield draft
        if durable:
            _sync(draft)
        os.replace(draft, path)
        if durable:
            _sync(path.parent)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all; raises OSError as `draft_of`."""
    with draft_of(path) as draft:
        draft.write_bytes(content)


def swap_in(folder: Path, files: Mapping[str, bytes], stale: Iterable[str] = ()) -> None:
    """Have a folder hold other files: at every instant it is the old one or the new one, whole.

    What else is in the folder stays in it. Where the system cannot exchange two folders at once (other than Linux, some
    network disks, a folder that is a disk of its own), the files are swapped in one by one, in order, and stale ones go
    last.

    Arguments:
        folder: where; made where there is none.
        files: name relative to the folder -> content; what tells of the others, such as a manifest, last.
        stale: names of files that are no longer there afterwards.

    Raises:
        OSError: the folder cannot be written, or has no room.
    """
    folder = Path(os.path.realpath(folder))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _draft_folder(folder) as drafts:
        made = drafts / folder.name
        made.mkdir()
        for name, content in files.items():
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            (made / name).write_bytes(content)
        gone = {*stale} - {*files}
        if not folder.exists():
            os.rename(made, folder)
        elif not _exchanged(folder, made, gone):
            _swap_one_by_one(folder, made, files, gone)


def swap_files_in(folder: Path, files: Mapping[str, bytes], stale: Iterable[str] = ()) -> None:
    """Write files into a folder that other things live in, one by one, in order, after all have been made beside it.

    A kill can leave the first of them new and the others old, each of them whole; stale ones go last. For the arguments
    and errors see `swap_in`.
    """
    folder = Path(os.path.realpath(folder))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _draft_folder(folder) as made:
        for name, content in files.items():
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            (made / name).write_bytes(content)
        _swap_one_by_one(folder, made, files, {*stale} - {*files})


def sweep(folder: Path) -> None:
    """Remove the drafts in a folder whose process is gone; those of others, and what only looks like one, stay."""
    with suppress(OSError):
        for path in [Path(entry.path) for entry in os.scandir(folder) if _is_draft(entry)]:
            _sweep_draft(path)


def _is_draft(entry: os.DirEntry[str]) -> bool:
    return entry.name.startswith(".") and entry.name.endswith(SUFFIX) and entry.is_dir(follow_symlinks=False)


def _sweep_draft(path: Path) -> None:
    lock = path / LOCK
    with suppress(OSError):
        if not lock.is_file():
            if time.time() - path.stat().st_mtime > EMPTY_SECONDS:
                path.rmdir()  # Raises where it is not empty: then it is none of ours.
            return
        with lock.open("rb") as file:
            if _locked(file):
                _remove(path)


def _remove(folder: Path) -> None:
    """Remove a draft's folder, its lock after all else: a kill meanwhile leaves what the next sweep knows."""
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        elif entry.name != LOCK:
            os.unlink(entry.path)
    (folder / LOCK).unlink()
    folder.rmdir()


def _locked(file: BinaryIO, wait: bool = False) -> bool:
    """Take a file's lock, which goes with its process; False where another process has it, or there are no locks.

    Arguments:
        file: the file.
        wait: wait for another process that has it.
    """
    try:
        fcntl = importlib.import_module("fcntl")
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except (ImportError, OSError):
        return False
    return True


@contextmanager
def _draft_folder(path: Path) -> Iterator[Path]:
    """Yield a new hidden folder beside `path`, held by this process; it is removed at the end."""
    sweep(path.parent)
    while True:
        # Short enough for any file system, whatever the name's characters take.
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name[:40]}-", suffix=SUFFIX, dir=path.parent))
        try:
            lock = (folder / LOCK).open("wb")
        except BaseException:  # Such as no memory: without a lock it would not be swept for long.
            folder.rmdir()
            raise
        # Between the two calls another process may have taken the lock for one that nobody holds, and swept all of it.
        _locked(lock, wait=True)
        if (folder / LOCK).exists():
            break
        lock.close()
    with lock:
        try:
            yield folder
        finally:
            with suppress(OSError):  # It is swept later.
                _remove(folder)


def _exchanged(folder: Path, made: Path, gone: set[str]) -> bool:
    """Put a new folder in the place of another at once, with what else that one holds; False where that cannot be."""
    try:
        _keep_others(folder, made, gone)
        _exchange(folder, made)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        return False
    return True


def _keep_others(folder: Path, made: Path, gone: set[str], inside: str = "") -> None:
    """Link the files of a folder into the new one that are neither there nor `gone`."""
    for entry in os.scandir(folder / inside):
        name = f"{inside}{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            _keep_others(folder, made, gone, f"{name}/")
        elif name not in gone and not os.path.lexists(made / name):
            (made / inside).mkdir(parents=True, exist_ok=True)
            try:
                os.link(entry.path, made / name, follow_symlinks=False)
            except OSError:  # A disk without hard links.
                shutil.copy2(entry.path, made / name, follow_symlinks=False)
    kept = made / inside
    if kept.is_dir():
        shutil.copymode(folder / inside, kept)


def _exchange(one: Path, other: Path) -> None:
    """Exchange two paths at once; raises OSError where the system cannot."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if call is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if call(AT_CURRENT_FOLDER, os.fsencode(one), AT_CURRENT_FOLDER, os.fsencode(other), EXCHANGE):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(one))


def _swap_one_by_one(folder: Path, made: Path, files: Iterable[str], gone: Iterable[str]) -> None:
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(made / name, folder / name)
    for name in gone:
        (folder / name).unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Have a file's content, or a folder's entries, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
