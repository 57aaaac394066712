"""Read an archive; sizes, digests, counts, names and numbers are all checked before anything is kept.

No part is unpacked before it is known how large it may be, and none is unpickled. A member's header must be the one
that `writer` writes, byte for byte: so links, devices, paths, duplicates and unknown members cannot be expressed.
Memory is taken for the runs' records (`MAX_RUNS` bytes of JSON), one file and one history at a time; all else of a
large archive waits in a temporary file that has no name and goes with the process.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import os
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np
from pydantic import ValidationError

from nfstudy.core.errors import UserError
from nfstudy.core.reading import free_bytes, regular
from nfstudy.runs.archive.manifest import FORMAT, MAX_STORED, ArchiveError, Manifest, Member
from nfstudy.runs.archive.writer import BLOCK, END, FILES, MANIFEST, POINTS, RUNS, header
from nfstudy.runs.consistency import check_run
from nfstudy.runs.tags import Tag
from nfstudy.runs.whole_run import POINT, RunCopy, RunRecord, is_history

MAX_ARCHIVE = 2**32
"""Bytes of the packed file."""
MAX_MANIFEST = 16 * 2**20
"""Bytes; some 80,000 files."""
IN_MEMORY = 64 * 2**20
"""Bytes unpacked that are kept in memory."""
MAX_MEMORY = 128 * 2**20
"""Bytes that unpacking may take for itself."""
CHUNK = 2**16
UNPACKED_CHUNK = 2**20

_ALLOWED = "expected: a complete archive written by `export`"


class _Unpacked:
    """The members of an archive, unpacked and checked: in memory, or in a nameless temporary file."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        """Make the place for them; raises ArchiveError where a temporary file of that size has no room."""
        size = sum(member.size for member in manifest.members)
        if size > IN_MEMORY and size > (free := free_bytes()):
            raise ArchiveError(
                f"{path}: unpacks to {size:,} bytes, and {tempfile.gettempdir()} has {free:,} left; "
                "hint: free some, or set TMPDIR to a folder with more room"
            )
        self._file: IO[bytes] = tempfile.TemporaryFile() if size > IN_MEMORY else io.BytesIO()  # noqa: SIM115
        self._places: dict[str, tuple[int, int]] = {}

    def take(self, packed: _Packed, member: Member) -> None:
        """Unpack the member that comes next."""
        self._places[member.name] = (self._file.seek(0, os.SEEK_END), member.size)
        packed.member(member, self._file)

    def content(self, name: str) -> bytes | None:
        """Return a member's content, None where there is no such member."""
        if name not in self._places:
            return None
        first, size = self._places[name]
        self._file.seek(first)
        return self._file.read(size)

    def points(self) -> np.ndarray:
        """Return the bytes of all points as they are stored: one row for each byte of a point, one column a point."""
        first, size = self._places[POINTS]
        if isinstance(self._file, io.BytesIO):
            flat = np.frombuffer(self._file.getbuffer()[first : first + size], np.uint8)
        elif size:
            self._file.flush()
            flat = np.memmap(self._file, np.uint8, "r", first, (size,))
        else:
            flat = np.empty(0, np.uint8)
        return flat.reshape(POINT.itemsize, -1)


@dataclass(frozen=True)
class _Histories(Mapping[str, np.ndarray]):
    """A run's histories, each read when it is asked for."""

    points: np.ndarray
    """Of the archive, from `_Unpacked.points`."""
    spans: Mapping[str, tuple[int, int]]
    """Metric -> its first point and the one after its last."""

    def __getitem__(self, metric: str) -> np.ndarray:
        first, end = self.spans[metric]
        return self.points[:, first:end].T.copy().view(POINT).ravel()

    def __iter__(self) -> Iterator[str]:
        return iter(self.spans)

    def __len__(self) -> int:
        return len(self.spans)


