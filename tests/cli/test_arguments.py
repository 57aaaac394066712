"""Mistakes on the command line: what was expected, and what may have been meant."""

import pytest

from nfstudy.__main__ import main
from nfstudy.cli.options import retyped
from nfstudy.cli.parser import make_parser
from nfstudy.core.suggest import did_you_mean


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("rnu x.yaml", "COMMAND: got 'rnu'; expected: init, run, report,"),
        ("rnu x.yaml", "did you mean 'run'?"),
        ("STATUS x.yaml", "did you mean 'status'?"),
        ("run x.yaml --engine rya", "--engine: got 'rya'; expected: local, ray; did you mean 'ray'?"),
        ("run x.yaml --dryrun", "unknown: --dryrun; did you mean '--dry-run'?"),
        ("run x.yaml --buget=laptop", "did you mean '--budget'?"),
        ("run x.yaml --workers many", "--workers: got many; expected: a whole number from 1"),
        ("run x.yaml --workers 1.5", "--workers: got 1.5; expected: a whole number from 1"),
        ("run x.yaml --worker-timeout soon", "--worker-timeout: got 'soon'; expected: a number"),
        ("run x.yaml --take", "unknown: --take; did you mean '--take-over'?"),
        ("export x.yaml y.tar.xz --budget=", "--budget: got nothing; expected: a value"),
        ("run x.yaml --workers 0", "--workers: got 0; expected: a whole number from 1"),
        ("ui --port 70000", "--port: got 70000; expected: a port, from 1 to 65535"),
        ("ui --allowed-hosts http://a", "--allowed-hosts: got 'http://a'; expected: host names"),
    ],
)
def test_a_mistake_says_what_was_expected_and_what_may_be_meant(arguments, words, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments.split())
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


def test_what_was_stopped_goes_on_with_the_same_command():
    """With other threads or another device than were asked for, its runs would be trained on two kinds of machines."""
    typed = ["run", "my study.yaml", "--threads", "2", "--device=cpu", "--take-over", "--tracking-uri", "https://u:p@h"]
    words = "run 'my study.yaml' --threads 2 --device=cpu --tracking-uri https://h"
    assert retyped(make_parser().read(typed)) == f"python -m nfstudy {words}"


STUDY = (
    "study: tiny\ntitle: T\nenergy: {name: u1}\nbudgets: {laptop: {}, smoke: {}}\nexhibits: [summary]\n"
    "grid: {flow.length: [1]}\nflow: {family: planar}\n"
)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("status tiny.yaml --budget laptp", "no budget 'laptp'; expected: laptop, smoke; did you mean 'laptop'?"),
        ("status tniy.yaml", "no such study file; expected: the path of a YAML file; did you mean 'tiny.yaml'?"),
        ("status studies/quickstrat.yaml", "did you mean 'studies/quickstart.yaml'?"),
        ("status tniy", "tniy: no such study; expected: a study file, or one of "),
        ("status tniy", "did you mean 'tiny'?"),
        ("evaluate quikstart", "quikstart: no such study; expected: a study file, or one of "),
        ("check --budget smkoe", "--budget smkoe: no study has it; expected: laptop, smoke; did you mean 'smoke'?"),
        ("run tiny.yaml --device cdua", "--device cdua: expected: auto, cpu, cuda, cuda:N; did you mean 'cuda'?"),
        ("run tiny.yaml --tracking-uri foo://x", "tracking address foo://x: expected: sqlite:///FILE"),
    ],
)
def test_a_name_that_is_not_there_suggests_one_that_is(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "studies").mkdir()
    (tmp_path / "tiny.yaml").write_text(STUDY)
    (tmp_path / "studies" / "quickstart.yaml").write_text(STUDY.replace("tiny", "quickstart"))
    assert main(arguments.split()) == 2
    assert words in capsys.readouterr().err


def test_a_word_that_is_like_none_suggests_none():
    assert did_you_mean("zzz", ["run", "report"]) == ""


@pytest.mark.parametrize("option", ["--budget", "--output", "--tracking-uri"])
def test_a_value_of_nothing_is_none(option, capsys):
    """A variable that a shell does not know: it is neither the default nor everything."""
    with pytest.raises(SystemExit) as ended:
        main(["report", "x.yaml", option, ""])
    assert ended.value.code == 2
    assert f"{option}: got nothing; expected: a value" in capsys.readouterr().err
