"""The code that a process runs: the digest of its sources, and what git says of the tree that they stand in.

The digest says what ran. The commit says where that can be found again, so it is told only of a tree that git could be
asked about in full: an answer that is missing is "not known", never "no changes".
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from nfstudy.core.bytecode import drop_stale
from nfstudy.core.errors import UserError
from nfstudy.core.plugins import installed
from nfstudy.core.sources import brought_along, files_of, place_of, sources_digest

PACKAGE = Path(__file__).resolve().parents[1]
UNKNOWN = "unknown"
"""The commit, or whether there are changes, where that is not known."""
MADE = ("reports", "mlruns")
"""What runs and reports write themselves: changes there are none of the code."""
MAX_DIFF = 2_000_000
"""Bytes of an uncommitted change that are kept with each run, and of all new files in it; a longer one is cut, larger
files are only named, and both are said at its head."""
GIT_SECONDS = 30.0
AS_PLAIN = ("--no-ext-diff", "--no-textconv", "--no-color", "--no-relative", "--no-renames", "--binary", "--full-index")
"""A patch that can be applied, whatever is configured."""
CONFIGURATION = {
    "core.fsmonitor": "false",
    "core.hooksPath": os.devnull,
    "core.quotePath": "true",
    "core.safecrlf": "false",
    "core.sparseCheckout": "false",
    "core.splitIndex": "false",
    "core.untrackedCache": "false",
    "diff.context": "3",
    "diff.interHunkContext": "0",
    "diff.orderFile": os.devnull,
}
"""Settings that would run a program, believe an old answer, or change a patch, as these calls have them."""


@dataclass(frozen=True)
class CodeState:
    """The state of the source tree that nfstudy was imported from."""

    commit: str
    """The commit's hash; `unknown` where git cannot say which."""
    dirty: bool | None
    """Whether there are changes against the commit; None where git cannot say."""
    diff: bytes = b""
    """Those changes as a patch, new files among them, those under `MADE` left out; empty when clean."""
    problem: str = ""
    """Why something is not known; empty where all is."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """`package_sources` of the same moment."""

    @property
    def cleanliness(self) -> str:
        """`true`, `false` or `unknown`: whether there are changes, as runs are tagged with it."""
        return UNKNOWN if self.dirty is None else str(self.dirty).lower()

    @property
    def digest(self) -> str:
        """The digest of nfstudy's sources, by which two runs are known to be of one code, whatever git says."""
        return sources_digest(self.sources)


@cache
def code_state() -> CodeState:
    """Return what git says of the tree that holds this package, and the sources that it said that of.

    Raises:
        UserError: this process may have loaded something else than its sources say.
    """
    before = package_sources()
    if unknown := [name for name, digest in before.items() if not digest]:
        raise UserError(
            f"{', '.join(unknown)}: Python took a compiled copy of an earlier text for it, since its time and size are "
            "the same; expected: the code that runs are logged with; hint: run the command again, the copy was removed"
        )
    while True:
        state = state_of(PACKAGE)
        if (after := package_sources()) == before:  # Else somebody wrote meanwhile.
            return replace(state, sources=after)
        before = after


def package_sources(name: str = "nfstudy", place: Path = PACKAGE) -> dict[str, str]:
    """Return name -> SHA-256 of each source of a package as it is on the disk now.

    One of which Python may have loaded another text has none, and Python's copy of that is removed.

    Arguments:
        name: of the package.
        place: its folder; or a file, of a module that is one.
    """
    paths = files_of(name, place)
    stale = drop_stale(paths.values())
    return {each: "" if path in stale else _sha256(path) for each, path in paths.items()}


def plugin_sources() -> dict[str, str]:
    """Return name -> digest of the sources of this process's plug-ins.

    One that is a file is what was read of it, which travels to workers. What it imports from beside it does not: it is
    looked for where this process imports it from, as a module is, with all that its package holds and imports so.
    """
    found = {}
    for plugin in installed():
        found[plugin.name] = plugin.digest or plugin.distribution
        places = brought_along(*plugin.code)
        if not plugin.path and (place := place_of(plugin.name)):
            places[plugin.name.partition(".")[0]] = place  # Also where it is installed.
        for name, place in places.items():
            found |= package_sources(name, place)
    return found


def differing(sources: Mapping[str, str], others: Mapping[str, str]) -> list[str]:
    """Return the names of the sources that are not the same in both, sorted."""
    return sorted(name for name in sources.keys() | others.keys() if sources.get(name) != others.get(name))


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:  # Such as one that an editor has just renamed.
        return ""


