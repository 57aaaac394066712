"""The address of a SQLite file, for any name that a file system takes."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

SQLITE = "sqlite:///"


def sqlite_uri(path: Path) -> str:
    """Return the one address of a file: what would be read as anything but a part of a path is percent-encoded."""
    return SQLITE + re.sub(r"[%?#\x00-\x1f]", lambda found: f"%{ord(found[0]):02X}", str(path))


def sqlite_path(uri: str) -> Path:
    """Return the file of an address, absolute, as SQLAlchemy and MLflow find it.

    In one that a person wrote, `?` may be a part of a name: only what looks like options is taken for them. And `%` may
    be one, where there is such a folder, and none of the name that it would stand for.
    """
    plain = re.sub(r"\?(\w+=[^/&]*(&\w+=[^/&]*)*)?$", "", uri.removeprefix(SQLITE))
    found = [Path(each).absolute() for each in (unquote(plain), plain)]
    there = [path for path in found if path.exists()] or [path for path in found if path.parent.is_dir()]
    return (there or found)[0]
