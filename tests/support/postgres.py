"""A real PostgreSQL of the machine's own, for the tests that need one: started and stopped on the loopback address."""

import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.processes import free_port


def find_program(name):
    """Return the path of one of PostgreSQL's programs, which Debian keeps out of the way; None where there is none."""
    versions = Path("/usr/lib/postgresql")
    newest_first = sorted(versions.glob("*/bin"), key=lambda folder: int(folder.parent.name), reverse=True)
    return next(filter(None, (shutil.which(name, path=folder) for folder in newest_first)), shutil.which(name))


class PostgreSQL:
    """A server with a data folder of its own; it refuses to run as root, where it is run as its own user."""

    def __init__(self, folder):
        self.folder, self.port = folder, free_port()
        self.user = "postgres" if os.geteuid() == 0 else None
        if self.user:
            shutil.chown(folder, self.user, self.user)
        self._do("initdb", "--username=nfstudy", "--auth=trust", "--encoding=UTF8", "--locale=C")

    @property
    def uri(self):
        return f"postgresql+psycopg://nfstudy@127.0.0.1:{self.port}/postgres"

    def start(self):
        options = f"-h 127.0.0.1 -p {self.port} -k {self.folder}"
        self._do("pg_ctl", "start", "--wait", "-l", str(self.folder / "log.txt"), "-o", options)

    def stop(self):
        """Stop it as a crash would: the next start recovers what had been committed."""
        self._do("pg_ctl", "stop", "--wait", "--mode=immediate")

    def _do(self, program, *arguments):
        command = [find_program(program), f"--pgdata={self.folder / 'data'}", *arguments]
        # The server inherits what is not closed, and a pipe of ours would be waited for.
        with open(self.folder / f"{program}.txt", "wb") as output:
            done = subprocess.run(
                command, cwd=self.folder, user=self.user, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        assert done.returncode == 0, Path(output.name).read_text()


@contextmanager
def running_postgres():
    """Give a PostgreSQL that is running, and take it away; skip the test where it is not installed."""
    if not find_program("initdb") or not find_program("pg_ctl"):
        pytest.skip("no PostgreSQL on this machine (Debian: apt-get install postgresql)")
    # Not below pytest's own folder, which other users may not enter.
    with tempfile.TemporaryDirectory(prefix="nfstudy-postgres-") as folder:
        server = PostgreSQL(Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.stop()
