"""The first member of an archive: which format, study and members it has.

An archive may come from anywhere, so what `export` would not write is refused.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from nfstudy.core.errors import UserError
from nfstudy.core.fields import Record
from nfstudy.runs.readable import TAGS
from nfstudy.runs.tags import Tag
from nfstudy.runs.whole_run import POINT, Digest

FORMAT: Final = 1
"""Of the archives written here; raised when the format changes."""
MAX_RUNS, MAX_POINTS, MAX_FILE = 2**27, 2**30, 2**28
"""Bytes of the three kinds of members: some 20,000 runs, which are read at once; 44 million points of histories, which
are not; one file."""
MAX_UNPACKED = 2**32
"""Bytes of all members together, which are unpacked into a temporary file."""
MAX_STORED = 2**34
"""Bytes of all runs' files together as a store keeps them, where files that many runs share are there as often."""


class ArchiveError(UserError):
    """An archive that cannot be written or read."""


def most_bytes(member: str) -> int:
    """Return how large a member may be."""
    return {"runs.jsonl": MAX_RUNS, "points.bin": MAX_POINTS}.get(member, MAX_FILE)


class Member(Record):
    """One part of an archive, after its manifest."""

    name: Annotated[str, Field(pattern=r"^(runs\.jsonl|points\.bin|files/[0-9a-f]{64})$")]
    size: Annotated[int, Field(ge=0, le=MAX_POINTS)]
    sha256: Digest

    @model_validator(mode="after")
    def _bounded(self) -> Member:
        if self.size > (most := most_bytes(self.name)):
            raise ValueError(f"{self.name}: {self.size:,} bytes; expected: at most {most:,}")
        return self


class Manifest(Record):
    """What the archive is, and which members follow."""

    format: Literal[1]
    nfstudy: Annotated[str, Field(max_length=100)]
    """The version that wrote it."""
    study: Annotated[str, Field(pattern=rf"^{TAGS[Tag.STUDY].pattern}$")]
    description: Annotated[str, Field(max_length=10_000)]
    runs: Annotated[int, Field(ge=0)]
    points: Annotated[int, Field(ge=0)]
    members: tuple[Member, ...]

    @model_validator(mode="after")
    def _ordered(self) -> Manifest:
        names = [member.name for member in self.members]
        files = names[2:]
        if names[:2] != ["runs.jsonl", "points.bin"] or files != sorted(set(files)):
            raise ValueError("members: expected: runs.jsonl, points.bin, then each file once, sorted")
        if any(member.name != f"files/{member.sha256}" for member in self.members[2:]):
            raise ValueError("members: expected: files named by their SHA-256")
        if sum(member.size for member in self.members) > MAX_UNPACKED:
            raise ValueError(f"members: expected: at most {MAX_UNPACKED:,} bytes together")
        if self.members[1].size != self.points * POINT.itemsize:
            raise ValueError(f"points.bin: expected: {POINT.itemsize} bytes for each of {self.points:,} points")
        return self