def state_of(package: Path) -> CodeState:
    """Return what git says of the tree that holds a package; its sources are left out."""
    git = _Git(package.parent)
    try:
        commit = git.text("rev-parse", "--verify", "--quiet", "HEAD^{commit}")
        # A repository may be configured to have its files elsewhere: of those here it would say nothing.
        tree = Path(git.text("rev-parse", "--show-toplevel"))
        if tree not in package.resolve().parents or not git.text("ls-files", "--", package.name):
            raise _GitError(f"{package} is no part of the repository that it stands in")
    except _GitError as error:
        return CodeState(UNKNOWN, None, problem=str(error))
    try:
        diff = _changes(git, package)
    except (_GitError, OSError) as error:
        return CodeState(commit, None, problem=str(error))
    return CodeState(commit, bool(diff), diff)


def _changes(git: _Git, package: Path) -> bytes:
    """Return the changes of the tree against its commit as a patch; empty where there are none.

    They are found with an index of our own, made from the commit: so what the user's index says of a file, such as
    that it is to be taken for unchanged, hides nothing, and the index stays as it is.
    """
    code = ("--", ".", *(f":(exclude){folder}" for folder in MADE))
    with tempfile.TemporaryDirectory() as folder:
        objects = git.text("rev-parse", "--path-format=absolute", "--git-path", "objects")
        own = git.given(
            GIT_INDEX_FILE=str(Path(folder, "index")),
            GIT_OBJECT_DIRECTORY=str(Path(folder)),
            GIT_ALTERNATE_OBJECT_DIRECTORIES=f'"{_escaped(objects)}"',
        )
        own.text("read-tree", "HEAD")
        own.text("add", "--update", *code)
        names = own.names("ls-files", "--others", "--exclude-standard", *code)
        # What is ignored counts all the same where Python would import it.
        names |= {n for n in own.names("ls-files", "--others", "--", package.name) if n.endswith(b".py")}
        kept, head, left = [], b"", MAX_DIFF
        for name in sorted(names):
            size = os.lstat(git.root / os.fsdecode(name)).st_size
            if size <= left and not name.endswith(b"/"):  # A folder is another repository's tree.
                kept.append(name)
                left -= size
            else:
                head += b"Untracked, not kept: %s (%d bytes)\n" % (name, size)
        if kept:
            listed = Path(folder, "new")
            listed.write_bytes(b"\0".join(b":(literal)" + name for name in kept))
            own.text("add", "--force", f"--pathspec-from-file={listed}", "--pathspec-file-nul")
        prefixes = ("--src-prefix=a/", "--dst-prefix=b/")
        diff = own.bytes("diff", "--cached", *AS_PLAIN, *prefixes, "HEAD", *code)
    if len(diff) > MAX_DIFF:
        head += b"[cut: %d bytes in all]\n" % len(diff)
    return head + diff[:MAX_DIFF]


class _GitError(Exception):
    """Something that git did not say; the message says why."""


class _Git:
    """Git, asked of one folder and of nothing else that the environment or a configuration may name."""

    def __init__(self, root: Path, **given: str) -> None:
        self.root = root
        plain = {name: text for name, text in os.environ.items() if not name.startswith("GIT_")}
        # A commit is what its hash says, whatever `git replace` shows in its place.
        own = {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0", "GIT_NO_REPLACE_OBJECTS": "1"}
        self._environment = {**plain, **own, **given}

    def given(self, **variables: str) -> _Git:
        """Return the same with some variables of git's."""
        return _Git(self.root, **variables)

    def text(self, *arguments: str) -> str:
        """Return what it prints, stripped; raises _GitError."""
        return os.fsdecode(self.bytes(*arguments)).strip("\n")

    def names(self, *arguments: str) -> set[bytes]:
        """Return the names that a command such as `ls-files` lists; raises _GitError."""
        command, *rest = arguments
        return {*self.bytes(command, "-z", *rest).split(b"\0")} - {b""}

    def bytes(self, *arguments: str) -> bytes:
        """Return what it prints; raises _GitError."""
        settings = [word for name, value in CONFIGURATION.items() for word in ("-c", f"{name}={value}")]
        command = ["git", "-C", str(self.root), *settings, *arguments]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                stdin=subprocess.DEVNULL,
                timeout=GIT_SECONDS,
                check=False,
                env=self._environment,
            )
        except FileNotFoundError:
            raise _GitError("git is not installed") from None
        except subprocess.TimeoutExpired:
            raise _GitError(f"git did not answer within {GIT_SECONDS:.0f} s") from None
        except OSError as error:
            raise _GitError(f"git cannot be run: {error.strerror or error}") from None
        if done.returncode:
            spoken = [*filter(None, done.stderr.decode(errors="replace").splitlines())]
            raise _GitError(f"git {arguments[0]}: {spoken[0] if spoken else f'exit code {done.returncode}'}"[:500])
        return done.stdout


def _escaped(path: str) -> str:
    """Return a path as a quoted entry of GIT_ALTERNATE_OBJECT_DIRECTORIES has it."""
    return path.replace("\\", "\\\\").replace('"', '\\"')
