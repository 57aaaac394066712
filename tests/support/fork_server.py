"""Commands without the seconds that their imports take: forked from a process that has imported all and done nothing.

Each is still a process: its folder, environment, output, exit code and plug-ins are its own, it can be killed, and it
leaves nothing behind in the test's process. Its workers are forked from it, likewise. What this does not show is what
starting an interpreter does: how workers are spawned, what is imported when, that no result hangs on the hash seed.
`command_line.spawned` is for that.
"""

import atexit
import gc
import json
import multiprocessing
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from contextlib import suppress
from functools import cache
from importlib import import_module
from multiprocessing import resource_tracker
from pathlib import Path

MODULES = (
    *("nfstudy.runner.launch", "nfstudy.runner.rerun", "nfstudy.runner.local_engine", "nfstudy.runner.prepare"),
    *("nfstudy.inference.training.trial", "nfstudy.inference.training.cost", "nfstudy.flows.contract"),
    *(
        "nfstudy.report.build",
        "nfstudy.report.pages.overview",
        "nfstudy.report.reference",
        "nfstudy.runs.tracking.store",
    ),
    *("nfstudy.runs.archive.transfer", "nfstudy.runs.tracking.mlflow_export", "nfstudy.runs.tracking.mlflow_import"),
    *(f"nfstudy.cli.{name}" for name in ("archive", "check", "check_plugin", "reference", "report", "rerun", "run")),
    *("nfstudy.cli.status", "nfstudy.cli.ui", "nfstudy.__main__", "scipy.optimize", "scipy.stats", "seaborn"),
)
"""What commands import, now or later."""
LONGEST_REQUEST = 1 << 17


class Command:
    """A process that has been started: what `subprocess.Popen` would be, as far as tests ask."""

    def __init__(self, arguments, folder, stdout, stderr, code=None, environment=None, own_session=False):
        """Start `python -m nfstudy *arguments`, or `python -c code *arguments`."""
        request = {
            "arguments": [str(argument) for argument in arguments],
            "folder": str(folder),
            "code": code,
            "environment": dict(os.environ if environment is None else environment),
            "session": own_session,
        }
        ours, theirs = os.pipe()
        files = [theirs, stdout.fileno(), stderr.fileno()]
        socket.send_fds(_server(), [json.dumps(request).encode()], files)
        os.close(theirs)
        self._reports = os.fdopen(ours)
        self.pid = int(self._reports.readline())
        self.returncode = None

    def wait(self, timeout=None):
        """Wait until it has ended; return its exit code, or minus the signal that ended it."""
        if self.returncode is None:
            if not select.select([self._reports], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("nfstudy", timeout)
            self.returncode = int(self._reports.readline())
            self._reports.close()
        return self.returncode

    def poll(self):
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self):
        self.send_signal(signal.SIGTERM)

    def kill(self):
        self.send_signal(signal.SIGKILL)


@cache
def _server():
    """Start the server, once a test process; return the channel to it, with whose end it ends."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, __file__, str(theirs.fileno())]
    # A pipe and no terminal for its output, as commands have in tests.
    subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    theirs.close()
    return ours


def serve(requests):
    """Fork a command for each request until the channel closes."""
    for module in MODULES:
        import_module(module)
    from nfstudy.runs.provenance import environment
    from support.template_store import make_stores_from_a_template, template

    environment()  # Which looks at every installed distribution.
    make_stores_from_a_template()
    template()
    resource_tracker.ensure_running()
    fork = multiprocessing.get_context("fork")
    multiprocessing.get_context = lambda method=None: fork
    gc.collect()
    gc.freeze()  # Else a collection in a fork copies every page that it looks at.
    while True:
        request, files, *_ = socket.recv_fds(requests, LONGEST_REQUEST, 3)
        if not request:
            return
        if os.fork() == 0:
            requests.close()
            _look_after(json.loads(request), *files)
        for file in files:
            os.close(file)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass


def _look_after(request, reports, stdout, stderr):
    """Fork the command, and report how it ends."""
    pid = os.fork()
    if pid == 0:
        _be_command(request, reports, stdout, stderr)
    os.close(stdout)
    os.close(stderr)
    _, status = os.waitpid(pid, 0)
    with suppress(BrokenPipeError):
        os.write(reports, b"%d\n" % os.waitstatus_to_exitcode(status))
    os._exit(0)


def _be_command(request, reports, stdout, stderr):
    """Be the command in this process, to its end."""
    if request["session"]:
        os.setsid()
    # The tests may run where a shell has its background commands ignore this signal, which is then inherited.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.write(reports, b"%d\n" % os.getpid())
    for own, given in ((1, stdout), (2, stderr)):
        os.dup2(given, own)
    for file in (reports, stdout, stderr):
        os.close(file)
    code = 1
    try:
        os.chdir(request["folder"])
        sys.path[0] = request["folder"]
        os.environ.clear()
        os.environ.update(request["environment"])
        time.tzset()
        code = _run(request["code"], request["arguments"])
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)


def _run(code, arguments):
    if code is None:
        return import_module("nfstudy.__main__").main(arguments)
    sys.argv = ["-c", *arguments]
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    return 0


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])
    serve(socket.socket(fileno=int(sys.argv[1])))
