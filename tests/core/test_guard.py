"""A program under guard, and what it has started, end with whoever started it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.cluster import wait_until

STARTS = """
import os, sys, time
from nfstudy.core.guard import start_guarded
code = "import subprocess, sys; child = subprocess.Popen(['sleep', '600']); print(child.pid, flush=True); child.wait()"
guard = start_guarded([sys.executable, "-S", "-c", code], dict(os.environ))
{then}
"""


def started(then):
    starter = subprocess.Popen([sys.executable, "-c", STARTS.format(then=then)], stdout=subprocess.PIPE, text=True)
    return starter, int(starter.stdout.readline())


def is_gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
def test_what_was_started_ends_with_a_starter_that_is_killed(number):
    starter, grandchild = started("time.sleep(600)")
    assert not is_gone(grandchild)
    os.kill(starter.pid, number)
    wait_until(lambda: is_gone(grandchild), 20)
    starter.wait()
    starter.stdout.close()


@pytest.mark.slow
def test_a_program_that_ends_by_itself_gives_its_exit_code():
    code = (
        "import os, sys; from nfstudy.core.guard import start_guarded\n"
        "sys.exit(start_guarded([sys.executable, '-S', '-c', 'import sys; sys.exit(7)'], dict(os.environ)).wait())"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 7
