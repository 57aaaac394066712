"""Files that appear whole or not at all, whatever happens while they are written."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def draft_of(path: Path, durable: bool = False) -> Iterator[Path]:
    """Yield where to write a file; it takes the place of `path` once the block is left, and is gone if that fails.

    Where the process is killed meanwhile, a folder whose name begins with a dot is left beside `path`.

    Arguments:
        path: the file.
        durable: have it on the disk before it takes that place, and the place too, so that a power failure leaves
            either file whole.

    Raises:
        OSError: the folder, which is made where there is none, cannot be written, or has no room.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=_prefix(path), dir=path.parent, ignore_cleanup_errors=True) as folder:
        draft = Path(folder, path.name)
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
    """Write files into a folder, in order, after all of them have been made beside it.

    Arguments:
        folder: where; made where there is none.
        files: name relative to the folder -> content.
        stale: names of files that are removed before the first is swapped in.

    Raises:
        OSError: the folder cannot be written, or has no room.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=_prefix(folder), dir=folder.parent) as made:
        for name, content in files.items():
            path = Path(made, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        for name in stale:
            (folder / name).unlink(missing_ok=True)
        for name in files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(Path(made, name), folder / name)


def _prefix(path: Path) -> str:
    """Return how the name of a draft's folder begins: hidden, and short enough for any file system."""
    return f".{path.name[:40]}-"


def _sync(path: Path) -> None:
    """Have a file's content, or a folder's entries, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
