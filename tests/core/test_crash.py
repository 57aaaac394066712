"""What is told of exceptions that nobody expected: whose mistake, in one message, and never a traceback."""

import errno
from types import SimpleNamespace

import pytest

from nfstudy import __main__ as entry
from nfstudy.core import crash
from nfstudy.core.plugins import install, read_plugin

UNREACHABLE = "mysql://alice:secret@host/db"


def fails_with(error, monkeypatch, capsys):
    """Run a command whose work raises an error; return the exit code and what was printed."""

    def work(options):
        raise error

    monkeypatch.setattr(entry, "import_module", lambda name: SimpleNamespace(status=work))
    code = entry.main(["status", "x.yaml"])
    out, told = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in told
    return code, told


@pytest.mark.parametrize("store", [True, False])
def test_a_mistake_of_ours_says_so_and_where_its_traceback_is_and_how_to_report_it(
    store, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(crash.tempfile, "gettempdir", lambda: str(tmp_path))
    if store:
        (tmp_path / "mlruns").mkdir()
    code, told = fails_with(KeyError(f"no {UNREACHABLE}"), monkeypatch, capsys)
    assert code == 70
    assert "a mistake in nfstudy, not in what was asked: KeyError" in told
    assert "report it" in told
    (file,) = (tmp_path / "mlruns" / "errors" if store else tmp_path).glob("nfstudy-error-*.txt")
    assert str(file) in told
    kept = file.read_text()
    assert "Traceback" in kept
    assert "in work" in kept
    assert "mysql://host/db" in kept
    assert "secret" not in kept + told


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/etc/shadow"), "/etc/shadow: Permission denied"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (OSError(errno.EXDEV, "Invalid cross-device link", "a", None, "b"), "a -> b: Invalid cross-device link"),
        (ConnectionError("peer is gone"), "peer is gone"),
        (MemoryError(), "not enough memory"),
        (ModuleNotFoundError("No module named 'seaborn'", name="seaborn"), "pip install"),
    ],
)
def test_what_is_no_mistake_of_ours_is_named(error, words, tmp_path, monkeypatch, capsys):
    (tmp_path / "mlruns").mkdir()
    monkeypatch.chdir(tmp_path)
    code, told = fails_with(error, monkeypatch, capsys)
    assert code == 2
    assert words in told
    assert "mistake in nfstudy" not in told
    assert not (tmp_path / "mlruns" / "errors").exists()


def test_a_module_of_ours_that_is_not_there_is_our_mistake():
    assert crash.tell(ModuleNotFoundError("No module named 'nfstudy.x'", name="nfstudy.x")).code == crash.OURS


def test_what_a_plug_in_raises_is_the_plug_ins(tmp_path):
    (tmp_path / "wrong.py").write_text(
        "from nfstudy import DataSource\n\n\ndef sizes(data):\n    return {}['nothing']\n\n\n"
        "WRONG = DataSource(name='wrong-sizes', values='bits', splits=sizes, loader=lambda: None)\n"
    )
    (source,) = install(read_plugin("wrong.py", tmp_path))
    with pytest.raises(KeyError) as caught:
        source.splits(None)
    told = crash.tell(caught.value)
    assert told.code == 2
    assert "plug-in wrong.py:5: KeyError: 'nothing'" in told.words


def test_where_nothing_can_be_written_the_traceback_is_shown(monkeypatch):
    def refuse(**_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(crash.tempfile, "mkstemp", refuse)
    told = crash.tell(ZeroDivisionError("x"))
    assert told.code == crash.OURS
    assert "report it, with all of the above" in told.words
