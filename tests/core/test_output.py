"""Output that nobody can read never ends the work, and holds no secret."""

import errno
import os
import subprocess
import sys

import pytest

from nfstudy.core.output import LastingStream


def lose_the_reader(kind):
    """Return a text stream whose reader has gone, as a closed pipe or terminal leaves it."""
    reader, writer = os.pipe() if kind == "pipe" else os.openpty()
    os.close(reader)
    return open(writer, "w", buffering=1)


@pytest.mark.parametrize("kind", ["pipe", "terminal"])
def test_a_reader_that_goes_away_is_no_error(kind):
    with lose_the_reader(kind) as raw:
        stream = LastingStream(raw)
        for _ in range(3):
            print("a line of progress", file=stream, flush=True)
        assert stream.trouble.errno == {"pipe": errno.EPIPE, "terminal": errno.EIO}[kind]
        assert not stream.isatty()
        print("what libraries write without us", file=raw, flush=True)


def test_a_closed_stream_is_no_error(tmp_path):
    raw = open(tmp_path / "x", "w")  # noqa: SIM115 - it is to be closed under the stream.
    stream = LastingStream(raw)
    raw.close()
    print("more", file=stream, flush=True)
    assert stream.trouble.errno == errno.EBADF


def test_what_is_written_has_no_secrets(tmp_path):
    with open(tmp_path / "x", "w") as raw:
        print("see", "https://alice:pw@host:5000/#/experiments/1", file=LastingStream(raw))
    assert (tmp_path / "x").read_text() == "see https://host:5000/#/experiments/1\n"


def shell(command, folder):
    words = {"PYTHON": sys.executable}
    done = subprocess.run(["sh", "-c", command], cwd=folder, env=os.environ | words, capture_output=True, check=False)
    return done.returncode, done.stderr.decode()


@pytest.mark.slow
def test_a_process_without_output_or_with_a_full_one(tmp_path):
    (tmp_path / "tiny.yaml").write_text("study: tiny\ntitle: T\ndata: {name: digits}\nexhibits: [summary]\n")
    code, words = shell('"$PYTHON" -m nfstudy status tiny.yaml >/dev/full', tmp_path)
    assert (code, words) == (2, "error: standard output: could not be written: No space left on device\n")
    code, words = shell('"$PYTHON" -m nfstudy status tiny.yaml <&- >&- 2>&-', tmp_path)
    assert (code, words) == (0, "")
    code, words = shell('PYTHONIOENCODING=ascii:strict "$PYTHON" -m nfstudy status tiny.yaml | cat >&2', tmp_path)
    assert code == 0
    assert "1 missing" in words
    assert "Traceback" not in words
