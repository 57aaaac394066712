"""Shells complete what there is."""

import shutil
import subprocess

import pytest

from nfstudy.__main__ import main


def completed(script, *words):
    """Return what bash offers for the last word."""
    ask = (
        f"{script}\nCOMP_WORDS=({' '.join(map(repr, words))}); COMP_CWORD={len(words) - 1}\n"
        "_nfstudy; printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True)
    assert not done.stderr
    return done.stdout.split()


def test_bash_completes_commands_options_choices_studies_and_files(capsys, tmp_path, monkeypatch):
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quiet.yaml").write_text("")
    assert completed(script, "nfstudy", "re") == ["report", "reference", "rerun"]
    assert completed(script, "nfstudy", "run", "--wo") == ["--workers", "--worker-timeout"]
    assert completed(script, "nfstudy", "run", "--engine", "") == ["local", "ray"]
    assert completed(script, "nfstudy", "run", "qui") == ["quickstart", "quiet.yaml"]
    assert completed(script, "nfstudy", "completion", "z") == ["zsh"]
    assert completed(script, "nfstudy", "evaluate", "qui") == ["quickstart", "quiet.yaml"]
    assert completed(script, "nfstudy", "decide", "--study", "qui") == ["quickstart", "quiet.yaml"]
    assert completed(script, "nfstudy", "decide", "qui") == ["quiet.yaml"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_take_the_script(shell, capsys, tmp_path):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "quickstart" in script
    assert "check-plugin" in script
    if shutil.which(shell):
        (tmp_path / "script").write_text(script)
        subprocess.run([shell, "-n", tmp_path / "script"], check=True)