@dataclass(frozen=True)
class Archive:
    """An archive that has been checked, files included."""

    path: Path
    manifest: Manifest
    runs: tuple[RunCopy, ...]
    """Sorted by their ids."""
    unpacked: _Unpacked = field(repr=False, compare=False)

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Yield (digest, content) of each file, one after the other."""
        for member in self.manifest.members[2:]:
            yield member.sha256, self.content(member.sha256) or b""

    def content(self, digest: str) -> bytes | None:
        """Return the content of a file, None where there is no such file."""
        return self.unpacked.content(f"{FILES}{digest}")

    def stored_bytes(self, runs: Collection[RunCopy]) -> int:
        """Return the bytes of the files of some of its runs, each as often as there are runs that have it."""
        sizes = {member.sha256: member.size for member in self.manifest.members}
        return sum(sizes[digest] for run in runs for digest in run.record.files.values())


def read_manifest(path: Path) -> Manifest:
    """Return what an archive says of itself; nothing else of it is read, or known to be so.

    Raises:
        ArchiveError: as `read_archive`.
    """
    with _opened(path) as packed:
        return _read_manifest(packed)[0]


def is_archive(path: Path) -> bool:
    """Say whether a file is an archive, as its beginning has it."""
    try:
        read_manifest(path)
    except ArchiveError:
        return False
    return True


def read_archive(path: Path) -> Archive:
    """Read and check an archive; nothing is written but a temporary file.

    Raises:
        ArchiveError: the file is missing, truncated, altered, too large, of an unknown format, or not an archive; or a
            run in it contradicts itself, such as by settings that do not give its cell's key.
    """
    with _opened(path) as packed:
        manifest, places = _read_manifest(packed)
        unpacked = _Unpacked(path, manifest)
        for member in manifest.members:
            unpacked.take(packed, member)
        packed.end()
    records = _read_records(unpacked.content(RUNS) or b"", manifest, places)
    copies = list(_with_histories(records, unpacked.points(), places))
    archive = Archive(path, manifest, tuple(_checked(copies, places)), unpacked)
    if (size := archive.stored_bytes(archive.runs)) > MAX_STORED:
        raise ArchiveError(f"{path}: its runs' files take {size:,} bytes in a store; expected: at most {MAX_STORED:,}")
    return archive


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

    def member(self, member: Member, into: IO[bytes]) -> None:
        """Write the content of the member that comes next, which must be this one."""
        if self.read(BLOCK) != header(member.name, member.size):
            raise ArchiveError(f"{self._path}: {member.name} is not where the manifest lists it; {_ALLOWED}")
        digest, left = hashlib.sha256(), member.size
        while left:
            part = self.read(min(left, UNPACKED_CHUNK))
            digest.update(part)
            into.write(part)
            left -= len(part)
        if digest.hexdigest() != member.sha256 or any(self.read(-member.size % BLOCK)):
            raise ArchiveError(f"{self._path}: {member.name} is corrupted (SHA-256 mismatch); {_ALLOWED}")

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
        with regular(path, MAX_ARCHIVE) as file:
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
    for number, line in enumerate(map(_without_end, io.BytesIO(content)), 1):
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
    if (content and content[-1:] != b"\n") or counts != (manifest.runs, manifest.points) or used != listed:
        raise ArchiveError(f"{place}: runs, points or files do not match the counts of its manifest; {_ALLOWED}")
    return records


def _without_end(line: bytes) -> bytes:
    return line.removesuffix(b"\n")


def _with_histories(records: list[RunRecord], points: np.ndarray, place: str) -> Iterator[RunCopy]:
    first = 0
    for record in records:
        spans = {}
        for metric, count in record.points.items():
            spans[metric] = (first, first + count)
            first += count
        histories = _Histories(points, spans)
        for metric, history in histories.items():
            if not is_history(history):
                raise ArchiveError(f"{place}: run {record.id}: {metric}: its points are out of order; {_ALLOWED}")
        yield RunCopy(record, histories)


def _checked(copies: list[RunCopy], place: str) -> Iterator[RunCopy]:
    """Yield the runs with what they are to be tagged with; raises ArchiveError where one contradicts itself."""
    # Of a search whose trials somebody has deleted, the repetitions tell.
    told = (copy.record.tags for copy in copies)
    searched = {tags[Tag.CELL] for tags in told if tags[Tag.STAGE] == "search" or Tag.SEARCH in tags}
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
