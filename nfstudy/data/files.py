"""Finding the authors' files, checking them by SHA-256, and downloading those that are missing."""

from __future__ import annotations

import gzip
import hashlib
import io
import logging
import math
import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from nfstudy.core.errors import DataError
from nfstudy.core.reading import read_regular

SUBFOLDERS = ("", "mnist", "binarized_mnist", "MNIST/raw", "cifar-10-batches-bin")
"""Where in a data folder files are looked for; MNIST/raw is how torchvision lays MNIST out."""

TIMEOUT = (5.0, 30.0)
"""Seconds until a mirror has to accept a connection, and between two parts of its answer."""

CHUNK = 2**16
"""Bytes of a download that are counted at once."""
MOST_TIMES = 4
"""A file that is larger by this factor than it should be is not read to find out what it is."""

OFFLINE_COMMAND = "python -m nfstudy run studies/quickstart.yaml"


@dataclass(frozen=True)
class DataFile:
    """A published file, known by its content."""

    name: str
    size: int
    """Bytes."""
    sha256: str
    """Hex digits."""
    folder: str
    """The subfolder it is downloaded into."""
    mirrors: tuple[str, ...]
    """Addresses, ending in a slash, that its name is appended to; tried in order."""
    unpacked: DataFile | None = None
    """For a .gz: the file inside, which does as well."""
    members: tuple[DataFile, ...] = ()
    """For a .tar.gz: the files inside that are of use, which do as well if all are there; see `read_members`."""


def locate(file: DataFile, folders: Sequence[Path]) -> tuple[DataFile, Path] | None:
    """Return the first place that holds the file, packed or unpacked, and in which of the two forms; else None."""
    for folder in folders:
        for subfolder in SUBFOLDERS:
            for form in (file, file.unpacked):
                # A dangling link or a folder of that name counts as found: it shall not be downloaded over.
                if form and os.path.lexists(path := folder / subfolder / form.name):
                    return form, path
    return None


def read_files(files: Sequence[DataFile], folders: Sequence[Path], download: bool = True) -> list[bytes]:
    """Return the unpacked contents of files, each found and checked by SHA-256, or else downloaded and checked.

    Arguments:
        files: which.
        folders: searched in order, each with its `SUBFOLDERS`; at least one. Downloads go into the last.
        download: whether missing files may be fetched from their mirrors.

    Raises:
        DataError: a file is truncated or altered (it is left in place), or missing and out of reach.
    """
    places = {file: locate(file, folders) for file in files}
    contents = {file: _read(*place) for file, place in places.items() if place}
    missing = [file for file in files if file not in contents]
    for file in missing:
        reasons = _download(file, folders[-1]) if download else ["downloads are disabled"]
        if reasons:
            raise DataError(_missing_message(missing, folders, file, reasons))
        contents[file] = _read(file, folders[-1] / file.folder / file.name)
    return [contents[file] for file in files]


def read_members(archive: DataFile, folders: Sequence[Path], download: bool = True) -> list[bytes]:
    """Return the contents of an archive's members: of the unpacked files where all are found, else of the archive.

    The archive is found or downloaded as by `read_files`, and unpacked in memory alone, so nothing is left half done.

    Raises:
        DataError: as `read_files`.
    """
    if all(locate(member, folders) for member in archive.members):
        return read_files(archive.members, folders, download=False)
    (content,) = read_files([archive], folders, download)
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        # Its hash has been checked, so that the members are known to be there.
        streams = [tar.extractfile(f"{member.folder}/{member.name}") for member in archive.members]
        return [cast(IO[bytes], stream).read() for stream in streams]


def check_present(files: Sequence[DataFile], folders: Sequence[Path]) -> None:
    """Check those of the files that are there; raises DataError for a truncated or altered one."""
    for file in files:
        if place := locate(file, folders):
            _read(*place)


def _read(form: DataFile, path: Path) -> bytes:
    try:
        content = read_regular(path, MOST_TIMES * form.size)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); expected: {form.size:,} bytes") from None
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != form.sha256:
        raise DataError(
            f"{path} is {'truncated' if len(content) < form.size else 'altered'}: "
            f"{len(content):,} bytes, SHA-256 {sha256}; "
            f"expected: {form.size:,} bytes, SHA-256 {form.sha256}. "
            "It was left unchanged: replace it with the original, or remove it to have it downloaded."
        )
    return gzip.decompress(content) if form.name.endswith(".gz") else content


def _download(file: DataFile, folder: Path) -> list[str]:
    """Download a file into its subfolder, whole or not at all; return why each mirror failed, nothing on success."""
    # Not at the top: a second to import, for nothing where the files are there.
    import pooch
    from tqdm import tqdm

    pooch.get_logger().setLevel(logging.WARNING)
    reasons = []
    for mirror in file.mirrors:
        # disable=None shows the bar, which goes to stderr, on terminals only.
        with _bounded(tqdm, file.size)(
            desc=file.name, total=file.size, unit="B", unit_scale=True, disable=None, leave=False
        ) as bar:
            downloader = pooch.HTTPDownloader(
                progressbar=bar,
                chunk_size=CHUNK,
                timeout=TIMEOUT,
                headers={"Accept-Encoding": "identity"},  # else a .gz may arrive unpacked, and with another hash
            )
            try:
                pooch.retrieve(
                    mirror + file.name,
                    known_hash=f"sha256:{file.sha256}",
                    fname=file.name,
                    path=folder / file.folder,
                    downloader=downloader,
                )
                return []
            except (OSError, ValueError) as error:
                reasons.append(f"{mirror}{file.name}: {_reason(error)}")
    return reasons


def _bounded(bar: type[Any], most: int) -> type[Any]:
    """Return a progress bar that ends a download of more bytes than the file has, before that fills the disk.

    What the server says of the size is of no account: pooch puts that into `total`.
    """

    class Bounded(bar):  # type: ignore[misc]
        received = 0.0

        def __bool__(self) -> bool:
            return True

        def update(self, n: float = 1) -> Any:
            self.received += n
            if self.received > most + CHUNK:
                raise ValueError("larger than the file that is expected")
            return super().update(n)

        def reset(self, total: float | None = None) -> None:
            self.received = -math.inf  # What follows only fills the bar.
            super().reset(total)

    return Bounded


def _reason(error: OSError | ValueError) -> str:
    response = getattr(error, "response", None)
    if response is not None:
        return f"HTTP {response.status_code} {response.reason}"
    if isinstance(error, ValueError):
        return "not the expected file (SHA-256 differs); discarded"
    return str(error) if error.strerror else type(error).__name__


def _missing_message(
    missing: Sequence[DataFile], folders: Sequence[Path], failed: DataFile, reasons: Sequence[str]
) -> str:
    lines = ["data files not found:"]
    for file in missing:
        others = " and ".join(other.name for other in (file.members or [file.unpacked]) if other)
        lines.append(f"  {file.name}{f' (or {others})' if others else ''}, {file.size:,} bytes")
    lines.append("searched, in this order:")
    lines += [f"  {folder / subfolder}" for folder in folders for subfolder in SUBFOLDERS]
    lines.append(f"download of {failed.name} failed:")
    lines += [f"  {reason}" for reason in reasons]
    lines.append("Put the files into one of these folders, or run a study that needs none of them:")
    lines.append(f"  {OFFLINE_COMMAND}")
    return "\n".join(lines)
