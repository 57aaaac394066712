"""Write an archive: an .xz of a tar whose members are the manifest, the runs, their points, and each file once.

The same runs give the same bytes: members are sorted, and their headers say nothing but name and size. Files are named
by their digests, so that a file that many runs share, such as the list of packages, is there once, and no member's name
is a path. Histories are stored as columns of bytes, first bytes first: of slowly varying numbers most bytes are alike.
"""

from __future__ import annotations

import hashlib
import lzma
import tarfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from nfstudy import __version__
from nfstudy.core.atomic import draft_of
from nfstudy.runs.archive.manifest import (
    FORMAT,
    MAX_UNPACKED,
    ArchiveError,
    Manifest,
    Member,
    most_bytes,
)
from nfstudy.runs.whole_run import POINT, RunCopy

BLOCK = tarfile.BLOCKSIZE
END = bytes(2 * BLOCK)
"""How a tar ends."""
MANIFEST, RUNS, POINTS, FILES = "manifest.json", "runs.jsonl", "points.bin", "files/"
PRESET = 9
"""Of xz: a dictionary of 64 MiB, which unpacking needs too."""


def write_archive(
    path: Path, study: str, description: str, runs: Sequence[RunCopy], content: Callable[[str], bytes]
) -> None:
    """Write an archive; it appears whole or not at all.

    Arguments:
        path: where; a file there is replaced.
        study: the study's name.
        description: of its experiment.
        runs: its runs, in any order; the metrics of each record's `points` are those of the run's histories.
        content: digest -> a file's content.

    Raises:
        ArchiveError: it would be larger than archives may be, a file has another digest than was said, or the folder
            cannot be written.
    """
    runs = sorted(runs, key=lambda run: run.record.id)
    lines = b"".join(run.record.model_dump_json().encode() + b"\n" for run in runs)
    points = pack_points([history for run in runs for history in run.histories.values()])
    digests = sorted({digest for run in runs for digest in run.record.files.values()})
    sizes = [(digest, len(_checked(digest, content))) for digest in digests]
    members = [_member(RUNS, lines), _member(POINTS, points)]
    for name, size in [(RUNS, len(lines)), (POINTS, len(points)), *sizes]:
        if size > (most := most_bytes(name)):
            raise ArchiveError(f"{path}: {name} would have {size:,} bytes; expected: at most {most:,}")
    members += [Member(name=FILES + digest, size=size, sha256=digest) for digest, size in sizes]
    total = sum(member.size for member in members)
    if total > MAX_UNPACKED:
        raise ArchiveError(f"{path}: would unpack to {total:,} bytes; expected: at most {MAX_UNPACKED:,}")
    manifest = Manifest(
        format=FORMAT,
        nfstudy=__version__,
        study=study,
        description=description,
        runs=len(runs),
        points=len(points) // POINT.itemsize,
        members=tuple(members),
    )
    head = [(MANIFEST, manifest.model_dump_json().encode()), (RUNS, lines), (POINTS, points)]
    files = ((FILES + digest, _checked(digest, content)) for digest in digests)
    _write(path, (part for parts in (head, files) for name, data in parts for part in packed_member(name, data)))


def pack_points(histories: Sequence[np.ndarray]) -> bytes:
    """Return the histories (`POINT`), one after the other, as bytes: all first bytes, all second bytes, and so on."""
    points = np.concatenate([np.empty(0, POINT), *histories])
    return points.view(np.uint8).reshape(-1, POINT.itemsize).T.tobytes()


def header(name: str, size: int) -> bytes:
    """Return the one header that a member of this name and size may have."""
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.USTAR_FORMAT)


def packed_member(name: str, data: bytes) -> tuple[bytes, bytes, bytes]:
    """Return a member's header, content and filling."""
    return header(name, len(data)), data, bytes(-len(data) % BLOCK)


def _member(name: str, data: bytes) -> Member:
    return Member.model_construct(name=name, size=len(data), sha256=hashlib.sha256(data).hexdigest())


def _checked(digest: str, content: Callable[[str], bytes]) -> bytes:
    data = content(digest)
    if hashlib.sha256(data).hexdigest() != digest:
        raise ArchiveError(f"a run's file with SHA-256 {digest} changed during the export; expected: ended runs")
    return data


def _write(path: Path, parts: Iterable[bytes]) -> None:
    try:
        with draft_of(path) as draft, lzma.open(draft, "wb", preset=PRESET) as file:
            for part in parts:
                file.write(part)
            file.write(END)
    except OSError as error:
        raise ArchiveError(f"{path}: cannot be written: {error.strerror or error}") from None
