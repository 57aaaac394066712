"""Read an archive; sizes, digests, counts, names and numbers are all checked before anything is kept.

No part is unpacked before it is known how large it may be, and none is unpickled. A member's header must be the one
that `writer` writes, byte for byte: so links, devices, paths, duplicates and unknown members cannot be expressed.
"""

from __future__ import annotations

import hashlib
import json
import lzma
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from pydantic import ValidationError

from nfstudy.core.errors import UserError
from nfstudy.runs.archive.manifest import FORMAT, ArchiveError, Manifest, Member
from nfstudy.runs.archive.writer import BLOCK, END, MANIFEST, header
from nfstudy.runs.consistency import check_run
from nfstudy.runs.tags import Tag
from nfstudy.runs.whole_run import POINT, RunCopy, RunRecord, is_history

MAX_MANIFEST = 64 * 2**20
"""Bytes; some 300,000 files."""
MAX_MEMORY = 128 * 2**20
"""Bytes that unpacking may take for itself."""
CHUNK = 2**16

_ALLOWED = "expected: a complete archive written by `export`"


@dataclass(frozen=True)
class Archive:
    """An archive that has been checked, files included."""

    path: Path
    manifest: Manifest
    runs: tuple[RunCopy, ...]
    """Sorted by their ids."""

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Unpack the files once more, and yield (digest, content) of each; raises ArchiveError."""
        with _opened(self.path) as packed:
            manifest, _ = _read_manifest(packed)
            if manifest != self.manifest:
                raise ArchiveError(f"{self.path}: was modified while it was read; {_ALLOWED}")
            for member in manifest.members:
                content = packed.member(member)
                if member.name.startswith("files/"):
                    yield member.sha256, content


def read_archive(path: Path) -> Archive:
    """Read and check an archive; nothing is written.

    Raises:
        ArchiveError: the file is missing, truncated, altered, too large, of an unknown format, or not an archive; or a
            run in it contradicts itself, such as by settings that do not give its cell's key.
    """
    with _opened(path) as packed:
        manifest, places = _read_manifest(packed)
        contents = [packed.member(member) for member in manifest.members[:2]]
        for member in manifest.members[2:]:
            packed.member(member)
        packed.end()
    records = _read_records(contents[0], manifest, places)
    points = np.frombuffer(contents[1], np.uint8).reshape(POINT.itemsize, -1).T.copy().view(POINT).ravel()
    return Archive(path, manifest, tuple(_checked(list(_with_histories(records, points, places)), places)))


class _Packed:
    """The content of an .xz file, read in order, never more than was requested."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path = file, path
        self._xz = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_MEMORY)

    def read(self, size: int) -> bytes:
        """Return so many bytes; raises ArchiveError where there are not as many."""
        parts, left = [], size
        while left:
            if self._xz.eof or not (part := self._more(left)):
                raise ArchiveError(f"{self._path}: is truncated; {_ALLOWED}")
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def member(self, member: Member) -> bytes:
        """Return the content of the member that comes next, which must be this one."""
        if self.read(BLOCK) != header(member.name, member.size):
            raise ArchiveError(f"{self._path}: {member.name} is not where the manifest lists it; {_ALLOWED}")
        content = self.read(member.size)
        if hashlib.sha256(content).hexdigest() != member.sha256 or any(self.read(-member.size % BLOCK)):
            raise ArchiveError(f"{self._path}: {member.name} is corrupted (SHA-256 mismatch); {_ALLOWED}")
        return content

    def end(self) -> None:
        """Make sure that nothing follows."""
        if (
            self.read(len(END)) != END
            or self._more(1)
            or not self._xz.eof
            or self._xz.unused_data
            or self._file.read(1)
        ):
            raise ArchiveError(f"{self._path}: contains more than its manifest lists; {_ALLOWED}")

    def _more(self, most: int) -> bytes:
        """Return some bytes, none only at the end."""
        part = b""
        while not part and not self._xz.eof:
            fresh = self._file.read(CHUNK) if self._xz.needs_input else b""
            if self._xz.needs_input and not fresh:
                break
            part = self._xz.decompress(fresh, most)
        return part


@contextmanager
def _opened(path: Path) -> Iterator[_Packed]:
    try:
        with path.open("rb") as file:
            yield _Packed(file, path)
    except FileNotFoundError:
        raise ArchiveError(f"{path}: no such file; expected: an archive written by `export`") from None
    except OSError as error:
        raise ArchiveError(f"{path}: cannot be read: {error.strerror or error}") from None
    except lzma.LZMAError as error:
        raise ArchiveError(f"{path}: not a valid .xz file ({str(error).lower()}); {_ALLOWED}") from None


