"""The arrays of somebody's own file: `.npz`, MATLAB's `.mat` (to version 7), or a folder of `.npy` files.

Files come from anywhere, so nothing of them is executed: pickles are never read, and what an array's header declares is
held to a bound before the array is.
"""

from __future__ import annotations

import difflib
import hashlib
import math
import os
import stat
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, cast

import numpy as np

from nfstudy.core.errors import DataError

MAX_BYTES = 2 * 2**30
"""Of a file, and of the arrays of a data set together: 2 GiB."""
MAX_HEAD = 2**16
"""Bytes of an array's header; numpy itself takes 10,000, after having read what there is."""
MAX_MEMBERS, ZIP_END = 10_000, 2**16 + 22
"""Members of a .npz file, and bytes at its end among which the place of their list stands."""
MAX_NEIGHBOURS = 10_000
"""Of a path that is not there, so many are compared with it."""

FORMATS = "a .npz file, a .mat file of MATLAB version 7 or older, or a folder of .npy files"
NUMBERS = "an array of whole or real numbers"
_HDF5 = b"\x89HDF\r\n\x1a\n"
_MATLAB_BYTES = {
    **dict.fromkeys(("logical", "int8", "uint8"), 1),
    **dict.fromkeys(("int16", "uint16"), 2),
    **dict.fromkeys(("single", "int32", "uint32"), 4),
    **dict.fromkeys(("double", "int64", "uint64"), 8),
}
"""MATLAB's classes of numbers -> bytes of one; all other classes are none."""


@dataclass(frozen=True)
class Entry:
    """An array of a file, as its header declares it, before it is read."""

    path: Path
    """Of the file it is in."""
    name: str
    shape: tuple[int, ...]
    nbytes: int
    """In memory, as declared."""
    trouble: str
    """Why it is not `NUMBERS`; empty where it is."""
    _load: Callable[[], np.ndarray]

    def read(self) -> np.ndarray:
        """Return the array, of numbers; raises DataError where it is none, too large or damaged."""
        if self.trouble:
            raise DataError(f"{self.path}: {self.name}: got {self.trouble}; expected: {NUMBERS}")
        if self.nbytes > MAX_BYTES:
            raise DataError(
                f"{self.path}: {self.name}: declares {self.nbytes:,} bytes; expected: at most {MAX_BYTES:,} bytes"
            )
        try:
            array = self._load()
        except MemoryError:
            raise DataError(
                f"{self.path}: {self.name}: its {self.nbytes:,} bytes do not fit into memory; expected: a smaller array"
            ) from None
        except Exception as error:  # Of a damaged file, zipfile, zlib, numpy and scipy raise anything.
            raise DataError(
                f"{self.path}: {self.name}: cannot be read: {_reason(error)}; expected: {NUMBERS}"
            ) from None
        if trouble := _trouble(array.dtype):
            raise DataError(f"{self.path}: {self.name}: got {trouble}; expected: {NUMBERS}")
        return array


def list_arrays(path: Path) -> dict[str, Entry]:
    """Return name -> array of a file or folder; only headers are read.

    Raises:
        DataError: the path is not there, is neither file nor folder, cannot be read, is larger than `MAX_BYTES`, or is
            none of `FORMATS`.
    """
    mode, size = _look_at(path)
    if stat.S_ISDIR(mode):
        try:
            files = sorted(file for file in path.iterdir() if file.suffix == ".npy")
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}); expected: {FORMATS}") from None
        if not files:
            raise DataError(f"{path}: is a folder without .npy files; expected: {FORMATS}")
        return {file.stem: _npy(file) for file in files}
    if size > MAX_BYTES:
        raise DataError(f"{path}: has {size:,} bytes; expected: at most {MAX_BYTES:,} bytes")
    readers = {".npz": _npz, ".mat": _mat}
    if path.suffix.lower() not in readers:
        raise DataError(f"{path}: got a file that ends in '{path.suffix}'; expected: {FORMATS}")
    try:
        return readers[path.suffix.lower()](path)
    except DataError:
        raise
    except Exception as error:  # As in `Entry.read`.
        raise DataError(f"{path}: cannot be read: {_reason(error)}; expected: {FORMATS}") from None


