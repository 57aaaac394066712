"""Reading files of unknown origin: regular files of a bounded size only.

A pipe or a device would hold whoever opens it for ever, or never end; a sparse file of terabytes takes no disk, but all
memory. What is wrong is raised as OSError, so that it is told as any other reason why a file cannot be read.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

TEXT_BYTES = 16 * 2**20
"""Of a file of JSON or text that we write ourselves: manifests, verdicts, costs."""


@contextmanager
def regular(path: Path, most: int) -> Iterator[BinaryIO]:
    """Open a regular file of at most `most` bytes for reading.

    Raises:
        OSError: it cannot be opened, is a pipe, socket, device or folder, or is larger; `strerror` says which.
    """
    _require(os.stat(path), path, most)  # Before it is opened: to open a device may do something.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    with open(descriptor, "rb") as file:
        _require(os.fstat(descriptor), path, most)
        yield file


def read_regular(path: Path, most: int) -> bytes:
    """Return the content of a regular file of at most `most` bytes; raises OSError as `regular`."""
    with regular(path, most) as file:
        content = file.read(most + 1)
    if len(content) > most:  # It has grown meanwhile.
        raise _too_large(path, len(content), most)
    return content


def _require(found: os.stat_result, path: Path, most: int) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "is a pipe, socket or device; expected: a regular file", str(path))
    if found.st_size > most:
        raise _too_large(path, found.st_size, most)


def _too_large(path: Path, size: int, most: int) -> OSError:
    return OSError(errno.EFBIG, f"has {size:,} bytes; expected: at most {most:,}", str(path))


def free_bytes(folder: Path | None = None) -> int:
    """Return how much room is left where a folder is or will be; of the folder for temporary files without one."""
    place = (folder or Path(tempfile.gettempdir())).absolute()
    return shutil.disk_usage(next(each for each in (place, *place.parents) if each.is_dir())).free