def _read_manifest(packed: _Packed) -> tuple[Manifest, str]:
    """Return the manifest, and how messages about what it lists begin."""
    place = f"{packed._path}: {MANIFEST}"
    head = packed.read(BLOCK)
    try:
        size = int(head[124:135], 8)  # Where a tar's header has it, in octal digits.
    except ValueError:
        size = -1
    if not 0 <= size <= MAX_MANIFEST or head != header(MANIFEST, size):
        raise ArchiveError(f"{packed._path}: does not begin with {MANIFEST}; {_ALLOWED}")
    content = packed.read(size)
    if any(packed.read(-size % BLOCK)):
        raise ArchiveError(f"{place}: is corrupted; {_ALLOWED}")
    try:
        said = json.loads(content)
        version = said.get("format") if isinstance(said, dict) else None
    except (ValueError, RecursionError):
        raise ArchiveError(f"{place}: not valid JSON; {_ALLOWED}") from None
    if type(version) is not int or version != FORMAT:
        got = f"{version}"[:40] if type(version) is int else "no integer"
        raise ArchiveError(f"{place}: format: got {got}; expected: {FORMAT} (written by another version of nfstudy)")
    try:
        return Manifest.model_validate_json(content), str(packed._path)
    except ValidationError as error:
        raise ArchiveError(f"{place}: {_first(error)}; {_ALLOWED}") from None


def _read_records(content: bytes, manifest: Manifest, place: str) -> list[RunRecord]:
    records: list[RunRecord] = []
    listed = {member.sha256 for member in manifest.members[2:]}
    for number, line in enumerate(content.split(b"\n")[:-1], 1):
        where = f"{place}: runs.jsonl line {number}"
        try:
            record = RunRecord.model_validate_json(line)
        except ValidationError as error:
            raise ArchiveError(f"{where}: {_first(error)}; {_ALLOWED}") from None
        # So that a key is there once, and every reader of JSON reads the same.
        if record.model_dump_json().encode() != line:
            raise ArchiveError(f"{where}: not in the form that `export` writes; {_ALLOWED}")
        if records and record.id <= records[-1].id:
            raise ArchiveError(f"{where}: run {record.id} is duplicate or out of order; {_ALLOWED}")
        if record.tags[Tag.STUDY] != manifest.study:
            raise ArchiveError(f"{where}: tag nfstudy.study is not {manifest.study}; {_ALLOWED}")
        if missing := set(record.files.values()) - listed:
            raise ArchiveError(f"{where}: refers to a missing file {min(missing)}; {_ALLOWED}")
        records.append(record)
    used = {digest for record in records for digest in record.files.values()}
    counts = (len(records), sum(sum(record.points.values()) for record in records))
    if content.rpartition(b"\n")[2] or counts != (manifest.runs, manifest.points) or used != listed:
        raise ArchiveError(f"{place}: runs, points or files do not match the counts of its manifest; {_ALLOWED}")
    return records


def _with_histories(records: list[RunRecord], points: np.ndarray, place: str) -> Iterator[RunCopy]:
    first = 0
    for record in records:
        histories = {}
        for metric, count in record.points.items():
            histories[metric] = history = points[first : first + count]
            if not is_history(history):
                raise ArchiveError(f"{place}: run {record.id}: {metric}: its points are out of order; {_ALLOWED}")
            first += count
        yield RunCopy(record, histories)


def _checked(copies: list[RunCopy], place: str) -> Iterator[RunCopy]:
    """Yield the runs with what they are to be tagged with; raises ArchiveError where one contradicts itself."""
    searched = {copy.record.tags[Tag.CELL] for copy in copies if copy.record.tags[Tag.STAGE] == "search"}
    for copy in copies:
        record = copy.record
        try:
            yield replace(copy, imported=check_run(copy, record.tags[Tag.CELL] in searched))
        except UserError as error:
            raise ArchiveError(f"{place}: run {record.id}, {record.name}: {error}") from None


def _first(error: ValidationError) -> str:
    """Return pydantic's first error with its place."""
    details = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, details["loc"]))[:200]
    return f"{where}: {details['msg']}"[:500] if where else details["msg"][:500]