def file_digests(entries: Mapping[str, Entry]) -> dict[Path, str]:
    """Return file -> SHA-256, in hexadecimal, of each file that arrays are in."""
    digests = {}
    for path in sorted({entry.path for entry in entries.values()}):
        with path.open("rb") as file:
            digests[path] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def _look_at(path: Path) -> tuple[int, int]:
    """Return mode and size of a regular file or a folder; other things may block whoever opens them."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        raise DataError(f"{path}: is not there; expected: {FORMATS}{_suggestion(path)}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({_reason(error)}); expected: {FORMATS}") from None
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        raise DataError(f"{path}: is neither a file nor a folder, but a pipe, socket or device; expected: {FORMATS}")
    return found.st_mode, found.st_size


def _suggestion(path: Path) -> str:
    """Return the neighbour that may have been meant, in words."""
    try:
        with os.scandir(path.parent) as found:
            names = [entry.name for entry, _ in zip(found, range(MAX_NEIGHBOURS), strict=False)]
    except OSError:
        return f" (nor is its folder, {path.parent})"
    if path.name in names:
        return f" (it is a link to {os.readlink(path)})" if path.is_symlink() else ""
    close = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean '{path.with_name(close[0])}'?" if close else ""


def _npz(path: Path) -> dict[str, Entry]:
    entries = {}
    _check_directory(path)
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            if not member.endswith(".npy"):
                continue

            def load(member: str = member) -> np.ndarray:
                with zipfile.ZipFile(path) as archive, archive.open(member) as stream:
                    return np.lib.format.read_array(stream, allow_pickle=False)

            name = member.removesuffix(".npy")
            if name in entries:
                raise DataError(f"{path}: holds more than one array '{name}'; expected: each name once")
            with archive.open(member) as stream:
                entries[name] = _declared(path, name, stream, load)
    return entries


def _check_directory(path: Path) -> None:
    """Raise DataError where the list of a .zip's members, of which zipfile makes objects, is larger than sane."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(end - ZIP_END, 0))
        tail = file.read(ZIP_END)
    place = tail.rfind(b"PK\5\6")
    if place < 0 or len(tail) < place + 22:
        return  # zipfile says what is wrong.
    members, size = struct.unpack("<HL", tail[place + 10 : place + 16])
    if b"PK\6\7" in tail[max(place - 20, 0) : place] or members > MAX_MEMBERS or size > MAX_MEMBERS * 1000:
        raise DataError(
            f"{path}: lists more members than a set of arrays has; expected: at most {MAX_MEMBERS:,}, without Zip64"
        )


class _Head:
    """A stream of which little may be read, for a header says itself how long it is."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._left = stream, MAX_HEAD

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= self._left:
            raise ValueError(f"its header has more than {MAX_HEAD:,} bytes")
        self._left -= size
        return self._stream.read(size)


def _npy(path: Path) -> Entry:
    def load() -> np.ndarray:
        with path.open("rb") as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)

    mode, size = _look_at(path)
    if not stat.S_ISREG(mode):
        return Entry(path, path.stem, (), 0, "a folder", load)
    if size > MAX_BYTES:
        return Entry(path, path.stem, (), size, "", load)
    try:
        with path.open("rb") as stream:
            return _declared(path, path.stem, stream, load)
    except OSError as error:
        return Entry(path, path.stem, (), 0, f"a file that cannot be read ({error.strerror})", load)


def _declared(path: Path, name: str, stream: IO[bytes], load: Callable[[], np.ndarray]) -> Entry:
    """Return what the header of an array in numpy's format says."""
    try:
        head = cast(IO[bytes], _Head(stream))
        version = np.lib.format.read_magic(head)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
        if read is None:  # 3.0 has a header in UTF-8, for the names of fields.
            return Entry(path, name, (), 0, "records with named fields", load)
        shape, _, dtype = read(head)
    except Exception as error:  # As in `Entry.read`.
        return Entry(path, name, (), 0, f"no array in numpy's format ({_reason(error)})", load)
    if any(side < 0 for side in shape) or (0 in shape and max(shape) >= 2**63):
        return Entry(path, name, (), 0, f"a header with the shape {shape}", load)
    return Entry(path, name, shape, math.prod(shape) * dtype.itemsize, _trouble(dtype), load)


def _mat(path: Path) -> dict[str, Entry]:
    # Not at the top: other data sets do not need it.
    from scipy.io import loadmat, whosmat

    with path.open("rb") as stream:
        head = stream.read(520)
    if head.startswith((_HDF5, b"MATLAB 7.3")) or head[512:] == _HDF5:
        raise DataError(
            f"{path}: is a .mat file of version 7.3 (HDF5); expected: version 7 or older, as save(..., '-v7') writes it"
        )

    def load(name: str) -> np.ndarray:
        with path.open("rb") as stream:
            return np.asarray(loadmat(stream, variable_names=[name])[name])

    entries = {}
    with path.open("rb") as stream:
        for name, shape, kind in whosmat(stream):
            trouble = "" if kind in _MATLAB_BYTES else f"a {kind} array of MATLAB"
            nbytes = math.prod(map(int, shape)) * _MATLAB_BYTES.get(kind, 0)
            entries[name] = Entry(path, name, tuple(map(int, shape)), nbytes, trouble, partial(load, name))
    return entries


def _trouble(dtype: np.dtype) -> str:
    """Return what an array of a type is in words, where it is not one of numbers."""
    if dtype.hasobject:
        return "Python objects, as ragged lists become, which only pickle could read"
    words = {"U": "text", "S": "text", "c": "complex numbers", "V": "records with named fields"}
    return "" if dtype.kind in "biuf" else words.get(dtype.kind, f"numbers of type {dtype}")


def _reason(error: Exception) -> str:
    """Return in one line why something could not be read."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())[:200]
