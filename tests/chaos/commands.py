"""Commands that write files, killed at random moments: what stands is the old or the new, and the next one mends it."""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time

from support.command_line import frame_of


def start(folder, *arguments):
    """Start a command in a folder, in a process group of its own."""
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    command = [sys.executable, "-m", "nfstudy", *arguments]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(folder, *arguments):
    """Run a command to its end; return the seconds it took."""
    started = time.monotonic()
    process = start(folder, *arguments)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    return time.monotonic() - started


def digest(path):
    """Return the digest of a file, or of all files of a folder with their names; of nothing, an empty text."""
    files = sorted(found for found in path.rglob("*") if found.is_file()) if path.is_dir() else [path]
    content = hashlib.sha256()
    for file in files:
        if not file.exists():
            return ""
        content.update(f"{file.relative_to(path)}\n".encode() + file.read_bytes())
    return content.hexdigest() if files else ""


class Command:
    """A command, where it is run, and what it writes."""

    def __init__(self, name, folder, arguments, made, before=None):
        """Take what is run; `before` puts the old state in place before each run."""
        self.name, self.folder, self.arguments, self.made = name, folder, arguments, made
        self.before = before or (lambda: None)

    def kill(self, kills, random_):
        """Kill it at random moments of its run; return what was left half-done, in words."""
        self.before()
        old = digest(self.made)
        seconds = finish(self.folder, *self.arguments)
        new, beside = digest(self.made), self._beside()
        found = []
        for _ in range(kills):
            self.before()
            process = start(self.folder, *self.arguments)
            try:
                process.communicate(timeout=random_.uniform(0.5, 1) * seconds)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
            if digest(self.made) not in (old, new):
                found.append(f"{self.name}: {self.made.name} is neither the old nor the new one")
        finish(self.folder, *self.arguments)
        if digest(self.made) != new:
            found.append(f"{self.name}: {self.made.name} is another one after {kills} kills")
        if left := self._beside() - beside:
            found.append(f"{self.name}: {', '.join(sorted(left))} stay behind")
        return found

    def _beside(self):
        """Return the names of all that lies beside what is made, drafts among them."""
        return {path.name for path in self.made.parent.iterdir()}


def storm(calm, scratch, kills, seed):
    """Kill `report`, `export`, `import` and `reference` so often each; return what went wrong, in words.

    Arguments:
        calm: the folder of a study that has been run.
        scratch: a folder to work in.
        kills: of each command.
        seed: of the moments.
    """
    random_ = random.Random(seed)
    archive = scratch / "archives" / "tiny.tar.xz"
    archive.parent.mkdir(parents=True)
    finish(calm, "export", "tiny.yaml", str(archive))

    def old_report():
        (calm / "reports" / "tiny" / "index.md").write_text("old\n")

    def old_archive():
        shutil.copy(archive, calm / "tiny.tar.xz")

    found = Command("report", calm, ["report", "tiny.yaml"], calm / "reports" / "tiny", old_report).kill(kills, random_)
    found += Command("export", calm, ["export", "tiny.yaml", "tiny.tar.xz"], calm / "tiny.tar.xz", old_archive).kill(
        kills, random_
    )
    return (
        found
        + kill_imports(calm, archive, scratch, kills, random_)
        + kill_reference(calm, archive, scratch, kills, random_)
    )


def kill_imports(calm, archive, scratch, kills, random_):
    """Kill imports into one store; the last must leave each run there once, with all its files."""
    folder = scratch / "import"
    folder.mkdir()
    (folder / "tiny.yaml").write_text((calm / "tiny.yaml").read_text())
    for _ in range(kills):
        process = start(folder, "import", str(archive))
        try:
            process.communicate(timeout=random_.uniform(0.3, 4))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    finish(folder, "import", str(archive))
    finish(folder, "report", "tiny.yaml")
    names = ["cell", "stage", "index", "outcome"]
    first, second = (frame_of(place)[names].value_counts().to_dict() for place in (calm, folder))
    return [] if first == second else ["import: other runs than those of the archive"]


def kill_reference(calm, archive, scratch, kills, random_):
    """Kill `reference` in a project of its own: README and the reports are the old or the new ones."""
    folder = scratch / "reference"
    (folder / "mlruns" / "reference").mkdir(parents=True)
    (folder / "studies").mkdir()
    (folder / "pyproject.toml").write_text("")
    (folder / "README.md").write_text("# Tiny\n\n<!-- results: begin -->\n<!-- results: end -->\n")
    (folder / "studies" / "tiny.yaml").write_text((calm / "tiny.yaml").read_text())
    shutil.copy(archive, folder / "mlruns" / "reference")
    return Command("reference", folder, ["reference"], folder / "README.md").kill(kills, random_)
